"""Flags as data: what they set, presets, and that no global flag is touched."""
import dataclasses
import json
import typing

import pytest
from absl import flags

from launch import command, meta_test, meta_train, pretrain
from launch.flags import declared, machine, method, network, presets, task
from mtl_jax import configs, runs
from mtl_jax.configs import TEST_LOOP, InnerLoop, Learn, MetaTrainConfig, PretrainConfig
from tests import tiny_runs
from tests.launch.help_test import MODULES
from tests.phases import toy_dataset

REQUIRED = {'pretrain': ['--workdir=w'], 'meta-train': ['--workdir=w', '--pretrained=p']}


def parse(found, *arguments):
  return command.parse(found, [*REQUIRED[found.name], *arguments])


def test_defaults_are_those_of_the_library():
  values = parse(meta_train.COMMAND)
  config = method.meta_train_config(values, toy_dataset())
  assert config == MetaTrainConfig(crop_padding=2)  # an eighth of 16 pixels
  assert task.validation(values, config.inner) == runs.Validation()
  assert machine.machine(values) == runs.Machine(batching='auto')
  values = parse(pretrain.COMMAND)
  assert network.pretrain_config(values, toy_dataset()) == PretrainConfig(crop_padding=2)
  assert task.validation(values, method.inner(values)) == runs.Validation()
  assert network.readout_options(values) == {}


def other_value(field, kind):
  """A value of a field that is not its default."""
  if field.name == 'adapts':
    return 'all'
  if typing.get_origin(kind) is typing.Literal:
    return next(value for value in typing.get_args(kind) if value != field.default)
  if kind is bool:
    return not field.default
  return field.default + (3 if kind is int else 0.25)


@pytest.mark.parametrize(('config', 'table', 'without'), [
    # --batching is for the machine: a run decides it.
    (InnerLoop, method.INNER, {'batching'}),
    (Learn, method.LEARN, set()),
    (MetaTrainConfig, (*method.OUTER, *meta_train.FLAGS['task'], *meta_train.FLAGS['data'],
                       *meta_train.FLAGS['machine']), {'inner', 'learn'}),
    (PretrainConfig, (*network.PRETRAIN, *pretrain.FLAGS['data']), set()),
])
def test_each_field_has_a_flag_that_sets_it(config, table, without):
  own = [flag for flag in table if flag.config is config]
  assert sorted(flag.field for flag in own) == sorted(
      {field.name for field in dataclasses.fields(config)} - without)
  kinds = {field.name: field for field in dataclasses.fields(config)}
  for flag in own:
    field = kinds[flag.field]
    value = other_value(field, typing.get_type_hints(config)[flag.field])
    if value is True or value is False:
      argument = f'--{flag.name}' if value else f'--no{flag.name}'
    else:
      argument = f'--{flag.name}={value}'
    values = declared.parse({'all': tuple(own)}, [argument])
    fields = {f.field: values[f.name].value for f in own}
    assert fields[flag.field] == value and values[flag.name].present
    assert getattr(declared.read(config, own, values), flag.field) == value


@pytest.mark.parametrize(('arguments', 'fields'), [
    (['--outer=ft', '--scope=last_block', '--learn_norm'],
     {'learn': Learn('ft', scope='last_block', norm=True)}),
    (['--learn_inner_lr=per_step', '--nolearn_classifier', '--learn_temperature',
      '--scaled=every', '--replace_bias'],
     {'learn': Learn(inner_lr='per_step', classifier=False, temperature=True, scaled='every',
                     replace_bias=True)}),
    (['--inner=all', '--inner_lr=0.5', '--inner_steps=7', '--gradient_order=first',
      '--regularization=0.1', '--batch_stats=batch', '--batching=patches'],
     {'inner': InnerLoop('all', 0.5, 7, 'first', 0.1, 'batch')}),
    (['--nohard_tasks', '--num_hard_tasks=8'], {'num_hard_tasks': 0}),
    (['--num_hard_tasks=8', '--microbatch=3', '--noflip', '--crop_padding=0'],
     {'num_hard_tasks': 8, 'microbatch': 3, 'flip': False, 'crop_padding': 0}),
])
def test_flags_make_the_config(arguments, fields):
  values = parse(meta_train.COMMAND, *arguments)
  expected = dataclasses.replace(MetaTrainConfig(crop_padding=2), **fields)
  assert method.meta_train_config(values, toy_dataset()) == expected


