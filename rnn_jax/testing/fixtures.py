"""Networks, parameters, states and batches to check on, random everywhere: no check at a special point."""

from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax import network as net
from rnn_jax.checks import layer_sizes
from rnn_jax.losses import softmax_cross_entropy
from rnn_jax.types import Batch, Cell, Loss, Network, Params, State

TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-1}
"""Largest norm-wise difference of an exact gradient from autodiff's."""


def make_network(
    cell: Cell, depth: int = 1, inputs: int = 6, hidden: int = 5, outputs: int = 6, loss: Loss | None = None
) -> Network:
    """Layers of one cell."""
    return Network((cell,) * depth, inputs, hidden, outputs, loss or softmax_cross_entropy())


@lru_cache(maxsize=256)
def make_params(network: Network, dtype: str = "float64", seed: int = 0) -> Params:
    """The usual initial values, and noise on every leaf, the biases too."""
    params = jax.jit(partial(net.init, network, dtype=jnp.dtype(dtype)))(jax.random.key(seed))
    rng = np.random.default_rng(seed + 1)
    noisy: Params = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), dtype), params)
    return noisy


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
        xs = jnp.asarray(rng.integers(0, network.inputs, (T, B)))
    else:
        xs = jnp.asarray(rng.normal(size=(T, B, network.inputs)), jnp.dtype(dtype))
    if network.loss.integer_targets:
        ys = jnp.asarray(rng.integers(0, network.outputs, (T, B)))
    else:
        ys = jnp.asarray(rng.normal(size=(T, B, network.outputs)), jnp.dtype(dtype or "float64"))
    masks = rng.random((T, B)) < 0.7
    masks[rng.integers(T), rng.integers(B)] = True
    resets = rng.random((T, B)) < 0.2
    weights = None
    if weight:
        weights = jnp.asarray(np.maximum(rng.uniform(-0.5, 2.0, (T, B)), 0), jnp.dtype(dtype or "float64"))
        unseen = (weights == 0) if network.loss.integer_targets else (weights == 0)[..., None]
        ys = jnp.where(unseen, jnp.asarray(-100 if network.loss.integer_targets else jnp.nan, ys.dtype), ys)
    return Batch(xs, ys, jnp.asarray(masks) if mask else None, jnp.asarray(resets) if reset else None, weights)
