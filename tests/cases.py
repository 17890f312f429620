"""Networks, parameters and batches that many tests draw on."""

import jax
import jax.numpy as jnp
import numpy as np

import rnn_jax as rj
from rnn_jax.diagnostics import worst

CELLS = {
    "elman": rj.elman(),
    "elman-relu-leaky": rj.elman("relu", leak=0.4),
    "elman-identity": rj.elman("identity"),
    "lstm": rj.lstm(),
    "gru": rj.gru(),
}
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1e-1}


def make_network(cell, depth=1, inputs=6, hidden=5, outputs=6, loss=None):
    return rj.Network((cell,) * depth, inputs, hidden, outputs, loss or rj.softmax_cross_entropy())


def make_params(network, dtype="float64", seed=0):
    """Random everywhere, biases too, so that no gradient is checked at a special point."""
    params = rj.init(network, jax.random.key(seed), dtype=jnp.dtype(dtype))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    noise = [0.3 * jax.random.normal(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, [leaf + extra for leaf, extra in zip(leaves, noise, strict=True)])


def make_state(network, batch_size, dtype="float64", seed=0):
    rng = np.random.default_rng(seed + 2)
    shape = (batch_size, network.hidden)
    return tuple(
        tuple(jnp.asarray(0.5 * rng.normal(size=shape), jnp.dtype(dtype)) for _ in cell.states)
        for cell in network.cells
    )


def make_batch(network, T, B, mask=False, reset=False, dtype=None, seed=0):
    """Tokens in and classes out, or floats for a dtype; masks and resets random, with one valid step at least."""
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
    return rj.Batch(xs, ys, jnp.asarray(masks) if mask else None, jnp.asarray(resets) if reset else None)


def assert_close(grads, reference, tolerance):
    leaf, error = worst(rj.compare(grads, reference))
    assert error <= tolerance, f"{leaf} is off by {error:.1e}"


def assert_same(loss_and_grads, reference, tolerance):
    """Loss and gradients both, norm-wise."""
    (loss, grads), (reference_loss, reference_grads) = loss_and_grads, reference
    assert abs(loss - reference_loss) <= tolerance * abs(reference_loss)
    assert_close(grads, reference_grads, tolerance)
