"""What every algorithm must do, whatever it claims of its gradient: the contract of ``types.Carry`` and ``Estimate``.

Loss, weight, recurrent state and readout are compared with the reference on whole sequences (``agreement``).  The rest
(masks, resets, rows, parts of a batch) are laws that need no reference (``laws``): they compare an algorithm with
itself, in the middle of a sequence, with its own memory.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import describe
from rnn_jax.diagnostics import compare, nan_largest, worst
from rnn_jax.gradients import autodiff, value_and_grad
from rnn_jax.losses import squared_error
from rnn_jax.precision import accumulation_dtype
from rnn_jax.testing.fixtures import TOLERANCE, make_batch, make_network, make_params
from rnn_jax.testing.report import Result, holds
from rnn_jax.testing.scenarios import Factory, Measured, Scenario, built, relative, tolerance_of
from rnn_jax.types import Algorithm, Batch, Biased, Carry, Cell, Claim, Estimate, Exact, Network, Params, Unbiased

T, B = 6, 4
"""Of the laws; H = B, so that an algorithm which tells rows from units by their number fails."""


def agreement(measured: Measured, expected: Measured, claim: Claim, scenario: Scenario, where: str) -> Iterator[Result]:
    """Loss, weight, recurrent state and, where the claim says so, the readout's gradient, window by window."""
    tolerance = tolerance_of(scenario)
    finite = all(np.isfinite(leaf).all() for ours, _ in measured for leaf in jax.tree.leaves(ours.grads))
    yield holds("finite", f"the gradient, {where}", finite)
    pairs = list(zip(measured, expected, strict=True))
    for name in ("loss", "weight"):
        errors = [relative(getattr(ours, name), getattr(theirs, name)) for (ours, _), (theirs, _) in pairs]
        yield Result(name, where, max(errors, key=nan_largest), tolerance)
    errors = [worst(compare(ours, theirs))[1] for (_, ours), (_, theirs) in pairs]  # type: ignore[arg-type]
    yield Result("recurrent state", where, max(errors, key=nan_largest), tolerance)
    if isinstance(claim, Exact) or claim.exact_readout:
        for name in ("V", "c"):
            errors = [
                worst(compare(getattr(ours.grads, name), getattr(theirs.grads, name)))[1]
                for (ours, _), (theirs, _) in pairs
            ]
            yield Result("readout", f"{name}, {where}", max(errors, key=nan_largest), tolerance)


class Trial(NamedTuple):
    """An algorithm in the middle of a sequence."""

    algorithm: Algorithm
    network: Network
    params: Params
    update: Any
    """``algorithm.update``, jitted once for all laws."""
    traces: list[int]
    """One entry for each time that ``update`` was traced."""
    carry: Carry
    """After a first window."""
    batch: Any
    """The second window, a Batch [T, B] with mask, resets and weights, in NumPy's arrays: a slice of an array on a
    device would be compiled, each shape for itself."""


def trial_network(cell: Cell, depth: int = 1) -> Network:
    """A network of float inputs, H = B in the lowest layer."""
    network = make_network(cell, depth, inputs=3, hidden=B, outputs=2, loss=squared_error())
    return network if depth == 1 else network._replace(hidden=(B, *(3,) * (depth - 1)))


def trial(factory: Factory, network: Network) -> Trial:
    """Run the first window."""
    algorithm, params, traces = factory(network), make_params(network), list[int]()

    def update(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]:
        traces.append(1)
        return algorithm.update(params, carry, batch)

    first, second = (
        jax.device_get(make_batch(network, T, B, True, True, "float64", seed, weight=True)) for seed in (1, 2)
    )
    jitted = jax.jit(update)
    carry, _ = jitted(params, algorithm.init(params, B, jax.random.key(3)), first)
    return Trial(algorithm, network, params, jitted, traces, carry, second)


