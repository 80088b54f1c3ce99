"""Every suite in smoke size with this library alone, in this process: figures, files, and what they say."""
import collections
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from benchmarks import inputs, plan, report, rounds, workers
from benchmarks.ours import worker
from benchmarks.suites import scaling
from launch import benchmark
from tests.benchmarks.in_process import BenchInProcess, InProcess

REQUEST = plan.Request(size='smoke', pairs=2)
CALL = 'python -m launch.benchmark --suite=all --out=DIR'


@pytest.fixture(scope='module')
def compiled_once(tmp_path_factory):
  """Suites that compile the same program share it."""
  jax.config.update('jax_compilation_cache_dir', str(tmp_path_factory.mktemp('xla')))
  compilation_cache.reset_cache()
  yield
  jax.config.update('jax_compilation_cache_dir', None)
  compilation_cache.reset_cache()


@pytest.fixture(scope='module')
def measured(compiled_once):
  """Suite -> results; each is measured when a test first asks for it."""
  found = {}

  def measure(name):
    if name not in found:
      suite = benchmark.SUITES[name]
      settings = suite.settings(REQUEST)
      bench = BenchInProcess(plan.effort(settings))
      found[name] = benchmark.measure(suite, settings, bench, CALL), bench
    return found[name]

  return measure


@pytest.mark.parametrize('name', [name for name in benchmark.SUITES if name != 'compile'])
def test_a_suite_writes_its_files(measured, name, tmp_path):
  results, _ = measured(name)
  suite = benchmark.SUITES[name]
  report.write(str(tmp_path), name, suite, results)
  assert json.loads((tmp_path / f'{name}.json').read_text()) == json.loads(json.dumps(results))
  assert results['rows'] and all('skip' not in record for row in results['rows'] for record in row['sides'].values())
  text = (tmp_path / f'{name}.md').read_text()
  for part in (CALL, results['machine'], results['date'], results['workers']['jax']['versions']['jax'], f'{name}.png',
               *(table.title for table in suite.tables(results))):
    assert part in text
  assert ('PyTorch is not installed' in text) == (name != 'scaling')
  pixels = np.asarray(Image.open(tmp_path / f'{name}.png').convert('L'))
  assert pixels.std() > 10 and (tmp_path / f'{name}.svg').read_text().startswith('<?xml')
  for table in suite.tables(results):
    assert table.rows and all(len(row) == len(table.header) for row in table.rows)
  joined = report.join(str(tmp_path), list(benchmark.SUITES))
  assert text in (tmp_path / report.JOINED).read_text() and joined.endswith(report.JOINED)


def test_ways_over_tasks_beside_the_chosen_one(measured):
  [row] = measured('inner_loop')[0]['over_tasks']
  sides = row['sides']
  assert list(sides) == ['jax loop', 'jax vmap', 'jax patches', 'jax chosen']
  assert all(len(side['turns']) == 2 and side['median'] > 0 for side in sides.values())
  np.testing.assert_allclose([side['value'] for side in sides.values()], sides['jax loop']['value'], rtol=1e-5)
  best = min(('jax loop', 'jax vmap', 'jax patches'), key=lambda name: sides[name]['median'])
  quotients = [a / b for a, b in zip(sides['jax chosen']['turns'], sides[best]['turns'], strict=True)]
  assert row['over_best']['median'] == pytest.approx(np.median(quotients))
  assert sides['jax chosen']['way'] in ('loop', 'vmap', 'patches')


def test_meta_step_has_memory_and_a_share_of_the_peak(measured):
  results, _ = measured('meta_step')
  row = results['rows'][0]
  record = row['sides']['jax float32']
  assert len(record['turns']) == 2 and record['min'] <= record['median'] <= record['max']
  assert record['tasks_per_second'] == pytest.approx(2 / record['median'])
  assert record['peak_bytes'] > 1e6 and record['first'] > record['median']
  assert row['sides']['jax all_tasks']['first_value'] == pytest.approx(record['first_value'], rel=1e-5)
  assert 'Losses of the first step differ between sides by at most' in results['notes'][-1]
  peak = results['peaks']['float32']['jax']
  assert record['share_of_peak'] == pytest.approx(row['flops'] / record['median'] / peak)


