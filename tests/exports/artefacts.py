"""Exports of the tiny runs that tests share, and photos for them."""
import functools
import pathlib

import numpy as np

import mtl_jax
from tests import tiny_runs

SIZE = 16  # pixels of the tiny runs
# (photos of the support, classes, new photos).
NUMBERS = [(2, 2, 1), (9, 3, 4), (20, 3, 7)]


def photos(number: int, seed: int = 0) -> np.ndarray:
  """Draws uint8 images [number, 16, 16, 3]."""
  return np.random.default_rng(seed).integers(0, 256, (number, SIZE, SIZE, 3), dtype=np.uint8)


def task(number: int, way: int, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Draws (support images, their labels, query images)."""
  return photos(number), np.arange(number) % way, photos(queries, 1)


@functools.cache
def classifier() -> mtl_jax.classifiers.Classifier:
  """Returns a classifier of the three classes of the tiny data set's test split."""
  return mtl_jax.load(tiny_runs.pretrained()).adapt(tiny_runs.shared() / 'data' / 'test')


@functools.cache
def saved() -> pathlib.Path:
  """Saves that classifier."""
  path = tiny_runs.shared() / 'classifier.mtl'
  classifier().save(path)
  return path


@functools.cache
def exported(kind: str, ending: str = '.bin') -> pathlib.Path:
  """Exports the tiny pre-training, the tiny meta-training ('fixed': at its way), or a classifier.
  """
  path = tiny_runs.shared() / f'{kind}{ending}'
  if kind == 'classifier':
    classifier().export(path)
  elif kind == 'adapts':
    classifier().export(path, adapts=True)
  else:
    run = tiny_runs.pretrained() if kind == 'pretrained' else tiny_runs.meta_trained()
    mtl_jax.load(run).export(path, way=3 if kind == 'fixed' else None)
  return path
