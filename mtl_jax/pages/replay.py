"""Tasks of a meta-test once more, with every answer, where its images are still at hand."""
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtl_jax import configs, data, episodes, learnable, stages
from mtl_jax.configs import MetaTestConfig
from mtl_jax.data import transforms
from mtl_jax.pages.sources import Test
from mtl_jax.phases import meta_test
from mtl_jax.runs import base_means, finished, meta_testing, records
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.types import Episode, ImagePool

_OPTIONS = frozenset(inspect.signature(data.load).parameters) - {'name', 'image_size'}


class Replayed(NamedTuple):
  """Tasks with their answers; t tasks of N classes, K + Q images of each."""
  tasks: np.ndarray       # int [t], their places among all
  indices: np.ndarray     # int [t, N, K+Q], into the images
  class_ids: np.ndarray   # int [t, N]
  predicted: np.ndarray   # int [t, N, Q], in [0, N)
  shot: int               # K

  @property
  def truth(self) -> np.ndarray:
    """The class of the pool of each query [t, N, Q]."""
    return np.broadcast_to(self.class_ids[..., None], self.predicted.shape)

  @property
  def answers(self) -> np.ndarray:
    """The class of the pool that each query was taken for [t, N, Q]."""
    return np.stack([ids[found] for ids, found in
                     zip(self.class_ids, self.predicted, strict=True)])

  @property
  def queries(self) -> np.ndarray:
    """The image of each query [t, N, Q], an index."""
    return self.indices[:, :, self.shot:]

  @property
  def accuracies(self) -> np.ndarray:
    """The share of queries of each task that were right [t]."""
    return (self.truth == self.answers).mean(axis=(1, 2))


class Images(NamedTuple):
  """The images that a meta-test drew from, and what to call their classes."""
  pool: ImagePool
  names: tuple[str, ...]

  def at(self, indices: np.ndarray | int) -> np.ndarray:
    """Returns the images of some places in the pool, uint8 [..., H, W, C]."""
    return np.asarray(self.pool.images[indices])


def load_images(test: Test, cache_dir: str | None = None) -> Images:
  """Loads the images of a meta-test anew, and makes sure that they are the same.

  Args:
    test: it says where they lay.
    cache_dir: as in `data.load`.

  Raises:
    ValueError, OSError: they are not there, or others.
  """
  recorded: Mapping[str, Any] = test.settings.get('data') or {}
  if not {'dataset', 'image_shape'} <= set(recorded):
    raise ValueError('the run did not record where its images lay')
  split, shape = test.settings['split'], recorded['image_shape']
  options = {name: value for name, value in recorded.items() if name in _OPTIONS}
  with stages.stage(f'reading {recorded["dataset"]}'):
    dataset = data.load(recorded['dataset'], **options, cache_dir=cache_dir, image_size=shape[0])
    dataset = transforms.with_channels(dataset, shape[2])
    pool = getattr(dataset, split)
    if records.digest(pool) != test.settings['images']:
      raise ValueError(f'the images of {test.settings["dataset"]} are not those of the meta-test')
  names = dataset.class_names.get(split) or [f'class {i}' for i in range(len(pool.class_sizes))]
  return Images(pool, tuple(names))


def load_run(test: Test) -> FinishedRun:
  """Loads the run that was tested, read out as it was then.

  Args:
    test: its checkpoint was found.
  """
  assert test.checkpoint is not None
  used, trained = test.settings['checkpoint'], finished.trained_settings(test.checkpoint)
  before = trained.get('readout', {})
  readout = {name: value for name, value in used['readout'].items()
             if name not in before or before[name] != value}
  height, width, channels = used['image_shape']
  run = finished.load(test.checkpoint, (height, width, channels), readout=readout,
                      compute_dtype=used['backbone'].get('compute_dtype'))
  return base_means.read(run, test.folder)


def replay(test: Test, run: FinishedRun, images: Images, tasks: Sequence[int]) -> Replayed:
  """Answers tasks of a meta-test again, one by one.

  Args:
    test: which tasks there were.
    run: of `load_run`.
    images: of `load_images`.
    tasks: places among all tasks of the test, each once.

  Returns:
    The answers, in the order of `tasks`.
  """
  config = configs.from_json(MetaTestConfig, test.settings['config'])
  params = meta_testing.tested_params(run, test.checkpoint or '', config)
  network = learnable.network(run.backbone_vars, params)
  keys = meta_test.task_keys(records.stream_key(test.settings['seed'], 'test'),
                             config.num_tasks)
  sizes = images.pool._replace(images=None, normalization=None)
  draw = jax.jit(lambda key: episodes.draw(key, sizes, way=config.way, shot=config.shot,
                                           query=config.query))
  answer = jax.jit(functools.partial(_answers, backbone=run.backbone, config=config,
                                     normalization=run.normalization))
  drawn, found = [], []
  with stages.stage(f'answering {len(tasks)} of the tasks of {test.name} again'):
    for task in tasks:
      drawn.append(jax.tree.map(np.asarray, draw(keys[task])))
      episode = episodes.gather(lambda at: jnp.asarray(images.at(np.asarray(at))), drawn[-1],
                                shot=config.shot)
      found.append(np.asarray(answer(params, network, episode)).reshape(config.way, -1))
  return Replayed(np.asarray(tasks), np.stack([each.indices for each in drawn]),
                  np.stack([each.class_ids for each in drawn]), np.stack(found), config.shot)


def _answers(params, network, episode: Episode, *, normalization, backbone, config) -> jax.Array:
  logits = meta_test.image_task_logits(params, network, episode, normalization,
                                       backbone=backbone, config=config)
  return logits.argmax(axis=1)
