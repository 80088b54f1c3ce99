"""`mtl adapt` and `mtl predict`: from photos to a table of answers; refusals in one line."""
import csv
import json
import os
import struct
import subprocess

import numpy as np
import pytest
from PIL import Image

from tests import forked, tiny_runs

NUMBER = tiny_runs.IMAGES_PER_CLASS
DATA = tiny_runs.shared() / 'data'


def adapt(*arguments):
  return tiny_runs.start('launch.adapt', *map(str, arguments))


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """(what was printed, the file of a classifier, the file of its predictions)."""
  folder = tmp_path_factory.mktemp('adapt')
  result = adapt(tiny_runs.pretrained(), DATA / 'test', f'--save={folder / "x.mtl"}',
                 f'--predict={DATA / "test"}', f'--out={folder / "x.csv"}')
  assert result.returncode == 0, result.stderr
  return result.stdout, folder / 'x.mtl', folder / 'x.csv'


def rows_of(path):
  with open(path, encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file))


def test_it_says_how_good_it_is_and_writes_a_row_for_each_photo(saved):
  stdout, classifier, predictions = saved
  for part in (f'3 classes, {3 * NUMBER} photos', f'{3 * NUMBER} photos, recognised when left out',
               'test2', 'all',
               'expected calibration error', f'saved to {classifier}',
               f'{3 * NUMBER} photos classified; written to {predictions}',
               f'of {3 * NUMBER} photos in folders named after classes'):
    assert part in stdout
  rows = rows_of(predictions)
  assert len(rows) == 3 * NUMBER
  right = np.mean([row['label'] == os.path.basename(os.path.dirname(row['file'])) for row in rows])
  assert right > 0.8
  for row in rows:
    assert row['label'] == row['most_probable'] != row['runner_up'] and row['rejected'] == 'False'
    assert 1 >= float(row['probability']) >= float(row['runner_up_probability']) >= 0


def test_a_saved_classifier_says_the_same(saved, tmp_path):
  _, classifier, predictions = saved
  out = tmp_path / 'again.jsonl'
  result = tiny_runs.start('launch.predict', str(classifier), str(DATA / 'test'), f'--out={out}')
  assert result.returncode == 0, result.stderr
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  for line, row in zip(lines, rows_of(predictions), strict=True):
    assert (line['file'], line['label']) == (row['file'], row['label'])
    assert line['probability'] == pytest.approx(float(row['probability']), abs=1e-4)


def test_names_on_standard_input_and_a_table_on_standard_output(saved):
  paths = sorted((DATA / 'test' / 'test0').iterdir())[:2]
  process = subprocess.run(
      [*tiny_runs.command('meta_test')[:2], 'launch.predict', str(saved[1]), '-', '--reject=0.5'],
      input=''.join(f'{path}\n' for path in paths), capture_output=True, text=True,
      cwd=forked.ROOT, env=tiny_runs.environment(), timeout=300)
  assert process.returncode == 0, process.stderr
  rows = list(csv.DictReader(process.stdout.splitlines()))
  assert [row['file'] for row in rows] == list(map(str, paths))
  for row in rows:
    assert row['label'] == ('none of these' if row['rejected'] == 'True' else row['most_probable'])


def test_one_more_class(saved, tmp_path):
  more = tmp_path / 'more.mtl'
  result = adapt(saved[1], f'--add=another={DATA / "val" / "val0"}', f'--save={more}',
                 f'--predict={DATA / "val" / "val0"}')
  assert result.returncode == 0, result.stderr
  assert f'4 classes, {4 * NUMBER} photos' in result.stderr and str(more) in result.stderr
  rows = list(csv.DictReader(result.stdout.splitlines()))
  assert np.mean([row['label'] == 'another' for row in rows]) > 0.7


def test_a_broken_photo_other_files_and_a_class_of_one(tmp_path):
  for name, number in (('one', 1), ('two', 3)):
    (tmp_path / 'photos' / name).mkdir(parents=True)
    for i in range(number):
      Image.new('RGB', (20, 30), (90 * i, 40, 80)).save(tmp_path / 'photos' / name / f'{i}.tiff')
  (tmp_path / 'photos' / 'two' / 'broken.jpg').write_bytes(b'\xff\xd8 no photo')
  tiff = (tmp_path / 'photos' / 'two' / '0.tiff').read_bytes()  # of which Pillow logs something
  samples = tiff.replace(struct.pack('<HHIH', 277, 3, 1, 3), struct.pack('<HHIH', 277, 3, 1, 2048))
  (tmp_path / 'photos' / 'two' / 'samples.tiff').write_bytes(samples)
  (tmp_path / 'photos' / 'two' / 'notes.txt').write_text('x')
  result = adapt(tiny_runs.pretrained(), tmp_path / 'photos')
  assert result.returncode == 0, result.stderr
  assert 'one: one photo, which cannot be left out' in result.stdout
  assert '2 classes, 4 photos' in result.stdout
  assert 'broken.jpg' in result.stderr and '.txt' in result.stderr
  assert [line for line in result.stderr.splitlines() if 'samples' in line.lower()] == [
      f'left out: {tmp_path}/photos/two/samples.tiff: broken image (cannot identify image file '
      f"'{tmp_path}/photos/two/samples.tiff')"]


@pytest.mark.parametrize('arguments, says', [
    (['imagenet'], 'expected PHOTOS, a folder with a folder of photos'),
    (['no/run', '{test}'], 'no/run'),
    (['{run}', '{test0}'], 'expected a folder of photos for each class, found no folders'),
    (['{run}', 'no/photos'], 'no/photos does not exist'),
    (['{run}', '{test}', '--out=x.csv'], '--out goes with --predict'),
    (['{run}', '{test}', '--predict={test}', '--out=x.txt'], 'end in .csv or .jsonl'),
    (['{run}', '{test}', '--predict={test}', '--out={csv}'], 'that does not exist yet'),
    (['{run}', '{test}', '--save={mtl}'], 'expected a file that does not exist yet'),
    (['{run}', '{test}', '--save=x.bin'], 'to end in .mtl'),
    (['{run}', '{test}', '--add=a=b'], '--add goes with a saved classifier'),
    (['{mtl}', '--add=a'], "expected --add=CLASS=FOLDER, got 'a'"),
    (['{mtl}', '--add=test1={test0}'], 'class test1 is there already'),
    (['{mtl}', '{test}'], 'is fitted already'),
    (['{run}', '{test}', '--predict={test}', '--reject=2'],
     'expected --reject to be a number from 0.0 to 1.0'),
    (['{run}', '{test}', '--image_size=20'], 'image_size')])
def test_refused_in_one_line(saved, arguments, says):
  _, mtl, predictions = saved
  before = predictions.read_bytes(), mtl.read_bytes()
  places = {'run': tiny_runs.pretrained(), 'test': DATA / 'test', 'mtl': mtl, 'csv': predictions,
            'test0': DATA / 'test' / 'test0'}
  result = adapt(*(argument.format(**places) for argument in arguments))
  assert result.returncode != 0 and says in result.stderr
  assert result.stderr.strip().splitlines()[-1].startswith('error: ')
  assert (predictions.read_bytes(), mtl.read_bytes()) == before
