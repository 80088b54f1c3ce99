"""What settings.json knows is refused before images are looked for, which here are nowhere."""
import pytest

from launch import command, meta_test, meta_train, pretrain
from mtl_jax import configs
from mtl_jax.configs import MetaTrainConfig, PretrainConfig
from mtl_jax.runs import Validation, finished, workdirs

RUN = {'command': 'pretrain', 'seed': 3, 'image_shape': [16, 16, 3],
       'backbone': {'name': 'conv4', 'width': None, 'compute_dtype': 'float32'},
       'config': configs.to_json(PretrainConfig(steps=50, crop_padding=2)),
       'validation': configs.to_json(Validation())}
SAME = ['--seed=3', '--backbone=conv4', '--image_size=16', '--steps=50']


def run(module, tmp_path, *flags):
  """The error that a command ends with."""
  given = [f'--workdir={tmp_path / "run"}', f'--data_dir={tmp_path / "nowhere"}', *flags]
  with pytest.raises(ValueError) as raised:
    module.run(command.parse(module.COMMAND, given))
  return str(raised.value)


def begin(tmp_path, settings):
  (tmp_path / 'run').mkdir()
  workdirs.write_json(tmp_path / 'run', 'settings.json', settings)


@pytest.mark.parametrize(('flags', 'says'), [
    ([], 'expected data_dir to be a folder'),
    (['--image_size=20'], 'other settings: image_shape: [16, 16, 3] there, [20, 20, 3] here; ch'),
    (['--center_crop=18'], 'image_shape: [16, 16, 3] there, [18, 18, 3] here'),
    (['--seed=4'], 'seed: 3 there, 4 here'),
    (['--batch_size=3'], 'config.batch_size: 128 there, 3 here'),
    (['--crop_padding=3'], 'config.crop_padding: 2 there, 3 here'),
    (['--backbone=resnet12'], 'backbone.name: "conv4" there, "resnet12" here'),
    (['--validation_tasks=7', '--shot=5'], 'validation.shot: 1 there, 5 here'),
])
def test_pretraining(tmp_path, flags, says):
  begin(tmp_path, RUN)
  assert says in run(pretrain, tmp_path, *SAME, *flags)


def test_the_size_that_images_have_by_themselves(tmp_path):
  begin(tmp_path, RUN)
  others = [flag for flag in SAME if 'size' not in flag]
  assert '[84, 84, 3] here' in run(pretrain, tmp_path, *others)
  assert '[32, 32, 3] here' in run(pretrain, tmp_path, *others, '--dataset=fc100')


@pytest.mark.parametrize(('module', 'flag'),
                         [(meta_train, 'pretrained'), (meta_test, 'checkpoint')])
def test_the_run_that_is_gone_on_from(tmp_path, monkeypatch, module, flag):
  monkeypatch.setattr(finished, 'trained_settings', lambda workdir: RUN)
  says = run(module, tmp_path, f'--{flag}=x', '--image_size=20')
  assert 'expected images of shape (16, 16, 3), as ' in says and 'got (20, 20, 3)' in says
  assert 'expected data_dir' in run(module, tmp_path, f'--{flag}=x', '--image_size=16')
  assert 'expected data_dir' in run(module, tmp_path, f'--{flag}=x', '--image_size=99',
                                    '--center_crop=16')


def test_meta_training(tmp_path, monkeypatch):
  monkeypatch.setattr(finished, 'trained_settings', lambda workdir: RUN)
  config = configs.to_json(MetaTrainConfig(steps=50))
  begin(tmp_path, {'command': 'meta_train', 'seed': 0, 'image_shape': [16, 16, 3],
                   'config': config, 'validation': {}})
  assert 'expected data_dir' in run(meta_train, tmp_path, '--pretrained=x', '--steps=99')
  assert 'config.query: 15 there, 4 here' in run(meta_train, tmp_path, '--pretrained=x',
                                                 '--query=4')
