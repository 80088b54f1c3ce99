"""`python -m launch.benchmark` itself: bad flags, and one suite to the end with a real worker."""
import json
import os
import subprocess
import sys

import pytest
from absl import flags

from launch import benchmark, command
from tests import tiny_runs


def launch(*arguments):
  return subprocess.run([sys.executable, '-m', 'launch.benchmark', *arguments],
                        capture_output=True, text=True, cwd=tiny_runs.ROOT,
                        env=tiny_runs.environment(), timeout=600)


def refused(result, *says):
  assert result.returncode in (1, 2) and result.stdout == ''
  assert result.stderr.startswith('error: '), result.stderr
  assert len(result.stderr.splitlines()) == 1, result.stderr
  for text in says:
    assert text in result.stderr


@pytest.fixture(scope='module')
def out(tmp_path_factory):
  """Runs suite inner_loop in smoke size: its folder, and what the command printed."""
  folder = tmp_path_factory.mktemp('benchmark') / 'out'
  result = launch('--suite=inner_loop', '--size=smoke', f'--out={folder}')
  assert result.returncode == 0, result.stderr
  return folder, result


@pytest.mark.slow
def test_one_suite_to_the_end(out):
  folder, result = out
  names = {'inner_loop.json', 'inner_loop.md', 'inner_loop.png', 'inner_loop.svg', 'benchmark.md'}
  assert set(os.listdir(folder)) == names
  results = json.loads((folder / 'inner_loop.json').read_text())
  assert results['command'] == (
      'python -m launch.benchmark --suite=inner_loop --size=smoke --out=DIR')
  assert results['settings']['pairs'] == 1 and results['workers']['jax']['platform'] == 'cpu'
  assert all(record['median'] > 0 for row in results['rows'] for record in
             (row['sides']['jax dual'], row['sides']['jax scan']))
  assert 'jax dual' in result.stdout
  assert f'written to {folder / "benchmark.md"}' in result.stdout
  assert 'Traceback' not in result.stderr


@pytest.mark.slow
def test_a_suite_that_is_there_is_left_or_refused(out):
  folder, _ = out
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir()
            if path.name.startswith('inner_loop')}
  again = launch('--suite=inner_loop', '--size=smoke', f'--out={folder}')
  assert again.returncode == 0
  assert 'inner_loop.json is there already: nothing to do' in again.stderr
  refused(launch('--suite=inner_loop', '--size=smoke', '--pairs=2', f'--out={folder}'),
          'inner_loop.json', 'other settings: pairs is 1 there and 2 here; choose another --out')
  assert {path: path.stat().st_mtime_ns for path in before} == before


def run(tmp_path, *arguments):
  """Runs the command in this process; the last of equal flags counts."""
  smoke = ['--suite=all', '--size=smoke', f'--out={tmp_path / "out"}']
  benchmark.run(command.parse(benchmark.COMMAND, [*smoke, *arguments]))


@pytest.mark.parametrize(('arguments', 'says'), [
    (['--suite=speed'], "expected --suite among compile.* got 'speed'"),
    (['--networks=resnet12,vgg'], "expected --networks among resnet12, resnet25, got 'vgg'"),
    (['--torch_modes=published,chanels_last'],
     "expected --torch_modes among .* got 'chanels_last'"),
    (['--image_sizes=84,8'], "--image_sizes to be numbers of at least 16.* got '8'"),
    (['--torch_python=no_such_python'],
     "a Python with torch, got 'no_such_python': .*No such file"),
    # The program of that name.
    (['--torch_python=false'], "a Python with torch, got 'false': it failed"),
])
def test_bad_values(tmp_path, arguments, says):
  with pytest.raises(ValueError, match=says):
    run(tmp_path, *arguments)
  assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('missing', ['suite', 'out'])
def test_flags_that_must_be_given(missing):
  given = {'suite': '--suite=all', 'out': '--out=DIR'}
  del given[missing]
  with pytest.raises(ValueError, match=f'expected --{missing}, which is required, got none'):
    command.parse(benchmark.COMMAND, list(given.values()))


@pytest.mark.parametrize('empty', ['suite', 'out', 'networks'])
def test_a_flag_without_a_value(empty, tmp_path):
  with pytest.raises(flags.Error, match=f'expected a value for --{empty}, got none'):
    run(tmp_path, f'--{empty}=')


def test_a_file_in_place_of_the_folder_and_damaged_results(tmp_path):
  (tmp_path / 'out').write_text('')
  with pytest.raises(flags.Error, match='expected --out to be a folder'):
    run(tmp_path)
  (tmp_path / 'out').unlink()
  for damaged in ('{', '[]', '{"settings": null}', '{"settings": [1]}'):
    (tmp_path / 'compile.json').write_text(damaged)
    with pytest.raises(ValueError, match='compile.json is damaged'):
      run(tmp_path, f'--out={tmp_path}')


def test_a_bad_flag_is_one_line(tmp_path):
  refused(launch('--suite=all', '--pairs=0', f'--out={tmp_path / "out"}'), '--pairs', '--help')