def test_validation_adapts_as_the_training_does_but_for_its_steps():
  values = parse(meta_train.COMMAND, '--inner=all', '--inner_lr=0.5', '--gradient_order=implicit',
                 '--regularization=0.2', '--batch_stats=batch', '--test_inner_steps=9', '--way=3',
                 '--shot=2', '--validate_every=4', '--validation_tasks=6')
  found = task.validation(values, method.inner(values))
  assert found == runs.Validation(4, 6, 3, 2, InnerLoop('all', 0.5, 9, 'first', 0.2, 'batch'))


def test_the_inner_rate_of_features_of_unit_length_and_one_that_is_chosen():
  for arguments, readout, rate, chosen in (
      ([], {}, 0.01, False), ([], {'norm': 'l2'}, 0.1, False),
      (['--inner_lr=0.2'], {'norm': 'l2'}, 0.2, False),
      (['--inner_lr=auto'], {}, 0.01, True)):
    values = parse(meta_train.COMMAND, *arguments)
    method.check(values)
    config = method.meta_train_config(values, toy_dataset(), readout=readout)
    assert (config.inner.lr, method.chooses_rate(values)) == (rate, chosen)
  for other in ('--inner=all', '--learn_inner_lr=scalar'):
    with pytest.raises(ValueError, match='--inner_lr=auto goes with --inner=head'):
      method.check(parse(meta_train.COMMAND, '--inner_lr=auto', other))
  with pytest.raises(flags.Error, match="auto or a number of at least 0.0, got 'fast'"):
    parse(meta_train.COMMAND, '--inner_lr=fast')
  with pytest.raises(flags.Error, match="to be a number of at least 0.0, got 'auto'"):
    parse(pretrain.COMMAND, '--inner_lr=auto')


TESTED = {'command': 'pretrain', 'config': {}, 'validation': {'inner': configs.to_json(TEST_LOOP)}}


@pytest.mark.parametrize(('arguments', 'expected'), [
    ([], ('gd', 0.01, 1.0, True)), (['--inner_lr=0.2'], ('gd', 0.2, 1.0, False)),
    (['--inner_lr=auto'], ('gd', 0.01, 1.0, True)), (['--inner=all'], ('gd', 0.01, 1.0, False)),
    (['--classifier=ridge'], ('ridge', 0.01, 1.0, True)),
    (['--classifier=ridge', '--strength=0.5'], ('ridge', 0.01, 0.5, False)),
    (['--classifier=cosine'], ('cosine', 0.01, 1.0, False))])
def test_what_validation_tasks_choose_of_a_meta_test(arguments, expected):
  values = command.parse(meta_test.COMMAND, ['--checkpoint=c', *arguments])
  config = meta_test.test_config(values, TESTED)
  tuned = meta_test._is_tuned(values, TESTED, config)
  assert (config.classifier, config.inner.lr, config.strength, tuned) == expected


@pytest.mark.parametrize(('arguments', 'says'), [
    (['--classifier=ridge', '--inner_lr=0.1'], '--inner_lr does not go with --classifier=ridge'),
    (['--classifier=cosine', '--strength=1'], 'ridge or logistic, got 1 with cosine'),
    (['--strength=1'], 'with gd'), (['--classifier=ridge', '--strength=0'], 'got 0 with ridge'),
    (['--inner_lr=auto', '--inner=all'], 'goes with --inner=head, not with all')])
def test_settings_of_another_classifier_are_refused(arguments, says):
  values = command.parse(meta_test.COMMAND, ['--checkpoint=c', *arguments])
  with pytest.raises(ValueError, match=says):
    meta_test.test_config(values, TESTED)


def test_a_rate_of_its_own_for_resnet12():
  for name, rate in (('conv4', 0.1), ('resnet12', 0.02)):
    values = parse(pretrain.COMMAND, f'--backbone={name}')
    assert network.pretrain_config(values, toy_dataset()).lr == rate
  values = parse(pretrain.COMMAND, '--backbone=resnet12', '--lr=0.5', '--norm_affine')
  assert network.pretrain_config(values, toy_dataset()).lr == 0.5
  assert network.backbone_options(values)['norm_affine'] is True


