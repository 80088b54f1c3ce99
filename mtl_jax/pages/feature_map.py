"""Where images of unseen classes lie, before and after meta-transfer: two axes of many."""
import jax
import numpy as np

from mtl_jax import stages
from mtl_jax.pages import charts
from mtl_jax.pages.markup import Html, element, join, note
from mtl_jax.pages.replay import Images
from mtl_jax.phases import encoding
from mtl_jax.runs import finished
from mtl_jax.runs.finished import FinishedRun

_MOST_CLASSES, _MOST_IMAGES = charts.NUM_COLORS, 30


def draw(run: FinishedRun, images: Images) -> Html:
  """Draws the first classes of a split by the features of Θ, and by those with what was learned.

  Args:
    run: a meta-training.
    images: of a split.
  """
  labels, chosen = _chosen(images)
  batch = images.at(chosen)
  with stages.stage(f'encoding {len(batch)} images twice for the map of features'):
    encode = jax.jit(lambda network, some: encoding.encode_images(
        network, some, run.normalization, backbone=run.backbone))
    before, after = (_encoded(encode, network, batch)
                     for network in (run.backbone_vars, finished.network_of(run)))
  first, second = principal(before), principal(after)
  names = images.names[:labels.max() + 1]
  said = [f'{when}: {100 * between_classes(features, labels):.1f}% of the variance between classes'
          for when, features in (('before', before), ('after', after))]
  maps = [charts.scatter(points, labels, names, title) for points, title in
          zip((first, turned(second, first)), said, strict=True)]
  colors = {name: place for place, name in enumerate(names)}
  return join([element('div', *maps, class_='row'), charts.legend(colors), note(
      f'{len(batch)} images of {len(names)} unseen classes, each map by its own two axes of '
      'largest variance: before by Θ alone; after with what was meta-learned, turned to '
      'resemble the first. Shares of the variance are of all axes, of features of length 1.')])


def principal(features: np.ndarray) -> np.ndarray:
  """Projects features of length 1 onto their two axes of largest variance.

  Args:
    features: [n, d].

  Returns:
    [n, 2]; zero in the second column where there is but one axis.
  """
  centred = _unit(features) - _unit(features).mean(axis=0)
  rows, sizes, _ = np.linalg.svd(centred, full_matrices=False)
  points = rows[:, :2] * sizes[:2]
  return np.pad(points, ((0, 0), (0, 2 - points.shape[1])))


def turned(points: np.ndarray, like: np.ndarray) -> np.ndarray:
  """Turns and mirrors points so that they come as near to others as they can.

  Args:
    points: [n, 2].
    like: [n, 2], the others.
  """
  left, _, right = np.linalg.svd(points.T @ like)
  return points @ (left @ right)


def between_classes(features: np.ndarray, labels: np.ndarray) -> float:
  """Returns the share of the variance that lies between classes, of features of length 1.

  Args:
    features: [n, d].
    labels: int [n].
  """
  rows = _unit(features)
  means = np.stack([rows[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
  total = ((rows - rows.mean(axis=0)) ** 2).sum()
  return float(((means[labels] - rows.mean(axis=0)) ** 2).sum() / total) if total else 0.0


def _unit(features: np.ndarray) -> np.ndarray:
  return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


def _chosen(images: Images) -> tuple[np.ndarray, np.ndarray]:
  """(labels, indices) of the first images of the first classes."""
  starts = np.asarray(images.pool.class_offsets)[:_MOST_CLASSES]
  sizes = np.minimum(np.asarray(images.pool.class_sizes)[:_MOST_CLASSES], _MOST_IMAGES)
  return (np.repeat(np.arange(len(starts)), sizes),
          np.concatenate([start + np.arange(size)
                          for start, size in zip(starts, sizes, strict=True)]))


def _encoded(encode, network, batch: np.ndarray) -> np.ndarray:
  most = encoding.images_per_pass(*batch.shape[1:3])
  return np.concatenate([np.asarray(encode(network, batch[start:start + most]))
                         for start in range(0, len(batch), most)])
