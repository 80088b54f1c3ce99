"""The authors' tensors in our trees and back: nothing lost, nothing made up, and another network's file refused."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import backbones, learnable
from mtl_jax.phases import meta_train
from mtl_jax.types import BaseLearner, MetaParams
from mtl_jax.weights import names, transfer
from tests.weights import authors_layout

DIVISOR = 80  # widths 2, 4 and 8 in place of 160, 320 and 640
COUNTERS_AND_SECOND_NAMES = ('num_batches_tracked', 'base_learner.fc1_w', 'base_learner.fc1_b')


def pytorch(**options):
  return authors_layout.pytorch(divisor=DIVISOR, **options)


def tensorflow(**options):
  found = authors_layout.tensorflow(width=2, **options)
  return {f'{name}/{key}': array for name, part in found.items() for key, array in part.items()}


SOURCES = {'pytorch': pytorch, 'tensorflow': tensorflow}


def refused(tensors, format):
  with pytest.raises(ValueError) as error:
    transfer.from_authors(tensors, format)
  assert '\n' not in str(error.value) and len(str(error.value)) < 700
  return str(error.value)


def leaves(tree):
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def assert_same(found, expected):
  found, expected = leaves(found), leaves(expected)
  assert found.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.parametrize('meta_trained', [False, True])
def test_every_tensor_of_their_pytorch_modules_has_a_place(meta_trained):
  """The names and shapes in the golden file are those of their modules."""
  tensors = pytorch(meta_trained=meta_trained)
  places = names.places('pytorch', meta_trained=meta_trained)
  assert len({place.path for place in places}) == len({place.key for place in places}) == len(places)
  left_out = {key for key in tensors if key.endswith(COUNTERS_AND_SECOND_NAMES)}
  assert set(tensors) == {place.key for place in places} | left_out
  found = transfer.from_authors(tensors, 'pytorch')
  assert set(found.left_out) == left_out and found.backbone == {'name': 'resnet25', 'width': 2}
  assert (found.meta_params is not None) == meta_trained


def test_published_widths_are_recognised():
  """Without the tensors of full size, which take a second."""
  for format, key, shape in (('pytorch', 'conv1.weight', (80, 3, 3, 3)),
                             ('tensorflow', 'weights/block1_conv1', (3, 3, 3, 64))):
    assert 'width' not in transfer._options({key: np.zeros(shape)}, format)


@pytest.mark.parametrize('meta_trained', [False, True])
@pytest.mark.parametrize('format', names.FORMATS)
def test_theirs_to_ours_to_theirs(format, meta_trained):
  tensors = SOURCES[format](meta_trained=meta_trained)
  found = transfer.from_authors(tensors, format)
  exported = transfer.to_authors(found.backbone_vars, found.meta_params, format).tensors
  dropped = {'weights/w5', 'weights/b5'} if format == 'tensorflow' else set()  # the classifier of the base classes
  assert set(exported) == set(tensors) - dropped
  for key, array in exported.items():
    assert array.shape == tensors[key].shape and array.dtype == tensors[key].dtype
    if key.endswith('num_batches_tracked'):
      assert array == 0  # not kept; batch norm of a fixed momentum does not read it
    elif key.startswith('ss_weights') and '_bias' in key:  # here a difference to the bias of Θ, rounded once or twice
      rounding = np.finfo(np.float32).eps * (np.abs(tensors[key]) + np.abs(tensors[key.replace('ss_', '', 1)]))
      assert np.all(np.abs(array - tensors[key]) <= rounding)
    else:
      np.testing.assert_array_equal(array, tensors[key])


def ours(format, **learned):
  """(network, Θ, what was meta-learned) with random values, as a run of ours leaves them."""
  name, width, epsilon = {'pytorch': ('resnet25', 2, None), 'tensorflow': ('resnet12', 2, 1e-3)}[format]
  network = backbones.create(name, (32, 32, 3), width=width, norm_epsilon=epsilon)
  random = np.random.default_rng(0)

  def draw(tree):
    return jax.tree.map(lambda x: random.uniform(0.5, 1.5, x.shape).astype(np.float32), tree)

  variables = draw(jax.eval_shape(network.init, jax.random.key(0)))
  config = meta_train.MetaTrainConfig(way=3, **learned)
  shapes = jax.eval_shape(lambda v: meta_train.init(network, v, config).meta_params, variables)
  return network, variables, draw(shapes)


@pytest.mark.parametrize('format, learned', [('pytorch', {'learn_norm': True}), ('tensorflow', {})])
def test_ours_to_theirs_to_ours(format, learned):
  """Θ's own affine parameters, which meta-trained ones have replaced, are the one thing their files cannot hold."""
  _, variables, meta_params = ours(format, **learned)
  exported = transfer.to_authors(variables, meta_params, format)
  found = transfer.from_authors(exported.tensors, format)
  if format == 'tensorflow':  # nor can they hold running statistics
    assert set(exported.left_out) == {'batch_stats/' + path for path in leaves(variables.batch_stats)}
    variables = variables._replace(batch_stats=found.backbone_vars.batch_stats)
  variables = variables._replace(params=learnable.merge(variables.params, meta_params.weights))
  assert_same(found.backbone_vars._asdict(), variables._asdict())
  assert_same(found.meta_params._replace(scale_shift={})._asdict(), meta_params._replace(scale_shift={})._asdict())
  phi, expected = leaves(found.meta_params.scale_shift), leaves(meta_params.scale_shift)
  assert phi.keys() == expected.keys()
  for path, leaf in expected.items():  # a shift has been added to a bias and taken off again
    rounding = 4e-7 if format == 'tensorflow' and path.endswith('/shift') else 0
    np.testing.assert_allclose(phi[path], leaf, rtol=0, atol=rounding)


