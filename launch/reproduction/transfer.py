"""The transfer table: networks pre-trained elsewhere, meta-trained and tested on a target.

Every row is scored on the same tasks, and compared with update θ task by task. The inner rate is
that at which update θ is best on validation tasks, for each source, target and number of shots.
Under the work directory: `imagenet`, the imported weights; `TARGET/SOURCE/Kshot_seedS/ROW_PART`.
"""
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from absl import logging

from mtl_jax import runs, scale_shift
from mtl_jax.configs import TEST_LOOP, MetaTestConfig
from mtl_jax.data import transforms
from mtl_jax.phases import meta_test
from mtl_jax.runs import array_files, finished, inner_rates, workdirs
from mtl_jax.runs.validation import Validation
from mtl_jax.types import Dataset
from mtl_jax.weights import known, public_files, public_runs

from .. import meta_train
from ..flags import declared, method, task
from . import curves, table_runs, transfer_rows, transfer_table
from .transfer_rows import SCRATCH, Budget

WAY, QUERY = 5, 15
_READOUT = {'norm': 'l2'}  # an inner rate means the same for every network
_VALIDATION_TASKS = 300    # that choose the inner rate
Loader = Callable[[str, int | None, int | None], Dataset]  # (target, image size, channels)


class Place(NamedTuple):
  """One column of the table: where a network meets tasks."""
  source: str
  target: str
  shot: int
  seed: int

  @property
  def folder(self) -> str:
    """Its folder under the work directory."""
    source = os.path.basename(os.path.normpath(self.source))
    return os.path.join(self.target, source, f'{self.shot}shot_seed{self.seed}')


def reproduce(budget: Budget, load: Loader, *, workdir: str, command: str, first_seed: int,
              machine: runs.Machine) -> dict[str, Any]:
  """Runs what is not finished yet, and writes `results.json`, `table.md` and the figures.

  Args:
    budget: what shall be run.
    load: loads a target at an image size and with as many channels as a network takes.
    workdir: claimed for this table.
    command: the command line, for the report.
    first_seed: of the budget's seeds.
    machine: where and how the runs compute.

  Returns:
    The content of `results.json`.

  Raises:
    ValueError: settings that make no sense, or a work directory of another run.
    OSError: something could not be written, or another process works there.
  """
  settings = {'command': 'reproduce', 'table': 'transfer', 'first_seed': first_seed,
              **{name: list(value) if isinstance(value, tuple) else value
                 for name, value in budget._asdict().items()}}

  def compute():
    done = list(_run_all(budget, load, workdir, first_seed, machine))
    return {'command': 'reproduce', 'table': 'transfer', 'command_line': command,
            'seed': first_seed, 'cells': transfer_table.summarize(done)}

  return table_runs.run(workdir, settings, compute, transfer_table.write)


def _run_all(budget, load, workdir, first_seed, machine):
  """Yields (place, row, part, accuracies per task, facts) of every cell."""
  for target in budget.targets:
    for source in budget.sources:
      for shot in budget.shots:
        for seed in range(first_seed, first_seed + budget.seeds):
          place = Place(source, target, shot, seed)
          logging.info('%s on %s, %d-shot, seed %d', source, target, shot, seed)
          yield from _column(place, budget, load, workdir, machine)


def _column(place, budget, load, workdir, machine):
  """All rows of one source, target, number of shots and seed."""
  folder = os.path.join(workdir, place.folder)
  pretrained, dataset = _source(place, budget, load, workdir, machine)
  rate = _best_rate(place, dataset, pretrained, folder)
  common = {'public': 'imported' in finished.trained_settings(pretrained), 'data': dataset.name}
  for row in budget.rows if place.source != SCRATCH else ('update_theta',):
    for part in budget.parts if row != 'update_theta' else ('all',):
      kept = transforms.choose_classes(dataset, part)
      if len(kept.train.class_sizes) < WAY:
        logging.info('%s of %s has fewer than %d classes: left out', part, place.target, WAY)
        continue
      cell = os.path.join(folder, f'{row}_{part.replace(":", "").replace("/", "of")}')
      facts = _cell(place, row, kept, pretrained, rate, budget, cell, machine)
      accuracies = array_files.read(os.path.join(cell, 'meta_test', 'accuracies.npy'))
      yield place, row, part, accuracies, facts | common


