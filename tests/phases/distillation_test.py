"""Learning a teacher's answers: the formula, its gradient, whole runs, and what is refused."""
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from mtl_jax import backbones, configs
from mtl_jax.configs import PretrainConfig
from mtl_jax.phases import distillation, pretrain
from mtl_jax.runs import teachers
from mtl_jax.runs.checkpoints import Checkpoints
from mtl_jax.types import BackboneVars, BaseLearner
from tests import tiny_runs

RNG = np.random.default_rng(0)


def by_hand(scores, taught, temperature):
  p, q = (special.softmax(x / temperature, axis=1) for x in (taught, scores))
  return temperature**2 * np.mean(np.sum(p * (np.log(p) - np.log(q)), axis=1))


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_divergence_is_that_of_its_formula(temperature):
  scores, taught = RNG.normal(0, 3, (2, 7, 5))
  found = distillation.divergence(scores, taught, temperature)
  np.testing.assert_allclose(found, by_hand(scores, taught, temperature), rtol=1e-5)
  assert float(distillation.divergence(taught, taught, temperature)) == pytest.approx(0, abs=1e-6)


def test_its_gradient_is_the_difference_of_the_probabilities():
  """d/dz T² KL / n = T (softmax(z / T) - softmax(z_teacher / T)) / n."""
  scores, taught = RNG.normal(0, 3, (2, 7, 5)).astype(np.float32)
  found = jax.grad(distillation.divergence)(scores, taught)
  expected = 4 * (special.softmax(scores / 4, 1) - special.softmax(taught / 4, 1)) / 7
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_the_loss_of_pre_training_mixes_both():
  network = backbones.create('conv4', image_shape=(16, 16, 3), width=4)
  variables = network.init(jax.random.key(0))
  images, labels = RNG.normal(size=(6, 16, 16, 3)).astype(np.float32), np.arange(6) % 3
  head = (BaseLearner(jnp.asarray(RNG.normal(size=(network.feature_dim, 3)), jnp.float32),
                      jnp.zeros(3)),)
  taught = RNG.normal(0, 2, (6, 5)).astype(np.float32)  # two columns more, of turns

  def value(share, teach):
    config = PretrainConfig(distillation=share)
    return float(pretrain.loss((variables.params, head), variables.batch_stats, images, labels,
                               teach, backbone=network, config=config)[0])

  features, _ = network.train_features(BackboneVars(*variables[:2]), images)
  scores = np.asarray(features) @ np.asarray(head[0].kernel)
  plain, soft = value(0.5, None), by_hand(scores, taught[:, :3], 4.0)
  assert value(0.3, lambda _: taught) == pytest.approx(0.7 * plain + 0.3 * soft, rel=1e-5)
  assert value(0.0, lambda _: taught) == pytest.approx(plain, rel=1e-6)


def test_a_teacher_without_its_network_is_refused():
  loaded = teachers.load(tiny_runs.pretrained())
  state = pretrain.init(jax.random.key(0), loaded.network, 4, PretrainConfig())
  images = np.zeros((4, 16, 16, 3), np.uint8)
  for given in ({'teacher': loaded.teacher}, {'teacher_network': loaded.network}):
    with pytest.raises(ValueError, match='expected teacher and teacher_network together'):
      pretrain.step_on(state, images, np.arange(4), pretrain.batch_keys(jax.random.key(1), 0), None,
                       backbone=loaded.network, config=PretrainConfig(), **given)


