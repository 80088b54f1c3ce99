"""Images of validation and test never reach training, in whole runs of either phase."""
import functools

import jax
import numpy as np
import pytest

from mtl_jax import runs
from mtl_jax.configs import PretrainConfig
from mtl_jax.execution import on_device
from mtl_jax.phases import meta_train, pretrain
from mtl_jax.runs import finished, fit
from tests.phases import NORMALIZATION, tiny_network, toy_dataset
from tests.phases.one_layer import CONFIG


class _Captured(Exception):
  """Ends a run once what it would train on is known."""


@pytest.mark.parametrize('phase', ['pretrain', 'meta_train'])
def test_validation_and_test_images_never_reach_training(phase, tmp_path, monkeypatch):
  # A training call is a function of the state and of the arrays that it is compiled with: those
  # must not depend on validation and test images.
  backbone, variables = tiny_network()
  settings = {'command': 'pretrain', 'backbone': {'name': 'conv4', 'width': 4}, 'readout': {}}
  pretrained = finished.FinishedRun(backbone, variables, None, NORMALIZATION, settings)

  def stop(state, advance, validate, **options):
    raise _Captured(state, advance, options['num_steps'])

  monkeypatch.setattr(on_device, 'compiled', lambda step, *arguments, **_: (step, arguments))
  monkeypatch.setattr(fit, 'fit', stop)
  monkeypatch.setattr(finished, 'load', lambda *_, **__: pretrained)
  own = {'pretrain': functools.partial(runs.pretrain_run, backbone=settings['backbone'],
                                       config=PretrainConfig(steps=4, batch_size=8)),
         'meta_train': functools.partial(runs.meta_train_run, pretrained='', config=CONFIG)}[phase]
  captured = []
  for seed in (1, 8):
    with pytest.raises(_Captured) as error:
      own(toy_dataset(val_seed=seed), validation=runs.Validation(way=2), seed=0,
          workdir=str(tmp_path / str(seed)))
    state, (step, arguments), _ = error.value.args
    assert step is (pretrain.many_steps if phase == 'pretrain' else meta_train.cycle)
    arrays = (state, jax.random.key_data(arguments[0]), arguments[1:])
    captured.append(jax.tree.map(np.asarray, arrays))
  jax.tree.map(np.testing.assert_array_equal, *captured)
  images = toy_dataset().train.images
  assert any(np.array_equal(leaf, images) for leaf in jax.tree.leaves(captured[0]))
  assert np.any(toy_dataset(1).val.images != toy_dataset(8).val.images)
