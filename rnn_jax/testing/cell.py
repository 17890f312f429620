"""Is this cell's hand-written adjoint right?"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import describe, require
from rnn_jax.gradients import bptt
from rnn_jax.gradients.autodiff import step_adjoint
from rnn_jax.testing.algorithm import FEATURES, MASKED_AND_RESET, measure
from rnn_jax.testing.cases import TOLERANCE
from rnn_jax.testing.findings import Finding, exact_arithmetic, settle
from rnn_jax.types import Cell, Exact, Units

B, H = 4, 5
ADJOINT_BOUND = 1e-13
"""For a few multiplications of numbers near one, in float64."""


def check_cell(cell: Cell) -> list[Finding]:
    """Prove a cell: every entry of its adjoint, and the gradient of a network made of it.

    Looked at, in this order: that it names its states and gates and gives a bias for each; that step and adjoint keep
    shape and dtype (float64, float32, bfloat16), trace once and repeat themselves bitwise; that each unit minds its own
    business; that the adjoint, applied to every unit vector, is the transpose of the step's Jacobian by ``jax.vjp``, at
    ordinary and at saturated points; and that ``bptt`` of a network of such cells equals ``jax.grad``.

    Returns:
      What was measured.

    Raises:
      ConformanceError: the claims that fail, each with the output, the input, the unit and the size.
      InputError: not a Cell.
    """
    require(isinstance(cell, Cell), "cell", describe(cell), "a Cell, like elman()")
    with exact_arithmetic():
        return settle(f"cell {cell.name}", cell_findings(cell))


def cell_findings(cell: Cell) -> Iterator[Finding]:
    """The findings of ``check_cell``, one by one; the first failure of form ends them."""
    for form in _form(cell):
        yield form
        if not form.ok:
            return
    yield from _units(cell)
    yield from _adjoint(cell, "adjoint", scale=1.0)
    yield from _adjoint(cell, "adjoint, saturated", scale=1e4)
    for case in (FEATURES[0], *MASKED_AND_RESET):
        yield measure(bptt, Exact(), cell, case)


def _point(cell: Cell, dtype: str, scale: float = 1.0, seed: int = 0) -> tuple[Units, Units, Units]:
    rng = np.random.default_rng(seed)

    def draw(count: int, scale: float) -> Units:
        return tuple(jnp.asarray(scale * rng.normal(size=(B, H)), jnp.dtype(dtype)) for _ in range(count))

    G = len(cell.gates)
    return draw(len(cell.states), 1.0), draw(G, scale), draw(G, scale)


def _both(cell: Cell, s_prev: Units, u: Units, v: Units, delta_s: Units) -> tuple[Units, Units, Units, Units, Units]:
    s, residual = cell.step(s_prev, u, v)
    return (s, residual, *cell.adjoint(s_prev, s, residual, delta_s))


def _form(cell: Cell) -> Iterator[Finding]:
    S, G = len(cell.states), len(cell.gates)
    named = S > 0 and G > 0 and len(set(cell.states)) == S and len(set(cell.gates)) == G and len(cell.bias) == G
    yield Finding("names", f"{S} states, {G} gates and {len(cell.bias)} biases", float(not named), 0.0)
    for dtype in TOLERANCE:
        traces: list[int] = []

        def both(*arguments: Units, traces: list[int] = traces) -> tuple[Units, ...]:
            traces.append(1)
            s_prev, u, v, delta_s = arguments
            return _both(cell, s_prev, u, v, delta_s)

        point = (*_point(cell, dtype), _point(cell, dtype, seed=1)[0])
        jitted = jax.jit(both)
        try:
            s, _, delta_s_prev, delta_u, delta_v = first = jitted(*point)
            second = jitted(*point)
        except (TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            yield Finding("runs", f"{dtype}: {type(error).__name__}: {reason}", 1.0, 0.0)
            return
        parts = {"s": (s, S), "δs_prev": (delta_s_prev, S), "δu": (delta_u, G), "δv": (delta_v, G)}
        for name, (units, count) in parts.items():
            fits = len(units) == count and all(a.shape == (B, H) and a.dtype == dtype for a in units)
            seen = ", ".join(describe(a) for a in units)
            yield Finding(
                "shape and dtype", f"{name} is ({seen}), wanted {count} × {dtype}[{B},{H}]", float(not fits), 0
            )
        same = jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, second))
        yield Finding("repeats itself", dtype, float(not same), 0.0)
        yield Finding("one trace", dtype, float(len(traces) - 1), 0.0)


def _units(cell: Cell) -> Iterator[Finding]:
    """Change everything at one unit of one row: no other unit may notice, bitwise."""
    point, other = ((*_point(cell, "float64", seed=seed), _point(cell, "float64", seed=seed + 1)[0]) for seed in (0, 2))
    here = jnp.zeros((B, H), bool).at[1, 2].set(True)
    changed = jax.tree.map(lambda a, b: jnp.where(here, b, a), point, other)
    before, after = (_both(cell, *arguments) for arguments in (point, changed))
    for name, a, b in zip(("s", "residual", "δs_prev", "δu", "δv"), before, after, strict=True):
        leak = max((float(jnp.abs(jnp.where(here, 0, x - y)).max()) for x, y in zip(a, b, strict=True)), default=0.0)
        yield Finding("unit-wise", f"{name} of other units, when unit 2 of row 1 changes", leak, 0.0)


def _adjoint(cell: Cell, check: str, scale: float) -> Iterator[Finding]:
    """Each entry ∂(output)/∂(input) of every unit, by the adjoint of a unit vector and by jax.vjp."""
    s_prev, u, v = _point(cell, "float64", scale)
    inputs = (
        [f"{name}_prev" for name in cell.states],
        [f"u_{name}" for name in cell.gates],
        [f"v_{name}" for name in cell.gates],
    )
    for k, output in enumerate(cell.states):
        delta_s = tuple(jnp.full((B, H), float(k == j)) for j in range(len(cell.states)))
        ours, judge = _both(cell, s_prev, u, v, delta_s)[2:], step_adjoint(cell, s_prev, u, v, delta_s)
        for names, mine, reference in zip(inputs, ours, judge, strict=True):
            for name, a, b in zip(names, mine, reference, strict=True):
                error = jnp.abs(a - b) / jnp.maximum(1.0, jnp.abs(b))
                row, unit = np.unravel_index(int(jnp.nan_to_num(error, nan=jnp.inf).argmax()), (B, H))
                is_, wanted = float(a[row, unit]), float(b[row, unit])
                where = f"∂{output}/∂{name} at unit {unit} of row {row} is {is_:.6g}, by jax.vjp {wanted:.6g}"
                yield Finding(check, where, float(error[row, unit]), ADJOINT_BOUND)
    delta_s = _point(cell, "float64", seed=7)[0]
    ours, judge = _both(cell, s_prev, u, v, delta_s)[2:], step_adjoint(cell, s_prev, u, v, delta_s)
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(judge), strict=True)
    largest = max(float((jnp.abs(a - b) / jnp.maximum(1.0, jnp.abs(b))).max()) for a, b in pairs)
    yield Finding(f"{check}, linear", "a random δs", largest, 10 * ADJOINT_BOUND)
