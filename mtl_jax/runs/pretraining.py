"""Phase 1 as one call on disk."""
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from mtl_jax import backbones, configs, execution, learnable, sharding, stages
from mtl_jax.configs import PretrainConfig
from mtl_jax.execution import placement
from mtl_jax.phases import pretrain
from mtl_jax.runs import decisions, hosts, models, records, teachers, trackers, trainings
from mtl_jax.runs.decisions import ONE_DEVICE, Machine
from mtl_jax.runs.time_budgets import TimeBudget, Training
from mtl_jax.runs.validation import Validation, check_validation, make_scorer
from mtl_jax.types import Dataset


def pretrain_run(dataset: Dataset, *, backbone: Mapping[str, Any], config: PretrainConfig,
                 validation: Validation, seed: int, workdir: str | os.PathLike,
                 readout: Mapping[str, Any] | None = None,
                 machine: Machine = ONE_DEVICE, budget: TimeBudget | None = None,
                 teacher: str | os.PathLike | None = None) -> dict[str, Any]:
  """Pre-trains a backbone on the training classes (phase 1).

  Args:
    dataset: its train split is learned, its val split chooses the snapshot.
    backbone: options of `backbones.create`, with at least `name`.
    config: settings of the optimizer.
    validation: the tasks that choose the snapshot.
    seed: decides initial weights, batches and validation tasks.
    workdir: claimed for this run.
    readout: options of `backbones.read_out`, for the validation tasks and the phases that follow.
    machine: where images stay and which devices share each batch; the same batches either way.
    budget: time that takes the place of `config.steps`; None for that number of steps.
    teacher: work directory of a finished pre-training on the same images, whose answers are learned
      too (`phases.distillation`); None for no teacher.

  Returns:
    The content of `results.json`.

  Raises:
    FileNotFoundError: `teacher` is not there, or not finished.
    ValueError: settings that make no sense, a teacher of other images, or a work directory of
      another run.
    FloatingPointError: the loss is no longer finite.
    OSError: something could not be written.
  """
  hosts.on_first(lambda: trackers.check(machine.trackers))
  workdir, readout, layout = os.fspath(workdir), dict(readout or {}), machine.layout
  network = backbones.create(image_shape=dataset.train.image_shape, **backbone)
  network = backbones.read_out(network, **readout)
  check_validation(dataset, validation)
  sharding.check_divisible('batch_size', config.batch_size, layout)
  settings = records.training_settings('pretrain', dataset, backbone, config, validation, seed)
  decided = decisions.for_pretraining(workdir, machine, dataset)
  settings |= {'readout': readout, 'images_on_host': decided.images_on_host}
  settings |= budget.settings() if budget is not None else {}
  loaded = None
  if teacher is not None:
    loaded = teachers.load(teacher)
    teachers.check(loaded, settings, teacher)
    settings['teacher'] = teachers.describe(loaded)
  if (results := records.claim(workdir, settings)) is not None:
    return results

  num_classes = len(dataset.train.class_sizes)
  phases = execution.make(decided.images_on_host, layout)
  score = make_scorer(dataset, network, validation, records.stream_key(seed, 'validate'), phases)

  def start(config):
    with stages.stage(f'compiling the initial weights of {backbone["name"]}'):
      state = pretrain.init(records.stream_key(seed, 'init'), network, num_classes, config)
    return placement.replicate(state, layout)

  def train(config):
    return phases.pretraining(
        records.stream_key(seed, 'train'), dataset.train, loaded and loaded.teacher,
        backbone=network, config=config, teacher_network=loaded and loaded.network)

  training = Training(
      start, train, lambda state: score(
          learnable.nothing_learned(network, pretrain.learned(state), validation.way,
                                    validation.inner), pretrain.learned(state)),
      lambda config, steps: dataclasses.replace(config, steps=steps),
      config.steps_per_call, validation.every)
  config, fitted = trainings.run(
      training, config, phase='pretrain', workdir=workdir, budget=budget, profile=machine.profile,
      trackers=machine.trackers,
      num_steps=records.whole_calls(config.steps, config.steps_per_call))
  return records.finish(workdir, settings | {'config': configs.to_json(config)}, fitted, layout,
                        {models.BACKBONE: pretrain.learned(fitted.state)},
                        dataset.class_names.get('train'))
