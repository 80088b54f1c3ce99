"""A whole phase as one call, on disk: claim a work directory, train or test with resuming, write `results.json`.

A finished run leaves trees that the next phase reads: `backbone` (Θ) and, after meta-training, `meta_params` (Φ_S, θ).
"""
import os
import time
import zlib
from types import ModuleType
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from mtl_jax import backbones, base_learner, episodes, learnable, sharding
from mtl_jax.execution import from_host, frozen_prefix, memory, on_device
from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.runs import checkpoints, decisions, fit, hosts, workdirs
from mtl_jax.runs.finished import Learned, check_statistics, keep_backbone, load
from mtl_jax.runs.metrics import MetricWriter
from mtl_jax.runs.validation import Validation, check_validation, validation_scorer
from mtl_jax.types import Backbone, Dataset, ImagePool, MetaParams

# Streams of random numbers of one run, split off its seed; the test tasks depend on the seed alone.
_INIT, _TRAIN, _VALIDATE, _TEST = range(4)


def pretrain_run(dataset: Dataset, *, backbone: dict, config: pretrain.PretrainConfig, validation: Validation,
                 seed: int, workdir: str, readout: dict | None = None, images: str = 'auto',
                 layout: sharding.Layout | None = None, profile: str | None = None) -> dict:
  """Pre-trains a backbone on the training classes (phase 1).

  Args:
    dataset: its train split is learned, its val split chooses the snapshot.
    backbone: options of `backbones.create`, with at least `name`.
    config: settings of the optimizer.
    validation: the tasks that choose the snapshot.
    seed: decides initial weights, batches and validation tasks.
    workdir: claimed for this run.
    readout: options of `backbones.read_out`, for the validation tasks and the phases that follow.
    images: where they stay, as `placement.on_host` has it; the same batches and tasks either way.
    layout: of the devices, over which each batch is spread; None: one.
    profile: folder for a trace, as in `training.fit`.

  Returns:
    The content of `results.json`.

  Raises:
    ValueError: settings that make no sense, or a work directory of another run.
    FloatingPointError: the loss is no longer finite.
    OSError: something could not be written.
  """
  image_shape = dataset.train.images.shape[1:]
  network = backbones.read_out(backbones.create(image_shape=image_shape, **backbone), **readout or {})
  check_validation(dataset, validation)
  sharding.check_divisible('batch_size', config.batch_size, layout)
  settings = _settings('pretrain', dataset, backbone, config, seed)
  on_host = decisions.on_host(workdir, images, layout, dataset.train, dataset.val)
  settings |= {'validation': validation._asdict(), 'readout': readout or {}, 'images_on_host': on_host}
  if (results := _begun(workdir, settings)) is not None:
    return results
  state = sharding.replicate(pretrain.init(_key(seed, _INIT), network, len(dataset.train.class_sizes), config), layout)
  loops = _loops(on_host)
  score = validation_scorer(dataset, network, validation, _key(seed, _VALIDATE), loops, layout)
  plain = _plain_meta_params(network, validation.way)
  with loops.pretraining(_key(seed, _TRAIN), dataset.train, dataset.mean, dataset.std, backbone=network,
                         config=config, layout=layout) as advance:
    fitted = fit.fit(state, advance, lambda s: score(plain, s.backbone), phase='pretrain',
                          num_steps=_whole_calls(config.steps, config.steps_per_call),
                          validate_every=validation.every, workdir=workdir, profile=profile)
  return _finish(workdir, settings, fitted, layout, {'backbone': fitted.state.backbone})


