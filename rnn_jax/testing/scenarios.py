"""The sequences that every algorithm is tried on, and the reference's results on them."""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import InputError
from rnn_jax.diagnostics import compare, worst
from rnn_jax.gradients.autodiff import autodiff
from rnn_jax.losses import squared_error
from rnn_jax.testing.fixtures import TOLERANCE, make_batch, make_network, make_params
from rnn_jax.types import Algorithm, Array, Batch, Cell, Estimate, Network, Params, State

Factory = Callable[..., Algorithm]
"""From a network, and settings by name, to an algorithm: ``bptt``, ``functools.partial(bptt, segment=8)`` …"""
Measured = list[tuple[Estimate, State]]
"""Of each window: the estimate, and the recurrent state after it."""


class Scenario(NamedTuple):
    """A sequence, and the windows that it is cut into."""

    name: str
    depth: int = 1
    dtype: str = "float64"
    mask: bool = False
    reset: bool = False
    weight: bool = False
    windows: tuple[int, ...] = (37,)
    """Their lengths; together T.  37 is prime, and longer than any segment an algorithm is likely to cut."""
    rows: int = 3
    """B.  1, and 8, which fill a CPU's vectors: products may be laid out in another way there."""
    floats: bool = False
    """Float inputs and squared error instead of tokens and cross-entropy."""

    def __str__(self) -> str:
        """What stands in a result."""
        layers = f"{self.depth} layer{'s' * (self.depth > 1)}"
        return f"{self.name} ({layers}, {self.dtype}, T = {'+'.join(map(str, self.windows))}, B = {self.rows})"


PLAIN = Scenario("plain", rows=1)
"""No mask, no reset, no weight, one window."""
EVERYTHING = Scenario("everything", mask=True, reset=True, weight=True, windows=(1, 18, 18), rows=8)
DEEP = EVERYTHING._replace(name="everything, deep", depth=3, rows=3, floats=True)
FLOAT32, BFLOAT16 = (
    EVERYTHING._replace(name=f"everything, {dtype}", dtype=dtype, windows=(37,)) for dtype in ("float32", "bfloat16")
)
JOINT = (PLAIN, EVERYTHING, DEEP, FLOAT32, BFLOAT16)
"""What every algorithm is tried on; features run together, so that many algorithms and cells take little time."""
SEPARATE = (
    Scenario("mask", mask=True),
    Scenario("reset", reset=True),
    Scenario("weight", weight=True),
    Scenario("windows", windows=(1, 18, 18)),
    Scenario("eight rows", rows=8),
    Scenario("two layers", depth=2),
    Scenario("float inputs", floats=True),
)
"""Each feature alone, after a failure of all together."""


def supports(factory: Factory, network: Network) -> bool:
    """Whether the algorithm can be built for a network."""
    try:
        built(factory, network)
    except InputError:
        return False
    return True


@lru_cache(maxsize=64)
def built(factory: Factory, network: Network) -> Algorithm:
    """The algorithm with its usual settings, kept, so that each of its programs is compiled once."""
    return factory(network)


def network_of(cell: Cell, scenario: Scenario) -> Network:
    """A network of this cell for the scenario."""
    loss, outputs = (squared_error(), 4) if scenario.floats else (None, 7)
    network = make_network(cell, scenario.depth, outputs=outputs, loss=loss)
    return network if scenario.depth == 1 else network._replace(hidden=(5, *(4,) * (scenario.depth - 1)))


def inputs_of(network: Network, scenario: Scenario) -> tuple[Params, Batch]:
    """Parameters and sequence of the scenario, always the same; what stands in a masked step is out of range."""
    T, dtype = sum(scenario.windows), scenario.dtype if scenario.floats else None
    batch = make_batch(network, T, scenario.rows, scenario.mask, scenario.reset, dtype, weight=scenario.weight)
    if batch.mask is not None:
        parts = {name: np.array(getattr(batch, name)) for name in ("xs", "ys")}
        for part in parts.values():
            part[~np.asarray(batch.mask)] = -100 if jnp.issubdtype(part.dtype, jnp.integer) else np.nan
        batch = batch._replace(**{name: jnp.asarray(part) for name, part in parts.items()})
    return make_params(network, scenario.dtype), batch


def run(
    algorithm: Algorithm, params: Params, batch: Batch, windows: tuple[int, ...], key: Array | None = None
) -> Measured:
    """Run an algorithm over consecutive windows, with the carry handed on."""
    init = jax.jit(algorithm.init, static_argnums=1)
    carry = init(params, batch.xs.shape[1], jax.random.key(0) if key is None else key)
    batch = jax.device_get(batch)  # slices on the device would be compiled, each shape for itself
    update, start, measured = jax.jit(algorithm.update), 0, []
    for length in windows:
        window = jax.tree.map(lambda a, i=start, n=length: a[i : i + n], batch)
        carry, estimate = update(params, carry, window)
        measured.append((estimate, carry.recurrent))
        start += length
    return measured


@lru_cache(maxsize=256)
def reference(network: Network, scenario: Scenario) -> Measured:
    """What autodiff gives, window by window; kept, since every algorithm is compared with it."""
    return run(built(autodiff, network), *inputs_of(network, scenario), scenario.windows)


def whole(scenario: Scenario) -> Scenario:
    """The same sequence in a single window."""
    return scenario._replace(windows=(sum(scenario.windows),))


def total_gradient(measured: Measured) -> Params:
    """The sum over the windows."""
    total: Params = _sum([estimate.grads for estimate, _ in measured])
    return total


@jax.jit
def _sum(grads: list[Params]) -> Params:
    total: Params = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *grads)
    return total


def gradient_error(measured: Measured, expected: Measured) -> tuple[str, float]:
    """The leaf of the summed gradient that is furthest from the expected one, and how far, norm-wise."""
    return worst(compare(total_gradient(measured), total_gradient(expected)))


def tolerance_of(scenario: Scenario) -> float:
    """Norm-wise, by dtype."""
    return TOLERANCE[scenario.dtype]


def relative(value: Array, expected: Array) -> float:
    """|value − expected| / |expected| of two numbers, 0 where both are 0."""
    a, b = (float(jnp.asarray(each, float)) for each in (value, expected))
    return abs(a - b) / abs(b) if b else abs(a)
