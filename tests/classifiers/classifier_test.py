"""Classifiers of photos from Python: what they take, say, refuse, and save."""
import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import mtl_jax
from mtl_jax.classifiers import Classifier, saved
from tests import tiny_runs
from tests.exports import artefacts

TEST = tiny_runs.IMAGES_PER_CLASS


@pytest.fixture(scope='module')
def network():
  return mtl_jax.load(tiny_runs.pretrained())


@pytest.fixture(scope='module')
def photos():
  """A folder for each of three classes, of eight photos."""
  return tiny_runs.shared() / 'data' / 'test'


@pytest.fixture(scope='module')
def fitted(network, photos):
  return network.adapt(photos)


def test_a_folder_of_photos(fitted, photos):
  assert isinstance(fitted, Classifier) and fitted.names == ('test0', 'test1', 'test2')
  shares = fitted.predict_proba(photos)
  assert shares.shape == (3 * TEST, 3)
  np.testing.assert_allclose(shares.sum(axis=1), 1)
  truth = [name for name in fitted.names for _ in range(TEST)]
  assert np.mean([a == b for a, b in zip(fitted.predict(photos), truth, strict=True)]) > 0.8
  report = fitted.report()
  assert report.num_judged == 3 * TEST and 0 <= report.calibration_error <= 1
  assert report.accuracy.low <= report.accuracy.share <= report.accuracy.high
  judged = np.mean([share.share for share in report.by_class.values()])
  assert judged == pytest.approx(report.accuracy.share)


def test_photos_by_class_and_arrays_are_the_same(network, fitted, photos):
  paths = {folder.name: sorted(folder.iterdir()) for folder in sorted(photos.iterdir())}
  arrays = [np.asarray(Image.open(path)) for found in paths.values() for path in found]
  labels = [name for name, found in paths.items() for _ in found]
  for labelled in (paths, (arrays, labels)):
    found = network.adapt(labelled)
    np.testing.assert_array_equal(found.features, fitted.features)
    np.testing.assert_array_equal(found.predict_proba(arrays), fitted.predict_proba(photos))
  one = fitted.predict_proba(arrays[0])
  np.testing.assert_allclose(one, fitted.predict_proba(np.stack(arrays))[:1], rtol=1e-4)
  grey = np.asarray(Image.open(paths['test0'][0]).convert('L'))
  assert fitted.predict_proba([grey, arrays[0]]).shape == (2, 3)


def test_uneven_classes_and_a_class_of_one(network, photos):
  paths = {folder.name: sorted(folder.iterdir()) for folder in sorted(photos.iterdir())}
  found = network.adapt({'test0': paths['test0'][:1], 'test1': paths['test1'][:2],
                         'test2': paths['test2']})
  report = found.report()
  assert report.alone == ('test0',) and report.by_class['test0'] is None
  assert report.num_judged == 2 + TEST
  single = network.adapt({name: places[:1] for name, places in paths.items()})
  assert single.report().accuracy is None and single.predict(paths['test0'][0])
  with pytest.raises(ValueError, match='no threshold'):
    single.threshold(0.1)


def test_what_cannot_be_read_is_left_out_and_named(network, photos, tmp_path):
  broken = tmp_path / 'broken.png'
  broken.write_bytes(b'no image')
  paths = {folder.name: sorted(folder.iterdir()) for folder in sorted(photos.iterdir())}
  found = network.adapt({**paths, 'test0': [broken, *paths['test0']]})
  assert len(found.features) == 3 * TEST and len(found.left_out) == 1
  assert str(broken) in found.left_out[0]
  predictions, problems = found.classify([broken, paths['test1'][0]])
  assert [prediction.photo for prediction in predictions] == [str(paths['test1'][0])]
  assert str(broken) in problems[0]
  with pytest.raises(ValueError, match='broken.png'):
    found.predict(broken)
  with pytest.raises(ValueError, match='class test9: none of its photos can be read'):
    network.adapt({**paths, 'test9': [broken]})


def test_the_threshold_rejects_that_share_of_what_was_left_out(fitted, photos):
  predictions, _ = fitted.classify(photos, reject=0.25)
  shares = np.array([prediction.probability for prediction in predictions])
  threshold = fitted.threshold(0.25)
  assert [prediction.rejected for prediction in predictions] == list(shares < threshold)
  noise = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
  of_noise, _ = fitted.classify(noise, reject=0.25)
  assert (np.mean([prediction.rejected for prediction in of_noise]) >
          np.mean(shares < threshold))


