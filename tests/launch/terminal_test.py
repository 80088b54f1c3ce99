"""The outermost net: whatever a command raises ends in one line; --debug shows the trace."""
import pytest
from absl.flags import FlagValues

from launch import command
from mtl_jax.data import transforms


def run(values: FlagValues) -> None:
  del values
  raise ERRORS[NAME]


ERRORS = {'type': TypeError('a\nb' * 300), 'key': KeyError(), 'recursion': RecursionError('deep'),
          'overflow': OverflowError('too large'), 'assertion': AssertionError(),
          'value': ValueError('expected x')}
NAME = 'type'


def started(monkeypatch, capsys, name, *arguments):
  monkeypatch.setattr('tests.launch.terminal_test.NAME', name)
  monkeypatch.setattr(command.terminal, 'prepare', lambda: None)
  with pytest.raises(SystemExit) as stopped:
    command.start(command.Command('x', 'About.', (), {}, run), arguments)
  assert stopped.value.code == 1
  return capsys.readouterr().err


@pytest.mark.parametrize('name', ERRORS)
def test_one_line(monkeypatch, capsys, name):
  said = started(monkeypatch, capsys, name)
  assert said.startswith('error: ') and len(said.splitlines()) == 1 and len(said) < 500
  if name != 'value':
    assert f'{type(ERRORS[name]).__name__} at tests/launch/terminal_test.py:' in said
    assert said.endswith('please report it with what the same command prints with --debug\n')


def test_the_trace(monkeypatch, capsys):
  said = started(monkeypatch, capsys, 'value', '--debug')
  assert said.startswith('Traceback') and said.splitlines()[-1] == 'error: expected x'


def test_the_place_is_ours(monkeypatch, capsys):
  def fail(_):
    transforms.choose_classes(None, 'fold:1/2')

  monkeypatch.setattr(command.terminal, 'prepare', lambda: None)
  with pytest.raises(SystemExit):
    command.start(command.Command('x', 'About.', (), {}, fail), [])
  assert 'AttributeError at mtl_jax/data/transforms.py:' in capsys.readouterr().err


def test_a_command_line_that_nobody_has_foreseen(monkeypatch, capsys):
  def fail(*_):
    raise OverflowError('long')

  monkeypatch.setattr(command, 'parse', fail)
  with pytest.raises(SystemExit):
    command.start(command.Command('x', 'About.', (), {}, run), ['--x=1'])
  assert capsys.readouterr().err.startswith('error: OverflowError at ')
