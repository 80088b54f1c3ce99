"""Another network's file, or a tensor that does not fit, is refused; widths are recognised."""
import numpy as np
import pytest

from mtl_jax.weights import expected_tensors, transfer
from tests.weights import authors_layout


def pytorch():
  return authors_layout.pytorch(divisor=80)


def tensorflow():
  return authors_layout.flat_tensorflow(width=2)


def refused(tensors, format):
  with pytest.raises(ValueError) as error:
    transfer.from_authors(tensors, format)
  assert '\n' not in str(error.value) and len(str(error.value)) < 700
  return str(error.value)


@pytest.mark.parametrize('format, key, shape', [
    ('pytorch', 'conv1.weight', (80, 3, 3, 3)),
    ('tensorflow', 'weights/block1_conv1', (3, 3, 3, 64))])
def test_published_widths_are_recognised(format, key, shape):
  """Without the tensors of full size, which take a second."""
  assert 'width' not in expected_tensors.network_options({key: np.zeros(shape)}, format)


def test_the_file_of_another_network_names_what_is_missing_and_unexpected():
  resnet18 = {'conv1.weight': np.zeros((64, 3, 7, 7)), 'fc.weight': np.zeros((10, 512))}
  message = refused(resnet18, 'pytorch')
  assert ("expected the authors' pre-trained resnet25 (pytorch), got another network" in message)
  assert 'missing: conv1.bias, bn1.weight, bn1.bias and ' in message
  assert 'unexpected: fc.weight' in message
  message = refused(pytorch(), 'tensorflow')
  assert 'missing: weights/block1_conv1, ' in message
  assert 'unexpected: base_learner.fc1_b, ' in message
  tensors = tensorflow()
  del tensors['fc_weights/b5']
  assert 'meta-trained resnet12 (tensorflow)' in refused(tensors, 'tensorflow')
  assert 'missing: fc_weights/b5; unexpected: none' in refused(tensors, 'tensorflow')


@pytest.mark.parametrize('key, change, says', [
    ('encoder.layer2.0.conv1.weight', lambda x: x[:, :1],
     'of shape (4, 2, 3, 3), got (4, 1, 3, 3)'),
    ('encoder.conv1.weight', lambda x: x[0],
     'to be the kernel of a convolution, got shape (3, 3, 3)'),
    ('encoder.conv1.weight', lambda x: x[:0],
     'to be the kernel of a convolution, got shape (0, 3, 3, 3)'),
    ('encoder.bn1.bias', lambda x: x.astype(np.int64),
     'to hold floating-point numbers, got int64'),
    ('encoder.bn1.bias', lambda x: x * np.nan, 'to hold finite numbers'),
    ('encoder.bn1.running_var', lambda x: -x, 'and variances of at least 0'),
    ('encoder.bn1.bias', lambda x: x.astype(np.float64) + 1e300, 'to hold finite numbers'),
    ('base_learner.fc1_w', lambda x: x + 1,
     'to equal base_learner.vars.0, of which it is another name'),
])
@pytest.mark.filterwarnings('error')
def test_tensors_that_do_not_fit(key, change, says):
  tensors = pytorch()
  tensors[key] = change(tensors[key])
  message = refused(tensors, 'pytorch')
  assert says in message
  assert key.removeprefix('encoder.') in message or 'base_learner' in message
