"""Data sets as uint8 arrays by split, on the host.

`fc100`, `cifar_fs` and `omniglot` come as one published archive, `mini_imagenet` and
`tiered_imagenet` in any of the layouts that are shared, `folder` is any tree of images, `glyphs` is
drawn. Each pool of images carries what it is normalised by.
"""
import os

from mtl_jax import types
from mtl_jax.data import archived, folder, mini_imagenet, tiered_imagenet, transforms


def _load_glyphs(name: str, image_size: int | None, seed: int) -> types.Dataset:
  from mtl_jax.data import glyphs  # Here: it imports matplotlib.
  drawn = glyphs.render(seed)
  return drawn if image_size is None else transforms.resize(drawn, image_size)


# Name -> the function that loads it, and which options of `load` it reads.
_LOADERS = {
    'cifar_fs': (archived.load, ('data_dir', 'cache_dir', 'image_size')),
    'fc100': (archived.load, ('data_dir', 'cache_dir', 'image_size')),
    'folder': (folder.load, ('data_dir', 'cache_dir', 'image_size', 'split_file', 'skip_broken')),
    'glyphs': (_load_glyphs, ('image_size', 'seed')),
    'mini_imagenet': (mini_imagenet.load, ('data_dir', 'cache_dir', 'image_size', 'skip_broken')),
    'omniglot': (archived.load, ('data_dir', 'cache_dir', 'image_size')),
    'tiered_imagenet': (tiered_imagenet.load,
                        ('data_dir', 'cache_dir', 'image_size', 'skip_broken')),
}

NAMES = tuple(_LOADERS)


def load(name: str, *, data_dir: str | os.PathLike | None = None,
         cache_dir: str | os.PathLike | None = None, image_size: int | None = None,
         split_file: str | os.PathLike | None = None, skip_broken: bool = False,
         seed: int = 0) -> types.Dataset:
  """Loads a data set; what was decoded once is read from the cache from then on.

  Args:
    name: a name of `NAMES`.
    data_dir: folder with the set's archive (`cifar-100-binary.tar.gz` or `.tar.xz`,
      `images_background.zip`) or its extracted folder, used before any download; for `folder`, the
      tree of images; for `mini_imagenet` and `tiered_imagenet`, any of their `LAYOUTS`. Never
      written to.
    cache_dir: where downloads and decoded images are kept; the per-user cache directory if None.
    image_size: side in pixels, to which images are resized; the set's own if None (32; omniglot 28;
      folder and ImageNet's sets 84).
    split_file: for `folder`: JSON file with the classes of each split.
    skip_broken: for `folder` and ImageNet's sets: leave out images that cannot be read.
    seed: for `glyphs`: decides the drawings.

  Returns:
    Train, val and test with disjoint classes, as NumPy arrays; arrays from the cache are read-only.

  Raises:
    ValueError: the name is unknown, or the data is missing, damaged or not as expected.
  """
  if name not in _LOADERS:
    raise ValueError(f"unknown data set {name!r}; expected one of {', '.join(NAMES)}")
  function, used = _LOADERS[name]
  if split_file is not None and 'split_file' not in used:
    raise ValueError(f'split_file {split_file}: {name} is split already; only folder takes one')
  options = {'data_dir': data_dir, 'cache_dir': cache_dir, 'image_size': image_size,
             'split_file': split_file, 'skip_broken': skip_broken, 'seed': seed}
  return function(name, **{option: options[option] for option in used})
