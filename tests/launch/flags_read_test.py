"""Each command reads each of its flags: what --help shows makes a difference."""
import contextlib
import types

import jax
import numpy as np
import pytest
from absl import flags
from jax.experimental import multihost_utils

from launch import (
  benchmark,
  command,
  export,
  features,
  import_weights,
  meta_test,
  meta_train,
  page,
  pretrain,
  quickstart,
  reproduce,
  show,
)
from launch.flags import declared
from launch.reproduction import rows, transfer
from mtl_jax import configs, data, pages, runs
from mtl_jax.classifiers import networks
from mtl_jax.configs import TEST_LOOP, PretrainConfig
from mtl_jax.data import photos
from mtl_jax.phases import encoding
from mtl_jax.runs import feature_files, finished, summaries
from mtl_jax.weights import authors_files, authors_runs
from tests.phases import toy_dataset

# Read by `command.start`, and taken out of the command line before it is parsed.
OF_EVERY_START = {'compile_cache', 'compile_cache_mb', 'preset'}


class Reached(Exception):
  """The library call of a command."""


class Recording(flags.FlagValues):
  """Values that note which of them are read."""

  def __init__(self):
    super().__init__()
    self.__dict__['read'] = set()

  def __getattr__(self, name):
    self.__dict__['read'].add(name)
    return super().__getattr__(name)

  def __getitem__(self, name):
    self.__dict__['read'].add(name)
    return super().__getitem__(name)


def reached(*_, **__):
  raise Reached


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
  """Ends each command where the library would begin to work."""
  monkeypatch.setattr(declared.flags, 'FlagValues', Recording)
  for module, names in ((runs, ('pretrain_run', 'meta_train_run', 'meta_test_run')),
                        (rows, ('reproduce',)), (transfer, ('reproduce',)),
                        (authors_runs, ('write', 'export')),
                        (benchmark.suite_runs, ('run',))):
    for name in names:
      monkeypatch.setattr(module, name, reached)
  monkeypatch.setattr(feature_files, 'write', reached)
  monkeypatch.setattr(pages, 'write', reached)
  for name in ('load', 'load_classifier'):
    monkeypatch.setattr(networks, name, lambda *_: types.SimpleNamespace(export=reached))
  monkeypatch.setattr(summaries, 'of_run', reached)
  monkeypatch.setattr(photos, 'find', lambda _: [])
  monkeypatch.setattr(encoding, 'encode_batches', lambda *_, **__: np.zeros((0, 1)))
  monkeypatch.setattr(data, 'load', lambda *_, **__: toy_dataset())
  trained = {'command': 'pretrain', 'image_shape': [16, 16, 3], 'backbone': {'name': 'conv4'},
             'config': configs.to_json(PretrainConfig()),
             'validation': {'inner': configs.to_json(TEST_LOOP)}}
  monkeypatch.setattr(finished, 'trained_settings', lambda _: trained)
  monkeypatch.setattr(jax.distributed, 'initialize', lambda *_, **__: None)
  monkeypatch.setattr(multihost_utils, 'sync_global_devices', lambda _: None)
  monkeypatch.setattr(authors_files, 'read', lambda *_: {})
  monkeypatch.setattr(authors_runs, 'format_of', lambda _: 'pytorch')


# Also reads what is read only where processes are joined.
JOINED = ['--coordinator=localhost:1', '--num_processes=1', '--process_id=0']
WORKDIR = ['--workdir=run']


@pytest.mark.parametrize(('found', 'command_lines'), [
    (pretrain, [[*WORKDIR, *JOINED]]),
    (meta_train, [[*WORKDIR, '--pretrained=pre', *JOINED]]),
    (meta_test, [['--checkpoint=run', *JOINED]]),
    (quickstart, [WORKDIR]),
    (reproduce, [['--table=fc100', '--budget=smoke', *WORKDIR],
                 ['--table=transfer', '--budget=smoke', *WORKDIR]]),
    (page, [['run', '--out=x.html']]),
    (show, [['run']]),
    (export, [['imagenet', '--out=x.bin'], ['x.mtl', '--out=x.bin']]),
    (features, [['imagenet', 'photos', '--out=x.npz']]),
    (import_weights, [[*WORKDIR, '--source=a.npz', '--format=pytorch'],
                      [*WORKDIR, '--export=b.npz']]),
    (benchmark, [['--suite=all', '--out=out']]),
], ids=lambda found: getattr(found, '__name__', '').removeprefix('launch.'))
def test_a_command_reads_all_of_its_flags(found, command_lines, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  read = set()
  for arguments in command_lines:
    values = command.parse(found.COMMAND, arguments)
    values.__dict__['read'].clear()
    with contextlib.suppress(Reached):
      found.run(values)
      pytest.fail('expected the command to call the library')
    read |= values.__dict__['read']
  names = {flag.name for flag in declared.flatten(found.FLAGS)}
  assert names - OF_EVERY_START - read == set()
