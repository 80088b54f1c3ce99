"""`mtl export` writes a file, `mtl show` says what is in it, and both refuse in one line."""
import importlib.util
import json
import os
import zipfile

import pytest

from mtl_jax import exports
from mtl_jax.exports import onnx_file
from tests import tiny_runs
from tests.exports import artefacts


@pytest.fixture(scope='module')
def mtl(tmp_path_factory):
  path = tmp_path_factory.mktemp('export') / 'x.mtl'
  artefacts.classifier().save(path)
  return path


def export(*arguments):
  return tiny_runs.start('launch.export', *map(str, arguments))


def test_a_run_and_a_classifier(mtl, tmp_path):
  for source, says in ((tiny_runs.meta_trained(), ('any number', 'yes', 'inner loop')),
                       (mtl, ('test0, test1, test2', 'no, the classes are fixed', 'softmax'))):
    path = tmp_path / f'{os.path.basename(source)}.bin'
    result = export(source, f'--out={path}')
    assert result.returncode == 0, result.stderr
    assert f'written to {path}, ' in result.stdout
    shown = tiny_runs.start('launch.show', str(path))
    assert shown.returncode == 0, shown.stderr
    for part in (*says, 'conv4', 'uint8 [n, 16, 16, 3]'):
      assert part in shown.stdout
  # What is there is replaced only when told to.
  before = path.read_bytes()
  result = export(mtl, f'--out={path}')
  assert result.returncode == 1 and 'expected a file that does not exist yet' in result.stderr
  assert path.read_bytes() == before
  artefacts.classifier().export(path, adapts=True, overwrite=True)
  assert dict(exports.describe(path))['adapts'] == 'yes'


@pytest.mark.parametrize('arguments, says', [
    (['{run}', '--out={folder}/x.pt'], 'to end in .bin or .onnx, got'),
    (['{run}', '--out={folder}/none/x.bin'], 'none/x.bin does not exist'),
    (['no/run', '--out={folder}/x.bin'], 'no/run'),
    (['{run}', '--out={folder}/x.bin', '--adapts'], '--adapts goes with a saved classifier'),
    (['{mtl}', '--out={folder}/x.bin', '--way=3'], '--way and --image_size go with a network'),
    (['{run}', '--out={folder}/x.bin', '--way=1'], 'way'),
    (['{run}'], '--out')])
def test_refused_in_one_line(mtl, tmp_path, arguments, says):
  places = {'run': tiny_runs.pretrained(), 'mtl': mtl, 'folder': tmp_path}
  result = export(*(argument.format(**places) for argument in arguments))
  assert result.returncode in (1, 2) and says in result.stderr
  assert result.stderr.strip().splitlines()[-1].startswith('error: ')
  assert not list(tmp_path.iterdir())


def test_show_refuses_another_version(tmp_path):
  path = tmp_path / 'x.bin'
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr('mtl_jax', json.dumps({'format': 0}))
  result = tiny_runs.start('launch.show', str(path))
  assert result.returncode == 1 and result.stderr.splitlines() == [
      f'error: {path}: expected an export of format 1, got 0: export it again with this version, '
      f'mtl_jax {exports.about.mtl_jax.__version__}']


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
  with pytest.raises(ValueError, match=r"needs jax2onnx.*pip install 'mtl_jax\[onnx\]'"):
    exports.check_place(tmp_path / 'x.onnx')
  with pytest.raises(ValueError, match=r"needs onnxruntime.*pip install 'mtl_jax\[onnx\]'"):
    onnx_file.session('x.onnx')


def test_a_folder_that_is_not_writable(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'access', lambda *_: False)  # the tests may run as root
  with pytest.raises(PermissionError, match='is not writable'):
    exports.check_place(tmp_path / 'x.bin')