def test_scaling_gives_equal_parameters_by_one_all_reduce(measured):
  rows = measured('scaling')[0]['rows']
  assert [row['devices'] for row in rows] == [1, 2]
  one, two = (row['sides'] for row in rows)
  assert list(one) == list(two) == [f'jax {kind}' for kind in scaling._kinds()]
  for kind, bound in (('float64', 1e-13), *((kind, 1e-3) for kind in scaling._kinds()[1:])):
    alone, together = one[f'jax {kind}'], two[f'jax {kind}']
    assert (alone['largest_difference'], alone['all_reduces'], alone['other_collectives']) == (0, 0, 0)
    assert 0 <= together['median_difference'] <= together['largest_difference'] < bound
    assert (together['all_reduces'], together['other_collectives']) == (1, 0)
  assert two['jax float64']['reduced_bytes'] > two['jax float32']['reduced_bytes'] > 100
  environments = measured('scaling')[1].environments
  assert {'JAX_NUM_CPU_DEVICES': '2'} in environments
  assert ('unfused' in scaling._kinds()) == any(
      '--xla_cpu_max_isa=AVX' in (found or {}).get('XLA_FLAGS', '') for found in environments)


def test_without_fused_multiply_adds_parameters_are_equal_bit_for_bit(tmp_path, monkeypatch):
  """In processes of their own, each of two devices with one task, as optimised as any."""
  monkeypatch.delenv('XLA_FLAGS')
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  settings = benchmark.SUITES['scaling'].settings(REQUEST) | {'steps': 6}
  bench = workers.Bench(workers.commands(None), plan.effort(settings))
  kind, bound = ('unfused', 0) if 'unfused' in scaling._kinds() else ('float32', 1e-3)  # only x86 goes without them
  _, two = (scaling._record(settings, bench, str(tmp_path), number, kind, True) for number in (1, 2))
  assert two['largest_difference'] <= bound and two['all_reduces'] == 1


def test_compile_has_fresh_workers_and_stops_where_it_takes_too_long(monkeypatch, tmp_path):
  def ask(self, request, limit=None):
    if request['do'] == 'setup':
      self.runs, self.slow = 0, request['measure'] == 'meta_step' and request['inner_steps'] > 2
    if self.slow:
      raise workers.WorkerError(f'> {limit} s')
    self.runs += request['do'] == 'run'
    return {'seconds': 4.0 if self.runs == 1 else 1.0, 'value': 1.0}

  monkeypatch.setattr(InProcess, 'ask', ask)
  suite = benchmark.SUITES['compile']
  settings = suite.settings(REQUEST)
  bench = BenchInProcess(plan.effort(settings))
  results = benchmark.measure(suite, settings, bench, CALL)
  report.write(str(tmp_path), 'compile', suite, results)
  rows = {(row['name'], row['steps']): row['sides'] for row in results['rows']}
  assert {name for name, _ in rows} == {'jax dual', 'jax scan', 'jax unrolled', 'jax float32'}
  assert rows['jax dual', 2]['cold']['turns'] == rows['jax dual', 2]['warm']['turns'] == [3.0, 3.0]
  assert rows['jax float32', 3]['cold'] == rows['jax float32', 3]['warm'] == {'skip': '> 300 s'}
  text = (tmp_path / 'compile.md').read_text()
  assert '| 3 | > 300 s | > 300 s |' in text and 'jax dual: cold, 3 steps over 2: 1.00' in text
  assert {f'compile.{ending}' for ending in ('json', 'md', 'png', 'svg')} == {path.name for path in tmp_path.iterdir()}
  folders = [environment['JAX_COMPILATION_CACHE_DIR'] for environment in bench.environments]
  # Cold and warm share a folder. In each round: three inner loops at two numbers of steps, and the short meta-step; the
  # long one is asked for once in all, cold.
  counts = collections.Counter(folders)
  assert sorted(counts.values()) == [1] + [2] * (2 * (3 * 2 + 1))


def test_a_run_is_timed_until_its_result_is_there(monkeypatch):
  slow = jax.jit(lambda x: jax.pure_callback(lambda y: (time.sleep(0.3), y)[1], x, x))
  monkeypatch.setattr(worker.measures, 'prepare',
                      lambda *_: worker.measures.Measure(lambda: np.mean(slow(jnp.ones(3)))))
  server = worker.Server()
  server.answer({'do': 'setup', 'measure': 'any', 'mode': 'any'})
  answer = server.answer({'do': 'run'})
  assert answer['value'] == 1 and answer['seconds'] >= 0.3


