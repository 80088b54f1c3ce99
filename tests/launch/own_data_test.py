"""Commands on images of one's own: what is guessed, taken from the run before, named, refused."""
import json
import shutil

import numpy as np
import pytest

from launch import command, meta_test, meta_train, pretrain
from launch.flags import chosen_data, task
from tests import tiny_runs
from tests.data.images_on_disk import save

SPLIT = '--split=0.4,0.3,0.3'
FOLDER = {'dataset': 'folder', 'data_dir': '/photos', 'split': [0.4, 0.3, 0.3], 'split_seed': 0}
RUN = {'data': {**FOLDER, 'num_classes': {'train': 4}, 'image_shape': [16, 16, 3]}}
REQUIRED = {pretrain: ['--workdir=w'], meta_train: ['--workdir=w', '--pretrained=p'],
            meta_test: ['--checkpoint=c']}


def options(*flags, of=meta_train, run=None):
  return chosen_data.options(command.parse(of.COMMAND, [*REQUIRED[of], *flags]), run=run)


@pytest.mark.parametrize('of', REQUIRED)
def test_what_is_read_where_no_data_set_is_named(of):
  assert options(of=of) == {'dataset': 'glyphs'}
  assert options('--data_dir=/photos', of=of) == {'dataset': 'folder', 'data_dir': '/photos'}
  # The tables of published numbers, as they were typed before.
  assert options('--dataset=fc100', '--data_dir=/x', of=of) == {'dataset': 'fc100',
                                                                'data_dir': '/x'}
  assert options(SPLIT, '--split_seed=3', '--data_dir=/x', '--name=birds', of=of) == {
      'dataset': 'folder', 'data_dir': '/x', 'split': [0.4, 0.3, 0.3], 'split_seed': 3,
      'called': 'birds'}


def test_the_data_of_the_run_that_is_gone_on_from():
  assert options(run=RUN) == FOLDER
  assert options('--split=val', of=meta_test, run=RUN) == FOLDER
  assert options('--data_dir=/photos/../photos', run=RUN)['split'] == [0.4, 0.3, 0.3]
  assert options('--data_dir=/others', run=RUN) == {'dataset': 'folder', 'data_dir': '/others'}
  assert options('--dataset=glyphs', run=RUN) == {'dataset': 'glyphs'}
  fc100 = {'data': {'dataset': 'fc100', 'data_dir': '/x'}}
  assert options(run=fc100) == fc100['data']
  assert options(run={'dataset': 'imported'}) == {'dataset': 'glyphs'}
  assert options(SPLIT, run=RUN) == FOLDER
  assert options(SPLIT, run={'data': {**FOLDER, 'split_seed': 3}})['split_seed'] == 3


@pytest.mark.parametrize('flags', [['--split=0.5,0.25,0.25'], ['--split_seed=1'],
                                   ['--split_file=x.json'], [SPLIT, '--split_seed=1']])
@pytest.mark.parametrize('place', [[], ['--data_dir=/photos']])
def test_the_same_data_are_not_divided_in_another_way(flags, place):
  with pytest.raises(ValueError, match='expected classes divided as in the run .*--split=0.4'):
    options(*flags, *place, run=RUN)
  natural = {'data': {'dataset': 'folder', 'data_dir': '/photos'}}
  with pytest.raises(ValueError, match='gone on from, as the data say, got --split'):
    options(*flags, *place, run=natural)
  assert options(*flags, '--data_dir=/others', run=RUN)['data_dir'] == '/others'


def test_the_split_of_a_meta_test():
  def split(*flags):
    return task.tested_split(command.parse(meta_test.COMMAND, ['--checkpoint=c', *flags]))

  assert [split(), split('--split=val'), split('--split=0.6,0.2,0.2')] == ['test', 'val', 'test']
  with pytest.raises(ValueError, match="train, val, test, or fractions .*, got 'tset'"):
    split('--split=tset')


def draw(folder):
  """The classes of the tiny runs without their splits."""
  random = np.random.default_rng(2)
  for c in range(10):
    for i in range(8):
      save(folder / f'class{c}' / f'{i}.png', random.integers(0, 256, (16, 16, 3), np.uint8))
  return folder


def refused(*arguments, says):
  result = tiny_runs.start(*arguments, timeout=60)
  assert result.returncode in (1, 2) and len(result.stderr.splitlines()) == 1, result.stderr
  assert result.stderr.startswith('error: ')
  for text in says:
    assert text in result.stderr
  return result


