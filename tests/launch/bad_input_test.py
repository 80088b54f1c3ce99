"""Bad input to the commands: one clear line, exit status 1 or 2, in seconds, nothing written over.
"""
import errno
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest

from mtl_jax.runs.checkpoints import Checkpoints
from tests import tiny_runs
from tests.runs.toy_states import load_tree

# A refusal takes two or three; counted so, other work on the machine does not matter.
CPU_SECONDS = 10
WALL_SECONDS = 60  # but one that waited for a network would matter


def _refused(name, *flags, says, workdir, data_dir=None):
  """Runs a command that must stop before it writes; the message must hold each of `says`."""
  before = tiny_runs.contents(workdir)
  began, used = time.monotonic(), _cpu_seconds_of_children()
  result = tiny_runs.launch(name, f'--workdir={workdir}', *flags, data_dir=data_dir)
  assert _cpu_seconds_of_children() - used < CPU_SECONDS
  assert time.monotonic() - began < WALL_SECONDS
  assert result.returncode in (1, 2)
  assert len(result.stderr.splitlines()) == 1, result.stderr
  assert result.stderr.startswith('error: ')
  for text in [says] if isinstance(says, str) else says:
    assert text in result.stderr
  assert tiny_runs.contents(workdir) == before
  return result


def _cpu_seconds_of_children():
  usage = resource.getrusage(resource.RUSAGE_CHILDREN)
  return usage.ru_utime + usage.ru_stime


def _stopped(result, *says):
  """Checks a run that began and then stopped: one line about the error, at the end."""
  assert result.returncode == 1
  assert 'Traceback' not in result.stderr
  lines = result.stderr.splitlines()
  assert [line.startswith('error: ') for line in lines].count(True) == 1
  assert lines[-1].startswith('error: ')
  for text in says:
    assert text in lines[-1]


def _from(name):
  return {'pretrain': [], 'meta_train': [f'--pretrained={tiny_runs.pretrained()}'],
          'meta_test': [f'--checkpoint={tiny_runs.pretrained()}']}[name]


@pytest.fixture
def images(tmp_path):
  """Draws a data set of one's own, to spoil."""
  return tiny_runs.draw_images(tmp_path / 'images', seed=1)


@pytest.mark.parametrize(('name', 'flags', 'says'), [
    ('pretrain', ['--stepz=3'], ['pretrain has no --stepz', 'did you mean --steps?', '--help']),
    ('pretrain', ['--steps=-1'], ['--steps', 'from 0 to']),
    ('pretrain', ['--steps=many'], ['steps', "'many'"]),
    ('pretrain', ['folder'], ["expected flags only, got 'folder'"]),
    ('pretrain', ['--dataset=imagenet'], ["unknown data set 'imagenet'", 'fc100', 'glyphs']),
    ('pretrain', ['--backbone=vgg'], ['conv4', 'resnet12', "got 'vgg'"]),
    ('meta_train', ['--backbone=vgg'], ['conv4', 'resnet12', "got 'vgg'"]),
    ('meta_train', ['--width=8'], ['--width goes with --backbone']),
    ('pretrain', ['--compute_dtype=int8'], ['float32', 'bfloat16', "'int8'"]),
    ('meta_test', ['--protocol=transductive'], ['inductive', 'paper', "'transductive'"]),
    ('meta_train', ['--num_hard_tasks=3', '--meta_batch=2'], ['multiple of meta_batch = 2, got 3']),
    ('meta_train', ['--outer=head', '--scope=last_block'],
     ['cannot learn with scope=last_block', 'neither is']),
    ('meta_train', ['--gradient_order=implicit'],
     ['implicit without regularization', 'single minimum']),
    ('meta_train', ['--learn_temperature'], ['only L2-normalised features', 'feature_norm=l2']),
    ('meta_train', ['--preset=fc100'],
     ['expected --preset to be one of fc100_conv4_1shot, ', 'ablation/ss_all_ht', "got 'fc100'"]),
    ('pretrain', ['--preset=fc100_conv4_1shot'],
     ['pretrain has no --num_hard_tasks, which is in --preset=fc100_conv4_1shot']),
    ('pretrain', ['--flagfile=nowhere.flags'], ['nowhere.flags']),
    ('meta_test', ['--profile=trace'], ['meta-test has no --profile']),
])
def test_unknown_names_and_values(tmp_path, name, flags, says):
  _refused(name, *_from(name), *flags, says=says, workdir=tmp_path / 'run')


