"""CIFAR-100's classes, by number: the super-class of each, and a digest of its 600 images.

Copies in circulation number the classes in several ways; by the digest each is known all the same.
"""
import hashlib

import numpy as np

_TABLE = """
apple fruit_and_vegetables 1cf859df
aquarium_fish fish 68e6b6cd
baby people aeb6d628
bear large_carnivores c5a6977f
beaver aquatic_mammals cc170cd7
bed household_furniture fdce0ea9
bee insects 01b94ed4
beetle insects 4213e69d
bicycle vehicles_1 7b0e4b02
bottle food_containers 74988a36
bowl food_containers 9ff76366
boy people 0a79db2f
bridge large_man-made_outdoor_things 2d20e6c9
bus vehicles_1 61f7b18a
butterfly insects 6b362f23
camel large_omnivores_and_herbivores aeafe3a0
can food_containers f93c18bd
castle large_man-made_outdoor_things 4e0a26e8
caterpillar insects 0fefb4ff
cattle large_omnivores_and_herbivores b8d0142d
chair household_furniture 71d38ec2
chimpanzee large_omnivores_and_herbivores 4f703eac
clock household_electrical_devices ed0a73bf
cloud large_natural_outdoor_scenes 4d564732
cockroach insects 0d10dda8
couch household_furniture a02fa9a6
crab non-insect_invertebrates be298b3e
crocodile reptiles 4be13ee7
cup food_containers b964c935
dinosaur reptiles de4790be
dolphin aquatic_mammals e00664a4
elephant large_omnivores_and_herbivores 21eb228e
flatfish fish 029b5c36
forest large_natural_outdoor_scenes 9aa9a0c2
fox medium_mammals e7de9ee5
girl people a0746f65
hamster small_mammals cd28e115
house large_man-made_outdoor_things bba2b6fa
kangaroo large_omnivores_and_herbivores 7414c361
keyboard household_electrical_devices 595806a0
lamp household_electrical_devices 2ea85b17
lawn_mower vehicles_2 bdd19973
leopard large_carnivores ba31b182
lion large_carnivores 3b8d4e8d
lizard reptiles b2a44159
lobster non-insect_invertebrates 29223413
man people 53f38ddb
maple_tree trees 1211a07f
motorcycle vehicles_1 d4ceaf5e
mountain large_natural_outdoor_scenes 2e287a02
mouse small_mammals 098ee5e8
mushroom fruit_and_vegetables 3060c80e
oak_tree trees 94b759b9
orange fruit_and_vegetables 11fb9d9c
orchid flowers 4bf4bfd6
otter aquatic_mammals b3be610e
palm_tree trees fb1c3b9c
pear fruit_and_vegetables f3273bc6
pickup_truck vehicles_1 c216bcde
pine_tree trees 4809216e
plain large_natural_outdoor_scenes d6c4d450
plate food_containers d042bffa
poppy flowers 915e1d73
porcupine medium_mammals 58560b6f
possum medium_mammals c0c82cac
rabbit small_mammals 806cf6f5
raccoon medium_mammals 29ba0e5a
ray fish 5f440afa
road large_man-made_outdoor_things 9464f981
rocket vehicles_2 d3b076d3
rose flowers 3e99d056
sea large_natural_outdoor_scenes 193157dd
seal aquatic_mammals 656e26b5
shark fish 693cb994
shrew small_mammals 4d91df90
skunk medium_mammals f75144d8
skyscraper large_man-made_outdoor_things 54779032
snail non-insect_invertebrates 1fe5d502
snake reptiles 4d5cdad7
spider non-insect_invertebrates c97d5136
squirrel small_mammals bb008f86
streetcar vehicles_2 7244478d
sunflower flowers 1590e47f
sweet_pepper fruit_and_vegetables a8b9bde9
table household_furniture 8696ff95
tank vehicles_2 fe5e7e61
telephone household_electrical_devices f20fe8d5
television household_electrical_devices 53dac59e
tiger large_carnivores c63a10ca
tractor vehicles_2 10542a13
train vehicles_1 d4a4fe42
trout fish 54d86fcf
tulip flowers 95a218fe
turtle reptiles d5fcab1f
wardrobe household_furniture c2b657ae
whale aquatic_mammals 9a200365
willow_tree trees 065c14a0
wolf large_carnivores 4f752c86
woman people 6907e509
worm non-insect_invertebrates 482554a0
"""

_ROWS = [row.split() for row in _TABLE.strip().splitlines()]
SUPER_CLASSES = {name: above for name, above, _ in _ROWS}
DIGESTS = {digest: name for name, _, digest in _ROWS}


def hashes(planes: np.ndarray) -> np.ndarray:
  """Returns a hash of each image, by which the images of a class are ordered.

  Args:
    planes: uint8 [n, 3072], red, green and blue; rows are contiguous.

  Returns:
    uint64 [n].
  """
  found = b''.join(hashlib.blake2b(row.data, digest_size=8).digest() for row in planes)
  return np.frombuffer(found, '>u8')


def digest(of_class: np.ndarray) -> str:
  """Returns a digest of the images of a class, whatever their order.

  Args:
    of_class: `hashes` of them.
  """
  return hashlib.blake2b(np.sort(of_class).tobytes(), digest_size=4).hexdigest()


def name_of(label: str, of_class: np.ndarray) -> str:
  """Returns the name of a class by its label, else by its images, else by its number.

  Args:
    label: a name or number.
    of_class: `hashes` of its images.

  Returns:
    The name; the label where it is neither.
  """
  name = label.lower().replace(' ', '_').replace('-', '_')
  if name in SUPER_CLASSES:
    return name
  if (found := DIGESTS.get(digest(of_class))) is not None:
    return found
  names = list(SUPER_CLASSES)
  return names[int(label)] if label.isdecimal() and int(label) < len(names) else label
