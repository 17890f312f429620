"""Is what this algorithm claims of its gradient true?"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import InputError, describe, require
from rnn_jax.diagnostics import compare, worst
from rnn_jax.gradients import autodiff, value_and_grad
from rnn_jax.losses import squared_error
from rnn_jax.testing.cases import CELLS, TOLERANCE, make_batch, make_network, make_params
from rnn_jax.testing.findings import Finding, exact_arithmetic, settle
from rnn_jax.types import (
    Algorithm,
    Array,
    Batch,
    Biased,
    Carry,
    Cell,
    Claim,
    Estimate,
    Exact,
    Network,
    Params,
    Unbiased,
)

Factory = Callable[[Network], Algorithm]
ERROR_RATE = 1e-6
"""How often a z-test may fail on an unbiased algorithm."""


class Case(NamedTuple):
    """A sequence to take the gradient of."""

    name: str
    depth: int = 1
    dtype: str = "float64"
    mask: bool = False
    reset: bool = False
    weight: bool = False
    windows: tuple[int, ...] = (37,)
    """Their lengths; together T.  37 is prime, and longer than any segment an algorithm is likely to cut."""
    rows: int = 3
    """B.  1, and 8, which fill a CPU's vectors: an algorithm may lay their products out in another way."""
    floats: bool = False
    """Float inputs and squared error instead of tokens and cross-entropy."""

    def __str__(self) -> str:
        """What stands in a finding."""
        return f"{self.depth} layers, {self.dtype}, T = {'+'.join(map(str, self.windows))}"


FEATURES = (
    Case("plain", rows=1),
    Case("mask", mask=True),
    Case("reset", reset=True),
    Case("mask and reset", mask=True, reset=True, rows=8),
    Case("weight", mask=True, weight=True),
    Case("windows", windows=(1, 18, 18), mask=True, reset=True),
    Case("depth 3", depth=3, mask=True, reset=True),
)
"""The columns of the conformance matrix."""
MASKED_AND_RESET = tuple(Case(f"{dtype}, masked, reset", dtype=dtype, mask=True, reset=True) for dtype in TOLERANCE)


def check_algorithm(
    algorithm: Factory, claim: Claim | None = None, cells: Mapping[str, Cell] | Sequence[Cell] = tuple(CELLS.values())
) -> list[Finding]:
    """Prove an algorithm: its structure, and just what it claims of its gradient.

    Structure: ``init`` and ``update`` take and give what the contract says; ``update`` keeps the structure, shapes and
    dtypes of the state, and of the parameters in the gradient; it traces once; it works under ``vmap`` over keys.

    Exact: equal to autodiff for every cell, mask, reset, weight, carried state, depth and dtype, in windows and whole;
    a sum over the batch; linear in the loss; untouched by padding; the same with and without ``jit``; NaN surfaces.
    Unbiased: the mean over every outcome of its randomness is exact, or, where they cannot be listed, over 4096 keys no
    element is further off than chance allows once in a million tests.
    Biased: exact in its stated limit, and not elsewhere.

    Args:
      algorithm: ``bptt``, or any function from a network to an ``Algorithm``.  Where it raises ``InputError`` for a
        cell or a depth, that case is left out; one case must remain.
      claim: what to hold it to; by default, what it declares itself.
      cells: the cells to try, by name or in a row.

    Returns:
      What was measured.

    Raises:
      ConformanceError: the claims that fail, with the case, the worst leaf and the size; an algorithm that raises fails
        with that error.
      InputError: no function, a claim that is none, or cells that are none.
    """
    require(
        callable(algorithm), "algorithm", describe(algorithm), "a function from a Network to an Algorithm, like bptt"
    )
    require(claim is None or isinstance(claim, Exact | Unbiased | Biased), "claim", describe(claim), "a Claim or None")
    cells = tuple(cells.values()) if isinstance(cells, Mapping) else cells
    listed = isinstance(cells, Sequence) and len(cells) > 0 and all(isinstance(cell, Cell) for cell in cells)
    require(listed, "cells", describe(cells), "cells, one or more, like (elman(), lstm())")
    with exact_arithmetic():
        name = getattr(algorithm, "__name__", "algorithm")
        return settle(name, algorithm_findings(algorithm, claim, cells))


def algorithm_findings(algorithm: Factory, claim: Claim | None, cells: Sequence[Cell]) -> Iterator[Finding]:
    """The findings of ``check_algorithm``, one by one; the first failure of structure ends them."""
    served = [cell for cell in cells if _serves(algorithm, make_network(cell))]
    yield Finding("serves", "one of the cells at least", float(not served), 0.0)
    for finding in _structure(algorithm, make_network(served[0])) if served else ():
        yield finding
        if not finding.ok:
            return
    for cell in served:
        yield from gradient_findings(algorithm, claim or algorithm(make_network(cell)).claim, cell)


def gradient_findings(algorithm: Factory, claim: Claim, cell: Cell) -> Iterator[Finding]:
    """Whether the claim holds for networks of one cell."""
    match claim:
        case Exact():
            yield from _exact(algorithm, claim, cell)
        case Unbiased():
            yield from _unbiased(algorithm, claim, cell)
        case Biased():
            yield from _biased(algorithm, claim, cell)


