"""XLA's flag for a CPU: set where the jaxlib at hand knows it, and nowhere else."""
import importlib.machinery
import importlib.util
import os
import subprocess
import sys

import pytest

from mtl_jax.runs import xla

FLAG = ('--xla_cpu_experimental_ynn_fusion_type='
        '-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION')


@pytest.fixture
def jaxlib(monkeypatch, tmp_path):
  """A folder that stands for the installed jaxlib."""
  spec = importlib.machinery.ModuleSpec('jaxlib', None, is_package=True)
  spec.submodule_search_locations.append(str(tmp_path))
  monkeypatch.setattr(importlib.util, 'find_spec',
                      lambda name: spec if name == 'jaxlib' else None)
  return tmp_path


def test_a_process_starts_with_the_flags():
  found = xla.cpu_flags()
  environment = os.environ | {'XLA_FLAGS': found, 'JAX_PLATFORMS': 'cpu'}
  subprocess.run([sys.executable, '-c', 'import jax; jax.devices()'], env=environment, check=True,
                 timeout=300)
  assert found in ('', FLAG)


@pytest.mark.parametrize('content, known', [
    (f'..{FLAG[2:]}..'.encode(), True),
    (b'..xla_cpu_experimental_ynn_fusion_type..', False),  # the flag without this value
    (b'..LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION..', False),
    (b'', False)])
def test_both_names_are_looked_for_in_the_libraries(jaxlib, content, known):
  (jaxlib / 'libjax_common.so').write_bytes(content)
  (jaxlib / 'notes.txt').write_bytes(FLAG.encode())
  assert xla.cpu_flags() == (FLAG if known else '')


def test_flags_of_the_user_stay_as_they_are(jaxlib, monkeypatch):
  (jaxlib / '_jax.pyd').write_bytes(FLAG.encode())
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=x')
  xla.prepare()
  assert os.environ['XLA_FLAGS'] == '--xla_dump_to=x'
  monkeypatch.delenv('XLA_FLAGS')
  xla.prepare()
  assert os.environ.pop('XLA_FLAGS') == FLAG
