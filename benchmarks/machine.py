"""The machine: its processor, its cores, and how much memory a process uses."""
import contextlib
import os
import platform
import time

RELEASE_POLL = 0.05  # seconds between two looks at a process that returns memory


def cpu_model() -> str:
  """Returns the model of the processor."""
  with contextlib.suppress(OSError), open('/proc/cpuinfo', encoding='utf-8') as lines:
    for line in lines:
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  return platform.processor() or platform.machine()


def cores() -> int:
  """Counts the cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def describe() -> str:
  """Describes the machine in a line, without accelerators, which the workers name."""
  number = cores()
  memory = ''
  with contextlib.suppress(OSError, ValueError):
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    memory = f', {total / 2**30:.0f} GB'
  return (f'{cpu_model()}, {number} core{"s" if number > 1 else ""}{memory}, {platform.system()}, '
          f'Python {platform.python_version()}')


def data_bytes(process: int) -> int | None:
  """Returns how many bytes a process has for its data, used or not.

  Args:
    process: its number.

  Returns:
    Bytes; None where the system has no such count.
  """
  return _kilobytes(f'/proc/{process}/status', 'VmData:')


def reset_peak() -> None:
  """Starts the count of `peak_bytes` anew, where the system can (Linux)."""
  with contextlib.suppress(OSError), open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
    file.write('5')  # resets VmHWM, see proc(5)


def peak_bytes() -> int | None:
  """Returns the greatest resident memory of this process since `reset_peak`, or None.

  None stands for a system that has no such count.
  """
  return _kilobytes('/proc/self/status', 'VmHWM:')


def wait_for_release() -> None:
  """Waits while this process returns memory to the system.

  XLA frees the temporaries of a run after the run has its results, which takes a second for 14 GB.
  The next run would take its own beside them: more than the machine has.
  """
  before = _kilobytes('/proc/self/status', 'VmRSS:')
  while before is not None:
    time.sleep(RELEASE_POLL)
    now = _kilobytes('/proc/self/status', 'VmRSS:')
    if now is None or now >= before:
      return
    before = now


def _kilobytes(path, name):
  """Reads bytes from a line 'NAME 123 kB' of a file of the system; None without such a line."""
  with contextlib.suppress(OSError), open(path, encoding='ascii') as lines:
    for line in lines:
      if line.startswith(name):
        return 1024 * int(line.split()[1])
  return None