def measure(algorithm: Factory, claim: Exact, cell: Cell, case: Case) -> Finding:
    """The worst leaf of one case, the loss among them."""
    network = _network(cell, case)
    params, batch = make_params(network, case.dtype), _batch(network, case)
    ours = _over_windows(algorithm(network), params, batch, case.windows)
    whole = case._replace(windows=(sum(case.windows),)) if claim.across_windows else case
    judge = _over_windows(autodiff(network), params, batch, whole.windows)
    leaf, error = _worst(ours, judge)
    return Finding(case.name, f"{cell.name}, {case}, {leaf}", error, TOLERANCE[case.dtype])


def _exact(algorithm: Factory, claim: Exact, cell: Cell) -> Iterator[Finding]:
    one = [case for case in FEATURES if case.depth == 1]
    deep = [case for case in FEATURES if case.depth > 1 and _serves(algorithm, make_network(cell, case.depth))]
    floats = Case("float inputs", windows=(1,), floats=True, mask=True)
    for case in (*one, *deep, floats, *MASKED_AND_RESET[1:]):
        yield measure(algorithm, claim, cell, case)
    yield from _invariances(algorithm, cell)


def _invariances(algorithm: Factory, cell: Cell) -> Iterator[Finding]:
    """What holds for any gradient that is a sum, whoever the judge is."""
    case = Case("", windows=(7,), mask=True, reset=True, weight=True, rows=4, floats=True)
    network = _network(cell, case)
    params, batch = make_params(network), _batch(network, case)
    gradient = jax.jit(value_and_grad(algorithm(network)))
    whole = gradient(params, batch)

    def finding(check: str, result: tuple[Array, Params], reference: tuple[Array, Params] = whole) -> Finding:
        leaf, error = _worst(result, reference)
        return Finding(check, f"{cell.name}, {leaf}", error, TOLERANCE["float64"])

    halves = [gradient(params, jax.tree.map(lambda a, k=k: a[:, k : k + 2], batch)) for k in (0, 2)]
    yield finding("batch is summed", jax.tree.map(jnp.add, *halves))
    yield finding("batch order", gradient(params, jax.tree.map(lambda a: a[:, ::-1], batch)))
    nothing = jax.tree.map(lambda a: jnp.full_like(a[:2], jnp.nan if a.dtype == jnp.float64 else 0), batch)
    padded = jax.tree.map(lambda a, b: jnp.concatenate([a[:3], b, a[3:]]), batch, nothing)
    yield finding("padding", gradient(params, padded))
    with jax.disable_jit():
        short = jax.tree.map(lambda a: a[:2], batch)
        eager = value_and_grad(algorithm(network))(params, short)
    yield finding("jit", gradient(params, short), eager)
    old = network.loss
    scaled = old._replace(value=lambda o, y: 3 * old.value(o, y), error=lambda o, y: 3 * old.error(o, y))
    thrice = jax.jit(value_and_grad(algorithm(network._replace(loss=scaled))))(params, batch)
    yield finding("linear in the loss", thrice, jax.tree.map(lambda a: 3 * a, whole))
    step, row = np.argwhere(np.asarray(batch.mask))[0]
    poisoned, _ = gradient(params, batch._replace(xs=batch.xs.at[step, row].set(jnp.nan)))
    yield Finding("NaN surfaces", f"{cell.name}, in the inputs of one step", float(not jnp.isnan(poisoned)), 0.0)


def _unbiased(algorithm: Factory, claim: Unbiased, cell: Cell) -> Iterator[Finding]:
    network = make_network(cell, inputs=2, hidden=2, outputs=2)
    T, B = 5, 1
    params, batch = make_params(network), make_batch(network, T, B)
    judge = value_and_grad(autodiff(network))(params, batch)[1]
    if claim.outcomes is not None:
        build, draws = claim.outcomes(network, T, B)
        all_grads = jax.jit(jax.vmap(lambda draw: value_and_grad(build(draw))(params, batch)[1]))(draws)
        leaf, error = worst(compare(jax.tree.map(lambda g: g.mean(0), all_grads), judge))
        count = jax.tree.leaves(draws)[0].shape[0]
        yield Finding("mean of all outcomes", f"{cell.name}, {count} outcomes, {leaf}", error, TOLERANCE["float64"])
    else:
        keys = jax.random.split(jax.random.key(0), 4096)
        all_grads = jax.jit(jax.vmap(lambda key: value_and_grad(algorithm(network))(params, batch, key)[1]))(keys)
        g = np.concatenate([np.asarray(a).reshape(len(keys), -1) for a in jax.tree.leaves(all_grads)], axis=1)
        off = np.abs(g.mean(0) - np.concatenate([np.asarray(a).ravel() for a in jax.tree.leaves(judge)]))
        spread = g.std(0, ddof=1) / math.sqrt(len(keys))
        z = off / np.maximum(spread, 1e-12 * np.abs(g).max())
        bound = NormalDist().inv_cdf(1 - ERROR_RATE / (2 * z.size))
        yield Finding("mean over keys", f"{cell.name}, largest |z| of {z.size} elements", float(z.max()), bound)
    varies = max(float(jnp.abs(a - a[:1]).max()) for a in jax.tree.leaves(all_grads)) > 0
    yield Finding("is random", f"{cell.name}, two draws differ", float(not varies), 0.0)


