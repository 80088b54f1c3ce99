"""Zip archives that may be hostile: nothing is extracted, and nothing grows beyond what was announced and allowed."""
import zipfile

from mtl_jax.untrusted.unpickler import Refused


def entries(archive: zipfile.ZipFile, most: int, deflated: bool) -> dict[str, zipfile.ZipInfo]:
  """What lies in an archive, by name.

  Args:
    archive: the archive.
    most: bytes that all entries together may have.
    deflated: whether entries may be compressed.

  Returns:
    Name -> entry, in the order of the archive.

  Raises:
    Refused: two entries have one name, are compressed otherwise, or are larger.
  """
  found: dict[str, zipfile.ZipInfo] = {}
  for info in archive.infolist():
    if info.filename in found:
      raise Refused(f'two entries named {info.filename[:100]!r}')
    if info.compress_type != zipfile.ZIP_STORED and not (deflated and info.compress_type == zipfile.ZIP_DEFLATED):
      raise Refused(f'a compressed entry, {info.filename[:100]!r}')
    found[info.filename] = info
  total = sum(info.file_size for info in found.values())
  if total > most:
    raise Refused(f'entries that announce {total} bytes in all, more than {most}')
  return found


def content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
  """The bytes of an entry, their checksum checked, no more than it announces: `archive.read` may inflate 2 GB first.

  Raises:
    Refused: there are fewer or other bytes.
  """
  with archive.open(info) as file:
    found = file.read(info.file_size)
  if len(found) != info.file_size:
    raise Refused(f'{len(found)} bytes in the entry {info.filename[:100]!r}, which announces {info.file_size}')
  return found