@pytest.mark.parametrize('format', names.FORMATS)
def test_a_pretrained_network_of_ours(format):
  _, variables, _ = ours(format)
  exported = transfer.to_authors(variables, None, format)
  found = transfer.from_authors(exported.tensors, format)
  assert found.meta_params is None
  assert_same(found.backbone_vars.params, variables.params)
  if format == 'pytorch':
    assert_same(found.backbone_vars.batch_stats, variables.batch_stats)


def test_an_export_computes_what_the_run_computes():
  """One that learned the scales of the last block, weights, and an inner rate: the first are filled up with ones."""
  network, variables, meta_params = ours('pytorch', scope='last_block', learn_inner_lr='scalar', learn_norm=True)
  exported = transfer.to_authors(variables, meta_params, 'pytorch')
  assert exported.left_out == ('inner_lr',)
  np.testing.assert_array_equal(exported.tensors['encoder.layer1.0.conv1.mtl_weight'], np.ones((2, 1, 1, 1)))
  np.testing.assert_array_equal(exported.tensors['encoder.conv1.mtl_bias'], [0])
  found = transfer.from_authors(exported.tensors, 'pytorch')
  assert_same(learnable.network(found.backbone_vars, found.meta_params)._asdict(),
              jax.tree.map(np.asarray, learnable.network(variables, meta_params)._asdict()))


def test_networks_that_their_code_has_not_are_not_exported():
  _, variables, meta_params = ours('tensorflow', scaled='every')
  with pytest.raises(ValueError, match='tensorflow network has no place for scale_shift/block1/shortcut/scale'):
    transfer.to_authors(variables, meta_params, 'tensorflow')
  network = backbones.create('resnet25', (32, 32, 3), width=2, norm_affine=False)
  variables = jax.tree.map(lambda x: np.zeros(x.shape), jax.eval_shape(network.init, jax.random.key(0)))
  with pytest.raises(ValueError, match="expected params/stem_bn/scale, for the authors' bn1.weight, found none; "):
    transfer.to_authors(variables, None, 'pytorch')


