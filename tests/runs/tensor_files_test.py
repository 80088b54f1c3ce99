"""Trees as safetensors files: every bit comes back, every damage is refused in one line."""
import os
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from mtl_jax.runs import tensor_files
from tests.runs.toy_states import assert_same, make_state


@pytest.fixture
def written(tmp_path):
  """(path, its SHA-256, shapes) of a state of several shapes and dtypes."""
  path = tmp_path / 'state.safetensors'
  return path, tensor_files.write(path, make_state(1)), jax.eval_shape(lambda: make_state(1))


def refused(path, like=None, sha=None, *says):
  with pytest.raises(ValueError) as error:
    tensor_files.read(path, like, sha)
  message = str(error.value)
  assert message.startswith(str(path)) and '\n' not in message
  for text in says:
    assert text in message


def test_a_state_comes_back_bitwise(written):
  path, sha, like = written
  assert_same(tensor_files.read(path, like, sha), make_state(1))
  assert sha == tensor_files.sha256(path.read_bytes())
  assert tensor_files.write(path, make_state(1)) == sha  # the same tree, the same file


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float32', 'int8', 'int32', 'uint32',
                                   'bool'])
def test_every_dtype_keeps_its_bits(tmp_path, dtype):
  bits = np.random.default_rng(0).integers(0, 2, 64) if dtype == 'bool' else np.arange(64) - 9
  tree = {'é.a': bits.astype(jnp.dtype(dtype)), 'scalar': np.array(3).astype(jnp.dtype(dtype)),
          'none': np.zeros((0, 4), jnp.dtype(dtype)),
          'transposed': np.arange(6.0).reshape(2, 3).T}
  tensor_files.write(tmp_path / 'file', tree)
  assert_same(tensor_files.read(tmp_path / 'file', jax.tree.map(np.zeros_like, tree)), tree)


def test_another_byte_order_keeps_its_numbers(tmp_path):
  tensor_files.write(tmp_path / 'file', {'a': np.arange(3, dtype='>i4')})
  assert_same(tensor_files.read(tmp_path / 'file'), {'a': np.arange(3, dtype='int32')})


def test_any_changed_byte_is_refused(written):
  path, sha, like = written
  content = path.read_bytes()
  for position in range(0, len(content), 7):
    path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1:])
    refused(path, like, sha, 'is damaged')


def test_without_a_known_checksum_that_of_the_header_counts(written):
  path, _, like = written
  content = path.read_bytes()
  header = 8 + struct.unpack_from('<Q', content)[0]
  for position in (0, 3, 9, header, (header + len(content)) // 2, len(content) - 1):
    path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1:])
    refused(path, like)


@pytest.mark.parametrize('size', [0, 5, 8, 100, -1])
def test_a_file_that_was_cut_off_is_refused(written, size):
  path, sha, like = written
  os.truncate(path, size if size >= 0 else path.stat().st_size - 1)
  refused(path, like, sha, 'is damaged: it is not what was written')
  refused(path, like, None, 'is damaged: it is cut off, or no .safetensors')


@pytest.mark.parametrize(('change', 'says'), [
    (lambda tree: tree.pop('b'), 'b: file no such leaf, expected (2)'),
    (lambda tree: tree.update(c=np.zeros(2)), 'c: file (2), expected no such leaf'),
    (lambda tree: tree.update(b=np.zeros(3, np.float32)), 'b: file (3), expected (2)'),
    (lambda tree: tree.update(b=np.zeros(2)), 'b: file float64 (2), expected float32 (2)')])
def test_other_tensors_than_expected_are_named(tmp_path, change, says):
  like = {'a': np.zeros(1, np.float32), 'b': np.zeros(2, np.float32)}
  tree = dict(like)
  change(tree)
  sha = tensor_files.write(tmp_path / 'file', tree)
  refused(tmp_path / 'file', like, sha, f'has other arrays than expected: {says}')


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_what_is_not_finite_is_neither_written_nor_read(tmp_path, value, dtype, monkeypatch):
  tree = {'a': np.array([1, value], jnp.dtype(dtype))}
  with pytest.raises(ValueError, match='leaf a is not finite: nothing is written to .*file'):
    tensor_files.write(tmp_path / 'file', tree)
  assert not os.listdir(tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(tensor_files, '_is_finite', lambda array: True)
    tensor_files.write(tmp_path / 'file', tree)
  refused(tmp_path / 'file', tree, None, 'is damaged: tensor a is not finite')


def test_files_of_others_are_refused(tmp_path):
  path = tmp_path / 'file'
  with pytest.raises(FileNotFoundError, match='file is missing: expected a file of tensors'):
    tensor_files.read(path)
  path.write_bytes(safetensors.numpy.save({'a': np.zeros(2)}))
  refused(path, None, None, 'is damaged: its numbers are not those of its data_sha256')
  header = b'["not", "a", "header"]'
  path.write_bytes(struct.pack('<Q', len(header)) + header)
  refused(path, None, None, 'is damaged')
  with pytest.raises(ValueError, match='leaf a has dtype complex64, which .*file cannot hold'):
    tensor_files.write(path, {'a': np.zeros(2, np.complex64)})


def test_a_write_that_fails_leaves_the_earlier_file(written, monkeypatch):
  path, sha, like = written
  monkeypatch.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(OSError(28, 'No space left')))
  with pytest.raises(OSError, match=f'could not write {path}: No space left'):
    tensor_files.write(path, make_state(2))
  assert_same(tensor_files.read(path, like, sha), make_state(1))
  assert os.listdir(path.parent) == [path.name]
