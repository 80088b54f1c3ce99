"""The commands: flags in, one library call out.

From a clone `python -m launch.NAME`; installed `mtl NAME`, where this package is `mtl_jax.launch`.
"""