def structure(factory: Factory, cell: Cell) -> Iterator[Result]:
    """Types, shapes and dtypes in all three dtypes; nothing is computed."""
    for dtype in TOLERANCE:
        network = make_network(cell)
        params, batch = make_params(network, dtype), make_batch(network, T, 3)
        algorithm = factory(network)
        yield holds("structure", f"an Algorithm, not {describe(algorithm)}", isinstance(algorithm, Algorithm))
        carry = algorithm.init(params, 3, jax.random.key(0))
        yield holds("structure", f"init gives a Carry, not {describe(carry)}", isinstance(carry, Carry))
        after, estimate = jax.eval_shape(algorithm.update, params, carry, batch)
        yield holds("structure", f"update gives an Estimate, not {describe(estimate)}", isinstance(estimate, Estimate))
        for name, old, new in (("carry", carry, after), ("gradient", params, estimate.grads)):
            yield holds("structure", f"the {name} keeps its structure, shapes and dtypes, {dtype}", _alike(old, new))
        wide = accumulation_dtype(jnp.dtype(dtype))
        loss, weight = estimate.loss, estimate.weight
        yield holds("structure", f"loss is {loss.dtype}{loss.shape}, wanted {wide}()", _is(loss, wide))
        floating = weight.shape == () and jnp.issubdtype(weight.dtype, jnp.floating) and weight.dtype.itemsize >= 4
        yield holds("structure", f"weight is {weight.dtype}{weight.shape}, a wide float", floating)
        by_row = all(each.shape == (3,) for each in estimate.info.values())
        yield holds("structure", "info has a number for each row", by_row)


def laws(each: Trial) -> Iterator[Result]:
    """What holds for the second window whatever the reference says of it."""
    after, estimate = each.update(each.params, each.carry, each.batch)
    yield holds("one trace", f"{len(each.traces)} for two calls", len(each.traces) == 1)
    yield from _masks(each, after, estimate)
    yield from _resets(each)
    yield from _rows(each, after, estimate)
    yield from _parts(each, after, estimate)
    step, row = np.argwhere(np.asarray(each.batch.mask))[0]
    xs = each.batch.xs.copy()
    xs[step, row] = np.nan
    _, estimate = each.update(each.params, each.carry, each.batch._replace(xs=xs))
    yield holds("NaN surfaces", f"{_name(each)}, in the inputs of one step", np.isnan(estimate.loss))


def slow_laws(factory: Factory, each: Trial, claim: Claim) -> Iterator[Result]:
    """Laws of the algorithm, and hardly of the cell: looked at for one cell."""
    keys = jax.random.split(jax.random.key(0), 3)
    gradient = jax.jit(value_and_grad(each.algorithm))
    stacked = jax.jit(jax.vmap(gradient, (None, None, 0)))(each.params, each.batch, keys)
    singles = jax.tree.map(lambda *a: np.stack(a), *[gradient(each.params, each.batch, key) for key in keys])
    yield Result("vmap over keys", f"against a loop, {_name(each)}", difference(stacked, singles), 1e-12)
    short = jax.tree.map(lambda a: jnp.asarray(a[:1]), each.batch)
    with jax.disable_jit():
        eager = each.algorithm.update(each.params, each.carry, short)
    jitted = each.update(each.params, each.carry, short)
    yield Result("jit", f"against disable_jit, {_name(each)}", difference(jitted, eager), 1e-12)
    seen = each.batch._replace(ys=np.nan_to_num(each.batch.ys))
    for name in ("mask", "reset", "weight"):
        neutral = np.full_like(getattr(seen, name), name != "reset")
        absent, explicit = (
            each.update(each.params, each.carry, seen._replace(**{name: value})) for value in (None, neutral)
        )
        yield Result("None", f"{name} that is None, {_name(each)}", difference(absent, explicit), 1e-12)
    yield from _wide_sums(factory, each.network, claim)


def _masks(each: Trial, after: Carry, estimate: Estimate) -> Iterator[Result]:
    """A step that does not count changes nothing, whatever stands in it; not even its reset is looked at."""
    mask = each.batch.mask
    held, nothing = each.update(each.params, each.carry, _garbage_where(np.ones_like(mask), each.batch))
    yield holds("mask", f"a window of padding leaves the carry bitwise, {_name(each)}", _same(held, each.carry))
    zero = all(float(np.abs(leaf).max()) == 0 for leaf in jax.tree.leaves(nothing[:3]))
    yield holds("mask", f"a window of padding gives zeros, {_name(each)}", zero)
    one_row = each.update(each.params, each.carry, _garbage_where(np.arange(B)[None] == 0, each.batch))[0]
    rows = [jax.tree.map(lambda a: a[:1], _of_rows(carry)) for carry in (one_row, each.carry)]
    yield holds("mask", f"a row of padding is left bitwise, {_name(each)}", _same(*rows))
    poisoned = each.update(each.params, each.carry, _garbage_where(~mask, each.batch))
    yield Result("mask", f"what is in masked steps, {_name(each)}", difference(poisoned, (after, estimate)), 1e-12)


