"""Loading a data set by its name, and what is noted of where it came from."""
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mtl_jax import types
from mtl_jax.data import (
  archived,
  columns,
  csv_file,
  division,
  folder,
  mini_imagenet,
  parquet_files,
  prepared,
  tiered_imagenet,
  transforms,
)


def _load_glyphs(name: str, image_size: int | None, seed: int) -> types.Dataset:
  from mtl_jax.data import glyphs  # Here: it imports matplotlib.
  drawn = glyphs.render(seed)
  return drawn if image_size is None else transforms.resize(drawn, image_size)


class _Loader(NamedTuple):
  """A function that loads, and which options of `load` it reads."""
  function: Callable[..., types.Dataset]
  options: tuple[str, ...]


DRAWN = 'glyphs'
_GLYPH_SIDE = 32
_READ = ('data_dir', 'cache_dir', 'image_size')
_OWN = ('cache_dir', 'image_size', 'wanted', 'skip_broken')
_LOADERS = {
    'cifar_fs': _Loader(archived.load, _READ),
    'fc100': _Loader(archived.load, _READ),
    'folder': _Loader(folder.load, (*_OWN, 'data_dir')),
    DRAWN: _Loader(_load_glyphs, ('image_size', 'seed')),
    'mini_imagenet': _Loader(mini_imagenet.load, (*_READ, 'skip_broken')),
    'omniglot': _Loader(archived.load, _READ),
    'tiered_imagenet': _Loader(tiered_imagenet.load, (*_READ, 'skip_broken')),
    'csv': _Loader(csv_file.load, (*_OWN, 'data_dir', 'named')),
    'hf': _Loader(parquet_files.load, (*_OWN, 'named')),
    'tfds': _Loader(prepared.load, (*_OWN, 'data_dir', 'named')),
}
_SHOWN = {'csv': 'csv:FILE', 'hf': 'hf:PATH', 'tfds': 'tfds:NAME'}  # they say what they read

NAMES = tuple(name for name in _LOADERS if name not in _SHOWN)
FORMS = (*NAMES, *_SHOWN.values())
OWN = ('folder', *_SHOWN)  # images of one's own, which have no name of their own


def load(name: str, *, data_dir: str | os.PathLike | None = None,
         cache_dir: str | os.PathLike | None = None, image_size: int | None = None,
         split: Sequence[float] | None = None, split_seed: int = 0,
         split_file: str | os.PathLike | None = None, image_column: str | None = None,
         label_column: str | None = None, called: str | None = None, skip_broken: bool = False,
         seed: int = 0) -> types.Dataset:
  """Loads a data set; what was decoded once is read from the cache from then on.

  Args:
    name: one of `FORMS`.
    data_dir: folder with the set's archive (`cifar-100-binary.tar.gz` or `.tar.xz`,
      `images_background.zip`) or its extracted folder, used before any download; for `folder`, the
      tree of images; for `csv:FILE`, where paths in it begin, by default its own folder; for
      `tfds:NAME`, where prepared sets are kept; for `mini_imagenet` and `tiered_imagenet`, any of
      their `LAYOUTS`. Never written to.
    cache_dir: where downloads and decoded images are kept; the per-user cache directory if None.
    image_size: side in pixels, to which images are resized; the set's own if None (32; omniglot 28;
      one's own images and ImageNet's sets 84).
    split: for one's own images: fractions of the classes for train, val and test, such as
      (0.6, 0.2, 0.2); splits that the data have are pooled.
    split_seed: decides which classes go where, see `division.by_fractions`.
    split_file: for one's own images: JSON file with the classes of each split.
    image_column: for `csv:`, `hf:` and `tfds:`: which column the images are in.
    label_column: the same of the labels.
    called: for one's own images: what runs and results call them; by default their folder or file.
    skip_broken: for one's own images and ImageNet's sets: leave out what cannot be read.
    seed: for `glyphs`: decides the drawings.

  Returns:
    Train, val and test with disjoint classes, as NumPy arrays; arrays from the cache are read-only.
    Its `origin` says what was loaded.

  Raises:
    ValueError: the name is unknown, an option is not for that set, or the data is missing, damaged
      or not as expected.
  """
  kind, place = check_name(name)
  place = os.path.expanduser(place)  # A shell leaves it alone in --dataset=csv:~/birds.csv.
  loader = _LOADERS[kind]
  given = {'data_dir': data_dir, 'split': split, 'split_file': split_file, 'called': called,
           'image_column': image_column, 'label_column': label_column}
  _check_options(name, kind, {option for option, value in given.items() if value is not None})
  wanted = division.Wanted(None if split is None else division.check(split), split_file, split_seed)
  options = {'data_dir': data_dir, 'cache_dir': cache_dir, 'image_size': image_size,
             'wanted': wanted, 'named': columns.Named(image_column, label_column),
             'skip_broken': skip_broken, 'seed': seed}
  found = loader.function(kind, *([place] if place else []),
                          **{option: options[option] for option in loader.options})
  if kind in OWN:
    found = found._replace(name=_checked(called) or _name(kind, place, data_dir))
  return found._replace(origin=_origin(kind, place, given, split_seed))


