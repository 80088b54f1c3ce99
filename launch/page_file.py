"""The page that a command ends with where --page names a file."""
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from absl.flags import FlagValues

from mtl_jax import pages

from .flags.declared import Flag
from .reproduction import paper

PAGE = Flag('page', 'Also write a page to look at, .html, as mtl page does.', Path, shown='FILE')


def check(values: FlagValues, *, overwrite: bool = False) -> None:
  """Refuses a place that could not be written to, before anything is computed for it.

  Args:
    values: parsed flags; PAGE.
    overwrite: replace a file that is there.

  Raises:
    ValueError: another ending, a file that is there, or several processes.
    OSError: a folder that is not there, or not writable.
  """
  if values.page is None:
    return
  if jax.process_count() > 1:
    raise ValueError('--page is for one process: call mtl page when the run is finished')
  pages.check_place(values.page, overwrite=overwrite)


def write(values: FlagValues, runs: Sequence[str | os.PathLike], cache_dir: str | None = None
          ) -> None:
  """Writes the page of some runs, where one is asked for.

  Args:
    values: parsed flags; PAGE.
    runs: their work directories.
    cache_dir: of decoded images.
  """
  if values.page is not None:
    show(values.page, pages.write(runs, values.page, published=paper.rows_of,
                                  cache_dir=cache_dir))


def show(out: str, written: pages.Written) -> None:
  """Says what a page shows, and what it could not.

  Args:
    out: the file.
    written: what is in it.
  """
  for line in written.missing:
    print(f'left out: {line}')
  print(f'page written to {out}, {written.size / 1e6:.2f} MB: {", ".join(written.sections)}')
