"""Small files that claim, or unpack to, more than a machine has: refused without the memory."""
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtl_jax.data import division, image_files
from mtl_jax.untrusted import archives, numpy_pickles
from mtl_jax.weights import npy, pth, public_files
from tests.faults.damage import quiet
from tests.faults.tally import Tally

_REAL = 20_000     # side up to which all pixels of an image are there


def explode(folder: Path, much: int = 3 * 10**9) -> list[Tally]:
  """Reads each; the table says how long that took, and how much memory.

  Args:
    folder: an empty one.
    much: bytes of what archives unpack to; images that unpack to more are left out.
  """
  tally = Tally('bombs')
  for name, content, read in _bombs(much):
    path = folder / name
    path.write_bytes(content)
    with quiet():
      tally.read(name, lambda read=read, path=path: read(path), lambda _: True)
    path.unlink()
  return [tally]


def _bombs(much: int) -> Iterator[tuple[str, bytes, Callable[[Path], Any]]]:
  for side in (13_000, 60_000, 2**31 - 1):
    for depth, colours, channels in ((16, 0, 1), (8, 2, 3), (8, 6, 4)):
      if side > _REAL or side**2 * channels <= much:
        yield f'{side}_{depth}_{channels}.png', _png(side, depth, colours, channels), _image
  for kind in ('jpeg', 'gif', 'tiff', 'bmp'):
    yield f'large.{kind}', _with_sides(kind), _image
  yield 'much.zip', _zip(much), _pngs
  yield 'lies.zip', _lying(_zip(much), much), _pngs
  yield 'much.tar.gz', _tar(much, b'\0' * 10**6), _members
  yield 'says_much.tar.gz', _tar(2**40, b''), _members
  yield 'long.pkl', b'\x80\x04\x8e' + struct.pack('<Q', 2**40) + b'x', numpy_pickles.load
  yield 'laughs.pkl', _laughs(), numpy_pickles.load
  yield 'deep.pkl', b'(' * 10**6 + b'.', numpy_pickles.load
  yield 'number.pkl', b'\x80\x02\x8b' + struct.pack('<i', 10**8) + b'\x7f' * 10**6, \
      numpy_pickles.load
  yield 'shape.pkl', _array_pickle((2**40, 2**20)), numpy_pickles.load
  yield 'shape.npz', _npz((2**40, 2**20)), npy.read
  yield 'negative.npz', _npz((-1, 2**40)), npy.read
  yield 'zeros.npz', _npz((much,), b'\0' * 10**6, much // 10**6), npy.read
  yield 'header.safetensors', struct.pack('<Q', 2**40) + b'{}', public_files.read
  for shape in ([2**40, 2**20], [-1], [2**63]):
    header = {'a': {'dtype': 'F32', 'shape': shape, 'data_offsets': [0, 4]}}
    text = json.dumps(header).encode()
    yield f'{shape[0]}.safetensors', struct.pack('<Q', len(text)) + text + b'1234', \
        public_files.read
  yield 'deep.json', b'[' * 10**6, division.read_file
  yield 'number.json', b'{"train": ' + b'9' * 10**6 + b'}', division.read_file
  yield 'deep.pth', b'(' * 10**6 + b'.', pth.read


def _image(path: Path):
  return image_files.read_image(path, 32)


def _pngs(path: Path):
  return list(archives.read_pngs(path, 1000))


def _members(path: Path):
  return archives.read_members(path, {'a': 10_000})


def _png(side: int, depth: int, colours: int, channels: int) -> bytes:
  """Black pixels; of a side that cannot be meant only the first."""
  def chunk(name, data):
    return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

  rows, bytes_of_row = (side, 1 + side * channels * depth // 8) if side <= _REAL else (100, 100)
  packer, data = zlib.compressobj(1), b''
  for _ in range(rows):
    data += packer.compress(bytes(bytes_of_row))
  header = struct.pack('>IIBBBBB', side, side, depth, colours, 0, 0, 0)
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data + packer.flush())
          + chunk(b'IEND', b''))


def _with_sides(kind: str) -> bytes:
  """A small image whose header says 65,000 x 65,000."""
  content = io.BytesIO()
  Image.new('RGB', (300, 301)).save(content, kind)
  data = content.getvalue()
  for order in ('<', '>'):
    for width in ('H', 'I'):
      for side in (300, 301):
        data = data.replace(struct.pack(order + width, side), struct.pack(order + width, 65_000), 1)
  return data


def _zip(size: int) -> bytes:
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive, \
      archive.open('x/a.png', 'w', force_zip64=True) as member:
    for _ in range(size // 10**6):
      member.write(b'\0' * 10**6)
  return content.getvalue()


def _lying(content: bytes, size: int) -> bytes:
  """The directory of the archive says ten bytes."""
  return content.replace(struct.pack('<I', size), struct.pack('<I', 10))


def _tar(size: int, data: bytes) -> bytes:
  info, content = tarfile.TarInfo('a'), io.BytesIO()
  info.size = size
  packer = zlib.compressobj(1, wbits=31)
  content.write(packer.compress(info.tobuf(tarfile.GNU_FORMAT)))
  for _ in range(size // len(data) if data else 0):
    content.write(packer.compress(data))
  content.write(packer.flush())
  return content.getvalue()


def _laughs() -> bytes:
  """Thirty lists, each of the one before, ten times."""
  text = b'\x80\x02]q\x00'
  for level in range(30):
    ten = b''.join(b'h' + bytes([level]) for _ in range(10))
    text += b'](' + ten + b'eq' + bytes([level + 1])
  return text + b'.'


def _array_pickle(shape: tuple[int, ...]) -> bytes:
  """An array whose shape says more than its bytes."""
  content = pickle.dumps(np.zeros((3, 5), np.float64), 2)
  small = pickle.dumps((3, 5), 2)[2:-3]
  return content.replace(small, pickle.dumps(shape, 2)[2:-3])


def _npz(shape: tuple[int, ...], block: bytes = b'', blocks: int = 0) -> bytes:
  header = str({'descr': '|u1', 'fortran_order': False, 'shape': shape}).encode()
  header += b' ' * (118 - len(header)) + b'\n'
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive, \
      archive.open('a.npy', 'w', force_zip64=True) as member:
    member.write(b'\x93NUMPY\x01\x00' + struct.pack('<H', len(header)) + header)
    for _ in range(blocks):
      member.write(block)
  return content.getvalue()
