"""Published sets that come as one archive: find or download it, prepare it, resize its images, cache them."""
import os
from typing import NamedTuple

from mtl_jax import types
from mtl_jax.data import cache, cifar, omniglot, pools, rotations
from mtl_jax.untrusted import archives


class Recipe(NamedTuple):
  """What distinguishes one such set from another."""
  url: str
  sources: tuple[str, ...]  # names of the archive and of its extracted folder, as looked for in data_dir
  version: int              # counts up when the same archive gives other arrays
  image_size: int           # pixels, when none is asked for
  flip: bool                # as in types.Dataset
  rotate_train: bool        # whether training classes turned by 90, 180 and 270 degrees are further classes


RECIPES = {
    'cifar_fs': Recipe(cifar.URL, cifar.SOURCES, 1, cifar.SIDE, flip=True, rotate_train=False),
    'fc100': Recipe(cifar.URL, cifar.SOURCES, 1, cifar.SIDE, flip=True, rotate_train=False),
    'omniglot': Recipe(omniglot.URL, omniglot.SOURCES, 1, 28, flip=False, rotate_train=True),
}


def load(name: str, data_dir: str | os.PathLike | None = None, cache_dir: str | os.PathLike | None = None,
         image_size: int | None = None) -> types.Dataset:
  """Loads one of `RECIPES`; see `mtl_jax.data.load`."""
  recipe = RECIPES[name]
  size = recipe.image_size if image_size is None else image_size
  if size < 1:
    raise ValueError(f'{name}: expected image_size of at least 1 pixel, got {image_size}')
  source = archives.find(data_dir, recipe.sources)
  origin = {'version': recipe.version,
            'sources': cache.fingerprint(archives.files_of(source)) if source else recipe.url}
  root = cache.directory(cache_dir)

  def build() -> types.Dataset:
    from mtl_jax.data import builders  # Here: it imports TFDS, which takes a second.
    try:
      prepared = root / 'tfds' / cache.digest(origin)
      classes = builders.prepare(name, source, prepared, root / 'downloads')
    except ConnectionError as e:
      raise ValueError(f"{name}: none of {', '.join(recipe.sources)} in data_dir {data_dir}, and {e}; "
                       "download it elsewhere, put it in a folder and pass that as data_dir") from e
    return _dataset(name, recipe, classes, size)

  return cache.load_or_build(name, {**origin, 'image_size': size}, build, root)


def _dataset(name: str, recipe: Recipe, classes: dict[str, pools.Classes], size: int) -> types.Dataset:
  resized = {split: [(c, pools.resize(images, size)) for c, images in classes[split]]
             for split in pools.SPLITS}
  if recipe.rotate_train:
    resized['train'] = rotations.of_classes(resized['train'])
  return pools.from_classes(name, resized, recipe.flip)
