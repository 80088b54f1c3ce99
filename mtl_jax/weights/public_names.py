"""The names that well-known networks have in the files in which their weights are shared.

One generator per format lists every tensor beside the leaf that it becomes here. Which network of a
format a file holds is found by comparing the names (`public_runs`).
"""
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from mtl_jax.types import Tree
from mtl_jax.weights.correspondence import Place


class PublicFormat(NamedTuple):
  """A form in which people share weights.

  Attributes:
    networks: ours that it may hold.
    places: (network, its parameters) -> one Place per tensor.
    anchor: a name that every file of this format has; what stands before it is a prefix.
    harmless: pattern of names that need no place here, such as a classifier.
    normalization: name in `transforms.NORMALIZATIONS` of what its images are normalised by.
  """
  networks: tuple[str, ...]
  places: Callable[[str, Tree], Iterator[Place]]
  anchor: str
  harmless: re.Pattern[str]
  normalization: str


def _norm(theirs: str, ours: str) -> Iterator[Place]:
  """A batch norm of PyTorch."""
  yield Place(f'{theirs}.weight', f'params/{ours}/scale', 'same')
  yield Place(f'{theirs}.bias', f'params/{ours}/bias', 'same')
  yield Place(f'{theirs}.running_mean', f'batch_stats/{ours}/mean', 'same')
  yield Place(f'{theirs}.running_var', f'batch_stats/{ours}/var', 'same')


def _conv_norm(conv: str, norm: str, ours: str, ours_norm: str, layout: Any) -> Iterator[Place]:
  yield Place(f'{conv}.weight', f'params/{ours}/kernel', layout)
  yield from _norm(norm, ours_norm)


def _blocks(params: Tree) -> Iterator[tuple[int, int, str, Mapping[str, Any]]]:
  """Yields (stage, block, path, layers) of a network that has stages of blocks, from 0 on."""
  stages = [name for name in params if re.fullmatch(r'stage\d+', name)]
  for i, stage in enumerate(sorted(stages, key=_number)):
    blocks = [name for name in params[stage] if re.fullmatch(r'block\d+', name)]
    for j, block in enumerate(sorted(blocks, key=_number)):
      yield i, j, f'{stage}/{block}', params[stage][block]


def _number(name: str) -> int:
  return int(re.sub(r'\D', '', name))


def _efficientnet_lite(network: str, params: Tree) -> Iterator[Place]:
  yield from _conv_norm('_conv_stem', '_bn0', 'stem', 'stem_bn', 'oihw')
  last = ''
  for index, (_, _, ours, layers) in enumerate(_blocks(params)):
    theirs, last = f'_blocks.{index}', ours
    for layer, conv, norm, layout in (('expand', '_expand_conv', '_bn0', 'oi11'),
                                      ('depthwise', '_depthwise_conv', '_bn1', 'oihw'),
                                      ('project', '_project_conv', '_bn2', 'oi11')):
      if layer in layers:
        yield from _conv_norm(f'{theirs}.{conv}', f'{theirs}.{norm}', f'{ours}/{layer}',
                              f'{ours}/{layer}_bn', layout)
  stage = last.split('/')[0]
  yield from _conv_norm('_conv_head', '_bn1', f'{stage}/head', f'{stage}/head_bn', 'oi11')


def _torchvision(network: str, params: Tree) -> Iterator[Place]:
  yield from _conv_norm('conv1', 'bn1', 'stem', 'stem_bn', 'oihw')
  for stage, block, ours, layers in _blocks(params):
    theirs = f'layer{stage + 1}.{block}'
    for i in (1, 2, 3):
      if f'conv{i}' in layers:
        layout = 'oihw' if layers[f'conv{i}']['kernel'].ndim == 4 else 'oi11'
        yield from _conv_norm(f'{theirs}.conv{i}', f'{theirs}.bn{i}', f'{ours}/conv{i}',
                              f'{ours}/bn{i}', layout)
    if 'shortcut' in layers:
      yield from _conv_norm(f'{theirs}.downsample.0', f'{theirs}.downsample.1',
                            f'{ours}/shortcut', f'{ours}/shortcut_bn', 'oi11')


