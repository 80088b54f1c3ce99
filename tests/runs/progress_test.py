import io

from mtl_jax.runs import progress


class Clock:
  """Stands for the module `time`."""

  def __init__(self):
    self.now = 0.0

  def monotonic(self):
    return self.now


def lines_of(monkeypatch, seconds, total, first_step=0):
  """The lines of a run whose updates come at these seconds."""
  clock, stream = Clock(), io.StringIO()
  monkeypatch.setattr(progress, 'time', clock)
  with progress.Progress(total, 'meta_train', first_step, stream) as shown:
    for count, second in enumerate(seconds, start=1):
      clock.now = second
      shown.update(first_step + count, loss=1 / 3, accuracy=0.5)
  return stream.getvalue().splitlines()


def test_plain_progress_prints_first_last_and_every_five_seconds(monkeypatch):
  # The first step takes 100 seconds (it compiles), the others 2 seconds each.
  assert lines_of(monkeypatch, [100.0 + 2 * i for i in range(8)], total=8) == [
      'meta_train 1/8  loss 0.3333  accuracy 0.5',
      'meta_train 4/8  0.5 steps/s  0:00:08 left  loss 0.3333  accuracy 0.5',
      'meta_train 7/8  0.5 steps/s  0:00:02 left  loss 0.3333  accuracy 0.5',
      'meta_train 8/8  0.5 steps/s  0:00:00 left  loss 0.3333  accuracy 0.5']


def test_plain_progress_of_a_run_that_stops_early_ends_with_its_last_step(monkeypatch):
  assert lines_of(monkeypatch, [1.0, 1.5, 2.0], total=10_000, first_step=100) == [
      'meta_train 101/10000  loss 0.3333  accuracy 0.5',
      'meta_train 103/10000  2 steps/s  1:22:28 left  loss 0.3333  accuracy 0.5']


def test_rate_is_that_of_recent_steps(monkeypatch):
  slow_then_fast = [1000.0 * i for i in range(10)] + [9000.0 + i for i in range(1, 61)]
  assert '1 steps/s' in lines_of(monkeypatch, slow_then_fast, total=70)[-1]


def test_progress_goes_to_standard_output(capsys):
  with progress.Progress(1, 'pretrain') as shown:
    shown.update(1, loss=2.0)
  assert capsys.readouterr().out == 'pretrain 1/1  loss 2\n'


def test_a_bar_on_a_terminal():
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  stream = Terminal()
  with progress.Progress(40, 'pretrain', stream=stream) as shown:
    shown.update(20, loss=0.25)
    shown.update(40, loss=0.125)
  assert 'pretrain' in stream.getvalue()
  assert '40/40' in stream.getvalue()
  assert 'loss 0.125' in stream.getvalue()


def test_a_line_of_its_own_is_printed_plainly():
  stream = io.StringIO()
  with progress.Progress(4, 'pretrain', stream=stream) as shown:
    shown.say('step 0: validation accuracy 20.00%')
  assert stream.getvalue() == 'step 0: validation accuracy 20.00%\n'
