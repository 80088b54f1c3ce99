"""The built-in letters: counts, determinism, distinct shapes, neither trivial nor unreadable."""
import functools

import numpy as np
import pytest
from PIL import Image

from mtl_jax.data import glyph_letters, glyphs

SPLITS = {'train': 64, 'val': 16, 'test': 20}


@functools.cache
def small(seed=0):
  return glyphs.render(seed=seed, images_per_class=12)


@functools.cache
def fonts():
  return glyph_letters.load_faces()


def all_images(dataset):
  return np.concatenate([dataset.train.images, dataset.val.images, dataset.test.images])


def all_letters(dataset):
  return [name.split(' ')[1] for split in SPLITS for name in dataset.class_names[split]]


def test_counts_shapes_and_types():
  dataset = small()
  assert dataset.name == 'glyphs' and dataset.flip is False
  for split, classes in SPLITS.items():
    pool = getattr(dataset, split)
    assert isinstance(pool.images, np.ndarray) and pool.images.dtype == np.uint8
    assert pool.images.shape == (classes * 12, 32, 32, 3)
    assert pool.class_sizes.dtype == pool.class_offsets.dtype == np.int32
    np.testing.assert_array_equal(pool.class_sizes, [12] * classes)
    np.testing.assert_array_equal(pool.class_offsets, np.arange(classes) * 12)


def test_mean_and_std_are_those_of_the_training_images():
  dataset = small()
  scaled = dataset.train.images.reshape(-1, 3) / 255.0
  mean, std = dataset.train.normalization
  assert mean.dtype == std.dtype == np.float32
  np.testing.assert_allclose(mean, scaled.mean(axis=0), rtol=1e-5)
  np.testing.assert_allclose(std, scaled.std(axis=0), rtol=1e-5)
  for pool in (dataset.val, dataset.test):
    np.testing.assert_array_equal(pool.normalization, dataset.train.normalization)


def test_class_names_are_readable_and_disjoint_across_splits():
  names = [name for split in SPLITS for name in small().class_names[split]]
  assert [len(small().class_names[split]) for split in SPLITS] == list(SPLITS.values())
  assert len(set(names)) == 100
  for name in names:
    code, letter = name.split(' ')
    assert code == f'U+{ord(letter):04X}' and letter.isalpha()


