"""Networks, parameters, states and batches to check on, random everywhere: no check at a special point."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import layer_sizes
from rnn_jax.losses import softmax_cross_entropy
from rnn_jax.types import Array, Batch, Cell, Layer, Loss, Network, Params, State

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-1}
"""Largest norm-wise difference of an exact gradient from autodiff's."""


def make_network(
    cell: Cell, depth: int = 1, inputs: int = 6, hidden: int = 5, outputs: int = 6, loss: Loss | None = None
) -> Network:
    """Layers of one cell."""
    return Network((cell,) * depth, inputs, hidden, outputs, loss or softmax_cross_entropy())


@lru_cache(maxsize=256)
def make_params(network: Network, dtype: str = "float64", seed: int = 0) -> Params:
    """As large as the usual initial values, and noise on every leaf, the biases too.

    NumPy draws them, since compiling ``init`` for every network would take a third of a second each.  By the usual seed
    no network of the checks has a layer of rectified units that are all off, where every gradient would be 0.
    """
    rng = np.random.default_rng(seed + 2)

    def noisy(mean: np.ndarray | float, *shape: int) -> Array:
        return jnp.asarray(mean + 0.3 * rng.normal(size=shape), dtype)

    def weights(fan_in: int, *shape: int) -> Array:
        return noisy(rng.uniform(-1, 1, shape) / np.sqrt(fan_in), *shape)

    def layer(cell: Cell, D: int, H: int) -> Layer:
        G = len(cell.gates)
        dense = cell.recurrence == "dense"
        return Layer(
            U=weights(D, D, G * H),
            W=None if cell.recurrence == "none" else weights(H, H, G * H) if dense else weights(1, G * H),
            b=noisy(np.repeat(cell.bias, H), G * H),
            d=noisy(0, G * H) if cell.recurrent_bias else None,
            p=tuple(noisy(rng.uniform(low, high, H), H) for _, low, high in cell.parameters),
        )

    sizes = layer_sizes(network)
    layers = tuple(layer(cell, D, H) for cell, (D, H) in zip(network.cells, sizes, strict=True))
    H, K = sizes[-1][1], network.outputs
    return Params(layers, weights(H, H, K), noisy(0, K))


def make_state(network: Network, batch_size: int, dtype: str = "float64", seed: int = 0) -> State:
    """A recurrent state that is not zero."""
    rng = np.random.default_rng(seed + 2)
    return tuple(
        tuple(jnp.asarray(0.5 * rng.normal(size=(batch_size, H)), jnp.dtype(dtype)) for _ in cell.states)
        for cell, (_, H) in zip(network.cells, layer_sizes(network), strict=True)
    )


def make_batch(
    network: Network,
    T: int,
    B: int,
    mask: bool = False,
    reset: bool = False,
    dtype: str | None = None,
    seed: int = 0,
    weight: bool = False,
) -> Batch:
    """Tokens for inputs, or floats of a dtype; mask, reset and weight at random, with one step that counts at least.

    Where the weight is 0, which is often, the target is no target: −100 or NaN.
    """
    rng = np.random.default_rng(seed)
    if dtype is None:
        xs = rng.integers(0, network.inputs, (T, B))
    else:
        xs = rng.normal(size=(T, B, network.inputs)).astype(jnp.dtype(dtype))
    if network.loss.integer_targets:
        ys = rng.integers(0, network.outputs, (T, B))
    else:
        ys = rng.normal(size=(T, B, network.outputs)).astype(jnp.dtype(dtype or "float64"))
    masks = rng.random((T, B)) < 0.7
    masks[rng.integers(T), rng.integers(B)] = True
    resets = rng.random((T, B)) < 0.2
    weights = None
    if weight:
        weights = np.maximum(rng.uniform(-0.5, 2.0, (T, B)), 0).astype(jnp.dtype(dtype or "float64"))
        ys[weights == 0] = -100 if network.loss.integer_targets else np.nan
    parts = (xs, ys, masks if mask else None, resets if reset else None, weights)
    return Batch._make(jax.tree.map(jnp.asarray, parts))