def test_one_more_class_without_the_old_photos(network, fitted, photos):
  new = tiny_runs.shared() / 'data' / 'val' / 'val0'
  more = fitted.add_class('a new one', new)
  assert more.names == ('a new one', *fitted.names)
  whole = network.adapt({'a new one': [new / f'{i}.png' for i in range(TEST)],
                         **{folder.name: sorted(folder.iterdir())
                            for folder in sorted(photos.iterdir())}})
  np.testing.assert_allclose(more.predict_proba(photos), whole.predict_proba(photos), atol=1e-3)
  with pytest.raises(ValueError, match='test1 is there already'):
    fitted.add_class('test1', new)


def test_saved_and_read_it_is_the_same(fitted, photos, tmp_path):
  path = tmp_path / 'x.mtl'
  fitted.save(path)
  found = mtl_jax.load_classifier(path)
  np.testing.assert_array_equal(found.predict_proba(photos), fitted.predict_proba(photos))
  assert found.report() == fitted.report() and found.names == fitted.names
  with pytest.raises(ValueError, match='expected a file that does not exist yet'):
    fitted.save(path)
  fitted.save(path, overwrite=True)
  with pytest.raises(ValueError, match='end in .mtl'):
    fitted.save(tmp_path / 'x.bin')


@pytest.mark.parametrize('place', [0.02, 0.3, 0.6, 0.999])
def test_a_damaged_file_is_refused(fitted, tmp_path, place):
  path = tmp_path / 'x.mtl'
  fitted.save(path)
  content = bytearray(path.read_bytes())
  content[int(place * len(content))] ^= 0xFF
  path.write_bytes(content)
  with pytest.raises(ValueError, match='x.mtl') as error:
    mtl_jax.load_classifier(path)
  assert '\n' not in str(error.value)
  path.write_bytes(content[:len(content) // 2])
  with pytest.raises(ValueError, match='x.mtl'):
    mtl_jax.load_classifier(path)


def rewritten(path, change):
  """Writes another `about` into a saved classifier."""
  tensors = safetensors.numpy.load(path.read_bytes())
  with safetensors.safe_open(path, 'numpy') as file:
    about = json.loads(file.metadata()['mtl_jax'])
  change(about, tensors)
  path.write_bytes(safetensors.numpy.save(tensors, {'mtl_jax': json.dumps(about)}))


def test_a_changed_word_is_damage_and_an_earlier_format_is_read(fitted, tmp_path):
  path = tmp_path / 'x.mtl'
  fitted.save(path)
  expected = fitted.predict_proba(artefacts.photos(3))

  def earlier(about, tensors):
    about.update(format=2, digest=saved._digest(tensors, None))

  rewritten(path, earlier)
  np.testing.assert_array_equal(
      mtl_jax.load_classifier(path).predict_proba(artefacts.photos(3)), expected)
  fitted.save(path, overwrite=True)
  for change in ({'names': ['x', 'y', 'z']}, {'temperature': 0.1}, {'image_shape': [8, 8, 3]}):
    rewritten(path, lambda about, _, change=change: about.update(change))
    with pytest.raises(ValueError, match='x.mtl: damaged: it is not what was written'):
      mtl_jax.load_classifier(path)
    fitted.save(path, overwrite=True)
  rewritten(path, earlier)
  rewritten(path, lambda about, _: about.pop('kind'))
  with pytest.raises(ValueError, match="x.mtl: damaged: 'kind' is not as it was written"):
    mtl_jax.load_classifier(path)
  fitted.save(path, overwrite=True)
  rewritten(path, lambda about, _: about.pop('digest'))
  with pytest.raises(ValueError, match='x.mtl: damaged'):
    mtl_jax.load_classifier(path)


@pytest.mark.parametrize('labelled, says', [
    ({'a': ['x.png']}, 'at least two classes, got 1: a'),
    ({'a': ['x.png'], 'b': []}, 'class b has no photos'),
    ({'Bee': ['x.png'], 'bee': ['y.png']}, 'Bee and bee differ in case alone'),
    ((['x.png'], ['a', 'b']), 'got 1 photos and 2 classes')])
def test_refused(network, labelled, says):
  with pytest.raises(ValueError, match=says):
    network.adapt(labelled)


@pytest.mark.parametrize('array, says', [
    (np.full((4, 4, 3), np.nan), 'uint8 in 0 to 255, got NaN'),
    (np.zeros((4, 4, 3)), 'got float64'), (np.zeros((4, 4, 2), np.uint8), r'got \(4, 4, 2\)')])
def test_arrays_that_are_no_images(fitted, array, says):
  with pytest.raises(TypeError, match=says):
    fitted.predict([array])
