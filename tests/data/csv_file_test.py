"""Tables of images: columns by name in any order, splits, paths, and what is refused."""
import numpy as np
import pytest

from mtl_jax import data
from tests.data.images_on_disk import save

ROWS = [('a/0.png', 'cat'), ('a/1.png', 'cat'), ('b/0.png', 'dog'), ('c/0.png', 'cow')]
SPLIT = (0.4, 0.3, 0.3)


def table(tmp_path, text, name='birds.csv', encoding='utf-8'):
  folder = tmp_path / 'set'
  for i, (path, _) in enumerate(ROWS):
    save(folder / path, np.full((9, 9, 3), 10 * i, np.uint8))
  (folder / name).write_text(text, encoding=encoding)
  return folder / name


def load(tmp_path, text, **options):
  options = {'name': 'birds.csv', **options}
  path = table(tmp_path, text, options.pop('name'), options.pop('encoding', 'utf-8'))
  return data.load(f'csv:{path}', cache_dir=tmp_path / 'cache', image_size=8, **options)


def values_of(dataset):
  """Class -> the values of its images."""
  return {name: pool.images[start:start + size, 4, 4, 0].tolist()
          for split in ('train', 'val', 'test') for pool in [getattr(dataset, split)]
          for name, start, size in zip(dataset.class_names[split], pool.class_offsets,
                                       pool.class_sizes, strict=True)}


EXPECTED = {'cat': [0, 10], 'dog': [20], 'cow': [30]}


@pytest.mark.parametrize('header', ['filename,label', 'label;ID;File', 'y\tset of\t IMAGE_PATH ',
                                    'Class_Name,filepath,notes'])
def test_columns_are_found_by_name_in_any_order(tmp_path, header):
  delimiter = next(mark for mark in ',;\t' if mark in header)
  columns = [column.strip().lower() for column in header.split(delimiter)]
  lines = [header] + [delimiter.join(
      path if column in ('filename', 'file', 'image_path', 'filepath') else
      label if column in ('label', 'y', 'class_name') else '-' for column in columns)
                      for path, label in ROWS]
  dataset = load(tmp_path, '\r\n'.join(lines) + '\r\n', split=SPLIT, encoding='utf-8-sig')
  assert values_of(dataset) == EXPECTED
  assert dataset.name == 'set_birds' and dataset.flip
  assert dataset.origin['dataset'] == f'csv:{tmp_path}/set/birds.csv'


def csv_of(header, rows):
  return '\n'.join([header, *(','.join(row) for row in rows)])


@pytest.mark.parametrize('column', ['split', 'set', 'Subset', 'partition'])
@pytest.mark.parametrize('val', ['val', 'valid', 'Validation'])
def test_a_column_of_splits(tmp_path, column, val):
  splits = ['train', 'train', val, 'TEST']
  text = csv_of(f'path,class,{column}', [(*row, s) for row, s in zip(ROWS, splits, strict=True)])
  assert load(tmp_path, text).class_names == {'train': ('cat',), 'val': ('dog',), 'test': ('cow',)}


def test_a_class_in_two_splits_is_pooled_only_when_asked(tmp_path):
  text = csv_of('path,class,split', [(*row, s) for row, s in zip(
      ROWS, ['train', 'test', 'val', 'test'], strict=True)])
  with pytest.raises(ValueError, match='more than once: cat; --split=.* pools the splits'):
    load(tmp_path, text)
  assert values_of(load(tmp_path, text, split=SPLIT)) == EXPECTED


def test_no_splits_are_explained(tmp_path):
  with pytest.raises(ValueError, match='birds.csv: found 3 classes, .*--split=0.6,0.2,0.2'):
    load(tmp_path, csv_of('path,class', ROWS))
  with pytest.raises(ValueError, match='of 3 classes'):
    load(tmp_path, csv_of('path,class', ROWS), split=(0.8, 0.1, 0.1))


@pytest.mark.parametrize(('header', 'says'), [
    ('where,class', 'expected one column of images, called filename, .*found none of them in the '
     'columns where, class; name it with --image_column'),
    ('path,klass', 'expected one column of labels, .*none of them in the columns path, klass'),
    ('file,path,class', r'2 such \(file, path\) in the columns file, path, class'),
    ('path,label,class', r'2 such \(label, class\).*--label_column'),
    ('', 'in the columns none'),
])
def test_columns_that_are_not_found(tmp_path, header, says):
  rows = [('x',) * (header.count(',') + 1)]
  with pytest.raises(ValueError, match=says) as e:
    load(tmp_path, csv_of(header, rows), split=SPLIT)
  assert '\n' not in str(e.value)


