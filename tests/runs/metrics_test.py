import io
import json
import os
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from mtl_jax.runs import metrics


def _write(workdir, steps, resume_step=0, phase=None):
  with metrics.MetricWriter(workdir, resume_step, phase) as writer:
    for step in steps:
      writer.write(step, {'loss': np.float32(1) / np.float32(step + 3), 'accuracy': step / 7}, {'rate': 12.5})


def _events(folder):
  """Reads TensorBoard's records: length (8 bytes), its checksum (4), the event, its checksum (4)."""
  for name in sorted(os.listdir(folder)):
    data = (folder / name).read_bytes()
    while data:
      length, = struct.unpack('<Q', data[:8])
      yield Event.FromString(data[12:12 + length])
      data = data[16 + length:]


def test_a_line_per_step_that_keeps_float32_exactly(tmp_path):
  loss = np.float32(0.1)
  with metrics.MetricWriter(tmp_path, phase='meta_train') as writer:
    writer.write(np.int32(20), {'loss': loss, 'accuracy': 0.5}, timings={'steps_per_second': 3.0})
    line = (tmp_path / 'metrics.jsonl').read_text()  # flushed before the writer is closed
  assert line == '{"step": 20, "phase": "meta_train", "loss": 0.10000000149011612, "accuracy": 0.5}\n'
  assert np.float32(json.loads(line)['loss']) == loss


@pytest.mark.parametrize('torn', ['', '{"step": 7, "lo', '{"step": 2, "loss": 0.1}'])
def test_a_killed_and_resumed_run_leaves_the_bytes_of_an_unbroken_one(tmp_path, torn):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  _write(whole, range(1, 11))
  _write(broken, range(1, 7))
  with open(broken / 'metrics.jsonl', 'a') as file:
    file.write(torn)
  _write(broken, range(5, 11), resume_step=4)
  assert (broken / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()


def test_a_run_that_starts_again_removes_its_lines_but_not_those_of_other_phases(tmp_path):
  _write(tmp_path, [0, 1], phase='pretrain')
  _write(tmp_path, [0, 1, 2], phase='meta_train')
  _write(tmp_path, [0, 3], phase='meta_train')
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [(line['phase'], line['step']) for line in lines] == [
    ('pretrain', 0), ('pretrain', 1), ('meta_train', 0), ('meta_train', 3)]


def test_tensorboard_holds_the_scalars_and_purges_on_resume(tmp_path):
  _write(tmp_path, range(1, 4))
  events = list(_events(tmp_path / 'tensorboard'))
  scalars = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
  assert scalars[:3] == [(1, 'loss', 0.25), (1, 'accuracy', np.float32(1 / 7)), (1, 'rate', 12.5)]
  assert len(scalars) == 9

  resumed = tmp_path / 'resumed'
  _write(resumed, range(3, 5), resume_step=2)
  starts = [event.step for event in _events(resumed / 'tensorboard') if event.HasField('session_log')]
  assert starts == [3]  # TensorBoard drops older events from this step on


class _Clock:
  """Stands for the module time."""

  def __init__(self):
    self.now = 0.0

  def monotonic(self):
    return self.now


def _lines(monkeypatch, seconds, total, first_step=0):
  clock, stream = _Clock(), io.StringIO()
  monkeypatch.setattr(metrics, 'time', clock)
  with metrics.Progress(total, 'meta_train', first_step, stream) as progress:
    for count, second in enumerate(seconds, start=1):
      clock.now = second
      progress.update(first_step + count, loss=1 / 3, accuracy=0.5)
  return stream.getvalue().splitlines()


def test_plain_progress_prints_first_last_and_every_five_seconds(monkeypatch):
  # The first step takes 100 seconds (it compiles), the others 2 seconds each.
  lines = _lines(monkeypatch, [100.0 + 2 * i for i in range(8)], total=8)
  assert lines == [
    'meta_train 1/8  loss 0.3333  accuracy 0.5',
    'meta_train 4/8  0.5 steps/s  0:00:08 left  loss 0.3333  accuracy 0.5',
    'meta_train 7/8  0.5 steps/s  0:00:02 left  loss 0.3333  accuracy 0.5',
    'meta_train 8/8  0.5 steps/s  0:00:00 left  loss 0.3333  accuracy 0.5']


def test_plain_progress_of_a_run_that_stops_early_ends_with_its_last_step(monkeypatch):
  lines = _lines(monkeypatch, [1.0, 1.5, 2.0], total=10_000, first_step=100)
  assert lines == ['meta_train 101/10000  loss 0.3333  accuracy 0.5',
                   'meta_train 103/10000  2 steps/s  1:22:28 left  loss 0.3333  accuracy 0.5']


def test_rate_is_that_of_recent_steps(monkeypatch):
  slow_then_fast = [1000.0 * i for i in range(10)] + [9000.0 + i for i in range(1, 61)]
  assert '1 steps/s' in _lines(monkeypatch, slow_then_fast, total=70)[-1]


def test_progress_goes_to_standard_output(capsys):
  with metrics.Progress(1, 'pretrain') as progress:
    progress.update(1, loss=2.0)
  assert capsys.readouterr().out == 'pretrain 1/1  loss 2\n'


def test_a_bar_on_a_terminal():
  class Terminal(io.StringIO):
    def isatty(self):
      return True
  stream = Terminal()
  with metrics.Progress(40, 'pretrain', stream=stream) as progress:
    progress.update(20, loss=0.25)
    progress.update(40, loss=0.125)
  assert 'pretrain' in stream.getvalue()
  assert '40/40' in stream.getvalue()
  assert 'loss 0.125' in stream.getvalue()


def test_a_full_disk_ends_the_run_with_one_clear_error(tmp_path):
  # In a process of its own, as the bound on the size of files stands for the disk.
  code = """
import resource, signal, sys
from mtl_jax import metrics
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with metrics.MetricWriter(sys.argv[1]) as writer:
  writer.write(0, {'loss': 1.0})
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
  for step in range(1, 1000):
    writer.write(step, {'loss': 1.0, 'accuracy': 0.5})
"""
  ended = subprocess.run([sys.executable, '-c', code, str(tmp_path)], capture_output=True, text=True, timeout=60)
  assert ended.returncode == 1
  assert re.match(r'OSError: could not write .*: File too large', ended.stderr.splitlines()[-1])


def test_a_line_of_its_own_is_printed_plainly():
  stream = io.StringIO()
  with metrics.Progress(4, 'pretrain', stream=stream) as progress:
    progress.say('step 0: validation accuracy 20.00%')
  assert stream.getvalue() == 'step 0: validation accuracy 20.00%\n'
