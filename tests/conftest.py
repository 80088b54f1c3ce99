"""Eight CPU devices, so that the tests of many devices run anywhere."""
import jax

jax.config.update('jax_num_cpu_devices', 8)
