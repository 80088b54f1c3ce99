"""Sides that take turns: warm-up apart, then A B A B ...

A machine that slows down in the meantime then slows all of them down.
"""
import collections
import statistics
import time

from absl import logging

from benchmarks import formatting, workers

MOST_RUNS_PER_TURN = 100
TURN_LIMIT = 10  # a run of a turn may take so many times the limit of a first run


class Side:
  """A way of computing a measure: a mode of a worker, which is started when it is needed.

  Args:
    bench: starts the worker.
    side: 'jax' or 'pytorch'.
    measure: of the protocol.
    mode: of the worker.
    environment: variables of the worker.
  """

  def __init__(self, bench: workers.Bench, side: str, measure: str, mode: str,
               environment: dict[str, str] | None = None):
    self._bench, self._start = bench, lambda: bench.start(side, environment)
    self._request = {'do': 'setup', 'measure': measure, 'mode': mode}
    self._worker, self.setup, self.record, self.start_seconds = None, {}, {}, None

  def prepare(self, settings: dict, warmup: int | None = None) -> bool:
    """Sets the mode up, runs it for the first time, which compiles, and warms it up.

    Args:
      settings: of the measure.
      warmup: runs after the first one; None as the effort has it.

    Returns:
      Whether it works. If not, `record` holds the reason as 'skip'.
    """
    effort = self._bench.effort
    self.record, self.setup = {}, {}
    try:
      if self._worker is None:
        self._worker = self._start()
        self.start_seconds = self._worker.start_seconds
      self.setup = self._worker.ask(self._request | settings, effort.limit)
      left = effort.limit and max(0.1, effort.limit - self.setup.get('seconds', 0))
      first = self._worker.ask({'do': 'run'}, left)
      self.record = {'first': first['seconds'], 'first_value': first['value'], 'turns': []}
      for _ in range(effort.warmup if warmup is None else warmup):
        self._worker.ask({'do': 'run'}, effort.limit)
    except workers.WorkerError as error:
      # The limit is one for setup, first run and warm-up together, whichever of them met it.
      self._give_up(f'> {effort.limit:g} s' if str(error).startswith('>') else error)
    return self.works

  @property
  def works(self) -> bool:
    """Whether it was prepared and has not failed since."""
    return 'turns' in self.record

  def turn(self) -> None:
    """Runs for at least `effort.least_seconds`, and records the median."""
    effort, answers, total = self._bench.effort, [], 0.0
    time.sleep(effort.pause)
    try:
      while not answers or (total < effort.least_seconds and len(answers) < MOST_RUNS_PER_TURN):
        answers.append(self._worker.ask({'do': 'run'}, effort.limit and TURN_LIMIT * effort.limit))
        total += answers[-1]['seconds']
    except workers.WorkerError as error:
      self._give_up(error)
      return
    self.record['turns'].append(statistics.median(answer['seconds'] for answer in answers))
    peaks = [self.record.get('peak_bytes')] + [answer.get('peak_bytes') for answer in answers]
    self.record['peak_bytes'] = max((peak for peak in peaks if peak is not None), default=None)
    self.record['value'] = answers[-1]['value']

  def save(self, path: str) -> None:
    """Asks the worker to write what it has computed.

    Args:
      path: of the npz file.

    Raises:
      WorkerError: it cannot.
    """
    self._worker.ask({'do': 'save', 'path': path}, self._bench.effort.limit)

  def close(self) -> None:
    """Ends the worker; `prepare` starts another."""
    if self._worker is not None:
      self._worker.close()
      self._worker = None

  def _give_up(self, error):
    """Ends a worker that failed: it is not trusted with another request."""
    self.record = {'skip': str(error)}
    self.close()


def in_turn(sides: dict[str, Side], pairs: int) -> dict[str, dict]:
  """Runs the sides that are prepared in turn.

  Args:
    sides: name -> Side.
    pairs: rounds.

  Returns:
    Name -> its record: `skip`, or `first` (seconds of the first run), `first_value`, `turns`
    (seconds), `peak_bytes`, `value` and the median, least and greatest turn as `median`, `min` and
    `max`.
  """
  for _ in range(pairs):
    for side in sides.values():
      if side.works:
        side.turn()
  return {name: side.record | (spread(side.record['turns']) if side.record.get('turns') else {})
          for name, side in sides.items()}


def spread(values: list[float]) -> dict[str, float]:
  """Computes median, least and greatest.

  Args:
    values: at least one.

  Returns:
    `median`, `min` and `max`.
  """
  return {'median': statistics.median(values), 'min': min(values), 'max': max(values)}


def ratios(numerator: list[float], denominator: list[float]) -> dict[str, float]:
  """Compares two sides round by round.

  Args:
    numerator: seconds by round.
    denominator: seconds by round, of the same rounds.

  Returns:
    `median`, `min` and `max` of the quotients.

  Raises:
    ValueError: the numbers of rounds differ.
  """
  return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def strongest(records: dict[str, dict]) -> str | None:
  """Returns the name of the fastest of several sides.

  Args:
    records: name -> record of `in_turn`.

  Returns:
    A name, or None where no side works.
  """
  working = [name for name, record in records.items() if 'median' in record]
  return min(working, key=lambda name: records[name]['median'], default=None)


def skipped(records: list[dict[str, dict]]) -> list[str]:
  """Returns the notes of a report that say why sides are missing, each reason once.

  Args:
    records: of several measurements, each name -> record.

  Returns:
    Lines.
  """
  counts = collections.Counter((name, record['skip']) for each in records
                               for name, record in each.items() if 'skip' in record)
  return [f'{name}: {why}' + (f' ({number} times)' if number > 1 else '')
          for (name, why), number in counts.items()]


def log(suite: str, row: dict, records: dict[str, dict]) -> None:
  """Logs what was just measured.

  Args:
    suite: its name.
    row: name -> value of what decides the row.
    records: of `in_turn`.
  """
  logging.info('%s %s: %s', suite, ', '.join(f'{name} {value}' for name, value in row.items()),
               ', '.join(f'{name} {formatting.seconds(record, 1e3, brief=True)} ms'
                         for name, record in records.items()))
