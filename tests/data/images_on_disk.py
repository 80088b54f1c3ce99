"""Image files for tests."""
from PIL import Image


def save(path, array, **options):
  """Writes an array as an image, by the ending of the path, and returns the path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(array).save(path, **options)
  return path