def test_a_whole_model_before_meta_training():
  """Their trainer saves the encoder; one who saved the model has a classifier and an untrained base-learner too."""
  encoder = pytorch(meta_trained=False)
  besides = {'pre_fc.0.weight': np.ones((10, 8), np.float32), 'pre_fc.2.bias': np.ones(3, np.float32),
             'base_learner.fc1_w': np.ones((5, 8), np.float32), 'base_learner.vars.0': np.ones((5, 8), np.float32)}
  found = transfer.from_authors({f'encoder.{key}': array for key, array in encoder.items()} | besides, 'pytorch')
  assert_same(found.backbone_vars._asdict(), transfer.from_authors(encoder, 'pytorch').backbone_vars._asdict())
  assert set(besides) < set(found.left_out)


def test_tensorflow_has_no_running_statistics():
  found = transfer.from_authors(tensorflow(), 'tensorflow')
  assert found.backbone == {'name': 'resnet12', 'width': 2, 'norm_epsilon': 1e-3}
  for path, leaf in leaves(found.backbone_vars.batch_stats).items():
    np.testing.assert_array_equal(leaf, np.full(leaf.shape, path.endswith('var')))
  assert set(found.left_out) == {'weights/w5', 'weights/b5'}


@pytest.mark.parametrize('dtype', [np.float64, np.float16, '>f4', jnp.bfloat16])
def test_any_floats_become_float32(dtype):
  tensors = tensorflow()
  found = transfer.from_authors({key: array.astype(dtype) for key, array in tensors.items()}, 'tensorflow')
  assert {leaf.dtype for leaf in jax.tree.leaves((found.backbone_vars, found.meta_params))} == {np.dtype('float32')}


def test_the_file_of_another_network_names_what_is_missing_and_unexpected():
  message = refused({'conv1.weight': np.zeros((64, 3, 7, 7)), 'fc.weight': np.zeros((10, 512))}, 'pytorch')
  assert "expected the authors' pre-trained resnet25 (pytorch), got another network" in message
  assert 'missing: conv1.bias, bn1.weight, bn1.bias and ' in message and 'unexpected: fc.weight' in message
  message = refused(pytorch(), 'tensorflow')
  assert 'missing: weights/block1_conv1, ' in message and 'unexpected: base_learner.fc1_b, ' in message
  tensors = tensorflow()
  del tensors['fc_weights/b5']
  assert 'meta-trained resnet12 (tensorflow)' in refused(tensors, 'tensorflow')
  assert 'missing: fc_weights/b5; unexpected: none' in refused(tensors, 'tensorflow')


@pytest.mark.parametrize('key, change, says', [
    ('encoder.layer2.0.conv1.weight', lambda x: x[:, :1], 'of shape (4, 2, 3, 3), got (4, 1, 3, 3)'),
    ('encoder.conv1.weight', lambda x: x[0], 'to be the kernel of a convolution, got shape (3, 3, 3)'),
    ('encoder.conv1.weight', lambda x: x[:0], 'to be the kernel of a convolution, got shape (0, 3, 3, 3)'),
    ('encoder.bn1.bias', lambda x: x.astype(np.int64), 'to hold floating-point numbers, got int64'),
    ('encoder.bn1.bias', lambda x: x * np.nan, 'to hold finite numbers'),
    ('encoder.bn1.running_var', lambda x: -x, 'and variances of at least 0'),
    ('encoder.bn1.bias', lambda x: x.astype(np.float64) + 1e300, 'to hold finite numbers'),
    ('base_learner.fc1_w', lambda x: x + 1, 'to equal base_learner.vars.0, of which it is another name'),
])
@pytest.mark.filterwarnings('error')
def test_tensors_that_do_not_fit(key, change, says):
  tensors = pytorch()
  tensors[key] = change(tensors[key])
  message = refused(tensors, 'pytorch')
  assert says in message and (key.removeprefix('encoder.') in message or 'base_learner' in message)


def test_names_of_what_is_meta_learned():
  found = transfer.from_authors(pytorch(way=3), 'pytorch').meta_params
  assert isinstance(found, MetaParams) and isinstance(found.base_learner, BaseLearner)
  assert found.base_learner.kernel.shape == (8, 3) and found.inner_lr == {}
  like = ours('pytorch', learn_norm=True)[2]
  assert {path: leaf.shape for path, leaf in leaves(found).items()} == {
      path: leaf.shape for path, leaf in leaves(like).items()}
