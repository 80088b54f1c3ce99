"""What a machine reaches in one large matrix product, against which a step is held."""
from benchmarks import rounds, workers

# Sides that are held against the peak of bfloat16; all others against that of float32.
_BFLOAT16 = ('jax bfloat16', 'pytorch bf16', 'pytorch compile_bf16', 'pytorch compile_folded_bf16',
             'pytorch cuda_graphs', 'pytorch cuda_graphs_folded')


def dtypes(bench: workers.Bench) -> tuple[str, ...]:
  """Returns the types that this library computes in on this machine: on a CPU float32 alone.

  Args:
    bench: starts workers.

  Returns:
    Names of types.
  """
  return ('float32',) if bench.platform == 'cpu' else ('float32', 'bfloat16')


def measure(bench: workers.Bench, sizes: dict[str, int]) -> dict[str, dict[str, float]]:
  """Measures the product on all sides, in turn.

  Args:
    bench: starts workers.
    sizes: side of the matrices on a 'cpu' and on an 'accelerator'.

  Returns:
    Type -> side -> FLOP/s. On a GPU 'float32' is with rounded factors (TF32), as this library's
    convolutions have it.
  """
  found = {}
  on_cpu = bench.platform == 'cpu'
  size = sizes['cpu' if on_cpu else 'accelerator']
  sides = {name: rounds.Side(bench, name, 'peak', 'product') for name in bench.commands}
  for dtype in dtypes(bench):
    for name, side in sides.items():
      rounded = name == 'pytorch' and dtype == 'float32' and not on_cpu
      side.prepare({'size': size, 'dtype': 'tf32' if rounded else dtype})
    records = rounds.in_turn(sides, bench.effort.pairs)
    found[dtype] = {name: 2 * size**3 / record['median'] for name, record in records.items()
                    if 'median' in record}
  for side in sides.values():
    side.close()
  return found


def of(name: str, found: dict[str, dict[str, float]]) -> float:
  """Returns the peak that a side is held against: the higher of both libraries, of its type.

  Args:
    name: of the side, as in the tables of meta_step.
    found: of `measure`.

  Returns:
    FLOP/s; infinity where no product could be measured.
  """
  dtype = 'bfloat16' if name in _BFLOAT16 and 'bfloat16' in found else 'float32'
  return max(found[dtype].values(), default=float('inf'))


def notes(found: dict[str, dict[str, float]]) -> list[str]:
  """Returns the notes of a report on the peaks, one for each type.

  Args:
    found: of `measure`.

  Returns:
    Lines.
  """
  lines = []
  for dtype, of_sides in found.items():
    if of_sides:
      each = ', '.join(f'{side} {value / 1e9:,.0f} GFLOP/s' for side, value in of_sides.items())
      lines.append(f'Matrix product, {dtype}: {each}; a share of the peak is of the higher one.')
  return lines
