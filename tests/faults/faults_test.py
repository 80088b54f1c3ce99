"""A short form of `python -m tests.faults`."""
import pytest

from tests.faults import __main__ as faults
from tests.faults import bombs, command_lines, damage, readers, tally


def failures(found):
  return tally.table([each for each in found if each.failures])


@pytest.mark.slow
def test_nothing_fails():
  found = faults.run(faults.Numbers(1, 1, 1, mutations=100, cases=200, lines=100), seed=0)
  assert not any(each.failures for each in found), failures(found)


def test_a_few_damages_of_the_cache_and_of_every_reader(tmp_path):
  for name in ('cache', 'artefacts', 'readers'):
    (tmp_path / name).mkdir()
  found = [*damage.of_cache(tmp_path / 'cache', 20, seed=1),
           *damage.of_artefacts(tmp_path / 'artefacts', 20, seed=1),
           *readers.fuzz(tmp_path / 'readers', 20, seed=1)]
  assert not any(each.failures for each in found), failures(found)
  assert sum(each.refused for each in found) > 100


def test_bombs_but_for_the_largest_images(tmp_path):
  [found] = bombs.explode(tmp_path, much=10**7)
  assert not found.failures, failures([found])
  assert found.tries > 20 and found.refused > 20


def test_a_few_wrong_command_lines(tmp_path):
  wrong, odd = command_lines.of_registry(tmp_path, 12, seed=2)
  assert not wrong.failures + odd.failures, failures([wrong, odd])
  assert wrong.tries + odd.tries == 12 and wrong.refused == wrong.tries > 6


def test_the_table_sees_a_failure():
  found = tally.Tally('x')
  found.read('a', lambda: 1, lambda _: False)
  found.read('b', lambda: {}['y'], lambda _: True)
  found.read('c', lambda: int('z'), lambda _: True)
  assert (found.tries, found.refused, len(found.failures)) == (3, 1, 2)
  assert '| x | 3 | 1 | 2 | 0.00 | ' in tally.table([found])
  assert '|\nx: a: read without a word\nx: b: KeyError' in tally.table([found])