@pytest.mark.parametrize(('name', 'way', 'says'), [
    ('pretrain', 4, 'at most 3, the number of classes of the val split, got 4'),
    ('meta_train', 5, 'at most 4, the number of classes of the train split, got 5'),
    ('meta_train', 4, 'at most 3, the number of classes of the val split, got 4'),
    ('meta_test', 4, 'at most 3, the number of classes of the test split, got 4'),
])
def test_way_beyond_the_classes_of_a_split(tmp_path, name, way, says):
  _refused(name, *_from(name), f'--way={way}', says=says, workdir=tmp_path / 'run')


@pytest.mark.parametrize(('name', 'flags', 'says'), [
    ('pretrain', ['--shot=8'], ['val split, got 8 + 1 = 9']),
    ('meta_train', ['--shot=3', '--query=6'], ['at most 8', 'train split, got 3 + 6 = 9']),
    ('meta_test', ['--query=8'], ['at most 8', 'test split, got 1 + 8 = 9']),
])
def test_shot_and_query_beyond_the_smallest_class(tmp_path, name, flags, says):
  _refused(name, *_from(name), *flags, says=says, workdir=tmp_path / 'run')


@pytest.mark.parametrize(('flags', 'says'), [
    (['--backbone=conv4', '--width=8'],
     ['params/block1/bn/bias: file (4), expected (8)', '--width']),
    (['--backbone=conv4'], ['params/block1/bn/bias: file (4), expected (64)', '--backbone']),
    (['--backbone=resnet12', '--width=4'], ['no such leaf', 'and', 'more', '--backbone']),
    (['--image_size=20'],
     ['expected images of shape (16, 16, 3)', 'got (20, 20, 3)', '--image_size']),
])
def test_a_pretraining_of_another_architecture_or_image_size(tmp_path, flags, says):
  _refused('meta_train', *_from('meta_train'), *flags, says=says, workdir=tmp_path / 'run')


@pytest.mark.parametrize(('name', 'flag'),
                         [('meta_train', 'pretrained'), ('meta_test', 'checkpoint')])
def test_a_checkpoint_that_is_missing_or_unfinished_or_of_another_kind(tmp_path, name, flag):
  workdir = tmp_path / 'run'
  _refused(name, f'--{flag}={tmp_path / "nowhere"}', workdir=workdir,
           says=['nowhere', 'does not exist'])
  (tmp_path / 'empty').mkdir()
  _refused(name, f'--{flag}={tmp_path / "empty"}', workdir=workdir,
           says=['is not the work directory of a run', 'settings.json'])
  unfinished = tmp_path / 'unfinished'
  unfinished.mkdir()
  shutil.copy(tiny_runs.pretrained() / 'settings.json', unfinished)
  _refused(name, f'--{flag}={unfinished}', workdir=workdir,
           says=['unfinished is not finished', 'start it again'])
  (unfinished / 'settings.json').write_text(json.dumps({'command': 'meta_test'}))
  _refused(name, f'--{flag}={unfinished}', workdir=workdir,
           says=["got 'meta_test'", 'pre-training'])


def test_a_pretraining_whose_saved_backbone_is_damaged(tmp_path):
  damaged = tmp_path / 'damaged'
  shutil.copytree(tiny_runs.pretrained(), damaged)
  (damaged / 'backbone.safetensors').write_bytes(b'{')
  result = tiny_runs.launch('meta_train', f'--pretrained={damaged}',
                            f'--workdir={tmp_path / "run"}')
  _stopped(result, str(damaged), 'damaged')
  assert not (tmp_path / 'run').exists()


def test_data_dir_that_is_missing(tmp_path):
  workdir, nowhere = tmp_path / 'run', tmp_path / 'nowhere'
  _refused('pretrain', data_dir=nowhere, workdir=workdir, says=['data_dir', 'nowhere'])
  _refused('pretrain', '--dataset=fc100', data_dir=nowhere, workdir=workdir,
           says=['data_dir', 'nowhere', 'found nothing'])


