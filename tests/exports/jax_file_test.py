"""A `.bin` says what the library says, bit for bit, for any numbers, and needs jax alone."""
import json
import pathlib
import re
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtl_jax
from mtl_jax import backbones, base_learner, exports, runs
from mtl_jax.backbones import layers
from mtl_jax.exports import jax_file
from mtl_jax.types import BaseLearner
from tests import tiny_runs
from tests.exports import artefacts

DOCS = pathlib.Path(__file__).parents[2] / 'docs' / 'export.md'
BLOCKED = 'import sys\nfor name in ("mtl_jax", "flax"): sys.modules[name] = None\n'


@pytest.mark.parametrize('kind', ['pretrained', 'meta_trained'])
@pytest.mark.parametrize('number, way, queries', artefacts.NUMBERS)
def test_its_programs_are_the_functions_bit_for_bit(kind, number, way, queries):
  support, labels, query = artefacts.task(number, way, queries)
  run = runs.load(getattr(tiny_runs, kind)())
  program = exports.of_network(run, backbones.conv_by_platform)
  encode = jax.jit(program.encode)
  start = np.zeros((run.backbone.feature_dim + 1, way), np.float32)
  classifier = jax.jit(program.adapt)(start, encode(program.weights, support),
                                      jnp.asarray(labels, jnp.int32))
  expected = jax.jit(program.predict)(classifier, encode(program.weights, query))
  found = mtl_jax.load_export(artefacts.exported(kind))
  np.testing.assert_array_equal(found.adapt(support, labels), classifier)
  np.testing.assert_array_equal(found.predict_proba(query, np.asarray(classifier)), expected)
  features = mtl_jax.load(getattr(tiny_runs, kind)()).features(list(query))
  np.testing.assert_allclose(encode(program.weights, query), features, rtol=1e-5, atol=1e-6)


def test_after_meta_training_it_adapts_as_meta_test_does():
  support, labels, query = artefacts.task(9, 3, 4)
  run, network = runs.load(tiny_runs.meta_trained()), mtl_jax.load(tiny_runs.meta_trained())
  features = jnp.asarray(network.features(list(support)))
  new = jnp.asarray(network.features(list(query)))
  inner = run.settings['config']['inner']
  zero = BaseLearner(jnp.zeros((features.shape[1], 3)), jnp.zeros(3))
  for kind, theta in (('meta_trained', zero), ('fixed', run.meta_params.base_learner)):
    found = mtl_jax.load_export(artefacts.exported(kind))
    # --test_inner_steps of the tiny runs.
    expected = base_learner.adapt_primal(theta, features, jnp.asarray(labels), new,
                                         inner_lr=inner['lr'], num_steps=5)
    shares = found.predict_proba(query, found.adapt(support, labels))
    np.testing.assert_allclose(shares, jax.nn.softmax(expected.query_logits), atol=1e-6)


def test_a_classifier_says_what_it_said():
  photos, classifier = artefacts.photos(5), artefacts.classifier()
  found = mtl_jax.load_export(artefacts.exported('classifier'))
  assert found.names == list(classifier.names) and 'classifies' in repr(found)
  np.testing.assert_allclose(found.predict_proba(photos), classifier.predict_proba(photos),
                             atol=1e-5)


def test_its_c_and_its_temperature_go_along():
  folder = tiny_runs.shared() / 'data' / 'test'
  images = np.concatenate([artefacts.classifier().encoder.read(sorted(place.iterdir()))[0]
                           for place in sorted(folder.iterdir())])
  found = mtl_jax.load_export(artefacts.exported('adapts'))
  shares = found.predict_proba(images, found.adapt(images, np.repeat([0, 1, 2], 8)))
  np.testing.assert_allclose(shares, artefacts.classifier().predict_proba(images), atol=2e-3)


def test_ten_lines_need_jax_alone(tmp_path):
  [lines] = re.findall(r'<!-- jax alone -->\n```python\n(.*?)```', DOCS.read_text(encoding='utf-8'),
                       re.DOTALL)
  assert len([line for line in lines.splitlines() if line.strip()]) <= 10
  support, labels, query = artefacts.task(9, 3, 4)
  np.savez(tmp_path / 'task.npz', support=support, labels=labels.astype(np.int32), query=query)
  path = artefacts.exported('meta_trained')
  rows = mtl_jax.load_export(path).about['feature_dim'] + 1
  lines = lines.replace("'imagenet.bin'", repr(str(path))).replace('(1281, 5)', f'({rows}, 3)')
  script = (f'{BLOCKED}import numpy as np\nglobals().update(np.load("task.npz"))\n{lines}\n'
            'np.savez("found.npz", classifier=classifier, probabilities=probabilities)')
  subprocess.run([sys.executable, '-c', script], cwd=tmp_path, env=tiny_runs.environment(),
                 check=True, timeout=120)
  here = mtl_jax.load_export(path)
  with np.load(tmp_path / 'found.npz') as found:
    np.testing.assert_array_equal(found['classifier'], here.adapt(support, labels))
    np.testing.assert_array_equal(found['probabilities'],
                                  here.predict_proba(query, found['classifier']))


