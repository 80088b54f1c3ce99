"""Writes a page to look at: curves, results, tasks, classes and photos of runs, in one HTML file.

RUN is the work directory of any run, finished or not, or a classifier that was saved (.mtl);
several are shown together. A training brings its meta-tests, a quickstart all its runs. The file
is opened from disk and needs nothing beside it.
"""
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax import pages

from . import adapt, command, page_file
from .flags.declared import Flag, Groups
from .flags.machine import COMPILE_CACHE
from .reproduction import paper

EXAMPLES = (
    ('A meta-training with its meta-tests:', 'runs/mtl --out=mtl.html'),
    ('Two meta-trainings over each other, and a classifier:',
     'runs/mtl runs/ft beetles.mtl --out=page.html'),
)
FLAGS: Groups = {
    'data': (Flag('run', 'As the first arguments: RUN [RUN ...], or separated by commas.', list,
                  shown='RUN', required=True),
             Flag('out', 'New file, .html.', Path, shown='FILE', required=True),
             adapt.OVERWRITE,
             Flag('images', 'Load the images of meta-tests, and answer some tasks again to show '
                  'them, the hardest classes, and a map of features.', bool, True),
             Flag('cache_dir', "Where decoded images are kept; by default the user's cache folder.",
                  Path, shown='DIR')),
    'machine': COMPILE_CACHE,
}


def run(values: FlagValues) -> None:
  """Writes the page.

  Args:
    values: parsed flags.
  """
  page_file.show(values.out, pages.write(
      values.run, values.out, published=paper.rows_of, images=values.images,
      cache_dir=values.cache_dir, overwrite=values.overwrite))


COMMAND = command.Command('page', __doc__, EXAMPLES, FLAGS, run, positional=('run',), several=True)

if __name__ == '__main__':
  command.start(COMMAND)
