"""Our trees as one flat dict, under the paths that `correspondence` names."""
from collections.abc import Mapping
from typing import Any

import jax

from mtl_jax.types import BackboneVars, MetaParams, Tree


def flat(backbone_vars: BackboneVars, meta_params: MetaParams | None) -> dict[str, Any]:
  """Flattens all that a run has learned to one dict under the paths of `correspondence`.

  Args:
    backbone_vars: Θ; a learned temperature is that of `meta_params`.
    meta_params: after meta-training; its `weights` are not looked at, as they are of Θ's paths.

  Returns:
    Path, such as 'params/stem/kernel' -> leaf.
  """
  trees = {'params': backbone_vars.params, 'batch_stats': backbone_vars.batch_stats}
  if meta_params is not None:
    trees |= {'scale_shift': meta_params.scale_shift,
              'base_learner': meta_params.base_learner._asdict(),
              'inner_lr': meta_params.inner_lr, 'temperature': meta_params.temperature}
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf
          for path, leaf in jax.tree_util.tree_flatten_with_path(trees)[0]}


def nested(flat: Mapping[str, Any]) -> Tree:
  """Undoes `flat`, for any part of its paths.

  Args:
    flat: path -> leaf.

  Returns:
    Nested dicts.

  >>> nested({'params/stem/kernel': 1, 'params/stem/bias': 2})
  {'params': {'stem': {'kernel': 1, 'bias': 2}}}
  """
  tree: dict[str, Any] = {}
  for path, leaf in flat.items():
    *folders, name = path.split('/')
    node = tree
    for folder in folders:
      node = node.setdefault(folder, {})
    node[name] = leaf
  return tree
