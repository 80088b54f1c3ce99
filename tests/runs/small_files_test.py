"""Settings, results, metrics and arrays of a run: any damage is found, links are not followed."""
import json
import os
import random

import numpy as np
import pytest

from mtl_jax.runs import array_files, messages, metrics, records, workdirs
from mtl_jax.untrusted import checked_json
from tests import tiny_runs
from tests.runs import kill_resume

CONTENT = {'command': 'meta_train', 'seed': 0, 'config': {'lr': 0.1, 'steps': [1, 2], 'x': None},
           'images': {'train': 123456789, 'val': -5}, 'name': 'é "x"', 'nan': 1e300}


def mutations(content, number):
  """Bytes flipped, cut out, doubled and put in, at random places."""
  draw = random.Random(0)
  for _ in range(number):
    place, kind = draw.randrange(len(content)), draw.randrange(4)
    put = [bytes([content[place] ^ 1 << draw.randrange(8)]), b'', content[place:place + 1] * 2,
           draw.choice([b'[' * 3000, b'\0', b'9', b'"', b'\xff', b'}', b',', b' '])][kind]
    yield content[:place] + put + content[place + 1:]
  yield from (b'', b'5', b'[]', b'null', b'[' * 100_000, b'{"a":' * 50_000)


def test_any_damage_of_an_object_is_found_or_changes_nothing(tmp_path):
  workdirs.write_json(tmp_path, 'settings.json', CONTENT)
  whole = (tmp_path / 'settings.json').read_bytes()
  assert workdirs.read_json(tmp_path, 'settings.json') == CONTENT
  found = 0
  for content in mutations(whole, 2000):
    try:
      read = checked_json.load(content, 'FILE')
    except ValueError as error:
      assert 'FILE is damaged: ' in str(error) and len(str(error).splitlines()) == 1
      found += 1
    else:  # spaces; or the key of the checksum itself
      assert {name: read.get(name) for name in CONTENT} == CONTENT
  assert found > 1500


def test_an_object_without_a_checksum_is_taken_as_it_is(tmp_path):
  (tmp_path / 'settings.json').write_text(json.dumps(CONTENT))
  assert workdirs.read_json(tmp_path, 'settings.json') == CONTENT


@pytest.mark.parametrize('values', [np.linspace(0, 1, 40, dtype=np.float32), np.float32(0.5)])
def test_any_damage_of_an_array_is_found(tmp_path, values):
  array_files.write(tmp_path, 'a.npy', values)
  path = tmp_path / 'a.npy'
  whole = path.read_bytes()
  np.testing.assert_array_equal(array_files.read(path), values, strict=True)
  np.testing.assert_array_equal(np.load(path), values, strict=True)  # as any other reader
  for content in mutations(whole, 1000):
    path.write_bytes(content)
    if content == whole:
      continue
    with pytest.raises(ValueError, match=r'a\.npy is damaged: ') as found:
      array_files.read(path)
    assert len(str(found.value).splitlines()) == 1


def test_an_array_without_a_checksum_is_taken_as_it_is(tmp_path):
  np.save(tmp_path / 'a.npy', np.arange(3))
  np.testing.assert_array_equal(array_files.read(tmp_path / 'a.npy'), [0, 1, 2])


def test_an_array_is_written_whole_or_not_at_all(tmp_path):
  array_files.write(tmp_path, 'a.npy', np.arange(3))
  with pytest.raises(OSError, match='could not write'):
    array_files.write(tmp_path / 'missing', 'a.npy', np.arange(4))
  np.testing.assert_array_equal(np.load(tmp_path / 'a.npy'), [0, 1, 2])
  assert [path.name for path in tmp_path.iterdir()] == ['a.npy']


def test_any_damage_of_metrics_is_found(tmp_path, monkeypatch):
  with metrics.MetricWriter(tmp_path, phase='p') as writer:
    for step in range(1, 4):
      writer.write(step, {'loss': np.float32(0.1) * step, 'accuracy': float('nan')})
  path = tmp_path / 'metrics.jsonl'
  whole, expected = path.read_bytes(), str(metrics.read(tmp_path, 'p'))
  assert expected.count('step') == 3 and 'checksum' not in expected
  for content in mutations(whole, 1000):
    path.write_bytes(content)
    try:
      found = str(metrics.read(tmp_path, 'p'))
    except ValueError as error:
      assert 'is damaged: line ' in str(error)
    else:
      lines = [line for line in found.strip('[]').split('}, ') if line]
      assert all(line.strip('{}') in expected for line in lines)
  for name in (b'"checksum"', b'checksum', b'"accuracy": NaN, "ch'):
    path.write_bytes(whole.replace(name, b'x' * (name[:1] != b'"'), 1))
    with pytest.raises(ValueError, match='is damaged: line 1'):
      metrics.read(tmp_path, 'p')


