"""Parquet files as the Hugging Face hub has them: shards, columns, class names, damage."""
import io
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from mtl_jax import data

NAMES = ['ant', 'bee', 'cat', 'dog', 'eel']


def png(value):
  content = io.BytesIO()
  Image.fromarray(np.full((9, 9, 3), value, np.uint8)).save(content, 'PNG')
  return content.getvalue()


def write(path, labels, *, first=0, names=NAMES, struct=True, label='label', image='image',
          kind=None, **more):
  """Writes a row for each label; the value of its image is 10 * (first + row)."""
  content = [png(10 * (first + row)) for row in range(len(labels))]
  images = [{'bytes': each, 'path': f'{i}.png'} for i, each in enumerate(content)]
  table = pa.table({image: images if struct else pa.array(content, pa.binary()),
                    label: pa.array(labels, kind), **more})
  if names is not None:
    features = {image: {'_type': 'Image'}, label: {'names': names, '_type': 'ClassLabel'}}
    table = table.replace_schema_metadata(
        {b'huggingface': json.dumps({'info': {'features': features}}).encode()})
  path.parent.mkdir(parents=True, exist_ok=True)
  parquet.write_table(table, path, row_group_size=3)
  return path


def load(tmp_path, path, **options):
  return data.load(f'hf:{path}', cache_dir=tmp_path / 'cache', image_size=8,
                   **{'split': (0.6, 0.2, 0.2), **options})


def values_of(dataset):
  return {name: pool.images[start:start + size, 4, 4, 0].tolist()
          for split in ('train', 'val', 'test') for pool in [getattr(dataset, split)]
          for name, start, size in zip(dataset.class_names[split], pool.class_offsets,
                                       pool.class_sizes, strict=True)}


EXPECTED = {'ant': [0, 50, 100], 'bee': [10, 60], 'cat': [20, 70], 'dog': [30, 80], 'eel': [40, 90]}


def test_shards_in_a_folder_are_pooled_and_named_by_their_metadata(tmp_path):
  beans = tmp_path / 'beans'
  write(beans / 'data/train-00000-of-00002.parquet', [0, 1, 2, 3, 4])
  write(beans / 'data/train-00001-of-00002.parquet', [0, 1, 2], first=5)
  write(beans / 'data/test-00000-of-00001.parquet', [3, 4, 0], first=8)
  dataset = load(tmp_path, beans)
  found = {name: sorted(values) for name, values in values_of(dataset).items()}
  assert found == EXPECTED and dataset.name == 'beans'
  assert [len(names) for names in dataset.class_names.values()] == [3, 1, 1]
  with pytest.raises(ValueError, match='expected at least one class in val.*--split=.* pools'):
    load(tmp_path, beans, split=None)


def test_splits_of_different_classes_stay(tmp_path):
  for split, labels in (('train', [0, 1]), ('validation', [2, 3]), ('test', [4])):
    write(tmp_path / f'set/{split}.parquet', labels)
  dataset = load(tmp_path, tmp_path / 'set', split=None)
  assert dataset.class_names == {'train': ('ant', 'bee'), 'val': ('cat', 'dog'), 'test': ('eel',)}


@pytest.mark.parametrize('options', [
    {'struct': False}, {'image': 'jpg', 'label': 'target'}, {'image': 'img', 'label': 'fine_label'},
    {'kind': pa.int8()}, {'label': 'klass'}])
def test_columns_of_one_file(tmp_path, options):
  file = write(tmp_path / 'set' / 'x.parquet', [0, 1, 2, 3, 4] * 2 + [0], **options)
  dataset = load(tmp_path, file)
  assert values_of(dataset) == EXPECTED and dataset.name == 'set_x'


def test_labels_that_are_strings_or_numbers_without_names(tmp_path):
  texts = write(tmp_path / 'a.parquet', NAMES, names=None)
  assert values_of(load(tmp_path, texts)).keys() == set(NAMES)
  dictionary = write(tmp_path / 'd.parquet', pa.array(NAMES).dictionary_encode(), names=None)
  assert values_of(load(tmp_path, dictionary)).keys() == set(NAMES)
  numbers = write(tmp_path / 'b.parquet', [10, 9, 8, 7, 100], names=None)
  dataset = load(tmp_path, numbers, split=(0.4, 0.4, 0.2))
  assert sorted(sum(map(list, dataset.class_names.values()), []), key=int) == [
      '7', '8', '9', '10', '100']


