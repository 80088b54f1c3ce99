"""Several processes, on one host or many, that work on one run in step.

All of them compute the same thing, on a share of the devices each. The first one reads and writes
the work directory: what only one of them may do, or can know, it does for all (`on_first`). With
one process everything here is a plain call.
"""
import contextlib
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import jax
import numpy as np

from mtl_jax.runs import differences, messages
from mtl_jax.types import Tree

T = TypeVar('T')
P = ParamSpec('P')

# What the first process may raise for all, each before the kinds that it is one of: everything else
# is a fault of the program, and ends that process alone.
_SHARED_ERRORS = {kind.__name__: kind for kind in (FileNotFoundError, OSError, FloatingPointError,
                                                   ValueError)}


def is_first() -> bool:
  """Whether this process is the one that reads and writes the work directory."""
  return jax.process_index() == 0


def on_first(work: Callable[[], T]) -> T:
  """Runs `work` on process 0 and broadcasts its result to every process.

  Args:
    work: without arguments; returns plain values and NumPy arrays. The others wait for its end.

  Returns:
    What `work` returned there, bit for bit; of several processes as `messages.decode` returns it.

  Raises:
    ValueError, OSError, FloatingPointError: `work` raised it there; it is raised in all processes.
  """
  if jax.process_count() == 1:
    return work()
  sent = error = None
  if is_first():
    try:
      sent = messages.encode((work(), None))
    except tuple(_SHARED_ERRORS.values()) as raised:
      error = raised
      name = next(name for name, kind in _SHARED_ERRORS.items() if isinstance(raised, kind))
      sent = messages.encode((None, (name, str(raised))))
  value, failure = messages.decode(_broadcast(sent))
  if error is not None:
    raise error
  if failure is not None:
    name, message = failure
    raise _SHARED_ERRORS[name](message)
  return value


def tree_on_first(work: Callable[[], Tree], like: Tree) -> Tree:
  """Runs `work`, which returns a tree of arrays, on process 0 and broadcasts the tree.

  Args:
    work: without arguments.
    like: a tree of the same structure.

  Returns:
    The tree; of NumPy arrays where there are several processes.

  Raises:
    ValueError, OSError, FloatingPointError: as in `on_first`.
  """
  if jax.process_count() == 1:
    return work()
  # Leaves travel alone: a structure may hold what cannot be sent.
  leaves = on_first(lambda: [np.asarray(leaf) for leaf in jax.tree.leaves(work())])
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def greatest(number: int) -> int:
  """Returns the greatest of the numbers that the processes have; all of them call it.

  Args:
    number: of this process, in 32 bits.
  """
  if jax.process_count() == 1:
    return number
  from jax.experimental import multihost_utils
  return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def in_turn(work: Callable[[], T]) -> T:
  """Runs `work` on process 0, then on all others: where it fills a cache, they find it full.

  Args:
    work: without arguments.

  Returns:
    What it returned in this process.

  Raises:
    ValueError, OSError, FloatingPointError: as in `on_first`.
  """
  if jax.process_count() == 1:
    return work()
  done: list[T] = []

  def once():
    done.append(work())

  on_first(once)
  return done[0] if done else work()


def same_everywhere(settings: dict[str, Any], what: str) -> None:
  """Refuses processes that would not work on the same run.

  Args:
    settings: of this process.
    what: name for them, in the message.

  Raises:
    ValueError: they are not those of the first process; in the process that differs.
  """
  differing = differences.find(on_first(lambda: settings), settings)
  if differing:
    names = ', '.join(found.name for found in differing[:differences.MOST_NAMED])
    raise ValueError(f'expected the {what} of process 0 in process {jax.process_index()} too, got '
                     f'other values of {names}; give all processes the same flags and files')


def first_only(make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
  """Returns the context that `make` makes in process 0; elsewhere one that does nothing.

  Args:
    make: called with the other arguments.
    *args: of `make`.
    **kwargs: of `make`.

  Returns:
    A context. In the other processes every method of it may be called, and returns None.
  """
  return make(*args, **kwargs) if is_first() else cast(T, _Nothing())


class _Nothing(contextlib.AbstractContextManager):
  """A context that takes every call."""

  def __enter__(self):
    return self

  def __exit__(self, *error):
    return None

  def __getattr__(self, name):
    return lambda *args, **kwargs: None


def _broadcast(data: bytes | None) -> bytes:
  """Returns the bytes of process 0 on every process; `data` is None on the others."""
  from jax.experimental import multihost_utils
  # Their number goes ahead, as all must know the shape of what they exchange.
  size = multihost_utils.broadcast_one_to_all(np.int32(len(data) if data is not None else 0))
  mine = np.zeros(int(size), np.uint8) if data is None else np.frombuffer(data, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(mine), np.uint8).tobytes()
