"""Several processes, on one host or many, that work on one run in step: the first one reads and writes its directory.

All of them compute the same thing on a share of the devices each. What only one of them may do, or can know, it does
for all (`on_first`). With one process everything here is a plain call.
"""
import contextlib
import pickle
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from mtl_jax.types import Tree

T = TypeVar('T')


def is_first() -> bool:
  """Tells whether this process is the one that writes."""
  return jax.process_index() == 0


def on_first(work: Callable[[], T]) -> T:
  """Lets the first process do something, and gives what it returns to all of them; they wait for it.

  Args:
    work: without arguments; returns plain values and NumPy arrays.

  Returns:
    What `work` returned there, bit for bit.

  Raises:
    ValueError, OSError, FloatingPointError: that `work` raised there; in all processes.
  """
  if jax.process_count() == 1:
    return work()
  sent = error = None
  if is_first():
    try:
      sent = pickle.dumps((work(), None))
    except (ValueError, OSError, FloatingPointError) as raised:
      error = raised
      kind = next(k for k in (FileNotFoundError, OSError, FloatingPointError, ValueError) if isinstance(raised, k))
      sent = pickle.dumps((None, (kind, str(raised))))
  value, failure = pickle.loads(_broadcast(sent))  # of this very run
  if error is not None:
    raise error
  if failure is not None:
    raise failure[0](failure[1])
  return value


def tree_on_first(work: Callable[[], Tree], like: Tree) -> Tree:
  """As `on_first`, for work that gives a tree of arrays.

  Args:
    work: without arguments.
    like: a tree of the same structure.

  Returns:
    The tree; of NumPy arrays where there are several processes.
  """
  if jax.process_count() == 1:
    return work()
  leaves = on_first(lambda: [np.asarray(leaf) for leaf in jax.tree.leaves(work())])
  return jax.tree.unflatten(jax.tree.structure(like), leaves)


def in_turn(work: Callable[[], T]) -> T:
  """Lets the first process do something, then all others: where it fills a cache, they find it full.

  Args:
    work: without arguments.

  Returns:
    What it returned in this process.
  """
  if jax.process_count() == 1:
    return work()
  done = []
  on_first(lambda: done.append(work()))
  return done[0] if done else work()


def same_everywhere(settings: dict[str, Any], what: str) -> None:
  """Refuses processes that would not work on the same run.

  Args:
    settings: of this process.
    what: name for them, in the message.

  Raises:
    ValueError: they are not those of the first process; in the process that differs.
  """
  first = on_first(lambda: settings)
  differing = sorted(key for key in first.keys() | settings.keys() if first.get(key) != settings.get(key))
  if differing:
    raise ValueError(f'expected the {what} of process 0 in process {jax.process_index()} too, got other values of '
                     f'{", ".join(differing[:5])}; give all processes the same flags and files')


def first_only(make: Callable, *arguments) -> Any:
  """Makes a context in the first process; in the others, one that takes every call and does nothing.

  Args:
    make: called with `arguments`.
    *arguments: of `make`.

  Returns:
    A context.
  """
  return make(*arguments) if is_first() else _Nothing()


class _Nothing(contextlib.AbstractContextManager):

  def __enter__(self):
    return self

  def __exit__(self, *error):
    return None

  def __getattr__(self, name):
    return lambda *arguments, **options: None


def _broadcast(data: bytes | None) -> bytes:
  """Sends bytes of the first process to all; their number goes ahead, as all must know the shape."""
  from jax.experimental import multihost_utils
  size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data) if data is not None else 0)))
  mine = np.zeros(size, np.uint8) if data is None else np.frombuffer(data, np.uint8)
  return np.asarray(multihost_utils.broadcast_one_to_all(mine), np.uint8).tobytes()
