"""The house has floors: no file imports upward, and no folder imports one that imports it."""
import ast
import functools
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def modules(package):
  """Name -> file, of all modules of a package."""
  found = {}
  for path in sorted((ROOT / package).rglob('*.py')):
    name = '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    found[name.removesuffix('.__init__')] = path
  return found


@functools.cache
def nodes(path):
  """All parts of a file that import something, within functions too."""
  return [node for node in ast.walk(ast.parse(path.read_text()))
          if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(name, path, known):
  """Modules among `known` that a file imports."""
  for node in nodes(path):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ''
      if node.level:
        parts = name.split('.') if path.name == '__init__.py' else name.split('.')[:-1]
        base = '.'.join([*parts[:len(parts) - node.level + 1], *filter(None, [node.module])])
      for alias in node.names:
        target = f'{base}.{alias.name}'
        if target in known:
          yield target
        elif base in known:
          yield base


def graph(package):
  """Module -> modules that it imports; the package itself is left out."""
  known = modules(package)
  return {name: {target for target in imports(name, path, known) if target not in (name, package)}
          for name, path in known.items() if name != package}


def room(name):
  """The folder or file at the top of the package that a module belongs to."""
  return '.'.join(name.split('.')[:2])


@pytest.mark.parametrize('package', ['mtl_jax', 'launch', 'benchmarks'])
def test_no_two_files_import_each_other(package):
  edges = graph(package)
  assert sum(map(len, edges.values())) > len(edges) / 2  # imports were found at all
  graphlib.TopologicalSorter(edges).prepare()  # raises CycleError


@pytest.mark.parametrize('package', ['mtl_jax', 'benchmarks'])
def test_no_folder_imports_one_that_imports_it(package):
  rooms = {}
  for name, targets in graph(package).items():
    rooms.setdefault(room(name), set()).update(room(target) for target in targets)
  graphlib.TopologicalSorter({name: targets - {name} for name, targets in rooms.items()}).prepare()


def test_the_method_imports_no_folder():
  folders = {path.name for path in (ROOT / 'mtl_jax').iterdir() if path.is_dir()}
  for name, targets in graph('mtl_jax').items():
    if name.count('.') == 1 and name.split('.')[1] not in folders:  # a file at the top
      assert not {target for target in targets if target.split('.')[1] in folders}, name


@pytest.mark.parametrize(('package', 'above'), [
    ('mtl_jax', ('launch', 'benchmarks', 'tests', 'examples')),
    ('launch', ('tests', 'examples')),  # a command of it runs the benchmarks
    ('benchmarks', ('launch', 'tests', 'examples'))])
def test_nothing_imports_upward(package, above):
  for path in modules(package).values():
    for node in nodes(path):
      names = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
               [node.module or ''] if isinstance(node, ast.ImportFrom) and not node.level else [])
      assert not [name for name in names if name.split('.')[0] in above], path
