"""Other few-shot learners as inner loops, to stand beside meta-transfer learning on the same tasks.

Importing this package makes them known: `InnerLoop(adapts='prototypes')`, `--inner=prototypes`.
Each file has one idea and its formula. What a system learns besides the network is its θ.

| name | system |
|---|---|
| prototypes | prototypical networks (Snell et al., NeurIPS 2017) |
| cosine | nearest mean by cosine, learned temperature (Meta-Baseline, Chen et al., ICCV 2021) |
| matching | matching networks (Vinyals et al., NeurIPS 2016) |
| ridge | ridge regression in closed form, R2-D2 (Bertinetto et al., ICLR 2019) |
| svm | a linear support vector machine, MetaOptNet (Lee et al., CVPR 2019) |
| relation | a learned comparison, relation networks (Sung et al., CVPR 2018) |
| set_transformer | means that attend to each other, as FEAT (Ye et al., CVPR 2020) |
| boil | the network adapts, θ does not (Oh et al., ICLR 2021) |
| meta_sgd | a learned rate for every weight (Li et al., 2017) |
| implicit_maml | MAML by the gradient of a minimum (iMAML, Rajeswaran et al., NeurIPS 2019) |
| reptile | the start moves to where tasks lead (Nichol et al., 2018) |
| tadam | the task sets a scale and a shift of every channel (Oreshkin et al., NeurIPS 2018) |

`support_classifiers` are no inner loops: a test may fit one of them in place of θ.
"""
from mtl_jax.inner_loop import over_features, register, starting_at
from mtl_jax.systems import (
  implicit_maml,
  metric,
  network_rates,
  relation,
  reptile,
  ridge,
  set_transformer,
  support_classifiers,
  svm,
  tadam,
)

__all__ = ['implicit_maml', 'metric', 'network_rates', 'relation', 'reptile', 'ridge',
           'set_transformer', 'support_classifiers', 'svm', 'tadam']

# These have no inner steps whose rate could be learned.
for _name, _score, _init in (
    ('prototypes', metric.prototypes, starting_at({})),
    ('cosine', metric.cosine, starting_at(metric.COSINE)),
    ('matching', metric.matching, starting_at({})),
    ('ridge', ridge.score, starting_at(ridge.START)),
    ('svm', svm.score, starting_at(svm.START)),
    ('relation', relation.score, relation.init),
    ('set_transformer', set_transformer.score, set_transformer.init)):
  register(_name, over_features(_score), init=_init, learns_rates=False)
register('tadam', tadam.adapt, init=tadam.init, learns_rates=False)
register('boil', network_rates.adapt_body, adapts_network=True)
register('meta_sgd', network_rates.adapt_by_rates, adapts_network=True, init=network_rates.init)
register('implicit_maml', implicit_maml.adapt, adapts_network=True, learns_rates=False)
register('reptile', reptile.adapt, adapts_network=True, learns_rates=False)
