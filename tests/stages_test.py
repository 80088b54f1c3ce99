"""Lines of what goes on: after a second, now and then, of the innermost stage, and never twice."""
import time

import pytest
from absl import logging

from mtl_jax import stages
from tests import tiny_runs


@pytest.fixture
def said(monkeypatch):
  """Lines that were logged; stages speak after 20 ms, and then every 0.2 s."""
  lines = []
  monkeypatch.setattr(logging, 'info', lambda text, *args: lines.append(text % args))
  monkeypatch.setattr(stages, 'FIRST_AFTER', 0.02)
  monkeypatch.setattr(stages, 'EVERY', 0.2)
  return lines


def until(condition):
  deadline = time.monotonic() + 60
  while not condition() and time.monotonic() < deadline:
    time.sleep(0.005)


def test_what_is_quick_says_nothing(said, monkeypatch):
  monkeypatch.setattr(stages, 'FIRST_AFTER', 60)
  with stages.stage('reading'), stages.stage('decoding'):
    pass
  assert not said and not stages._open


def test_a_long_stage_speaks_again_and_again(said):
  with stages.stage('reading'):
    until(lambda: len(said) > 2)
  assert said == ['reading ...', 'reading ... 0 s', 'reading ... 0 s']


def test_the_innermost_speaks(said):
  with stages.stage('reading'):
    until(lambda: said)
    with stages.stage('decoding'):
      until(lambda: 'decoding ... 0 s' in said)
  assert said.count('reading ...') == said.count('decoding ...') == 1
  assert said[:2] == ['reading ...', 'decoding ...'] and 'reading ... 0 s' not in said


def test_a_quiet_one_is_announced_late(said, monkeypatch):
  monkeypatch.setattr(stages, 'FIRST_AFTER', 0.0)
  began = time.monotonic()
  with stages.stage('training', quiet=True):
    until(lambda: said)
  assert said[0] == 'training ...' and time.monotonic() - began >= 0.2


def test_an_error_ends_the_stage(said):
  with pytest.raises(KeyError), stages.stage('reading'):
    raise KeyError
  assert not stages._open


# A command whose stages all speak at once, as long ones do after a second.
AT_ONCE = """
import sys
from mtl_jax import stages
stages.FIRST_AFTER = 0.0
from launch import command, pretrain
command.start(pretrain.COMMAND, sys.argv[1:])
"""


def test_the_lines_of_a_command_in_order(tmp_path):
  flags = tiny_runs.command('pretrain', f'--workdir={tmp_path / "run"}',
                            f'--cache_dir={tmp_path / "cache"}')[3:]
  result = tiny_runs.python('-c', AT_ONCE, *flags)
  assert result.returncode == 0, result.stderr
  lines = [line for line in result.stderr.splitlines() if line.endswith(' ...')]
  expected = ['reading folder ...', 'decoding the images of folder ...',
              'compiling the initial weights of conv4 ...',
              'compiling and scoring the validation tasks ...',
              'compiling the steps of pretrain ...']
  assert [line for index, line in enumerate(lines)
          if line in expected and line not in lines[:index]] == expected
