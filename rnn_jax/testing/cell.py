"""Is this cell's hand-written adjoint right?"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import InputError, check_network, describe, require
from rnn_jax.gradients import bptt
from rnn_jax.gradients.autodiff import step_adjoint
from rnn_jax.testing.algorithm import scenario_results
from rnn_jax.testing.fixtures import TOLERANCE, make_network
from rnn_jax.testing.report import Result, exact_arithmetic, holds, raise_on_failure
from rnn_jax.testing.scenarios import BFLOAT16, EVERYTHING, FLOAT32, PLAIN, whole
from rnn_jax.types import Cell, Exact, Units

B, H = 4, 5
SCALES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4)
"""Sizes of the inputs at which an adjoint is compared."""
ROUNDINGS = 32
"""How many roundings of its dtype an entry of the adjoint may be off, relative to max(1, |reference|)."""
DIFFERENCE = 1e-5
"""Half the distance of two points between which a step's values are compared; its square bounds the error."""


Point = tuple[Any, ...]
"""What a step is given: (s_prev, z, *p), or (s_prev, u, v, *p)."""


def check_cell(cell: Cell) -> list[Result]:
    """Prove a cell: every entry of its adjoint, and the gradient of a network made of it.

    The checks run in this order:

    - The cell names its states and gates and gives a bias for each gate.
    - Step and adjoint keep shape and dtype (float64, float32, bfloat16), trace once, and give bitwise the same twice.
    - The cell is unit-wise: no output depends on another unit.
    - The adjoint of every unit vector is the transpose of the step's Jacobian by ``jax.vjp`` in the same dtype.  The
      tolerance is 32 roundings.  Each input alone, and all together, are scaled by 1, 3, 10 … 10⁴.
    - The derivative by ``jax.vjp`` is that of the step's values, by central differences: a ``custom_jvp`` or
      ``custom_vjp`` inside of the step may be wrong.
    - ``bptt`` of a network of such cells equals ``jax.grad``.

    Choose it for every new cell.  An Elman cell takes about 15 s of CPU time, most of it for compiling.

    Args:
      cell: a cell of your own, or one of ``CELLS``.

    Returns:
      All results.

    Raises:
      ConformanceError: the checks that fail, each with the output, the input, the unit and the error.  A cell that
        raises an error fails with that error.
      InputError: not a Cell.

    Examples:
      >>> import rnn_jax as rj
      >>> rj.testing.check_cell(rj.elman()._replace(bias=(0.0, 0.0)))
      Traceback (most recent call last):
      ...
      rnn_jax.testing.report.ConformanceError: cell elman-tanh fails 1 of its checks
        names: 1 states, 1 gates and 2 biases: FAILS
    """
    require(isinstance(cell, Cell), "cell", describe(cell), "a Cell, like elman()")
    with exact_arithmetic():
        return raise_on_failure(f"cell {cell.name}", cell_results(cell))


def cell_results(cell: Cell) -> Iterator[Result]:
    """The results of ``check_cell``, one by one; the first failure of form ends them."""
    for form in _form(cell):
        yield form
        if not form.ok:
            return
    try:
        check_network(make_network(cell))
    except InputError as error:
        yield holds("form", str(error), False)
        return
    yield from _units(cell)
    for dtype in TOLERANCE:
        yield from _adjoint(cell, dtype)
    yield _linear(cell)
    yield _differences(cell)
    for scenario in (PLAIN, whole(EVERYTHING), FLOAT32, BFLOAT16):
        yield from scenario_results(bptt, Exact(), cell, scenario)


def _point(cell: Cell, dtype: str, seed: int = 0) -> Point:
    rng = np.random.default_rng(seed)

    def draw(count: int) -> Units:
        return tuple(jnp.asarray(rng.normal(size=(B, H)), jnp.dtype(dtype)) for _ in range(count))

    inputs = 2 if cell.separate else 1
    return draw(len(cell.states)), *(draw(len(cell.gates)) for _ in range(inputs)), *draw(len(cell.parameters))


def _both(cell: Cell, point: Point, delta_s: Units) -> tuple[Any, ...]:
    """The state and the residual of a step, and what its adjoint returns."""
    s_prev, p = point[0], point[3 if cell.separate else 2 :]
    s, residual = cell.step(*point)
    return (s, residual, *cell.adjoint(s_prev, s, residual, delta_s, *p))


