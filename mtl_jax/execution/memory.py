"""How much memory there is, and whether the images of a run fit into that of its device."""
from typing import Any, Literal, get_args

import jax
import numpy as np

from mtl_jax.types import ImagePool

Images = Literal['auto', 'device', 'host']  # where the images of a run stay


def stay_on_host(images: str, *pools: ImagePool, num_parts: int = 1) -> bool:
  """Decides whether the images that a phase needs stay on the host.

  Args:
    images: 'device', 'host', or 'auto': on the host where they would take more than half of the
      device's memory, as far as that is known. A CPU shares the host's memory; there only images
      that are mapped from files may stay where they are, if they would take more than half of the
      memory that is free.
    *pools: uint8 images on the host, as NumPy arrays.
    num_parts: over how many devices they would be split.

  Returns:
    True for the host.

  Raises:
    ValueError: an unknown choice.
  """
  if images not in get_args(Images):
    raise ValueError(f'expected images to be one of {", ".join(get_args(Images))}, got {images!r}')
  if images != 'auto':
    return images == 'host'
  device = jax.local_devices()[0]
  if device.platform == 'cpu':
    # Simulated devices share one memory, so splitting over them saves none.
    pools = tuple(pool for pool in pools if isinstance(pool.images, np.memmap))
    limit, num_parts = free_host_bytes(), 1
  else:
    limit = device_bytes(device)
  needed = sum(pool.images.nbytes for pool in pools) / num_parts
  return limit is not None and needed > limit / 2


def device_bytes(device: Any) -> int | None:
  """Returns the memory that arrays may take on an accelerator.

  Args:
    device: of JAX.

  Returns:
    Bytes, or None if unknown.
  """
  return (device.memory_stats() or {}).get('bytes_limit')


def free_host_bytes() -> int | None:
  """Returns the memory of the host that is free, or could be freed at once.

  Returns:
    Bytes, or None where the system does not say (only Linux does).
  """
  try:
    with open('/proc/meminfo', encoding='ascii') as lines:
      values = dict(line.split(':', 1) for line in lines)
    return 1024 * int(values['MemAvailable'].split()[0])  # in kB
  except (OSError, KeyError, ValueError):
    return None
