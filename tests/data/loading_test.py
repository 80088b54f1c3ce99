"""Loading by name: which option goes with which set, what own data are called, their origin."""
import numpy as np
import pytest

from mtl_jax import data
from tests.data.images_on_disk import save

SPLIT = (0.4, 0.3, 0.3)


def tree(root):
  for i, name in enumerate('abc'):
    save(root / name / '0.png', np.full((9, 9, 3), i, np.uint8))
  return root


@pytest.mark.parametrize(('name', 'options', 'says'), [
    ('glyphs', {'data_dir': 'photos'}, '--data_dir does not go with --dataset=glyphs, which is d'),
    ('hf:x', {'data_dir': 'photos'}, 'says itself where its files are'),
    ('fc100', {'split': SPLIT}, '--split: fc100 is split already; only images of your own'),
    ('glyphs', {'split_file': 'x'}, '--split_file: glyphs is split already'),
    ('omniglot', {'called': 'x'}, '--name: omniglot has its name'),
    ('folder', {'image_column': 'x'}, '--image_column: folder has no columns; only csv:FILE'),
    ('fc100', {'label_column': 'x'}, '--label_column: fc100 has no columns'),
    ('folder', {'split': (1, 0, 0), 'data_dir': '.'}, 'three fractions above 0'),
])
def test_an_option_that_a_set_would_not_read(name, options, says):
  with pytest.raises(ValueError, match=says) as e:
    data.load(name, **options)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('name', ['imagenet', 'csv', 'csv:', 'folder:x', ':x', 'hf', 'https://x'])
def test_an_unknown_name_lists_all(name):
  with pytest.raises(ValueError, match=f'unknown data set {name!r}') as e:
    data.load(name)
  assert all(form in str(e.value) for form in data.FORMS)


def test_two_folders_have_two_names_and_one_cache(tmp_path):
  for name in ('flowers', 'birds'):
    tree(tmp_path / name)
  found = [data.load('folder', data_dir=tmp_path / name, cache_dir=tmp_path / 'cache', split=SPLIT)
           for name in ('flowers', 'birds')]
  assert [each.name for each in found] == ['flowers', 'birds']
  assert [each.origin['data_dir'] for each in found] == [str(tmp_path / 'flowers'),
                                                         str(tmp_path / 'birds')]
  options = dict(found[0].origin)
  again = data.load(options.pop('dataset'), cache_dir=tmp_path / 'cache', **options)
  assert again.name == 'flowers'
  np.testing.assert_array_equal(again.train.images, found[0].train.images)


def test_a_folder_that_is_the_current_one_has_its_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tree(tmp_path / 'flowers'))
  found = data.load('folder', data_dir='.', cache_dir=tmp_path / 'cache', split=SPLIT)
  assert found.name == 'flowers' and found.origin['data_dir'] == str(tmp_path / 'flowers')