def test_columns_may_be_named(tmp_path):
  text = csv_of('label,where,class,path', [('1', path, label, 'x') for path, label in ROWS])
  dataset = load(tmp_path, text, split=SPLIT, image_column='where', label_column='class')
  assert values_of(dataset) == EXPECTED
  with pytest.raises(ValueError, match=r"expected one column 'Wo' \(--image_column\), found the"):
    load(tmp_path, text, split=SPLIT, image_column='Wo', label_column='class')


def test_paths_begin_at_the_table_or_at_data_dir(tmp_path):
  text = csv_of('path,class', ROWS)
  assert values_of(load(tmp_path, text, split=SPLIT)) == EXPECTED
  table(tmp_path, text)
  other = tmp_path / 'elsewhere.csv'
  other.write_text(text)
  options = {'cache_dir': tmp_path / 'cache', 'image_size': 8, 'split': SPLIT}
  found = data.load(f'csv:{other}', data_dir=tmp_path / 'set', **options)
  assert values_of(found) == EXPECTED
  with pytest.raises(ValueError, match=r'4 of them not found: .*--data_dir'):
    data.load(f'csv:{other}', **options)


def test_missing_images_are_counted_named_and_left_out_when_asked(tmp_path):
  text = csv_of('path,class', [*ROWS, ('a/9.png', 'cat')])
  with pytest.raises(ValueError, match=r'1 of them not found: a/9\.png'):
    load(tmp_path, text, split=SPLIT)
  with pytest.warns(UserWarning, match=r'left out 1 broken images, the first: .*9\.png'):
    assert values_of(load(tmp_path, text, split=SPLIT, skip_broken=True)) == EXPECTED
  save(tmp_path / 'set/a/9.png', np.full((9, 9, 3), 90, np.uint8))  # it is there now
  found = load(tmp_path, text, split=SPLIT, skip_broken=True)
  assert values_of(found)['cat'] == [0, 10, 90]


@pytest.mark.parametrize(('rows', 'says'), [
    ([('a/0.png',)], 'line 2: expected at least 2 fields, found 1'),
    ([('', 'cat')], "line 2: expected the path of an image and its class, found '' and 'cat'"),
    ([('a/0.png', 'cat'), ('b/0.png', ' ')], 'line 3: expected the path'),
    ([('a/0.png', 'cat'), ('a/0.png', 'dog')], 'in one class, found a/0.png in cat and dog'),
    ([], 'expected a row for each image, found none'),
    ([('"a/0.png', 'cat')], 'cannot be read as CSV'),
])
def test_rows_that_are_refused(tmp_path, rows, says):
  with pytest.raises(ValueError, match=says) as e:
    load(tmp_path, csv_of('path,class', rows), split=SPLIT)
  assert 'birds.csv' in str(e.value) and '\n' not in str(e.value)


def test_files_that_are_no_table(tmp_path):
  (tmp_path / 'x.csv').write_bytes(b'path,class\n\xff\xfe\0')
  for name, says in (('x.csv', 'cannot be read as CSV'), ('missing.csv', 'cannot be read as CSV'),
                     ('.', 'expected a regular file, found a folder')):
    with pytest.raises(ValueError, match=says):
      data.load(f'csv:{tmp_path / name}', cache_dir=tmp_path / 'cache')
  with pytest.raises(ValueError, match='expected a split among train'):
    load(tmp_path, csv_of('path,class,split', [('a/0.png', 'cat', 'holdout')]))


def test_classes_by_number_are_in_their_order_and_a_row_twice_counts_once(tmp_path):
  rows = [('a/0.png', '10'), ('a/1.png', '9'), ('a/1.png', '9'), ('b/0.png', '11')]
  text = csv_of('path,y', rows)
  split_file = tmp_path / 'split.json'
  split_file.write_text('{"train": ["9"], "val": ["10"], "test": ["11"]}')
  dataset = load(tmp_path, text, split_file=split_file)
  assert dataset.train.class_sizes.tolist() == [1]
  assert dataset.class_names == {'train': ('9',), 'val': ('10',), 'test': ('11',)}