def meta_train_run(dataset: Dataset, *, pretrained: str, config: meta_train.MetaTrainConfig, validation: Validation,
                   seed: int, workdir: str, backbone: dict | None = None, readout: dict | None = None,
                   compute_dtype: str | None = None, images: str = 'auto', layout: sharding.Layout | None = None,
                   profile: str | None = None) -> dict:
  """Meta-learns Φ_S and θ over a pre-trained backbone (phase 2).

  Args:
    dataset: tasks come from its train split; its val split chooses the snapshot.
    pretrained: work directory of a finished pre-training.
    config: settings of the outer and inner loop.
    validation: the tasks that choose the snapshot.
    seed: decides tasks and validation tasks.
    workdir: claimed for this run; receives a copy of the backbone, so that it stands alone.
    backbone: options of `backbones.create` that `pretrained` must match; None takes those it has.
    readout: options of `backbones.read_out` that differ from those of `pretrained`.
    compute_dtype: of convolutions, if not that of `pretrained`.
    images: where they stay, as `placement.on_host` has it; the same tasks either way.
    layout: of the devices, over which the tasks of a meta-batch are spread; None: one.
    profile: folder for a trace, as in `training.fit`.

  Returns:
    The content of `results.json`.

  Raises:
    ValueError: settings that make no sense, a backbone of another architecture or image size, or a work directory of
      another run.
    FileNotFoundError: `pretrained` is not there.
    FloatingPointError: the loss is no longer finite.
    OSError: something could not be written.
  """
  learned = load(pretrained, dataset.train.images.shape[1:], backbone, readout, compute_dtype)
  episodes.check(dataset.train, way=config.way, shot=config.shot, query=config.query, split='train')
  check_validation(dataset, validation)
  meta_train.check(learned.backbone, learned.backbone_vars, config)
  sharding.check_divisible('meta_batch', config.meta_batch, layout)
  if learned.settings['command'] != 'pretrain':
    raise ValueError(f'expected {pretrained} to hold a pre-training, got a {learned.settings["command"]}; name the '
                     '--workdir of a pre-training')
  check_statistics(pretrained, learned.settings, config.batch_stats_mode, validation.batch_stats_mode)
  dataset = dataset._replace(mean=learned.mean, std=learned.std)
  settings = _settings('meta_train', dataset, learned.settings['backbone'], config, seed)
  on_host = decisions.on_host(workdir, images, layout, dataset.train, dataset.val)
  prefix = None if on_host else decisions.prefix(workdir, learned, config, dataset, layout)
  network = learned.backbone if prefix is None else frozen_prefix.upper(prefix, learned.backbone_vars)
  config = config._replace(over_tasks=decisions.over_tasks(workdir, network, learned.backbone_vars, config, layout))
  settings |= {'validation': validation._asdict(), 'readout': learned.settings['readout'], 'images_on_host': on_host,
               'prefix_once': prefix is not None, 'over_tasks': config.over_tasks, 'pretrained': learned.settings}
  if (results := _begun(workdir, settings)) is not None:
    return results
  frozen = hosts.tree_on_first(lambda: keep_backbone(workdir, learned.backbone_vars), learned.backbone_vars)
  if prefix is not None:
    dataset = frozen_prefix.compute(prefix, frozen, dataset, layout=layout)
  frozen = sharding.replicate(frozen, layout)
  state = sharding.replicate(meta_train.init(network, frozen, config), layout)
  loops = _loops(on_host)
  score = validation_scorer(dataset, network, validation, _key(seed, _VALIDATE), loops, layout)
  num_steps = 0 if config.learn == 'none' else _whole_calls(config.steps, meta_train.steps_per_cycle(config))
  with loops.meta_training(_key(seed, _TRAIN), frozen, dataset.train, dataset.mean, dataset.std, backbone=network,
                           config=config, layout=layout) as advance:
    fitted = fit.fit(state, advance, lambda s: score(s.meta_params, frozen), phase='meta_train',
                          num_steps=num_steps, validate_every=validation.every, workdir=workdir, profile=profile)
  return _finish(workdir, settings, fitted, layout, {'meta_params': fitted.state.meta_params})


def meta_test_run(dataset: Dataset, *, checkpoint: str, config: meta_test.MetaTestConfig, split: str, protocol: str,
                  seed: int, workdir: str, baseline: bool = True, readout: dict | None = None,
                  compute_dtype: str | None = None, images: str = 'auto', layout: sharding.Layout | None = None) -> dict:
  """Scores a finished run on fixed, seeded tasks of unseen classes (phase 3).

  Args:
    dataset: the tasks come from its split `split`.
    checkpoint: work directory of a finished meta-training, or of a pre-training (then θ starts from zero: update θ).
    config: settings of the tasks and the inner loop.
    split: 'train', 'val' or 'test'.
    protocol: name to report; its settings are in `config`.
    seed: fixes the tasks.
    workdir: claimed for this run.
    baseline: also score, on the same tasks, the pre-trained backbone without meta-learning (update θ).
    readout: options of `backbones.read_out` that differ from those of `checkpoint`.
    compute_dtype: of convolutions, if not that of `checkpoint`.
    images: where they stay, as `placement.on_host` has it; the same tasks either way.
    layout: of the devices, over which the tasks are spread; None: one.

  Returns:
    The content of `results.json`; accuracies per task are saved beside it as `accuracies.npy`.

  Raises:
    ValueError: settings that make no sense, or a checkpoint or work directory of another kind.
    FileNotFoundError: `checkpoint` is not there.
    OSError: something could not be written.
  """
  learned = load(checkpoint, dataset.train.images.shape[1:], readout=readout, compute_dtype=compute_dtype)
  pool = getattr(dataset, split)
  episodes.check(pool, way=config.way, shot=config.shot, query=config.query, split=split)
  check_statistics(checkpoint, learned.settings, config.batch_stats_mode)
  plain = _plain_meta_params(learned.backbone, config.way)
  meta_params = learned.meta_params if learned.meta_params is not None else plain
  if meta_params.base_learner.bias.shape[0] != config.way:
    raise ValueError(f'expected way of {meta_params.base_learner.bias.shape[0]}, as {checkpoint} was meta-trained for, '
                     f'got {config.way}')
  settings = {'command': 'meta_test', 'dataset': dataset.name, 'split': split, 'protocol': protocol, 'seed': seed,
              'config': config._asdict(), 'baseline': baseline, 'images': _digest(pool),
              'checkpoint': learned.settings}
  if (results := _begun(workdir, settings)) is not None:
    return results
  began = time.monotonic()
  loops = _loops(hosts.on_first(lambda: memory.on_host(images, pool, num_parts=sharding.pool_parts(layout))))
  keys = meta_test.task_keys(_key(seed, _TEST), config.num_tasks)
  arguments = (loops.place(pool, layout), learned.mean, learned.std, keys)
  score = loops.scorer(*arguments, backbone=learned.backbone, config=config, layout=layout)
  per_task = np.asarray(score(meta_params, learned.backbone_vars))
  hosts.on_first(lambda: workdirs.write_array(workdir, 'accuracies.npy', per_task))
  accuracy, ci95 = meta_test.summarize(per_task)
  results = {'command': 'meta_test', 'accuracy': accuracy, 'ci95': ci95, 'num_tasks': config.num_tasks,
             'way': config.way, 'shot': config.shot, 'query': config.query, 'protocol': protocol, 'split': split,
             'dataset': dataset.name, 'method': _method(learned, config.adapts)}
  if baseline and learned.meta_params is not None:
    # Without meta-learning the paper adapts θ alone; a run that adapts the network is compared with that row.
    plain_score = loops.scorer(*arguments, backbone=learned.backbone, config=config._replace(adapts='head'),
                               layout=layout)
    value, interval = meta_test.summarize(plain_score(plain, learned.backbone_vars))
    results['baselines'] = {'update_theta': {'accuracy': value, 'ci95': interval}}
  results |= {'seed': seed, 'seconds': time.monotonic() - began, **_machine(layout)}

  def write():
    with MetricWriter(workdir, phase='meta_test') as writer:
      writer.write(config.num_tasks, {'accuracy': accuracy, 'ci95': ci95})
    workdirs.write_results(workdir, results)

  hosts.on_first(write)
  return results


