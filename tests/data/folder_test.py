"""Trees of images of every kind, and of every kind of damage."""
import json

import numpy as np
import pytest
from PIL import Image

from mtl_jax import data
from mtl_jax.data import folder


def save(path, array, **options):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path, **options)
  return path


def make_tree(root, splits=('train', 'val', 'test')):
  for s, split in enumerate(splits):
    for c in range(2):
      for i in range(3):
        save(root / split / f'{split}_{c}' / f'{i}.png', np.full((10, 10, 3), 40 * s + 20 * c + i, np.uint8))
  return root


def load(tmp_path, **options):
  return data.load('folder', data_dir=tmp_path / 'tree', cache_dir=tmp_path / 'cache',
                   **{'image_size': 8, **options})


def one_line(error):
  assert '\n' not in str(error.value)
  return str(error.value)


def test_tree_of_splits(tmp_path):
  make_tree(tmp_path / 'tree')
  dataset = load(tmp_path)
  assert dataset.flip and dataset.name == 'folder'
  for s, split in enumerate(('train', 'val', 'test')):
    pool = getattr(dataset, split)
    assert dataset.class_names[split] == (f'{split}_0', f'{split}_1')
    assert pool.class_offsets.tolist() == [0, 3] and pool.class_sizes.tolist() == [3, 3]
    assert pool.images.shape == (6, 8, 8, 3)
    assert pool.images[:, 4, 4, 1].tolist() == [40 * s + 20 * c + i for c in range(2) for i in range(3)]


def test_default_size_is_84(tmp_path):
  make_tree(tmp_path / 'tree')
  assert load(tmp_path, image_size=None).test.images.shape == (6, 84, 84, 3)


def test_split_file_chooses_and_orders_classes(tmp_path):
  for name in 'abcd':
    save(tmp_path / 'tree' / name / '0.png', np.zeros((9, 9, 3), np.uint8))
  split_file = tmp_path / 'split.json'
  split_file.write_text(json.dumps({'train': ['d', 'a'], 'val': ['c'], 'test': ['b']}))
  dataset = load(tmp_path, split_file=split_file)
  assert dataset.class_names == {'train': ('d', 'a'), 'val': ('c',), 'test': ('b',)}


@pytest.mark.parametrize(('content', 'message'), [
    ({'train': ['a', 'b'], 'val': ['b'], 'test': ['c']}, 'found more than once: b'),
    ({'train': ['a', 'zebra'], 'val': ['b'], 'test': ['c']}, "train class 'zebra' not found"),
    ({'train': ['a'], 'val': ['../tree/b'], 'test': ['c']}, "val class '../tree/b' not found"),
    ({'train': ['a'], 'val': [], 'test': ['c']}, 'expected at least one class in val, found none'),
    ({'train': ['a'], 'val': ['b']}, 'expected {"train": [classes]'),
    ([1], 'expected {"train": [classes]'),
])
def test_wrong_split_file_is_explained(tmp_path, content, message):
  for name in 'abc':
    save(tmp_path / 'tree' / name / '0.png', np.zeros((9, 9, 3), np.uint8))
  split_file = tmp_path / 'split.json'
  split_file.write_text(json.dumps(content))
  with pytest.raises(ValueError) as e:
    load(tmp_path, split_file=split_file)
  assert message in one_line(e) and str(split_file) in str(e.value)


def test_split_file_that_is_not_json(tmp_path):
  (tmp_path / 'tree').mkdir()
  for name, content in (('missing.json', None), ('broken.json', '{train')):
    if content:
      (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f'{name}: cannot be read as JSON') as e:
      load(tmp_path, split_file=tmp_path / name)
    one_line(e)


@pytest.mark.parametrize('ending', ['png', 'PNG', 'jpg', 'JPG', 'Jpeg', 'webp', 'bmp'])
def test_endings_in_any_case(tmp_path, ending):
  path = save(tmp_path / f'a.{ending}', np.full((20, 20, 3), (200, 100, 50), np.uint8))
  assert folder.class_files(tmp_path).files == [path.name]
  np.testing.assert_allclose(folder.read_image(path, 8), np.broadcast_to((200, 100, 50), (8, 8, 3)), atol=4)


def test_other_files_are_ignored(tmp_path):
  make_tree(tmp_path / 'tree')
  (tmp_path / 'tree/train/train_0/notes.txt').write_text('no image')
  (tmp_path / 'tree/train/train_0/._0.png').write_bytes(b'left by a copy')
  (tmp_path / 'tree/train/.cache').mkdir()
  assert load(tmp_path).train.class_sizes.tolist() == [3, 3]


def test_grey_and_palette_become_rgb(tmp_path):
  grey = Image.fromarray(np.full((9, 9), 99, np.uint8))
  grey.save(tmp_path / 'grey.png')
  Image.new('1', (9, 9), 1).save(tmp_path / 'bit.png')
  palette = Image.new('P', (9, 9), 1)
  palette.putpalette([0, 0, 0, 10, 20, 30])
  palette.save(tmp_path / 'palette.png')
  assert np.all(folder.read_image(tmp_path / 'grey.png', 4) == 99)
  assert np.all(folder.read_image(tmp_path / 'bit.png', 4) == 255)
  assert np.all(folder.read_image(tmp_path / 'palette.png', 4) == (10, 20, 30))


