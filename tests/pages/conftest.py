"""What tests of pages share."""
import pytest

from tests import tiny_runs


@pytest.fixture(scope='session')
def tested():
  """A meta-test of the tiny meta-training, in the folder where it lies by default."""
  run = tiny_runs.meta_trained()
  tiny_runs.finished('meta_test', f'--checkpoint={run}')
  return next((run / 'meta_test').iterdir())
