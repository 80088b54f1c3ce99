"""What the runs of all phases have in common: their random streams, settings and results."""
import contextlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np
from absl import logging

from mtl_jax import configs, stages
from mtl_jax.configs import Config
from mtl_jax.runs import differences, finished, hosts, models, workdirs
from mtl_jax.runs.fit import Fitted
from mtl_jax.runs.validation import Validation
from mtl_jax.sharding import Layout
from mtl_jax.types import Dataset, ImagePool, Tree

Stream = Literal['init', 'train', 'validate', 'test']
_CONFIGS = {**finished.CONFIGS, 'meta_test': configs.MetaTestConfig}  # command -> its config
_IMAGES_PER_DIGEST = 1024  # bounds the memory where images are mapped or cropped


def stream_key(seed: int, stream: Stream) -> jax.Array:
  """Returns the root key of one stream of random numbers of a run.

  Args:
    seed: of the run, in [0, 2^32).
    stream: 'init' (initial weights), 'train' (batches and tasks), 'validate' or 'test' (tasks;
      those of a test depend on the seed alone: `meta_test.task_keys(stream_key(seed, 'test'), n)`).

  Raises:
    ValueError: a seed outside of [0, 2^32), which would have the stream of another.
  """
  if not 0 <= seed < 2**32:
    raise ValueError(f'expected a seed from 0 to 2^32 - 1, got {seed}')
  return jax.random.fold_in(jax.random.key(seed), get_args(Stream).index(stream))


def training_settings(command: str, dataset: Dataset, backbone: Mapping[str, Any], config: Config,
                      validation: Validation, seed: int) -> dict[str, Any]:
  """Returns the settings that decide the outcome of a training, for its settings.json.

  Args:
    command: 'pretrain' or 'meta_train'.
    dataset: the images.
    backbone: options of `backbones.create`.
    config: of the phase.
    validation: tasks that choose the snapshot.
    seed: of the run.
  """
  pool = dataset.train
  with stages.stage(f'reading the images of {dataset.name}'):
    digests = {split: digest(getattr(dataset, split)) for split in ('train', 'val')}
  normalization = {} if pool.normalization is None else {
    name: np.asarray(value).tolist() for name, value in pool.normalization._asdict().items()}
  return {'command': command, 'dataset': dataset.name, 'data': describe_data(dataset),
          'image_shape': list(pool.images.shape[1:]),
          'num_classes': len(pool.class_sizes), 'num_images': len(pool.images),
          'images': digests,
          'normalization': normalization, 'backbone': dict(backbone),
          'config': configs.to_json(config), 'validation': configs.to_json(validation),
          'seed': seed}


def describe_data(dataset: Dataset) -> dict[str, Any]:
  """Returns what settings and results say of the data, beside their name.

  Where the files lay decides nothing: work directories are compared without it (`workdirs.claim`).

  Args:
    dataset: the images.

  Returns:
    `origin`, where the data set has one; numbers of classes by split, and [H, W, C] of an image.
  """
  return {**(dataset.origin or {}),
          'num_classes': {split: len(getattr(dataset, split).class_sizes)
                          for split in ('train', 'val', 'test')},
          'image_shape': list(dataset.train.images.shape[1:])}


def digest(pool: ImagePool) -> int:
  """Returns a checksum of images, so that no work directory is taken for that of other data.

  Args:
    pool: images and sizes of classes.
  """
  found = zlib.crc32(np.asarray(pool.class_sizes, np.int32).tobytes())
  for start in range(0, len(pool.images), _IMAGES_PER_DIGEST):
    part = np.asarray(pool.images[start:start + _IMAGES_PER_DIGEST])
    found = zlib.crc32(np.ascontiguousarray(part).data, found)
  return found


