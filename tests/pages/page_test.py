"""Pages of runs: what is in them is what the runs hold, and nothing of theirs is HTML."""
import json
import os
import shutil

import numpy as np
import pytest

import mtl_jax
from launch.reproduction import paper
from mtl_jax import pages
from mtl_jax.pages import hard_classes, replay, sources
from tests import tiny_runs
from tests.pages.parsing import count, parsed

EVIL = '<img src=x onerror="document.title=1">'


def test_a_meta_training_with_its_meta_test(tested, tmp_path):
  out = tmp_path / 'page.html'
  written = pages.write([tiny_runs.pretrained(), tiny_runs.meta_trained()], out,
                        cache_dir=str(tiny_runs.shared() / 'cache'))
  assert written.sections == ['curves', 'results', 'tasks', 'classes', 'episodes', 'hardest',
                              'map', 'failures', 'scale-shift', 'settings']
  assert not written.missing and written.size == out.stat().st_size < 5e6
  found, text = parsed(out), out.read_text()
  results = json.loads((tested / 'results.json').read_text())
  assert f'{100 * results["accuracy"]:.2f} ± {100 * results["ci95"]:.2f}' in text
  # Three tasks of three classes, with four queries each.
  assert count(found, 'img', 'right') + count(found, 'img', 'wrong') == 3 * 3 * 4
  assert count(found, 'polygon', 'band') == 2  # an interval of each validation
  for name in ('block1/conv', 'test0', 'test2', 'config.inner.lr'):
    assert name in ''.join(found.text)


def test_answers_are_those_of_the_meta_test(tested):
  test, = sources.find([tested]).tests
  assert test.checkpoint == str(tiny_runs.meta_trained())
  run = replay.load_run(test)
  images = replay.load_images(test, str(tiny_runs.shared() / 'cache'))
  again = replay.replay(test, run, images, [0, 3, 9])
  np.testing.assert_allclose(again.accuracies, test.accuracies[[0, 3, 9]], atol=1e-6)
  offsets, sizes = np.asarray(images.pool.class_offsets), np.asarray(images.pool.class_sizes)
  for indices, ids in zip(again.indices, again.class_ids, strict=True):
    within = indices - offsets[ids][:, None]
    assert (within >= 0).all() and (within < sizes[ids][:, None]).all()


def test_images_that_are_gone_or_others_are_said(tested, tmp_path):
  folder = tmp_path / 'test'
  shutil.copytree(tested, folder)
  settings = json.loads((folder / 'settings.json').read_text())
  del settings['checksum']
  for change, says in (({'data': settings['data'] | {'data_dir': str(tmp_path / 'none')}}, 'none'),
                       ({'images': 1}, 'are not those of the meta-test')):
    (folder / 'settings.json').write_text(json.dumps(settings | change))
    written = pages.write([tiny_runs.meta_trained(), folder], tmp_path / 'x.html', overwrite=True,
                          cache_dir=str(tiny_runs.shared() / 'cache'))
    assert any(says in line for line in written.missing)
  (tmp_path / 'alone').mkdir()
  written = pages.write([folder], tmp_path / 'y.html')
  assert written.sections == ['results', 'tasks', 'classes', 'settings']
  assert 'name it too' in written.missing[0]


