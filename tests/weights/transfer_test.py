"""The authors' tensors in our trees and back: nothing lost and nothing made up."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, learnable, parts
from mtl_jax.configs import Learn, MetaTrainConfig
from mtl_jax.phases import meta_train
from mtl_jax.types import BaseLearner, MetaParams
from mtl_jax.weights import correspondence, transfer
from tests.weights import authors_layout

DIVISOR = 80  # widths 2, 4 and 8 in place of 160, 320 and 640
COUNTERS_AND_SECOND_NAMES = ('num_batches_tracked', 'base_learner.fc1_w', 'base_learner.fc1_b')


def pytorch(**options):
  return authors_layout.pytorch(divisor=DIVISOR, **options)


def tensorflow(**options):
  return authors_layout.flat_tensorflow(width=2, **options)


SOURCES = {'pytorch': pytorch, 'tensorflow': tensorflow}


def leaves(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def assert_same(found, expected):
  found, expected = leaves(found), leaves(expected)
  assert found.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def keys_left_out(found):
  return {key for keys in found.left_out.values() for key in keys}


@pytest.mark.parametrize('meta_trained', [False, True])
def test_every_tensor_of_their_pytorch_modules_has_a_place(meta_trained):
  """The names and shapes in the golden file are those of their modules."""
  tensors = pytorch(meta_trained=meta_trained)
  places = correspondence.places('pytorch', meta_trained=meta_trained)
  keys = {place.key for place in places}
  assert len({place.path for place in places}) == len(keys) == len(places)
  left_out = {key for key in tensors if key.endswith(COUNTERS_AND_SECOND_NAMES)}
  assert set(tensors) == keys | left_out
  found = transfer.from_authors(tensors, 'pytorch')
  assert keys_left_out(found) == left_out
  assert found.backbone == {'name': 'resnet25', 'width': 2}
  assert (found.meta_params is not None) == meta_trained


@pytest.mark.parametrize('meta_trained', [False, True])
@pytest.mark.parametrize('format', correspondence.FORMATS)
def test_theirs_to_ours_to_theirs(format, meta_trained):
  tensors = SOURCES[format](meta_trained=meta_trained)
  found = transfer.from_authors(tensors, format)
  exported = transfer.to_authors(found.backbone_vars, found.meta_params, format).tensors
  base_classifier = {'weights/w5', 'weights/b5'} if format == 'tensorflow' else set()
  assert set(exported) == set(tensors) - base_classifier
  for key, array in exported.items():
    assert array.shape == tensors[key].shape and array.dtype == tensors[key].dtype
    if key.endswith('num_batches_tracked'):
      assert array == 0  # not kept; batch norm of a fixed momentum does not read it
    elif key.startswith('ss_weights') and '_bias' in key:
      # Here it is a difference to the bias of Θ, which is rounded once or twice.
      bias = tensors[key.replace('ss_', '', 1)]
      rounding = np.finfo(np.float32).eps * (np.abs(tensors[key]) + np.abs(bias))
      assert np.all(np.abs(array - tensors[key]) <= rounding)
    else:
      np.testing.assert_array_equal(array, tensors[key])


def ours(format, readout=None, **learned):
  """Returns (network, Θ, what was meta-learned) with random values, as a run of ours has them."""
  name, width, epsilon = {'pytorch': ('resnet25', 2, None),
                          'tensorflow': ('resnet12', 2, 1e-3)}[format]
  network = backbones.create(name, (32, 32, 3), width=width, norm_epsilon=epsilon)
  network = backbones.read_out(network, **readout or {})
  random = np.random.default_rng(0)

  def draw(tree):
    return jax.tree.map(lambda x: random.uniform(0.5, 1.5, x.shape).astype(np.float32), tree)

  variables = draw(jax.eval_shape(network.init, jax.random.key(0)))
  config = MetaTrainConfig(way=3, learn=Learn(**learned))
  shapes = jax.eval_shape(lambda v: meta_train.init(network, v, config).meta_params, variables)
  return network, variables, draw(shapes)


@pytest.mark.parametrize('format, learned', [('pytorch', {'norm': True}), ('tensorflow', {})])
def test_ours_to_theirs_to_ours(format, learned):
  """Their files cannot hold Θ's own affine parameters where meta-trained ones replace them."""
  _, variables, meta_params = ours(format, **learned)
  exported = transfer.to_authors(variables, meta_params, format)
  found = transfer.from_authors(exported.tensors, format)
  if format == 'tensorflow':  # nor can they hold running statistics
    statistics = {'batch_stats/' + path for path in leaves(variables.batch_stats)}
    assert keys_left_out(exported) == statistics
    variables = variables._replace(batch_stats=found.backbone_vars.batch_stats)
  assert found.meta_params is not None
  merged = parts.merge(variables.params, meta_params.weights)
  assert_same(found.backbone_vars._asdict(), variables._replace(params=merged)._asdict())
  assert_same(found.meta_params._replace(scale_shift={})._asdict(),
              meta_params._replace(scale_shift={})._asdict())
  phi, expected = leaves(found.meta_params.scale_shift), leaves(meta_params.scale_shift)
  assert phi.keys() == expected.keys()
  for path, leaf in expected.items():  # a shift has been added to a bias and taken off again
    rounding = 4e-7 if format == 'tensorflow' and path.endswith('/shift') else 0
    np.testing.assert_allclose(phi[path], leaf, rtol=0, atol=rounding)


