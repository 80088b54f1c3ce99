"""Zip archives that may be hostile: their entries, no larger than announced and allowed."""
import zipfile

from mtl_jax.untrusted.unpickler import Refused


def entries(archive: zipfile.ZipFile, most: int, deflated: bool) -> dict[str, zipfile.ZipInfo]:
  """Lists what lies in an archive, and refuses what no sound archive holds.

  Args:
    archive: an open archive.
    most: bytes that all entries together may announce.
    deflated: whether entries may be compressed.

  Returns:
    Name -> entry, in the order of the archive.

  Raises:
    Refused: two entries have the same name, one is compressed otherwise, or all of them together
      announce more than `most`.
  """
  found: dict[str, zipfile.ZipInfo] = {}
  allowed = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} if deflated else {zipfile.ZIP_STORED}
  for info in archive.infolist():
    if info.filename in found:
      raise Refused(f'two entries named {info.filename[:100]!r}')
    if info.compress_type not in allowed:
      raise Refused(f'a compressed entry, {info.filename[:100]!r}')
    found[info.filename] = info
  total = sum(info.file_size for info in found.values())
  if total > most:
    raise Refused(f'entries that announce {total} bytes in all, more than {most}')
  return found


def content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
  """Reads the bytes of an entry, no more than it announces, and checks their checksum.

  `archive.read` would not do: it may inflate 2 GB before it finds that they are too many.

  Args:
    archive: an open archive.
    info: the entry, one of `entries`.

  Raises:
    Refused: the entry holds fewer bytes, or is neither stored nor deflated.
    zipfile.BadZipFile: the checksum is that of other bytes.
  """
  if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
    raise Refused(f'an entry {info.filename[:100]!r} that is compressed in another way than zip '
                  'files usually are')
  with archive.open(info) as file:
    found = file.read(info.file_size)
  if len(found) != info.file_size:
    raise Refused(f'{len(found)} bytes in the entry {info.filename[:100]!r}, which announces '
                  f'{info.file_size}')
  return found
