"""Every tuple that crosses a module border, with the shape of each field.

Letters: n images, H W C their height, width and channels; N classes of an episode (way), K support
images per class (shot), Q query images per class; d feature width.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array | np.ndarray
Tree = Any  # A nested dict (or tuple) of arrays.


class Normalization(NamedTuple):
  """What pixel values are normalised by: (x / 255 - mean) / std."""
  mean: Array  # float32 [C], of images / 255
  std: Array   # float32 [C], of images / 255

  @classmethod
  def of(cls, mean: Sequence[float], std: Sequence[float]) -> 'Normalization':
    """Makes one of plain numbers.

    Args:
      mean: of each channel.
      std: of each channel.
    """
    return cls(np.asarray(mean, np.float32), np.asarray(std, np.float32))


class ImagePool(NamedTuple):
  """All images of one split, class after class; classes may differ in size."""
  images: Array         # uint8 [n, H, W, C], sorted by class; or features, or maps [n, ...]
  class_offsets: Array  # int32 [classes], index of the first image of each class
  class_sizes: Array    # int32 [classes], number of images of each class
  normalization: Normalization | None = None  # None: encoded already

  @property
  def image_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of its images."""
    height, width, channels = self.images.shape[1:]
    return height, width, channels

  def __repr__(self) -> str:
    shape = 'x'.join(map(str, getattr(self.images, 'shape', ())[1:])) or 'no images'
    classes = getattr(self.class_sizes, 'shape', ('?',))[0]
    total = getattr(self.images, 'shape', ('?',))[0] if shape != 'no images' else '?'
    return f'ImagePool({total} images of {shape} in {classes} classes)'


class Dataset(NamedTuple):
  """Three splits with disjoint classes, on the host (NumPy arrays); normalised alike."""
  name: str
  train: ImagePool
  val: ImagePool
  test: ImagePool
  class_names: dict[str, tuple[str, ...]]  # split name -> one name per class
  flip: bool                               # whether a mirrored image is still of its class
  origin: dict[str, Any] | None = None     # options of `data.load` that load it again, if that did

  def normalized_by(self, normalization: Normalization) -> 'Dataset':
    """Returns the data set with another normalisation in all splits.

    Args:
      normalization: takes the place of what they have.
    """
    splits = {split: getattr(self, split)._replace(normalization=normalization)
              for split in ('train', 'val', 'test')}
    return self._replace(**splits)

  def __repr__(self) -> str:
    splits = ', '.join(f'{split}={getattr(self, split)!r}' for split in ('train', 'val', 'test'))
    return f'Dataset({self.name}, {splits})'


class EpisodeIndices(NamedTuple):
  """One N-way K-shot task as places in an `ImagePool`, before any image is read."""
  indices: Array    # int32 [N, K+Q], into the pool's images; the first K of each class are support
  class_ids: Array  # int32 [N], the class of the pool behind each label


class Episode(NamedTuple):
  """One N-way K-shot task, class after class."""
  support: Array         # uint8 images [N*K, H, W, C], or features [N*K, d]
  support_labels: Array  # int32 [N*K], in [0, N)
  query: Array           # uint8 images [N*Q, H, W, C], or features [N*Q, d]
  query_labels: Array    # int32 [N*Q], in [0, N)
  class_ids: Array       # int32 [N], the class of the pool behind each label


class TaskKeys(NamedTuple):
  """Random keys of one task."""
  classes: Array          # which classes
  images: Array           # which images of them
  augment_support: Array  # crops and flips of the support images
  augment_query: Array    # crops and flips of the query images

  @classmethod
  def split(cls, key: Array) -> 'TaskKeys':
    """Splits the key of one task.

    Args:
      key: consumed.
    """
    return cls(*jax.random.split(key, 4))


