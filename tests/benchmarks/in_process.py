"""Workers for tests: one in this process, without a start of seconds, and one that is scripted."""
import json
import sys

from benchmarks import workers
from benchmarks.ours import worker

_DESCRIPTION = {'name': 'scripted', 'versions': {}, 'threads': 1, 'device': 'none',
                'platform': 'cpu', 'devices': 1}


class InProcess:
  """This library's worker without a process; what it is asked passes through JSON all the same."""

  start_seconds = 0.5

  def __init__(self):
    self._server = worker.Server()
    self.about = _through_json(self._server.about())

  def ask(self, request, limit=None):
    answer = _through_json(self._server.answer(_through_json(request)))
    if 'error' in answer:
      raise workers.WorkerError(answer['error'])
    return answer

  def close(self):
    self._server = None


class BenchInProcess(workers.Bench):
  """Starts such workers, and keeps the environments that they were to have."""

  def __init__(self, effort):
    super().__init__({'jax': []}, effort)
    self.environments = []

  def start(self, side, environment=None):
    made = InProcess()
    self.environments.append(environment)
    self.about[side] = made.about
    return made


def scripted(tmp_path, answers, log=None):
  """Writes a worker that answers by a script.

  Args:
    tmp_path: folder for the worker.
    answers: Python source of a function `answer(request, number)`.
    log: file for a line of each request.

  Returns:
    Its command.
  """
  path = tmp_path / f'worker{len(list(tmp_path.iterdir()))}.py'
  log_request = ''
  if log:
    log_request = f'  open({str(log)!r}, "a").write(sys.argv[1] + " " + request["do"] + "\\n")\n'
  path.write_text(f'import json, sys, time\n{answers}\n'
                  f'print({json.dumps(_DESCRIPTION)!r}, flush=True)\n'
                  'for number, line in enumerate(sys.stdin):\n'
                  '  request = json.loads(line)\n' + log_request +
                  '  print(json.dumps(answer(request, number)), flush=True)\n')
  return [sys.executable, '-S', '-E', str(path)]  # without site packages: it starts at once


def _through_json(content):
  return json.loads(json.dumps(content))