def test_a_resumed_run_names_the_damaged_line(tmp_path, warnings):
  for step in (1, 2, 3):
    with metrics.MetricWriter(tmp_path, step - 1, phase='p') as writer:
      writer.write(step, {'loss': 1.0})
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(path.read_bytes().replace(b'"step": 2, "phase": "p", "loss": 1.0',
                                             b'"step": 2, "phase": "p", "loss": 7.0'))
  with metrics.MetricWriter(tmp_path, 3, phase='p'):
    pass
  assert [line['step'] for line in metrics.read(tmp_path, 'p')] == [1, 3]
  assert warnings == [f'{path}: line 2 is damaged, and left out']


@pytest.mark.parametrize('name', ['settings.json.tmp', 'metrics.jsonl'])
def test_nothing_is_written_through_a_link(tmp_path, name):
  target, workdir = tmp_path / 'precious', tmp_path / 'run'
  target.write_text('as it was')
  workdir.mkdir()
  os.symlink(target, workdir / name)
  if name == 'metrics.jsonl':
    # What was there is no line, so the file is written anew, in place of the link.
    with metrics.MetricWriter(workdir, phase='p') as writer:
      writer.write(1, {'loss': 1.0})
    (workdir / name).unlink()
    target.write_bytes(checked_json.dump({'step': 1, 'phase': 'other'}, indent=None))
    os.symlink(target, workdir / name)
    with pytest.raises(OSError):
      metrics.MetricWriter(workdir, phase='p')
    target.write_text('as it was')
  else:
    workdirs.write_json(workdir, 'settings.json', CONTENT)
    assert workdirs.read_json(workdir, 'settings.json') == CONTENT
    assert os.listdir(workdir) == ['settings.json']
  assert target.read_text() == 'as it was'


def test_messages_between_processes_come_back_bit_for_bit():
  value = {'a': [1, (2.5, None, True, 'é')], 'b': (np.array([[-0.0, np.nan]], np.float32),
                                                   np.zeros((0, 3), np.uint8), np.int64(7)),
           'tuple': {}, 'c': 10**30}
  found = messages.decode(messages.encode(value))
  assert found['a'] == value['a'] and found['tuple'] == {} and found['c'] == 10**30
  for a, b in zip(found['b'], value['b'], strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
  for wrong in (object(), np.array([object()]), {1: 2}, {'x': set()}):
    with pytest.raises(TypeError, match='to send, got'):
      messages.encode(wrong)


# --- More steps. ---

def settings(command, steps, **others):
  return {'command': command, 'config': {'steps': steps, 'lr': 0.1}, 'data': {}} | others


def test_more_steps_of_a_meta_training_go_on(tmp_path):
  workdir = str(tmp_path / 'run')
  assert records.claim(workdir, settings('meta_train', 8)) is None
  workdirs.write_results(workdir, {'steps': 8})
  assert records.claim(workdir, settings('meta_train', 8)) == {'steps': 8}
  assert records.claim(workdir, settings('meta_train', 16)) is None
  assert workdirs.read_settings(workdir)['config']['steps'] == 16
  for wrong in (settings('meta_train', 8), settings('meta_train', 32, seed=1),
                settings('meta_train', 32, time_budget={})):
    with pytest.raises(ValueError, match='belongs to a run with other settings'):
      records.claim(workdir, wrong)


def test_more_steps_of_a_pretraining_do_not(tmp_path):
  workdir = str(tmp_path / 'run')
  records.claim(workdir, settings('pretrain', 8))
  with pytest.raises(ValueError, match='8 there, 16 here; a pre-training cannot go on'):
    records.claim(workdir, settings('pretrain', 16))


@pytest.mark.slow
def test_a_run_that_was_finished_and_goes_on_ends_as_the_longer_one(tmp_path):
  source = f'--pretrained={tiny_runs.pretrained()}'
  for steps in (8, 16):
    tiny_runs.finished('meta_train', source, f'--workdir={tmp_path / "on"}', f'--steps={steps}')
  tiny_runs.finished('meta_train', source, f'--workdir={tmp_path / "one"}', '--steps=16')
  assert kill_resume.outcome(tmp_path / 'on') == kill_resume.outcome(tmp_path / 'one')
