"""A whole phase as one call, on disk: claim a work directory, train or test with resuming, write `results.json`.

A finished run leaves trees that the next phase reads: `backbone` (Θ) and, after meta-training, `meta_params` (Φ_S, θ).
"""
import functools
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from mtl_jax import backbones, base_learner, checkpoints, episodes, training, workdirs
from mtl_jax.phases import meta_test, meta_train, pretrain
from mtl_jax.types import Backbone, BackboneVars, Dataset, ImagePool, MetaParams

# Streams of random numbers of one run, split off its seed; the test tasks depend on the seed alone.
_INIT, _TRAIN, _VALIDATE, _TEST = range(4)


class Validation(NamedTuple):
  """Few-shot tasks of the validation classes that choose the best snapshot; fixed by the seed."""
  every: int = 250       # steps
  num_tasks: int = 500
  way: int = 5
  shot: int = 1
  inner_lr: float = 0.01
  inner_steps: int = 100


class Learned(NamedTuple):
  """What a finished run hands on."""
  backbone: Backbone
  backbone_vars: BackboneVars
  meta_params: MetaParams | None  # None after pre-training
  settings: dict                  # of the run, as in its settings.json


def pretrain_run(dataset: Dataset, *, backbone: dict, config: pretrain.PretrainConfig, validation: Validation,
                 seed: int, workdir: str) -> dict:
  """Pre-trains a backbone on the training classes (phase 1).

  Args:
    dataset: its train split is learned, its val split chooses the snapshot.
    backbone: options of `backbones.create`, with at least `name`.
    config: settings of the optimizer.
    validation: the tasks that choose the snapshot.
    seed: decides initial weights, batches and validation tasks.
    workdir: claimed for this run.

  Returns:
    The content of `results.json`.

  Raises:
    ValueError: settings that make no sense, or a work directory of another run.
    FloatingPointError: the loss is no longer finite.
    OSError: something could not be written.
  """
  image_shape = dataset.train.images.shape[1:]
  network = backbones.create(image_shape=image_shape, **backbone)
  _check_validation(dataset, validation)
  settings = _settings('pretrain', dataset, backbone, config, seed) | {'validation': validation._asdict()}
  workdirs.claim(workdir, settings)
  if (results := _finished(workdir)) is not None:
    return results
  state = pretrain.init(_key(seed, _INIT), network, len(dataset.train.class_sizes), config)
  advance = _compiled(pretrain.many_steps, _key(seed, _TRAIN), _on_device(dataset.train), dataset.mean, dataset.std,
                      backbone=network, config=config)
  score = _validator(dataset, network, validation, seed)
  plain = _plain_meta_params(network, validation.way)
  fitted = training.fit(state, advance, lambda s: score(plain, s.backbone), phase='pretrain', num_steps=config.steps,
                        validate_every=validation.every, workdir=workdir)
  return _finish(workdir, settings, fitted, {'backbone': fitted.state.backbone})


def meta_train_run(dataset: Dataset, *, pretrained: str, config: meta_train.MetaTrainConfig, validation: Validation,
                   seed: int, workdir: str, backbone: dict | None = None) -> dict:
  """Meta-learns Φ_S and θ over a pre-trained backbone (phase 2).

  Args:
    dataset: tasks come from its train split; its val split chooses the snapshot.
    pretrained: work directory of a finished pre-training.
    config: settings of the outer and inner loop.
    validation: the tasks that choose the snapshot.
    seed: decides tasks and validation tasks.
    workdir: claimed for this run; receives a copy of the backbone, so that it stands alone.
    backbone: options of `backbones.create` that `pretrained` must match; None takes those it has.

  Returns:
    The content of `results.json`.

  Raises:
    ValueError: settings that make no sense, a backbone of another architecture or image size, or a work directory of
      another run.
    FileNotFoundError: `pretrained` is not there.
    FloatingPointError: the loss is no longer finite.
    OSError: something could not be written.
  """
  learned = load(pretrained, dataset.train.images.shape[1:], backbone)
  episodes.check(dataset.train, way=config.way, shot=config.shot, query=config.query, split='train')
  _check_validation(dataset, validation)
  meta_train.steps_per_cycle(config)
  mean, std = (np.asarray(learned.settings['normalization'][name], np.float32) for name in ('mean', 'std'))
  settings = _settings('meta_train', dataset._replace(mean=mean, std=std), learned.settings['backbone'], config, seed)
  settings |= {'validation': validation._asdict(), 'pretrained': learned.settings}
  workdirs.claim(workdir, settings)
  if (results := _finished(workdir)) is not None:
    return results
  network, frozen = learned.backbone, learned.backbone_vars
  state = meta_train.init(network, frozen, config)
  advance = _compiled(meta_train.cycle, _key(seed, _TRAIN), frozen, _on_device(dataset.train), mean, std,
                      backbone=network, config=config)
  score = _validator(dataset._replace(mean=mean, std=std), network, validation, seed)
  fitted = training.fit(state, advance, lambda s: score(s.meta_params, frozen), phase='meta_train',
                        num_steps=config.steps, validate_every=validation.every, workdir=workdir)
  return _finish(workdir, settings, fitted, {'backbone': frozen, 'meta_params': fitted.state.meta_params})