def test_programs_are_for_three_platforms():
  with np.load(artefacts.exported('pretrained')) as file:
    for name in ('encode', 'adapt', 'predict'):
      assert jax.export.deserialize(bytearray(file[name])).platforms == jax_file.PLATFORMS


def symbolic(*shape):
  return jax.ShapeDtypeStruct((*jax.export.symbolic_shape('n'), *shape), jnp.float32)


def test_a_depthwise_kernel_is_a_sum_on_a_cpu_and_a_convolution_elsewhere():
  kernel = np.ones((3, 3, 1, 8), np.float32)
  options = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC'), 'feature_group_count': 8}
  conv = jax.jit(lambda x: backbones.conv_by_platform(x, kernel, (1, 1), 'SAME', **options))
  for platforms, grouped in ((('cpu',), False), (('cuda',), True), (jax_file.PLATFORMS, True)):
    exported = jax.export.export(conv, platforms=platforms)(symbolic(5, 5, 8))
    assert ('feature_group_count = 8' in exported.mlir_module()) == grouped
  x = np.random.default_rng(0).normal(size=(2, 5, 5, 8)).astype(np.float32)
  np.testing.assert_allclose(
      exported.call(x), jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', **options),
      rtol=1e-5, atol=1e-5)


def test_a_wide_kernel_is_exported_where_winograd_would_want_to_know_the_number_of_images():
  random = np.random.default_rng(0)
  kernel = random.normal(size=(3, 3, 128, 256)).astype(np.float32)
  options = {'dimension_numbers': ('NHWC', 'HWIO', 'NHWC')}
  conv = jax.jit(lambda x: layers.conv(x, kernel, (1, 1), 'SAME', **options))
  x = random.normal(size=(10, 8, 8, 128)).astype(np.float32)  # 40 tiles
  np.testing.assert_allclose(
      jax.export.export(conv)(symbolic(8, 8, 128)).call(x),
      jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', **options), rtol=1e-3, atol=1e-3)


def changed(path, to, change):
  """Writes a copy in which the file says something else of itself."""
  with zipfile.ZipFile(path) as file, zipfile.ZipFile(to, 'w') as other:
    for name in file.namelist():
      content = file.read(name)
      if name == 'mtl_jax':
        content = json.dumps(change(json.loads(content)))
      other.writestr(name, content)


def test_other_versions_and_damaged_files_are_refused(tmp_path):
  path = artefacts.exported('pretrained')
  changed(path, tmp_path / 'x.bin', lambda about: about | {'format': 99})
  (tmp_path / 'cut.bin').write_bytes(path.read_bytes()[:-100])
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 0xFF
  (tmp_path / 'changed.bin').write_bytes(content)
  np.savez(tmp_path / 'other.npz', a=np.zeros(3))
  (tmp_path / 'other.npz').rename(tmp_path / 'other.bin')
  for name, says in (('x', 'expected an export of format 1, got 99: export it again'),
                     ('cut', 'cut off or damaged'), ('changed', 'damaged'),
                     ('other', 'expected a file that mtl export has written')):
    with pytest.raises(ValueError, match=says) as error:
      mtl_jax.load_export(tmp_path / f'{name}.bin')
    assert '\n' not in str(error.value) and f'{name}.bin' in str(error.value)
  with pytest.raises(FileNotFoundError, match='none.bin does not exist'):
    mtl_jax.load_export(tmp_path / 'none.bin')


@pytest.mark.parametrize('kind, images, labels, says', [
    ('fixed', artefacts.photos(4), [0, 1, 2, 3], 'fixed at 3: got support photos of 4'),
    ('classifier', artefacts.photos(2), [0, 1], r'classes fixed \(test0, test1, test2\)'),
    ('pretrained', artefacts.photos(2)[:, 1:], [0, 1], r'uint8 images \[n, 16, 16, 3\], got uint8'),
    ('pretrained', artefacts.photos(2) / 255, [0, 1], 'got float64'),
    ('pretrained', artefacts.photos(2), [0, 2], 'labels 0 to 2, each at least once'),
    ('pretrained', artefacts.photos(2), [0, 1, 1], 'a label for each of 2 photos')])
def test_inputs_that_do_not_fit_are_refused(kind, images, labels, says):
  with pytest.raises(ValueError, match=says):
    mtl_jax.load_export(artefacts.exported(kind)).adapt(images, np.array(labels))


def test_an_inner_loop_that_adapts_the_network_is_refused():
  run = runs.load(tiny_runs.meta_trained())
  config = run.settings['config']
  config = config | {'inner': config['inner'] | {'adapts': 'all'}}
  with pytest.raises(ValueError, match='adapts more than θ'):
    exports.of_network(run._replace(settings=run.settings | {'config': config}),
                       backbones.conv_by_platform)


def test_without_a_classifier_a_file_that_adapts_says_nothing():
  found = mtl_jax.load_export(artefacts.exported('pretrained'))
  with pytest.raises(ValueError, match='expected the classifier that adapt has returned'):
    found.predict_proba(artefacts.photos(1))
