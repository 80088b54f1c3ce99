"""Classes divided into train, val and test: by fractions, by a file, as found."""
import hashlib
import json

import pytest
from hypothesis import given, strategies

from mtl_jax.data import division
from mtl_jax.data.division import Part, Wanted

NAMES = [f'class {i}' for i in range(10)]
SPLITS = ('train', 'val', 'test')


@given(strategies.integers(3, 60), strategies.integers(0, 3),
       strategies.sampled_from([(0.6, 0.2, 0.2), (0.34, 0.33, 0.33), (0.7, 0.15, 0.15)]))
def test_every_class_is_in_one_split_and_numbers_are_near_the_fractions(number, seed, fractions):
  names = [str(i) for i in range(number)]
  try:
    found = division.by_fractions('here', names, fractions, seed)
  except ValueError:
    assert min(fractions) * number < 1
    return
  assert sorted(sum(found.values(), [])) == sorted(names)
  for split, fraction in zip(SPLITS, fractions, strict=True):
    assert abs(len(found[split]) - fraction * number) < 1
    assert found[split] == [name for name in names if name in found[split]]  # in their order


def test_the_order_is_that_of_a_hash_of_seed_and_name():
  for seed in (0, 7):
    order = sorted(NAMES, key=lambda n: hashlib.sha256(f'{seed} {n}'.encode()).hexdigest())
    found = division.by_fractions('here', NAMES, (0.6, 0.2, 0.2), seed)
    assert set(found['train']) == set(order[:6]) and set(found['test']) == set(order[8:])


def test_five_classes_by_sixths_in_binary():
  found = division.by_fractions('here', NAMES[:5], (0.6, 0.2, 0.2), 0)
  assert [len(found[split]) for split in SPLITS] == [3, 1, 1]


@pytest.mark.parametrize(('number', 'says'), [
    (2, 'got train 1, val 1, test 0 of 2 classes'), (1, 'of 1 class'), (0, 'of 0 classes')])
def test_a_split_without_a_class_is_refused_with_their_number(number, says):
  with pytest.raises(ValueError, match=says):
    division.by_fractions('here', NAMES[:number], (0.6, 0.2, 0.2), 0)


@pytest.mark.parametrize('text', ['0.6,0.2', '0.6,0.2,0.3', '0.8,0,0.2', 'a,b,c', '0.6', '',
                                  'nan,0.5,0.5', '1.2,-0.1,-0.1', '0.6,0.2,0.1,0.1'])
def test_fractions_that_are_none(text):
  with pytest.raises(ValueError, match='three fractions above 0 that sum to 1') as e:
    division.parse(text)
  assert repr(text) in str(e.value)
  assert division.parse('0.7,0.15,0.15') == (0.7, 0.15, 0.15)


def parts(*listed):
  return [Part(split, name, [f'{split}/{name}']) for split, name in listed]


def test_as_found():
  found = division.divide('here', parts(('train', 'a'), ('test', 'b'), ('val', 'c')), Wanted())
  assert found == {'train': [('a', ['train/a'])], 'val': [('c', ['val/c'])],
                   'test': [('b', ['test/b'])]}
  with pytest.raises(ValueError, match='more than once: a; --split=0.6,0.2,0.2 pools'):
    division.divide('here', parts(('train', 'a'), ('test', 'a'), ('val', 'c')), Wanted())
  with pytest.raises(ValueError, match='2 classes, but no splits.*--split=.*--split_file'):
    division.divide('here', parts((None, 'a'), (None, 'b')), Wanted())


def test_pooled_and_divided_anew(tmp_path):
  found = parts(('train', 'a'), ('train', 'b'), ('train', 'c'), ('test', 'a'), ('test', 'b'))
  divided = division.divide('here', found, Wanted((0.4, 0.3, 0.3)))
  assert {name: items for split in SPLITS for name, items in divided[split]} == {
      'a': ['train/a', 'test/a'], 'b': ['train/b', 'test/b'], 'c': ['train/c']}
  file = tmp_path / 'split.json'
  file.write_text(json.dumps({'train': ['c'], 'val': ['a'], 'test': ['b']}))
  divided = division.divide('here', found, Wanted(split_file=file))
  assert divided['val'] == [('a', ['train/a', 'test/a'])]
  with pytest.raises(ValueError, match='got both'):
    division.divide('here', found, Wanted((0.4, 0.3, 0.3), file))