def meta_test_run(dataset: Dataset, *, checkpoint: str, config: meta_test.MetaTestConfig, split: str, protocol: str,
                  seed: int, workdir: str, baseline: bool = True) -> dict:
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

  Returns:
    The content of `results.json`; accuracies per task are saved beside it as `accuracies.npy`.

  Raises:
    ValueError: settings that make no sense, or a checkpoint or work directory of another kind.
    FileNotFoundError: `checkpoint` is not there.
    OSError: something could not be written.
  """
  learned = load(checkpoint, dataset.train.images.shape[1:])
  pool = getattr(dataset, split)
  episodes.check(pool, way=config.way, shot=config.shot, query=config.query, split=split)
  plain = _plain_meta_params(learned.backbone, config.way)
  meta_params = learned.meta_params if learned.meta_params is not None else plain
  if meta_params.base_learner.bias.shape[0] != config.way:
    raise ValueError(f'expected way of {meta_params.base_learner.bias.shape[0]}, as {checkpoint} was meta-trained for, '
                     f'got {config.way}')
  settings = {'command': 'meta_test', 'dataset': dataset.name, 'split': split, 'protocol': protocol, 'seed': seed,
              'config': config._asdict(), 'baseline': baseline, 'checkpoint': learned.settings}
  workdirs.claim(workdir, settings)
  if (results := _finished(workdir)) is not None:
    return results
  began = time.monotonic()
  mean, std = (np.asarray(learned.settings['normalization'][name], np.float32) for name in ('mean', 'std'))
  score = jax.jit(functools.partial(meta_test.accuracies, backbone=learned.backbone, config=config))
  arguments = (learned.backbone_vars, _on_device(pool), mean, std,
               meta_test.task_keys(_key(seed, _TEST), config.num_tasks))
  per_task = np.asarray(score(meta_params, *arguments))
  _save_array(os.path.join(workdir, 'accuracies.npy'), per_task)
  accuracy, ci95 = meta_test.summarize(per_task)
  results = {'command': 'meta_test', 'accuracy': accuracy, 'ci95': ci95, 'num_tasks': config.num_tasks,
             'way': config.way, 'shot': config.shot, 'query': config.query, 'protocol': protocol, 'split': split,
             'dataset': dataset.name, 'method': _method(learned)}
  if baseline and learned.meta_params is not None:
    value, interval = meta_test.summarize(score(plain, *arguments))
    results['baselines'] = {'update_theta': {'accuracy': value, 'ci95': interval}}
  results |= {'seed': seed, 'seconds': time.monotonic() - began, **workdirs.describe_machine()}
  workdirs.write_results(workdir, results)
  return results


def load(workdir: str, image_shape: tuple[int, int, int], backbone: dict | None = None) -> Learned:
  """Reads what a finished pre-training or meta-training has learned.

  Args:
    workdir: of that run.
    image_shape: (H, W, C) of the images that it will be used on.
    backbone: options of `backbones.create` to expect; None takes those of the run.

  Returns:
    A Learned.

  Raises:
    FileNotFoundError: no such directory, or the run in it is not finished.
    ValueError: not a run of ours, another architecture or another image size.
  """
  settings = trained_settings(workdir)
  if list(image_shape) != settings['image_shape']:
    raise ValueError(f'expected images of shape {tuple(settings["image_shape"])}, as {workdir} was trained on, '
                     f'got {tuple(image_shape)}; choose another --image_size or --dataset')
  network = backbones.create(image_shape=image_shape, **settings['backbone'] | (backbone or {}))
  like = jax.eval_shape(network.init, jax.random.key(0))
  try:
    backbone_vars = checkpoints.load_tree(os.path.join(workdir, 'backbone'), like)
  except ValueError as error:
    if backbone is None:
      raise
    raise ValueError(f'{error}; --backbone and --width must be those of {workdir}, or be left out') from error
  meta_params = None
  if settings['command'] == 'meta_train':
    config = meta_train.MetaTrainConfig(**settings['config'])
    like = jax.eval_shape(lambda v: meta_train.init(network, v, config).meta_params, backbone_vars)
    meta_params = checkpoints.load_tree(os.path.join(workdir, 'meta_params'), like)
  return Learned(network, backbone_vars, meta_params, settings)


def trained_settings(workdir: str) -> dict:
  """Reads the settings of a finished pre-training or meta-training.

  Args:
    workdir: of that run.

  Returns:
    The content of its `settings.json`.

  Raises:
    FileNotFoundError: no such directory, or the run in it is not finished.
    ValueError: not a run of ours.
  """
  settings = workdirs.read_settings(workdir)
  if settings.get('command') not in ('pretrain', 'meta_train'):
    raise ValueError(f'expected {workdir} to hold a pre-training or meta-training, got {settings.get("command")!r}; '
                     'name the --workdir of one')
  if workdirs.read_results(workdir) is None:
    raise FileNotFoundError(f'{settings["command"]} in {workdir} is not finished: start it again to finish it')
  return settings


def _key(seed: int, stream: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(seed), stream)


def _on_device(pool: ImagePool) -> ImagePool:
  return jax.tree.map(jnp.asarray, pool)


def _compiled(step: Callable, *arguments, **options) -> Callable:
  """The one jit of a training phase: the state is donated, everything else stays on the device."""
  jitted = jax.jit(functools.partial(step, **options), donate_argnums=0)
  return lambda state: jitted(state, *arguments)


def _plain_meta_params(network: Backbone, way: int) -> MetaParams:
  """No scale and shift, and a zero classifier: the pre-trained features as they are (update θ)."""
  return MetaParams({}, base_learner.init(network.feature_dim, way))


def _validator(dataset: Dataset, network: Backbone, validation: Validation, seed: int) -> Callable:
  config = meta_test.MetaTestConfig(validation.num_tasks, validation.way, validation.shot, _query(dataset, validation),
                                    validation.inner_lr, validation.inner_steps)
  score = jax.jit(functools.partial(meta_test.accuracies, backbone=network, config=config))
  arguments = (_on_device(dataset.val), dataset.mean, dataset.std,
               meta_test.task_keys(_key(seed, _VALIDATE), validation.num_tasks))
  return lambda meta_params, variables: float(np.mean(score(meta_params, variables, *arguments)))


def _query(dataset: Dataset, validation: Validation) -> int:
  """15 queries per class, or as many as the smallest validation class has left."""
  return min(15, int(np.min(dataset.val.class_sizes)) - validation.shot)


def _check_validation(dataset: Dataset, validation: Validation) -> None:
  episodes.check(dataset.val, way=validation.way, shot=validation.shot, query=max(1, _query(dataset, validation)),
                 split='val')


def _settings(command: str, dataset: Dataset, backbone: dict, config: NamedTuple, seed: int) -> dict:
  normalization = {'mean': np.asarray(dataset.mean).tolist(), 'std': np.asarray(dataset.std).tolist()}
  return {'command': command, 'dataset': dataset.name, 'image_shape': list(dataset.train.images.shape[1:]),
          'num_classes': len(dataset.train.class_sizes), 'num_images': len(dataset.train.images),
          'normalization': normalization, 'backbone': backbone, 'config': config._asdict(), 'seed': seed}


def _save_array(path: str, array: np.ndarray) -> None:
  try:
    np.save(path, array)
  except OSError as error:
    raise OSError(f'could not write {path}: {error.strerror or error}') from error


def _method(learned: Learned) -> str:
  """The row of the paper's tables that a run stands for."""
  if learned.meta_params is None:
    return 'update θ'
  config = learned.settings['config']
  name = {'ss': 'SS[Θ;θ]', 'head': 'FT θ'}[config['learn']]
  return f'{name}, HT meta-batch' if config['hard_tasks'] else f'{name}, meta-batch'


def _finished(workdir: str) -> dict | None:
  """The results of a run that ended earlier, after saying so; None where there is work to do."""
  results = workdirs.read_results(workdir)
  if results is not None:
    logging.info('the run in %s is finished: nothing to do', workdir)
  return results


def _finish(workdir: str, settings: dict, fitted: training.Fitted, trees: dict) -> dict:
  """Writes what the next phase reads, and last the results that mark the run as finished."""
  for name, tree in trees.items():
    checkpoints.save_tree(os.path.join(workdir, name), tree)
  results = {'command': settings['command'], 'dataset': settings['dataset'], 'steps': settings['config']['steps'],
             'best_step': fitted.step, 'validation_accuracy': fitted.accuracy, 'seed': settings['seed'],
             'seconds': fitted.seconds, 'resumed_from': fitted.resumed_from, **workdirs.describe_machine()}
  workdirs.write_results(workdir, results)
  return results
