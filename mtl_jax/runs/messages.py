"""Plain values and arrays as bytes, to be sent to other processes: nothing in them can be run.

A message is the length of its JSON text, that text, and the memory of its arrays one after the
other. Where JSON has no form of its own, the text has an object of one key.
"""
import json
import struct
from typing import Any

import jax.numpy as jnp
import numpy as np

_LENGTH = struct.Struct('<Q')
_TUPLE, _ARRAY, _DICT = 'tuple', 'array', 'dict'


def encode(value: Any) -> bytes:
  """Returns a value as bytes.

  Args:
    value: None, bools, numbers, texts, NumPy arrays; lists, tuples and dicts (by texts) of these.

  Raises:
    TypeError: anything else.
  """
  arrays: list[np.ndarray] = []
  text = json.dumps(_plain(value, arrays)).encode()
  return b''.join([_LENGTH.pack(len(text)), text, *(array.tobytes() for array in arrays)])


def decode(message: bytes) -> Any:
  """Returns the value of a message, bit for bit; NamedTuples come back as tuples.

  Args:
    message: of `encode`.
  """
  [length] = _LENGTH.unpack_from(message)
  start = _LENGTH.size + length
  return _value(json.loads(message[_LENGTH.size:start]), memoryview(message)[start:], [0])


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
  if value is None or isinstance(value, (bool, int, float, str)):
    return value
  if isinstance(value, (np.ndarray, np.generic)):
    array = np.asarray(value)
    if array.dtype.hasobject:
      raise TypeError(f'expected an array of numbers to send, got {array.dtype}')
    arrays.append(array)
    return {_ARRAY: [array.dtype.name, list(array.shape)]}
  if isinstance(value, (list, tuple)):
    found = [_plain(each, arrays) for each in value]
    return {_TUPLE: found} if isinstance(value, tuple) else found
  if isinstance(value, dict) and all(isinstance(key, str) for key in value):
    return {_DICT: [[key, _plain(each, arrays)] for key, each in value.items()]}
  raise TypeError(f'expected plain values and arrays to send, got {type(value).__name__}')


def _value(plain: Any, memory: memoryview, place: list[int]) -> Any:
  if isinstance(plain, list):
    return [_value(each, memory, place) for each in plain]
  if not isinstance(plain, dict):
    return plain
  [(kind, found)] = plain.items()
  if kind == _TUPLE:
    return tuple(_value(each, memory, place) for each in found)
  if kind == _DICT:
    return {key: _value(each, memory, place) for key, each in found}
  name, shape = found
  dtype = jnp.dtype(name)
  size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
  data, place[0] = memory[place[0]:place[0] + size], place[0] + size
  return np.frombuffer(bytearray(data), dtype).reshape(shape)
