"""Omniglot from tiny archives: all 30 alphabets, one or two characters each, two drawings."""
import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from mtl_jax import data
from mtl_jax.data import omniglot

TRAIN, VAL, TEST = (omniglot.ALPHABETS[s] for s in ('train', 'val', 'test'))


def drawing(seed):
  """White paper with a black block, as a 1-bit PNG."""
  paper = np.full((105, 105), 255, np.uint8)
  row, column = np.random.default_rng(seed).integers(5, 60, 2)
  paper[row:row + 40, column:column + 25] = 0
  return paper


def png(array):
  buffer = io.BytesIO()
  Image.fromarray(array).convert('1').save(buffer, 'PNG')
  return buffer.getvalue()


def make_members():
  members, seed = {}, 0
  for alphabet in (*TRAIN, *VAL, *TEST):
    for character in range(1, 3 if alphabet in ('Greek', 'Hebrew') else 2):
      for n in (1, 2):
        path = f'images_background/{alphabet}/character{character:02}/{seed:04}_{n:02}.png'
        members[path] = png(drawing(seed))
        seed += 1
  return members


def write_zip(folder, members, name='images_background.zip'):
  folder.mkdir(parents=True, exist_ok=True)
  with zipfile.ZipFile(folder / name, 'w') as archive:
    for path, content in members.items():
      archive.writestr(path, content)
  return folder / name


def load(tmp_path, **options):
  return data.load('omniglot', data_dir=tmp_path / 'data', cache_dir=tmp_path / 'cache', **options)


def test_alphabets_are_split_once():
  assert (len(TRAIN), len(VAL), len(TEST)) == (20, 4, 6)
  assert len({*TRAIN, *VAL, *TEST}) == 30


@pytest.mark.parametrize('name', ['images_background.zip', 'omniglot_images_background.zip'])
def test_splits_by_alphabet_and_rotates_train_only(tmp_path, name):
  write_zip(tmp_path / 'data', make_members(), name)
  dataset = load(tmp_path)
  assert [len(getattr(dataset, s).class_sizes) for s in ('train', 'val', 'test')] == [4 * 21, 5, 6]
  assert dataset.class_names['val'][:2] == ('Hebrew/character01', 'Hebrew/character02')
  assert {c.split('/')[0] for c in dataset.class_names['train']} == set(TRAIN)
  assert not dataset.flip
  assert dataset.train.images.shape == (2 * 4 * 21, 28, 28, 1)


def test_ink_is_bright_and_kept_by_area(tmp_path):
  write_zip(tmp_path / 'data', make_members())
  images = load(tmp_path).val.images
  assert images.max() == 255 and images.min() == 0
  np.testing.assert_allclose(images.mean((1, 2, 3)) / 255, 40 * 25 / 105**2, atol=0.004)


def test_own_size_is_the_negative_of_the_file(tmp_path):
  members = make_members()
  write_zip(tmp_path / 'data', members)
  dataset = load(tmp_path, image_size=105)
  hebrew = [m for p, m in sorted(members.items()) if '/Hebrew/character02/' in p]
  for image, content in zip(dataset.val.images[2:4], hebrew, strict=True):
    paper = np.asarray(Image.open(io.BytesIO(content)).convert('L'))
    np.testing.assert_array_equal(image[..., 0], 255 - paper)


def test_rotations_are_classes_of_their_own(tmp_path):
  write_zip(tmp_path / 'data', make_members())
  train = load(tmp_path, image_size=105)
  names, pool = train.class_names['train'], train.train
  upright = pool.images[pool.class_offsets[names.index('Latin/character01')]]
  for turns in (1, 2, 3):
    turned = pool.images[pool.class_offsets[names.index(f'Latin/character01/rot{90 * turns}')]]
    np.testing.assert_array_equal(turned, np.rot90(upright, turns))


def test_extracted_folder_equals_archive(tmp_path):
  write_zip(tmp_path / 'a' / 'data', make_members())
  for path, content in make_members().items():
    target = tmp_path / 'b' / 'data' / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
  a, b = (load(tmp_path / side) for side in 'ab')
  np.testing.assert_array_equal(a.train.images, b.train.images)
  assert a.class_names == b.class_names


def test_missing_alphabet_is_named(tmp_path):
  write_zip(tmp_path / 'data', {p: c for p, c in make_members().items() if '/Greek/' not in p})
  with pytest.raises(ValueError, match='missing Greek'):
    load(tmp_path)


def test_wrong_size_is_named(tmp_path):
  members = make_members()
  path = sorted(members)[3]
  members[path] = png(np.zeros((20, 30), np.uint8))
  write_zip(tmp_path / 'data', members)
  with pytest.raises(ValueError, match=r'\.png: expected a PNG image of 105x105 pixels, found '
                                       '30x20') as e:
    load(tmp_path)
  assert path in str(e.value)


def test_truncated_zip_is_named(tmp_path):
  path = write_zip(tmp_path / 'data', make_members())
  path.write_bytes(path.read_bytes()[:3000])
  with pytest.raises(ValueError, match='expected a whole archive, found 3000 bytes') as e:
    load(tmp_path)
  assert str(path) in str(e.value) and '\n' not in str(e.value)
