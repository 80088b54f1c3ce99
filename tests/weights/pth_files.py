"""Files as PyTorch writes them, opcode by opcode, and what the golden files hold."""
import pathlib
import pickle
import struct
import zipfile
from typing import Any

import numpy as np

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'weights'
NETWORK = {  # each counts up from its place in the network
    'conv.weight': np.arange(24, dtype=np.float32).reshape(3, 2, 2, 2),
    'norm.weight': np.arange(1, 4, dtype=np.float32),
    'norm.bias': np.arange(2, 5, dtype=np.float32),
    'norm.running_mean': np.arange(3, 6, dtype=np.float32),
    'norm.running_var': np.arange(4, 7, dtype=np.float32),
    'norm.num_batches_tracked': np.array(5, np.int64),
}
MAGIC = 0x1950a86a20f9469cfc6c  # what the older format begins with
NUMBERS = np.arange(6, dtype='<f4')


def op(value):
  """Returns the opcodes that push a plain value."""
  return pickle.dumps(value, 2)[2:-1]  # without the protocol and the end


def tensor(offset: Any = 0, shape=(2, 3), stride=(3, 1), size=6, key: Any = '0',
           kind='FloatStorage', view=b''):
  """Returns the opcodes that push a tensor; its storage is named by `key`, of `size` elements."""
  storage = (b'(' + op('storage') + f'ctorch\n{kind}\n'.encode() + op(key) + op('cpu') + op(size)
             + view + b'tQ')
  return (b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + op(offset) + op(shape) + op(stride)
          + b'\x89ccollections\nOrderedDict\n)RtR')


def named(**values):
  """Returns a pickle of a dict of opcodes."""
  items = b''.join(op(name) + value for name, value in values.items())
  return b'\x80\x02}(' + items + b'u.'


def nested(**values):
  """Returns the opcodes that push such a dict."""
  return named(**values)[2:-1]


SOUND = named(w=tensor())


def write_zip(tmp_path, pickled, storages=None, compression=zipfile.ZIP_STORED, folder='archive',
              **more):
  """Writes the format of today; `more` are further entries."""
  path = tmp_path / 'file.pth'
  storages = {'0': NUMBERS.tobytes()} if storages is None else storages
  with zipfile.ZipFile(path, 'w', compression) as archive:
    archive.writestr(f'{folder}/data.pkl', pickled)
    for key, content in storages.items():
      archive.writestr(f'{folder}/data/{key}', content)
    for name, content in more.items():
      archive.writestr(f'{folder}/{name}', content)
  return path


def write_legacy(tmp_path, pickled, keys=('0',), counts=(6,), content=bytes(24), version=1001):
  """Writes the older format; `counts` stand before the content of the storages."""
  path = tmp_path / 'file.pth'
  head = [pickle.dumps(value, 2) for value in (MAGIC, version, {'little_endian': True})]
  announced = b''.join(struct.pack('<q', count) for count in counts)
  path.write_bytes(b''.join(head) + pickled + pickle.dumps(list(keys), 2) + announced + content)
  return path


def save(tmp_path, tensors, *, legacy=False):
  """Writes float32 and int64 arrays under 'params', as the authors' trainers save them."""
  kinds = {'f4': 'FloatStorage', 'i8': 'LongStorage'}
  pickled, contents = {}, {}
  for i, (name, array) in enumerate(tensors.items()):
    stride = tuple(int(np.prod(array.shape[axis + 1:])) for axis in range(array.ndim))
    pickled[name] = tensor(0, array.shape, stride, array.size, str(i), kinds[array.dtype.str[1:]],
                           view=b'N' if legacy else b'')
    contents[str(i)] = array.astype(array.dtype.newbyteorder('<')).tobytes()
  whole = named(params=nested(**pickled))
  if not legacy:
    return write_zip(tmp_path, whole, contents)
  counts = [struct.pack('<q', array.size) for array in tensors.values()]
  content = b''.join(map(bytes.__add__, counts, contents.values()))
  return write_legacy(tmp_path, whole, list(contents), (), content)