def _biased(algorithm: Factory, claim: Biased, cell: Cell) -> Iterator[Finding]:
    network = make_network(cell)
    params, batch = make_params(network), make_batch(network, 37, 3)
    limit, limit_params = claim.limit(network, params, batch)
    results = [value_and_grad(each)(limit_params, batch) for each in (limit, autodiff(network))]
    leaf, error = _worst(*results)
    yield Finding("exact in its limit", f"{cell.name}, {claim.says}, {leaf}", error, TOLERANCE["float64"])
    results = [value_and_grad(each)(params, batch) for each in (algorithm(network), autodiff(network))]
    _, error = _worst(*results)
    yield Finding("biased elsewhere", f"{cell.name}, or else claim Exact", float(not error > 1e-6), 0.0)


def _structure(algorithm: Factory, network: Network) -> Iterator[Finding]:
    params, batch, key = make_params(network, "float32"), make_batch(network, 6, 3), jax.random.key(0)
    built = algorithm(network)
    yield Finding("structure", f"an Algorithm, not {describe(built)}", float(not isinstance(built, Algorithm)), 0.0)
    traces = []

    def update(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]:
        traces.append(1)
        return built.update(params, carry, batch)

    step = jax.jit(update)
    carry = built.init(params, 3, key)
    yield Finding("structure", f"init gives a Carry, not {describe(carry)}", float(not isinstance(carry, Carry)), 0.0)
    after, estimate = step(params, carry, batch)
    estimated = isinstance(estimate, Estimate)
    yield Finding("structure", f"update gives an Estimate, not {describe(estimate)}", float(not estimated), 0.0)
    loss, grads, weight, info = estimate
    for name, old, new in (("carry", carry, after), ("gradient", params, grads)):
        same = str(jax.tree.structure(old)) == str(jax.tree.structure(new)) and all(
            a.shape == b.shape and a.dtype == b.dtype
            for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)
        )
        yield Finding("structure", f"the {name} has the form it had", float(not same), 0.0)
    scalar = loss.shape == () and loss.dtype == jnp.float32
    yield Finding("structure", f"loss is {describe(loss)}, wanted float32[]", float(not scalar), 0.0)
    yield Finding("weight", "the sum of the weights of the steps that count", abs(float(weight) - 18), 0.0)
    by_row = all(each.shape == (3,) for each in info.values())
    yield Finding("structure", "info has a number for each row", float(not by_row), 0.0)
    step(params, after, batch)
    yield Finding("one trace", f"{len(traces)} for two calls", float(len(traces) - 1), 0.0)
    keys = jax.random.split(key, 3)
    stacked = jax.vmap(lambda key: value_and_grad(built)(params, batch, key)[1])(keys)
    singles = jax.tree.map(lambda *a: jnp.stack(a), *[value_and_grad(built)(params, batch, key)[1] for key in keys])
    leaf, error = worst(compare(stacked, singles))
    yield Finding("vmap over keys", f"against a loop, {leaf}", error, TOLERANCE["float32"])


def _serves(algorithm: Factory, network: Network) -> bool:
    try:
        algorithm(network)
    except InputError:
        return False
    return True


def _network(cell: Cell, case: Case) -> Network:
    return make_network(
        cell, case.depth, outputs=4 if case.floats else 6, loss=squared_error() if case.floats else None
    )


def _batch(network: Network, case: Case) -> Batch:
    dtype = case.dtype if case.floats else None
    return make_batch(network, sum(case.windows), case.rows, case.mask, case.reset, dtype, weight=case.weight)


def _over_windows(algorithm: Algorithm, params: Params, batch: Batch, lengths: tuple[int, ...]) -> tuple[Array, Params]:
    """Loss and gradient summed over consecutive windows, with the state carried."""
    carry = algorithm.init(params, batch.xs.shape[1], jax.random.key(0))
    update, start, results = jax.jit(algorithm.update), 0, []
    for length in lengths:
        window = jax.tree.map(lambda a, i=start, n=length: a[i : i + n], batch)
        carry, estimate = update(params, carry, window)
        results.append((estimate.loss, estimate.grads))
        start += length
    total: tuple[Array, Params] = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *results)
    return total


def _worst(result: tuple[Array, Params], reference: tuple[Array, Params]) -> tuple[str, float]:
    """The leaf, or the loss, that is furthest from its reference."""
    (loss, grads), (reference_loss, reference_grads) = result, reference
    leaf, error = worst(compare(grads, reference_grads))
    loss_error = abs(float(loss) - float(reference_loss)) / abs(float(reference_loss))
    return (leaf, error) if math.isnan(error) or error >= loss_error else ("loss", loss_error)
