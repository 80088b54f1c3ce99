import errno
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.runs.checkpoints import Checkpoints
from tests import tiny_runs
from tests.runs.toy_states import assert_same, load_tree, make_state, save_tree


def test_state_with_optimizer_comes_back_bitwise(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    assert checkpoints.restore_latest(make_state(0)) is None
    checkpoints.save(7, make_state(7))
    step, state = checkpoints.restore_latest(make_state(0))  # waits for the save
  assert step == 7
  assert isinstance(state.opt_state, tuple)
  assert_same(state, make_state(7))


def test_numpy_leaves_odd_values_and_odd_names_come_back_bitwise(tmp_path):
  tree = {'a/b': np.array([np.nan, -0.0, np.inf]),
          'a.b': (np.int32(3), np.zeros((0, 4), np.float32)),
          'none': None, 'é ..': [np.array([True, False]), np.array(5, np.uint8)], 'empty': {}}
  save_tree(tmp_path, tree)
  like = jax.tree.map(np.zeros_like, tree)
  assert_same(load_tree(tmp_path, like), jax.tree.map(np.asarray, tree))


def test_the_saved_values_are_those_at_the_time_of_the_call(tmp_path):
  array = np.arange(200_000.0)
  donated = jnp.arange(200_000.0)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'array': array, 'donated': donated})
    array[:] = -1
    jax.jit(lambda x: x * 0 - 1, donate_argnums=0)(donated).block_until_ready()
    like = {'array': array, 'donated': array.astype(np.float32)}
    _, tree = checkpoints.restore_latest(like)
  np.testing.assert_array_equal(tree['array'], np.arange(200_000.0))
  np.testing.assert_array_equal(tree['donated'], np.arange(200_000, dtype=np.float32))


def test_an_abstract_like_gives_jax_arrays(tmp_path):
  save_tree(tmp_path, make_state(3))
  assert_same(load_tree(tmp_path, jax.eval_shape(lambda: make_state(0))), make_state(3))


def test_newest_and_best_steps_stay(tmp_path):
  accuracies = [0.2, 0.9, 0.3, 0.9, float('nan'), 0.1, None, 0.05]
  with Checkpoints(tmp_path) as checkpoints:
    for step, accuracy in enumerate(accuracies[:5]):
      checkpoints.save(step, {'x': np.int32(step)}, accuracy)
  with Checkpoints(tmp_path) as checkpoints:  # a second process knows the accuracies of the first
    for step, accuracy in enumerate(accuracies[5:], start=5):
      checkpoints.save(step, {'x': np.int32(step)}, accuracy)
    checkpoints.wait()
    assert checkpoints.steps() == [1, 3, 6, 7]
    assert checkpoints.restore_latest({'x': np.int32(0)}) == (7, {'x': 7})
    assert checkpoints.restore_best({'x': np.int32(0)}) == (3, {'x': 3})


def test_no_best_where_no_accuracy_was_given(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, {'x': np.int32(1)})
    assert checkpoints.restore_best({'x': np.int32(0)}) is None


def test_reading_leaves_the_disk_alone(tmp_path):
  assert Checkpoints(tmp_path / 'missing').restore_best({}) is None
  assert not (tmp_path / 'missing').exists()


def test_other_leaves_than_expected_are_named(tmp_path, warnings):
  kernel = np.zeros((3, 3, 3, 64), np.float32)
  save_tree(tmp_path, {'params': {'conv1': {'kernel': kernel}, 'old': np.zeros(2, np.float32),
                                  'step': np.int32(0), 'z': np.int32(0)}})
  like = {'params': {'conv1': {'kernel': kernel[..., :32]}, 'new': np.zeros(2, np.float32),
                     'step': np.int64(0)}}
  with pytest.raises(ValueError) as error:
    load_tree(tmp_path, like)
  assert str(error.value) == (
      f'checkpoint {tmp_path}/0 has other arrays than expected: '
      'params/conv1/kernel: checkpoint (3,3,3,64), expected (3,3,3,32); '
      'params/new: checkpoint no such leaf, expected (2); '
      'params/step: checkpoint int32 (), expected int64 (); and 2 more')
  assert not warnings  # a checkpoint of another model is not a damaged one


