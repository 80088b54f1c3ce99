"""Tensors without a place are counted by kind, and one that matters does not hide among them."""
import numpy as np
import pytest

from mtl_jax.weights import left_out, transfer
from tests.weights import authors_layout

PRETRAINED = {'pre_fc.0.weight': np.ones((10, 8), np.float32),
              'pre_fc.0.bias': np.ones(10, np.float32), 'pre_fc.2.bias': np.ones(3, np.float32),
              'base_learner.vars.0': np.ones((5, 8), np.float32)}


@pytest.mark.parametrize('tensors, format, expected', [
    (authors_layout.pytorch(divisor=80), 'pytorch',
     'the second name of the base-learner (2 tensors), counters of batch norm (28 tensors)'),
    (authors_layout.pytorch(divisor=80, meta_trained=False) | PRETRAINED, 'pytorch',
     'a base-learner that was not trained (1 tensor), counters of batch norm (28 tensors), '
     'the classifier of the base classes (3 tensors)'),
    (authors_layout.flat_tensorflow(width=2), 'tensorflow',
     'the classifier of the base classes (2 tensors)'),
])
def test_what_an_import_leaves_out(tensors, format, expected):
  found = transfer.from_authors(tensors, format)
  assert left_out.describe(found.left_out) == expected
  keys = [key for same in found.left_out.values() for key in same]
  assert len(keys) == len(set(keys)) and set(keys) < set(tensors)


@pytest.mark.parametrize('format, key, meta_trained', [
    ('pytorch', 'encoder.layer1.0.conv3.weight', True), ('pytorch', 'base_learner.fc2_w', True),
    ('tensorflow', 'weights/block5_conv1', True), ('tensorflow', 'fc_weights/w6', True),
    ('tensorflow', 'ss_weights/w5', False), ('pytorch', 'num_batches_tracked', True)])
def test_other_tensors_are_of_no_known_kind(format, key, meta_trained):
  assert left_out.kind_of(format, key, meta_trained=meta_trained) is None


def test_statistics_are_left_out_where_their_files_have_none():
  assert left_out.kind_of_ours('tensorflow', 'batch_stats/block1/bn1/mean') is not None
  assert left_out.kind_of_ours('pytorch', 'batch_stats/stem_bn/mean') is None
  assert left_out.kind_of_ours('pytorch', 'params/stem/kernel') is None


def test_nothing_left_out_is_told_as_nothing():
  assert left_out.describe({}) == ''
