"""What an earlier version wrote is read, and gone on from: a setting it had not has its default."""
import pytest

from mtl_jax import configs
from mtl_jax.configs import MetaTestConfig, MetaTrainConfig, PretrainConfig
from mtl_jax.runs import records
from mtl_jax.runs.validation import Validation


def test_a_field_that_an_earlier_version_had_not_has_its_default():
  config = PretrainConfig(steps=30, color=0.2)
  stored = configs.to_json(config)
  assert configs.from_json(PretrainConfig, stored) == config
  del stored['color']
  assert configs.from_json(PretrainConfig, stored) == PretrainConfig(steps=30)
  stored = configs.to_json(MetaTestConfig(num_tasks=3))
  del stored['inner']['steps'], stored['inner']['gradient_order']  # 100 and first order in a test
  assert configs.from_json(MetaTestConfig, stored) == MetaTestConfig(num_tasks=3)


def test_the_work_directory_of_an_earlier_version_is_that_of_the_same_run(tmp_path):
  pretrained = {'command': 'pretrain', 'config': configs.to_json(PretrainConfig(steps=30)),
                'validation': configs.to_json(Validation(way=3)), 'seed': 1}
  here = {'command': 'meta_train', 'config': configs.to_json(MetaTrainConfig(steps=7)),
          'pretrained': pretrained}
  there = {**here, 'pretrained': {**pretrained, 'config': dict(pretrained['config'])},
           'config': dict(here['config'])}
  there['pretrained']['validation'] = configs.to_json(Validation(way=3))
  del there['pretrained']['config']['ema'], there['config']['failure_weights']
  del there['pretrained']['validation']['inner']['regularization']
  records.claim(str(tmp_path / 'run'), there)
  assert records.claim(str(tmp_path / 'run'), here) is None
  assert records.claim(str(tmp_path / 'run'), there) is None
  other = {**here, 'config': configs.to_json(MetaTrainConfig(steps=7, failure_weights='equal'))}
  with pytest.raises(ValueError, match='config.failure_weights: "counts" there, "equal" here'):
    records.claim(str(tmp_path / 'run'), other)
  later = {**here, 'config': {**here['config'], 'unknown': 3}}
  with pytest.raises(ValueError, match='config.unknown'):
    records.claim(str(tmp_path / 'run'), later)
