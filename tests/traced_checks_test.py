"""MTL_JAX_CHECKS=1: traced values are refused too, in one line, wherever they are traced."""
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax import base_learner, checks, episodes, hard_tasks, learnable, sharding
from mtl_jax.configs import InnerLoop, MetaTestConfig
from mtl_jax.execution import from_host, on_device
from tests.checks_test import FEATURES, LABELS, THETA, pool
from tests.execution.toy_phases import network
from tests.phases import toy_pool


@pytest.fixture(autouse=True)
def checked(monkeypatch):
  monkeypatch.setattr(checks, 'ON', True)


def adapt(labels, features=FEATURES, rate=0.1):
  return base_learner.adapt(THETA, features, labels, FEATURES, inner_lr=rate, num_steps=2)


def refused(function, *arguments, says):
  with pytest.raises(ValueError) as raised:
    checks.jit(function)(*arguments)
  assert str(raised.value) == says


def test_labels_in_every_transformation(wrong=5):
  says = f'expected support_labels from 0 to 4, got {wrong}'
  labels = LABELS.at[2].set(wrong)
  batch = jnp.stack([LABELS, labels, LABELS])
  refused(adapt, labels, says=says)
  refused(jax.vmap(adapt), batch, says=says)
  refused(lambda batch: jax.lax.map(adapt, batch), batch, says=says)
  refused(lambda batch: jax.lax.scan(lambda c, x: (c, adapt(x).query_logits), 0, batch), batch,
          says=says)
  refused(jax.grad(lambda features, labels: adapt(labels, features).query_logits.sum()),
          FEATURES, labels, says=says)
  inner = jax.jit(lambda labels: base_learner.cross_entropy(jnp.zeros((5, 5)), labels))
  refused(lambda labels: inner(labels), labels, says=says.replace('support_', ''))
  refused(hard_tasks.failure_class, jnp.zeros((5, 5)), labels, jnp.arange(5),
          says=says.replace('support', 'query'))


def test_numbers_that_are_not_finite():
  features = FEATURES.at[0, 1].set(jnp.nan)
  refused(adapt, LABELS, features, says='expected finite support_features, got nan')
  refused(adapt, LABELS, FEATURES, jnp.array([0.1, -1]),
          says='expected inner_lr of at least 0, got -1.0')


@checks.jit
def draw(class_ids, sizes, offsets, query=3):
  drawn = pool([4, 3, 4])._replace(class_sizes=sizes, class_offsets=offsets)
  return episodes.sample(jax.random.key(0), drawn, way=2, shot=1, query=query, class_ids=class_ids)


@pytest.mark.parametrize(('class_ids', 'says'), [
    ([1, 1], 'expected distinct class_ids, got 1'),
    ([0, 3], 'expected class_ids from 0 to 2, got 3'),
    ([-1, 0], 'expected class_ids from 0 to 2, got -1'),
    ([0, 1], 'expected class_size of at least 4, got 3'),
])
def test_episodes_that_would_mix_classes(class_ids, says):
  places = (jnp.array([4, 3, 4], jnp.int32), jnp.array([0, 4, 7], jnp.int32))
  with pytest.raises(ValueError) as raised:
    draw(jnp.array(class_ids), *places)
  assert str(raised.value) == says
  found = draw(jnp.array([0, 2]), *places)
  assert found.query.shape[0] == 6
  found = episodes.sample(jax.random.key(1), pool([4, 4]), way=2, shot=1, query=3)
  assert found.query.shape[0] == 6


def test_several_devices(num=8):
  layout = sharding.make_layout(num)

  def score(batch, *, layout):
    own = jax.vmap(lambda labels: adapt(labels).query_logits)(batch)
    return sharding.all_gather_rows(own, num, layout)

  batch = jnp.stack([LABELS] * num)
  step = checks.jit(sharding.per_device(score, layout, rows=(0,)))
  np.testing.assert_allclose(step(batch)[0], adapt(LABELS).query_logits, rtol=1e-5)
  with pytest.raises(ValueError, match=fr'^at mapped index {num - 1}: expected support_labels '
                                       'from 0 to 4, got 7$'):
    step(batch.at[num - 1, 0].set(7))


def test_what_commands_compile():
  small = toy_pool([8, 8, 8, 3])
  keys = jax.random.split(jax.random.key(0), 9)
  config = MetaTestConfig(way=3, shot=1, query=3, inner=InnerLoop(steps=2))
  variables = network()[1]
  params = learnable.nothing_learned(*network(), 3, config.inner)
  for room in (on_device, from_host):
    with pytest.raises(ValueError, match='expected class_size of at least 4, got 3$'):
      room.scorer(small, jax.random.clone(keys), backbone=network()[0], config=config)(
          params, variables)


def test_nothing_is_looked_at_without_it(monkeypatch):
  monkeypatch.setattr(checks, 'ON', False)
  assert jnp.isnan(checks.jit(base_learner.cross_entropy)(jnp.zeros((5, 5)), LABELS.at[2].set(-1)))
  looked = str(jax.make_jaxpr(lambda labels: adapt(labels).query_logits)(LABELS))
  assert 'check' not in looked


@pytest.mark.parametrize(('value', 'on'), [('1', True), ('0', False), ('', False)])
def test_the_environment_turns_it_on(monkeypatch, value, on):
  monkeypatch.setenv('MTL_JAX_CHECKS', value)
  assert runpy.run_path(checks.__file__)['ON'] == on
