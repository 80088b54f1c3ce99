"""Writing and reading of exported files, of either ending."""
import os
from collections.abc import Callable
from typing import Any

import jax

from mtl_jax import backbones
from mtl_jax.exports import about as about_file
from mtl_jax.exports import jax_file, onnx_file
from mtl_jax.exports.loaded import Exported
from mtl_jax.exports.program import Conv, Program
from mtl_jax.runs import new_files, workdirs

# Ending -> (how the network convolves there, what makes the content of the file).
_FORMATS: dict[str, tuple[Conv, Callable[[Program], bytes]]] = {
    '.bin': (backbones.conv_by_platform, jax_file.encode),
    '.onnx': (jax.lax.conv_general_dilated, onnx_file.encode),
}


def write(make: Callable[[Conv], Program], path: str | os.PathLike, *, overwrite: bool = False
          ) -> int:
  """Exports a program: all of the file or nothing.

  Args:
    make: how its network convolves -> the program.
    path: of the file: `.bin` for jax, `.onnx` for ONNX's runtimes.
    overwrite: replace a file that is there.

  Returns:
    Its size in bytes.

  Raises:
    ValueError: another ending, a file that is there, or a package that is missing.
    OSError: it cannot be written.
  """
  check_place(path, overwrite=overwrite)
  conv, encode = _FORMATS[_ending(path)]
  content = encode(make(conv))
  folder, name = os.path.split(os.path.abspath(path))
  workdirs.write_file(folder, name, content)
  return len(content)


def check_place(path: str | os.PathLike, *, overwrite: bool = False) -> None:
  """Refuses a place that `write` could not write to, before anything is computed for it.

  Args:
    path: as in `write`.
    overwrite: as in `write`.

  Raises:
    ValueError, OSError: another ending, a package that is missing, or as `new_files.check_place`.
  """
  if _ending(path) == '.onnx':
    onnx_file.check_installed('jax2onnx')
  new_files.check_place(path, overwrite=overwrite)


def load(path: str | os.PathLike) -> Exported:
  """Reads an exported file, to be run here.

  Args:
    path: of a `.bin` or an `.onnx`.

  Returns:
    An Exported.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is damaged, of another version or ending, or a package is missing.
  """
  path = _found(path)
  if _ending(path) == '.bin':
    return Exported.of_jax(path, jax_file.decode(path))
  return Exported.of_onnx(path, *onnx_file.session(path))


def describe(path: str | os.PathLike) -> list[tuple[str, str]]:
  """Returns what a file says of itself, for people: (what, value).

  Args:
    path: as `load` takes it.

  Raises:
    FileNotFoundError, ValueError: as `load`.
  """
  path = _found(path)
  about: dict[str, Any] = (jax_file.read_about(path) if _ending(path) == '.bin' else
                           onnx_file.session(path)[0])
  return about_file.facts(about)


def _found(path):
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{os.fspath(path)} does not exist: expected a file of mtl export')
  return os.fspath(path)


def _ending(path):
  ending = os.path.splitext(path)[1].lower()
  if ending not in _FORMATS:
    raise ValueError(f'expected an exported file to end in {" or ".join(_FORMATS)}, got '
                     f'{os.fspath(path)}')
  return ending
