"""Settings of JAX and XLA for a process: the CPU flag that this library gains by, and a disk cache.

They are read when JAX starts its backends, so `prepare` comes before the first computation.
"""
import contextlib
import importlib.util
import mmap
import os
import pathlib

import jax
import platformdirs
from jax.experimental.compilation_cache import compilation_cache

# What XLA's own kernels, and not a slower library, shall compute on a CPU: the weight gradients of
# convolutions, which halves the time of pre-training 4CONV, and operations on single elements, for
# which the library makes whole arrays of broadcasts (docs/performance.md).
_FLAG = '--xla_cpu_experimental_ynn_fusion_type'
_OURS = ('LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION', 'LIBRARY_FUSION_TYPE_ELTWISE')
_ACCELERATOR_PACKAGES = ('jax_cuda12_plugin', 'jax_cuda13_plugin', 'jax_rocm7_plugin', 'libtpu')

# Programs that compile faster than this are compiled again rather than kept.
_LEAST_COMPILE_SECONDS = 0.1


def prepare(compile_cache: bool = False, compile_cache_mb: int = 1024) -> None:
  """Sets XLA's flag for a CPU, and the bounded cache of compiled programs.

  What the user has set already, by XLA_FLAGS or by JAX's own settings, stays as it is.

  Args:
    compile_cache: keep compiled programs in the user's cache folder.
    compile_cache_mb: size of that cache in megabytes; the programs unused for longest go first.
  """
  if _runs_on_cpu() and 'XLA_FLAGS' not in os.environ and (found := cpu_flags()):
    os.environ['XLA_FLAGS'] = found
  if compile_cache:
    enable_compile_cache(megabytes=compile_cache_mb)


def enable_compile_cache(folder: str | os.PathLike | None = None, *,
                         megabytes: int = 1024) -> str:
  """Keeps compiled programs on disk, as the commands do: the next process starts quickly.

  In a notebook, call it once, best before anything is computed; what is compiled from then on is
  kept. A folder that JAX was given before (`JAX_COMPILATION_CACHE_DIR`) stays, with its settings,
  unless another is named here.

  Args:
    folder: where to keep them; None for the user's cache folder, which the commands share.
    megabytes: size of the cache; the programs unused for longest go first.

  Returns:
    The folder in use.

  >>> import mtl_jax
  >>> folder = mtl_jax.enable_compile_cache()  # doctest: +SKIP
  """
  set_before = jax.config.values['jax_compilation_cache_dir']
  if folder is None and set_before:
    return set_before
  folder = (os.path.join(platformdirs.user_cache_dir('mtl_jax'), 'xla') if folder is None
            else os.path.abspath(os.path.expanduser(folder)))
  jax.config.update('jax_compilation_cache_dir', folder)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _LEAST_COMPILE_SECONDS)
  jax.config.update('jax_compilation_cache_max_size', megabytes * 2**20)
  # JAX looks for a cache when it first compiles, and not again unless it is told to.
  compilation_cache.reset_cache()
  return folder


def cpu_flags() -> str:
  """Returns the XLA flags that suit this library on a CPU; '' for a jaxlib that has no such flag.
  """
  values = ','.join(f'-{value}' for value in _OURS if knows(_FLAG, value))
  return f'{_FLAG}={values}' if values else ''


def knows(*names: str) -> bool:
  """Whether the installed jaxlib knows names of XLA flags, and of their values.

  A jaxlib that does not know a flag aborts the process at start, so names are looked for in its
  shared libraries: some 20 ms, and no version is listed here.

  Args:
    *names: with or without the dashes in front.
  """
  spec = importlib.util.find_spec('jaxlib')
  folders = spec.submodule_search_locations if spec is not None else None
  libraries = [path for folder in folders or () for ending in ('so', 'pyd', 'dll', 'dylib')
               for path in sorted(pathlib.Path(folder).glob(f'*.{ending}'))]
  found = [name.lstrip('-').encode() for name in names]
  return any(_holds(path, found) for path in libraries)


def _holds(path: pathlib.Path, names: list[bytes]) -> bool:
  """Whether all of some names stand in a file."""
  with contextlib.suppress(OSError, ValueError):  # a file of no bytes cannot be mapped
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
      return all(content.find(name) >= 0 for name in names)
  return False


def _runs_on_cpu() -> bool:
  """Whether JAX will compute on the CPU; found without starting its backends."""
  if platforms := jax.config.values['jax_platforms']:
    return platforms.split(',')[0] == 'cpu'
  return not any(importlib.util.find_spec(name) for name in _ACCELERATOR_PACKAGES)