def test_several_columns_are_told_apart_by_the_user(tmp_path):
  file = write(tmp_path / 'a.parquet', [0, 1, 2, 3, 4] * 2 + [0], label='fine',
               coarse=[0] * 11, mask=pa.array([b'x'] * 11, pa.binary()))
  with pytest.raises(ValueError, match=r'expected one column of labels.*in the columns fine, coar'):
    load(tmp_path, write(tmp_path / 'c.parquet', [0], names=None, label='fine', coarse=[0]))
  assert values_of(load(tmp_path, file, label_column='fine', image_column='image')) == EXPECTED
  with pytest.raises(ValueError, match="one column 'coarser'.*found the columns fine, coarse"):
    load(tmp_path, file, label_column='coarser')


def test_rows_without_a_label_are_left_out_and_counted(tmp_path, caplog):
  caplog.set_level('INFO', 'absl')
  file = write(tmp_path / 'a.parquet', [0, 1, 2, 3, 4, -1, None])
  assert sum(map(len, values_of(load(tmp_path, file)).values())) == 5
  assert [record.getMessage() for record in caplog.records] == ['left out: 2 rows without a label']


def test_broken_images_are_named_or_skipped(tmp_path):
  file = write(tmp_path / 'a.parquet', [0, 1, 2, 3, 4] * 2)
  table = parquet.read_table(file)
  images = table['image'].to_pylist()
  images[7] = {'bytes': b'not an image', 'path': None}
  images[9] = {'bytes': None, 'path': 'elsewhere.png'}
  table = table.set_column(0, 'image', pa.array(images))
  parquet.write_table(table, file)
  with pytest.raises(ValueError, match=r'a\.parquet: row 7: broken image .*--skip_broken_images'):
    load(tmp_path, file)
  with pytest.warns(UserWarning, match=r'left out 2 broken images, the first: .*row 7'):
    found = values_of(load(tmp_path, file, skip_broken=True))
  assert found == {'ant': [0, 50], 'bee': [10, 60], 'cat': [20], 'dog': [30, 80], 'eel': [40]}


@pytest.mark.parametrize(('make', 'says'), [
    (lambda p: p.write_bytes(b'PAR1 not'), 'expected a whole Parquet file'),
    (lambda p: None, 'expected a whole Parquet file'),
    (lambda p: p.mkdir(), r'expected Parquet files \(\*\.parquet\), found none'),
    (lambda p: write(p, [0, 7]), 'row 1: expected a label below 5, the number of class names, fo'),
    (lambda p: parquet.write_table(pa.table({'a': [1]}), p), 'expected a column of image files'),
    (lambda p: write(p, [0.5], names=None), 'expected one column of labels'),
])
def test_files_that_are_refused(tmp_path, make, says):
  make(tmp_path / 'a.parquet')
  with pytest.raises(ValueError, match=says) as e:
    load(tmp_path, tmp_path / 'a.parquet')
  assert '\n' not in str(e.value) and 'a.parquet' in str(e.value)


def test_files_of_different_columns_are_refused(tmp_path):
  write(tmp_path / 'set/train.parquet', [0])
  write(tmp_path / 'set/other/train.parquet', [0], label='coarse')
  with pytest.raises(ValueError, match='expected the columns of .*, found others'):
    load(tmp_path, tmp_path / 'set')


def test_a_changed_file_or_split_is_another_entry(tmp_path):
  file = write(tmp_path / 'a.parquet', [0, 1, 2, 3, 4])
  first = load(tmp_path, file)
  assert load(tmp_path, file).class_names == first.class_names
  assert load(tmp_path, file, split_seed=1).class_names != first.class_names
  write(file, [0, 1, 2, 3, 4], first=20)
  assert values_of(load(tmp_path, file)) != values_of(first)
  assert [p.name for p in (tmp_path / 'cache').iterdir() if p.is_file()
          and not p.name.endswith('.lock')] == []  # no scratch file stays
