"""Every tuple that crosses a module border, with the shape of each field.

Letters: n images, H W C their height, width and channels; N classes of an episode (way), K support images
per class (shot), Q query images per class; d feature width.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Tree = Any  # A nested dict (or tuple) of arrays.


class ImagePool(NamedTuple):
  """All images of one split, class after class; classes may differ in size."""
  images: jax.Array         # uint8 [n, H, W, C], sorted by class
  class_offsets: jax.Array  # int32 [classes], index of the first image of each class
  class_sizes: jax.Array    # int32 [classes], number of images of each class


class Dataset(NamedTuple):
  """Three splits with disjoint classes, on the host (NumPy arrays)."""
  name: str
  train: ImagePool
  val: ImagePool
  test: ImagePool
  class_names: dict[str, tuple[str, ...]]  # split name -> one name per class
  mean: Any                                # float32 [C], mean of train images / 255
  std: Any                                 # float32 [C], standard deviation of train images / 255
  flip: bool                               # whether a mirrored image is still of its class


class Episode(NamedTuple):
  """One N-way K-shot task; images lie class after class."""
  support_images: jax.Array  # uint8 [N*K, H, W, C]
  support_labels: jax.Array  # int32 [N*K], in [0, N)
  query_images: jax.Array    # uint8 [N*Q, H, W, C]
  query_labels: jax.Array    # int32 [N*Q], in [0, N)
  class_ids: jax.Array       # int32 [N], the class of the pool behind each label


class BackboneVars(NamedTuple):
  """Θ: the deep feature extractor, frozen after pre-training."""
  params: Tree
  batch_stats: Tree  # running mean and variance of each batch norm


class EpisodeIndices(NamedTuple):
  """One N-way K-shot task as places in an `ImagePool`, before any image is read."""
  indices: jax.Array    # int32 [N, K+Q], into the pool's images; the first K of each class are its support
  class_ids: jax.Array  # int32 [N], the class of the pool behind each label


class Backbone(NamedTuple):
  """A network as pure functions; holds no arrays."""
  init: Callable[[jax.Array], BackboneVars]    # key -> BackboneVars
  features: Callable[..., jax.Array]           # (vars, images, *, batch_stats_mode) -> float32 [B, d]
  train_features: Callable[..., tuple]         # (vars, images) -> (features, new batch_stats)
  feature_dim: int                             # d
  image_shape: tuple[int, int, int]            # (H, W, C) that it was made for
  scaled_layers: tuple[tuple[str, ...], ...]   # paths of the layers that scale and shift act on
  last_block: tuple[tuple[str, ...], ...]      # where the last block stands in the tree: one path, or several
  temperature: float | None = None             # length of its feature vectors, where that is fixed (L2-normalised)
  # features = last(vars, below(vars, images)), by running statistics; None where the network cannot be cut there.
  below: Callable[..., jax.Array] | None = None  # (vars, images) -> maps [B, ...] that enter the last block
  last: Callable[..., jax.Array] | None = None   # (vars, maps) -> float32 [B, d]


class BaseLearner(NamedTuple):
  """θ: a linear classifier on the features."""
  kernel: jax.Array  # float32 [d, N]
  bias: jax.Array    # float32 [N]


class MetaParams(NamedTuple):
  """All that the outer loop may change."""
  scale_shift: Tree          # Φ_S; {} where it is not learned
  weights: Tree              # the parts of Θ that are learned themselves (FT, affine parameters); else {}
  base_learner: BaseLearner  # θ
  inner_lr: Tree             # {} where fixed, else {'log': log α, float32 [] or [inner steps]}


class MetaState(NamedTuple):
  """State of meta-training; the backbone is not in it, so it cannot be updated by mistake."""
  step: jax.Array  # int32 [], outer steps taken
  meta_params: MetaParams
  opt_state: Tree


class PretrainState(NamedTuple):
  """State of pre-training: backbone and the classifier of all base classes."""
  step: jax.Array  # int32 [], optimizer steps taken
  backbone: BackboneVars
  head: tuple[BaseLearner, ...]  # θ_base: [d, base classes], or a hidden layer before that
  opt_state: Tree


class AdaptResult(NamedTuple):
  """What the inner loop returns."""
  base_learner: BaseLearner  # θ', adapted
  query_logits: jax.Array    # float32 [N*Q, N]
  support_losses: jax.Array  # float32 [steps], before each step


class NetworkAdaptResult(NamedTuple):
  """What the inner loop returns that adapts the network too."""
  params: Tree               # Θ', of the whole network
  base_learner: BaseLearner  # θ', adapted
  query_logits: jax.Array    # float32 [N*Q, N]
  support_losses: jax.Array  # float32 [steps], before each step
