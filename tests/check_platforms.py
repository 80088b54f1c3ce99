"""Checks that the requirements resolve for Windows and macOS, from the machine at hand.

`pip --platform` chooses wheels of another system, yet judges environment markers by the interpreter
that runs it. So pip only chooses versions here (`--no-deps`); what these require is read from its
report and judged by the markers of the system in question, round after round until nothing changes.

Prints one line for each system. Ends with 1 where something is missing, and with 0 and a notice
where the registry cannot be reached.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYTHON = '3.12'
SYSTEMS = {
  'win_amd64': {'sys_platform': 'win32', 'platform_system': 'Windows', 'os_name': 'nt',
                'platform_machine': 'AMD64'},
  'macosx_14_0_arm64': {'sys_platform': 'darwin', 'platform_system': 'Darwin', 'os_name': 'posix',
                        'platform_machine': 'arm64'},
}
SOURCES = ('promise',)  # pure Python, published as source only
ROUNDS = 20
PIP = (sys.executable, '-m', 'pip', 'install', '--dry-run', '--ignore-installed', '--no-deps',
       '--quiet', '--retries=1')


def choose(requirements: list[str], options: list[str]) -> tuple[dict[str, dict], str]:
  """Returns pip's choice for each requirement, without what it requires in turn.

  Returns:
    (canonical name -> its metadata as pip reports it, ''), or ({}, what pip printed) if it failed.
  """
  with tempfile.TemporaryDirectory() as folder:
    wanted, report = pathlib.Path(folder, 'wanted.txt'), pathlib.Path(folder, 'report.json')
    wanted.write_text('\n'.join(requirements), encoding='utf-8')
    files = [f'--report={report}', f'--target={folder}', f'--requirement={wanted}']
    done = subprocess.run([*PIP, *files, *options], capture_output=True, text=True)
    if done.returncode:
      return {}, done.stdout + done.stderr
    items = json.loads(report.read_text(encoding='utf-8'))['install']
  return {canonicalize_name(item['metadata']['name']): item['metadata'] for item in items}, ''


def required_by(chosen: dict[str, dict], asked: list[Requirement],
                markers: dict[str, str]) -> list[Requirement]:
  """Lists what chosen versions require on a system, extras that are asked for included."""
  found, extras, waiting = {}, {}, list(asked)
  while waiting:
    requirement = waiting.pop()
    name = canonicalize_name(requirement.name)
    known = extras.setdefault(name, set())
    new = ({''} | requirement.extras) - known
    known |= new
    for text in chosen.get(name, {}).get('requires_dist', ()) if new else ():
      needed = Requirement(text)
      applies = needed.marker is None or any(
        needed.marker.evaluate(markers | {'extra': extra}) for extra in known)
      needed.marker = None
      if applies and str(needed) not in found:
        found[str(needed)] = needed
        waiting.append(needed)
  return list(found.values())


def missing_of(failure: str, wanted: list[str]) -> list[str]:
  """Lists which of the wanted requirements pip found no distribution for."""
  said = re.search(r'No matching distribution found for (\S.*?)(?: \(from|$)', failure,
                   re.MULTILINE)
  gone = said[1].replace(' ', '') if said else None
  return [each for each in wanted if each.replace(' ', '') == gone]


def resolve(roots: list[Requirement], system: str) -> tuple[dict[str, dict], list[str]]:
  """Resolves requirements for a system.

  Returns:
    (what was chosen, what is missing).
  """
  markers = SYSTEMS[system] | {
    'python_version': PYTHON, 'python_full_version': f'{PYTHON}.0',
    'implementation_name': 'cpython', 'platform_python_implementation': 'CPython'}
  options = [f'--platform={system}', f'--python-version={PYTHON}', '--only-binary=:all:',
             *(f'--no-binary={name}' for name in SOURCES)]
  roots = [root for root in roots if root.marker is None or root.marker.evaluate(markers)]
  for root in roots:
    root.marker = None
  chosen, missing = {}, []
  for _ in range(ROUNDS):
    wanted = {str(each) for each in roots + required_by(chosen, roots, markers)}
    wanted = sorted(wanted - set(missing))
    now, failure = choose(wanted, options)
    while failure:
      gone = missing_of(failure, wanted)
      if not gone:
        return chosen, [*missing, failure.strip().splitlines()[-1]]
      missing += gone
      wanted = [each for each in wanted if each not in gone]
      now, failure = choose(wanted, options)
    if all(chosen.get(name, {}).get('version') == now[name]['version'] for name in now):
      break
    chosen = now
  return chosen, missing


def main() -> int:
  """Checks every system; returns the exit status."""
  lines = pathlib.Path('requirements.txt').read_text(encoding='utf-8').splitlines()
  _, failure = choose(['packaging'], [])
  if failure:
    print(f'notice: wheels for {", ".join(SYSTEMS)} not checked, as pip reaches no registry')
    return 0
  status = 0
  for system in SYSTEMS:
    roots = [Requirement(line) for line in lines if line.strip() and not line.startswith('#')]
    chosen, missing = resolve(roots, system)
    print(f'{system}, Python {PYTHON}: ' + (f'missing {"; ".join(missing)}' if missing else
                                            f'{len(chosen)} packages resolve'))
    status |= bool(missing)
  return status


if __name__ == '__main__':
  sys.exit(main())
