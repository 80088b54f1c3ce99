"""What a worker asks of its device: to finish, how much memory it took, and its name."""
import os
import platform

import torch


def synchronize(device):
  """Waits for a GPU; on a CPU nothing is under way.

  Args:
    device: a torch device.
  """
  if torch.device(device).type == 'cuda':
    torch.cuda.synchronize()


def reset_peak(device):
  """Starts counting peak memory anew.

  Args:
    device: whose memory.
  """
  if torch.device(device).type == 'cuda':
    torch.cuda.reset_peak_memory_stats()
  elif os.path.exists('/proc/self/clear_refs'):
    with open('/proc/self/clear_refs', 'w') as file:
      file.write('5')  # resets VmHWM, see proc(5)


def peak_bytes(device, captured=0):
  """Returns the peak of allocated memory of a GPU, or of the resident set of this process.

  Args:
    device: whose memory.
    captured: bytes at least, as no counter sees those of CUDA graphs.

  Returns:
    Bytes, or None where the system has no such count.
  """
  if torch.device(device).type == 'cuda':
    return max(torch.cuda.max_memory_allocated(), captured)
  if not os.path.exists('/proc/self/clear_refs'):
    return None
  with open('/proc/self/status') as file:
    return next((1024 * int(line.split()[1]) for line in file if line.startswith('VmHWM:')), None)


def device_name(device):
  """Returns the model of the processor.

  Args:
    device: a torch device.

  Returns:
    Its name.
  """
  if torch.device(device).type == 'cuda':
    return torch.cuda.get_device_name()
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo') as file:
      return next((line.split(':')[1].strip() for line in file if line.startswith('model name')),
                  platform.machine())
  return platform.processor() or platform.machine()