def test_each_split_mixes_alphabets():
  for split in SPLITS:
    blocks = {ord(name.split(' ')[1]) // 256 for name in small().class_names[split]}
    assert len(blocks) >= 3


def test_same_seed_same_bytes_other_seed_other_images_and_split():
  again = glyphs.render(seed=0, images_per_class=12)
  for split in SPLITS:
    np.testing.assert_array_equal(getattr(again, split).images, getattr(small(), split).images)
  assert again.class_names == small().class_names
  other = small(1)
  assert other.class_names != small().class_names
  assert sorted(all_letters(other)) == sorted(all_letters(small()))
  assert not np.array_equal(other.train.images, small().train.images)


def test_no_image_occurs_twice():
  images = all_images(small()).reshape(1200, -1)
  assert len(np.unique(images, axis=0)) == 1200


def outline(letter, face, side=20):
  """Boolean [side, side]: the ink scaled to the box, its proportions kept."""
  ink = glyph_letters.draw_letter(letter, face)
  zoom = side / max(ink.size)
  width, height = (max(1, round(extent * zoom)) for extent in ink.size)
  image = Image.new('L', (side, side))
  corner = (side - width) // 2, (side - height) // 2
  image.paste(ink.resize((width, height), Image.Resampling.BOX), corner)
  return np.asarray(image) > 110


def euclidean_distance(letters, face):
  """Mean Euclidean distance from ink to ink of letters, under the best of eight moves: [n, n]."""
  shapes = [outline(letter, face) for letter in letters]
  moved = [[np.rot90(x[:, ::side], turns) for x in shapes]
           for side in (1, -1) for turns in range(4)]
  share, far = spread(shapes)
  best = np.full((len(letters), len(letters)), np.inf)
  for move in moved:
    move_share, move_far = spread(move)
    best = np.minimum(best, np.maximum(share @ move_far.T, far @ move_share.T))
  np.fill_diagonal(best, np.inf)
  return best


def spread(shapes):
  """Each shape as weights that sum to 1, and how far each pixel is from it: twice [n, pixels]."""
  places = np.argwhere(np.ones_like(shapes[0]))
  share = np.array([x.ravel() / x.sum() for x in shapes])
  far = np.array([np.linalg.norm(places[:, None] - np.argwhere(x), axis=2).min(axis=1)
                  for x in shapes])
  return share, far


@pytest.mark.parametrize('name', ['DejaVuSans.ttf', 'DejaVuSerif.ttf'])
def test_no_two_letters_are_near_duplicates(name):
  face = next(face for face in fonts() if face.name == name)
  letters = [letter for letter in all_letters(small()) if ord(letter) in face.code_points]
  assert len(letters) > 50
  assert euclidean_distance(letters, face).min() > 0.3


def test_the_measure_of_this_test_finds_known_duplicates():
  face = next(face for face in fonts() if face.name == 'DejaVuSans.ttf')
  for pair in ('AА', 'oO', 'bd', 'bq', 'nu', 'ИN', 'cC', 'mш'):
    assert euclidean_distance(pair, face).min() < 0.3


def test_distance_by_hand():
  face = next(face for face in fonts() if face.name == 'DejaVuSans.ttf')
  apart = glyph_letters.distance(('H', 'Ж'), (face,))
  h, zh = (glyph_letters._shape(letter, face) for letter in 'HЖ')

  def mean_steps(x, y):
    ink = np.argwhere(y)
    steps = [min(np.abs(ink - p).max(axis=1).min(), glyph_letters.REACH) for p in np.argwhere(x)]
    return np.mean(steps)

  moves = [np.rot90(zh[:, ::side], turns) for side in (1, -1) for turns in range(4)]
  expected = min(max(mean_steps(h, move), mean_steps(move, h)) for move in moves)
  np.testing.assert_allclose(apart, [[0, expected], [expected, 0]], rtol=1e-5)


def test_distance_finds_known_duplicates():
  letters = ('A', 'Α', 'o', 'O', 'd', 'p', 'Ж')
  apart = glyph_letters.distance(letters, fonts())
  np.testing.assert_array_equal(apart, apart.T)
  assert apart[0, 1] == 0 and apart[2, 3] < 0.25 and apart[4, 5] < 0.25
  assert apart[6, :6].min() > 0.35 and (np.diag(apart) == 0).all()


def test_chosen_letters_are_farther_apart_than_duplicates():
  apart = glyph_letters.distance(tuple(all_letters(small())), fonts())
  assert apart[np.triu_indices(100, 1)].min() > 0.4


def test_raw_pixels_hardly_tell_the_classes():
  rng = np.random.default_rng(0)
  images = small().test.images.reshape(20, 12, -1).astype(np.float64)
  scores = []
  for _ in range(300):
    episode = images[rng.choice(20, 5, replace=False)][:, rng.permutation(12)]
    queries = episode[:, 1:].reshape(55, -1)
    distance = ((queries[:, None] - episode[None, :, 0]) ** 2).sum(axis=2)
    scores.append(np.mean(distance.argmin(axis=1) == np.repeat(np.arange(5), 11)))
  assert 0.15 < np.mean(scores) < 0.35


def test_the_shape_alone_tells_the_classes_of_aligned_letters():
  """Without colours, nearest neighbours in ink recognise a letter far above chance."""
  masks = ink_masks(letters=tuple(all_letters(small())[:20]), count=12)
  flat = masks.reshape(240, -1).astype(np.float64)
  distance = ((flat[:, None] - flat[None]) ** 2).sum(axis=2)
  np.fill_diagonal(distance, np.inf)
  labels = np.repeat(np.arange(20), 12)
  assert np.mean(labels[distance.argmin(axis=1)] == labels) > 0.4


def ink_masks(letters, count):
  """Masks cropped to the ink and brought to 16x16."""
  rng = np.random.default_rng(0)
  masks = []
  for letter in letters:
    faces = [face for face in fonts() if ord(letter) in face.code_points]
    for _ in range(count):
      mask = glyphs._mask(letter, faces, rng) / 255
      rows, columns = np.flatnonzero(mask.max(axis=1) > 0.3), np.flatnonzero(mask.max(axis=0) > 0.3)
      pick = [np.linspace(side[0], side[-1], 16).round().astype(int) for side in (rows, columns)]
      masks.append(mask[np.ix_(*pick)])
  return np.array(masks)


def test_letters_lie_wholly_inside_the_image():
  rng = np.random.default_rng(0)
  for letter in all_letters(small())[:20]:
    faces = [face for face in fonts() if ord(letter) in face.code_points]
    for _ in range(10):
      mask = glyphs._mask(letter, faces, rng)
      border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
      assert mask.max() > 120 and border.mean() < 40
      assert 0.01 < (mask / 255).mean() < 0.5


def test_every_image_has_contrast_between_ink_and_ground():
  rng = np.random.default_rng(0)
  mask = np.zeros((200, 32, 32), np.float32)
  mask[:, :, 16:] = 1
  painted = glyphs._paint(mask, rng) / 255.0 @ np.array([0.299, 0.587, 0.114])
  ground, ink = (side.mean(axis=(1, 2)) for side in (painted[:, :, :16], painted[:, :, 16:]))
  assert np.abs(ground - ink).min() > 0.2
  luma = all_images(small()) / 255.0 @ np.array([0.299, 0.587, 0.114])
  low, high = np.quantile(luma.reshape(1200, -1), [0.01, 0.99], axis=1)
  assert (high - low).min() > 0.15


def test_light_ink_is_as_likely_as_dark():
  ink, ground, contrast = glyphs._colours(2000, np.random.default_rng(0))
  lighter = np.mean(ink @ glyphs.LUMA > ground @ glyphs.LUMA)
  assert 0.45 < lighter < 0.55
  assert contrast.min() >= glyphs.MIN_CONTRAST - 0.05


@pytest.mark.parametrize('arguments', [{'seed': -1}, {'images_per_class': 0}])
def test_arguments_out_of_range(arguments):
  with pytest.raises(ValueError, match='expected seed >= 0 and images_per_class >= 1'):
    glyphs.render(**arguments)


def test_all_letters_can_be_chosen_each_once():
  every = glyph_letters.candidates(fonts())
  assert glyph_letters.choose_letters(fonts(), len(every)) == tuple(sorted(every))


def test_more_letters_than_the_fonts_hold():
  with pytest.raises(ValueError, match='got count=1000'):
    glyph_letters.choose_letters(fonts(), 1000)


def test_matplotlib_without_fonts(tmp_path, monkeypatch):
  monkeypatch.setattr(glyph_letters.matplotlib, 'get_data_path', lambda: str(tmp_path))
  with pytest.raises(FileNotFoundError, match='reinstall matplotlib'):
    glyph_letters.load_faces()
