"""Shows what a run has learned, or where it stands.

DIR is the work directory of a pre-training, a meta-training or an import, or a folder with the
files of a model alone. The checksums of its files are compared.
"""
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax.runs import summaries, tables

from . import command
from .flags.declared import Flag, Groups

EXAMPLES = (
    ('A network that was meta-trained here:', 'runs/mtl'),
    ('A pre-training that still runs:', 'runs/pre'),
)
FLAGS: Groups = {
    'data': (Flag('run', 'As the first argument: DIR.', Path, shown='DIR', required=True),),
}


def run(values: FlagValues) -> None:
  """Prints the run.

  Args:
    values: parsed flags.
  """
  tables.show_facts(values.run, summaries.of_run(values.run))


COMMAND = command.Command('show', __doc__, EXAMPLES, FLAGS, run, positional=('run',))

if __name__ == '__main__':
  command.start(COMMAND)