def _layer(theirs: str, ours: str, kernel: str = 'kernel', layout: Any = 'oi') -> Iterator[Place]:
  yield Place(f'{theirs}.weight', f'params/{ours}/{kernel}', layout)
  yield Place(f'{theirs}.bias', f'params/{ours}/bias', 'same')


def _timm(network: str, params: Tree) -> Iterator[Place]:
  """The vision transformers of timm, and of DINOv2, which have the same names."""
  yield Place('cls_token', 'params/class_token', '11d')
  yield Place('pos_embed', 'params/positions', '1nd')
  yield from _layer('patch_embed.proj', 'patches', layout='oihw')
  for i in range(sum(name.startswith('block') for name in params)):
    theirs, ours = f'blocks.{i}', f'block{i + 1}'
    yield from _layer(f'{theirs}.norm1', f'{ours}/norm1', 'scale', 'same')
    yield from _layer(f'{theirs}.attn.qkv', f'{ours}/qkv')
    yield from _layer(f'{theirs}.attn.proj', f'{ours}/out')
    yield from _layer(f'{theirs}.norm2', f'{ours}/norm2', 'scale', 'same')
    yield from _layer(f'{theirs}.mlp.fc1', f'{ours}/mlp1')
    yield from _layer(f'{theirs}.mlp.fc2', f'{ours}/mlp2')
    for half in ('1', '2'):
      if f'scale{half}' in params[ours]:
        yield Place(f'{theirs}.ls{half}.gamma', f'params/{ours}/scale{half}', 'same')
  yield from _layer('norm', 'norm', 'scale', 'same')


def _clip(network: str, params: Tree) -> Iterator[Place]:
  """The image tower in OpenAI's files."""
  yield Place('class_embedding', 'params/class_token', 'same')
  yield Place('positional_embedding', 'params/positions', 'same')
  yield Place('conv1.weight', 'params/patches/kernel', 'oihw')
  yield from _layer('ln_pre', 'pre_norm', 'scale', 'same')
  for i in range(sum(name.startswith('block') for name in params)):
    theirs, ours = f'transformer.resblocks.{i}', f'block{i + 1}'
    yield from _layer(f'{theirs}.ln_1', f'{ours}/norm1', 'scale', 'same')
    yield Place(f'{theirs}.attn.in_proj_weight', f'params/{ours}/qkv/kernel', 'oi')
    yield Place(f'{theirs}.attn.in_proj_bias', f'params/{ours}/qkv/bias', 'same')
    yield from _layer(f'{theirs}.attn.out_proj', f'{ours}/out')
    yield from _layer(f'{theirs}.ln_2', f'{ours}/norm2', 'scale', 'same')
    yield from _layer(f'{theirs}.mlp.c_fc', f'{ours}/mlp1')
    yield from _layer(f'{theirs}.mlp.c_proj', f'{ours}/mlp2')
  yield from _layer('ln_post', 'norm', 'scale', 'same')
  yield Place('proj', 'params/projection/kernel', 'same')


_COUNTERS = r'|.*\.num_batches_tracked'
# CLIP's text tower and the numbers that its archive keeps stand beside the image tower.
_TEXT = (r'transformer\..*|token_embedding\..*|positional_embedding|text_projection|ln_final\..*'
         r'|logit_scale|input_resolution|context_length|vocab_size')

FORMATS: dict[str, PublicFormat] = {
    'efficientnet_lite': PublicFormat(
        ('efficientnet_lite0', 'efficientnet_lite1', 'efficientnet_lite2'), _efficientnet_lite,
        '_conv_stem.weight', re.compile(r'_fc\..*' + _COUNTERS), 'efficientnet_lite'),
    'torchvision': PublicFormat(
        ('resnet18', 'resnet34', 'resnet50'), _torchvision, 'conv1.weight',
        re.compile(r'fc\..*' + _COUNTERS), 'imagenet'),
    'timm': PublicFormat(
        ('vit_small_16', 'vit_base_16'), _timm, 'cls_token', re.compile(r'head\..*'), 'half'),
    'dinov2': PublicFormat(
        ('dinov2_small_14', 'dinov2_base_14'), _timm, 'cls_token', re.compile('mask_token'),
        'imagenet'),
    'clip': PublicFormat(
        ('clip_base_32', 'clip_base_16'), _clip, 'class_embedding', re.compile(_TEXT), 'clip'),
}
