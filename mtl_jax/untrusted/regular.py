"""Paths that are to be read: plain files of a bounded size, and nothing that could hang."""
import os
import stat


def check(path: str | os.PathLike, most: int | None = None) -> None:
  """Refuses what is no regular file, such as a FIFO, a device or a folder; a missing one passes.

  Args:
    path: of what is going to be opened, which says itself that nothing is there.
    most: bytes that it may have; None for any number.

  Raises:
    ValueError: something else lies there, or a larger file.
  """
  try:
    found = os.stat(path)
  except OSError:
    return
  if not stat.S_ISREG(found.st_mode):
    kind = ('a folder' if stat.S_ISDIR(found.st_mode) else
            'a FIFO' if stat.S_ISFIFO(found.st_mode) else 'a device or socket')
    raise ValueError(f'{path}: expected a regular file, found {kind}')
  if most is not None and found.st_size > most:
    raise ValueError(f'{path}: expected a file of at most {most:,} bytes, found {found.st_size:,}')
