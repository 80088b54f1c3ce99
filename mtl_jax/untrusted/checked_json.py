"""JSON with a checksum of its content, so that damage is found and named.

An object carries `checksum` beside what it holds. One without it is taken as it is: an earlier
version wrote it, or a person has changed it and taken that line out.
"""
import hashlib
import json
from collections.abc import Mapping
from typing import Any

CHECKSUM = 'checksum'


def dump(content: Mapping[str, Any], *, indent: int | None = 2) -> bytes:
  """Returns an object as a JSON text with its checksum, and a line break.

  Args:
    content: values that JSON can hold.
    indent: as in `json.dumps`; None for a single line.
  """
  plain = json.loads(json.dumps(content))  # with texts as keys, and without tuples
  return (json.dumps(plain | {CHECKSUM: checksum(plain)}, indent=indent) + '\n').encode()


def load(text: bytes, path: str) -> dict[str, Any]:
  """Returns the object of a JSON text, without its checksum.

  Args:
    text: what `dump` returned, or any bytes.
    path: of the file, for the message.

  Raises:
    ValueError: it is damaged.
  """
  try:
    content = json.loads(text)
  except (ValueError, RecursionError) as error:  # RecursionError: thousands of open brackets
    raise ValueError(f'{path} is damaged: expected a JSON object ({error}); remove or restore '
                     'it') from error
  if not isinstance(content, dict):
    raise ValueError(f'{path} is damaged: expected a JSON object, found {type(content).__name__}; '
                     'remove or restore it')
  found = content.pop(CHECKSUM, None)
  if found is not None and found != checksum(content):
    raise ValueError(f'{path} is damaged: its content is not what was written; restore it, or take '
                     f'its line "{CHECKSUM}" out if it was changed by hand')
  return content


def checksum(content: Mapping[str, Any]) -> str:
  """Returns a checksum of an object, whatever the order of its keys.

  Args:
    content: as JSON gives it back.
  """
  text = json.dumps(content, sort_keys=True).encode()
  return hashlib.blake2b(text, digest_size=8).hexdigest()
