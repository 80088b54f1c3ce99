"""Entries of the cache: written whole, read back equal, rebuilt when damaged."""
import os

import numpy as np
import pytest

from mtl_jax.data import cache, pools

KEY = {"version": 1}


def make_dataset(seed=0):
  rng = np.random.default_rng(seed)
  splits = {split: [(f"{split}_{n}", rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)) for n in (2, 3)]
            for split in pools.SPLITS}
  return pools.from_classes("tiny", splits, flip=True)


def load(root, key=KEY, build=make_dataset):
  return cache.load_or_build("tiny", key, build, root)


def not_called():
  raise AssertionError("built although an entry exists")


def assert_equal(a, b):
  for split in pools.SPLITS:
    for x, y in zip(getattr(a, split), getattr(b, split), strict=True):
      np.testing.assert_array_equal(x, y)
      assert x.dtype == y.dtype
  np.testing.assert_array_equal(a.mean, b.mean)
  np.testing.assert_array_equal(a.std, b.std)
  assert (a.name, a.class_names, a.flip) == (b.name, b.class_names, b.flip)


def test_second_load_reads_the_entry(tmp_path):
  built = load(tmp_path)
  read = load(tmp_path, build=not_called)
  assert_equal(built, read)
  assert read.mean.dtype == np.float32


def test_another_key_is_another_entry(tmp_path):
  load(tmp_path)
  other = load(tmp_path, {"version": 2}, lambda: make_dataset(1))
  assert_equal(other, make_dataset(1))
  assert_equal(load(tmp_path, build=not_called), make_dataset())


@pytest.mark.parametrize("name", ["train.npy", "test.npy", "entry.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "missing", "garbage"])
def test_damaged_entry_is_built_again(tmp_path, name, damage):
  load(tmp_path)
  path = next(tmp_path.glob(f"tiny-*/{name}"))
  content = path.read_bytes()
  if damage == "missing":
    path.unlink()
  else:
    path.write_bytes({"truncated": content[:-5], "empty": b"", "garbage": b"\x80\x04junk" * 50}[damage])
  with pytest.warns(UserWarning, match="is damaged .*building it again"):
    assert_equal(load(tmp_path), make_dataset())
  assert_equal(load(tmp_path, build=not_called), make_dataset())


def test_array_of_another_shape_is_damage(tmp_path):
  load(tmp_path)
  np.save(next(tmp_path.glob("tiny-*/val.npy")), np.zeros((3, 4, 4, 3), np.uint8))
  with pytest.warns(UserWarning, match="is damaged"):
    assert_equal(load(tmp_path), make_dataset())


def test_pickled_array_is_not_loaded(tmp_path):
  load(tmp_path)
  np.save(next(tmp_path.glob("tiny-*/val.npy")), np.array([{}], object), allow_pickle=True)
  with pytest.warns(UserWarning, match="is damaged"):
    assert_equal(load(tmp_path), make_dataset())


def test_failed_build_leaves_nothing(tmp_path):
  def fail():
    raise ValueError("no data")
  with pytest.raises(ValueError, match="no data"):
    load(tmp_path, build=fail)
  assert list(tmp_path.iterdir()) == []


def test_failed_write_costs_a_warning_only(tmp_path, monkeypatch):
  def full(*args, **kwargs):
    raise OSError("No space left on device")
  monkeypatch.setattr(np, "save", full)
  with pytest.warns(UserWarning, match="not cached .* No space left"):
    assert_equal(load(tmp_path), make_dataset())
  assert list(tmp_path.iterdir()) == []


def test_cache_dir_that_is_a_file_is_named(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(ValueError, match=r"cache_dir .*file: cannot be made"):
    cache.directory(tmp_path / "file")


def test_default_directory_is_of_the_user(tmp_path, monkeypatch):
  monkeypatch.setattr(cache.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
  assert cache.directory(None) == tmp_path / "mtl_jax"


def test_fingerprint_follows_size_and_time(tmp_path):
  path = tmp_path / "a"
  path.write_bytes(b"one")
  before = cache.fingerprint([path])
  assert cache.fingerprint([path]) == before
  os.utime(path, ns=(1, 1))
  assert cache.fingerprint([path]) != before
