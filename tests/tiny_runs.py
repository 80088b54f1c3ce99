"""The commands on a data set and a network so small that a run takes seconds, for several tests."""
import atexit
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

from tests import forked

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLASSES = {'train': 4, 'val': 3, 'test': 3}
IMAGES_PER_CLASS = 8

# What each command gets beyond the data set; a run of 8 steps that validates and saves three times.
FLAGS = {
    'pretrain': ['--width=4', '--steps=8', '--batch_size=8', '--steps_per_call=2',
                 '--validate_every=4', '--validation_tasks=10'],
    'meta_train': ['--steps=8', '--query=4', '--meta_batch=1', '--num_ordinary_tasks=2',
                   '--num_hard_tasks=2', '--inner_steps=3', '--validate_every=4',
                   '--validation_tasks=10'],
    'meta_test': ['--query=4', '--num_tasks=10'],
}


def draw_images(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """Writes `folder/{train,val,test}/CLASS/*.png`: 16x16 pixels of a pattern per class, and noise.
  """
  random = np.random.default_rng(seed)
  for split, number in CLASSES.items():
    for index in range(number):
      place = folder / split / f'{split}{index}'
      place.mkdir(parents=True)
      pattern = random.integers(0, 256, (4, 4, 3)).repeat(4, 0).repeat(4, 1)
      for image in range(IMAGES_PER_CLASS):
        noisy = np.clip(pattern + random.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(place / f'{image}.png')
  return folder


@functools.cache
def shared() -> pathlib.Path:
  """Makes the folder of this process: `data`, and decoded images."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='mtl_jax_tests_'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  draw_images(folder / 'data')
  return folder


def data_flags(data_dir: pathlib.Path | None = None) -> list[str]:
  """Returns the flags of the data set and of the tasks, for the command of any phase."""
  return ['--dataset=folder', f'--data_dir={data_dir or shared() / "data"}',
          f'--cache_dir={shared() / "cache"}', '--image_size=16', '--way=3',
          '--test_inner_steps=5']


def environment() -> dict[str, str]:
  """Returns this process's, which keeps every compiled program: a second start takes seconds."""
  return os.environ | {'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '2'}


def command(name: str, *flags: str, data_dir: pathlib.Path | None = None) -> list[str]:
  """Returns the command line of a phase; of a flag given twice the last counts."""
  return [sys.executable, '-m', f'launch.{name}', *data_flags(data_dir), *FLAGS[name], *flags]


def python(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
  """Runs Python with these arguments, in the environment of the tests, to its end."""
  return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment(),
                        capture_output=True, text=True, timeout=timeout)


def start(*arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
  """Runs a module, by its name and its arguments, as `python -m` does, in a fork (`forked`)."""
  return forked.run(list(arguments), environment(), timeout)


def launch(name: str, *flags: str,
           data_dir: pathlib.Path | None = None) -> subprocess.CompletedProcess:
  """Runs a phase to its end."""
  return start(*command(name, *flags, data_dir=data_dir)[2:])


def finished(name: str, *flags: str) -> subprocess.CompletedProcess:
  """Runs a phase that must succeed."""
  result = launch(name, *flags)
  assert result.returncode == 0, result.stderr
  return result


@functools.cache
def pretrained() -> pathlib.Path:
  """Returns the work directory of the one pre-training that the tests share."""
  finished('pretrain', f'--workdir={shared() / "pretrained"}')
  return shared() / 'pretrained'


@functools.cache
def meta_trained() -> pathlib.Path:
  """Returns the work directory of a meta-training over it."""
  finished('meta_train', f'--pretrained={pretrained()}', f'--workdir={shared() / "meta_trained"}')
  return shared() / 'meta_trained'


def contents(folder: pathlib.Path) -> dict[str, tuple[int, bytes]]:
  """Reads every file under a folder: path -> (time of change in ns, content)."""
  return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
          for path in sorted(folder.rglob('*')) if path.is_file()}
