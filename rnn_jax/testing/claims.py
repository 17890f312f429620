"""The tests of what an algorithm claims of its gradient: exact, unbiased, or biased with a limit."""

import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.diagnostics import compare, worst
from rnn_jax.gradients.autodiff import autodiff
from rnn_jax.testing.contract import Trial, difference
from rnn_jax.testing.fixtures import TOLERANCE, make_network, make_params
from rnn_jax.testing.report import Result, holds
from rnn_jax.testing.scenarios import (
    DEEP,
    EVERYTHING,
    PLAIN,
    Factory,
    Measured,
    Scenario,
    built,
    gradient_error,
    inputs_of,
    network_of,
    reference,
    run,
    supports,
    tolerance_of,
    total_gradient,
    whole,
)
from rnn_jax.types import Array, Batch, Biased, Cell, Claim, Exact, Network, Params, Unbiased

KEYS = 4096
"""Draws of a z-test."""
ERROR_RATE = 1e-6
"""How often a z-test may fail on an unbiased algorithm."""
BATCH_SIZE = 1024
"""Draws computed at once."""
STEPS = 6
"""Length of the sequence of a z-test."""


def exact(measured: Measured, claim: Exact, network: Network, scenario: Scenario, where: str) -> Result:
    """The gradient, summed over the windows, is autodiff's: of each window, or of the whole sequence."""
    expected = reference(network, whole(scenario) if claim.across_windows else scenario)
    leaf, error = gradient_error(measured, expected)
    return Result("gradient", f"{leaf}, {where}", error, tolerance_of(scenario))


def exact_laws(each: Trial) -> Iterator[Result]:
    """What holds for an exact gradient whatever the reference is: padding anywhere, and linearity in the weights."""
    name, batch = each.network.cells[0].name, each.batch

    def placed(steps: list[int]) -> Batch:
        def moved(part: np.ndarray, elsewhere: float | bool) -> np.ndarray:
            whole = np.full_like(part, elsewhere)
            whole[steps] = part[:3]
            return whole

        xs, ys, weight = (moved(part, np.nan) for part in (batch.xs, batch.ys, batch.weight))
        return Batch._make((xs, ys, moved(np.ones_like(batch.mask), False), moved(batch.reset, False), weight))

    early, apart = (each.update(each.params, each.carry, placed(steps)) for steps in ([0, 1, 2], [1, 3, 5]))
    yield Result("padding", f"anywhere, {name}", difference(early, apart), TOLERANCE["float64"])
    thrice = each.update(each.params, each.carry, batch._replace(weight=3 * batch.weight))[1]
    once = each.update(each.params, each.carry, batch)[1]
    error = difference(thrice[:3], jax.tree.map(lambda a: 3 * np.asarray(a), once[:3]))
    yield Result("weights", f"three times as large, {name}", error, TOLERANCE["float64"])


def unbiased(factory: Factory, claim: Claim | None, cell: Cell) -> Iterator[Result]:
    """The mean is exact: over every outcome where they can be listed, and over keys, as far as chance allows."""
    for everything, depth in ((False, 1), (True, 1), (True, 2)):
        network = make_network(cell, depth, inputs=2, hidden=2, outputs=2)
        own = claim or (built(factory, network).claim if supports(factory, network) else None)
        if isinstance(own, Unbiased):
            if own.enumerate is not None:
                yield mean_of_outcomes(factory, network, own, everything)
            if own.enumerate is None or (everything, depth) == (True, 1):
                yield from _mean_over_keys(factory, network, everything, alone=own.enumerate is None)


def biased(factory: Factory, claim: Claim | None, cell: Cell) -> Iterator[Result]:
    """The gradient is exact in the stated limit, by the same factory with the limit's settings, and not elsewhere."""
    for scenario in (PLAIN, EVERYTHING, DEEP):
        network = network_of(cell, scenario)
        own = claim or (built(factory, network).claim if supports(factory, network) else None)
        if isinstance(own, Biased):
            yield limit(factory, own, network, scenario)
        if isinstance(own, Biased) and scenario == EVERYTHING:
            measured = run(built(factory, network), *inputs_of(network, scenario), scenario.windows)
            expected = reference(network, whole(scenario) if own.across_windows else scenario)
            _, error = gradient_error(measured, expected)
            yield holds("biased elsewhere", f"{cell.name}, or else it should claim Exact", error > 1e-6)
            layers = total_gradient(measured).layers
            yield holds("biased elsewhere", f"{cell.name}, no leaf of a layer's gradient is 0", _nowhere_zero(layers))


def limit(factory: Factory, claim: Biased, network: Network, scenario: Scenario) -> Result:
    """The gradient in the limit is autodiff's there, and is not zero."""
    settings, params, batch = claim.limit(network, *inputs_of(network, scenario))
    T = batch.xs.shape[0]
    windows = scenario.windows if sum(scenario.windows) == T else (T,)
    measured = run(factory(network, **settings), params, batch, windows)
    expected = run(built(autodiff, network), params, batch, (T,) if claim.across_windows else windows)
    leaf, error = gradient_error(measured, expected)
    where = f"{leaf}, {network.cells[0].name}, {scenario}, {claim.description or settings}"
    if not _nowhere_zero(total_gradient(expected).V):
        return Result("exact in its limit", f"{where}: the gradient is 0 there, which proves nothing", math.inf, 0.0)
    return Result("exact in its limit", where, error, tolerance_of(scenario))


