"""The known splits, and what is said of one that does not match them."""
import hashlib

import pytest

from mtl_jax.data import imagenet_classes

SPLITS = ('train', 'val', 'test')


def change(name, **changes):
  found = {split: list(classes) for split, classes in imagenet_classes.CLASSES[name].items()}
  for split, function in changes.items():
    function(found[split])
  return found


def message(name, found, check=imagenet_classes.check_wordnet_ids):
  with pytest.raises(ValueError) as e:
    check(name, 'here', found)
  assert '\n' not in str(e.value)
  return str(e.value)


@pytest.mark.parametrize(('name', 'sizes', 'digest'), [
    # Digest of the sorted ids of train, val and test, one a line: from the published lists, not
    # from the module.
    ('mini_imagenet', [64, 16, 20], '7600327334af2bae'),
    ('tiered_imagenet', [351, 97, 160], 'a57a1ffdd927c12f'),
])
def test_lists_are_those_published(name, sizes, digest):
  classes = imagenet_classes.CLASSES[name]
  assert list(classes) == list(SPLITS) and [len(classes[split]) for split in SPLITS] == sizes
  every = [c for split in SPLITS for c in classes[split]]
  assert len(set(every)) == sum(sizes) and all(map(imagenet_classes.is_wordnet_id, every))
  lines = ''.join(f'{c}\n' for split in SPLITS for c in sorted(classes[split]))
  assert hashlib.sha256(lines.encode()).hexdigest()[:16] == digest
  imagenet_classes.check_wordnet_ids(name, 'here', classes)
  imagenet_classes.check_ids_or_counts(name, 'here', classes)


def test_numbers_of_images_are_those_published():
  mini = imagenet_classes.NUM_IMAGES['mini_imagenet']
  assert mini == {'train': 64 * 600, 'val': 16 * 600, 'test': 20 * 600}
  assert sum(imagenet_classes.NUM_IMAGES['tiered_imagenet'].values()) == 779_165


@pytest.mark.parametrize(('changes', 'says'), [
    ({'val': lambda c: c.append('n01930112')},
     "in more than one split: 'n01930112' (val and test)"),
    ({'train': lambda c: c.remove('n01532829'), 'test': lambda c: c.append('n01532829')},
     "in the wrong split: 'n01532829' (in test, belongs to train)"),
    ({'train': lambda c: c.remove('n01532829')}, "missing: 'n01532829' (train)"),
    ({'val': lambda c: c.append('lost+found')}, "unknown: 'lost+found' (val)"),
    ({'val': lambda c: c.clear()},
     "missing: 'n01855672' (val), 'n02091244' (val), 'n02114548' (val) and 13 more"),
    ({'test': lambda c: c.append('a\nb')}, r"unknown: 'a\nb' (test)"),
])
def test_what_does_not_match_is_named(changes, says):
  said = message('mini_imagenet', change('mini_imagenet', **changes))
  assert said == f'here: expected the 64/16/20 classes of mini_imagenet in train/val/test; {says}'


def test_several_problems_are_all_named():
  said = message('mini_imagenet', change('mini_imagenet', train=lambda c: c.pop(0),
                                         val=lambda c: c.append('cat')))
  assert "missing: 'n01532829' (train); unknown: 'cat' (val)" in said


def test_other_split_of_the_same_classes_is_refused():
  found = imagenet_classes.CLASSES['mini_imagenet']
  said = message('mini_imagenet', {'train': found['train'], 'val': found['test'],
                                   'test': found['val']})
  assert '(in val, belongs to test)' in said and '(in test, belongs to val) and 33 more' not in said
  assert 'and 33 more' in said


@pytest.mark.parametrize(('found', 'says'), [
    (([f'a{i}' for i in range(64)], [f'b{i}' for i in range(16)], [f'c{i}' for i in range(19)]),
     'expected the 64/16/20 classes of mini_imagenet in train/val/test, found 64/16/19'),
    (([f'a{i}' for i in range(64)], [f'b{i}' for i in range(16)], [f'a{i}' for i in range(20)]),
     "expected each class in one split, found in more than one: 'a0', 'a1', 'a2' and 17 more"),
    ((['n01532829'] * 64, ['b'] * 16, ['c'] * 20), "missing: 'n01558993' (train)"),
])
def test_classes_without_ids_are_counted(found, says):
  found = dict(zip(SPLITS, found, strict=True))
  assert says in message('mini_imagenet', found, imagenet_classes.check_ids_or_counts)
