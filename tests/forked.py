"""Commands in forks of a process that has imported all that they import, which takes seconds.

`run` starts a module as `python -m` does, in a process of its own with the environment, the folder
and the standard streams that it is given; only the imports are done already.
"""
import atexit
import functools
import importlib
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent
_IMPORTED = ('launch.main', 'launch.pretrain', 'launch.meta_train', 'launch.meta_test',
             'launch.reproduce', 'launch.import_weights', 'launch.features', 'launch.quickstart',
             'launch.adapt', 'launch.predict', 'launch.show', 'launch.export',
             'launch.page',
             'orbax.checkpoint', 'tensorboardX', 'optax', 'rich.table', 'safetensors.numpy')


def run(arguments: list[str], env: dict[str, str], timeout: float) -> subprocess.CompletedProcess:
  """Runs `python -m ARGUMENTS` to its end, in the root of the repository.

  Args:
    arguments: name of the module, then its arguments.
    env: of the new process.
    timeout: seconds; then it is killed.

  Raises:
    subprocess.TimeoutExpired: it did not end in time.
  """
  server = _server(tuple(sorted(item for item in env.items() if item[0].startswith('JAX_'))))
  with tempfile.TemporaryDirectory(prefix='mtl_jax_fork_') as folder:
    streams = {name: os.path.join(folder, name) for name in ('stdout', 'stderr')}
    request = {'arguments': arguments, 'env': env, 'timeout': timeout, **streams}
    server.stdin.write(json.dumps(request) + '\n')
    server.stdin.flush()
    status = json.loads(server.stdout.readline())
    out, err = (pathlib.Path(path).read_text() for path in streams.values())
  if status is None:
    raise subprocess.TimeoutExpired(arguments, timeout, out, err)
  return subprocess.CompletedProcess(arguments, status, out, err)


@functools.cache
def _server(settings: tuple[tuple[str, str], ...]) -> subprocess.Popen:
  """Starts the process that forks; JAX reads its settings at import, so others need another one."""
  others = {name: value for name, value in os.environ.items() if not name.startswith('JAX_')}
  server = subprocess.Popen([sys.executable, '-m', 'tests.forked'], cwd=ROOT, text=True,
                            env=others | dict(settings), stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE)
  atexit.register(_end, server)
  return server


def _end(server: subprocess.Popen) -> None:
  server.stdin.close()
  server.wait()
  server.stdout.close()


def _serve() -> None:
  for name in _IMPORTED:
    importlib.import_module(name)
  # Tests compare what else is said; on a busy machine anything may take a second.
  importlib.import_module('mtl_jax.stages').FIRST_AFTER = float(threading.TIMEOUT_MAX)
  for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if not child:
      _become(request)
    print(json.dumps(_status(child, request['timeout'])), flush=True)


def _status(child: int, timeout: float) -> int | None:
  """Waits for a fork; None where it had to be killed."""
  signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
  signal.setitimer(signal.ITIMER_REAL, timeout)
  status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
  over_time = signal.setitimer(signal.ITIMER_REAL, 0)[0] == 0
  return None if over_time else status


def _become(request: dict) -> None:
  """Runs the module and ends this process, with the status that Python would end it with."""
  for stream, name in ((sys.stdin, os.devnull), (sys.stdout, request['stdout']),
                       (sys.stderr, request['stderr'])):
    flags = os.O_RDONLY if stream is sys.stdin else os.O_WRONLY | os.O_CREAT
    os.dup2(os.open(name, flags), stream.fileno())
  os.environ.clear()
  os.environ.update(request['env'])
  module, *sys.argv[1:] = request['arguments']
  sys.modules.pop(module, None)  # else runpy warns that it is there already
  try:
    runpy.run_module(module, run_name='__main__', alter_sys=True)
    status = 0
  except SystemExit as stop:
    status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    if isinstance(stop.code, str):
      print(stop.code, file=sys.stderr)
  except BaseException:
    traceback.print_exc()
    status = 1
  atexit._run_exitfuncs()
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(status)


if __name__ == '__main__':
  _serve()
