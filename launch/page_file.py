"""The page that a command ends with: what is cheap to show, unless more is asked for."""
import os
from collections.abc import Callable, Sequence

import jax
from absl import logging
from absl.flags import FlagValues

from mtl_jax import pages
from mtl_jax.runs import hosts

from .flags.declared import Flag
from .reproduction import paper

FULL = 'full'
_NAME = 'page.html'  # in a work directory

Make = Callable[[str, bool], pages.Written]  # (file, whether with images) -> what is in it


def page(place: str) -> Flag:
  """Declares the flag of the page.

  Args:
    place: where it is written by default, in words.
  """
  return Flag('page', f'A page to look at, {place}, of what is known without further work; full, '
              'or another FILE: of all that mtl page shows, which takes longer; --nopage: none.',
              bool | str, shown=f'{FULL}|FILE.html')


def check(values: FlagValues, *, overwrite: bool = False) -> None:
  """Refuses a place that could not be written to, before anything is computed for it.

  Args:
    values: parsed flags; that of `page`.
    overwrite: replace a file that is there.

  Raises:
    ValueError: another ending, a file that is there, or several processes.
    OSError: a folder that is not there, or not writable.
  """
  if not isinstance(values.page, str):
    return
  if jax.process_count() > 1:
    raise ValueError('--page is for one process: call mtl page when the run is finished')
  if values.page != FULL:
    pages.check_place(values.page, overwrite=overwrite)


def write(values: FlagValues, runs: Sequence[str | os.PathLike], workdir: str,
          cache_dir: str | None = None) -> None:
  """Writes the page of some runs, unless none is wanted.

  Args:
    values: parsed flags; that of `page`.
    runs: their work directories.
    workdir: where the page lies by default; an earlier one there is replaced.
    cache_dir: of decoded images.
  """
  place = os.path.join(workdir, _NAME)
  make(values, place, lambda out, images: pages.write(
      runs, out, published=paper.rows_of, images=images, cache_dir=cache_dir,
      overwrite=out == place))


def make(values: FlagValues, place: str | None, work: Make) -> None:
  """Makes the page that the flag asks for, and says where it is.

  Nobody has asked for the page that is written by default: what is wrong with it is a warning.

  Args:
    values: parsed flags; that of `page`.
    place: where it lies by default; None where there is no such place.
    work: makes it.

  Raises:
    ValueError, OSError: of `work`, where the flag was given.
  """
  asked = isinstance(values.page, str)
  out = values.page if asked and values.page != FULL else place
  if values.page is False or out is None or not hosts.is_first():
    return
  try:
    written = work(out, asked)
  except (ValueError, OSError) as error:
    if values.page is not None:
      raise
    logging.warning('no page was written: %s', error)
    return
  if asked:
    show(out, written)
  else:
    print(f'page: {out}')


def show(out: str, written: pages.Written) -> None:
  """Says what a page shows, and what it could not.

  Args:
    out: the file.
    written: what is in it.
  """
  for line in written.missing:
    print(f'left out: {line}')
  print(f'page written to {out}, {written.size / 1e6:.2f} MB: {", ".join(written.sections)}')
