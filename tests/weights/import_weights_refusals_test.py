"""Bad input to `import_weights`: one clear line, exit status 1 or 2; nothing is written or run."""
import json
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mtl_jax.weights import authors_runs, npy
from tests import tiny_runs
from tests.weights import authors_layout, npy_files, pth_files

# Starts the command once for each line of arguments, in a fork of a process that has imported it:
# fast, and with the messages and exit statuses of a start of its own. PyTorch counts as not
# installed.
DRIVER = """
import json, os, sys
sys.modules['torch'] = None
from launch import command, import_weights
from mtl_jax import stages
stages.FIRST_AFTER = 1e6  # on a busy machine anything may take a second, and would say so
results = []
for arguments in json.load(sys.stdin):
  end, start = os.pipe()
  if not os.fork():
    os.dup2(start, 2)
    command.start(import_weights.COMMAND, arguments)
    os._exit(0)
  os.close(start)
  message = os.fdopen(end).read()
  results.append([os.waitstatus_to_exitcode(os.wait()[1]), message])
print(json.dumps(results))
"""


class Runs:
  """Pickles as a command."""

  def __init__(self, command):
    self.command = command

  def __reduce__(self):
    return os.system, (self.command,)


def write_files(folder):
  """Writes sound and spoiled files, and two runs."""
  network, touch = authors_layout.pytorch(divisor=80, way=3), Runs(f'touch {folder / "was_run"}')
  write_pth_files(folder, network, touch)
  write_npy_files(folder, touch)
  npy.write(folder / 'sound.npz', network)
  (folder / 'empty').mkdir()
  authors_runs.write(str(folder / 'run'), network, 'pytorch', source='file', way=3, image_size=16)
  shutil.copytree(folder / 'run', folder / 'conv4')
  path = folder / 'conv4' / 'model.json'
  model = json.loads(path.read_text())
  model['settings']['backbone'] = {'name': 'conv4'}
  del model['checksum']
  path.write_text(json.dumps(model))


