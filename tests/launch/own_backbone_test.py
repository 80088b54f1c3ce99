"""--backbone=package.module:function, through every phase and into features."""
import json
import os
import sys

import numpy as np
import pytest

from launch import command, pretrain
from launch.flags import network
from tests import tiny_runs

NAME = 'tests.launch.own_network:make'
OWN = f'--backbone={NAME}'


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('own') / 'pretrained'
  flags = [flag for flag in tiny_runs.FLAGS['pretrain'] if not flag.startswith('--width')]
  result = tiny_runs.start('launch.pretrain', *tiny_runs.data_flags(), *flags, OWN,
                           f'--workdir={workdir}')
  assert result.returncode == 0, result.stderr
  return workdir


@pytest.mark.slow
def test_all_phases_and_features(pretrained, tmp_path):
  trained = tmp_path / 'trained'
  tiny_runs.finished('meta_train', OWN, f'--pretrained={pretrained}', f'--workdir={trained}')
  tiny_runs.finished('meta_test', OWN, f'--checkpoint={trained}', f'--workdir={tmp_path / "test"}')
  results = json.loads((tmp_path / 'test' / 'results.json').read_text())
  assert results['method'] == 'SS[Θ;θ], HT meta-batch' and 0 <= results['accuracy'] <= 1
  learned = json.loads((trained / 'settings.json').read_text())
  assert learned['backbone'] == {'name': NAME}
  out, images = tmp_path / 'x.npz', tiny_runs.shared() / 'data' / 'val'
  result = tiny_runs.start('launch.features', str(trained), str(images), OWN, f'--out={out}')
  assert result.returncode == 0, result.stderr
  assert np.load(out)['features'].shape == (3 * tiny_runs.IMAGES_PER_CLASS, 5)


def test_a_run_whose_network_was_not_named_again_says_how(pretrained):
  result = tiny_runs.start('launch.meta_test', *tiny_runs.data_flags(),
                           f'--checkpoint={pretrained}', '--num_tasks=4', '--query=2')
  assert result.returncode != 0 and OWN in result.stderr
  assert len(result.stderr.strip().splitlines()) == 1


def values(name):
  return command.parse(pretrain.COMMAND, [f'--backbone={name}', '--workdir=w', '--dataset=glyphs'])


def test_its_module_is_found_in_the_current_folder(tmp_path, monkeypatch):
  (tmp_path / 'mine_of_a_user.py').write_text('def make(image_shape):\n  return image_shape\n')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [path for path in sys.path if path not in ('', os.getcwd())])
  assert network.backbone_name(values('mine_of_a_user:make')) == 'mine_of_a_user:make'


@pytest.mark.parametrize('name, says', [
    ('no.such.module:make', "No module named 'no'"),
    ('tests.launch.own_network:other', "has no attribute 'other'"),
    ('tests.launch.own_network:not_a_function', 'to be a function from the image shape'),
    ('conv5', 'expected backbone to be one of clip_base_16')])
def test_refused(name, says):
  with pytest.raises(ValueError, match=says):
    network.backbone_name(values(name))
