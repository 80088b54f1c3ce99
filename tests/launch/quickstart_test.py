"""The quickstart over stand-ins for the phases; `commands_test` runs it whole."""
import json
import os

import numpy as np
import pytest

from launch import command, quickstart
from mtl_jax import configs, runs
from mtl_jax.phases import meta_test
from mtl_jax.runs import array_files

SHIFT = {'mtl_ht': 0.1, 'mtl': 0.05, 'ft_theta': 0.0, 'pretrain': 0.0}  # over update θ


class Phases:
  """Stands in for `mtl_jax.runs`: accuracies that make every gain known."""
  Machine, Validation = runs.Machine, runs.Validation

  def __init__(self):
    self.configs, self.tuned = {}, []

  def pretrain_run(self, dataset, *, workdir, config, **_):
    return self._keep(workdir, config)

  def meta_train_run(self, dataset, *, workdir, pretrained, config, **_):
    assert os.path.basename(pretrained) == 'pretrain'
    return self._keep(workdir, config)

  def meta_test_run(self, dataset, *, workdir, checkpoint, config, tuned, **_):
    row = os.path.basename(checkpoint)
    self.tuned.append(tuned)
    accuracies = np.random.default_rng(0).uniform(0.2, 0.8, config.num_tasks) + SHIFT[row]
    os.makedirs(workdir)
    array_files.write(workdir, 'accuracies.npy', accuracies)
    accuracy, ci95 = meta_test.summarize(accuracies)
    return {'accuracy': accuracy, 'ci95': ci95, 'inner_lr': 0.03, 'num_tasks': config.num_tasks,
            'seconds': 1.0}

  def _keep(self, workdir, config):
    self.configs[os.path.basename(workdir)] = config
    return {'seconds': 2.0}


@pytest.fixture
def phases(monkeypatch):
  stand_in = Phases()
  monkeypatch.setattr(quickstart, 'runs', stand_in)
  monkeypatch.setattr(quickstart.page_file, 'write', lambda *_: None)
  return stand_in


def test_rows_gains_and_results(tmp_path, phases, capsys):
  flags = [f'--workdir={tmp_path / "run"}', '--pretrain_steps=1', '--meta_steps=1',
           '--num_tasks=50', '--width=4']
  values = command.parse(quickstart.COMMAND, flags)
  quickstart.run(values)
  said = capsys.readouterr().out
  for name in ('MTL, HT meta-batch', 'MTL, meta-batch', 'FT θ', 'update θ', '50 test tasks',
               '+10.00 ± 0.00', '+5.00 ± 0.00', '+0.00 ± 0.00', 'pre-training 2 s'):
    assert name in said
  results = json.loads((tmp_path / 'run' / 'results.json').read_text())
  assert set(results['baselines']) == {'update_theta', 'ft_theta', 'mtl'}
  assert results['gains']['mtl_ht']['difference'] == pytest.approx(0.1)
  assert results['accuracy'] == results['meta_test']['mtl_ht']['accuracy']
  trained = phases.configs
  assert (trained['mtl_ht'].num_hard_tasks, trained['mtl'].num_hard_tasks) == (10, 0)
  assert trained['ft_theta'].learn == configs.Learn('head') and trained['pretrain'].steps == 1
  assert phases.tuned == [True] * 4
  # Given again, it shows what is there.
  quickstart.run(values)
  assert capsys.readouterr().out == said and len(phases.tuned) == 4
