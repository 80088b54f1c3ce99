"""Data sets as uint8 arrays by split, on the host.

`fc100`, `cifar_fs` and `omniglot` come as one published archive, `mini_imagenet` and
`tiered_imagenet` in any of the layouts that are shared, `glyphs` is drawn. One's own images are a
`folder`, a table (`csv:FILE`), Parquet files (`hf:PATH`), what tensorflow-datasets has prepared
(`tfds:NAME`), or arrays (`from_arrays`). Each pool of images carries what it is normalised by.
"""
from mtl_jax.data.arrays import from_arrays
from mtl_jax.data.loading import DRAWN, FORMS, NAMES, OWN, check_name, load

__all__ = ['DRAWN', 'FORMS', 'NAMES', 'OWN', 'check_name', 'from_arrays', 'load']
