"""Wrong values of every flag, made from the flags' own registry; nothing runs."""
import os
import pathlib

import pytest
from absl import flags

from launch import command
from launch.flags import declared, parsers
from tests.launch.help_test import MODULES, of

NUMBERS = ['nan', 'NaN', 'inf', '-inf', 'infinity', '1e400', '-1e400']
WHOLE = ['0', '-1', str(2**31 - 1), str(2**31), str(2**32), str(2**64), '9' * 5000, '1e3', '1.5',
         '0x10', 'x', '']
OTHERS = ['', '\0', 'a\nb', '~', '[a]*?', '../..', '%s%n{}', '\ud800', 'é']

EVERY = [(module, flag) for module in MODULES for flag in declared.flatten(of(module).flags)]


@pytest.fixture(scope='module')
def odd_paths(tmp_path_factory):
  """Paths that are no plain file and no folder, and a file."""
  folder = tmp_path_factory.mktemp('odd')
  os.mkfifo(folder / 'fifo')
  (folder / 'file').write_text('x')
  (folder / 'dangling').symlink_to('nowhere')
  return [str(folder / 'fifo'), str(folder / 'file'), str(folder / 'dangling'), '/dev/zero',
          '/dev/null', str(folder / 'missing' / 'x'), 'x' * 5000]


def parsed(module, flag, value):
  """The value that a command line gives a flag, or the one line of its refusal."""
  found = of(module)
  others = [f'--{other.name}={other.kind[0] if isinstance(other.kind, tuple) else "x"}'
            for other in declared.flatten(found.flags) if other.required and other != flag]
  try:
    return command.parse(found, [*others, f'--{flag.name}={value}'])[flag.name].value
  except (flags.Error, ValueError) as error:
    text = str(error)
    assert f'--{flag.name}' in text and len(text.splitlines()) == 1 and len(text) < 6000, text
    assert text.startswith('expected '), text
    return Refusal(text)


class Refusal(str):
  pass


def every(kind):
  found = [(module, flag) for module, flag in EVERY if flag.kind is kind]
  assert found
  return pytest.mark.parametrize(('module', 'flag'), found,
                                 ids=[f'{module}-{flag.name}' for module, flag in found])


@every(float)
def test_floats_are_finite(module, flag):
  for value in NUMBERS + WHOLE:
    found = parsed(module, flag, value)
    if value in NUMBERS or value in ('x', ''):
      assert isinstance(found, Refusal), value
  if flag.most is None:
    assert parsed(module, flag, '1e300') == 1e300


@every(int)
def test_whole_numbers_are_bounded(module, flag):
  for value in NUMBERS + WHOLE:
    found = parsed(module, flag, value)
    if isinstance(found, Refusal):
      continue
    assert (flag.least is None or found >= flag.least) and found == int(value)
    assert found <= (parsers.MOST_INT if flag.most is None else flag.most)
  least = 1 if flag.least is None else flag.least
  assert parsed(module, flag, least) == least
  assert flag.least is not None and isinstance(parsed(module, flag, flag.least - 1), Refusal)
  # What is counted in 32 bits; a seed has one bit more.
  assert isinstance(parsed(module, flag, 2**32), Refusal)


@every(bool)
def test_yes_or_no(module, flag):
  for value in OTHERS + WHOLE[2:]:
    assert isinstance(parsed(module, flag, value), Refusal) or value in ('0', '1')


@every(str)
def test_texts(module, flag):
  for value in OTHERS if flag.name != 'preset' else ():  # which must be there
    found = parsed(module, flag, value)
    assert isinstance(found, Refusal) == (value in ('', '\0'))
    assert value != '~' or found == os.path.expanduser('~')


@every(list)
def test_lists(module, flag, monkeypatch):
  monkeypatch.setenv('HOME', '/home/someone')
  for value in OTHERS:
    assert isinstance(parsed(module, flag, value), Refusal) == (value in ('', '\0', 'a\nb'))
  assert parsed(module, flag, '~/a,b~,~') == ['/home/someone/a', 'b~', '/home/someone']


@every(pathlib.Path)
def test_paths(module, flag, odd_paths, monkeypatch):
  monkeypatch.setenv('HOME', '/home/someone')
  assert parsed(module, flag, '~/a[b]') == '/home/someone/a[b]'
  assert isinstance(parsed(module, flag, '~nobody-of-this-name/x'), Refusal)
  for value in OTHERS + odd_paths:
    found = parsed(module, flag, value)
    no_folder = flag.shown == 'DIR' and os.path.lexists(value.replace('\0', '_')) and not (
        os.path.isdir(value))
    assert isinstance(found, Refusal) == (value in ('', '\0') or no_folder), value


def test_choices_and_files_of_flags(tmp_path):
  for module, flag in EVERY:
    if isinstance(flag.kind, tuple):
      assert all(isinstance(parsed(module, flag, value), Refusal) for value in ['x', *OTHERS])
  (tmp_path / 'loop.flags').write_text(f'--flagfile={tmp_path / "loop.flags"}\n')
  os.mkfifo(tmp_path / 'fifo')
  for path in ('/bin/ls', '/dev/zero', '/', '', 'nowhere', tmp_path / 'loop.flags',
               tmp_path / 'fifo'):
    with pytest.raises(ValueError, match='^expected --flagfile'):
      command.parse(of('pretrain'), ['--workdir=x', f'--flagfile={path}'])


@pytest.mark.parametrize(('arguments', 'says'), [
    ([], 'expected --workdir, which is required, got none'),
    (['--workdir'], 'expected a value for --workdir, got none'),
    (['--workdir=x', '--noflip=1'], 'expected --noflip without a value'),
    (['--workdir=x', '--flip=maybe'], "expected --flip to be true or false, got 'maybe'"),
    (['--workdir=x', '--steps=-1'],
     "expected --steps to be a whole number from 0 to 1,000,000,000, got '-1'"),
    (['--workdir=x', '--lr=nan'], "expected --lr to be a number of at least 0.0, got 'nan'"),
])
def test_our_own_words(arguments, says):
  with pytest.raises((flags.Error, ValueError)) as raised:
    command.parse(of('pretrain'), arguments)
  assert str(raised.value) == says
