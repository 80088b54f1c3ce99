"""Small miniImageNets and tieredImageNets in every layout that is shared, with the same images."""
import io
import pickle

import numpy as np
import pytest
from PIL import Image

from mtl_jax import data
from mtl_jax.data import imagenet_classes

SPLITS = ('train', 'val', 'test')
CLASSES = {'train': ['n00000003', 'n00000001'], 'val': ['n00000005'],
           'test': ['n00000002', 'n00000004']}
SIDE = 84
COUNT = 3  # images of each class


def refused(tmp_path, name, **options):
  """Returns the line of the error that loading must end with; nothing may be cached."""
  with pytest.raises(ValueError) as e:
    load(tmp_path, name, **options)
  assert '\n' not in str(e.value)
  assert not list((tmp_path / 'cache').rglob('*.npy'))
  return str(e.value)


def shrink(monkeypatch, name, classes=CLASSES):
  """Makes `classes` the known split."""
  monkeypatch.setitem(imagenet_classes.CLASSES, name, classes)
  monkeypatch.setitem(imagenet_classes.NUM_IMAGES, name,
                      {s: COUNT * len(classes[s]) for s in SPLITS})


def images_of(name):
  rng = np.random.default_rng(int(name[1:]))
  return rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)


def png(image):
  content = io.BytesIO()
  Image.fromarray(image).save(content, 'PNG', compress_level=0)
  return content.getvalue()


def write_folders(root, classes=CLASSES):
  for split, names in classes.items():
    for name in names:
      (root / split / name).mkdir(parents=True)
      for i, image in enumerate(images_of(name)):
        (root / split / name / f'{name}_{i:03d}.png').write_bytes(png(image))


def write_csv(root, classes=CLASSES):
  (root / 'images').mkdir(parents=True)
  for split, names in classes.items():
    rows = ['filename,label']
    for name in names:
      for i, image in enumerate(images_of(name)):
        (root / 'images' / f'{name}{i}.jpg').write_bytes(png(image))  # Readers go by content.
        rows.append(f'{name}{i}.jpg,{name}')
    (root / f'{split}.csv').write_text('\n'.join(rows) + '\n')


def write_pickle(path, content, protocol=4):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(pickle.dumps(content, protocol))


def write_cache(root, classes=CLASSES, **changes):
  for split, names in classes.items():
    content = {'image_data': np.concatenate([images_of(name) for name in names]),
               'class_dict': {name: list(range(COUNT * c, COUNT * (c + 1)))
                              for c, name in enumerate(names)}}
    write_pickle(root / f'mini-imagenet-cache-{split}.pkl', {**content, **changes})


def write_labelled(root, classes=CLASSES, named=True, as_list=False):
  first = 0
  for split, names in classes.items():
    file = 'train_phase_train' if split == 'train' else split
    images = np.concatenate([images_of(name) for name in names])
    content = {'data': list(images) if as_list else images,
               'labels': [first + c for c in range(len(names)) for _ in range(COUNT)]}
    if named:
      content['catname2label'] = {name: first + c for c, name in enumerate(names)}
    write_pickle(root / f'miniImageNet_category_split_{file}.pickle', content)
    first += len(names)


def write_labels(root, classes=CLASSES, describe=lambda name: f'thing {name}', **changes):
  for split, names in classes.items():
    labels = np.repeat(np.arange(len(names), dtype=np.int32), COUNT)
    content = {'label_specific': labels, 'label_specific_str': [describe(name) for name in names],
               'label_general': labels * 0, 'label_general_str': ['things']}
    write_pickle(root / f'{split}_labels.pkl', {**content, **changes})


def write_npz(root, classes=CLASSES, save=np.savez):
  root.mkdir(parents=True, exist_ok=True)
  for split, names in classes.items():
    images = np.concatenate([images_of(name) for name in names])
    save(root / f'{split}_images.npz', images=images[..., ::-1])  # OpenCV keeps blue first.


def write_pngs(root, classes=CLASSES):
  for split, names in classes.items():
    content = [np.frombuffer(png(image), np.uint8)[:, None]
               for name in names for image in images_of(name)]
    write_pickle(root / f'{split}_images_png.pkl', content)


def load(tmp_path, name, **options):
  folders = {'data_dir': tmp_path / 'data', 'cache_dir': tmp_path / 'cache'}
  return data.load(name, **{**folders, **options})


def assert_holds(dataset, sort=True, describe=lambda name: name):
  """Asserts that the images of each class are those of `images_of`."""
  for split in SPLITS:
    names = sorted(CLASSES[split]) if sort else CLASSES[split]
    pool = getattr(dataset, split)
    assert dataset.class_names[split] == tuple(describe(name) for name in names)
    assert pool.class_sizes.tolist() == [COUNT] * len(names)
    np.testing.assert_array_equal(pool.images, np.concatenate([images_of(name) for name in names]))
  values = dataset.train.images.astype(np.float64) / 255
  for split in SPLITS:
    mean, std = getattr(dataset, split).normalization
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-6)
  assert dataset.flip
