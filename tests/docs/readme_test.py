"""README and docs: the example in README runs as printed, and links and files named are there."""
import pathlib
import re
import runpy

import jax
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text(encoding='utf-8')
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'benchmarks' / 'README.md',
         *sorted((ROOT / 'docs').glob('*.md'))]


def test_the_example_has_finite_gradients_for_all_three_arguments():
  names = runpy.run_path(str(ROOT / 'examples' / 'few_shot_in_30_lines.py'))
  section = README[README.index('## As a library'):]
  exec(re.search(r'```python\n(.*?)```', section, re.DOTALL).group(1), names)
  for_phi, for_theta, for_inner_lr = names['gradients']
  assert jax.tree.structure(for_phi) == jax.tree.structure(names['phi'])
  assert for_theta.kernel.shape == (256, 5)
  leaves = jax.tree.leaves(names['gradients'])
  assert all(np.isfinite(leaf).all() for leaf in leaves)
  assert float(for_inner_lr) != 0 and max(float(abs(leaf).max()) for leaf in leaves) > 0


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page):
  text = page.read_text(encoding='utf-8')
  named = re.findall(r'`((?:mtl_jax|launch|benchmarks|docs|tests|examples)/[\w./]*)`', text)
  assert [name for name in named if not (ROOT / name).exists()] == []


def anchors(page):
  """Anchors of a page's headings, as hosts of Markdown make them."""
  headings = re.findall(r'^#+ (.*)$', page.read_text(encoding='utf-8'), re.MULTILINE)
  return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page):
  for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text(encoding='utf-8')):
    if target.startswith('http'):
      continue
    name, _, anchor = target.partition('#')
    linked = (page.parent / name).resolve() if name else page
    assert linked.exists(), f'{page.name} links to {target}'
    assert not anchor or anchor in anchors(linked), f'{page.name} links to {target}'


def test_every_page_is_reached_from_the_index():
  index = (ROOT / 'docs' / 'index.md').read_text(encoding='utf-8')
  missing = [page.name for page in (ROOT / 'docs').glob('*.md')
             if page.name != 'index.md' and f']({page.name}' not in index]
  assert missing == []


def test_no_figure_is_left_open():
  assert re.findall(r'\b(?:QUICKSTART|QS)_[A-Z]+\b', README) == []
