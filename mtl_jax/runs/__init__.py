"""Whole phases on disk: each is one call that claims a work directory, resumes, and reports.

A finished run leaves trees that the next phase reads: `backbone` (Θ) and, after meta-training,
`meta_params` (Φ_S, θ); `load` reads them.
"""
from mtl_jax.execution.memory import Images
from mtl_jax.runs.decisions import Machine
from mtl_jax.runs.finished import FinishedRun, load
from mtl_jax.runs.meta_testing import meta_test_run
from mtl_jax.runs.meta_training import meta_train_run
from mtl_jax.runs.pretraining import pretrain_run
from mtl_jax.runs.time_budgets import TimeBudget
from mtl_jax.runs.validation import Validation
from mtl_jax.sharding import Layout, Pool, make_layout

__all__ = ['FinishedRun', 'Images', 'Layout', 'Machine', 'Pool', 'TimeBudget',
           'Validation', 'load', 'make_layout', 'meta_test_run', 'meta_train_run', 'pretrain_run']