@pytest.mark.parametrize(('flags', 'says'), [
    (['--dataset=glyphs', '--data_dir=DATA'],
     ['--data_dir does not go with --dataset=glyphs', 'drawn', '--dataset=folder']),
    (['--data_dir=DATA'], ['found 10 classes, but no splits', '--split=0.6,0.2,0.2',
                           '--split_file']),
    (['--data_dir=DATA', '--split=0.9,0.05,0.05'],
     ['got train 9, val 1, test 0 of 10 classes']),
    (['--data_dir=DATA', '--split=0.6,0.2,0.1'], ['sum to 1', "'0.6,0.2,0.1'"]),
    (['--dataset=csv:DATA/none.csv'], ['none.csv: cannot be read as CSV']),
    (['--dataset=hf:DATA'], ['expected Parquet files', 'found none']),
    (['--dataset=tfds:toy', '--data_dir=DATA'], ['tfds:toy: not prepared in', 'prepare it once']),
    (['--dataset=csv'], ["unknown data set 'csv'", 'csv:FILE', 'hf:PATH', 'tfds:NAME']),
    (['--dataset=fc100', '--name=mine'], ['--name: fc100 has its name']),
])
def test_refused_in_one_line(tmp_path, flags, says):
  folder = draw(tmp_path / 'photos')
  before = tiny_runs.contents(tmp_path)
  refused('launch.pretrain', f'--workdir={tmp_path / "run"}', f'--cache_dir={tmp_path / "cache"}',
          *(flag.replace('DATA', str(folder)) for flag in flags), says=says)
  assert {path: content for path, content in tiny_runs.contents(tmp_path).items()
          if not path.startswith('cache')} == before
  assert not (tmp_path / 'run').exists()


def test_a_folder_without_splits_through_all_phases(tmp_path):
  folder = draw(tmp_path / 'photos')
  (folder / 'class0' / 'notes.txt').write_text('no image')
  cache = f'--cache_dir={tmp_path / "cache"}'
  tiny = [flag for flag in tiny_runs.data_flags() if flag.startswith('--test_inner')]
  pre, mtl = tmp_path / 'pre', tmp_path / 'mtl'

  def run(name, *flags):
    result = tiny_runs.start(f'launch.{name}', cache, *tiny, *tiny_runs.FLAGS[name], *flags)
    assert result.returncode == 0, result.stderr
    return result

  said = run('pretrain', f'--data_dir={folder}', SPLIT, '--image_size=16', '--way=3',
             f'--workdir={pre}')
  assert 'left out: 1 .txt' in said.stderr.splitlines()
  assert 'on photos: 3-way' in said.stdout
  run('meta_train', f'--pretrained={pre}', '--way=3', f'--workdir={mtl}')
  run('meta_test', f'--checkpoint={mtl}')
  shutil.copytree(folder, tmp_path / 'others')
  run('meta_test', f'--checkpoint={mtl}', f'--data_dir={tmp_path / "others"}', SPLIT)
  ending = '_test_3way_1shot_inductive_10tasks_query4_test_inner_steps5'
  assert sorted(path.name for path in (mtl / 'meta_test').iterdir()) == [
      f'others{ending}', f'photos{ending}']
  for place in (pre, mtl, mtl / 'meta_test' / f'photos{ending}'):
    for file in ('settings.json', 'results.json'):
      content = json.loads((place / file).read_text())
      assert content['dataset'] == 'photos'
      assert content['data'] == {
          'dataset': 'folder', 'data_dir': str(folder), 'split': [0.4, 0.3, 0.3], 'split_seed': 0,
          'num_classes': {'train': 4, 'val': 3, 'test': 3}, 'image_shape': [16, 16, 3]}
  # The same images at another place: the finished run is known by them, and its name is its own.
  moved = shutil.move(folder, tmp_path / 'moved' / 'photos')
  said = run('pretrain', f'--data_dir={moved}', SPLIT, '--image_size=16', '--way=3',
             f'--workdir={pre}')
  assert 'is finished: nothing to do' in said.stderr


def test_images_of_another_folder_of_the_same_name_are_told_apart(tmp_path):
  runs = tmp_path / 'run'
  shutil.copytree(tiny_runs.pretrained(), runs)
  other = tiny_runs.draw_images(tmp_path / 'data', seed=5)
  flags = [f'--checkpoint={runs}', f'--workdir={tmp_path / "tested"}']
  result = tiny_runs.launch('meta_test', *flags)
  assert result.returncode == 0, result.stderr
  result = tiny_runs.launch('meta_test', *flags, data_dir=other)
  assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
  for text in (f'data.data_dir: "{tiny_runs.shared() / "data"}" there, "{other}" here', 'images: ',
               'choose another --workdir'):
    assert text in result.stderr
