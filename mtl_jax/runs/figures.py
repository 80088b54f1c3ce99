"""Plots as the content of files that are the same, byte for byte, each time they are drawn."""
import io

import matplotlib
from matplotlib.figure import Figure

_DOTS_PER_INCH = 150


def encode(figure: Figure, ending: str) -> bytes:
  """Returns a plot as the content of a file, without the date and the random ids of matplotlib.

  Args:
    figure: to be drawn.
    ending: 'png' or 'svg'.
  """
  content = io.BytesIO()
  with matplotlib.rc_context({'svg.hashsalt': 'mtl_jax'}):
    metadata = {'Date': None} if ending == 'svg' else None
    figure.savefig(content, format=ending, dpi=_DOTS_PER_INCH, metadata=metadata)
  return content.getvalue()