def claim(workdir: str, settings: dict[str, Any]) -> dict[str, Any] | None:
  """Claims the directory of a run.

  Args:
    workdir: made where it is missing.
    settings: all that decides the outcome, the same in all processes.

  Returns:
    The results of the run where it has ended already, after saying so; else None.

  Raises:
    ValueError: the directory is that of another run, or processes have different settings.
    OSError: it cannot be made or written.
  """
  # Files may lie elsewhere on each host; that they are the same is in `images`.
  hosts.same_everywhere({name: value for name, value in settings.items() if name != 'data'},
                        'settings')

  def on_disk():
    workdirs.claim(workdir, settings, _extends, _complete)
    return workdirs.read_results(workdir)

  results = hosts.on_first(on_disk)
  if results is not None:
    logging.info('the run in %s is finished: nothing to do', workdir)
  return results


def _complete(settings: dict[str, Any]) -> dict[str, Any]:
  """Settings of an earlier version with the defaults of those fields of `config` and `validation`
  that it had not yet; so are those of the runs that it names.
  """
  found = {name: _complete(value) if isinstance(value, dict) else value
           for name, value in settings.items()}
  kinds = {'config': _CONFIGS.get(str(settings.get('command'))), 'validation': Validation}
  for name, kind in kinds.items():
    # What a later version has written, or what is damaged, stays and differs.
    with contextlib.suppress(KeyError, TypeError, ValueError):
      if kind is not None:
        found[name] = json.loads(json.dumps(configs.to_json(
            configs.from_json(kind, settings[name]))))
  return found


def _extends(there: dict[str, Any], here: dict[str, Any]) -> bool:
  """Whether only the steps differ, and are more: then a run goes on where its schedule allows it.

  That of meta-training is halved every so many steps, however many there are in all.
  """
  found = [each for each in differences.find(there, here) if not each.name.startswith('data')]
  if [each.name for each in found] != ['config.steps'] or 'time_budget' in here:
    return False
  more = there['config']['steps'] < here['config']['steps']
  if more and here['command'] == 'pretrain':
    raise ValueError(
        'the work directory belongs to a run with other settings: '
        f'{differences.summarize(found)}; '
        'a pre-training cannot go on, as its learning rate falls to zero along its steps; choose '
        'another --workdir')
  return more and here['command'] == 'meta_train'


def machine_results(layout: Layout | None) -> dict[str, Any]:
  """Returns `device` and `versions`, and how many devices and processes there were if several.

  Args:
    layout: devices of the run.
  """
  found = workdirs.describe_machine()
  if layout is None:
    return found
  return found | {'num_devices': layout.size, 'num_processes': jax.process_count()}


def finish(workdir: str, settings: Mapping[str, Any], fitted: Fitted, layout: Layout | None,
           trees: Mapping[str, Tree], classes: Sequence[str] | None) -> dict[str, Any]:
  """Writes the model that the next phase reads, then the results.

  Args:
    workdir: of the run.
    settings: of the run.
    fitted: how the training ended.
    layout: devices of the run.
    trees: of the model, as `models.write` takes them.
    classes: names of the base classes; None where they are not known.

  Returns:
    The content of `results.json`.

  Raises:
    OSError: something could not be written.
  """
  results = {'command': settings['command'], 'dataset': settings['dataset'],
             'data': settings['data'], 'steps': fitted.last_step, 'best_step': fitted.step,
             'validation_accuracy': fitted.score.accuracy,
             'validation_ci95': fitted.score.ci95, **settings.get('chosen_rate', {}),
             'seed': settings['seed'],
             'seconds': fitted.seconds, 'resumed_from': fitted.resumed_from,
             **machine_results(layout)}

  def write():
    models.write(workdir, settings, trees, results, classes)
    workdirs.write_results(workdir, results)

  hosts.on_first(write)
  return results


def whole_calls(steps: int, steps_per_call: int) -> int:
  """Rounds steps up to whole calls of a compiled loop.

  Args:
    steps: that are asked for.
    steps_per_call: of one call.
  """
  return -(-steps // steps_per_call) * steps_per_call