@pytest.mark.parametrize('arguments', [
    ['--preset=fc100_conv4_1shot', '--steps=7'], ['--steps=7', '--preset=fc100_conv4_1shot'],
    ['--preset', 'fc100_conv4_1shot', '--steps', '7'],
    ['--steps=7', '--preset=fc100_conv4_5shot', '--preset=fc100_conv4_1shot'],
])
def test_flags_beside_a_preset_count_more(arguments):
  config = method.meta_train_config(parse(meta_train.COMMAND, *arguments), toy_dataset())
  assert config.steps == 7
  assert (config.shot, config.num_hard_tasks, config.inner.lr) == (1, 20, 0.2)


def test_a_preset_of_the_ablation_beside_another():
  values = parse(meta_train.COMMAND, '--preset=fc100_conv4_1shot', '--preset=ablation/ft_all')
  config = method.meta_train_config(values, toy_dataset())
  assert (config.learn.learn, config.inner.adapts, config.inner.lr) == ('ft', 'all', 0.2)
  assert config.num_hard_tasks == 0


def test_a_flagfile_stands_where_it_is_given_and_may_name_a_preset(tmp_path):
  (tmp_path / 'mine.flags').write_text('# of my own\n--preset=fc100_conv4_1shot\n--steps=7\n')
  file = f'--flagfile={tmp_path / "mine.flags"}'
  assert parse(meta_train.COMMAND, file).steps == 7
  assert parse(meta_train.COMMAND, file).inner_lr == 0.2
  assert parse(meta_train.COMMAND, file, '--steps=8').steps == 8
  assert parse(meta_train.COMMAND, '--steps=8', file).steps == 7


def test_every_preset_is_one_of_a_phase():
  for name in presets.names():
    found = pretrain.COMMAND if name.endswith('pretrain') else meta_train.COMMAND
    assert parse(found, f'--preset={name}') is not None


def test_an_unknown_preset_lists_all():
  with pytest.raises(ValueError, match='--preset to be one of') as raised:
    parse(meta_train.COMMAND, '--preset=../setup')
  assert all(name in str(raised.value) for name in presets.names())


def test_paths_begin_at_home(monkeypatch):
  monkeypatch.setenv('HOME', '/home/someone')
  values = parse(pretrain.COMMAND, '--workdir=~/run', '--data_dir=data/~x')
  assert (values.workdir, values.data_dir) == ('/home/someone/run', 'data/~x')
  assert values.cache_dir is None


IMPORTS = """
import importlib, json, sys
from absl import flags
from launch.flags import declared
names = set()
for module in json.loads(sys.argv[1]):
  names |= {flag.name for flag in declared.flatten(importlib.import_module(module).FLAGS)}
print(json.dumps([sorted(names & set(flags.FLAGS)), flags.FLAGS.is_parsed(), len(names)]))
"""


def test_importing_all_commands_touches_no_global_flag():
  modules = json.dumps([f'launch.{module}' for module in MODULES])
  result = tiny_runs.python('-c', IMPORTS, modules, timeout=60)
  assert result.returncode == 0, result.stderr
  shared, parsed, number = json.loads(result.stdout)
  assert (shared, parsed) == ([], False) and number > 80


def test_two_command_lines_in_one_process_are_apart():
  first = parse(meta_train.COMMAND, '--steps=3')
  second = parse(meta_train.COMMAND)
  assert (first.steps, second.steps) == (3, 1000)
  assert first['steps'].present and not second['steps'].present


def test_kinds_that_are_none():
  with pytest.raises(TypeError, match='expected a kind of flag for --odd, got'):
    declared.parse({'all': (declared.Flag('odd', 'None.', dict),)}, [])


@pytest.mark.parametrize(('argument', 'says'), [
    ('--steps=0', 'number from 1 to'), ('--steps=x', "number from 1 to 1,000,000,000, got 'x'"),
    ('--outer_lr=-1', 'of at least 0.0'), ('--scope=none', 'one of all, last_block, got'),
    ('--nosteps', "Unknown command line flag 'nosteps'"),
    ('--noflip=1', 'without a value'), ('--steps', 'a value for --steps, got none'),
    ('folder', "expected flags only, got 'folder'"),
])
def test_bad_command_lines(argument, says):
  with pytest.raises((flags.Error, ValueError), match=says):
    parse(meta_train.COMMAND, argument)
