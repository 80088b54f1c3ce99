"""Drawing tasks in PyTorch from images that are sorted by class, and normalising their images."""
import numpy as np
import torch

# The usual ones of ImageNet; what they are makes no difference in time.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def class_sizes(classes, num_images):
  """Computes the sizes of the classes of images that are sorted by class.

  Args:
    classes: the number of classes, all of one size, or the class of each image [num_images].
    num_images: how many images there are.

  Returns:
    int64 [classes].

  Raises:
    ValueError: they do not fit the images.
  """
  classes = np.asarray(classes)
  if classes.ndim == 0 and num_images % max(int(classes), 1) == 0:
    return torch.full((int(classes),), num_images // int(classes))
  if classes.shape == (num_images,) and np.all(np.diff(classes) >= 0):
    return torch.from_numpy(np.unique(classes, return_counts=True)[1])
  raise ValueError(f'expected classes to be a divisor of {num_images} images, or the class of '
                   f'each in rising order, got {classes}')


def draw(sizes, tasks, way, shot, query):
  """Draws tasks: `way` distinct classes each, with distinct images for support and query.

  Args:
    sizes: int64 [classes], of images sorted by class; the tasks are drawn on its device.
    tasks: how many.
    way: classes per task.
    shot: support images per class.
    query: query images per class.

  Returns:
    Indices of images int64, class after class: support [tasks, way * shot] and query
    [tasks, way * query].

  Raises:
    ValueError: there are too few classes, or too few images in one.
  """
  if way > len(sizes) or shot + query > sizes.min():
    raise ValueError(f'expected at least {way} classes of {shot + query} images, '
                     f'got {len(sizes)} of {sizes.min()}')
  # The largest of independent random numbers are a draw without replacement.
  classes = torch.rand(tasks, len(sizes), device=sizes.device).topk(way).indices
  order = torch.rand(tasks, way, int(sizes.max()), device=sizes.device)
  places = torch.arange(order.shape[2], device=sizes.device)
  order[places >= sizes[classes][..., None]] = -1  # beyond the end of a smaller class
  images = order.topk(shot + query).indices + (sizes.cumsum(0) - sizes)[classes][..., None]
  return images[..., :shot].flatten(1), images[..., shot:].flatten(1)


def task_labels(way, per_class):
  """Returns the labels of images that lie class after class.

  Args:
    way: classes.
    per_class: images of each.

  Returns:
    int64 [way * per_class].
  """
  return torch.arange(way).repeat_interleave(per_class)


def normalize(images, mean, std):
  """Converts bytes to the input of a network: (x / 255 - mean) / std, channels first.

  Args:
    images: uint8 [B, H, W, 3].
    mean: [3], of images / 255.
    std: [3], of images / 255.

  Returns:
    float32 [B, 3, H, W].
  """
  scale, offset = 1 / (255 * std), mean / std
  floats = images.permute(0, 3, 1, 2).float()
  return floats.mul_(scale[:, None, None]).sub_(offset[:, None, None])
