"""A finished run as a model: files that stand alone, and are there whole or not at all."""
import json
import os
import shutil

import jax
import numpy as np
import pytest

from mtl_jax import runs
from mtl_jax.runs import finished, model_cards, models, tensor_files, workdirs
from tests import tiny_runs
from tests.runs.toy_states import save_tree

NAMES = (models.BACKBONE, models.META_PARAMS, models.FILE, models.CARD)


@pytest.fixture
def run(tmp_path):
  """A meta-training, to spoil."""
  return shutil.copytree(tiny_runs.meta_trained(), tmp_path / 'run')


def trees(run):
  return jax.device_get((run.backbone_vars, run.meta_params))


def test_model_json_says_all_about_it():
  workdir = tiny_runs.meta_trained()
  model = json.loads((workdir / 'model.json').read_text())
  settings, results = workdirs.read_settings(workdir), workdirs.read_results(workdir)
  assert model['settings'] == settings
  assert settings['backbone']['name'] == 'conv4' and settings['image_shape'] == [16, 16, 3]
  assert model['classes'] == ['train0', 'train1', 'train2', 'train3']
  kept = ('steps', 'best_step', 'validation_accuracy', 'validation_ci95')
  assert model['results'] == {name: results[name] for name in kept}
  assert 0 < results['validation_ci95'] < 0.5
  assert model['versions'].keys() >= {'jax', 'flax', 'numpy'}
  for name in (models.BACKBONE, models.META_PARAMS):
    content = (workdir / name).read_bytes()
    assert model['files'][name] == {'sha256': tensor_files.sha256(content), 'bytes': len(content)}


def test_the_files_of_the_model_are_enough(tmp_path):
  for name in NAMES:
    shutil.copy(tiny_runs.meta_trained() / name, tmp_path)
  found, expected = runs.load(tmp_path), runs.load(tiny_runs.meta_trained())
  jax.tree.map(np.testing.assert_array_equal, trees(found), trees(expected))
  assert found.settings == expected.settings and found.config == expected.config


def test_the_card_of_each_kind_of_run():
  said = (tiny_runs.meta_trained() / 'README.md').read_text()
  assert said.startswith('# conv4, meta-trained on data\n')
  for text in ('16x16x3', '3-way 1-shot', 'over a network pre-trained on data', ' ± ',
               "runs.load('DIR')", 'it is for you to choose', 'meta_params.safetensors'):
    assert text in said
  imported = {'format': 'efficientnet_lite', 'digest': 3085515963}
  settings = {'command': 'pretrain', 'dataset': 'imported', 'image_shape': [224, 224, 3],
              'backbone': {'name': 'efficientnet_lite0'}, 'config': {}, 'imported': imported}
  model = {'settings': settings, 'results': {}, 'files': {models.BACKBONE: {}}}
  said = model_cards.text(model)
  assert 'imported from a file of efficientnet_lite' in said and 'not measured' in said
  assert 'Apache-2.0' in said
  imported['digest'] = 1
  assert 'not known here; that of the imported file holds' in model_cards.text(model)


@pytest.mark.parametrize('name', [models.BACKBONE, models.META_PARAMS])
def test_a_damaged_file_is_named(run, name):
  content = bytearray((run / name).read_bytes())
  content[len(content) // 2] ^= 1
  (run / name).write_bytes(content)
  with pytest.raises(ValueError, match=f'{run / name} is damaged: it is not what was written'):
    runs.load(run)
  (run / name).unlink()
  with pytest.raises(FileNotFoundError, match=f'{run / name} is missing'):
    runs.load(run)


@pytest.mark.parametrize(('change', 'says'), [
    (lambda model: model.update(format=2), 'has format 2: expected 1; install the version'),
    (lambda model: model.pop('files'), 'is damaged: expected files in it'),
    (lambda model: model['files'].pop(models.META_PARAMS), 'it does not list meta_params'),
    (lambda model: model['files'].update({models.BACKBONE: {}}), 'expected backbone.safetensors'),
    (lambda model: model['files'][models.BACKBONE].update(sha256='0'), 'another SHA-256'),
    (lambda model: model['settings'].pop('image_shape'), r"expected \['image_shape'\] in them")])
def test_a_damaged_description_is_refused(run, change, says):
  model = json.loads((run / 'model.json').read_text())
  model.pop('checksum')  # as whoever changes it by hand
  change(model)
  (run / 'model.json').write_text(json.dumps(model))
  with pytest.raises(ValueError, match=says):
    runs.load(run)


class Killed(Exception):
  """Stands for the end of the process."""


def test_killed_at_any_file_leaves_none_or_a_whole_model(run, monkeypatch):
  """A finished training is started again and killed while it writes each of its files in turn."""
  shutil.rmtree(run / 'meta_test', ignore_errors=True)
  whole = {name: (run / name).read_bytes() for name in NAMES}
  found = runs.load(run)
  model, results = models.read(run), workdirs.read_results(run)
  of = {models.BACKBONE: found.backbone_vars, models.META_PARAMS: found.meta_params}
  for name in (*NAMES, 'results.json'):
    (run / name).unlink()
  write_file = workdirs.write_file
  for last in range(len(NAMES) + 1):
    left = iter([False] * last + [True])

    def write(*arguments, left=left):
      if next(left):
        raise Killed
      write_file(*arguments)

    monkeypatch.setattr(workdirs, 'write_file', write)
    if last < len(NAMES):
      with pytest.raises(Killed):
        models.write(run, model['settings'], of, results, model['classes'])
      with pytest.raises(FileNotFoundError, match='meta_train in .* is not finished'):
        runs.load(run)
    else:
      models.write(run, model['settings'], of, results, model['classes'])
  assert {name: (run / name).read_bytes() for name in NAMES} == whole
  jax.tree.map(np.testing.assert_array_equal, trees(runs.load(run)), trees(found))


def to_earlier_format(run):
  """What the version before this one left: a folder for each tree, and no model.json."""
  for name in (models.BACKBONE, models.META_PARAMS):
    if (run / name).exists():
      save_tree(run / name.removesuffix('.safetensors'), models.read_tree(run, name))
      (run / name).unlink()
  for name in (models.FILE, models.CARD):
    (run / name).unlink()


def test_a_run_of_the_earlier_format_is_refused_and_can_be_written_anew(tmp_path):
  """The line says how, and what it says works."""
  before, pre = tiny_runs.meta_trained(), tiny_runs.pretrained()
  run = shutil.copytree(before, tmp_path / 'run')
  to_earlier_format(run)
  with pytest.raises(ValueError, match='keeps its model in the format of an earlier version, as '
                                       'folders: remove its results.json and start the same'):
    finished.trained_settings(run)
  result = tiny_runs.launch('meta_test', f'--checkpoint={run}', f'--workdir={tmp_path / "test"}')
  assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
  os.remove(run / 'results.json')
  tiny_runs.finished('meta_train', f'--pretrained={pre}', f'--workdir={run}')
  for name in NAMES:
    assert (run / name).read_bytes() == (before / name).read_bytes()


def test_a_model_json_that_was_lost(run):
  (run / 'model.json').unlink()
  with pytest.raises(ValueError, match='has lost its model.json: remove its results.json'):
    runs.load(run)
