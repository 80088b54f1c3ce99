"""Eight CPU devices, so that the tests of many devices run anywhere, and programs that compile quickly."""
import os

# Most of the time of the tests goes into compiling; what they compute is small. Their child processes do likewise.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

import jax

jax.config.update('jax_num_cpu_devices', 8)
