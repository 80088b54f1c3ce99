from mtl_jax.runs import differences


def named(there, here):
  return [str(difference) for difference in differences.find(there, here)]


def test_equal_settings_have_no_differences():
  settings = {'config': {'inner': {'lr': 0.01}, 'way': 5}, 'shape': [32, 32, 3], 'readout': {}}
  assert named(settings, settings) == []


def test_what_differs_is_named_where_it_nests():
  there = {'seed': 0, 'config': {'inner': {'lr': 0.01, 'steps': 20}, 'learn': {'norm': False}}}
  here = {'seed': 1, 'config': {'inner': {'lr': 0.1, 'steps': 20}, 'learn': {'norm': True}}}
  assert named(there, here) == [
      'config.inner.lr: 0.01 there, 0.1 here',
      'config.learn.norm: false there, true here',
      'seed: 0 there, 1 here']


def test_a_missing_setting_is_not_one_of_none():
  assert named({'profile': None, 'old': [1, 2]}, {'new': True}) == [
      'new: not set there, true here',
      'old: [1, 2] there, not set here',
      'profile: null there, not set here']


def test_what_nests_is_not_printed_whole():
  assert named({'readout': {}, 'config': 5}, {'readout': 'l2', 'config': {'way': 5}}) == [
      'config: 5 there, {...} here', 'readout: {} there, "l2" here']


def test_the_first_differences_are_named_and_the_others_counted():
  found = differences.find({str(i): 0 for i in range(7)}, {str(i): 1 for i in range(7)})
  assert differences.summarize(found[:2]) == '0: 0 there, 1 here; 1: 0 there, 1 here'
  assert differences.summarize(found[:5]).endswith('; 4: 0 there, 1 here')
  assert differences.summarize(found).endswith('; 4: 0 there, 1 here; and 2 more')
