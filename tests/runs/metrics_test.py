import hashlib
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
from tests import tiny_runs


def write(workdir, steps, resume_step=0, phase=None):
  with metrics.MetricWriter(workdir, resume_step, phase) as writer:
    for step in steps:
      values = {'loss': np.float32(1) / np.float32(step + 3), 'accuracy': step / 7}
      writer.write(step, values, {'rate': 12.5})


def events_in(folder):
  """Reads TensorBoard's records: length (8 bytes), checksum (4), the event, checksum (4)."""
  for name in sorted(os.listdir(folder)):
    data = (folder / name).read_bytes()
    while data:
      length, = struct.unpack('<Q', data[:8])
      yield Event.FromString(data[12:12 + length])
      data = data[16 + length:]


def test_a_line_per_step_that_keeps_float32_exactly(tmp_path):
  loss = np.float32(0.1)
  with metrics.MetricWriter(tmp_path, phase='meta_train') as writer:
    values = {'loss': loss, 'accuracy': 0.5}
    writer.write(np.int32(20), values, timings={'steps_per_second': 3.0})
    line = (tmp_path / 'metrics.jsonl').read_text()  # flushed before the writer is closed
  said = '{"step": 20, "phase": "meta_train", "loss": 0.10000000149011612, "accuracy": 0.5'
  checksum = hashlib.blake2b(json.dumps(json.loads(said + '}'), sort_keys=True).encode(),
                             digest_size=8).hexdigest()
  assert line == f'{said}, "checksum": "{checksum}"}}\n'
  assert np.float32(json.loads(line)['loss']) == loss


@pytest.mark.parametrize('torn', ['', '{"step": 7, "lo', '{"step": 2, "loss": 0.1}'])
def test_a_killed_and_resumed_run_leaves_the_bytes_of_an_unbroken_one(tmp_path, torn):
  whole, broken = tmp_path / 'whole', tmp_path / 'broken'
  write(whole, range(1, 11))
  write(broken, range(1, 7))
  with open(broken / 'metrics.jsonl', 'a') as file:
    file.write(torn)
  write(broken, range(5, 11), resume_step=4)
  assert (broken / 'metrics.jsonl').read_bytes() == (whole / 'metrics.jsonl').read_bytes()


def test_a_run_that_starts_again_removes_its_lines_but_not_those_of_other_phases(tmp_path):
  write(tmp_path, [0, 1], phase='pretrain')
  write(tmp_path, [0, 1, 2], phase='meta_train')
  write(tmp_path, [0, 3], phase='meta_train')
  lines = map(json.loads, (tmp_path / 'metrics.jsonl').read_text().splitlines())
  assert [(line['phase'], line['step']) for line in lines] == [
      ('pretrain', 0), ('pretrain', 1), ('meta_train', 0), ('meta_train', 3)]


def test_tensorboard_holds_the_scalars_and_purges_on_resume(tmp_path):
  write(tmp_path, range(1, 4))
  scalars = [(event.step, value.tag, value.simple_value)
             for event in events_in(tmp_path / 'tensorboard') for value in event.summary.value]
  assert scalars[:3] == [(1, 'loss', 0.25), (1, 'accuracy', np.float32(1 / 7)), (1, 'rate', 12.5)]
  assert len(scalars) == 9

  resumed = tmp_path / 'resumed'
  write(resumed, range(3, 5), resume_step=2)
  starts = [event.step for event in events_in(resumed / 'tensorboard')
            if event.HasField('session_log')]
  assert starts == [3]  # TensorBoard drops older events from this step on


def test_a_full_disk_ends_the_run_with_one_clear_error(tmp_path):
  # In a process of its own, as the bound on the size of files stands for the disk.
  code = """
import resource, signal, sys
from mtl_jax.runs import metrics
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with metrics.MetricWriter(sys.argv[1]) as writer:
  writer.write(0, {'loss': 1.0})
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
  for step in range(1, 1000):
    writer.write(step, {'loss': 1.0, 'accuracy': 0.5})
"""
  ended = subprocess.run([sys.executable, '-c', code, str(tmp_path)], cwd=tiny_runs.ROOT,
                         capture_output=True, text=True, timeout=60)
  assert ended.returncode == 1
  # From Python 3.13 on, what closes the files last has its say after that.
  assert re.search(r'^OSError: could not write .*: File too large$', ended.stderr, re.MULTILINE)
