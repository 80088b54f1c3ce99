"""The digest at the end of an `.onnx`, without onnx; `tests.check_onnx` reads whole files."""
import random

import pytest

from mtl_jax.exports import onnx_file


def test_what_was_written_is_taken_and_every_change_refused(tmp_path):
  draw, path = random.Random(0), tmp_path / 'x.onnx'
  content = draw.randbytes(500)
  whole = content + onnx_file._digest_of(content)
  path.write_bytes(whole)
  onnx_file._check(str(path))
  for place in (0, 250, 499, len(whole) - 1):
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1:])
    with pytest.raises(ValueError, match='x.onnx: damaged: it is not what was written'):
      onnx_file._check(str(path))
  for changed in (whole + b'12345678', whole[:-1], whole[7:], content[:400] + whole[450:]):
    path.write_bytes(changed)
    with pytest.raises(ValueError, match='x.onnx: damaged'):
      onnx_file._check(str(path))


def test_a_file_without_one_is_taken(tmp_path):
  path = tmp_path / 'x.onnx'
  path.write_bytes(b'of an earlier version')
  onnx_file._check(str(path))


def test_it_is_a_property_of_the_model():
  """Field 14 of a ModelProto, a message of length 50: key (field 1) and value (field 2)."""
  found = onnx_file._digest_of(b'x')
  assert found[:4] == bytes([14 << 3 | 2, 50, 1 << 3 | 2, 14])
  assert found[4:20] == b'mtl_jax_digest' + bytes([2 << 3 | 2, 32])
  assert len(found) == 52 and bytes.fromhex(found[20:].decode())
