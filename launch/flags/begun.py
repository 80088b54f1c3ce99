"""What settings.json of a work directory knows: other flags are refused before images are read."""
from collections.abc import Mapping
from typing import Any

from absl.flags import FlagValues

from mtl_jax import configs
from mtl_jax.data import loading
from mtl_jax.runs import hosts, workdirs

from . import chosen_data

_BY_DATA = ('crop_padding', 'flip')  # unless a flag does


def check(values: FlagValues, config: configs.Config, run: Mapping[str, Any] | None = None, *,
          chosen: bool = False, **known: Any) -> None:
  """Refuses flags that are not those of the run that has begun in --workdir, if one has.

  Args:
    values: parsed flags; --workdir, and those of the data.
    config: of the phase, as far as it is known without the data.
    run: settings of the run that is gone on from, which decides the size of images.
    chosen: whether validation tasks choose the inner rate, or the strength of a classifier.
    **known: further settings of the run.

  Raises:
    ValueError: a setting is another there.
  """
  if values.workdir is None:
    return
  known['config'] = {name: value for name, value in configs.to_json(config).items()
                     if name not in _BY_DATA or (name in values and values[name].present)}
  known['config'].pop('steps', None)  # which a run may be given more of
  known['config'].get('inner', {}).pop('batching', None)  # by the machine
  if chosen:
    known['config'].pop('strength', None)
    for holder in (known['config'], known.get('validation', {})):
      holder.get('inner', {}).pop('lr', None)
  hosts.on_first(lambda: workdirs.check_known(
      values.workdir, known | _image_shape(values, run)))


def _image_shape(values: FlagValues, run: Mapping[str, Any] | None) -> dict[str, list[int]]:
  """The shape that images will have; the channels are those of the run that has begun."""
  there = workdirs.begun_settings(values.workdir).get('image_shape')
  if there is None:
    return {}
  side = values.center_crop or values.image_size
  if side is None:
    side = run['image_shape'][0] if run is not None else loading.own_side(
        chosen_data.options(values)['dataset'])
  return {'image_shape': [side, side, there[2]]}
