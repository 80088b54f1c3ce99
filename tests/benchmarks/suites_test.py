"""Every suite in smoke size with this library alone, in this process: figures, files, and words."""
import collections
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks import plan, results, suite_runs, workers
from benchmarks.suites import scaling
from tests.benchmarks.in_process import BenchInProcess, InProcess

REQUEST = plan.Request(size='smoke', pairs=2)
CALL = 'python -m launch.benchmark --suite=all --out=DIR'


@pytest.fixture(scope='module')
def measured():
  """Returns suite -> (results, bench); each is measured when a test first asks for it."""
  kept = {}

  def measure(name):
    if name not in kept:
      suite = suite_runs.SUITES[name]
      settings = suite.settings(REQUEST)
      bench = BenchInProcess(plan.effort(settings))
      kept[name] = suite_runs.measure(suite, settings, bench, CALL), bench
    return kept[name]

  return measure


@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.slow if name in ('scaling', 'inner_loop') else ())
    for name in suite_runs.SUITES if name != 'compile'])
def test_a_suite_writes_its_files(measured, name, tmp_path):
  found, _ = measured(name)
  suite = suite_runs.SUITES[name]
  results.write(str(tmp_path), name, suite, found)
  written = json.loads((tmp_path / f'{name}.json').read_text())
  assert written == json.loads(json.dumps(found))
  assert found['rows']
  assert all('skip' not in record for row in found['rows'] for record in row['sides'].values())
  text = (tmp_path / f'{name}.md').read_text()
  for part in (CALL, found['machine'], found['date'], found['workers']['jax']['versions']['jax'],
               f'{name}.png', *(table.title for table in suite.tables(found))):
    assert part in text
  assert ('PyTorch is not installed' in text) == (name != 'scaling')
  pixels = np.asarray(Image.open(tmp_path / f'{name}.png').convert('L'))
  assert pixels.std() > 10 and (tmp_path / f'{name}.svg').read_text().startswith('<?xml')
  for table in suite.tables(found):
    assert table.rows and all(len(row) == len(table.header) for row in table.rows)
  joined = results.join(str(tmp_path), list(suite_runs.SUITES))
  assert text in (tmp_path / results.JOINED).read_text() and joined.endswith(results.JOINED)


@pytest.mark.slow
def test_batchings_beside_the_chosen_one(measured):
  [row] = measured('inner_loop')[0]['batching']
  sides = row['sides']
  assert list(sides) == ['jax loop', 'jax vmap', 'jax patches', 'jax chosen']
  assert all(len(side['turns']) == 2 and side['median'] > 0 for side in sides.values())
  np.testing.assert_allclose([side['value'] for side in sides.values()],
                             sides['jax loop']['value'], rtol=1e-5)
  best = min(('jax loop', 'jax vmap', 'jax patches'), key=lambda name: sides[name]['median'])
  quotients = [a / b for a, b in
               zip(sides['jax chosen']['turns'], sides[best]['turns'], strict=True)]
  assert row['over_best']['median'] == pytest.approx(np.median(quotients))
  assert sides['jax chosen']['batching'] in ('loop', 'vmap', 'patches')


def test_meta_step_has_memory_and_a_share_of_the_peak(measured):
  found, _ = measured('meta_step')
  row = found['rows'][0]
  record = row['sides']['jax float32']
  assert len(record['turns']) == 2 and record['min'] <= record['median'] <= record['max']
  assert record['tasks_per_second'] == pytest.approx(2 / record['median'])
  assert record['peak_bytes'] > 1e6 and record['first'] > record['median']
  at_once = row['sides']['jax all_tasks']
  assert at_once['first_value'] == pytest.approx(record['first_value'], rel=1e-5)
  assert 'Losses of the first step differ between sides by at most' in found['notes'][-1]
  peak = found['peaks']['float32']['jax']
  assert record['share_of_peak'] == pytest.approx(row['flops'] / record['median'] / peak)


@pytest.mark.slow
def test_scaling_gives_equal_parameters_by_one_all_reduce(measured):
  found, bench = measured('scaling')
  rows = found['rows']
  assert [row['devices'] for row in rows] == [1, 2]
  one, two = (row['sides'] for row in rows)
  assert list(one) == list(two) == [f'jax {kind}' for kind in scaling._kinds()]
  for kind, bound in (('float64', 1e-13), *((kind, 1e-3) for kind in scaling._kinds()[1:])):
    alone, together = one[f'jax {kind}'], two[f'jax {kind}']
    assert (alone['largest_difference'], alone['all_reduces'], alone['other_collectives']) == (
        0, 0, 0)
    assert 0 <= together['median_difference'] <= together['largest_difference'] < bound
    assert (together['all_reduces'], together['other_collectives']) == (1, 0)
  assert two['jax float64']['reduced_bytes'] > two['jax float32']['reduced_bytes'] > 100
  assert {'JAX_NUM_CPU_DEVICES': '2'} in bench.environments
  without_fma = any('--xla_cpu_max_isa=AVX' in (variables or {}).get('XLA_FLAGS', '')
                    for variables in bench.environments)
  assert ('unfused' in scaling._kinds()) == without_fma