def _resets(each: Trial) -> Iterator[Result]:
    """After a reset nothing of the past matters, but the state of the keys."""
    first = np.arange(T)[:, None] == 0
    batch = each.batch._replace(mask=each.batch.mask | first, reset=each.batch.reset | first)
    rng = np.random.default_rng(5)

    def noisy(leaf: Any) -> Any:
        floats = jnp.issubdtype(leaf.dtype, jnp.floating)
        return (leaf + rng.normal(size=leaf.shape)).astype(leaf.dtype) if floats else leaf

    recurrent, memory = jax.tree.map(noisy, _of_rows(each.carry))
    other = Carry(recurrent, memory, each.carry.shared)
    one, two = (each.update(each.params, carry, batch) for carry in (each.carry, other))
    yield Result("reset", f"state and memory before it, {_name(each)}", difference(one, two), 1e-12)


def _rows(each: Trial, after: Carry, estimate: Estimate) -> Iterator[Result]:
    """Rows are independent, unless the algorithm shares something between them; their noise is not the same."""
    for key in _keys(each.carry.memory):
        distinct = len(np.unique(key.reshape(B, -1), axis=0)) == B
        yield holds("rows", f"each has a key of its own, {_name(each)}", distinct)
    if not _same(after.shared, each.carry.shared):
        return
    single = jax.jit(each.algorithm.update)
    results = []
    for row in range(B):
        recurrent, memory = jax.tree.map(lambda a, i=row: a[i : i + 1], _of_rows(each.carry))
        window = jax.tree.map(lambda a, i=row: a[:, i : i + 1], each.batch)
        results.append(single(each.params, Carry(recurrent, memory, each.carry.shared), window))
    carries, estimates = zip(*results, strict=True)
    joined = jax.tree.map(_joined, *map(_of_rows, carries))
    error = difference((joined, _sum(*estimates)), (_of_rows(after), _sum(estimate)))
    yield Result("rows", f"one by one, against all at once, {_name(each)}", error, 1e-12)


