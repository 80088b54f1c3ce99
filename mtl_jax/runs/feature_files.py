"""Features of images as a file: `.npz` for NumPy, `.parquet` for tables."""
import io
import os
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np

from mtl_jax.runs import new_files, workdirs

ENDINGS = ('.npz', '.parquet')


def check(path: str | os.PathLike) -> None:
  """Refuses a place that `write` could not write to, before anything is computed for it.

  Args:
    path: as in `write`.

  Raises:
    ValueError, OSError: another ending, pyarrow is missing for `.parquet`, or as
      `new_files.check_place`.
  """
  ending = os.path.splitext(path)[1]
  if ending not in ENDINGS:
    raise ValueError(f'expected the file to end in {" or ".join(ENDINGS)}, got {path}')
  new_files.check_place(path)
  if ending == '.parquet':
    _pyarrow()


def write(path: str | os.PathLike, paths: Sequence[str], features: np.ndarray) -> None:
  """Writes one row per image: all of it or nothing.

  Args:
    path: of a new file, `.npz` (arrays `paths` and `features`) or `.parquet` (columns `path`, and
      `features` as lists).
    paths: n, of the images.
    features: float32 [n, d].

  Raises:
    ValueError: as `check`.
    OSError: it cannot be written.
  """
  check(path)
  content = io.BytesIO()
  if os.fspath(path).endswith('.npz'):
    _write_npz(content, {'paths': np.asarray(paths), 'features': features})
  else:
    pyarrow, parquet = _pyarrow()
    rows = pyarrow.FixedSizeListArray.from_arrays(features.reshape(-1), features.shape[1])
    parquet.write_table(pyarrow.table({'path': list(paths), 'features': rows}), content)
  folder, name = os.path.split(os.path.abspath(path))
  workdirs.write_file(folder, name, content.getvalue())


def _write_npz(content: io.BytesIO, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes arrays as np.savez does, which fails where the clock stands before 1980."""
  with zipfile.ZipFile(content, 'w') as archive:
    for name, array in arrays.items():
      with archive.open(zipfile.ZipInfo(f'{name}.npy'), 'w', force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _pyarrow():
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError(f'a .parquet file needs pyarrow: pip install pyarrow, or write .npz ({error})'
                     ) from error
  return pyarrow, parquet
