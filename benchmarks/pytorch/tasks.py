"""Drawing tasks in PyTorch, and meta-test over the tasks of a split."""
import numpy as np
import torch
from modes import set_precision
from mtl import Model, adapt, scores
from networks import NETWORKS, load, merge

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the usual ones; what they are makes no difference in time
IMAGES_PER_PASS, TASKS_PER_PASS = 200, 100


def class_sizes(classes, num_images):
  """Reads the sizes of the classes of images that are sorted by class.

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
  raise ValueError(f'expected classes to be a divisor of {num_images} images, or the class of each in rising order, '
                   f'got {classes}')


def draw(sizes, tasks, way, shot, query):
  """Draws tasks: `way` distinct classes each, and of each class distinct images for support and query.

  Args:
    sizes: int64 [classes], of images sorted by class; where it is, there tasks are drawn.
    tasks: how many.
    way: classes per task.
    shot: support images per class.
    query: query images per class.

  Returns:
    Indices of images int64, class after class: support [tasks, way * shot] and query [tasks, way * query].

  Raises:
    ValueError: there are too few classes, or too few images in one.
  """
  if way > len(sizes) or shot + query > sizes.min():
    raise ValueError(f'expected at least {way} classes of {shot + query} images, got {len(sizes)} of {sizes.min()}')
  classes = torch.rand(tasks, len(sizes), device=sizes.device).topk(way).indices
  order = torch.rand(tasks, way, int(sizes.max()), device=sizes.device)
  beyond_the_end = torch.arange(order.shape[2], device=sizes.device) >= sizes[classes][..., None]  # of a smaller class
  order[beyond_the_end] = -1
  images = order.topk(shot + query).indices + (sizes.cumsum(0) - sizes)[classes][..., None]
  return images[..., :shot].flatten(1), images[..., shot:].flatten(1)


def task_labels(way, per_class):
  """Gives the labels of images that lie class after class.

  Args:
    way: classes.
    per_class: images of each.

  Returns:
    int64 [way * per_class].
  """
  return torch.arange(way).repeat_interleave(per_class)


def normalize(images, mean, std):
  """Makes a batch for the network of bytes.

  Args:
    images: uint8 [B, H, W, 3].
    mean: [3], of images / 255.
    std: [3], of images / 255.

  Returns:
    float32 [B, 3, H, W].
  """
  scale, offset = 1 / (255 * std), mean / std
  return images.permute(0, 3, 1, 2).float().mul_(scale[:, None, None]).sub_(offset[:, None, None])


class MetaTest:
  """The accuracy over tasks of a split: from their images one by one, or from features of every image."""

  def __init__(self, arrays, mode, device, *, network, num_tasks, way, shot, query, inner_steps, inner_lr,
               norm_epsilon=1e-5):
    """Loads the model, with scale, shift and batch norm multiplied into its kernels, and the images.

    Args:
      arrays: weights, and `images` uint8 [n, H, W, 3] sorted by class with `classes` as `class_sizes` takes them.
      mode: 'per_task' or 'encoded'.
      device: of the tensors.
      network: one of NETWORKS.
      num_tasks: how many tasks.
      way: classes per task.
      shot: support images per class.
      query: query images per class.
      inner_steps: steps of the inner loop.
      inner_lr: its learning rate.
      norm_epsilon: of batch norm.
    """
    if mode not in ('per_task', 'encoded'):
      raise ValueError(f"expected mode 'per_task' or 'encoded', got {mode!r}")
    set_precision('default')
    self.run_mode, self.num_tasks = getattr(self, f'_{mode}'), num_tasks
    self.task = {'way': way, 'shot': shot, 'query': query}
    self.inner = {'inner_steps': inner_steps, 'inner_lr': inner_lr, 'order': 'first'}
    self.model = Model(NETWORKS[network](eps=norm_epsilon), way)
    load(self.model, arrays)
    self.model.to(device, memory_format=torch.channels_last)
    merge(self.model.network)
    self.images = torch.from_numpy(arrays['images']).to(device)
    self.sizes = class_sizes(arrays['classes'], len(self.images)).to(device)
    self.mean, self.std = (torch.tensor(value, device=device) for value in (MEAN, STD))
    self.labels = [task_labels(way, per_class).to(device) for per_class in (shot, query)]

  def run(self):
    """Draws the tasks and scores them.

    Returns:
      Mean accuracy.
    """
    with torch.no_grad():
      return self.run_mode(*draw(self.sizes, self.num_tasks, **self.task))

  def _per_task(self, support, query):
    accuracies = []
    for s, q in zip(support.to(self.images.device), query.to(self.images.device), strict=True):
      features = self._encode(self.images[torch.cat([s, q])])
      accuracies.append(self._accuracy(*features.split([len(s), len(q)])))
    return torch.stack(accuracies).mean().item()

  def _encoded(self, support, query):
    features = torch.cat([self._encode(images) for images in self.images.split(IMAGES_PER_PASS)])
    chunks = zip(support.split(TASKS_PER_PASS), query.split(TASKS_PER_PASS), strict=True)
    each = [self._accuracy(features[s.to(features.device)], features[q.to(features.device)]) * len(s)
            for s, q in chunks]
    return torch.stack(each).sum().item() / self.num_tasks

  def _encode(self, images):
    return self.model.network(normalize(images, self.mean, self.std))

  def _accuracy(self, support, query):
    """Mean over the queries of one task, or of tasks stacked in front, which are adapted together."""
    many, head = support.shape[:-2], self.model.base_learner
    support_labels, query_labels = (labels.expand(*many, -1) for labels in self.labels)
    start = head.weight.expand(*many, *head.weight.shape), head.bias.expand(*many, *head.bias.shape)
    weight, bias = adapt(*start, support, support_labels, **self.inner)
    return (scores(query, weight, bias).argmax(-1) == query_labels).float().mean()
