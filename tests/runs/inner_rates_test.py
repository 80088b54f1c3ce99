"""The inner rate by validation tasks: the accuracies are those of meta-test at each rate."""
import dataclasses

import jax
import numpy as np
import pytest

from mtl_jax import data, episodes, execution, learnable
from mtl_jax.configs import TEST_LOOP, InnerLoop, MetaTestConfig, MetaTrainConfig
from mtl_jax.phases import encoding, meta_test
from mtl_jax.runs import finished, inner_rates, records, strengths, workdirs
from mtl_jax.runs.validation import Validation
from tests import tiny_runs

TASKS = Validation(num_tasks=8, way=3, shot=1, inner=dataclasses.replace(TEST_LOOP, steps=5))


def dataset():
  return data.load('folder', data_dir=tiny_runs.shared() / 'data', image_size=16)


def descend(features, labels, query, rate):
  """Five steps of gradient descent on cross-entropy from zero, in NumPy; predicted labels."""
  support, query = (np.append(x, np.ones((len(x), 1)), axis=1) for x in (features, query))
  weights, targets = np.zeros((3, support.shape[1])), np.eye(3)[labels]
  for _ in range(5):
    logits = support @ weights.T
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    weights -= rate * (shares - targets).T @ support / len(support)
  return (query @ weights.T).argmax(1)


def test_accuracies_are_those_of_gradient_descent_on_the_same_tasks():
  run = finished.load(tiny_runs.pretrained(), (16, 16, 3))
  pool = dataset().val
  found = inner_rates.accuracies(run, dataset(), TASKS, seed=3, rates=(0.01, 1.0))
  features = np.asarray(encoding.encode_batches(
      run.backbone_vars, [pool.images], run.normalization, backbone=run.backbone))
  keys = meta_test.task_keys(records.stream_key(3, 'validate'), 8)
  encoded = pool._replace(images=features.astype(np.float32), normalization=None)
  query = 7  # of the eight images of a class, one is support
  for rate, accuracy in found.items():
    correct = []
    for key in keys:
      task = episodes.sample(jax.random.clone(key), encoded, way=3, shot=1, query=query)
      predicted = descend(np.asarray(task.support, np.float64), np.asarray(task.support_labels),
                          np.asarray(task.query, np.float64), rate)
      correct.append(np.mean(predicted == task.query_labels))
    assert accuracy == pytest.approx(np.mean(correct), abs=0.5 / (8 * 21))


def test_the_rate_of_a_meta_training_has_the_lowest_loss_and_stays(tmp_path, monkeypatch):
  run = finished.load(tiny_runs.pretrained(), (16, 16, 3))
  config = MetaTrainConfig(way=3, inner=InnerLoop(steps=5))
  monkeypatch.setattr(strengths, 'NUM_TASKS', 8)
  found = inner_rates.chosen(tmp_path, run, dataset(), config, seed=3)
  losses = {float(rate): loss for rate, loss in found['losses'].items()}
  assert losses.keys() <= set(inner_rates.RATES)
  assert losses[found['inner_lr']] == min(losses.values()) < np.log(3)
  assert len(set(losses.values())) == len(losses)
  workdirs.claim(tmp_path, {'chosen_rate': {'inner_lr': 0.5, 'losses': {}}})
  kept = inner_rates.chosen(tmp_path, run, dataset(), config, seed=3)
  assert kept['inner_lr'] == 0.5


def test_a_meta_training_with_a_chosen_rate_says_so_and_resumes(tmp_path):
  flags = (f'--pretrained={tiny_runs.pretrained()}', '--inner_lr=auto', '--steps=4',
           f'--workdir={tmp_path / "run"}')
  said = tiny_runs.finished('meta_train', *flags).stdout
  settings = workdirs.read_settings(tmp_path / 'run')
  rate = settings['chosen_rate']['inner_lr']
  assert settings['config']['inner']['lr'] == settings['validation']['inner']['lr'] == rate
  assert workdirs.read_results(tmp_path / 'run')['inner_lr'] == rate
  assert f'inner rate {rate:g}, of the lowest query loss' in said
  again = tiny_runs.finished('meta_train', *flags)
  assert 'is finished: nothing to do' in again.stderr and 'choosing' not in again.stderr


def test_strengths_of_another_classifier_and_of_batch_statistics():
  run = finished.load(tiny_runs.pretrained(), (16, 16, 3))
  config = MetaTestConfig(num_tasks=6, way=3, query=4, inner=TASKS.inner)
  paper = meta_test.apply_protocol(config, 'paper')
  pool = dataset().val._replace(normalization=run.normalization)
  plain = learnable.nothing_learned(run.backbone, run.backbone_vars, 3, TASKS.inner)
  keys = meta_test.task_keys(records.stream_key(3, 'validate'), 6)
  for each, strength in ((dataclasses.replace(config, classifier='ridge'), 0.3), (paper, 0.1)):
    found = strengths.search(run, dataset(), each, seed=3, strengths=(strength, 1.0)).accuracies
    score = execution.make(False).scorer(pool, keys, backbone=run.backbone,
                                         config=strengths.with_strength(each, strength))
    expected = np.mean(np.asarray(score(plain, run.backbone_vars), np.float64))
    assert found[strength] == pytest.approx(expected, abs=1e-6) and len(found) == 2


def test_tasks_that_the_validation_classes_cannot_give_are_refused():
  run = finished.load(tiny_runs.pretrained(), (16, 16, 3))
  with pytest.raises(ValueError, match='way'):
    inner_rates.accuracies(run, dataset(), dataclasses.replace(TASKS, way=9), seed=0)
