"""--help of each command, and `mtl`, which calls them."""
import importlib
import re
import shlex

import pytest

import mtl_jax
from launch import command, main
from launch.flags import declared, help
from tests import tiny_runs

MODULES = [*(name.replace('-', '_') for name in main.COMMANDS), 'benchmark']
TITLES = ['Task', 'Data', 'Method', 'Machine']


def of(module):
  return importlib.import_module(f'launch.{module}').COMMAND


def text_of(found, width):
  return help.help_text(found.about, found.examples, found.flags, program=f'mtl {found.name}',
                        width=width)


@pytest.mark.parametrize('width', [80, 120])
@pytest.mark.parametrize('module', MODULES)
def test_help_begins_with_two_examples_that_parse(module, width):
  found = of(module)
  lines = text_of(found, width).split('\n\n')[:2]
  for example in lines:
    comment, typed = re.fullmatch(r'((?:# .*\n)+)((?:.|\n)+)', example).groups()
    assert comment.startswith('# ')
    called, name, *arguments = shlex.split(typed.replace('\\\n', ' '))
    assert (called, name) == ('mtl', found.name)
    command.parse(found, arguments)
  assert len(found.examples) == 2


@pytest.mark.parametrize('width', [80, 120])
@pytest.mark.parametrize('module', MODULES)
def test_help_lists_the_flags_of_the_command_in_groups(module, width):
  found = of(module)
  text = text_of(found, width)
  titles = re.findall(r'^(Task|Data|Method|Machine): ', text, re.MULTILINE)
  assert titles == [title for title in TITLES if title.lower() in found.flags]
  # Features are of images, whatever the task; to show a run nothing is computed.
  without = {'features': {'task'}, 'adapt': {'task'}, 'predict': {'task'},
             'page': {'task'}, 'show': {'task', 'machine'}, 'export': {'task', 'machine'}}
  assert {'task', 'data', 'machine'} - found.flags.keys() == without.get(module, set())
  listed = re.findall(r'^  --(?:\[no\])?(\w+)', text, re.MULTILINE)
  assert listed == [flag.name for flag in declared.flatten(found.flags)]
  assert len(set(listed)) == len(listed)
  assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize('module', MODULES)
def test_every_flag_is_explained_and_its_default_is_shown(module):
  text = ' '.join(text_of(of(module), 80).split())
  for flag in declared.flatten(of(module).flags):
    explained = text.split(f'--[no]{flag.name} ' if flag.kind is bool else f'--{flag.name}=', 1)[1]
    assert flag.help[:1].isupper() or ':' in flag.help
    if flag.default not in (None, []):
      assert f'(default: {help._written(flag.default)})' in explained


@pytest.mark.parametrize('module', MODULES)
def test_help_from_the_command_line(module):
  result = tiny_runs.start(f'launch.{module}', '--workdir=x', '--help', timeout=60)
  assert (result.returncode, result.stderr) == (0, '')
  first = next(line for line in result.stdout.splitlines() if not line.startswith('# '))
  assert result.stdout.startswith('# ') and first.startswith(f'python -m launch.{module} ')


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-h']])
def test_mtl_lists_the_commands(arguments, capsys):
  main.main(arguments)
  listed = re.findall(r'^  ([\w-]+) +(\S.*)', capsys.readouterr().out, re.MULTILINE)
  assert [name for name, _ in listed] == list(main.COMMANDS)


def test_mtl_prints_the_version(capsys):
  main.main(['--version'])
  assert capsys.readouterr().out == f'{mtl_jax.__version__}\n'


@pytest.mark.parametrize('name', main.COMMANDS)
def test_mtl_calls_each_command_by_either_name(name, capsys):
  for typed in (name, name.replace('-', '_')):
    main.main([typed, '--help'])
    text = capsys.readouterr().out
    called = next(line for line in text.splitlines() if not line.startswith('# '))
    assert called.startswith(f'{command.program()} {name} ')


def test_mtl_as_a_process_of_its_own():
  refused = tiny_runs.start('launch.main', 'meta-train', '--pretrained=nowhere', '--workdir=x',
                            timeout=60)
  assert refused.returncode == 1 and refused.stderr.splitlines() == [
      'error: work directory nowhere does not exist: expected that of an earlier run']


@pytest.mark.parametrize('name', ['train', '--steps=3', 'main', 'flags', 'benchmark'])
def test_mtl_refuses_what_is_no_command(name, capsys):
  with pytest.raises(SystemExit) as stopped:
    main.main([name])
  said = capsys.readouterr().err
  assert stopped.value.code == 2 and len(said.splitlines()) == 1
  assert said.startswith('error: expected one of the commands quickstart, pretrain, ')
  assert repr(name) in said
