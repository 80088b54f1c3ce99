"""Phase 2 as one call on disk."""
import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from mtl_jax import configs, episodes, execution, sharding, stages
from mtl_jax.configs import MetaTrainConfig
from mtl_jax.execution import frozen_prefix, placement
from mtl_jax.phases import meta_train
from mtl_jax.runs import (
  decisions,
  finished,
  hosts,
  inner_rates,
  models,
  records,
  trackers,
  trainings,
)
from mtl_jax.runs.decisions import ONE_DEVICE, Machine
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.runs.time_budgets import TimeBudget, Training
from mtl_jax.runs.validation import Validation, check_validation, make_scorer
from mtl_jax.types import Dataset

C = TypeVar('C', MetaTrainConfig, Validation)


def meta_train_run(dataset: Dataset, *, pretrained: str | os.PathLike, config: MetaTrainConfig,
                   validation: Validation, seed: int, workdir: str | os.PathLike,
                   backbone: Mapping[str, Any] | None = None,
                   readout: Mapping[str, Any] | None = None, compute_dtype: str | None = None,
                   auto_rate: bool = False, machine: Machine = ONE_DEVICE,
                   budget: TimeBudget | None = None) -> dict[str, Any]:
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
    auto_rate: whether the inner rate is that of the lowest query loss on validation tasks before
      the first outer step, in place of those in `config` and `validation`; a resumed run keeps it.
    machine: where images stay, which devices share the tasks of a meta-batch, and how tasks that
      adapt kernels of their own are computed; the same tasks either way.
    budget: time that takes the place of `config.steps`; None for that number of steps. The outer
      rate is then halved after the share of the steps that `config` says.

  Returns:
    The content of `results.json`.

  Raises:
    ValueError: settings that make no sense, a backbone of another architecture or image size, or a
      work directory of another run.
    FileNotFoundError: `pretrained` is not there.
    FloatingPointError: the loss is no longer finite.
    OSError: something could not be written.
  """
  hosts.on_first(lambda: trackers.check(machine.trackers))
  workdir, layout = os.fspath(workdir), machine.layout
  run = finished.load(pretrained, dataset.train.image_shape, backbone=backbone,
                      readout=readout, compute_dtype=compute_dtype)
  _check(pretrained, run, dataset, config, validation, layout)
  chosen = {}
  if auto_rate:
    chosen = inner_rates.chosen(workdir, run, dataset, config, seed=seed)
    config = _at_rate(config, chosen['inner_lr'])
    validation = _at_rate(validation, chosen['inner_lr'])
  dataset = dataset.normalized_by(run.normalization)
  with stages.stage('deciding how the tasks are computed'):
    decided, cut = decisions.for_meta_training(workdir, machine, run, config, dataset)
  config = dataclasses.replace(
      config, inner=dataclasses.replace(config.inner, batching=decided.batching))
  settings = records.training_settings('meta_train', dataset, run.settings['backbone'], config,
                                       validation, seed)
  settings |= {'chosen_rate': chosen} if chosen else {}
  settings |= {'readout': run.settings['readout'], 'images_on_host': decided.images_on_host,
               'prefix_once': decided.prefix_once, 'pretrained': run.settings}
  settings |= budget.settings() if budget is not None else {}
  if (results := records.claim(workdir, settings)) is not None:
    return results

  frozen = hosts.tree_on_first(lambda: finished.keep_backbone(workdir, run.backbone_vars),
                               run.backbone_vars)
  network = run.backbone
  if cut is not None:
    with stages.stage('computing what the frozen lower part of the network makes of the images'):
      network = frozen_prefix.upper_part(run.backbone, cut, frozen)
      dataset = frozen_prefix.compute(cut, frozen, dataset, layout=layout)
  frozen = placement.replicate(frozen, layout)
  phases = execution.make(decided.images_on_host, layout)
  score = make_scorer(dataset, network, validation, records.stream_key(seed, 'validate'), phases)
  training = Training(
      lambda config: placement.replicate(meta_train.init(network, frozen, config), layout),
      lambda config: phases.meta_training(records.stream_key(seed, 'train'), frozen, dataset.train,
                                          backbone=network, config=config),
      lambda state: score(state.meta_params, frozen), _lay_over,
      meta_train.steps_per_cycle(config), validation.every)
  config, fitted = trainings.run(
      training, config, phase='meta_train', num_steps=_num_steps(config), workdir=workdir,
      budget=budget, profile=machine.profile, trackers=machine.trackers)
  trees = {models.BACKBONE: frozen, models.META_PARAMS: fitted.state.meta_params}
  return records.finish(workdir, settings | {'config': configs.to_json(config)}, fitted, layout,
                        trees, dataset.class_names.get('train'))


def _check(pretrained: str | os.PathLike, run: FinishedRun, dataset: Dataset,
           config: MetaTrainConfig, validation: Validation,
           layout: sharding.Layout | None) -> None:
  """Refuses, before anything compiles, what can't work."""
  episodes.check_episode(dataset.train, way=config.way, shot=config.shot, query=config.query,
                         split='train')
  check_validation(dataset, validation)
  meta_train.check_config(run.backbone, run.backbone_vars, config)
  sharding.check_divisible('meta_batch', config.meta_batch, layout)
  command = run.settings['command']
  if command != 'pretrain':
    raise ValueError(f'expected {pretrained} to hold a pre-training, got a {command}; name the '
                     '--workdir of a pre-training')
  finished.check_statistics(os.fspath(pretrained), run.settings, config.inner.batch_stats_mode,
                            validation.inner.batch_stats_mode)


def _at_rate(config: C, rate: float) -> C:
  return dataclasses.replace(config, inner=dataclasses.replace(config.inner, lr=rate))


def _lay_over(config: MetaTrainConfig, steps: int) -> MetaTrainConfig:
  """Returns the settings for other steps, with the rate halved after the same share of them."""
  halving = max(1, round(config.outer_lr_halving * steps / config.steps))
  return dataclasses.replace(config, steps=steps, outer_lr_halving=halving)


def _num_steps(config: MetaTrainConfig) -> int:
  if config.learn.learn == 'none':
    return 0
  return records.whole_calls(config.steps, meta_train.steps_per_cycle(config))