def _parts(each: Trial, after: Carry, estimate: Estimate) -> Iterator[Result]:
    """A batch split in two gives the same sums, and both halves the same ``shared``; as on two devices."""
    recurrent, memory = jax.tree.map(lambda a: a.reshape((2, B // 2, *a.shape[1:])), _of_rows(each.carry))
    halves = jax.tree.map(lambda a: np.stack(np.split(a, 2, axis=1)), each.batch)
    axes = (None, Carry(0, 0, None), 0)  # type: ignore[arg-type]
    split = jax.jit(jax.vmap(each.algorithm.update, in_axes=axes, axis_name="batch"))
    carries, estimates = split(each.params, Carry(recurrent, memory, each.carry.shared), halves)
    parts = [jax.tree.map(lambda a, i=i: np.asarray(a)[i], estimates) for i in (0, 1)]
    error = difference(_sum(*parts), _sum(estimate))
    yield Result("batch in two", f"sums, {_name(each)}", error, 1e-12)
    joined = jax.tree.map(lambda a: _joined(*_numbers(a)), _of_rows(carries))
    error = difference(joined, _of_rows(after))
    yield Result("batch in two", f"state and memory, {_name(each)}", error, 1e-12)
    for i in (0, 1):
        half = jax.tree.map(lambda a, i=i: _numbers(a)[i], carries.shared)
        error = difference(half, after.shared)
        yield Result("batch in two", f"shared, in half {i + 1}, {_name(each)}", error, 1e-12)


def _wide_sums(factory: Factory, network: Network, claim: Claim) -> Iterator[Result]:
    """Many equal terms in bfloat16: a sum that is not taken in a wide float stalls after 256 of them.

    A reset before every other step keeps the states young: had they come to rest, the derivative of a leak would be
    nothing but rounding.  A biased gradient is compared with the algorithm's own in float64, from the same carry.
    """
    params = make_params(network, "bfloat16")
    xs, ys = np.empty((600, 2, 3)), np.empty((600, 2, 2))
    xs[::2], xs[1::2], ys[:] = (0.5, -1.0, 0.25), (1.0, 0.5, -0.5), (3.0, -2.0)
    reset = jnp.asarray(np.arange(len(xs))[:, None] % 2 == [0, 0])
    batch = Batch(jnp.asarray(xs), jnp.asarray(ys), reset=reset)
    short, algorithm = batch._replace(xs=batch.xs.astype("bfloat16"), ys=batch.ys.astype("bfloat16")), factory(network)
    carry, precise_params = algorithm.init(params, 2, jax.random.key(0)), _precise(params)
    _, estimate = jax.jit(algorithm.update)(params, carry, short)
    precise = algorithm if isinstance(claim, Biased) else built(autodiff, network)
    precise_carry = _precise(carry) if isinstance(claim, Biased) else precise.init(precise_params, 2)
    _, expected = jax.jit(precise.update)(precise_params, precise_carry, batch)
    where, tolerance = f"1200 steps, bfloat16, {network.cells[0].name}", TOLERANCE["bfloat16"]
    yield Result("wide sums", f"loss, {where}", relative(estimate.loss, expected.loss), tolerance)
    if not isinstance(claim, Unbiased):
        leaf, error = worst(compare(estimate.grads, expected.grads))
        yield Result("wide sums", f"{leaf}, {where}", error, tolerance)
    elif claim.exact_readout:
        error = worst(compare(estimate.grads.c, expected.grads.c))[1]
        yield Result("wide sums", f"c, {where}", error, tolerance)


def _precise(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.astype("float64") if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def _garbage_where(masked: Any, batch: Any) -> Batch:
    """The batch with these steps masked, and filled with what nobody may look at."""
    masked = np.broadcast_to(masked, batch.mask.shape)
    xs, ys = (np.where(masked[..., None], np.nan, part) for part in (batch.xs, batch.ys))
    weight = np.where(masked, np.nan, batch.weight)
    return Batch._make((xs, ys, batch.mask & ~masked, batch.reset | masked, weight))


def _of_rows(carry: Carry) -> Any:
    """What the carry holds for each row, in NumPy's arrays but for the keys."""
    return jax.tree.map(lambda a: a if _is_key(a) else np.asarray(a), (carry.recurrent, carry.memory))


def _joined(*parts: Any) -> np.ndarray:
    return np.concatenate([_numbers(part) for part in parts])


def _sum(*estimates: Estimate) -> Any:
    """Loss, gradient and weight summed, and info of all rows in a row."""
    sums = jax.tree.map(lambda *a: np.sum(a, 0), *[estimate[:3] for estimate in estimates])
    return sums, jax.tree.map(_joined, *[estimate.info for estimate in estimates])


def _alike(old: Any, new: Any) -> bool:
    pairs = zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=False)
    alike = all(a.shape == b.shape and a.dtype == b.dtype for a, b in pairs)
    return alike and str(jax.tree.structure(old)) == str(jax.tree.structure(new))


def _is(array: Any, dtype: Any) -> bool:
    return bool(array.shape == () and array.dtype == dtype)


def _numbers(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _keys(tree: Any) -> list[np.ndarray]:
    """The PRNG keys among the leaves, typed or raw."""
    return [_numbers(leaf) for leaf in jax.tree.leaves(tree) if _is_key(leaf) or leaf.dtype == "uint32"]


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _same(a: Any, b: Any) -> bool:
    """Bitwise, NaN included."""
    pairs = zip(map(_numbers, jax.tree.leaves(a)), map(_numbers, jax.tree.leaves(b)), strict=True)
    return all(x.tobytes() == y.tobytes() for x, y in pairs)


def difference(tree: Any, expected: Any) -> float:
    """The largest norm-wise difference of two leaves; infinite where integers, bools or keys differ."""
    errors = [0.0]
    for a, b in zip(map(_numbers, jax.tree.leaves(tree)), map(_numbers, jax.tree.leaves(expected)), strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            errors.append(worst(compare(a, b))[1])  # type: ignore[arg-type]
        else:
            errors.append(0.0 if (a == b).all() else np.inf)
    return max(errors, key=nan_largest)


def _name(each: Trial) -> str:
    return f"{len(each.network.cells)} × {each.network.cells[0].name}"
