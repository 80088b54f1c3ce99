"""Lays out the installed package; everything else about it stands in pyproject.toml.

`launch` is installed as `mtl_jax.launch`, so that nothing but `mtl_jax` lands in site-packages:
there is another `launch`, of ROS 2. The benchmarks stay in the repository.
"""
import setuptools

LIBRARY = setuptools.find_packages(include=['mtl_jax', 'mtl_jax.*'])
COMMANDS = [f'mtl_jax.{name}' for name in setuptools.find_packages(include=['launch', 'launch.*'])]

setuptools.setup(
    packages=[*LIBRARY, *COMMANDS],
    package_dir={'mtl_jax.launch': 'launch'},
    package_data={'mtl_jax': ['py.typed'],
                  'mtl_jax.launch': ['presets/*.flags', 'presets/ablation/*.flags']},
)