def test_transparency_lies_over_white(tmp_path):
  rgba = np.zeros((6, 6, 4), np.uint8)
  rgba[..., 3] = 51  # 0.2 of black over white
  path = save(tmp_path / 'rgba.png', rgba)
  np.testing.assert_allclose(folder.read_image(path, 6), np.full((6, 6, 3), 204), atol=1)
  palette = Image.new('P', (6, 6), 1)
  palette.putpalette([0, 0, 0, 10, 20, 30])
  palette.save(tmp_path / 'palette.png', transparency=1)
  assert np.all(folder.read_image(tmp_path / 'palette.png', 6) == 255)


def test_16_bits_are_scaled_not_clipped(tmp_path):
  path = save(tmp_path / 'deep.png', np.tile(np.array([[0, 257, 32896, 65535]], np.uint16), (4, 1)))
  np.testing.assert_array_equal(folder.read_image(path, 4)[0, :, 0], [0, 1, 128, 255])


def test_exif_orientation_is_applied(tmp_path):
  left_bright = np.zeros((16, 16, 3), np.uint8)
  left_bright[:, :8] = 255
  exif = Image.Exif()
  exif[0x0112] = 6  # To be shown turned clockwise by 90 degrees: left becomes top.
  path = save(tmp_path / 'turned.png', left_bright, exif=exif)
  image = folder.read_image(path, 16)
  assert np.all(image[:7] == 255) and np.all(image[9:] == 0)


def test_short_side_is_resized_and_centre_cut_out(tmp_path):
  wide = np.zeros((20, 60, 3), np.uint8)
  wide[:, 20:40] = 255
  image = folder.read_image(save(tmp_path / 'wide.png', wide), 10)
  assert np.all(image[:, 1:-1] == 255) and np.all(image > 200)  # A column at the edge sees a bit beyond it.
  tall = folder.read_image(save(tmp_path / 'tall.png', wide.transpose(1, 0, 2)), 10)
  np.testing.assert_array_equal(tall, image.transpose(1, 0, 2))


@pytest.mark.parametrize(('content', 'message'), [
    (b'', r'bad\.png: empty file \(0 bytes\)'),
    (b'not an image at all', r'bad\.png: broken image \(cannot identify image file'),
    ('truncated', r'bad\.png: broken image \('),
])
def test_broken_image_is_named_or_skipped(tmp_path, content, message):
  make_tree(tmp_path / 'tree')
  if content == 'truncated':
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    content = save(tmp_path / 'whole.png', noise).read_bytes()[:2000]
  (tmp_path / 'tree/val/val_1/bad.png').write_bytes(content)
  with pytest.raises(ValueError, match=message + '.*pass --skip_broken_images to leave such images out') as e:
    load(tmp_path)
  one_line(e)
  with pytest.warns(UserWarning, match=r'left out 1 broken images, the first: .*bad\.png'):
    dataset = load(tmp_path, skip_broken=True)
  assert dataset.val.class_sizes.tolist() == [3, 3]


def test_zero_sized_image_is_named(tmp_path):
  header = (b'GIF89a' + bytes(4) + b'\x80\x00\x00' + bytes(6)
            + b'\x2c' + bytes(8) + b'\x00\x02\x02\x4c\x01\x00\x3b')  # 0 x 0 pixels
  (tmp_path / 'zero.bmp').write_bytes(header)
  with pytest.raises(ValueError, match=r'zero\.bmp: broken image'):
    folder.read_image(tmp_path / 'zero.bmp', 8)


def test_class_of_broken_images_only_is_refused(tmp_path):
  make_tree(tmp_path / 'tree')
  for path in (tmp_path / 'tree/test/test_0').iterdir():
    path.write_bytes(b'')
  with pytest.raises(ValueError, match='test_0: all of its 3 images are broken'):
    load(tmp_path, skip_broken=True)


def test_class_folder_without_images_is_named(tmp_path):
  make_tree(tmp_path / 'tree')
  (tmp_path / 'tree/train/empty').mkdir()
  with pytest.raises(ValueError, match=r'class folder .*empty: expected images .*, found none'):
    load(tmp_path)


def test_missing_split_is_named(tmp_path):
  make_tree(tmp_path / 'tree', ('train', 'test'))
  with pytest.raises(ValueError, match='missing val'):
    load(tmp_path)
  (tmp_path / 'tree/val').mkdir()
  with pytest.raises(ValueError, match='expected at least one class in val, found none'):
    load(tmp_path)


def test_class_in_two_splits_is_refused(tmp_path):
  make_tree(tmp_path / 'tree')
  save(tmp_path / 'tree/test/train_0/0.png', np.zeros((4, 4, 3), np.uint8))
  with pytest.raises(ValueError, match='found more than once: train_0'):
    load(tmp_path)


def test_missing_folder_is_named(tmp_path):
  with pytest.raises(ValueError, match=r'expected data_dir to be a folder of images, got .*tree'):
    load(tmp_path)
  with pytest.raises(ValueError, match='got None'):
    data.load('folder', cache_dir=tmp_path / 'cache')


def test_changed_image_is_seen(tmp_path):
  make_tree(tmp_path / 'tree')
  before = load(tmp_path).train.images[0].copy()
  save(tmp_path / 'tree/train/train_0/0.png', np.full((11, 11, 3), 200, np.uint8))
  assert np.all(before == 0)
  assert np.all(load(tmp_path).train.images[0] == 200)


def test_split_file_for_another_set_is_refused(tmp_path):
  with pytest.raises(ValueError, match='fc100 is split already; only folder takes one'):
    data.load('fc100', split_file=tmp_path / 'split.json')
