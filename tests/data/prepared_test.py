"""Sets that tensorflow-datasets has prepared: read as they stand, in each format, without its code.
"""
import io
import json
import shutil
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import example_serializer

from mtl_jax import data

NAMES = ['ant', 'bee', 'cat', 'dog', 'eel']
FEATURES = {'image': tfds.features.Image(shape=(None, None, 3)),
            'label': tfds.features.ClassLabel(names=NAMES)}
SPLITS = {'train': 10, 'test': 5}
EXPECTED = {name: sorted([10 * i, 10 * i + 50, 10 * i + 1]) for i, name in enumerate(NAMES)}


def examples(split):
  for i in range(SPLITS[split]):
    content = io.BytesIO()
    value = 10 * i + (split == 'test')
    Image.fromarray(np.full((9, 9, 3), value, np.uint8)).save(content, 'PNG')
    yield i, {'image': io.BytesIO(content.getvalue()), 'label': i % 5}


class Toy(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """Prepares the set, as a user would."""
  VERSION = tfds.core.Version('1.0.0')
  name = 'toy'

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(FEATURES))

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split):
    return examples(split)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """A folder for each format, `toy/1.0.0` in it."""
  root = tmp_path_factory.mktemp('prepared')
  tfds.disable_progress_bar()
  for file_format in ('array_record', 'parquet'):
    Toy(data_dir=root / file_format, file_format=file_format).download_and_prepare()
  # With TensorFlow, TFDS writes this format unless it is told otherwise.
  place = root / 'tfrecord' / 'toy' / '1.0.0'
  shutil.copytree(root / 'array_record' / 'toy' / '1.0.0', place)
  info = json.loads((place / 'dataset_info.json').read_text())
  (place / 'dataset_info.json').write_text(json.dumps(info | {'fileFormat': 'tfrecord'}))
  features = tfds.features.FeaturesDict(FEATURES)
  serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
  for split in SPLITS:
    (place / f'toy-{split}.array_record-00000-of-00001').unlink()
    with (place / f'toy-{split}.tfrecord-00000-of-00001').open('wb') as file:
      for _, example in examples(split):
        record = serializer.serialize_example(features.encode_example(example))
        file.write(struct.pack('<QI', len(record), 0) + record + bytes(4))
  return root


def load(root, tmp_path, name='toy', **options):
  return data.load(f'tfds:{name}', data_dir=root, cache_dir=tmp_path / 'cache', image_size=8,
                   **{'split': (0.6, 0.2, 0.2), **options})


@pytest.mark.parametrize('file_format', ['array_record', 'parquet', 'tfrecord'])
def test_each_format_is_read_without_tensorflow(prepared, tmp_path, file_format):
  dataset = load(prepared / file_format, tmp_path)
  assert dataset.name == 'toy'
  assert [len(names) for names in dataset.class_names.values()] == [3, 1, 1]
  for split in ('train', 'val', 'test'):
    pool = getattr(dataset, split)
    for name, start in zip(dataset.class_names[split], pool.class_offsets, strict=True):
      values = pool.images[start:start + 3, 4, 4, 0].tolist()
      assert sorted(values) == EXPECTED[name]


def test_by_version_and_the_newest(prepared, tmp_path):
  root = tmp_path / 'sets'
  shutil.copytree(prepared / 'array_record', root)
  assert load(root, tmp_path, 'toy:1.0.0').name == 'toy'
  with pytest.raises(ValueError, match='toy:2.0.0: not prepared in'):
    load(root, tmp_path, 'toy:2.0.0')


def test_one_that_is_not_prepared_says_how_to(prepared, tmp_path):
  with pytest.raises(ValueError, match=r'tfds:birds: not prepared in .*download_and_prepare') as e:
    load(prepared / 'parquet', tmp_path, 'birds')
  assert '\n' not in str(e.value) and "tfds.builder('birds', data_dir=" in str(e.value)
  for name in ('../toy', 'a/b/c', 'toy:x', '/etc'):
    with pytest.raises(ValueError, match='expected tfds:NAME'):
      load(prepared / 'parquet', tmp_path, name)


def test_splits_of_the_same_classes_are_pooled_only_when_asked(prepared, tmp_path):
  with pytest.raises(ValueError, match='expected at least one class in val.*--split='):
    load(prepared / 'parquet', tmp_path, split=None)


def test_a_file_that_names_other_code_runs_nothing(prepared, tmp_path, monkeypatch):
  root = tmp_path / 'sets'
  shutil.copytree(prepared / 'array_record', root)
  (tmp_path / 'hostile.py').write_text('raise SystemExit("was run")')
  monkeypatch.syspath_prepend(tmp_path)
  file = root / 'toy/1.0.0/features.json'
  text = file.read_text()
  whole = 'tensorflow_datasets.core.features.image_feature.Image'
  assert whole in text
  file.write_text(text.replace(whole, 'hostile.Image'))
  with pytest.raises(ValueError, match="names 'hostile.Image', .*nothing of it was run"):
    load(root, tmp_path)


@pytest.mark.parametrize('name', ['features.json', 'dataset_info.json',
                                  'toy-train.tfrecord-00000-of-00001'])
def test_damaged_files_are_named(prepared, tmp_path, name):
  root = tmp_path / 'sets'
  shutil.copytree(prepared / 'tfrecord', root)
  path = root / 'toy' / '1.0.0' / name
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match='toy/1.0.0: ') as e:
    load(root, tmp_path)
  assert '\n' not in str(e.value)


def test_a_feature_of_another_name(prepared, tmp_path):
  with pytest.raises(ValueError, match=r"one column 'photo' \(--image_column\), found the columns "
                     'image'):
    load(prepared / 'parquet', tmp_path, image_column='photo')


def test_a_second_load_reads_no_example(prepared, tmp_path, monkeypatch):
  first = load(prepared / 'parquet', tmp_path)
  monkeypatch.setattr('mtl_jax.data.prepared._examples', lambda *_: pytest.fail('read again'))
  again = load(prepared / 'parquet', tmp_path)
  assert again.class_names == first.class_names
  np.testing.assert_array_equal(again.train.images, first.train.images)
