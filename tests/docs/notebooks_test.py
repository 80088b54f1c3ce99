"""Each notebook of examples/ runs from its first cell to its last, and holds no outputs.

Cells are plain Python, without commands of IPython, so they run in this process as they would in a
kernel, under the tests' own settings: warnings are errors, reused keys too.
"""
import functools
import json
import pathlib
import re

import jax
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / 'examples' / 'notebooks'
NOTEBOOKS = sorted(FOLDER.glob('*.ipynb'))


@functools.cache
def cells_of(path):
  """(kind, text) of each cell."""
  notebook = json.loads(path.read_text(encoding='utf-8'))
  return [(cell['cell_type'], ''.join(cell['source'])) for cell in notebook['cells']]


@functools.cache
def names_after(stem):
  """The names that a notebook leaves behind; it runs once."""
  path, names = FOLDER / f'{stem}.ipynb', {'__name__': '__main__'}
  x64 = jax.config.jax_enable_x64
  matplotlib.use('agg')  # draws, and opens no window
  try:
    for number, (kind, text) in enumerate(cells_of(path)):
      if kind == 'code':
        exec(compile(text, f'{path.name}, cell {number}', 'exec'), names)
    return names
  finally:
    jax.config.update('jax_enable_x64', x64)
    plt.close('all')


def test_there_are_two():
  assert [path.stem for path in NOTEBOOKS] == ['gradients_through_the_inner_loop',
                                               'photos_to_classifier']


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_plain_and_holds_no_outputs(path):
  notebook = json.loads(path.read_text(encoding='utf-8'))
  assert (notebook['nbformat'], notebook['nbformat_minor']) == (4, 5)
  ids = [cell['id'] for cell in notebook['cells']]
  assert len(ids) == len(set(ids))
  for cell in notebook['cells']:
    if cell['cell_type'] == 'code':
      assert cell['outputs'] == [] and cell['execution_count'] is None
      assert not re.search(r'^\s*[!%]', ''.join(cell['source']), re.MULTILINE)
  links = [link for kind, text in cells_of(path) if kind == 'markdown'
           for link in re.findall(r'\]\(([^)\s]+)\)', text)]
  assert links and all((path.parent / link).exists() for link in links)


def test_photos_become_a_classifier_that_leaves():
  names = names_after('photos_to_classifier')
  report, predictions = names['report'], names['predictions']
  assert report.num_judged == 20 and len(predictions) == 80 and not names['unreadable']
  assert report.accuracy.share > 0.5 and names['right'] > 0.5  # a quarter by chance
  assert names['written'].sections == ['classifiers', 'settings']
  assert names['difference'] < 1e-5
  assert not names['folder'].exists()
  assert len(names['axes'].ravel()) == 16


def test_gradients_are_those_of_finite_differences():
  names = names_after('gradients_through_the_inner_loop')
  assert max(names['errors']['second']) < 1e-6 and names['errors']['implicit'][-1] < 1e-6
  assert names['errors']['first'][-1] > 1e3 * names['errors']['second'][-1]
  np.testing.assert_allclose(names['by_rate'], np.sum(np.asarray(names['by_rates'])), rtol=1e-9)
  drawn = names['figure'].axes
  assert len(drawn) == 2 and len(drawn[1].lines) == 3
  assert jax.config.jax_enable_x64 is False
