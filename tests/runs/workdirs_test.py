import errno
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from mtl_jax.runs import workdirs
from tests import tiny_runs


def test_claim_makes_the_directory_and_the_same_settings_resume(tmp_path):
  workdir = tmp_path / 'runs' / 'x'
  settings = {'way': 5, 'shot': 1, 'inner_lr': 0.01, 'image_shape': (32, 32, 3), 'name': None}
  workdirs.claim(workdir, settings)
  workdirs.claim(workdir, settings)
  assert workdirs.read_settings(workdir) == settings | {'image_shape': [32, 32, 3]}
  assert os.listdir(workdir) == ['settings.json']


def test_claim_with_other_settings_names_what_differs(tmp_path):
  there = {'way': 5, 'shot': 5, 'dataset': 'fc100', 'old': 1}
  here = {'way': 5, 'shot': 1, 'dataset': 'glyphs', 'new': True}
  workdirs.claim(tmp_path, there | {'config': {'steps': 5, 'inner': {'lr': 0.1}}})
  with pytest.raises(ValueError) as error:
    workdirs.claim(tmp_path, here | {'config': {'steps': 5, 'inner': {'lr': 0.2}}})
  assert str(error.value) == (
      f'work directory {tmp_path} belongs to a run with other settings: '
      'config.inner.lr: 0.1 there, 0.2 here; dataset: "fc100" there, "glyphs" here; '
      'new: not set there, true here; old: 1 there, not set here; shot: 5 there, 1 here; '
      'choose another --workdir')
  assert workdirs.read_settings(tmp_path)['shot'] == 5


def test_claim_refuses_a_directory_of_something_else(tmp_path):
  (tmp_path / 'thesis.tex').write_text('x')
  with pytest.raises(ValueError, match='holds files but no settings.json'):
    workdirs.claim(tmp_path, {'way': 5})
  assert os.listdir(tmp_path) == ['thesis.tex']


def test_claim_goes_on_after_a_kill_while_the_settings_were_written(tmp_path):
  (tmp_path / 'settings.json.tmp').write_text('{"wa')
  workdirs.claim(tmp_path, {'way': 5})
  assert workdirs.read_settings(tmp_path) == {'way': 5}


def test_claim_says_so_where_no_directory_can_be(tmp_path):
  (tmp_path / 'file').write_text('x')
  with pytest.raises(ValueError, match='file is a file: expected a directory'):
    workdirs.claim(tmp_path / 'file', {})
  with pytest.raises(OSError, match='below cannot be made: Not a directory; choose another '
                                    '--workdir'):
    workdirs.claim(tmp_path / 'file' / 'below', {})


def test_claim_refuses_a_path_that_cannot_hold_checkpoints(tmp_path):
  with pytest.raises(ValueError, match=r'a path without \*, \? and \[ .*choose another --workdir'):
    workdirs.claim(tmp_path / 'a[b]' / 'run', {})
  assert not os.listdir(tmp_path)


def test_read_settings_errors(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere does not exist'):
    workdirs.read_settings(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='is not the work directory of a run'):
    workdirs.read_settings(tmp_path)
  for damaged in ('{"way": 5', '[1]', '', '[' * 100_000):
    (tmp_path / 'settings.json').write_text(damaged)
    for read in (lambda: workdirs.claim(tmp_path, {'way': 5}),
                 lambda: workdirs.begun_settings(tmp_path)):
      with pytest.raises(ValueError, match='settings.json is damaged: expected a JSON '
                                           'object') as error:
        read()
      assert '\n' not in str(error.value)


def test_begun_settings_are_those_of_the_run_or_none(tmp_path):
  assert workdirs.begun_settings(tmp_path / 'nowhere') == {}
  assert workdirs.begun_settings(tmp_path) == {}
  workdirs.claim(tmp_path / 'run', {'images_on_host': False})
  assert workdirs.begun_settings(tmp_path / 'run') == {'images_on_host': False}


def test_results_round_trip_and_replace(tmp_path):
  assert workdirs.read_results(tmp_path) is None
  workdirs.write_results(tmp_path, {'accuracy': 0.1})
  workdirs.write_results(tmp_path, {'accuracy': 0.6123456789, 'command': 'meta_test'})
  assert workdirs.read_results(tmp_path) == {'accuracy': 0.6123456789, 'command': 'meta_test'}
  assert os.listdir(tmp_path) == ['results.json']


def test_results_stay_when_the_new_ones_cannot_be_written(tmp_path, monkeypatch):
  workdirs.write_results(tmp_path, {'accuracy': 0.5})

  def full_disk(descriptor):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'fsync', full_disk)
  with pytest.raises(OSError, match='could not write .*results.json: No space left on device'):
    workdirs.write_results(tmp_path, {'accuracy': 0.6})
  assert workdirs.read_results(tmp_path) == {'accuracy': 0.5}
  assert os.listdir(tmp_path) == ['results.json']


def test_describe_machine_names_device_and_versions():
  machine = workdirs.describe_machine()
  assert json.loads(json.dumps(machine)) == machine
  assert machine['versions']['jax'] == jax.__version__
  assert machine['versions']['numpy'] == np.__version__
  assert machine['versions']['python'].count('.') == 2
  assert ('cpu, ' if jax.default_backend() == 'cpu' else ' x ') in machine['device']


def test_a_second_process_is_kept_out_and_a_killed_one_lets_go(tmp_path):
  code = ('import sys, time\nfrom mtl_jax.runs import workdirs\n'
          'with workdirs.in_use(sys.argv[1]):\n  print("in", flush=True)\n  time.sleep(60)')
  with subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], cwd=tiny_runs.ROOT,
                        stdout=subprocess.PIPE, text=True) as other:
    assert other.stdout.readline() == 'in\n'
    with pytest.raises(OSError, match='in use by another process'), workdirs.in_use(tmp_path):
      pass
    other.kill()
    other.wait()
  with workdirs.in_use(tmp_path):
    assert (tmp_path / '.lock').exists()