def _key(seed: int, stream: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(seed), stream)


def _whole_calls(steps: int, steps_per_call: int) -> int:
  return -(-steps // steps_per_call) * steps_per_call


def _loops(on_host: bool) -> ModuleType:
  """The module whose functions read the images from where they stay."""
  if on_host:
    logging.info('images stay in host memory and are streamed')
  return from_host if on_host else on_device


def _plain_meta_params(network: Backbone, way: int) -> MetaParams:
  """No scale and shift, and a zero classifier: the pre-trained features as they are (update θ)."""
  return MetaParams({}, {}, base_learner.init(network.feature_dim, way), {})


def _settings(command: str, dataset: Dataset, backbone: dict, config: NamedTuple, seed: int) -> dict:
  return {'command': command, 'dataset': dataset.name, 'image_shape': list(dataset.train.images.shape[1:]),
          'num_classes': len(dataset.train.class_sizes), 'num_images': len(dataset.train.images),
          'images': {split: _digest(getattr(dataset, split)) for split in ('train', 'val')},
          'normalization': {'mean': np.asarray(dataset.mean).tolist(), 'std': np.asarray(dataset.std).tolist()},
          'backbone': backbone, 'config': config._asdict(), 'seed': seed}


def _digest(pool: ImagePool) -> int:
  """A checksum of the images, so that a work directory is not taken for that of a run on other data."""
  digest = zlib.crc32(np.asarray(pool.class_sizes, np.int32).tobytes())
  for start in range(0, len(pool.images), 1024):  # bounds the memory where images are mapped or cropped
    digest = zlib.crc32(np.ascontiguousarray(pool.images[start:start + 1024]), digest)
  return digest


def _method(learned: Learned, adapts: str) -> str:
  """The row of the paper's tables that a run stands for."""
  config = {'learn': 'none', 'scope': 'all', 'hard_tasks': 0}
  if learned.meta_params is not None:
    config = learned.settings['config']
  return learnable.row_name(config['learn'], config['scope'], adapts, bool(config['hard_tasks']))


def _begun(workdir: str, settings: dict) -> dict | None:
  """Claims the directory; gives the results of a run that ended earlier, after saying so, or None."""
  hosts.same_everywhere(settings, 'settings')

  def claim():
    workdirs.claim(workdir, settings)
    return workdirs.read_results(workdir)

  results = hosts.on_first(claim)
  if results is not None:
    logging.info('the run in %s is finished: nothing to do', workdir)
  return results


def _machine(layout: sharding.Layout | None) -> dict:
  """`device` and `versions`, and how many devices and processes shared the work if more than one."""
  several = {} if layout is None else {'num_devices': layout.size, 'num_processes': jax.process_count()}
  return workdirs.describe_machine() | several


def _finish(workdir: str, settings: dict, fitted: fit.Fitted, layout: sharding.Layout | None, trees: dict) -> dict:
  """Writes what the next phase reads, and last the results that mark the run as finished."""
  results = {'command': settings['command'], 'dataset': settings['dataset'], 'steps': fitted.last_step,
             'best_step': fitted.step, 'validation_accuracy': fitted.accuracy, 'seed': settings['seed'],
             'seconds': fitted.seconds, 'resumed_from': fitted.resumed_from, **_machine(layout)}

  def write():
    for name, tree in trees.items():
      checkpoints.save_tree(os.path.join(workdir, name), tree)
    workdirs.write_results(workdir, results)

  hosts.on_first(write)
  return results
