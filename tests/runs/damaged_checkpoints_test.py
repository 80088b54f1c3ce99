"""Files of a checkpoint that are damaged after they were written: found, said, done without."""
import os
import sys
import types

import pytest

from mtl_jax.runs import orbax_io
from mtl_jax.runs.checkpoints import Checkpoints
from tests.runs.toy_states import assert_same, make_state


@pytest.fixture
def two_steps(tmp_path):
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, make_state(1), 0.5)
    checkpoints.save(2, make_state(2), 0.6)
  return tmp_path


def files_of(directory, step):
  """All files of a step; the last one holds the arrays that are read."""
  files = [os.path.join(folder, name)
           for folder, _, names in os.walk(directory / str(step)) for name in names]
  # Of the arrays there are a merged file, which is read, and those of the process that wrote them,
  # which hold the same and are larger where it wrote in several pieces.
  return sorted(files, key=lambda path: ('ocdbt.process' not in path, os.path.getsize(path)))


def flip_bit(path, position):
  with open(path, 'r+b') as file:
    file.seek(position)
    byte = file.read(1)[0]
    file.seek(position)
    file.write(bytes([byte ^ 4]))


def restores(directory):
  """Both ways to read, each as a process does that has read nothing yet."""
  return Checkpoints(directory).restore_latest, Checkpoints(directory).restore_best


def test_every_damage_falls_back_or_does_no_harm(two_steps, warnings):
  for path in files_of(two_steps, 2):
    with open(path, 'rb') as file:
      content = file.read()
    for position in range(0, len(content), max(len(content) // 3, 1)):
      flip_bit(path, position)
      for restore in restores(two_steps):
        step, state = restore(make_state(0))
        assert_same(state, make_state(step))
      with open(path, 'wb') as file:
        file.write(content)
  assert warnings
  said = f'checkpoint of step 2 in {two_steps} is damaged: '
  assert all(said in warning for warning in warnings)


def test_flipped_bits_in_array_data_are_found(two_steps, warnings):
  data = files_of(two_steps, 2)[-1]
  flip_bit(data, os.path.getsize(data) // 2)
  assert [restore(make_state(0))[0] for restore in restores(two_steps)] == [1, 1]
  assert len(warnings) == 2


def test_a_list_of_leaves_that_nests_too_deep_is_damaged(two_steps, warnings):
  [leaves] = [path for path in files_of(two_steps, 2) if path.endswith('leaves.json')]
  with open(leaves, 'w', encoding='utf-8') as file:
    file.write('[' * 100_000)
  assert [restore(make_state(0))[0] for restore in restores(two_steps)] == [1, 1]
  assert len(warnings) == 2


@pytest.mark.parametrize('damage', ['cut data', 'no leaves', 'no state'])
def test_a_damaged_newest_step_gives_way_and_can_be_saved_again(two_steps, warnings, damage):
  if damage == 'cut data':
    data = files_of(two_steps, 2)[-1]
    os.truncate(data, os.path.getsize(data) // 2)
  else:
    (two_steps / '2' / damage.split()[1]).rename(two_steps / 'gone')
  with Checkpoints(two_steps) as checkpoints:
    step, state = checkpoints.restore_latest(make_state(0))
    assert step == 1
    assert_same(state, make_state(1))
    assert len(warnings) == 1
    checkpoints.save(2, make_state(22))
    checkpoints.wait()
    os.truncate(files_of(two_steps, 2)[-1], 10)
    assert checkpoints.restore_latest(make_state(0))[0] == 1  # and again, with the writer open
    checkpoints.save(2, make_state(22))
  assert (two_steps / 'damaged-2').is_dir()
  step, state = Checkpoints(two_steps).restore_latest(make_state(0))
  assert step == 2
  assert_same(state, make_state(22))


def test_no_whole_step_is_an_error_of_one_line(two_steps, warnings):
  for step in (1, 2):
    os.truncate(files_of(two_steps, step)[-1], 10)
  for restore in restores(two_steps):
    with pytest.raises(ValueError, match='expected a whole checkpoint, but all are damaged; step '
                                         '1') as error:
      restore(make_state(0))
    assert '\n' not in str(error.value)
  assert len(warnings) == 4


def test_reads_that_end_after_their_loop_print_nothing(monkeypatch):
  shown = []
  monkeypatch.setattr(sys, 'unraisablehook', shown.append)
  orbax_io._mute_late_tasks()
  late, other = RuntimeError('Event loop is closed'), RuntimeError('another error')
  reports = [types.SimpleNamespace(exc_value=error, object=place)
             for error in (late, other) for place in (None, make_state)]
  for report in reports:
    sys.unraisablehook(report)
  assert shown == reports[1:]  # the one of an object may be of the user's own loop