def test_leaves_that_are_no_numbers_and_steps_saved_twice_are_refused(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    with pytest.raises(ValueError, match='leaf a/key is a typed random key'):
      checkpoints.save(1, {'a': {'key': jax.random.key(0)}})
    with pytest.raises(ValueError, match='leaf name has dtype <U3: expected an array of numbers'):
      checkpoints.save(1, {'name': 'abc'})
    with pytest.raises(ValueError, match='distinct paths'):
      checkpoints.save(1, {'a': {'b': np.int32(1)}, 'a/b': np.int32(2)})
    checkpoints.save(1, {'x': np.int32(1)})
    with pytest.raises(ValueError, match='step 1 is in .* already'):
      checkpoints.save(1, {'x': np.int32(2)})
    assert checkpoints.restore_latest({'x': np.int32(0)}) == (1, {'x': 1})


@pytest.mark.parametrize('name', ['a[b]', 'a*', 'a?'])
def test_a_path_that_orbax_would_read_as_a_pattern_is_refused(tmp_path, name):
  with pytest.raises(ValueError, match=r'expected a path without \*, \? and \[ for checkpoints'):
    save_tree(tmp_path / name / 'below', {'x': np.int32(1)})
  assert not os.listdir(tmp_path)


def test_save_tree_replaces_and_load_tree_needs_no_structure(tmp_path):
  save_tree(tmp_path, {'old': np.int32(1)})
  bias = jnp.ones(3, jnp.bfloat16)
  save_tree(tmp_path, {'params': (np.ones(2, np.float32), {'bias': bias})})
  tree = load_tree(tmp_path)
  assert list(tree) == ['params'] and list(tree['params']) == ['0', '1']
  np.testing.assert_array_equal(tree['params']['0'], [1, 1])
  assert tree['params']['1']['bias'].dtype == jnp.bfloat16
  assert os.listdir(tmp_path) == ['1']


_SAVE_FOR_EVER = """
import sys
import numpy as np
from mtl_jax.runs.checkpoints import Checkpoints
with Checkpoints(sys.argv[1]) as checkpoints:
  found = checkpoints.restore_latest({'x': np.zeros(50_000)})
  step = found[0] if found else 0
  while True:
    step += 1
    checkpoints.save(step, {'x': np.full(50_000, step, np.float64)}, accuracy=-step)
    checkpoints.wait()
    print(step, flush=True)
"""


def test_a_kill_during_a_save_loses_no_finished_step(tmp_path, warnings):
  finished = 0
  for pause in (0.0, 0.03, 0.07):
    command = [sys.executable, '-c', _SAVE_FOR_EVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tiny_runs.ROOT) as process:
      first = int(process.stdout.readline())
      assert first == finished + 1  # it goes on from the last finished step
      time.sleep(pause)
      process.send_signal(signal.SIGKILL)
      finished = int(([str(first)] + process.communicate()[0].decode().split())[-1])
    step, tree = Checkpoints(tmp_path).restore_latest({'x': np.zeros(50_000)})
    assert step in (finished, finished + 1)
    finished = step
    np.testing.assert_array_equal(tree['x'], np.full(50_000, step))
    best, _ = Checkpoints(tmp_path).restore_best({'x': np.zeros(50_000)})
    assert best == 1
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(finished + 1, tree)
  assert not [name for name in os.listdir(tmp_path) if 'tmp' in name]


_SAVE_UNTIL_FULL = """
import resource, signal, sys
import numpy as np
from mtl_jax.runs.checkpoints import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing past the limit is an error
checkpoints = Checkpoints(sys.argv[1])
noise = np.random.default_rng(0).bytes(300_000)
checkpoints.save(20, {'x': np.zeros(10)})
checkpoints.save(30, {'x': np.frombuffer(noise, np.uint8)})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
checkpoints.save(40, {'x': np.frombuffer(noise[::-1], np.uint8)})
try:
  checkpoints.wait()
except OSError as error:
  print(error)
checkpoints.save(50, {'x': np.ones(10)})  # small enough
checkpoints.close()
print(checkpoints.steps(), checkpoints.restore_latest({'x': np.zeros(10)})[0])
"""


def test_a_file_that_cannot_be_written_is_one_clear_line(tmp_path):
  command = [sys.executable, '-c', _SAVE_UNTIL_FULL, str(tmp_path)]
  done = subprocess.run(command, capture_output=True, text=True, cwd=tiny_runs.ROOT)
  assert done.returncode == 0, done.stderr
  message, after = done.stdout.splitlines()
  assert message.startswith(f'could not write the checkpoint of step 40 to {tmp_path}: ')
  assert 'MB free there); the last good checkpoint, step 30, stays' in message
  assert after == '[30, 50] 50'


def test_a_full_disk_is_named_at_the_next_call(tmp_path, monkeypatch):
  checkpoints = Checkpoints(tmp_path)
  checkpoints.save(1, {'x': np.int32(1)})
  checkpoints.wait()

  def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(checkpoints._manager, 'wait_until_finished', full_disk)
  with pytest.raises(OSError, match='of step 2 to .*: No space left on device .*step 1, stays'):
    with checkpoints:
      checkpoints._pending = 2
  assert Checkpoints(tmp_path).restore_latest({'x': np.int32(0)}) == (1, {'x': 1})


def test_an_error_in_the_block_is_not_hidden_by_one_of_saving(tmp_path, warnings):
  (tmp_path / 'file').write_text('x')
  with pytest.raises(OSError, match='could not write the checkpoint of step 1 to .*file: '):
    with Checkpoints(tmp_path / 'file') as checkpoints:
      checkpoints.save(1, {'x': np.int32(1)})