class BatchKeys(NamedTuple):
  """Random keys of one batch of pre-training."""
  indices: Array  # which images
  augment: Array  # crops and flips
  color: Array    # colour jitter

  @classmethod
  def split(cls, key: Array) -> 'BatchKeys':
    """Splits the key of one optimizer step.

    Args:
      key: consumed.
    """
    return cls(*jax.random.split(key, 3))


class BackboneVars(NamedTuple):
  """Θ: the deep feature extractor, frozen after pre-training."""
  params: Tree
  batch_stats: Tree                 # running mean and variance of each batch norm
  temperature: Array | None = None  # τ [], length of its L2-normalised features, if learned
  center: Array | None = None       # float32 [d], taken from features before that, if known


class Cut(NamedTuple):
  """A network in two parts: features = last(vars, below(vars, images)), by running statistics."""
  below: Callable[..., jax.Array]  # (vars, images) -> maps [B, ...] that enter the last block
  last: Callable[..., jax.Array]   # (vars, maps) -> float32 [B, d]


class Backbone(NamedTuple):
  """A network as pure functions; holds no arrays."""
  init: Callable[[jax.Array], BackboneVars]   # key -> BackboneVars
  features: Callable[..., jax.Array]          # (vars, images, *, batch_stats_mode) -> [B, d]
  train_features: Callable[..., tuple]        # (vars, images) -> (features, new batch_stats)
  feature_dim: int                            # d
  image_shape: tuple[int, ...]                # (H, W, C) that it was made for
  scaled_layers: tuple[tuple[str, ...], ...]  # paths of the layers that scale and shift act on
  last_block: tuple[tuple[str, ...], ...]     # paths of the last block: one, or several
  temperature: float | None = None            # τ, length of its features where L2-normalised
  cut: Cut | None = None                      # None where it cannot be cut before its last block
  by_patches: 'Backbone | None' = None        # the same, with 3x3 convolutions by patches
  scales_outputs: bool = False                # whether layers may hold a `gain` and an `offset`


class BaseLearner(NamedTuple):
  """θ: a linear classifier on the features."""
  kernel: Array  # float32 [d, N]
  bias: Array    # float32 [N]


class MetaParams(NamedTuple):
  """All that the outer loop may change; what is not learned is {}, save θ."""
  scale_shift: Tree          # Φ_S
  weights: Tree              # the parts of Θ that are learned themselves (FT, affine parameters)
  base_learner: BaseLearner  # θ; of another system whatever tree its inner loop has
  inner_lr: Tree             # {'log': log α, float32 [] or [inner steps]}
  temperature: Tree          # {'log': log τ, float32 []}


class MetaState(NamedTuple):
  """State of meta-training; the backbone is not in it, so it cannot be updated by mistake."""
  step: Array  # int32 [], outer steps taken
  meta_params: MetaParams
  opt_state: Tree


class PretrainState(NamedTuple):
  """State of pre-training: backbone and the classifier of all base classes."""
  step: Array  # int32 [], optimizer steps taken
  backbone: BackboneVars
  head: tuple[BaseLearner, ...]  # θ_base: [d, base classes], or a hidden layer before that
  opt_state: Tree
  average: BackboneVars | None = None  # of the backbone along the steps, where one is kept


class AdaptResult(NamedTuple):
  """Result of the inner loop."""
  base_learner: BaseLearner  # θ', adapted
  query_logits: jax.Array    # float32 [N*Q, N]
  support_losses: jax.Array  # float32 [steps], before each step


class NetworkAdaptResult(NamedTuple):
  """Result of the inner loop that adapts the network too."""
  params: Tree               # Θ', of the whole network
  base_learner: BaseLearner  # θ', adapted
  query_logits: jax.Array    # float32 [N*Q, N]
  support_losses: jax.Array  # float32 [steps], before each step


class Score(NamedTuple):
  """How well a snapshot does on the validation tasks."""
  accuracy: float            # mean over tasks, in [0, 1]
  ci95: float | None = None  # half-width of its 95% interval; None where not known
