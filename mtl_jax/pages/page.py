"""A page as a whole: its sections in order, and the file."""
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import mtl_jax
from mtl_jax.classifiers import Classifier
from mtl_jax.pages import (
  hard_classes,
  photo_parts,
  sources,
  style,
  test_parts,
  training_parts,
)
from mtl_jax.pages.markup import Html, Section, element, folded, join, note, section, table
from mtl_jax.pages.pictures import Pictures
from mtl_jax.pages.sources import Photos, Sources
from mtl_jax.pages.test_parts import Published, Seen
from mtl_jax.runs import new_files, workdirs

# No script runs in a page, and nothing is fetched from elsewhere.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_MOST_SEEN = 2  # meta-tests whose tasks are answered again: the best


class Written(NamedTuple):
  """What a page shows."""
  sections: list[str]  # their ids
  size: int            # bytes
  missing: list[str]   # a line for each thing that could not be shown


def write(paths: Sequence[str | os.PathLike], out: str | os.PathLike, *,
          published: Published = lambda *_: (), images: bool = True,
          cache_dir: str | None = None, overwrite: bool = False) -> Written:
  """Writes a page of runs and classifiers.

  Args:
    paths: work directories, finished or not, and classifiers that were saved (.mtl).
    out: of the file, `.html`.
    published: rows to stand beside results.
    images: load the images of meta-tests, and answer some of their tasks again, for what needs
      that: hardest classes, episodes, the map of features.
    cache_dir: of decoded images.
    overwrite: replace a file that is there.

  Raises:
    FileNotFoundError: there is no such run or file.
    ValueError: a run or a file is damaged or not ours; another ending, or a file that is there.
    OSError: the page cannot be written.
  """
  check_place(out, overwrite=overwrite)
  found, pictures, missing = sources.find(paths), Pictures(), []
  seen = _seen(found, cache_dir, missing) if images else []
  if found.tests and not images:
    missing.append('episodes, which classes are taken for which, and the map of features, for '
                   'which tasks are answered again: mtl page shows them')
  sections = [
      training_parts.curves(found.trainings), test_parts.results(found.tests, published),
      test_parts.tasks(found.tests), hard_classes.by_tasks(found.tests),
      test_parts.episodes(seen, pictures),
      test_parts.classes(seen, pictures), test_parts.maps(seen),
      photo_parts.classifiers(found.classifiers, pictures),
      training_parts.failures(found.trainings),
      training_parts.scale_and_shift(found.trainings), _settings(found)]
  title = ', '.join(os.path.basename(os.path.abspath(path)) for path in paths)
  return _write(out, title, found, sections, pictures, missing)


def of_classifier(classifier: Classifier, name: str, out: str | os.PathLike, *,
                  images: bool = True, overwrite: bool = False) -> Written:
  """Writes a page of a classifier that need not have been saved.

  Args:
    classifier: any.
    name: what to call it.
    out: as in `write`.
    images: show photos, which are read again for it.
    overwrite: as in `write`.

  Raises:
    ValueError, OSError: as `write`.
  """
  check_place(out, overwrite=overwrite)
  found, pictures = Sources([], [], [Photos(name, None, classifier)]), Pictures()
  parts = [photo_parts.classifiers(found.classifiers, pictures if images else None),
           _settings(found)]
  return _write(out, name, found, parts, pictures, [] if images else [
      'photos, which are read again for it: mtl page shows them'])


def check_place(out: str | os.PathLike, *, overwrite: bool = False) -> None:
  """Refuses a place that `write` could not write to, before anything is computed for it.

  Args:
    out: as in `write`.
    overwrite: as in `write`.

  Raises:
    ValueError, OSError: another ending, or as `new_files.check_place`.
  """
  if not os.fspath(out).lower().endswith(('.html', '.htm')):
    raise ValueError(f'expected the file of a page to end in .html, got {out}')
  new_files.check_place(out, overwrite=overwrite)