def _names(cell: Cell) -> list[tuple[str, ...]]:
    """Of all that a step is given, in the order of a point."""
    inputs = [tuple(f"{x}_{gate}" for gate in cell.gates) for x in ("uv" if cell.separate else "z")]
    return [tuple(f"{state}_prev" for state in cell.states), *inputs, *((each.name,) for each in cell.parameters)]


def _form(cell: Cell) -> Iterator[Result]:
    listed = [type(part).__name__ for part in (cell.states, cell.gates, cell.bias) if not isinstance(part, tuple)]
    yield holds("names", f"states, gates and bias are tuples, not {listed[:1]}", not listed)
    S, G = len(cell.states), len(cell.gates)
    named = S > 0 and G > 0 and len(set(cell.states)) == S and len(set(cell.gates)) == G and len(cell.bias) == G
    yield holds("names", f"{S} states, {G} gates and {len(cell.bias)} biases", named)
    for dtype in TOLERANCE:
        traces: list[int] = []

        def both(point: Point, delta_s: Units, traces: list[int] = traces) -> tuple[Any, ...]:
            traces.append(1)
            return _both(cell, point, delta_s)

        arguments = _point(cell, dtype), _point(cell, dtype, seed=1)[0]
        jitted = jax.jit(both)
        s, residual, *adjoints = first = jitted(*arguments)
        second = jitted(*arguments)
        inputs, P = ["δu", "δv"] if cell.separate else ["δz"], len(cell.parameters)
        complete = len(adjoints) == 1 + len(inputs) + P
        form = f"the adjoint returns {len(adjoints)} parts, wanted δs_prev, {', '.join(inputs)} and {P} of δp"
        yield holds("structure", form, complete)
        if not complete:
            return
        wanted = [("s", s, S), ("δs_prev", adjoints[0], S), ("δp", tuple(adjoints[1 + len(inputs) :]), P)]
        wanted += [(name, delta, G) for name, delta in zip(inputs, adjoints[1:], strict=False)]
        for name, units, count in wanted:
            fits = isinstance(units, tuple) and len(units) == count
            fits = fits and all(a.shape == (B, H) and a.dtype == dtype for a in units)
            seen = f"a {type(units).__name__} of ({', '.join(map(describe, jax.tree.leaves(units)))})"
            yield holds("shape and dtype", f"{name} is {seen}, wanted a tuple of {count} × {dtype}[{B},{H}]", fits)
        fits = isinstance(residual, tuple) and all(getattr(a, "shape", None) == (B, H) for a in residual)
        yield holds("shape and dtype", f"the residual is a tuple of arrays [{B},{H}]", fits)
        same = jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), first, second))
        yield holds("repeats itself", dtype, same)
        yield holds("one trace", f"{len(traces)} for two calls, {dtype}", len(traces) == 1)


def _units(cell: Cell) -> Iterator[Result]:
    """Change everything at one unit of one row: no other unit may notice, bitwise."""
    one, other = ((_point(cell, "float64", seed), _point(cell, "float64", seed + 1)[0]) for seed in (0, 2))
    here = jnp.zeros((B, H), bool).at[1, 2].set(True)
    changed = jax.tree.map(lambda a, b: jnp.where(here, b, a), one, other)
    before, after = (_both(cell, *arguments) for arguments in (one, changed))
    for name, a, b in zip(("s", "residual", "adjoint"), _thirds(before), _thirds(after), strict=True):
        leaks = sum(int(((x != y) & ~here).sum()) for x, y in zip(a, b, strict=True))
        yield holds("unit-wise", f"{name}: {leaks} others change with unit 2 of row 1", leaks == 0)


def _thirds(parts: tuple[Any, ...]) -> tuple[list[jax.Array], ...]:
    s, residual, *adjoints = parts
    return jax.tree.leaves(s), jax.tree.leaves(residual), jax.tree.leaves(adjoints)