@pytest.mark.parametrize('flags', [[], ['--hidden_units=6', '--ema=0.9', '--rotation_weight=0.4']])
def test_the_teacher_is_the_network_whose_classifier_it_has(tmp_path, flags):
  workdir = tiny_runs.pretrained()
  if flags:
    workdir = tmp_path / 'run'
    tiny_runs.finished('pretrain', f'--workdir={workdir}', *flags)
  loaded = teachers.load(workdir)
  network, settings = loaded.network, loaded.settings
  config = configs.from_json(PretrainConfig, settings['config'])
  like = jax.eval_shape(lambda key: pretrain.init(key, network, 4, config), jax.random.key(0))
  step, state = Checkpoints(workdir / 'checkpoints').restore_best(like)
  assert step == json.loads((workdir / 'results.json').read_text())['best_step'] > 0
  images = jnp.asarray(RNG.normal(size=(5, 16, 16, 3)), jnp.float32)
  features = network.features(state.backbone, images, batch_stats_mode='running')
  expected = pretrain.classify(state.head, features)
  found = distillation.teach(loaded.teacher, images, network=network)
  assert found.shape == (5, 8 if flags else 4) and float(jnp.std(found)) > 0
  np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
  """A student of the tiny pre-training."""
  workdir = tmp_path_factory.mktemp('student') / 'run'
  tiny_runs.finished('pretrain', f'--teacher={tiny_runs.pretrained()}', f'--workdir={workdir}')
  return workdir


def test_a_student_learns_something_else_and_says_of_whom(taught):
  metrics = [[json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
             for run in (taught, tiny_runs.pretrained())]
  losses = [[line['loss'] for line in run if 'loss' in line] for run in metrics]
  assert len(losses[0]) == len(losses[1]) and losses[0] != losses[1]
  settings = json.loads((taught / 'settings.json').read_text())
  assert settings['teacher']['command'] == 'pretrain'
  assert settings['config']['distillation'] == 0.5


def test_a_student_can_teach(taught, tmp_path):
  tiny_runs.finished('pretrain', f'--teacher={taught}', f'--workdir={tmp_path / "run"}',
                     '--images=host')
  settings = json.loads((tmp_path / 'run' / 'settings.json').read_text())
  assert settings['teacher']['teacher']['command'] == 'pretrain'


@pytest.mark.parametrize(('flags', 'says'), [
    (['--distillation=0.5'], '--distillation goes with --teacher'),
    (['--teacher=nowhere'], 'nowhere')])
def test_refusals_before_anything_is_read(tmp_path, flags, says):
  result = tiny_runs.launch('pretrain', f'--workdir={tmp_path / "run"}', *flags)
  assert result.returncode in (1, 2) and says in result.stderr
  assert len(result.stderr.splitlines()) == 1 and not (tmp_path / 'run').exists()


def test_what_is_no_teacher_is_refused(tmp_path):
  with pytest.raises(ValueError, match='to be the work directory of a pre-training'):
    teachers.load(tiny_runs.meta_trained())
  shutil.copytree(tiny_runs.pretrained(), tmp_path / 'model',
                  ignore=shutil.ignore_patterns('checkpoints'))
  with pytest.raises(ValueError, match='with its checkpoints, .* found none'):
    teachers.load(tmp_path / 'model')
  untrained = tmp_path / 'untrained'
  tiny_runs.finished('pretrain', f'--workdir={untrained}', '--steps=0')
  with pytest.raises(ValueError, match='best snapshot of .* is that before its first step'):
    teachers.load(untrained)
  damaged = shutil.copytree(tiny_runs.pretrained(), tmp_path / 'damaged')
  best = json.loads((damaged / 'results.json').read_text())['best_step']
  for path in (damaged / 'checkpoints' / str(best)).rglob('*'):
    if path.is_file():
      path.write_bytes(b'x')
  with pytest.raises(ValueError, match=f'checkpoint of step {best} in .* is damaged'):
    teachers.load(damaged)
  loaded = teachers.load(tiny_runs.pretrained())
  same = dict(loaded.settings)
  teachers.check(loaded, same, 'x')
  for change in ({'num_classes': 5}, {'images': {'train': [1, 2]}}, {'image_shape': [8, 8, 3]}):
    with pytest.raises(ValueError, match='of the same images and base classes'):
      teachers.check(loaded, same | change, 'x')