def _seen(found: Sources, cache_dir: str | None, missing: list[str]) -> list[Seen]:
  """The best meta-tests whose images are at hand; says why others are not."""
  seen = []
  order = sorted(found.tests, key=lambda test: -(test.results or {}).get('accuracy', -1))
  for test in order[:_MOST_SEEN]:
    looked = test_parts.look(test, cache_dir)
    if isinstance(looked, str):
      missing.append(f'{test.name}, its tasks and classes are not shown: {looked}')
    else:
      seen.append(looked)
  if order[_MOST_SEEN:]:
    missing.append('tasks and classes of ' + ', '.join(test.name for test in order[_MOST_SEEN:])
                   + f'; those of the {_MOST_SEEN} best meta-tests are shown')
  return seen


def _settings(found: Sources) -> Section:
  """All settings and versions, of each run in a part that opens."""
  parts = []
  for run in found.trainings:
    versions = run.model['versions'] if run.model is not None else {}
    parts.append(_facts(run.name, run.settings, versions))
  for test in found.tests:
    settings = {name: value for name, value in test.settings.items() if name != 'checkpoint'}
    parts.append(_facts(test.name, settings, (test.results or {}).get('versions', {})))
  for photos in found.classifiers:
    head, run = photos.classifier.head, photos.classifier.encoder.run
    parts.append(_facts(photos.name, {
        'head': head.kind, 'strength': head.strength, 'temperature': head.temperature,
        'backbone': run.settings['backbone'], 'readout': run.settings.get('readout', {})}, {}))
  return section('settings', 'Settings and versions', *parts,
                 note(f'Page written by mtl_jax {mtl_jax.__version__}.'))


def _facts(name: str, settings: Mapping[str, Any], versions: Mapping[str, Any]) -> Html:
  said = ', '.join(f'{package} {version}' for package, version in versions.items())
  return folded(name, note(said or 'versions are recorded when a run is finished'),
                table(['setting', 'value'], list(_flat(settings)), class_='facts'))


def _flat(settings: Mapping[str, Any], prefix: str = ''):
  for name, value in settings.items():
    if isinstance(value, Mapping):
      yield from _flat(value, f'{prefix}{name}.')
    else:
      yield [f'{prefix}{name}', value]


def _write(out: str | os.PathLike, title: str, found: Sources, parts: Sequence[Section | None],
           pictures: Pictures, missing: list[str]) -> Written:
  if pictures.left_out:
    missing.append(f'{pictures.left_out} photos not shown: the page is large enough')
  sections = [part for part in parts if part is not None]
  content = _html(title, found, sections, missing).encode()
  if _content(out) != content:  # a page that says the same stays as it is
    folder, name = os.path.split(os.path.abspath(out))
    workdirs.write_file(folder, name, content)
  return Written([part.name for part in sections], len(content), missing)


def _content(path: str | os.PathLike) -> bytes | None:
  """What a file holds; None where there is none."""
  try:
    with open(path, 'rb') as file:
      return file.read()
  except OSError:
    return None


def _html(title: str, found: Sources, sections: Sequence[Section], missing: Sequence[str]) -> str:
  links = [element('a', part.title, href=f'#{part.name}') for part in sections]
  states = [element('li', element('b', run.name), f': {run.state}') for run in found.trainings]
  states += [element('li', element('b', test.name), ': meta-test, '
                     + ('finished' if test.results is not None else 'not finished'))
             for test in found.tests]
  unfinished = [each.name for each in found.trainings if each.model is None]
  unfinished += [each.name for each in found.tests if each.results is None]
  said = [element('p', f'Not finished yet: {name}. The page shows what there is.', class_='state')
          for name in unfinished]
  said += [element('p', f'Left out: {line}.', class_='state') for line in missing]
  head = element('head', element('meta', charset='utf-8'),
                 element('meta', http_equiv='Content-Security-Policy', content=_POLICY),
                 element('meta', name='viewport', content='width=device-width, initial-scale=1'),
                 element('title', f'{title} · mtl_jax'), element('style', Html(style.CSS)))
  body = element('body', element('h1', title), element('nav', *links), *said,
                 element('ul', *states) if states else '', *(part.html for part in sections))
  return f'<!doctype html>\n<html lang="en">{join([head, body])}</html>\n'
