import pytest
from absl import logging


@pytest.fixture
def warnings(monkeypatch):
  """What is logged as a warning, instead of showing it."""
  said = []
  monkeypatch.setattr(logging, 'warning', lambda text, *args: said.append(text % args))
  return said
