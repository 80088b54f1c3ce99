"""What an exported file says of itself, and what is refused by it."""
import json
from collections.abc import Mapping
from typing import Any

import mtl_jax
from mtl_jax.runs import workdirs
from mtl_jax.runs.finished import FinishedRun

FORMAT = 1  # of exported files; another one is refused
KEY = 'mtl_jax'  # the member of a .bin, and the property of an .onnx, that holds it as JSON


def of(run: FinishedRun, *, kind: str, num_classes: int | None, **head: Any) -> dict[str, Any]:
  """Returns what the file of a run says.

  Args:
    run: that is exported.
    kind: 'adapts' or 'classifies'.
    num_classes: N where it is fixed.
    **head: what its head is, and the names of its classes.
  """
  height, width, channels = run.backbone.image_shape
  return {'format': FORMAT, 'kind': kind, 'network': run.settings['backbone']['name'],
          'data': run.settings.get('dataset'), 'image_shape': [height, width, channels],
          'images': f'uint8 [n, {height}, {width}, {channels}], not normalised',
          'feature_dim': run.backbone.feature_dim, 'num_classes': num_classes, **head,
          'versions': workdirs.describe_machine()['versions'] | {'mtl_jax': mtl_jax.__version__}}


def parse(path: str, found: str | bytes | None) -> dict[str, Any]:
  """Reads what a file says of itself.

  Args:
    path: of the file, for messages.
    found: JSON, or None where the file says nothing.

  Raises:
    ValueError: it was not exported by this library, or by another version of it.
  """
  try:
    about = json.loads(found) if found is not None else None
  except (ValueError, RecursionError):
    about = None
  if not isinstance(about, dict):
    raise ValueError(f'{path}: expected a file that mtl export has written, got another one')
  if about.get('format') != FORMAT:
    raise ValueError(f'{path}: expected an export of format {FORMAT}, got {about.get("format")}: '
                     f'export it again with this version, mtl_jax {mtl_jax.__version__}')
  return about


def facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
  """Returns what to tell people of a file: (what, value).

  Args:
    about: of `parse`.
  """
  classes = about.get('classes')
  names = ', '.join(classes) if classes else 'any number'
  if not classes and about['num_classes']:
    names = f'{about["num_classes"]}, of any names'
  head = ', '.join(f'{name} {about[name]}' for name in ('strength', 'temperature', 'inner_steps')
                   if name in about)
  return [('network', f'{about["network"]} on {about["data"]}'),
          ('images', about['images']),
          ('classes', names),
          ('adapts', 'yes' if about['kind'] == 'adapts' else 'no, the classes are fixed'),
          ('head', f'{about["head"]} ({head})'),
          ('written by', ', '.join(f'{name} {version}'
                                   for name, version in about['versions'].items()))]