def test_pytorch_beside_the_library(monkeypatch, tmp_path):
  """Tables and plots with both sides; here both are the same scripted figures."""
  seconds = {'dual': 1.0, 'scan': 2.0, 'unrolled': 8.0, 'func': 4.0, 'compile': None,
             'float32': 1.0, 'published': 6.0, 'batched': 3.0, 'product': 1.0, 'loader': 3.0, 'device': 1.0,
             'encode': 1.0, 'tasks': 2.0, 'per_task': 5.0, 'encoded': 2.0}

  def ask(self, request, limit=None):
    if request['do'] == 'setup':
      self.mode = request['mode']
      if seconds.get(self.mode) is None:
        raise workers.WorkerError('needs a compiler')
    return {'seconds': seconds[self.mode], 'value': 1.5, 'peak_bytes': 10**9}

  monkeypatch.setattr(InProcess, 'ask', ask)
  texts = {}
  for name in ('inner_loop', 'meta_step', 'meta_test', 'input'):
    suite = benchmark.SUITES[name]
    settings = suite.settings(REQUEST._replace(pytorch=True))
    bench = BenchInProcess(plan.effort(settings))
    bench.commands['pytorch'] = []
    results = benchmark.measure(suite, settings, bench, CALL)
    report.write(str(tmp_path), name, suite, results)
    texts[name] = (tmp_path / f'{name}.md').read_text()
  assert '| 1 | 5 | 2 | 1,000 (1,000-1,000) | 2,000 (2,000-2,000) | 8,000 (8,000-8,000) | 3,000 (3,000-3,000) | ' \
         '4,000 (4,000-4,000) | – | 8.00 (8.00-8.00) | 3.00 (3.00-3.00) batched |' in texts['inner_loop']
  assert 'pytorch compile: needs a compiler (2 times)' in texts['inner_loop']
  assert '| pytorch batched (strongest) | 3.00 (3.00-3.00) |' in texts['meta_step']
  assert '| 1.00 | 6.00 (6.00-6.00) |' in texts['meta_step'] and 'differ between sides by at most 0.0e+00' in texts[
      'meta_step']
  # 18 images are 1.5 times the sample, and 2 s for tasks; 4 tasks of 2 that take 5 s.
  assert '| 4 | 3.50 (3.50-3.50) | 10.0 (10.0-10.0) |' in texts['meta_test'] and 'Scaled: PyTorch' in texts['meta_test']
  assert '| pytorch loader png | 1.33 | 12.0 | 1,500 | 150% | 3.00 (3.00-3.00) |' in texts['input']


def test_both_sides_of_the_inner_loop_give_the_same_gradients(tmp_path):
  """The library's three forms, by what the worker writes."""
  path = inputs.write(str(tmp_path / 'in.npz'), inputs.features(tasks=2, way=3, support=6, query=9, dim=4))
  process, saved = InProcess(), {}
  for order, modes in (('second', ('dual', 'scan', 'unrolled')), ('first', ('dual', 'unrolled'))):
    for mode in modes:
      process.ask({'do': 'setup', 'measure': 'inner_loop', 'mode': mode, 'inputs': path, 'inner_steps': 3,
                  'inner_lr': 0.1, 'order': order})
      process.ask({'do': 'save', 'path': str(tmp_path / 'out.npz')})
      saved[order, mode] = dict(np.load(tmp_path / 'out.npz'))
    for mode in modes[1:]:
      for name in ('loss', 'support', 'query', 'kernel', 'bias'):
        np.testing.assert_allclose(saved[order, mode][name], saved[order, 'dual'][name], atol=1e-6)
  assert np.abs(saved['second', 'dual']['support'] - saved['first', 'dual']['support']).max() > 1e-4


@pytest.mark.parametrize(('request_', 'says'), [
    ({'do': 'run'}, 'expected a setup before run'), ({'do': 'fly'}, "setup, run or save, got 'fly'"),
    ({'do': 'setup', 'measure': 'speed', 'mode': 'x'}, "expected measure to be one of .* got 'speed'"),
    ({'do': 'setup', 'measure': 'peak', 'mode': 'x', 'size': 4}, 'KeyError.*dtype'),
    ({'do': 'setup', 'measure': 'inner_loop', 'mode': 'func'}, "dual, scan, unrolled, got 'func'")])
def test_what_the_worker_refuses(request_, says):
  with pytest.raises(workers.WorkerError, match=says):
    InProcess().ask(request_)


def test_numbers_of_the_tables():
  assert [report.number(value) for value in (0, 0.01234, 4.561, 45.61, 1234.5)] == [
      '0', '0.0123', '4.56', '45.6', '1,234']
  assert report.seconds({'median': 2.0, 'min': 1.0, 'max': 3.0}, 1e3) == '2,000 (1,000-3,000)'
  assert report.seconds({'skip': '> 300 s to compile fewer or as many steps'}) == '> 300 s'
  assert report.seconds({'skip': 'no compiler'}) == report.seconds(None) == report.NONE
  assert rounds.spread([3.0]) == {'median': 3.0, 'min': 3.0, 'max': 3.0}
