"""What is known of the machine: its name, its cores, and how much memory this process has used."""
import contextlib
import os
import platform
import time


def cpu_model() -> str:
  """Names the processor."""
  with contextlib.suppress(OSError), open('/proc/cpuinfo', encoding='utf-8') as lines:
    for line in lines:
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  return platform.processor() or platform.machine()


def cores() -> int:
  """Counts the cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def describe() -> str:
  """Describes the machine in a line, save for accelerators, which the workers name."""
  number = cores()
  memory = ''
  with contextlib.suppress(OSError, ValueError):
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    memory = f', {total / 2**30:.0f} GB'
  return (f'{cpu_model()}, {number} core{"s" if number > 1 else ""}{memory}, {platform.system()}, '
          f'Python {platform.python_version()}')


def data_bytes(process: int) -> int | None:
  """Gives how much memory a process has for its data, used or not; None where the system does not tell.

  Args:
    process: its number.
  """
  return _kilobytes(f'/proc/{process}/status', 'VmData:')


def reset_peak() -> None:
  """Starts the count of `peak_bytes` anew, where the system can (Linux)."""
  with contextlib.suppress(OSError), open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
    file.write('5')


def peak_bytes() -> int | None:
  """Gives the greatest resident memory of this process since `reset_peak`; None where the system does not tell."""
  return _kilobytes('/proc/self/status', 'VmHWM:')


def wait_for_release() -> None:
  """Waits while this process gives memory back, as XLA frees the temporaries of a run after it has its results.

  A next run would take its own beside them: at 14 GB, which takes a second, more than the machine has.
  """
  before = _kilobytes('/proc/self/status', 'VmRSS:')
  while before is not None:
    time.sleep(0.05)
    now = _kilobytes('/proc/self/status', 'VmRSS:')
    if now is None or now >= before:
      return
    before = now


def _kilobytes(path, name):
  """Bytes that a file of the system gives as 'NAME 123 kB', or None."""
  with contextlib.suppress(OSError), open(path, encoding='ascii') as lines:
    for line in lines:
      if line.startswith(name):
        return 1024 * int(line.split()[1])
  return None
