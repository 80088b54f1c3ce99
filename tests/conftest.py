"""What holds for every test: eight CPU devices, JAX's own checks, and warnings as errors."""
import os

# Most of the time of the tests goes into compiling; what they compute is small. Their child
# processes do likewise.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

import jax

jax.config.update('jax_num_cpu_devices', 8)  # the tests of many devices run anywhere
jax.config.update('jax_debug_key_reuse', True)  # a random key that is used twice raises
jax.config.update('jax_numpy_rank_promotion', 'raise')  # [N] + [n, N] raises: a wrong axis shows

# Warnings of other people's packages that no test of ours can avoid; all others are errors.
ALLOWED_WARNINGS = ()


def pytest_configure(config):
  """Makes warnings errors; later lines count more, so what is allowed follows."""
  for line in ('error', *ALLOWED_WARNINGS):
    config.addinivalue_line('filterwarnings', line)
