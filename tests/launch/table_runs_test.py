"""What reproductions share: the time of processes that were stopped counts too."""
import json

import pytest

from launch.reproduction import table_runs


def test_seconds_of_a_table_are_those_of_all_its_processes(tmp_path, monkeypatch):
  clock = iter([100.0, 130.0, 1000.0, 1012.0])
  monkeypatch.setattr(table_runs.time, 'monotonic', lambda: next(clock))
  monkeypatch.setattr(table_runs.time, 'process_time', lambda: 0.0)
  workdir, written = str(tmp_path / 'w'), []

  def run(compute):
    return table_runs.run(workdir, {'command': 'reproduce'}, compute,
                          lambda folder, results: written.append(results['seconds']))

  def stopped():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    run(stopped)
  assert not written and not (tmp_path / 'w' / 'results.json').exists()
  results = run(lambda: {'cells': [1]})
  assert results['seconds'] == 42 and results['cells'] == [1] and written == [42]
  assert json.loads((tmp_path / 'w' / 'results.json').read_text())['seconds'] == 42
  assert run(stopped) == results  # finished: nothing is computed