@pytest.mark.parametrize('dataset', ['fc100', 'cifar_fs', 'omniglot'])
def test_archive_missing_and_no_network(tmp_path, dataset, monkeypatch):
  (tmp_path / 'data').mkdir()
  for name in ('http_proxy', 'https_proxy', 'all_proxy'):
    monkeypatch.setenv(name, 'http://127.0.0.1:9')  # nothing answers there
    monkeypatch.setenv(name.upper(), 'http://127.0.0.1:9')
  for name in ('no_proxy', 'NO_PROXY'):
    monkeypatch.delenv(name, raising=False)
  _refused('pretrain', f'--dataset={dataset}', f'--cache_dir={tmp_path / "cache"}',
           data_dir=tmp_path / 'data', workdir=tmp_path / 'run',
           says=['cannot be reached', str(tmp_path / 'data'), 'pass that as data_dir'])


def test_half_downloaded_archive(tmp_path):
  (tmp_path / 'data').mkdir()
  packed = io.BytesIO()
  with tarfile.open(fileobj=packed, mode='w:gz') as tar:
    content = np.random.default_rng(0).bytes(200_000)
    member = tarfile.TarInfo('cifar-100-binary/train.bin')
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
  archive = tmp_path / 'data' / 'cifar-100-binary.tar.gz'
  archive.write_bytes(packed.getvalue()[:100_000])
  _refused('pretrain', '--dataset=fc100', f'--cache_dir={tmp_path / "cache"}',
           data_dir=tmp_path / 'data', workdir=tmp_path / 'run',
           says=[str(archive), '100000 bytes', 'download or copy it again'])
  assert archive.read_bytes() == packed.getvalue()[:100_000]


class _Runs:
  """Pickles as a call of a shell command."""

  def __init__(self, command):
    self.command = command

  def __reduce__(self):
    return os.system, (self.command,)


def test_pickle_that_runs_a_command(tmp_path):
  (tmp_path / 'data').mkdir()
  for split in ('train', 'val', 'test'):
    content = {'image_data': _Runs(f'touch {tmp_path / "was_run"}'), 'class_dict': {}}
    (tmp_path / 'data' / f'mini-imagenet-cache-{split}.pkl').write_bytes(pickle.dumps(content))
  _refused('pretrain', '--dataset=mini_imagenet', f'--cache_dir={tmp_path / "cache"}',
           data_dir=tmp_path / 'data', workdir=tmp_path / 'run',
           says=['mini-imagenet-cache-train.pkl', 'posix.system', 'nothing of it was run'])
  assert not (tmp_path / 'was_run').exists()


def test_classes_that_are_not_those_of_the_known_split(tmp_path, images):
  _refused('pretrain', '--dataset=tiered_imagenet', data_dir=images, workdir=tmp_path / 'run',
           says=['351/97/160 classes of tiered_imagenet', "unknown: 'train0' (train)", 'missing: '])


PNG_OF_NO_WIDTH = (b'\x89PNG\r\n\x1a\n' + b'\0\0\0\rIHDR' + b'\0\0\0\0' + b'\0\0\0\x10' +
                   b'\x08\x02\0\0\0' + b'\0\0\0\0')


@pytest.mark.parametrize('content', [
    pytest.param(b'no image at all', id='broken'),
    pytest.param(b'', id='empty', marks=pytest.mark.slow),
    pytest.param(PNG_OF_NO_WIDTH, id='zero-sized')])
def test_broken_image_is_named_and_skipped_only_with_the_flag(tmp_path, images, content):
  bad = images / 'train' / 'train2' / '5.png'
  bad.write_bytes(content)
  _refused('pretrain', data_dir=images, workdir=tmp_path / 'run',
           says=[str(bad), '--skip_broken_images'])
  result = tiny_runs.launch('pretrain', f'--workdir={tmp_path / "run"}', '--steps=2',
                            '--skip_broken_images', data_dir=images)
  assert result.returncode == 0, result.stderr
  assert [line for line in result.stderr.splitlines()
          if 'left out 1 broken images' in line and str(bad) in line]
  assert json.loads((tmp_path / 'run' / 'settings.json').read_text())['num_images'] == 31


def test_class_folder_without_images(tmp_path, images):
  (images / 'val' / 'hollow').mkdir()
  _refused('pretrain', data_dir=images, workdir=tmp_path / 'run',
           says=[f'class folder {images / "val" / "hollow"}', 'found none'])


