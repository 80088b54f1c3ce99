"""Shows what a run has learned, or where it stands; or what an exported file holds.

RUN is the work directory of a pre-training, a meta-training or an import, or a folder with the
files of a model alone, whose checksums are compared; or a file that mtl export has written.
"""
import os
from pathlib import Path

from absl.flags import FlagValues

from mtl_jax import exports
from mtl_jax.runs import summaries, tables

from . import command
from .flags.declared import Flag, Groups

EXAMPLES = (
    ('A network that was meta-trained here:', 'runs/mtl'),
    ('A pre-training that still runs:', 'runs/pre'),
)
FLAGS: Groups = {
    'data': (Flag('run', 'As the first argument: RUN, a work directory or a file of mtl export.',
                  Path, shown='RUN', required=True),),
}


def run(values: FlagValues) -> None:
  """Prints the run.

  Args:
    values: parsed flags.
  """
  exported = values.run.endswith(('.bin', '.onnx')) and not os.path.isdir(values.run)
  facts = exports.describe(values.run) if exported else summaries.of_run(values.run)
  tables.show_facts(values.run, facts)


COMMAND = command.Command('show', __doc__, EXAMPLES, FLAGS, run, positional=('run',))

if __name__ == '__main__':
  command.start(COMMAND)
