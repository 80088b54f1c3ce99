"""Where images stay: as told, else by the memory of the device."""
import os
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from mtl_jax.execution import memory
from mtl_jax.types import ImagePool


def pool(images):
  return ImagePool(images, np.zeros(1, np.int32), np.array([len(images)], np.int32))


# 300 and 800 bytes.
SMALL, LARGE = (pool(np.zeros((n, 10, 10, 1), np.uint8)) for n in (3, 8))


@pytest.fixture
def mapped(tmp_path):
  np.save(tmp_path / 'images.npy', LARGE.images)
  return pool(np.load(tmp_path / 'images.npy', mmap_mode='r'))


def use_device(monkeypatch, platform, stats):
  device = SimpleNamespace(platform=platform, memory_stats=lambda: stats)
  monkeypatch.setattr(jax, 'local_devices', lambda: [device])


def test_a_choice_is_followed(monkeypatch):
  use_device(monkeypatch, 'gpu', {'bytes_limit': 1})
  assert memory.stay_on_host('host', SMALL) and not memory.stay_on_host('device', LARGE)


@pytest.mark.parametrize('limit, expected', [(1599, True), (1600, False)])
def test_auto_keeps_half_of_an_accelerator_free(monkeypatch, limit, expected):
  use_device(monkeypatch, 'gpu', {'bytes_limit': limit, 'bytes_in_use': 10**6})
  assert memory.stay_on_host('auto', LARGE) == expected
  # The sum counts.
  assert memory.stay_on_host('auto', SMALL, pool(LARGE.images[:5])) == expected
  assert not memory.stay_on_host('auto', SMALL)


@pytest.mark.parametrize('num_parts, expected', [(1, True), (2, False)])
def test_a_pool_that_is_split_takes_a_part_on_each_accelerator(monkeypatch, num_parts, expected):
  use_device(monkeypatch, 'gpu', {'bytes_limit': 800})
  assert memory.stay_on_host('auto', LARGE, num_parts=num_parts) == expected


@pytest.mark.parametrize('stats', [None, {}, {'bytes_in_use': 5}])
def test_auto_on_an_accelerator_that_does_not_tell(monkeypatch, stats):
  use_device(monkeypatch, 'gpu', stats)
  assert not memory.stay_on_host('auto', LARGE)


@pytest.mark.parametrize('free, expected', [(1599, True), (1600, False), (None, False)])
def test_auto_on_a_cpu_leaves_large_files_mapped(monkeypatch, mapped, free, expected):
  use_device(monkeypatch, 'cpu', None)
  monkeypatch.setattr(memory, 'free_host_bytes', lambda: free)
  assert memory.stay_on_host('auto', mapped, SMALL) == expected
  # Simulated devices share one memory: parts of the images take as much as the whole.
  assert memory.stay_on_host('auto', mapped, SMALL, num_parts=8) == expected
  assert not memory.stay_on_host('auto', LARGE, LARGE)  # in RAM already


def test_an_unknown_choice():
  with pytest.raises(ValueError, match="images to be one of auto, device, host, got 'disk'"):
    memory.stay_on_host('disk', SMALL)


def test_free_memory_of_this_machine():
  free = memory.free_host_bytes()
  assert 2**20 < free < 2**50 if os.path.exists('/proc/meminfo') else free is None


def test_free_memory_where_the_system_does_not_tell(monkeypatch, tmp_path):
  for content in ('MemTotal: 5 kB\n', 'MemAvailable: many kB\n', 'no colon\n'):
    (tmp_path / 'meminfo').write_text(content)
    monkeypatch.setattr('builtins.open', lambda *_, **__: (tmp_path / 'meminfo').open())
    assert memory.free_host_bytes() is None
