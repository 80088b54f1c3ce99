"""What holds for every test: eight CPU devices, JAX's own checks, and warnings as errors."""
import atexit
import gc
import os
import shutil
import tempfile

import jax

from mtl_jax.runs import xla

# Most of the time of the tests goes into compiling; what they compute is small. Their child
# processes do likewise. A flag that a jaxlib does not know would abort them.
_QUICK = ('--xla_backend_optimization_level=0', '--xla_llvm_disable_expensive_passes=true',
          '--xla_cpu_parallel_codegen_split_count=4')
if 'XLA_FLAGS' not in os.environ:
  os.environ['XLA_FLAGS'] = ' '.join(flag for flag in _QUICK if xla.knows(flag.split('=')[0]))

# All processes of a session compile a program once.
if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
  _folder = tempfile.mkdtemp(prefix='mtl_jax_xla_')
  atexit.register(shutil.rmtree, _folder, ignore_errors=True)
  os.environ['JAX_COMPILATION_CACHE_DIR'] = _folder
  os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'
  jax.config.update('jax_compilation_cache_dir', _folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)

# Programs that are traced leave many objects, which Python would look through again and again.
gc.freeze()
gc.set_threshold(50_000, 20, 100)
jax.config.update('jax_traceback_in_locations_limit', 0)  # of each operation, for nobody

jax.config.update('jax_num_cpu_devices', 8)  # the tests of many devices run anywhere
jax.config.update('jax_debug_key_reuse', True)  # a random key that is used twice raises
jax.config.update('jax_numpy_rank_promotion', 'raise')  # [N] + [n, N] raises: a wrong axis shows

# Warnings of other people's packages that no test of ours can avoid; all others are errors.
ALLOWED_WARNINGS = ()


def pytest_configure(config):
  """Makes warnings errors; later lines count more, so what is allowed follows."""
  for line in ('error', *ALLOWED_WARNINGS):
    config.addinivalue_line('filterwarnings', line)


# Files that take minutes. They come first, so that no process has one of them left for itself at
# the end.
_LONGEST = ('kill_resume_test', 'suites_test', 'commands_test', 'bad_input_test',
            'public_parity_test', 'own_parts_test', 'frozen_prefix_test', 'hosts_test',
            'examples_test', 'pytorch_parity_test', 'pooling_test', 'ablation_test',
            'public_networks_test', 'many_devices_test', 'vit_test', 'from_host_test',
            'transfer_test', 'import_weights_test')


def pytest_collection_modifyitems(items):
  """Orders the files; tests within a file stay in theirs."""
  order = {name: place for place, name in enumerate(_LONGEST)}
  items.sort(key=lambda item: order.get(item.path.stem, len(order)))
