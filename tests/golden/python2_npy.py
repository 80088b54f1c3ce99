"""Writes `weights/python2.npy` as the authors' TensorFlow code wrote its dictionaries.

Run it by Python 2.7 with NumPy 1.16, from the root of the repository.
"""
import numpy as np

if __name__ == '__main__':
  np.save('tests/golden/weights/python2.npy', {  # pyright: ignore[reportArgumentType]
      'block1_conv1': (np.arange(48, dtype=np.float32) / 8).reshape(2, 2, 3, 4),
      'block1_bias1': np.arange(4, dtype=np.float32) - 1,
      'w5': np.asfortranarray(np.arange(20, dtype=np.float64).reshape(4, 5)),
      'big': np.arange(600, dtype=np.float32),
      'b5': np.float32(0.5), 'steps': 3, 'rates': [0.5, 0.25]})