def test_a_run_that_is_not_finished(tmp_path):
  folder = tmp_path / 'run'
  # Other tests may have left tests of theirs in the shared run.
  shutil.copytree(tiny_runs.pretrained(), folder, ignore=shutil.ignore_patterns('meta_test'))
  for name in ('model.json', 'results.json', 'backbone.safetensors'):
    os.remove(folder / name)
  with open(folder / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 9, "pha')  # killed while it wrote
  written = pages.write([folder], tmp_path / 'x.html')
  assert written.sections == ['curves', 'settings']
  text = (tmp_path / 'x.html').read_text()
  assert 'Not finished yet: run. The page shows what there is.' in text
  assert 'pretrain at step 8 of 8' in text
  os.remove(folder / 'metrics.jsonl')
  assert pages.write([folder], tmp_path / 'y.html').sections == ['settings']


def test_a_classifier_whose_classes_are_called_like_html(tmp_path):
  for index in range(3):
    name = EVIL.replace('/', '') if index == 0 else f'a&b<{index}'
    shutil.copytree(tiny_runs.shared() / 'data' / 'test' / f'test{index}', tmp_path / 'c' / name)
  network = mtl_jax.load(tiny_runs.pretrained())
  classifier = network.adapt(tmp_path / 'c')
  classifier.save(tmp_path / 'x.mtl')
  written = pages.write([tmp_path / 'x.mtl'], tmp_path / 'x.html')
  assert written.sections == ['classifiers', 'settings']
  found = parsed(tmp_path / 'x.html')
  assert EVIL in found.text and 'a&b<1' in found.text
  assert all(not any(name.startswith('on') for name in attrs) for _, attrs in found.tags)
  shown = count(found, 'img')
  assert shown > 0
  # Photos that are gone are named.
  shutil.rmtree(tmp_path / 'c')
  pages.of_classifier(classifier, 'x', tmp_path / 'y.html')
  assert count(parsed(tmp_path / 'y.html'), 'img') == 0
  assert 'are no longer where they were' in (tmp_path / 'y.html').read_text()


def test_published_rows(tested, tmp_path):
  rows = paper.rows_of('fc100', 5, 5)
  assert ('MTL, HT meta-batch: SS[Θ;θ]', 57.6, 0.9) in rows and ('update θ', 51.8, None) in rows
  assert len({row[0] for row in rows}) == len(rows)
  assert paper.rows_of('fc100', 10, 5) == paper.rows_of('glyphs', 5, 1) == []
  pages.write([tested], tmp_path / 'x.html', published=lambda *_: rows, images=False)
  text = (tmp_path / 'x.html').read_text()
  assert '57.6 ± 0.9' in text and 'Published: Sun et al.' in text


def test_the_command(tested, tmp_path):
  runs = [str(tiny_runs.pretrained()), str(tested)]
  out = f'--out={tmp_path / "x.html"}'
  result = tiny_runs.start('launch.page', *runs, out, '--noimages')
  assert result.returncode == 0, result.stderr
  assert f'written to {tmp_path / "x.html"}, ' in result.stdout
  result = tiny_runs.start('launch.page', *runs, out)
  assert result.returncode == 1
  assert 'expected a file that does not exist yet' in result.stderr.splitlines()[-1]


@pytest.mark.parametrize('arguments, says', [
    (['{run}', '--out={folder}/x.pdf'], 'to end in .html'),
    (['{run}', '--out={folder}/none/x.html'], 'none/x.html does not exist'),
    (['no/run', '--out={folder}/x.html'], 'no/run does not exist'),
    (['no.mtl', '--out={folder}/x.html'], 'no.mtl does not exist'),
    (['{data}', '--out={folder}/x.html'], 'data'),
    (['--out={folder}/x.html'], '--run'),
    (['{run}'], '--out')])
def test_refused_in_one_line(tmp_path, arguments, says):
  places = {'run': tiny_runs.pretrained(), 'data': tiny_runs.shared() / 'data',
            'folder': tmp_path}
  result = tiny_runs.start('launch.page', *(each.format(**places) for each in arguments))
  assert result.returncode in (1, 2) and says in result.stderr
  assert result.stderr.strip().splitlines()[-1].startswith('error: ')
  assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_writable(tmp_path, monkeypatch):
  monkeypatch.setattr(os, 'access', lambda *_: False)  # the tests may run as root
  with pytest.raises(PermissionError, match='is not writable'):
    pages.check_place(tmp_path / 'x.html')


def test_classes_of_hard_tasks(tested):
  test, = sources.find([tested]).tests
  images = replay.load_images(test, str(tiny_runs.shared() / 'cache'))
  again = replay.replay(test, replay.load_run(test), images, range(10))
  drawn = hard_classes._drawn(test.settings['seed'], 10, 3, 3)
  np.testing.assert_array_equal(drawn, again.class_ids)
  # Three classes of three are in every task; so an own example.
  ids = np.array([[0, 1], [2, 1], [3, 2], [2, 0]])
  accuracies = np.array([0.9, 0.5, 0.1, 0.3])
  found = hard_classes.mean_by_class(ids, accuracies, 5)
  assert [(label, number) for label, number, *_ in found] == [(2, 3), (0, 2), (1, 2)]
  np.testing.assert_allclose([mean for _, _, mean, _ in found], [0.3, 0.6, 0.7])
  np.testing.assert_allclose(found[1][3], 1.96 * 0.3 / 2 ** 0.5)
