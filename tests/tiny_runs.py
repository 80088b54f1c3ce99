"""The launchers on a data set and a network so small that a run takes seconds; shared by several tests."""
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

ROOT = pathlib.Path(__file__).resolve().parent.parent
CLASSES = {'train': 4, 'val': 3, 'test': 3}
IMAGES_PER_CLASS = 8

# What each launcher gets beyond the data set; a run of 8 steps that validates and saves three times.
FLAGS = {
    'pretrain': ['--width=4', '--steps=8', '--batch_size=8', '--steps_per_call=2', '--validate_every=4'],
    'meta_train': ['--steps=8', '--query=4', '--meta_batch=1', '--num_ordinary_tasks=2', '--num_hard_tasks=2',
                   '--inner_steps=3', '--validate_every=4'],
    'meta_test': ['--query=4', '--num_tasks=10'],
}


def draw_images(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """Writes `folder/{train,val,test}/CLASS/*.png`: a random pattern of 16x16 pixels per class, and noise."""
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
  """A folder for this process: `data`, the cache of decoded images and that of compiled programs."""
  folder = pathlib.Path(tempfile.mkdtemp(prefix='mtl_jax_tests_'))
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  draw_images(folder / 'data')
  return folder


def data_flags(data_dir: pathlib.Path | None = None) -> list[str]:
  """Flags of the data set and of the tasks, for any of the three launchers."""
  return ['--dataset=folder', f'--data_dir={data_dir or shared() / "data"}', f'--cache_dir={shared() / "cache"}',
          '--image_size=16', '--way=3', '--validation_tasks=10', '--test_inner_steps=5']


def environment() -> dict[str, str]:
  """That of this process, with every compiled program kept: the second start of a launcher takes seconds."""
  return os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_COMPILATION_CACHE_DIR': str(shared() / 'xla'),
                       'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0', 'TF_CPP_MIN_LOG_LEVEL': '2'}


def command(name: str, *flags: str, data_dir: pathlib.Path | None = None) -> list[str]:
  """The command line of a launcher; of a flag given twice the last counts."""
  return [sys.executable, '-m', f'launch.{name}', *data_flags(data_dir), *FLAGS[name], *flags]


def launch(name: str, *flags: str, data_dir: pathlib.Path | None = None) -> subprocess.CompletedProcess:
  """Runs a launcher to its end."""
  return subprocess.run(command(name, *flags, data_dir=data_dir), cwd=ROOT, env=environment(), capture_output=True,
                        text=True, timeout=300)


def finished(name: str, *flags: str) -> subprocess.CompletedProcess:
  """Runs a launcher that must succeed."""
  result = launch(name, *flags)
  assert result.returncode == 0, result.stderr
  return result


@functools.cache
def pretrained() -> pathlib.Path:
  """Work directory of the one pre-training that the tests share."""
  finished('pretrain', f'--workdir={shared() / "pretrained"}')
  return shared() / 'pretrained'


@functools.cache
def meta_trained() -> pathlib.Path:
  """Work directory of a meta-training over it."""
  finished('meta_train', f'--pretrained={pretrained()}', f'--workdir={shared() / "meta_trained"}')
  return shared() / 'meta_trained'


def contents(folder: pathlib.Path) -> dict[str, tuple[int, bytes]]:
  """Every file under a folder: path -> (time of change in ns, content)."""
  return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
          for path in sorted(folder.rglob('*')) if path.is_file()}
