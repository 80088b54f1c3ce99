"""Archives of data sets: their members are read into memory, and nothing is extracted."""
import pathlib
import tarfile
import zipfile
from collections.abc import Iterator, Mapping

from mtl_jax.untrusted import regular, zips


def read_members(source: pathlib.Path, limits: Mapping[str, int]) -> dict[str, bytes]:
  """Reads files by their last name from a tar archive (.gz, .xz or plain) or a folder.

  Args:
    source: the archive, or the extracted folder.
    limits: wanted file name -> the most bytes that it may have; a larger file is wrong or hostile.

  Returns:
    File name -> content, for every wanted name.

  Raises:
    ValueError: the archive is truncated or damaged, or a member is missing or too large.
  """
  found = dict(_folder_members(source, limits) if source.is_dir() else _tar_members(source, limits))
  missing = [name for name in limits if name not in found]
  if missing:
    raise ValueError(f"{source}: expected the files {', '.join(limits)}; not found: "
                     f"{', '.join(missing)}")
  return found


def _folder_members(source: pathlib.Path,
                    limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
  for path in (source / name for name in limits):
    if path.is_file():
      _check_size(str(path), path.stat().st_size, limits[path.name])
      yield path.name, path.read_bytes()


def _tar_members(source: pathlib.Path, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
  regular.check(source)
  try:
    with tarfile.open(source, 'r|*') as tar:  # A stream: no seeking back in compressed data.
      for member in tar:
        name = pathlib.PurePosixPath(member.name).name
        if member.isfile() and name in limits:  # Links are not files here, so none is followed.
          _check_size(f'{source}: {member.name}', member.size, limits[name])
          file = tar.extractfile(member)
          assert file is not None  # as of every regular file
          yield name, file.read()
  except (_TooLarge, MemoryError):
    raise
  except Exception as e:  # Damaged archives make the reader raise nearly anything.
    raise ValueError(_broken(source, e)) from e


def read_pngs(source: pathlib.Path, limit: int) -> Iterator[tuple[pathlib.PurePosixPath, bytes]]:
  """Reads every .png of a zip archive or a folder, in the order of their paths.

  Args:
    source: the archive, or the extracted folder.
    limit: the most bytes that a file may have.

  Yields:
    Path and content of a file.

  Raises:
    ValueError: the archive is truncated or damaged, or a member is too large.
  """
  if source.is_dir():
    for path in sorted(source.rglob('*.png')):
      _check_size(str(path), path.stat().st_size, limit)
      yield pathlib.PurePosixPath(path.relative_to(source).as_posix()), path.read_bytes()
    return
  regular.check(source)
  try:
    with zipfile.ZipFile(source) as archive:
      for member in sorted(archive.infolist(), key=lambda m: m.filename):
        # macOS adds a folder of files that are no images, whatever they are called.
        if member.filename.endswith('.png') and not member.filename.startswith('__MACOSX'):
          _check_size(f'{source}: {member.filename}', member.file_size, limit)
          yield pathlib.PurePosixPath(member.filename), zips.content(archive, member)
  except (_TooLarge, MemoryError):
    raise
  except Exception as e:  # as above
    raise ValueError(_broken(source, e)) from e


class _TooLarge(ValueError):
  """A member has more bytes than any of its kind."""


def _check_size(name: str, size: int, limit: int) -> None:
  if size > limit:
    raise _TooLarge(f'{name}: expected at most {limit} bytes, found {size}')


def _broken(source: pathlib.Path, error: Exception) -> str:
  return (f'{source}: expected a whole archive, found {source.stat().st_size} bytes, cut off or '
          f'damaged ({error}); download or copy it again')
