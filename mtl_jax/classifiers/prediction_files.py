"""Predictions as a table: CSV, or a line of JSON for each photo."""
import csv
import io
import json
import os
from collections.abc import Sequence

from mtl_jax.classifiers.classifier import Prediction
from mtl_jax.runs import new_files, workdirs

ENDINGS = ('.csv', '.jsonl')
NONE = 'none of these'  # the label of what was rejected
_COLUMNS = ('file', 'label', 'most_probable', 'probability', 'runner_up', 'runner_up_probability',
            'rejected')


def check(path: str | os.PathLike, *, overwrite: bool) -> None:
  """Refuses a place that `write` could not write to, before anything is computed for it.

  Args:
    path: as in `write`.
    overwrite: replace a file that is there.

  Raises:
    ValueError, OSError: another ending, or as `new_files.check_place`.
  """
  if not os.fspath(path).endswith(ENDINGS):
    raise ValueError(f'expected the file of predictions to end in {" or ".join(ENDINGS)}, got '
                     f'{path}')
  new_files.check_place(path, overwrite=overwrite)


def write(path: str | os.PathLike, predictions: Sequence[Prediction], *,
          overwrite: bool = False) -> None:
  """Writes a row for each photo: all of them or nothing.

  Args:
    path: `.csv` or `.jsonl`.
    predictions: of `Classifier.classify`.
    overwrite: replace a file that is there.

  Raises:
    ValueError, OSError: as `check`, or it cannot be written.
  """
  check(path, overwrite=overwrite)
  text = as_csv(predictions) if os.fspath(path).endswith('.csv') else as_lines(predictions)
  folder, name = os.path.split(os.path.abspath(path))
  workdirs.write_file(folder, name, text.encode())


def as_csv(predictions: Sequence[Prediction]) -> str:
  """Returns the rows with a header; `label` of what was rejected is NONE.

  Args:
    predictions: of `Classifier.classify`.
  """
  content = io.StringIO()
  writer = csv.writer(content, lineterminator='\n')
  writer.writerow(_COLUMNS)
  writer.writerows(_row(found).values() for found in predictions)
  return content.getvalue()


def as_lines(predictions: Sequence[Prediction]) -> str:
  """Returns an object of JSON for each photo, with the same columns.

  Args:
    predictions: of `Classifier.classify`.
  """
  return ''.join(json.dumps(_row(found), ensure_ascii=False) + '\n' for found in predictions)


def _row(found: Prediction) -> dict[str, str | float | bool]:
  values = (found.photo, NONE if found.rejected else found.label, found.label,
            round(found.probability, 4), found.runner_up, round(found.runner_up_probability, 4),
            found.rejected)
  return dict(zip(_COLUMNS, values, strict=True))