@pytest.mark.parametrize(('name', 'flags', 'says'), [
    ('pretrain', ['--seed=1'], 'seed: 0 there, 1 here'),
    ('pretrain', ['--steps=10'], 'config.steps: 8 there, 10 here'),
    ('meta_train', ['--inner_lr=0.5'], 'config.inner.lr: 0.01 there, 0.5 here'),
])
def test_workdir_of_a_run_with_other_settings(name, flags, says):
  workdir = {'pretrain': tiny_runs.pretrained, 'meta_train': tiny_runs.meta_trained}[name]()
  _refused(name, *_from(name), *flags, workdir=workdir,
           says=['belongs to a run with other settings', says, 'choose another --workdir'])


def test_workdir_of_something_else(tmp_path):
  (tmp_path / 'photos').mkdir()
  (tmp_path / 'photos' / 'holiday.txt').write_text('sunny')
  _refused('pretrain', workdir=tmp_path / 'photos',
           says=['holds files', 'choose an empty or new --workdir'])


@pytest.mark.parametrize(('name', 'flags'), [
    ('pretrain', ['--lr=1e30']),
    ('meta_train', ['--outer_lr=1e30']),
    pytest.param('meta_train', ['--inner_lr=1e30'], marks=pytest.mark.slow),
])
def test_a_loss_that_is_no_longer_finite_stops_the_run(tmp_path, name, flags):
  result = tiny_runs.launch(name, *_from(name), *flags, f'--workdir={tmp_path / "run"}')
  step = {'pretrain': 2, 'meta_train': 4}[name]
  _stopped(result, f'{name} stopped at step {step}: ', 'the last checkpoint is of step 0')
  assert not (tmp_path / 'run' / 'results.json').exists()
  assert Checkpoints(tmp_path / 'run' / 'checkpoints').steps() == [0]


def test_one_last_update_that_spoils_the_weights_is_not_saved(tmp_path):
  """Its loss, measured before the update, is finite."""
  result = tiny_runs.launch('pretrain', '--steps=1', '--steps_per_call=1', '--validate_every=1',
                            '--lr=1e39', f'--workdir={tmp_path / "run"}')
  _stopped(result, 'pretrain stopped at step 1: ', 'not finite', 'the last checkpoint is of step 0')
  assert Checkpoints(tmp_path / 'run' / 'checkpoints').steps() == [0]


# Runs its arguments where a file of more than 2 kB fails to be written, much as on a full disk.
SMALL_FILES_ONLY = ('import os, resource, sys; '
                    'resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)); '
                    'os.execv(sys.argv[1], sys.argv[1:])')


@pytest.mark.slow
def test_disk_full_while_saving(tmp_path):
  """The run says so, its last good checkpoint stays, and it goes on when there is room again."""
  workdir = tmp_path / 'run'
  flags = [f'--workdir={workdir}', '--steps=40', '--steps_per_call=20', '--validate_every=20']
  command = tiny_runs.command('pretrain', *flags)
  process = subprocess.Popen(command, cwd=tiny_runs.ROOT, env=tiny_runs.environment(),
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  until = time.monotonic() + 120
  while not (workdir / 'checkpoints' / '0').exists() and time.monotonic() < until:
    time.sleep(0.01)
  process.kill()
  process.wait()
  before = load_tree(workdir / 'checkpoints')
  newest = Checkpoints(workdir / 'checkpoints').steps()[-1]
  result = subprocess.run([sys.executable, '-c', SMALL_FILES_ONLY, *command], cwd=tiny_runs.ROOT,
                          env=tiny_runs.environment(), capture_output=True, text=True, timeout=300)
  _stopped(result, f'could not write the checkpoint of step {newest + 20}',
           os.strerror(errno.EFBIG), f'the last good checkpoint, step {newest}, stays')
  np.testing.assert_equal(load_tree(workdir / 'checkpoints'), before)
  tiny_runs.finished('pretrain', *flags)
  assert json.loads((workdir / 'results.json').read_text())['resumed_from'] == newest


@pytest.mark.parametrize(('name', 'flags', 'says'), [
    ('quickstart', ['--way=3'], 'quickstart has no --way: it has settings of its own'),
    ('quickstart', [], 'expected --workdir, which is required'),
    ('import_weights', ['--workdir=x', '--seed=1'], 'import-weights has no --seed'),
    ('import_weights', ['--workdir=x'], 'expected either --source'),
])
def test_refusals_of_commands_that_are_no_phase(name, flags, says):
  result = tiny_runs.start(f'launch.{name}', *flags, timeout=60)
  assert result.returncode in (1, 2) and len(result.stderr.splitlines()) == 1
  assert result.stderr.startswith('error: ') and says in result.stderr
