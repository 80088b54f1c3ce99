"""What is installed: one package, its commands and their presets, and nothing beside it."""
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

import mtl_jax
from launch import main
from launch.flags import presets
from tests import tiny_runs

SOURCES = ('mtl_jax', 'launch', 'benchmarks', 'setup.py', 'pyproject.toml', 'requirements.txt',
           'MANIFEST.in', 'README.md', 'LICENSE')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
  """Builds the wheel of a copy of the sources, as a build leaves folders behind."""
  folder = tmp_path_factory.mktemp('wheel')
  sources = folder / 'sources'
  sources.mkdir()
  for name in SOURCES:
    if (tiny_runs.ROOT / name).is_dir():
      shutil.copytree(tiny_runs.ROOT / name, sources / name,
                      ignore=shutil.ignore_patterns('__pycache__'))
    else:
      shutil.copy(tiny_runs.ROOT / name, sources)
  result = subprocess.run(
      [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '-w', folder,
       sources], capture_output=True, text=True, timeout=300)
  assert result.returncode == 0, result.stderr
  (path,) = folder.glob('*.whl')
  return path


@pytest.fixture(scope='module')
def installed(wheel, tmp_path_factory):
  """Unpacks the wheel: a folder for PYTHONPATH, in the place of site-packages."""
  folder = tmp_path_factory.mktemp('installed')
  with zipfile.ZipFile(wheel) as file:
    file.extractall(folder)
  return folder


def run(installed, empty, *arguments):
  """Runs Python in an empty folder, where only what is installed can be imported."""
  environment = tiny_runs.environment() | {'PYTHONPATH': str(installed), 'COLUMNS': '80'}
  return subprocess.run([sys.executable, *arguments], cwd=empty, env=environment,
                        capture_output=True, text=True, timeout=60)


def mtl(installed, empty, *arguments):
  code = 'from mtl_jax.launch.main import main; main()'
  return run(installed, empty, '-c', code, *arguments)


def test_nothing_but_mtl_jax_lies_at_the_top(wheel):
  names = zipfile.ZipFile(wheel).namelist()
  tops = {name.split('/')[0] for name in names}
  assert tops == {'mtl_jax', f'mtl_jax-{mtl_jax.__version__}.dist-info'}
  assert not [name for name in names if 'benchmarks' in name or 'tests' in name]
  assert 'mtl_jax/py.typed' in names


def test_every_module_and_every_preset_is_in_it(wheel):
  names = set(zipfile.ZipFile(wheel).namelist())
  modules = {path.relative_to(tiny_runs.ROOT).as_posix()
             for folder in ('mtl_jax', 'launch')
             for path in (tiny_runs.ROOT / folder).rglob('*.py')}
  expected = {name if name.startswith('mtl_jax/') else f'mtl_jax/{name}' for name in modules}
  assert expected == {name for name in names if name.endswith('.py')}
  flags = {f'mtl_jax/launch/presets/{name}.flags' for name in presets.names()}
  assert flags == {name for name in names if name.endswith('.flags')} and len(flags) > 20


def test_its_metadata(wheel):
  with zipfile.ZipFile(wheel) as file:
    info = f'mtl_jax-{mtl_jax.__version__}.dist-info'
    metadata = file.read(f'{info}/METADATA').decode()
    assert '[console_scripts]\nmtl = mtl_jax.launch.main:main' in (
        file.read(f'{info}/entry_points.txt').decode())
  required = (tiny_runs.ROOT / 'requirements.txt').read_text().splitlines()
  lines = metadata.splitlines()
  assert {line.removeprefix('Requires-Dist: ').replace("'", '"') for line in lines
          if line.startswith('Requires-Dist: ') and 'extra ==' not in line} == set(required)
  assert 'Requires-Python: >=3.11' in lines
  assert {'Provides-Extra: test', 'Provides-Extra: benchmark'} <= set(lines)


def test_commands_and_presets_from_an_empty_folder(installed, tmp_path):
  where = run(installed, tmp_path, '-c', 'import mtl_jax.launch; print(mtl_jax.launch.__file__)')
  assert pathlib.Path(where.stdout.strip()).is_relative_to(installed), where.stderr
  listed = mtl(installed, tmp_path, '--help')
  assert listed.returncode == 0 and all(name in listed.stdout for name in main.COMMANDS)
  assert mtl(installed, tmp_path, '--version').stdout == f'{mtl_jax.__version__}\n'
  refused = mtl(installed, tmp_path, 'meta-train', '--preset=ablation/ss_all_ht',
                '--pretrained=nowhere', '--workdir=x')
  assert refused.returncode == 1 and 'work directory nowhere does not exist' in refused.stderr
  refused = mtl(installed, tmp_path, 'meta-train', '--preset=mine')
  assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
  assert all(name in refused.stderr for name in presets.names())
  assert os.listdir(tmp_path) == []


def test_the_benchmarks_say_in_one_line_that_they_are_not_installed(installed, tmp_path):
  # As if there were no clone that Python finds either.
  code = ("import runpy, sys; sys.modules['benchmarks'] = None; "
          "runpy.run_module('mtl_jax.launch.benchmark', run_name='__main__')")
  refused = run(installed, tmp_path, '-c', code)
  assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
  assert refused.stderr.startswith('error: expected the folder benchmarks, which is in the '
                                   'repository alone')
