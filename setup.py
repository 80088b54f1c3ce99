"""Installs mtl_jax; the packages it needs are those of requirements.txt."""
import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent

setuptools.setup(
    name='mtl_jax',
    version='0.1.0',
    description='Meta-transfer learning for few-shot image classification, in JAX.',
    long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    packages=setuptools.find_packages(include=['mtl_jax', 'mtl_jax.*', 'launch', 'launch.*', 'benchmarks']),
    package_data={'launch': ['presets/*.flags', 'presets/ablation/*.flags']},
    python_requires='>=3.11',
    install_requires=(HERE / 'requirements.txt').read_text(encoding='utf-8').split(),
    extras_require={'test': ['pytest>=8.0', 'pytest-xdist>=3.6', 'hypothesis>=6.100', 'ruff>=0.17,<0.18'],
                    'benchmark': ['torch>=2.6']},  # to be measured against
)