@pytest.mark.parametrize('format', correspondence.FORMATS)
def test_a_pretrained_network_of_ours(format):
  _, variables, _ = ours(format)
  exported = transfer.to_authors(variables, None, format)
  found = transfer.from_authors(exported.tensors, format)
  assert found.meta_params is None
  assert_same(found.backbone_vars.params, variables.params)
  if format == 'pytorch':
    assert_same(found.backbone_vars.batch_stats, variables.batch_stats)


def test_an_export_computes_what_the_run_computes():
  """Layers below the last block were not scaled: they are filled up with ones."""
  _, variables, meta_params = ours('pytorch', scope='last_block', inner_lr='scalar', norm=True)
  exported = transfer.to_authors(variables, meta_params, 'pytorch')
  assert exported.left_out == {'learned rates of the inner loop': ('inner_lr/log',)}
  scale = exported.tensors['encoder.layer1.0.conv1.mtl_weight']
  np.testing.assert_array_equal(scale, np.ones((2, 1, 1, 1)))
  np.testing.assert_array_equal(exported.tensors['encoder.conv1.mtl_bias'], [0])
  found = transfer.from_authors(exported.tensors, 'pytorch')
  assert found.meta_params is not None
  theirs = learnable.network(found.backbone_vars, found.meta_params)
  assert_same(theirs._asdict(),
              jax.tree.map(np.asarray, learnable.network(variables, meta_params)._asdict()))


def test_a_learned_temperature_is_left_out_of_an_export():
  _, variables, meta_params = ours('pytorch', readout={'norm': 'l2'}, temperature=True)
  exported = transfer.to_authors(variables, meta_params, 'pytorch')
  assert exported.left_out == {'the learned temperature of the features': ('temperature/log',)}
  without = transfer.to_authors(variables, meta_params._replace(temperature={}), 'pytorch')
  assert without.left_out == {}
  assert_same(exported.tensors, without.tensors)


def test_networks_that_their_code_has_not_are_not_exported():
  _, variables, meta_params = ours('tensorflow', scaled='every')
  with pytest.raises(ValueError, match='tensorflow network has no place for '
                                       'scale_shift/block1/shortcut/scale'):
    transfer.to_authors(variables, meta_params, 'tensorflow')
  network = backbones.create('resnet25', (32, 32, 3), width=2, norm_affine=False)
  variables = jax.tree.map(lambda x: np.zeros(x.shape),
                           jax.eval_shape(network.init, jax.random.key(0)))
  with pytest.raises(ValueError, match="expected params/stem_bn/scale, for the authors' "
                                       'bn1.weight, found none; '):
    transfer.to_authors(variables, None, 'pytorch')


def test_a_whole_model_before_meta_training():
  """Their trainer saves the encoder; the whole model has a classifier and a base-learner too."""
  encoder = pytorch(meta_trained=False)
  besides = {'pre_fc.0.weight': np.ones((10, 8), np.float32),
             'pre_fc.2.bias': np.ones(3, np.float32),
             'base_learner.fc1_w': np.ones((5, 8), np.float32),
             'base_learner.vars.0': np.ones((5, 8), np.float32)}
  whole = {f'encoder.{key}': array for key, array in encoder.items()} | besides
  found = transfer.from_authors(whole, 'pytorch')
  expected = transfer.from_authors(encoder, 'pytorch')
  assert_same(found.backbone_vars._asdict(), expected.backbone_vars._asdict())
  assert set(besides) < keys_left_out(found)


def test_tensorflow_has_no_running_statistics():
  found = transfer.from_authors(tensorflow(), 'tensorflow')
  assert found.backbone == {'name': 'resnet12', 'width': 2, 'norm_epsilon': 1e-3}
  for path, leaf in leaves(found.backbone_vars.batch_stats).items():
    np.testing.assert_array_equal(leaf, np.full(leaf.shape, path.endswith('var')))
  assert keys_left_out(found) == {'weights/w5', 'weights/b5'}


@pytest.mark.parametrize('dtype', [np.float64, np.float16, '>f4', jnp.bfloat16])
def test_any_floats_become_float32(dtype):
  tensors = {key: array.astype(dtype) for key, array in tensorflow().items()}
  found = transfer.from_authors(tensors, 'tensorflow')
  types = {leaf.dtype for leaf in jax.tree.leaves((found.backbone_vars, found.meta_params))}
  assert types == {np.dtype('float32')}


def test_names_of_what_is_meta_learned():
  found = transfer.from_authors(pytorch(way=3), 'pytorch').meta_params
  assert isinstance(found, MetaParams) and isinstance(found.base_learner, BaseLearner)
  assert found.base_learner.kernel.shape == (8, 3)
  assert found.inner_lr == {} and found.temperature == {}
  like = ours('pytorch', norm=True)[2]
  assert {path: leaf.shape for path, leaf in leaves(found).items()} == {
      path: leaf.shape for path, leaf in leaves(like).items()}