def write_pth_files(folder, network, touch):
  sound = pth_files.save(folder, network).rename(folder / 'sound.pth').read_bytes()
  legacy = pth_files.save(folder, network, legacy=True).read_bytes()
  (folder / 'cut.pth').write_bytes(sound[:len(sound) // 2])
  (folder / 'cut_legacy.pth').write_bytes(legacy[:-10])
  hostile = pth_files.write_zip(folder, pickle.dumps(touch, 2))
  (folder / 'hostile.pth').write_bytes(hostile.read_bytes())
  other = {'conv1.weight': np.zeros((4, 3, 7, 7), np.float32),
           'fc.bias': np.zeros(9, np.float32)}
  pth_files.save(folder, other).rename(folder / 'other.pth')


def write_npy_files(folder, touch):
  dictionary = authors_layout.tensorflow(meta_trained=False)['weights']
  npy_files.save(folder / 'weights.npy', dictionary)
  whole = (folder / 'weights.npy').read_bytes()
  (folder / 'weights_cut.npy').write_bytes(whole[:len(whole) // 2])
  npy_files.save(folder / 'weights_hostile.npy', {'w5': touch})
  npy_files.save(folder / 'weights_other.npy', dictionary | {'block5_conv1': dictionary['w5']})


PYTORCH, TENSORFLOW = '--format=pytorch', '--format=tensorflow'
CASES = {  # arguments; what the message holds
    'missing_file': (['--source=nowhere.pth', PYTORCH], ['nowhere.pth does not exist']),
    'folder_for_a_file': (['--source=empty', PYTORCH], ['empty is a folder']),
    'missing_dictionary': (
        ['--source=weights.npy,ss_weights.npy', TENSORFLOW], ['ss_weights.npy does not exist']),
    'folder_without_dictionaries': (
        ['--source=empty', TENSORFLOW], ['expected weights*.npy in empty, found no .npy']),
    'folder_with_several': (
        ['--source=.', TENSORFLOW], ['expected one file of weights, got', 'FILE,FILE,FILE']),
    'another_network': (
        ['--source=other.pth', PYTORCH],
        ["expected the authors' pre-trained resnet25 (pytorch), got another network",
         'missing: conv1.bias, bn1.weight, bn1.bias and', 'unexpected: fc.bias']),
    'another_dictionary': (
        ['--source=weights_other.npy', TENSORFLOW], ['unexpected: weights/block5_conv1']),
    'cut_zip': (
        ['--source=cut.pth', PYTORCH],
        ['cut.pth: expected a whole PyTorch checkpoint', 'copy it again']),
    'cut_legacy': (
        ['--source=cut_legacy.pth', PYTORCH],
        ['cut_legacy.pth: expected a ', 'its storages end at']),
    'cut_npy': (
        ['--source=weights_cut.npy', TENSORFLOW],
        ['weights_cut.npy: expected a whole', 'copy it again']),
    'hostile_pth': (
        ['--source=hostile.pth', PYTORCH], ['posix.system', 'nothing of it was run']),
    'hostile_npy': (
        ['--source=weights_hostile.npy', TENSORFLOW], ['posix.system', 'nothing of it was run']),
    'npy_as_pytorch': (
        ['--source=weights.npy', PYTORCH],
        ['weights.npy: expected a PyTorch checkpoint of tensors']),
    'pth_as_tensorflow': (
        ['--source=sound.pth', TENSORFLOW],
        ['expected the name of sound.pth to begin with weights']),
    'npz_of_the_other_format': (
        ['--source=sound.npz', TENSORFLOW],
        ['missing: weights/block1_conv1', 'unexpected: base_learner.fc1_b']),
    'another_way': (
        ['--source=sound.pth', PYTORCH, '--way=5'],
        ['expected weights for 5 classes (--way)', 'for 3']),
    'no_format': (['--source=sound.pth'], ['expected --format, one of efficientnet_lite']),
    'unknown_format': (
        ['--source=sound.pth', '--format=caffe'], ['format', 'pytorch, tensorflow', '--help']),
    'neither_source_nor_export': ([PYTORCH], ['expected either --source', 'or --export']),
    'source_and_export': (
        ['--source=sound.pth', '--export=new.npz'], ['expected either --source', 'or --export']),
    'workdir_of_another_import': (
        ['--source=sound.pth', PYTORCH, '--shot=5', '--workdir=run', '--image_size=16'],
        ['belongs to a run with other settings', 'choose another --workdir']),
    'workdir_of_something_else': (
        ['--source=sound.pth', PYTORCH, '--workdir=.'], ['holds files but no settings.json']),
    'export_over_a_file': (
        ['--workdir=run', '--export=sound.npz'], ['sound.npz: expected a file that does not']),
    'export_into_a_missing_folder': (
        ['--workdir=run', '--export=no/new.npz'], ['the folder of no/new.npz does not exist']),
    'export_of_another_ending': (
        ['--workdir=run', '--export=new.txt'], ['to end in .npz or .pth, got new.txt']),
    'export_without_pytorch': (
        ['--workdir=run', '--export=new.pth'],
        ['expected PyTorch to be installed to write .pth', 'write .npz instead']),
    'export_in_the_other_format': (
        ['--workdir=run', '--export=new.npz', TENSORFLOW],
        ['expected --format=pytorch', 'got tensorflow']),
    'export_of_another_network': (
        ['--workdir=conv4', '--export=new.npz'],
        ["expected a run of resnet25 or resnet12, the authors' networks, got conv4"]),
    'export_of_no_run': (
        ['--workdir=empty', '--export=new.npz'], ['empty is not the work directory of a run']),
}


@pytest.fixture(scope='module')
def results(tmp_path_factory):
  """Returns name -> (exit status, stderr) of all cases, and all files before and after."""
  folder = tmp_path_factory.mktemp('bad_weights')
  write_files(folder)
  before = tiny_runs.contents(folder)
  lines = [arguments if any(a.startswith('--workdir') for a in arguments) else
           [*arguments, '--workdir=new'] for arguments, _ in CASES.values()]
  environment = tiny_runs.environment() | {'PYTHONPATH': str(tiny_runs.ROOT)}
  found = subprocess.run([sys.executable, '-c', DRIVER], input=json.dumps(lines), cwd=folder,
                         capture_output=True, env=environment, text=True, timeout=900)
  assert found.returncode == 0, found.stderr
  answers = dict(zip(CASES, json.loads(found.stdout), strict=True))
  return answers, before, tiny_runs.contents(folder)


@pytest.mark.parametrize('name', CASES)
def test_refused_in_one_line(name, results):
  status, message = results[0][name]
  assert status in (1, 2), message
  assert message.startswith('error: ') and len(message.splitlines()) == 1, message
  for text in CASES[name][1]:
    assert text in message


def test_nothing_was_written_or_run(results):
  _, before, after = results
  assert after == before and not [path for path in after if 'was_run' in path]
