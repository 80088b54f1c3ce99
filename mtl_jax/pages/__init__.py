"""A run to look at: one HTML file, opened from disk, that needs nothing beside it.

    pages.write(['runs/mtl'], 'mtl.html')

`sources` reads what lies on disk, the `*_parts` make sections of it, `markup` escapes all text.
"""
from mtl_jax.pages.page import Written, check_place, of_classifier, write

__all__ = ['Written', 'check_place', 'of_classifier', 'write']
