"""Files as NumPy writes them, of any header and content."""
import pathlib
import struct

import numpy as np

PYTHON2 = pathlib.Path(__file__).parents[1] / 'golden' / 'weights' / 'python2.npy'
ARRAYS = {
    'block1_conv1': (np.arange(48, dtype=np.float32) / 8).reshape(2, 2, 3, 4),
    'block1_bias1': np.arange(4, dtype=np.float32) - 1,
    'w5': np.asfortranarray(np.arange(20, dtype=np.float64).reshape(4, 5)),
    'big': np.arange(600, dtype=np.float32),  # longer than what is read rather than mapped
}
BOXED = "{'descr': '|O', 'fortran_order': False, 'shape': ()}"
PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': %s}"


def save(path, content):
  """Writes any object as np.save does."""
  np.save(path, np.array(content, object), allow_pickle=True)
  return path


def boxed(tmp_path, pickled, header=BOXED):
  """Writes a pickle behind a header of one object."""
  path = tmp_path / 'file.npy'
  start = b'\x93NUMPY\1\0' + struct.pack('<H', len(header) + 1)
  path.write_bytes(start + header.encode() + b'\n' + pickled)
  return path


def array_file(header, content=b''):
  """Returns the bytes of one plain array, whatever its header says."""
  header = header.encode() + b'\n'
  return b'\x93NUMPY\1\0' + struct.pack('<H', len(header)) + header + content
