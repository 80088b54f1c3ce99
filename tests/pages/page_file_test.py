"""The page that commands end with: where it lies, what is in it, and that it ends no command."""
from tests import tiny_runs
from tests.pages.parsing import count, parsed


def test_a_test_ends_with_a_page_of_what_is_cheap(tested):
  content = (tested / 'page.html').read_text()
  found = parsed(tested / 'page.html')
  ids = {attrs['id'] for tag, attrs in found.tags if tag == 'section'}
  assert ids == {'curves', 'results', 'tasks', 'classes', 'failures', 'scale-shift', 'settings'}
  assert count(found, 'img') == 0 and 'mtl page shows them' in content
  assert {'test0', 'test1', 'test2'} <= set(found.text)
  # Given again, the command has nothing to do, and leaves the page as it is.
  before = tiny_runs.contents(tested)
  again = tiny_runs.finished('meta_test', f'--checkpoint={tiny_runs.meta_trained()}')
  assert again.stdout.splitlines()[-1] == f'page: {tested / "page.html"}'
  assert tiny_runs.contents(tested) == before


def test_more_of_a_page_or_none(tmp_path):
  flags = [f'--checkpoint={tiny_runs.pretrained()}', f'--workdir={tmp_path / "test"}']
  assert 'page: ' not in tiny_runs.finished('meta_test', *flags, '--nopage').stdout
  assert not (tmp_path / 'test' / 'page.html').exists()
  result = tiny_runs.finished('meta_test', *flags, f'--page={tmp_path / "b.html"}')
  assert 'results, tasks, classes, episodes, hardest' in result.stdout
  assert count(parsed(tmp_path / 'b.html'), 'img') > 0
  assert not (tmp_path / 'test' / 'page.html').exists()
  tiny_runs.finished('meta_test', *flags)
  tiny_runs.finished('meta_test', *flags, '--page=full')  # in place of the other
  assert (tmp_path / 'test' / 'page.html').read_bytes() == (tmp_path / 'b.html').read_bytes()


def test_a_page_that_nobody_asked_for_ends_no_command(tmp_path):
  flags = [f'--checkpoint={tiny_runs.pretrained()}', f'--workdir={tmp_path / "test"}']
  tiny_runs.finished('meta_test', *flags, '--nopage')
  (tmp_path / 'test' / 'page.html').mkdir()
  result = tiny_runs.finished('meta_test', *flags)
  assert 'no page was written: ' in result.stderr and 'is a folder' in result.stderr
  assert tiny_runs.launch('meta_test', *flags, '--page=full').returncode == 1


def test_a_classifier_has_a_page_beside_it(tmp_path):
  photos = str(tiny_runs.shared() / 'data' / 'test')
  adapt = ('launch.adapt', str(tiny_runs.pretrained()), photos)
  result = tiny_runs.start(*adapt, f'--save={tmp_path / "x.mtl"}')
  assert result.returncode == 0, result.stderr
  assert result.stdout.splitlines()[-1] == f'page: {tmp_path / "x.html"}'
  assert count(parsed(tmp_path / 'x.html'), 'img') == 0
  # One that is there and not ours to replace stays; the classifier is written all the same.
  (tmp_path / 'y.html').write_text('mine')
  result = tiny_runs.start(*adapt, f'--save={tmp_path / "y.mtl"}')
  assert result.returncode == 0 and 'no page was written: ' in result.stderr
  assert (tmp_path / 'y.html').read_text() == 'mine' and (tmp_path / 'y.mtl').exists()
  result = tiny_runs.start(*adapt, f'--save={tmp_path / "x.mtl"}', '--overwrite', '--page=full')
  assert 'page written to' in result.stdout and count(parsed(tmp_path / 'x.html'), 'img') > 0
  # Nothing is saved, so nothing is written that was not asked for.
  assert 'page: ' not in tiny_runs.start(*adapt).stdout
  assert tiny_runs.start(*adapt, f'--page={tmp_path / "a.html"}').returncode == 0
  assert count(parsed(tmp_path / 'a.html'), 'img') > 0
  result = tiny_runs.start(*adapt, '--page=full')
  assert result.returncode == 1 and '--page goes with --save' in result.stderr
