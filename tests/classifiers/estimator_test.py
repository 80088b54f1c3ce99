"""The estimator under scikit-learn's own checks, and in its pipelines and searches."""
import pickle
import unittest

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

from mtl_jax.classifiers.estimator import FewShotClassifier, PhotoFeatures
from tests import tiny_runs

NUMBER = tiny_runs.IMAGES_PER_CLASS


@pytest.mark.parametrize(
    'estimator, check', [pytest.param(estimator, check, id=check.func.__name__)
                         for estimator, check in estimator_checks_generator(
                             FewShotClassifier(strengths=(10.0,)))])
def test_scikit_learns_own_checks(estimator, check):
  try:
    check(estimator)
  except unittest.SkipTest as reason:  # of the array libraries, which need not be installed
    assert 'is not installed' in str(reason) or 'SCIPY_ARRAY_API' in str(reason)


@pytest.fixture(scope='module')
def photos():
  folders = sorted((tiny_runs.shared() / 'data' / 'test').iterdir())
  return ([str(path) for folder in folders for path in sorted(folder.iterdir())],
          [folder.name for folder in folders for _ in range(NUMBER)])


def pipeline():
  return make_pipeline(PhotoFeatures(str(tiny_runs.pretrained())), FewShotClassifier())


def test_photos_in_a_pipeline_cross_validated_and_searched(photos):
  paths, labels = photos
  scores = cross_val_score(pipeline(), paths, labels, cv=4)
  assert scores.shape == (4,) and scores.mean() > 0.5
  search = GridSearchCV(pipeline(), {'fewshotclassifier__strengths': [(10.0,), (1000.0,)]}, cv=2)
  search.fit(paths, labels)
  assert search.best_score_ > 0.4 and len(search.cv_results_['mean_test_score']) == 2


def test_a_clone_and_a_pickle_say_the_same(photos):
  paths, labels = photos
  fitted = pipeline().fit(paths, labels)
  again = pickle.loads(pickle.dumps(fitted))
  np.testing.assert_array_equal(again.predict_proba(paths), fitted.predict_proba(paths))
  other = clone(fitted).fit(paths, labels)
  np.testing.assert_array_equal(other.predict(paths), fitted.predict(paths))
  assert fitted.score(paths, labels) > 0.8
  assert list(fitted.classes_) == sorted(set(labels))
