"""`mtl show DIR`: finished, unfinished and damaged runs, and what is no run."""
import os
import shutil

import pytest

from mtl_jax.runs import models
from mtl_jax.weights import authors_runs
from tests import tiny_runs
from tests.runs.toy_states import make_state, save_tree
from tests.weights import authors_layout


def show(*arguments):
  return tiny_runs.start('launch.show', *map(str, arguments), timeout=60)


def shown(workdir):
  """The table in one line, its spaces single."""
  result = show(workdir)
  assert (result.returncode, result.stderr) == (0, ''), result.stderr
  assert max(map(len, result.stdout.splitlines())) <= 100
  return ' '.join(result.stdout.split())


def test_a_meta_training():
  text = shown(tiny_runs.meta_trained())
  for said in ('finished: meta-trained on data, 3-way 1-shot, seed 0, over a network pre-trained '
               'on data', 'network conv4, width 4', 'data, 32 images in 4 base classes',
               'classes train0, train1, train2, train3', 'images 16x16 pixels, 3 channels',
               'normalised by mean 0.', 'learned SS[Θ;θ], HT meta-batch, 3-way 1-shot', 'seed 0',
               ' ± ', 'on 10 3-way 1-shot tasks of validation classes', 'steps 8, the best',
               'versions', 'flax ', 'backbone.safetensors 0.0', 'numbers, whole',
               'mtl meta-test --checkpoint='):
    assert said in text
  assert 'meta-train --pretrained' not in text and 'DAMAGED' not in text


def test_a_pretraining_that_was_stopped(tmp_path):
  shutil.copy(tiny_runs.pretrained() / 'settings.json', tmp_path)
  assert 'state pretrain has begun, and has no checkpoint yet' in shown(tmp_path)
  save_tree(tmp_path / 'checkpoints', make_state(0))
  text = shown(tmp_path)
  assert 'not finished: pretrain at step 0 of 8; the same command goes on from there' in text
  assert 'learned the network Θ' in text and 'next' not in text
  shutil.rmtree(tmp_path / 'checkpoints')
  shutil.copytree(tiny_runs.pretrained() / 'checkpoints', tmp_path / 'checkpoints')
  assert 'at step 8 of 8, best validation accuracy ' in shown(tmp_path)


def test_an_import(tmp_path):
  tensors = authors_layout.pytorch(divisor=80, way=3)
  authors_runs.write(str(tmp_path / 'run'), tensors, 'pytorch', source='file', way=3,
                     image_size=16)
  text = shown(tmp_path / 'run')
  assert 'finished: imported from a file of pytorch' in text and 'accuracy not measured' in text
  assert 'classes' not in text and 'steps' not in text


def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path):
  for name in (models.BACKBONE, models.META_PARAMS, models.FILE):
    shutil.copy(tiny_runs.meta_trained() / name, tmp_path)
  os.truncate(tmp_path / models.BACKBONE, 100)
  (tmp_path / models.META_PARAMS).unlink()
  text = shown(tmp_path)
  assert text.count('DAMAGED: ') == 2 and 'another SHA-256' in text and 'is missing' in text


@pytest.mark.parametrize(('settings', 'says'), [
    (None, 'does not exist'), ('', 'is damaged'), ('{"command": "meta_test"}', "got 'meta_test'"),
    ('{"command": "pretrain"}', 'are damaged')])
def test_what_is_no_run_is_one_line(tmp_path, settings, says):
  if settings is not None:
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'settings.json').write_text(settings)
  result = show(tmp_path / 'run')
  assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
  assert result.stderr.startswith('error: ') and says in result.stderr
