"""Rows of a meta-test: what each is, its own setting, and that they are compared task by task."""
import dataclasses
import json

import numpy as np
import pytest

from mtl_jax import augment, data, runs
from mtl_jax.configs import TEST_LOOP, MetaTestConfig
from mtl_jax.pages import replay, sources
from mtl_jax.runs import base_means, finished, inner_rates, meta_testing, strengths, workdirs
from tests import tiny_runs

CONFIG = MetaTestConfig(num_tasks=6, way=3, query=4, inner=dataclasses.replace(TEST_LOOP, steps=5))
RIDGE = dataclasses.replace(CONFIG, classifier='ridge')


def dataset():
  return data.load('folder', data_dir=tiny_runs.shared() / 'data', image_size=16)


def score(workdir, checkpoint, config=CONFIG, **options):
  return runs.meta_test_run(dataset(), checkpoint=checkpoint, config=config, split='test',
                            protocol='inductive', seed=0, workdir=workdir, **options)


@pytest.fixture(scope='module')
def ridge(tmp_path_factory):
  """A meta-trained run by ridge over features that are moved and centred: (folder, results)."""
  workdir = tmp_path_factory.mktemp('ridge') / 'test'
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(strengths, 'NUM_TASKS', 4)
    results = score(workdir, tiny_runs.meta_trained(), RIDGE, tuned=True, center=True,
                    readout={'shift': 2, 'norm': 'l2'})
  return workdir, results


def test_each_row_is_kept_and_compared_task_by_task(ridge):
  workdir, results = ridge
  ours = np.load(workdir / 'accuracies.npy').astype(np.float64)
  assert results['method'] == 'SS[Θ;θ], HT meta-batch, ridge'
  assert results['baselines'].keys() == results['gains'].keys() == {
      'update_theta', 'without_meta_learning'}
  for key, row in results['baselines'].items():
    theirs = np.load(workdir / f'accuracies_{key}.npy').astype(np.float64)
    assert row['accuracy'] == pytest.approx(theirs.mean())
    gain = results['gains'][key]
    assert gain['difference'] == pytest.approx((ours - theirs).mean())
    assert gain['ci95'] == pytest.approx(1.96 * (ours - theirs).std() / 6**0.5)


def test_each_row_has_the_setting_that_is_best_for_it_on_validation_tasks(ridge):
  workdir, results = ridge
  rows = {'tested': results, **results['baselines']}
  validated = results['validated']
  assert validated.keys() == rows.keys()
  for key, row in rows.items():
    found = {float(value): accuracy for value, accuracy in validated[key].items()}
    name, values = (('inner_lr', inner_rates.RATES) if key == 'update_theta' else
                    ('strength', strengths.candidates(RIDGE)))
    assert tuple(found) == values and row[name] == strengths.best(found)
  settings = workdirs.read_settings(workdir)
  assert settings['config']['strength'] == results['strength']
  assert settings['validated'] == validated


def test_update_theta_is_what_a_test_of_the_pretraining_finds(ridge, tmp_path, monkeypatch):
  workdir, results = ridge
  monkeypatch.setattr(strengths, 'NUM_TASKS', 4)
  plain = score(tmp_path / 'plain', tiny_runs.pretrained(), tuned=True, readout={'norm': 'l2'})
  assert 'baselines' not in plain and plain['method'] == 'update θ'
  assert plain['inner_lr'] == results['baselines']['update_theta']['inner_lr']
  np.testing.assert_array_equal(np.load(tmp_path / 'plain' / 'accuracies.npy'),
                                np.load(workdir / 'accuracies_update_theta.npy'))


def test_the_mean_of_the_base_classes(ridge):
  workdir, _ = ridge
  run = finished.load(tiny_runs.meta_trained(), readout={'shift': 2})
  pool = dataset().train  # all of its classes have fewer than the most images per class
  images = augment.normalize(pool.images, run.normalization)
  features = run.backbone.features(finished.network_of(run), images, batch_stats_mode='running')
  np.testing.assert_allclose(np.load(workdir / base_means.FILE), np.mean(features, axis=0),
                             rtol=1e-4, atol=1e-5)


def test_a_stopped_test_goes_on_with_the_settings_that_it_chose(ridge, monkeypatch):
  workdir, results = ridge
  (workdir / 'results.json').unlink()
  before = np.load(workdir / 'accuracies.npy')
  for function in ('search', 'validated'):
    monkeypatch.setattr(strengths, function, None)  # would be an error if it were called
  monkeypatch.setattr(base_means, 'mean', None)
  again = score(workdir, tiny_runs.meta_trained(), RIDGE, tuned=True, center=True,
                readout={'shift': 2, 'norm': 'l2'})
  np.testing.assert_array_equal(np.load(workdir / 'accuracies.npy'), before)
  assert again['gains'] == results['gains']


def test_a_page_finds_the_answers_again(ridge):
  workdir, _ = ridge
  test = sources.Test('test', str(workdir), workdirs.read_settings(workdir), None, None,
                      str(tiny_runs.meta_trained()))
  run = replay.load_run(test)
  answers = replay.replay(test, run, replay.Images(dataset().test, ()), range(6))
  np.testing.assert_allclose(answers.accuracies, np.load(workdir / 'accuracies.npy'), atol=1e-6)


def test_a_rate_stays_where_the_validation_classes_cannot_choose_it(tmp_path, caplog):
  few = dataset()
  few = few._replace(val=few.val._replace(images=few.val.images[:8],
                                          class_offsets=few.val.class_offsets[:1],
                                          class_sizes=few.val.class_sizes[:1]))
  run = finished.load(tiny_runs.pretrained(), (16, 16, 3))
  assert strengths.validated(run, few, CONFIG, seed=0) == {}
  assert 'the validation classes cannot choose it' in caplog.text


def test_another_classifier_is_for_features_as_they_are(tmp_path):
  config = dataclasses.replace(RIDGE, inner=dataclasses.replace(CONFIG.inner, adapts='all'))
  with pytest.raises(ValueError, match='classifier=gd where the inner loop adapts all, got ridge'):
    meta_testing._check_classifier(config)
  with pytest.raises(ValueError, match='expected classifier to be one of gd'):
    meta_testing._check_classifier(dataclasses.replace(CONFIG, classifier='svm'))


def test_the_command_prints_gains_over_the_same_tasks():
  result = tiny_runs.finished('meta_test', f'--checkpoint={tiny_runs.meta_trained()}',
                              '--classifier=nearest_mean',
                              f'--workdir={tiny_runs.shared() / "nearest"}')
  results = json.loads((tiny_runs.shared() / 'nearest' / 'results.json').read_text())
  gain = results['gains']['update_theta']
  assert f'{100 * gain["difference"]:+.2f} ± {100 * gain["ci95"]:.2f}' in result.stdout
  assert 'the same without meta-learning' in result.stdout and 'strength' not in results
