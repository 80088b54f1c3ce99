"""Hard tasks, the third idea of meta-transfer learning: classes that failed make the next tasks.

The multiset of failures is a vector of counts, one per training class, so it lives on the device,
has a fixed shape and is emptied by zeros. All functions are for one episode.
"""
import jax
import jax.numpy as jnp

from mtl_jax import checks
from mtl_jax.types import Array

# The logarithm of the weight of a class that has not failed. It stands below every Gumbel draw of
# a failure class, so the other classes come only when those are used up.
_NOT_FAILED = -1e3


def failure_class(query_logits: Array, query_labels: Array, class_ids: Array) -> jax.Array:
  """Finds the class of an episode with the lowest query accuracy after adaptation.

  Classes of an episode come in random order, so taking the first of equal classes favours none.

  Args:
    query_logits: [M, N], of the adapted base-learner.
    query_labels: int [M], in [0, N).
    class_ids: int [N], the class of the pool behind each label.

  Returns:
    int32 [], one of `class_ids`.

  References: Sun et al., CVPR 2019, section 4.3; TPAMI version, algorithm 1.
  """
  way = class_ids.shape[0]
  checks.labels('query_labels', query_labels, way)
  correct = (jnp.argmax(query_logits, axis=1) == query_labels).astype(jnp.float32)
  of_class = jax.nn.one_hot(query_labels, way)
  accuracy = correct @ of_class / jnp.maximum(jnp.sum(of_class, axis=0), 1)
  return jnp.asarray(class_ids)[jnp.argmin(accuracy)].astype(jnp.int32)


def draw_hard_classes(key: Array, failure_counts: Array, way: int) -> jax.Array:
  """Draws the classes of a hard task from the multiset of failures, without replacement.

  A class that failed twice is drawn with twice the weight of one that failed once (Gumbel-top-k).
  The paper leaves open what happens with fewer than `way` distinct failure classes: all of them
  are taken then, and the rest of the task is filled uniformly from the other training classes.

  Args:
    key: consumed.
    failure_counts: int [classes], how often each class failed since the collection was emptied.
    way: N, number of distinct classes to draw.

  Returns:
    int32 [N], distinct classes in random order.

  Raises:
    ValueError: there are fewer than `way` classes.

  References: Sun et al., CVPR 2019, section 4.3; TPAMI version, algorithm 1.
  """
  num_classes = failure_counts.shape[0]
  if way > num_classes:
    raise ValueError(f'expected way of at most {num_classes}, the number of classes, got {way}')
  weights_key, order_key = jax.random.split(key)
  log_counts = jnp.log(jnp.maximum(failure_counts, 1).astype(jnp.float32))
  log_weights = jnp.where(failure_counts > 0, log_counts, _NOT_FAILED)
  gumbel = jax.random.gumbel(weights_key, (num_classes,))
  _, classes = jax.lax.top_k(log_weights + gumbel, way)
  return jax.random.permutation(order_key, classes).astype(jnp.int32)
