"""The softmax head: its minimum, what it says of images left out, and its probabilities."""
import jax.numpy as jnp
import numpy as np
import pytest

from mtl_jax.classifiers import calibration, heads, leave_one_out, report, ridge_head, softmax_head


def toy(counts, dimensions=30, seed=0, apart=1.0):
  """Features of classes around centres of their own."""
  random = np.random.default_rng(seed)
  labels = np.repeat(np.arange(len(counts)), counts)
  centres = apart * random.normal(size=(len(counts), dimensions))
  noise = random.normal(size=(len(labels), dimensions))
  return (centres[labels] + noise).astype(np.float32), labels


def gradient(x, weights, labels, w, strength):
  """Of the loss in the docstring of `softmax_head`, divided by C; in float64."""
  x, w = x.astype(np.float64), w.astype(np.float64)
  logits = x @ w
  shares = np.exp(logits - logits.max(axis=1, keepdims=True))
  shares /= shares.sum(axis=1, keepdims=True)
  return x.T @ (weights[:, None] * (shares - np.eye(w.shape[1])[labels])) + w / strength


@pytest.mark.parametrize('strength', [10.0, 1000.0])
@pytest.mark.parametrize('dimensions', [6, 200])  # fewer than images, and more
def test_the_gradient_is_zero_at_the_weights(strength, dimensions):
  features, labels = toy([5, 9, 1, 7], dimensions)
  x, weights = softmax_head.unit_length(features), softmax_head.sample_weights(labels)
  basis = softmax_head.make_basis(x, weights, 32, 32)
  padded, targets = np.zeros(32, np.float32), np.zeros((32, 8), np.float32)
  padded[:22] = weights
  targets[np.arange(22), labels] = 1
  w = np.asarray(softmax_head.fit(basis.rows, basis.curvature, padded, targets,
                                  jnp.float32(strength), 2000))
  assert np.abs(w[:, 4:]).max() == 0  # of classes that do not exist
  w = basis.to_features @ w[:basis.to_features.shape[1], :4]
  start = np.linalg.norm(gradient(x, weights, labels, 0 * w, strength))
  assert np.linalg.norm(gradient(x, weights, labels, w, strength)) < 2e-4 * start


def test_classes_weigh_the_same_however_many_images_they_have():
  weights = softmax_head.sample_weights(np.array([0, 0, 0, 1, 2, 2]))
  np.testing.assert_allclose([weights[:3].sum(), weights[3], weights[4:].sum()], 2)


def test_logits_of_an_image_are_those_of_a_fit_without_it():
  features, labels = toy([4, 3, 5])
  x, weights = softmax_head.unit_length(features), softmax_head.sample_weights(labels)
  basis = softmax_head.make_basis(x, weights, 16, 16)
  fits = leave_one_out.most_fits(16, 16, 8)
  np.testing.assert_array_equal(np.sort(leave_one_out.left_out(labels, fits)), np.arange(12))
  found = leave_one_out.all_logits(basis, weights, labels, 3, (30.0,))
  for i in range(12):
    kept = np.delete(np.arange(12), i)
    alone = softmax_head.make_basis(x[kept], weights[kept], 11, 11)
    targets = np.eye(3, dtype=np.float32)[labels[kept]]
    w = alone.to_features @ np.asarray(softmax_head.fit(
        alone.rows, alone.curvature, weights[kept], targets, jnp.float32(30), 1000))
    np.testing.assert_allclose(found[30.0][i], x[i] @ w, atol=0.02)


@pytest.mark.parametrize('dimensions', [6, 50])  # fewer than images, and more
def test_ridge_is_the_solution_of_its_equations_and_knows_each_image_left_out(dimensions):
  features, labels = toy([4, 3, 5, 1], dimensions)
  x, weights = softmax_head.unit_length(features), softmax_head.sample_weights(labels)
  basis = softmax_head.make_basis(x, weights, *x.shape)

  def solution(kept):
    of, y = x[kept].astype(np.float64), np.eye(4)[labels[kept]]
    gram = of.T @ (weights[kept, None] * of) + np.eye(of.shape[1]) / 3
    return np.linalg.solve(gram, of.T @ (weights[kept, None] * y))

  w = ridge_head.fit(basis, ridge_head.class_sums(basis, weights, labels, 4), 3.0)
  everything = np.arange(13)
  in_features = basis.to_features @ w[:basis.to_features.shape[1]]
  np.testing.assert_allclose(x @ in_features, x @ solution(everything), atol=2e-5)
  which = np.array([0, 5, 11])
  found = ridge_head.left_out_scores(basis, weights, labels, w, 3.0, which)
  for row, i in zip(found, which, strict=True):
    np.testing.assert_allclose(row, x[i] @ solution(np.delete(everything, i)), atol=2e-5)


