"""A finished run as an object: its config, and a repr that fits into a line."""
from mtl_jax import backbones, configs
from mtl_jax.configs import InnerLoop, MetaTrainConfig, PretrainConfig
from mtl_jax.runs.finished import FinishedRun
from mtl_jax.types import BackboneVars, Normalization


def run(command, config):
  settings = {'command': command, 'config': configs.to_json(config), 'dataset': 'toy',
              'image_shape': [16, 16, 3], 'backbone': {'name': 'conv4'}}
  network = backbones.create('conv4', (16, 16, 3), width=2)
  return FinishedRun(network, BackboneVars({}, {}), None, Normalization(0.0, 1.0), settings)


def test_a_run_is_shown_in_one_short_line():
  assert repr(run('pretrain', PretrainConfig())) == (
      'FinishedRun(pretrain of conv4 on toy, images of 16x16x3)')


def test_the_config_of_a_run_is_that_it_was_trained_with():
  for command, config in (('pretrain', PretrainConfig(lr=0.02)),
                          ('meta_train', MetaTrainConfig(inner=InnerLoop(lr=0.2, steps=3)))):
    assert run(command, config).config == config