def _adjoint(cell: Cell, dtype: str) -> Iterator[Result]:
    """Each entry ∂(output)/∂(input) of every unit, by the adjoint of a unit vector and by jax.vjp."""
    names = [name for part in _names(cell) for name in part]
    ways = [(name, scale) for scale in SCALES for name in ("everything", *names)]
    leaves, structure = jax.tree.flatten(_point(cell, dtype))
    point: Point = jax.tree.unflatten(
        structure,
        [
            jnp.stack([leaf * jnp.asarray(scale if way in ("everything", name) else 1, dtype) for way, scale in ways])
            for name, leaf in zip(names, leaves, strict=True)
        ],
    )

    @jax.jit
    def entries(point: Point) -> tuple[list[list[jax.Array]], list[list[jax.Array]]]:
        deltas = [tuple(jnp.full_like(s, j == k) for j, s in enumerate(point[0])) for k in range(len(cell.states))]
        return (
            [jax.tree.leaves(_both(cell, point, delta_s)[2:]) for delta_s in deltas],
            [jax.tree.leaves(step_adjoint(cell, point, delta_s)) for delta_s in deltas],
        )

    bound = ROUNDINGS * float(jnp.finfo(dtype).eps)
    for output, *rows in zip(cell.states, *entries(point), strict=True):
        for name, a, b in zip(names, *rows, strict=True):
            mine, reference = (np.asarray(each).astype(np.float64) for each in (a, b))
            error = np.abs(mine - reference) / np.maximum(1, np.abs(reference))
            error = np.where(np.isfinite(reference), np.nan_to_num(error, nan=np.inf), 0)
            largest = error.max(axis=(1, 2))
            way = int((largest > bound).argmax() if (largest > bound).any() else largest.argmax())  # the simplest one
            row, unit = (int(i) for i in np.unravel_index(error[way].argmax(), error[way].shape))
            scaled = "" if ways[way][1] == 1 else f" with {ways[way][0]} × {ways[way][1]:g}"
            where = f"∂{output}/∂{name} at unit {unit} of row {row}{scaled} is {mine[way, row, unit]:.6g}"
            yield Result(
                "adjoint",
                f"{where}, by jax.vjp {reference[way, row, unit]:.6g}, in {dtype}",
                float(error[way, row, unit]),
                bound,
            )


def _linear(cell: Cell) -> Result:
    """The adjoint of a random δs is the sum of the unit vectors' ones."""
    point, delta_s = _point(cell, "float64"), _point(cell, "float64", seed=7)[0]
    ours, reference = _both(cell, point, delta_s)[2:], step_adjoint(cell, point, delta_s)
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(reference), strict=True)
    largest = max(float((jnp.abs(a - b) / jnp.maximum(1.0, jnp.abs(b))).max()) for a, b in pairs)
    return Result("adjoint, linear", "a random δs", largest, 10 * ROUNDINGS * float(jnp.finfo("float64").eps))


def _differences(cell: Cell) -> Result:
    """∂(output)/∂(input) by jax.vjp, against central differences of the step in float64: the worst entry."""
    point = _point(cell, "float64")
    leaves, structure = jax.tree.flatten(point)

    @jax.jit
    def values(leaves: list[jax.Array]) -> tuple[jax.Array, ...]:
        outputs: tuple[jax.Array, ...] = cell.step(*jax.tree.unflatten(structure, leaves))[0]
        return outputs

    names = [name for part in _names(cell) for name in part]
    worst = ("", 0.0)
    for k, output in enumerate(cell.states):
        unit_vector = tuple(jnp.full_like(s, j == k) for j, s in enumerate(point[0]))
        reference = jax.tree.leaves(step_adjoint(cell, point, unit_vector))
        for i, name in enumerate(names):
            ahead, behind = (
                values([*leaves[:i], leaves[i] + h, *leaves[i + 1 :]])[k] for h in (DIFFERENCE, -DIFFERENCE)
            )
            slope = (ahead - behind) / (2 * DIFFERENCE)
            error = float((jnp.abs(slope - reference[i]) / jnp.maximum(1, jnp.abs(slope))).max())
            if not error <= worst[1]:
                worst = (f"∂{output}/∂{name} by jax.vjp, against differences of the step's values", error)
    return Result("derivative", worst[0] or "by differences", worst[1], 1e3 * DIFFERENCE**2)