def _source(place, budget, load, workdir, machine):
  """Returns (work directory of the pre-training, the target's images in its form)."""
  if place.source == SCRATCH:
    dataset = load(place.target, None, None)
    folder = os.path.join(workdir, place.target, SCRATCH, f'pretrain_seed{place.seed}')
    table_runs.pretrain((*budget.scratch, '--feature_norm=l2'), dataset, seed=place.seed,
                        workdir=folder, machine=machine)
    return folder, dataset
  folder = place.source
  if place.source in known.NAMES:
    ours, format = known.NAMES[place.source]
    folder, source = os.path.join(workdir, place.source), public_files.installed(ours)
    public_runs.write(folder, public_files.read(source), format, source=source, network=ours)
  settings = finished.trained_settings(folder)
  size, _, channels = settings['image_shape']
  if finished.takes_any_size(settings):
    size = budget.image_size
  return folder, load(place.target, size, channels)


def _best_rate(place, dataset, pretrained, folder) -> float:
  """The inner rate at which update θ is best on validation tasks; kept in `rates.json`."""
  tasks = Validation(num_tasks=_VALIDATION_TASKS, way=WAY, shot=place.shot, inner=TEST_LOOP)
  kept = workdirs.read_json(folder, 'rates.json')
  if kept is not None:
    return inner_rates.best({float(rate): value for rate, value in kept.items()})
  run = finished.load(pretrained, dataset.val.image_shape, readout=_READOUT)
  found = inner_rates.accuracies(run, dataset, tasks, seed=place.seed)
  os.makedirs(folder, exist_ok=True)
  workdirs.write_json(folder, 'rates.json', {str(rate): value for rate, value in found.items()})
  return inner_rates.best(found)


def _cell(place, row, dataset, pretrained, rate, budget, folder, machine) -> dict[str, Any]:
  """Meta-trains and tests one row; returns what the table says of the training."""
  values = _parse(meta_train.FLAGS, (
      *budget.meta_train, f'--way={WAY}', f'--shot={place.shot}', f'--inner_lr={rate}',
      *transfer_rows.flags_of(row)))
  config = method.meta_train_config(values, dataset)
  validation = task.validation(values, config.inner)
  facts: dict[str, Any] = {'seconds': 0.0, 'size': 0, 'inner_lr': config.inner.lr}
  checkpoint = pretrained
  if config.learn.learn != 'none':
    trained = runs.meta_train_run(dataset, pretrained=pretrained, config=config, readout=_READOUT,
                                  validation=validation, seed=place.seed, workdir=folder,
                                  machine=machine)
    checkpoint = folder
    facts |= {
        'seconds': trained['seconds'], 'best_step': trained['best_step'],
        'curve': curves.read_curve(folder),
        'images_per_step': config.meta_batch * WAY * (place.shot + config.query),
        'base_classes': len(dataset.train.class_sizes), 'size': _size(folder)}
  # The loop that chose the snapshot is the one that is tested.
  test = dataclasses.replace(_test(place, rate, budget.num_tasks), inner=validation.inner)
  results = runs.meta_test_run(
      dataset, checkpoint=checkpoint, config=test, split='test', protocol='inductive',
      seed=place.seed, workdir=os.path.join(folder, 'meta_test'), baseline=False,
      readout=_READOUT if checkpoint == pretrained else None, machine=machine)
  return facts | {'test_seconds': results['seconds']}


def _test(place: Place, rate: float, num_tasks: int) -> MetaTestConfig:
  return meta_test.apply_protocol(
      MetaTestConfig(num_tasks=num_tasks, way=WAY, shot=place.shot,
                     inner=dataclasses.replace(TEST_LOOP, lr=rate)), 'inductive')


def _size(folder: str) -> int:
  """Numbers that the outer loop has learned beside θ."""
  learned = finished.load(folder).meta_params
  assert learned is not None
  return scale_shift.count((learned.scale_shift, learned.weights))


def _parse(groups: declared.Groups, arguments: Sequence[str]):
  return declared.parse(groups, arguments, require=False)
