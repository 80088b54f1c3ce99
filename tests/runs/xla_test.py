"""XLA's flag for a CPU: set where the jaxlib at hand knows it, and nowhere else."""
import importlib.machinery
import importlib.util
import os
import subprocess
import sys

import jax
import pytest

from mtl_jax.runs import xla
from tests import tiny_runs

FLAG = ('--xla_cpu_experimental_ynn_fusion_type='
        '-LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION,-LIBRARY_FUSION_TYPE_ELTWISE')
FIRST = FLAG.split(',')[0]


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
  assert found in ('', FIRST, FLAG)


@pytest.mark.parametrize('content, known', [
    (f'..{FLAG[2:]}..'.encode(), FLAG),
    (f'..{FIRST[2:]}..'.encode(), FIRST),
    (b'..xla_cpu_experimental_ynn_fusion_type..', ''),  # the flag without these values
    (b'..LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION..', ''),
    (b'', '')])
def test_all_names_are_looked_for_in_the_libraries(jaxlib, content, known):
  (jaxlib / 'libjax_common.so').write_bytes(content)
  (jaxlib / 'notes.txt').write_bytes(FLAG.encode())
  assert xla.cpu_flags() == known


def test_flags_of_the_user_stay_as_they_are(jaxlib, monkeypatch):
  (jaxlib / '_jax.pyd').write_bytes(FLAG.encode())
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setenv('XLA_FLAGS', '--xla_dump_to=x')
  xla.prepare()
  assert os.environ['XLA_FLAGS'] == '--xla_dump_to=x'
  monkeypatch.delenv('XLA_FLAGS')
  xla.prepare()
  assert os.environ.pop('XLA_FLAGS') == FLAG


NOTEBOOK = """
import os, sys
import jax, jax.numpy as jnp
import mtl_jax
jnp.arange(3.0) + 1  # something is compiled before
folder = mtl_jax.enable_compile_cache(*sys.argv[1:], megabytes=3)
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))
print(folder, len(os.listdir(folder)), jax.config.jax_compilation_cache_max_size)
assert mtl_jax.enable_compile_cache() == folder  # what was chosen stays
"""


@pytest.mark.parametrize('named', [True, False])
def test_a_notebook_keeps_compiled_programs_from_the_call_on(tmp_path, named):
  others = {name: value for name, value in os.environ.items()
            if not name.startswith(('JAX_COMPILATION', 'JAX_PERSISTENT'))}
  home = {'JAX_PLATFORMS': 'cpu', 'HOME': str(tmp_path), 'XDG_CACHE_HOME': str(tmp_path / 'mine')}
  arguments = [str(tmp_path / 'cache')] if named else []
  result = subprocess.run([sys.executable, '-c', NOTEBOOK, *arguments], env=others | home,
                          cwd=tiny_runs.ROOT, capture_output=True, text=True, timeout=300)
  assert result.returncode == 0, result.stderr
  folder, programs, size = result.stdout.split()
  assert folder.startswith(str(tmp_path))
  assert folder.endswith('cache' if named else os.path.join('mtl_jax', 'xla'))
  assert int(programs) > 0 and int(size) == 3 * 2**20


def test_a_folder_that_was_set_before_stays():
  chosen = jax.config.values['jax_compilation_cache_dir']  # by conftest
  assert chosen and xla.enable_compile_cache() == chosen
