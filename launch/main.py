"""The console command `mtl`: one name for all commands, from everywhere."""
import importlib
import sys
import textwrap
from collections.abc import Sequence

import mtl_jax

from . import command, terminal
from .flags.help import HELP, terminal_width

# What --help lists, in the order of use. Each command is imported only when it is called.
COMMANDS = {
    'quickstart': 'all three phases on the built-in data set, in a few minutes',
    'pretrain': 'phase 1: pre-train a network on the base classes',
    'meta-train': 'phase 2: meta-train scale, shift and base-learner over it',
    'meta-test': 'phase 3: score a run on tasks of unseen classes',
    'adapt': 'a classifier of your own photos, how good it is, and what new photos show',
    'predict': 'new photos by a classifier that was saved',
    'export': 'a file that still adapts, or a classifier, for jax alone or a browser',
    'page': 'a page to look at, of runs and classifiers: curves, results, tasks, photos',
    'show': 'what a run has learned, or where it stands',
    'features': 'the features that a network has of images, as a file',
    'reproduce': 'a published table, or the plot of hard tasks, beside our figures',
    'import-weights': 'a well-known network as a run, or the weights of the authors; and back',
}
_WRONG_USE = 2  # exit status


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs one of the commands.

  Args:
    arguments: name of the command, then its flags; None takes those of this process.
  """
  name, *rest = (sys.argv[1:] if arguments is None else arguments) or ['--help']
  if name in HELP:
    print(_help(terminal_width()))
  elif name == '--version':
    print(mtl_jax.__version__)
  elif (known := name.replace('_', '-')) in COMMANDS:
    module = importlib.import_module(f'.{known.replace("-", "_")}', __package__)
    command.start(module.COMMAND, rest, f'{command.program()} {known}')
  else:
    terminal.stop(f'expected one of the commands {", ".join(COMMANDS)}, got {name!r}; see --help',
                  _WRONG_USE)


def _help(width: int) -> str:
  program = command.program()
  column = max(map(len, COMMANDS)) + 4
  lines = [f'usage: {program} COMMAND --flags', '']
  for name, does in COMMANDS.items():
    lines += textwrap.wrap(does, width, initial_indent=f'  {name}'.ljust(column),
                           subsequent_indent=' ' * column)
  closing = (f'{program} COMMAND --help begins with two examples; {program} --version prints the '
             'version.')
  lines += ['', *textwrap.wrap(closing, width)]
  return '\n'.join(lines)


if __name__ == '__main__':
  main()
