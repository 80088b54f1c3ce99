"""Pickles that PyTorch does not write: calls, impossible storages, dicts without end."""
import pickle

import numpy as np

from tests.weights.pth_files import named, nested, op, tensor

MANY = 4000  # numbers in the storage that one hostile pickle names many times


def hostile_calls(marker):
  """Returns name -> (pickle that calls, or names, a function; what the refusal says)."""
  command = f'touch {marker}'
  return {
      'reduce': (f'cos\nsystem\n(S{command!r}\ntR.', 'os.system'),
      'inst': (f'(S{command!r}\nios\nsystem\n.', 'os.system'),
      'obj': (f'(cos\nsystem\nS{command!r}\no.', 'os.system'),
      'eval': ("cbuiltins\neval\n(S'1'\ntR.", 'builtins.eval'),
      'attribute_path': (b'\x80\x04\x8c\x05torch\x8c\x08Size.mro\x93.', 'torch.Size.mro'),
      'other_rebuild': ('ctorch._utils\n_rebuild_from_type_v2\n.', '_rebuild_from_type_v2'),
      'numpy_scalar': (pickle.dumps({'best': np.float64(1)}, 2), 'multiarray.scalar'),
      'whole_module': ("(S'module'\nN(tN(ttQ.", 'persistent id of something else'),
      'text_persistent_id': ('Pname\n.', 'a persistent id'),
      'type_alone': ('ctorch\nFloatStorage\n.', 'a _Kind where a dict'),
      'state_of_a_type': ('ctorch\nFloatStorage\n}b.', 'state for a _Kind'),
      'state_of_a_tensor': (named(w=tensor() + b'}b'), 'state for a Tensor'),
      'state_of_a_function': ('ctorch._utils\n_rebuild_parameter\n}b.', 'state for a function'),
      'items_for_a_function': (
          'ctorch._utils\n_rebuild_parameter\nK\x01K\x02s.', 'items for a function'),
      'parameter_of_text': (
          "ctorch._utils\n_rebuild_parameter\n(S'a'\nI01\nNtR.", 'a parameter that is no tensor'),
      'tensor_of_text': (
          "ctorch._utils\n_rebuild_tensor_v2\n(S'a'\nK\x00))I00\nNtR.", 'a tensor without storage'),
      'key_too_deep_to_hash': (b'})' + b'\x85' * 100_000 + b'K\x01s.', 'a tuple for a key'),
      'pair_too_deep_to_hash': (
          b'ccollections\nOrderedDict\n(](]()' + b'\x85' * 100_000 + b'K\x01eetR.', 'a tuple'),
  }


def hostile_storages():
  """Returns name -> (pickle with a storage that cannot be, what the refusal says)."""
  alone = tensor().split(b'(', 1)[1].split(b'Q')[0] + b'Q'
  return {
      'storage_view': (
          named(w=tensor(view=op(('1', 0, 6)))), 'persistent id of something else'),
      'storage_of_text': (named(w=tensor(kind='Size')), 'a storage without a type'),
      'storage_of_unknown_type': (
          named(w=tensor(kind='ComplexFloatStorage')), 'torch.ComplexFloatStorage'),
      'storage_of_negative_size': (
          named(w=tensor(size=-6)), 'a storage without a type, a key or a size'),
      'storage_named_by_a_number': (
          named(w=tensor(key=0)), 'a storage without a type, a key or a size'),
      'storage_of_two_sizes': (named(v=tensor(), w=tensor(size=7)), 'two types or sizes'),
      'storage_of_two_types': (
          named(v=tensor(), w=tensor(kind='IntStorage')), 'two types or sizes'),
      'storage_alone': (named(w=alone), 'a Storage under'),
      'one_storage_many_times': (
          named(**{f'w{i}': tensor(0, (MANY,), (1,), MANY) for i in range(1500)}), 'bytes in'),
  }


def hostile_tensors():
  """Returns name -> (pickle with a tensor that its storage cannot hold, what the refusal says)."""
  without = 'a tensor without storage, shape or strides'
  return {
      'offset_outside': (named(w=tensor(offset=1)), 'offset 1, in a storage of 6'),
      'offset_negative': (named(w=tensor(offset=-1)), 'at -1'),
      'offset_huge': (named(w=tensor(offset=2**63)), 'a tensor of 2 dimensions'),
      'offset_fraction': (named(w=tensor(offset=0.0)), 'a tensor of 2 dimensions'),
      'stride_outside': (named(w=tensor(stride=(4, 1))), 'strides (4, 1)'),
      'stride_negative': (named(w=tensor(5, (6,), (-1,))), without),
      'stride_zero_grows': (named(w=tensor(0, (10**12,), (0,))), 'shape (1000000000000,)'),
      'strides_missing': (named(w=tensor(stride=(1,))), '2 dimensions and 1 strides'),
      'shape_negative': (named(w=tensor(shape=(-2, -3))), without),
      'shape_huge': (named(w=tensor(shape=(2**62, 2**62), stride=(0, 0))), 'in a storage of 6'),
      'shape_of_lists': (named(w=tensor(shape=([], 3))), without),
      'shape_of_truth': (named(w=tensor(shape=(True, 3))), without),
      'too_many_dimensions': (
          named(w=tensor(shape=(1,) * 65, stride=(1,) * 65)), 'a tensor without storage'),
  }


def hostile_dicts():
  """Returns name -> (pickle of dicts without names or end, what the refusal says)."""
  thousands = (b'](' + b']q\x00(' + b']q\x01(' + b'K\x00' * 1000 + b'e' + b'h\x01' * 1000 + b'e'
               + b'h\x00' * 1000 + b'e')
  return {
      'no_tensors': (named(epoch=op(3)), 'no tensors'),
      'no_dict': (tensor() + b'.', 'a Tensor where a dict'),
      'two_of_one_name': (
          named(**{'a.b': tensor(), 'a': nested(b=tensor())}), "two tensors named 'a.b'"),
      'name_of_bytes': (b'}C\x01a' + tensor() + b's.', 'a bytes for a name'),
      'name_too_long': (named(**{'a' * 2000: tensor()}), 'a name of 2000 characters'),
      'dict_in_itself': (b'}q\x09' + op('a') + b'h\x09s.', 'deeper than 8'),
      'list_in_itself': (b'}' + op('a') + b']q\x00(h\x00h\x00h\x00es.', 'deeper than 8'),
      'many_times_the_same': (named(a=thousands), 'more than 300000 values'),
  }


def hostile(marker):
  return hostile_calls(marker) | hostile_storages() | hostile_tensors() | hostile_dicts()
