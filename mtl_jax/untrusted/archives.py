"""Archives placed by hand: finding them, and reading members in memory, so that nothing is extracted."""
import lzma
import os
import pathlib
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence

import requests

CONNECT_SECONDS = 2.0


def find(data_dir: str | os.PathLike | None, names: Sequence[str]) -> pathlib.Path | None:
  """The first of `names` (files or folders) that lies in `data_dir`, or None.

  Raises:
    ValueError: If `data_dir` is given and not a folder.
  """
  if data_dir is None:
    return None
  root = pathlib.Path(data_dir)
  if not root.is_dir():
    raise ValueError(f"data_dir {root}: expected a folder, found {'a file' if root.exists() else 'nothing'}")
  return next((root / name for name in names if (root / name).exists()), None)


def files_of(source: pathlib.Path) -> list[pathlib.Path]:
  """The archive itself, or all files of an extracted folder."""
  return sorted(p for p in source.rglob('*') if p.is_file()) if source.is_dir() else [source]


def read_members(source: pathlib.Path, limits: Mapping[str, int]) -> dict[str, bytes]:
  """Reads files by their last name from a tar archive (.gz, .xz or plain) or a folder.

  Args:
    source: The archive, or the extracted folder.
    limits: Wanted file name -> the most bytes that it may have; a larger one is wrong or hostile.

  Returns:
    File name -> content, for every wanted name.

  Raises:
    ValueError: If the archive is truncated or damaged, or a member is missing or too large.
  """
  found = dict(_folder_members(source, limits) if source.is_dir() else _tar_members(source, limits))
  missing = [name for name in limits if name not in found]
  if missing:
    raise ValueError(f"{source}: expected the files {', '.join(limits)}; not found: {', '.join(missing)}")
  return found


def _folder_members(source: pathlib.Path, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
  for path in (source / name for name in limits):
    if path.is_file():
      _check_size(str(path), path.stat().st_size, limits[path.name])
      yield path.name, path.read_bytes()


def _tar_members(source: pathlib.Path, limits: Mapping[str, int]) -> Iterator[tuple[str, bytes]]:
  try:
    with tarfile.open(source, 'r|*') as tar:  # A stream: one pass, no seeking back in compressed data.
      for member in tar:
        name = pathlib.PurePosixPath(member.name).name
        if member.isfile() and name in limits:
          _check_size(f'{source}: {member.name}', member.size, limits[name])
          yield name, tar.extractfile(member).read()
  except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as e:
    raise ValueError(_broken(source, e)) from e


def read_pngs(source: pathlib.Path, limit: int) -> Iterator[tuple[pathlib.PurePosixPath, bytes]]:
  """Path and content of every .png of a zip archive or a folder, sorted by path.

  Args:
    source: The archive, or the extracted folder.
    limit: The most bytes that one file may have.

  Raises:
    ValueError: If the archive is truncated or damaged, or a member is too large.
  """
  if source.is_dir():
    for path in sorted(source.rglob('*.png')):
      _check_size(str(path), path.stat().st_size, limit)
      yield pathlib.PurePosixPath(path.relative_to(source).as_posix()), path.read_bytes()
    return
  try:
    with zipfile.ZipFile(source) as archive:
      for member in sorted(archive.infolist(), key=lambda m: m.filename):
        if member.filename.endswith('.png') and not member.filename.startswith('__MACOSX'):
          _check_size(f'{source}: {member.filename}', member.file_size, limit)
          yield pathlib.PurePosixPath(member.filename), archive.read(member)
  except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as e:
    raise ValueError(_broken(source, e)) from e


def _check_size(name: str, size: int, limit: int) -> None:
  if size > limit:
    raise ValueError(f'{name}: expected at most {limit} bytes, found {size}')


def _broken(source: pathlib.Path, error: Exception) -> str:
  return (f'{source}: expected a whole archive, found {source.stat().st_size} bytes, cut off or damaged '
          f'({error}); download or copy it again')


def check_reachable(url: str) -> None:
  """Fails within two seconds where a download would retry for minutes.

  Raises:
    ConnectionError: If `url` does not answer.
  """
  problems = ['no answer']

  def ask():
    try:
      with requests.get(url, stream=True, timeout=CONNECT_SECONDS) as response:
        problems[:] = [] if response.ok else [f'HTTP {response.status_code}']
    except requests.RequestException as e:
      problems[:] = [type(e).__name__]

  # A thread, since the look-up of a host's name has no timeout.
  thread = threading.Thread(target=ask, daemon=True)
  thread.start()
  thread.join(CONNECT_SECONDS)
  if problems:
    raise ConnectionError(f'{url} cannot be reached ({problems[0]})')