def check_name(name: str) -> tuple[str, str]:
  """Splits the name of a data set into its kind and, after a colon, what is read.

  Args:
    name: as of `load`.

  Raises:
    ValueError: it is none of `FORMS`.

  >>> check_name('csv:birds.csv'), check_name('fc100')
  (('csv', 'birds.csv'), ('fc100', ''))
  """
  kind, colon, place = name.partition(':')
  if kind not in _LOADERS or bool(place) != (kind in _SHOWN) or (colon and not place):
    raise ValueError(f"unknown data set {name!r}; expected one of {', '.join(FORMS)}")
  return kind, place


def own_side(name: str) -> int:
  """Returns the side in pixels of the images of a data set where none is asked for.

  Args:
    name: as of `load`.

  Raises:
    ValueError: as `check_name`.

  >>> own_side('omniglot'), own_side('folder')
  (28, 84)
  """
  kind, _ = check_name(name)
  if kind in archived.RECIPES:
    return archived.RECIPES[kind].image_size
  return _GLYPH_SIDE if kind == DRAWN else folder.SIZE


def _check_options(name: str, kind: str, given: set[str]) -> None:
  """Refuses what the data set would not read."""
  options = _LOADERS[kind].options
  if 'data_dir' in given and 'data_dir' not in options:
    reads = 'is drawn and reads no folder' if kind == DRAWN else 'says itself where its files are'
    raise ValueError(f'--data_dir does not go with --dataset={name}, which {reads}; images in a '
                     'folder of your own are --dataset=folder')
  for option in ('split_file', 'split', 'called'):
    if option in given and kind not in OWN:
      shown = 'name' if option == 'called' else option
      why = 'has its name' if option == 'called' else 'is split already'
      raise ValueError(f'--{shown}: {name} {why}; only images of your own take one '
                       f"({', '.join(form for form in FORMS if form.split(':')[0] in OWN)})")
  for option in ('image_column', 'label_column'):
    if option in given and 'named' not in options:
      raise ValueError(f'--{option}: {name} has no columns; only {", ".join(_SHOWN.values())} do')


def _checked(called: str | None) -> str | None:
  """Checks the name that is given to one's own data."""
  if called is not None and (not called.strip() or not called.isprintable() or len(called) > 100):
    raise ValueError(f'expected --name to be a printable name of at most 100 characters, got '
                     f'{called!r}')
  return called


def _name(kind: str, place: str, data_dir: str | os.PathLike | None) -> str:
  """What one's own data are called where nobody says so: their folder, and the file in it."""
  if kind == 'tfds':
    return place.partition(':')[0]
  path = pathlib.Path(os.path.abspath(place or os.fspath(data_dir or '')))
  name = path.name if path.is_dir() else f'{path.parent.name}_{path.stem}'
  return name.strip('_') or kind


def _origin(kind: str, place: str, given: dict[str, Any], split_seed: int) -> dict[str, Any]:
  """Returns the options that load the same images again, as JSON values."""
  if kind in ('csv', 'hf'):
    place = os.path.abspath(place)
  origin = {'dataset': f'{kind}:{place}' if place else kind}
  for option, value in given.items():
    if value is not None:
      is_path = option in ('data_dir', 'split_file')
      origin[option] = os.path.abspath(value) if is_path else value
  if given['split'] is not None:
    origin |= {'split': [float(fraction) for fraction in given['split']], 'split_seed': split_seed}
  return origin
