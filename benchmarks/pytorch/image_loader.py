"""Meta-batches by a DataLoader that decodes, augments and normalises in processes of its own."""
import os
import time

import numpy as np
import torch
from mtl import Unsupported
from tasks import MEAN, STD, class_sizes, draw, normalize, task_labels
from torch.utils.data import DataLoader, Dataset, Sampler

try:
  from PIL import Image
except ImportError:  # only image files need it
  Image = None


class Images(Dataset):
  """Whole meta-batches of augmented images, decoded from files or taken from an array."""

  def __init__(self, sources, size, normalized):
    """Stores where the images are.

    Args:
      sources: paths of image files, or uint8 [n, H, W, 3].
      size: height and width of the images that come out, pixels.
      normalized: whether floats come out, normalised, instead of bytes.
    """
    self.sources, self.size, self.normalized = sources, size, normalized
    self.mean, self.std = torch.tensor(MEAN), torch.tensor(STD)

  def __len__(self):
    return len(self.sources)

  def __getitems__(self, indices):  # DataLoader calls this once per batch
    padding, size = self.size // 8, self.size
    offsets = torch.randint(2 * padding + 1, (len(indices), 2)).tolist()
    flips = torch.randint(2, (len(indices),)).tolist()
    canvas = np.zeros((size + 2 * padding, size + 2 * padding, 3), np.uint8)
    batch = np.empty((len(indices), size, size, 3), np.uint8)
    for out, index, (top, left), flip in zip(batch, indices, offsets, flips, strict=True):
      canvas[padding:padding + size, padding:padding + size] = self._read(index)
      crop = canvas[top:top + size, left:left + size]
      out[:] = crop[:, ::-1] if flip else crop
    batch = torch.from_numpy(batch)
    return normalize(batch, self.mean, self.std) if self.normalized else batch

  def _read(self, index):
    if not isinstance(self.sources[index], str):
      return self.sources[index]
    size = (self.size, self.size)
    with Image.open(self.sources[index]) as image:
      # A JPEG that is much larger is decoded at a fraction of its size.
      image.draft('RGB', size)
      image = image.convert('RGB')
      return np.asarray(image if image.size == size else image.resize(size))


class MetaBatches(Sampler):
  """Indices of the images of each meta-batch: all support images, then all query images."""

  def __init__(self, sizes, batches, **task):
    self.sizes, self.batches, self.task = sizes, batches, task

  def __len__(self):
    return self.batches

  def __iter__(self):
    for _ in range(self.batches):
      support, query = draw(self.sizes, **self.task)
      yield torch.cat([support.flatten(), query.flatten()]).tolist()


class Input:
  """Meta-batches through a DataLoader, ready for the outer step."""

  def __init__(self, arrays, mode, device, *, tasks, way, shot, query, image_size, batches,
               folder=None, workers=2):
    """Finds the images; the first run starts the processes, which stay.

    Args:
      arrays: `images` and `classes` as `class_sizes` takes them, where there is no folder.
      mode: 'loader'.
      device: where the meta-batches go.
      tasks: per meta-batch.
      way: classes per task.
      shot: support images per class.
      query: query images per class.
      image_size: height and width; files of another size are resized.
      batches: meta-batches per run.
      folder: holds one folder per class with image files.
      workers: number of processes.
    """
    if mode != 'loader':
      raise ValueError(f"expected mode 'loader', got {mode!r}")
    if folder and Image is None:
      raise Unsupported('reading image files needs Pillow (pip install pillow)')
    if folder:
      sources, sizes = files_of(folder)
    else:
      sources = arrays['images']
      sizes = class_sizes(arrays['classes'], len(sources))
    self.device, self.cuda = device, torch.device(device).type == 'cuda'
    self.tasks, self.support = tasks, tasks * way * shot
    self.labels = [task_labels(way, n).expand(tasks, -1).to(device) for n in (shot, query)]
    self.mean, self.std = (torch.tensor(value, device=device) for value in (MEAN, STD))
    sampler = MetaBatches(sizes, batches, tasks=tasks, way=way, shot=shot, query=query)
    # A GPU takes bytes, a quarter as much to carry, and normalises them itself.
    images = Images(sources, image_size, normalized=not self.cuda)
    self.loader = DataLoader(images, batch_sampler=sampler, num_workers=workers,
                             collate_fn=_as_it_is, persistent_workers=workers > 0,
                             pin_memory=self.cuda)

  def meta_batches(self):
    """Loads the meta-batches of one run.

    Yields:
      Support images [tasks, way * shot, 3, H, W], their labels, query images and their labels.
    """
    for images in self.loader:
      if self.cuda:
        images = normalize(images.to(self.device, non_blocking=True), self.mean, self.std)
      support, query = images[:self.support], images[self.support:]
      yield (support.unflatten(0, (self.tasks, -1)), self.labels[0],
             query.unflatten(0, (self.tasks, -1)), self.labels[1])

  def run(self):
    """Loads all meta-batches.

    Returns:
      Images delivered per second.
    """
    start = time.perf_counter()
    delivered = sum(support.shape[:2].numel() + query.shape[:2].numel()
                    for support, _, query, _ in self.meta_batches())
    if self.cuda:
      torch.cuda.synchronize()
    return delivered / (time.perf_counter() - start)


def files_of(folder):
  """Lists the image files of a folder of class folders.

  Args:
    folder: its path.

  Returns:
    Paths sorted by class, and the sizes of the classes int64 [classes].

  Raises:
    ValueError: it has no class folders with files in them.
  """
  classes = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
  files = [sorted(entry.path for entry in os.scandir(path) if entry.is_file()) for path in classes]
  if not any(files):
    raise ValueError(f'expected class folders with image files in {folder}, found none')
  return sum(files, []), torch.tensor([len(of_class) for of_class in files if of_class])


def _as_it_is(batch):
  """Returns a batch unchanged: `Images` yields whole batches, so nothing is to be collated."""
  return batch