@pytest.mark.slow
def test_without_fused_multiply_adds_parameters_are_equal_bit_for_bit(tmp_path, monkeypatch):
  """In processes of their own, each of two devices with one task, as optimised as any."""
  monkeypatch.delenv('XLA_FLAGS')
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  settings = suite_runs.SUITES['scaling'].settings(REQUEST) | {'steps': 6}
  bench = workers.Bench(workers.commands(None), plan.effort(settings))
  # Only x86 can go without them.
  kind, bound = ('unfused', 0) if 'unfused' in scaling._kinds() else ('float32', 1e-3)
  _, two = (scaling._record(settings, bench, str(tmp_path), number, kind, True)
            for number in (1, 2))
  assert two['largest_difference'] <= bound and two['all_reduces'] == 1


def test_compile_has_fresh_workers_and_stops_where_it_takes_too_long(monkeypatch, tmp_path):
  def ask(self, request, limit=None):
    if request['do'] == 'setup':
      self.runs = 0
      self.slow = request['measure'] == 'meta_step' and request['inner_steps'] > 2
    if self.slow:
      raise workers.WorkerError(f'> {limit} s')
    self.runs += request['do'] == 'run'
    return {'seconds': 4.0 if self.runs == 1 else 1.0, 'value': 1.0}

  monkeypatch.setattr(InProcess, 'ask', ask)
  suite = suite_runs.SUITES['compile']
  settings = suite.settings(REQUEST)
  bench = BenchInProcess(plan.effort(settings))
  found = suite_runs.measure(suite, settings, bench, CALL)
  results.write(str(tmp_path), 'compile', suite, found)
  rows = {(row['name'], row['steps']): row['sides'] for row in found['rows']}
  assert {name for name, _ in rows} == {'jax dual', 'jax scan', 'jax unrolled', 'jax float32'}
  dual, slow = rows['jax dual', 2], rows['jax float32', 3]
  assert dual['cold']['turns'] == dual['warm']['turns'] == [3.0, 3.0]
  assert slow['cold'] == slow['warm'] == {'skip': '> 300 s'}
  text = (tmp_path / 'compile.md').read_text()
  assert '| 3 | > 300 s | > 300 s |' in text and 'jax dual: cold, 3 steps over 2: 1.00' in text
  assert {f'compile.{ending}' for ending in ('json', 'md', 'png', 'svg')} == {
      path.name for path in tmp_path.iterdir()}
  folders = [environment['JAX_COMPILATION_CACHE_DIR'] for environment in bench.environments]
  # Cold and warm share a folder. In each round: three inner loops at two numbers of steps, and the
  # short meta-step; the long one is asked for once in all, cold.
  counts = collections.Counter(folders)
  assert sorted(counts.values()) == [1] + [2] * (2 * (3 * 2 + 1))


def test_pytorch_beside_the_library(monkeypatch, tmp_path):
  """Tables and plots with both sides; here both are the same scripted figures."""
  seconds = {'dual': 1.0, 'scan': 2.0, 'unrolled': 8.0, 'func': 4.0, 'compile': None,
             'float32': 1.0, 'published': 6.0, 'batched': 3.0, 'product': 1.0, 'loader': 3.0,
             'device': 1.0, 'encode': 1.0, 'tasks': 2.0, 'per_task': 5.0, 'encoded': 2.0}

  def ask(self, request, limit=None):
    if request['do'] == 'setup':
      self.mode = request['mode']
      if seconds.get(self.mode) is None:
        raise workers.WorkerError('needs a compiler')
    return {'seconds': seconds[self.mode], 'value': 1.5, 'peak_bytes': 10**9}

  monkeypatch.setattr(InProcess, 'ask', ask)
  texts = {}
  for name in ('inner_loop', 'meta_step', 'meta_test', 'input'):
    suite = suite_runs.SUITES[name]
    settings = suite.settings(REQUEST._replace(pytorch=True))
    bench = BenchInProcess(plan.effort(settings))
    bench.commands['pytorch'] = []
    found = suite_runs.measure(suite, settings, bench, CALL)
    results.write(str(tmp_path), name, suite, found)
    texts[name] = (tmp_path / f'{name}.md').read_text()
  assert ('| 1 | 5 | 2 | 1,000 (1,000-1,000) | 2,000 (2,000-2,000) | 8,000 (8,000-8,000) | '
          '3,000 (3,000-3,000) | 4,000 (4,000-4,000) | – | 8.00 (8.00-8.00) | '
          '3.00 (3.00-3.00) batched |') in texts['inner_loop']
  assert 'pytorch compile: needs a compiler (2 times)' in texts['inner_loop']
  assert '| pytorch batched (strongest) | 3.00 (3.00-3.00) |' in texts['meta_step']
  assert '| 1.00 | 6.00 (6.00-6.00) |' in texts['meta_step']
  assert 'differ between sides by at most 0.0e+00' in texts['meta_step']
  # 18 images are 1.5 times the sample, and 2 s for tasks; 4 tasks of 2 that take 5 s.
  assert '| 4 | 3.50 (3.50-3.50) | 10.0 (10.0-10.0) |' in texts['meta_test']
  assert 'Scaled: PyTorch' in texts['meta_test']
  assert '| pytorch loader png | 1.33 | 12.0 | 1,500 | 150% | 3.00 (3.00-3.00) |' in texts['input']