def test_many_images_of_many_classes_are_fitted_by_ridge(monkeypatch):
  monkeypatch.setattr(heads, '_MOST_WORK', 0)
  monkeypatch.setattr(heads, '_MOST_JUDGED', 50)
  features, labels = toy([12] * 6 + [1], apart=0.6)
  found = heads.fit(features, labels, 7)
  assert found.kind == 'ridge' and found.strength in heads.RIDGE_STRENGTHS
  assert found.left_out_logits.shape == (50, 7) and found.left_out.sum() == 50
  assert set(np.bincount(labels[found.left_out])) == {8, 9}  # of each class that has several
  new, new_labels = toy([200] * 6 + [1], apart=0.6)
  shares = calibration.probabilities(heads.logits(found, new), found.temperature)
  assert np.mean(shares.argmax(axis=1) == new_labels) > 0.6
  assert calibration.expected_calibration_error(shares, new_labels) < 0.1
  judged = report.make(found, 'abcdefg', [str(i) for i in range(73)])
  assert (judged.num_photos, judged.num_judged, judged.alone) == (73, 50, ('g',))
  assert judged.accuracy.share == np.mean(
      found.left_out_logits.argmax(axis=1) == labels[found.left_out])


def test_the_only_image_of_a_class_is_never_left_out():
  groups = leave_one_out.left_out(np.array([0, 1, 1, 2, 2, 2]), 3)
  assert groups[0] == -1 and sorted(groups[1:]) == [0, 0, 1, 1, 2]
  assert groups[1] != groups[2] and len(set(groups[3:])) == 3


def test_few_shots_compile_nothing_anew():
  fit, left = softmax_head.fit, leave_one_out.logits
  heads.fit(*toy([10] * 4), 4)  # 40 images
  before = fit._cache_size(), left._cache_size()
  heads.fit(*toy([11, 10, 10, 10]), 4)
  heads.fit(*toy([12, 10, 10, 10, 1]), 5)
  assert (fit._cache_size(), left._cache_size()) == before


def test_a_head_recognises_new_images_and_knows_how_well():
  features, labels = toy([12] * 6, apart=0.6)
  found = heads.fit(features, labels, 6)
  new, new_labels = toy([200] * 6, apart=0.6, seed=0)  # the same centres, other noise
  shares = calibration.probabilities(heads.logits(found, new), found.temperature)
  accuracy = np.mean(shares.argmax(axis=1) == new_labels)
  judged = np.mean(found.left_out_logits.argmax(axis=1) == labels)
  assert accuracy > 0.6 and abs(judged - accuracy) < 0.15
  assert calibration.expected_calibration_error(shares, new_labels) < 0.1
  assert found.left_out.all() and found.strength in heads.STRENGTHS


@pytest.mark.parametrize('scale', [1e-3, 0.3, 5, 100])
def test_the_temperature_is_the_best_of_all(scale):
  random = np.random.default_rng(0)
  labels = random.integers(0, 5, 200)
  values = scale * (random.normal(size=(200, 5)) + 2 * np.eye(5)[labels])
  losses = [calibration.negative_log_likelihood(values, labels, temperature)
            for temperature in calibration._TEMPERATURES]
  assert calibration.best_temperature(values, labels) == calibration._TEMPERATURES[
      np.argmin(losses)]


def test_a_mislabelled_image_is_named():
  features, labels = toy([10] * 4)
  labels[3] = 2
  found = report.make(heads.fit(features, labels, 4), 'abcd', [f'{i}.jpg' for i in range(40)])
  assert [(doubt.photo, doubt.label, doubt.looks_like) for doubt in found.doubts] == [
      ('3.jpg', 'c', 'a')]
  assert found.confused == [('c', 'a', 1)]
  assert found.by_class['c'].share == pytest.approx(10 / 11) and found.accuracy.share == 39 / 40


def test_one_image_of_each_class_is_the_nearest_mean():
  features, labels = toy([1, 1, 1])
  found = heads.fit(features, labels, 3)
  assert not found.left_out.any() and (found.strength, found.temperature) == (10.0, 0.3)
  new, new_labels = toy([20] * 3)
  nearest = (softmax_head.unit_length(new) @ softmax_head.unit_length(features).T).argmax(axis=1)
  assert np.mean(heads.logits(found, new).argmax(axis=1) == nearest) > 0.95
  assert np.mean(nearest == new_labels) > 0.5


@pytest.mark.parametrize('features, labels, classes, says', [
    (np.ones((2, 3)), [0, 0], 1, 'at least 2 classes'),
    (np.ones((2, 3)), [0, 0], 2, 'each at least once'),
    (np.array([[1.0, 2], [np.nan, 1]]), [0, 1], 2, 'row 1')])
def test_refused(features, labels, classes, says):
  with pytest.raises(ValueError, match=says):
    heads.fit(features, np.array(labels), classes)


def test_the_temperature_undoes_a_scale_of_the_logits():
  random = np.random.default_rng(0)
  shares = random.dirichlet([0.5] * 4, 3000)
  labels = np.array([random.choice(4, p=row) for row in shares])
  logits = 3 * np.log(shares)
  assert calibration.best_temperature(logits, labels) == pytest.approx(3, rel=0.08)
  assert calibration.expected_calibration_error(shares, labels) < 0.03
  assert calibration.expected_calibration_error(
      calibration.probabilities(logits, 1), labels) > 0.08


def test_calibration_error_by_hand():
  shares = np.array([[0.95, 0.05], [0.95, 0.05], [0.35, 0.65], [0.45, 0.55]])
  labels = np.array([0, 1, 1, 0])
  # Of the two at 0.95 half are right; of those at 0.65 and 0.55, each in a bin, one and none.
  expected = (2 * abs(0.5 - 0.95) + abs(1 - 0.65) + abs(0 - 0.55)) / 4
  assert calibration.expected_calibration_error(shares, labels) == pytest.approx(expected)