def _nowhere_zero(tree: Any) -> bool:
    return all(float(np.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(tree))


def _sequence(network: Network, T: int, everything: bool) -> tuple[Params, Batch, tuple[int, ...]]:
    """A short sequence of one row, in one window; or in two, with a masked step, a reset and weights.

    Of six steps the second is masked, the third has weight 0 and the fifth is reset; the border is after the third, so
    that credit for the loss of the fourth step crosses it, from two steps.  Shorter sequences have as much as fits.

    The two steps have different tokens, and by these parameters the influence on two units crosses the border, even
    where they are rectified.  Otherwise it would be of rank 1, and an approximation of rank 1 would draw nothing.
    """
    rng, params = np.random.default_rng(1), make_params(network, seed=11)
    xs, ys = (jnp.asarray(rng.integers(0, 2, (T, 1))) for _ in range(2))
    if not everything or T < 3:
        return params, Batch(xs, ys), (1,) * T if everything else (T,)
    step, weight = np.arange(T)[:, None], rng.uniform(0.5, 2.0, (T, 1))
    mask, reset = (step != 1) | (T < 4), step == (T - 2 if T > 4 else T - 1)
    border = 3 if T > 5 else 2 if T > 3 else 1
    parts = mask, reset | ~mask, np.where((step == 2) & (T > 5), 0, weight)
    return params, Batch(xs, ys, *map(jnp.asarray, parts)), (border, T - border)


def mean_of_outcomes(factory: Factory, network: Network, claim: Unbiased, everything: bool) -> Result:
    """The mean over all outcomes that the claim lists is autodiff's gradient."""
    assert claim.enumerate is not None
    params, batch, windows = _sequence(network, claim.steps, everything)
    settings, noise = claim.enumerate(network, claim.steps, 1)
    count = len(jax.tree.leaves(noise)[0])

    @jax.jit
    def mean(noise: Any) -> Params:
        def gradient(outcome: Any) -> Params:
            return total_gradient(run(factory(network, **settings(outcome)), params, batch, windows))

        grads = jax.lax.map(gradient, noise, batch_size=min(BATCH_SIZE, count))
        average: Params = jax.tree.map(lambda g: g.mean(0), grads)
        return average

    leaf, error = worst(compare(mean(noise), _exact_gradient(network, params, batch)))
    case = "mask, reset, weight, 2 windows" if everything else "plain"
    where = f"{leaf}, {_layers(network)}, {case}, {count} outcomes of {claim.steps} steps"
    return Result("mean of all outcomes", where, error, TOLERANCE["float64"])


def _mean_over_keys(factory: Factory, network: Network, everything: bool, alone: bool) -> Iterator[Result]:
    """A z-test; where it stands ``alone``, with no outcomes listed, it must be able to see a bias of a leaf's norm."""
    params, batch, windows = _sequence(network, STEPS, everything)
    algorithm, keys = built(factory, network), jax.random.split(jax.random.key(0), KEYS)

    @jax.jit
    def gradients(keys: Array) -> Params:
        def gradient(key: Array) -> Params:
            return total_gradient(run(algorithm, params, batch, windows, key))

        drawn: Params = jax.lax.map(gradient, keys, batch_size=BATCH_SIZE)
        return drawn

    drawn = gradients(keys)
    expected = _exact_gradient(network, params, batch)
    where = f"{_layers(network)}, {'mask, reset, weight, 2 windows' if everything else 'plain'}, {KEYS} keys"
    yield from _z_test(drawn, expected, where, alone)
    varies = any(bool((leaf != leaf[:1]).any()) for leaf in jax.tree.leaves(drawn))
    yield holds("is random", f"two draws differ, {where}", varies)


def _z_test(drawn: Params, expected: Params, where: str, alone: bool) -> Iterator[Result]:
    """The largest |z| of all elements; ``alone``: and the largest bias that would not be found, each with its leaf."""
    size = sum(leaf.size for leaf in jax.tree.leaves(expected))
    bound = NormalDist().inv_cdf(1 - ERROR_RATE / (2 * size))
    largest, unseen = {}, {}
    for (path, leaf), exact in zip(jax.tree.leaves_with_path(drawn), jax.tree.leaves(expected), strict=True):
        g, ref, name = np.asarray(leaf), np.asarray(exact), jax.tree_util.keystr(path).removeprefix(".")
        error = g.std(0, ddof=1) / math.sqrt(len(g))
        z = np.abs(g.mean(0) - ref) / np.maximum(error, 1e-12 * max(np.abs(g).max(), 1e-300))
        largest[name] = math.inf if np.isnan(z).any() else float(z.max())
        unseen[name] = bound * float(np.linalg.norm(error)) / max(float(np.linalg.norm(ref)), 1e-300)
    name = max(largest, key=lambda each: largest[each])
    yield Result("mean over keys", f"largest |z|, in {name}, {where}", largest[name], bound)
    if not alone:
        return
    name = max(unseen, key=lambda each: unseen[each])
    hidden = f"largest bias of {name} that the noise would hide, of the leaf's norm, {where}"
    remedy = "list the outcomes in `enumerate`, or lower the variance"
    yield Result("power", hidden, unseen[name], 1.0, remedy)


def _exact_gradient(network: Network, params: Params, batch: Batch) -> Params:
    return total_gradient(run(built(autodiff, network), params, batch, (len(batch.xs),)))


def _layers(network: Network) -> str:
    return f"{len(network.cells)} × {network.cells[0].name}"
