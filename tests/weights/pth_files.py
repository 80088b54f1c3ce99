"""Files as PyTorch writes them, of our own making, opcode by opcode."""
import pickle
import struct
import zipfile

import numpy as np


def op(value):
  return pickle.dumps(value, 2)[2:-1]


def tensor(offset=0, shape=(2, 3), stride=(3, 1), size=6, key='0', kind='FloatStorage', view=b''):
  storage = b'(' + op('storage') + f'ctorch\n{kind}\n'.encode() + op(key) + op('cpu') + op(size) + view + b'tQ'
  return (b'ctorch._utils\n_rebuild_tensor_v2\n(' + storage + op(offset) + op(shape) + op(stride) +
          b'\x89ccollections\nOrderedDict\n)RtR')


def named(**values):
  return b'\x80\x02}(' + b''.join(op(name) + value for name, value in values.items()) + b'u.'


NUMBERS = np.arange(6, dtype='<f4')
SOUND = named(w=tensor())


def write_zip(tmp_path, pickled, storages=None, compression=zipfile.ZIP_STORED, folder='archive', **more):
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
  path = tmp_path / 'file.pth'
  head = [pickle.dumps(value, 2) for value in (0x1950a86a20f9469cfc6c, version, {'little_endian': True})]
  counts = b''.join(struct.pack('<q', count) for count in counts)
  path.write_bytes(b''.join(head) + pickled + pickle.dumps(list(keys), 2) + counts + content)
  return path


def save(tmp_path, tensors, *, legacy=False):
  """A checkpoint of float32 and int64 arrays under 'params', as the authors' trainers save it."""
  kinds = {'f4': 'FloatStorage', 'i8': 'LongStorage'}
  pickled, contents = {}, {}
  for i, (name, array) in enumerate(tensors.items()):
    stride = tuple(int(np.prod(array.shape[axis + 1:])) for axis in range(array.ndim))
    pickled[name] = tensor(0, array.shape, stride, array.size, str(i), kinds[array.dtype.str[1:]],
                           view=b'N' if legacy else b'')
    contents[str(i)] = array.astype(array.dtype.newbyteorder('<')).tobytes()
  pickled = named(params=named(**pickled)[2:-1])
  if not legacy:
    return write_zip(tmp_path, pickled, contents)
  counts = [struct.pack('<q', array.size) for array in tensors.values()]
  return write_legacy(tmp_path, pickled, list(contents), (), b''.join(map(bytes.__add__, counts, contents.values())))
