"""Meta-test in PyTorch: the accuracy over tasks of a split."""
import torch
from array_names import load
from convolutions import merge
from modes import set_precision
from mtl import Model, adapt, scores
from networks import NETWORKS
from tasks import MEAN, STD, class_sizes, draw, normalize, task_labels

# Whole splits go through the network, and their tasks through the inner loop, in parts that fit in
# memory.
IMAGES_PER_PASS, TASKS_PER_PASS = 200, 100


class MetaTest:
  """The accuracy over tasks of a split: from their images one by one, or from all features."""

  def __init__(self, arrays, mode, device, *, network, num_tasks, way, shot, query, inner_steps,
               inner_lr, norm_epsilon=1e-5):
    """Loads the images, and the model with scale, shift and batch norm merged into its kernels.

    Args:
      arrays: weights, and `images` uint8 [n, H, W, 3] sorted by class with `classes` as
        `class_sizes` takes them.
      mode: 'per_task', or 'encoded': the network passes every image of the split once.
      device: of the tensors.
      network: one of NETWORKS.
      num_tasks: how many tasks.
      way: classes per task.
      shot: support images per class.
      query: query images per class.
      inner_steps: number of steps of the inner loop.
      inner_lr: α.
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
    # Nothing is learned any more, so that each layer is one convolution.
    merge(self.model.network)
    self.images = torch.from_numpy(arrays['images']).to(device)
    self.sizes = class_sizes(arrays['classes'], len(self.images)).to(device)
    self.mean, self.std = (torch.tensor(value, device=device) for value in (MEAN, STD))
    self.labels = [task_labels(way, per_class).to(device) for per_class in (shot, query)]

  def run(self):
    """Draws the tasks and scores them.

    Returns:
      Mean accuracy, in [0, 1].
    """
    with torch.no_grad():
      return self.run_mode(*draw(self.sizes, self.num_tasks, **self.task))

  def _per_task(self, support, query):
    accuracies, device = [], self.images.device
    for s, q in zip(support.to(device), query.to(device), strict=True):
      features = self._encode(self.images[torch.cat([s, q])])
      accuracies.append(self._accuracy(*features.split([len(s), len(q)])))
    return torch.stack(accuracies).mean().item()

  def _encoded(self, support, query):
    features = torch.cat([self._encode(images) for images in self.images.split(IMAGES_PER_PASS)])
    chunks = zip(support.split(TASKS_PER_PASS), query.split(TASKS_PER_PASS), strict=True)
    device = features.device
    each = [self._accuracy(features[s.to(device)], features[q.to(device)]) * len(s)
            for s, q in chunks]
    return torch.stack(each).sum().item() / self.num_tasks

  def _encode(self, images):
    return self.model.network(normalize(images, self.mean, self.std))

  def _accuracy(self, support, query):
    """Averages over the queries of one task, or of tasks stacked in front, adapted together."""
    many, head = support.shape[:-2], self.model.base_learner
    support_labels, query_labels = (labels.expand(*many, -1) for labels in self.labels)
    start = (head.weight.expand(*many, *head.weight.shape),
             head.bias.expand(*many, *head.bias.shape))
    weight, bias = adapt(*start, support, support_labels, **self.inner)
    return (scores(query, weight, bias).argmax(-1) == query_labels).float().mean()
