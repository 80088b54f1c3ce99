"""`features` from photos to a file, and what it refuses in one line."""
import time

import numpy as np
import pytest
from pyarrow import parquet

from mtl_jax.data import photos
from mtl_jax.runs import feature_files, finished
from mtl_jax.weights import known
from tests import tiny_runs


def features(*arguments):
  return tiny_runs.start('launch.features', *map(str, arguments))


def test_rows_are_the_features_of_each_file_by_the_run(tmp_path):
  run, folder = tiny_runs.meta_trained(), tiny_runs.shared() / 'data' / 'test'
  for name in ('a.npz', 'b.parquet'):
    result = features(run, folder, f'--out={tmp_path / name}')
    assert result.returncode == 0, result.stderr
    assert '24 images, ' in result.stdout and 'at 16 pixels' in result.stdout
  with np.load(tmp_path / 'a.npz') as file:
    paths, found = list(file['paths']), file['features']
  assert paths == sorted(map(str, folder.rglob('*.png')))
  table = parquet.read_table(tmp_path / 'b.parquet')
  assert table['path'].to_pylist() == paths
  np.testing.assert_array_equal(np.stack(table['features'].to_pylist()), found)
  loaded = known.load(run)
  [image] = photos.decode(paths[7:8], 16, 1)
  normalized = (image / np.float32(255) - loaded.normalization.mean) / loaded.normalization.std
  expected = loaded.backbone.features(finished.network_of(loaded), normalized,
                                      batch_stats_mode='running')
  np.testing.assert_allclose(found[7:8], expected, rtol=1e-4, atol=1e-5)


def test_written_where_the_clock_stands_before_zip_files(tmp_path, monkeypatch):
  monkeypatch.setattr(time, 'time', lambda: 0.0)  # 1970, as of a machine without a battery
  feature_files.write(tmp_path / 'a.npz', ['x.png'], np.ones((1, 3), np.float32))
  with np.load(tmp_path / 'a.npz') as file:
    assert (file['paths'].tolist(), file['features'].tolist()) == (['x.png'], [[1, 1, 1]])


@pytest.mark.parametrize('arguments, says', [
    (['imagenet', 'DATA', '--out=x.txt'], 'expected the file to end in .npz or .parquet'),
    (['imagenet', 'none', '--out=x.npz'], 'none does not exist'),
    (['RUN', 'DATA', '--out=x.npz', '--image_size=32'], 'expected images of shape'),
    (['nowhere', 'DATA', '--out=x.npz'], 'nowhere'),
    (['a', 'b', 'c', '--out=x.npz'], "expected flags only, got 'c'")])
def test_refused_in_one_line(arguments, says, tmp_path):
  places = {'RUN': tiny_runs.pretrained(), 'DATA': tiny_runs.shared() / 'data'}
  result = features(*(places.get(argument, argument.replace('x.', f'{tmp_path}/x.'))
                      for argument in arguments))
  assert result.returncode in (1, 2)
  assert says in result.stderr.strip().splitlines()[-1]
  assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays(tmp_path):
  (tmp_path / 'x.npz').write_bytes(b'mine')
  result = features('imagenet', tiny_runs.shared() / 'data', f'--out={tmp_path / "x.npz"}')
  assert result.returncode == 1 and 'a file that does not exist yet' in result.stderr
  assert (tmp_path / 'x.npz').read_bytes() == b'mine'
