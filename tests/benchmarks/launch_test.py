"""`python -m launch.benchmark` itself: bad flags, and one suite to the end with a worker in a process of its own."""
import json
import os
import subprocess
import sys

import pytest

from tests import tiny_runs


def launch(*arguments):
  return subprocess.run([sys.executable, '-m', 'launch.benchmark', *arguments], capture_output=True, text=True,
                        cwd=tiny_runs.ROOT, env=tiny_runs.environment(), timeout=600)


def refused(result, *says):
  assert result.returncode in (1, 2) and result.stdout == ''
  assert result.stderr.startswith('error: ') and len(result.stderr.splitlines()) == 1, result.stderr
  for text in says:
    assert text in result.stderr


@pytest.fixture(scope='module')
def out(tmp_path_factory):
  """A folder with suite inner_loop in smoke size, and what the command printed."""
  folder = tmp_path_factory.mktemp('benchmark') / 'out'
  result = launch('--suite=inner_loop', '--size=smoke', f'--out={folder}')
  assert result.returncode == 0, result.stderr
  return folder, result


def test_one_suite_to_the_end(out):
  folder, result = out
  names = {'inner_loop.json', 'inner_loop.md', 'inner_loop.png', 'inner_loop.svg', 'benchmark.md'}
  assert set(os.listdir(folder)) == names
  results = json.loads((folder / 'inner_loop.json').read_text())
  assert results['command'] == 'python -m launch.benchmark --suite=inner_loop --size=smoke --out=DIR'
  assert results['settings']['pairs'] == 1 and results['workers']['jax']['platform'] == 'cpu'
  assert all(record['median'] > 0 for row in results['rows'] for record in row['sides'].values())
  assert 'jax dual' in result.stdout and f'written to {folder / "benchmark.md"}' in result.stdout
  assert 'Traceback' not in result.stderr


def test_a_suite_that_is_there_is_left_or_refused(out):
  folder, _ = out
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.name.startswith('inner_loop')}
  again = launch('--suite=inner_loop', '--size=smoke', f'--out={folder}')
  assert again.returncode == 0 and 'inner_loop.json is there already: nothing to do' in again.stderr
  refused(launch('--suite=inner_loop', '--size=smoke', '--pairs=2', f'--out={folder}'), 'inner_loop.json',
          'other settings: pairs is 1 there and 2 here; choose another --out')
  assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(('flags', 'says'), [
    (['--suite=speed'], ["expected --suite among compile", "got 'speed'"]),
    (['--suite=all', '--networks=vgg'], ["expected --networks among resnet12, resnet25, got 'vgg'"]),
    (['--suite=meta_step', '--image_sizes=8'], ["--image_sizes", 'at least 16', "'8'"]),
    (['--suite=all', '--pairs=0'], ['--pairs', '--help']),
    (['--suite=all', '--torch_python=no_such_python'], ['--torch_python to be a Python with torch', 'no_such_python']),
])
def test_bad_flags(tmp_path, flags, says):
  refused(launch(*flags, f'--out={tmp_path / "out"}'), *says)
  assert not (tmp_path / 'out').exists()


def test_out_is_needed_and_must_be_a_folder(tmp_path):
  (tmp_path / 'file').write_text('')
  refused(launch('--suite=all', '--size=smoke', f'--out={tmp_path / "file"}'), 'expected --out to be a folder')
