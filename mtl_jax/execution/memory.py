"""Where the images of a run stay: in the device's memory, or on the host because they are larger than that."""
import jax
import numpy as np

from mtl_jax.types import ImagePool

CHOICES = ('auto', 'device', 'host')


def on_host(choice: str, *pools: ImagePool, num_parts: int = 1) -> bool:
  """Decides whether the images that a phase needs stay on the host.

  Args:
    choice: 'device', 'host', or 'auto': on the host where they would take more than half of the device's memory, as
      far as that is known. A CPU shares the host's memory; there only images that are mapped from files may stay where
      they are, if they would take more than half of the memory that is free.
    *pools: uint8 images on the host, as NumPy arrays.
    num_parts: over how many devices they would be split.

  Returns:
    True for the host.

  Raises:
    ValueError: an unknown choice.
  """
  if choice not in CHOICES:
    raise ValueError(f'expected images to be one of {", ".join(CHOICES)}, got {choice!r}')
  if choice != 'auto':
    return choice == 'host'
  device = jax.local_devices()[0]
  if device.platform == 'cpu':
    pools, limit = [pool for pool in pools if isinstance(pool.images, np.memmap)], free_host_bytes()
  else:
    limit = device_bytes(device)
  needed = sum(pool.images.nbytes for pool in pools) / (1 if device.platform == 'cpu' else num_parts)
  return limit is not None and needed > limit / 2


def device_bytes(device: jax.Device) -> int | None:
  """Gives the memory that arrays may take on a device.

  Args:
    device: an accelerator.

  Returns:
    Bytes, or None where the device does not tell.
  """
  return (device.memory_stats() or {}).get('bytes_limit')


def free_host_bytes() -> int | None:
  """Gives the memory of the host that is free, or could be freed at once.

  Returns:
    Bytes, or None where the system does not tell (only Linux does).
  """
  try:
    with open('/proc/meminfo', encoding='ascii') as lines:
      values = dict(line.split(':', 1) for line in lines)
    return 1024 * int(values['MemAvailable'].split()[0])  # in kB
  except (OSError, KeyError, ValueError):
    return None
