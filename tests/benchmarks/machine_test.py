"""What the workers know of the memory of their process."""
import pytest

from benchmarks import machine


@pytest.mark.parametrize('readings, used', [
    ([300, 200, 100, 100, 50], 4), ([100, 100, 50], 2), ([100, 120], 2), ([300, 200, None], 3),
    ([None], 1)])
def test_waits_as_long_as_memory_is_returned(readings, used, monkeypatch):
  left = list(readings)
  monkeypatch.setattr(machine, '_kilobytes', lambda path, name: left.pop(0))
  monkeypatch.setattr(machine.time, 'sleep', lambda seconds: None)
  machine.wait_for_release()
  assert len(readings) - len(left) == used
