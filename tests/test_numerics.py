"""Extreme numbers: large logits, saturated units, long chaotic sequences, short floats, and NaN, never hidden."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CELLS, TOLERANCE, assert_same, make_batch, make_network, make_params, make_state

import rnn_jax as rj
from rnn_jax import network as net
from rnn_jax.diagnostics import worst

T, B, STEP, ROW = 9, 3, 4, 1

pytestmark = pytest.mark.filterwarnings("ignore:record_property is incompatible")
cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])
algorithms = pytest.mark.parametrize("algorithm", [rj.bptt, rj.autodiff])


apply = jax.jit(net.apply, static_argnums=0)
jitted = functools.cache(lambda algorithm, network: jax.jit(algorithm(network).update))


def window(cell, depth=1, T=T, dtype="float64", inputs=None, **sizes):
    network = make_network(cell, depth, **sizes)
    params, state = make_params(network, dtype), make_state(network, B, dtype)
    return network, params, state, make_batch(network, T, B, dtype=inputs)


def gradient(algorithm, network, params, state, batch):
    return jitted(algorithm, network)(params, state, batch)[0]


def assert_right(network, params, state, batch):
    """Finite, and equal to autodiff's."""
    loss, grads = gradient(rj.bptt, network, params, state, batch)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((loss, grads)))
    assert_same((loss, grads), gradient(rj.autodiff, network, params, state, batch), TOLERANCE[params.V.dtype.name])
    return loss, grads


def cast(tree, dtype):
    return jax.tree.map(lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def float32_error(network, params, state, batch):
    """How far the gradient in float32 is from that in float64: the worst leaf, norm-wise."""
    short, precise = (gradient(rj.bptt, network, *cast((params, state, batch), d))[1] for d in ("float32", "float64"))
    return worst(rj.compare(short, precise))[1]


@dtypes
@cells
def test_large_logits(cell, dtype):
    """The softmax is one or zero to the last bit, and its loss up to 2 · 10⁴ a step."""
    network, params, state, batch = window(cell, dtype=dtype)
    os, _ = apply(network, params, state, batch.xs)
    params = params._replace(V=params.V * (1e4 / abs(os).max()))
    loss, _ = assert_right(network, params, state, batch)
    assert 1e4 < loss <= 2e4 * T * B


@pytest.mark.parametrize("bias", [-80.0, -20.0, -8.0, 0.0, 4.0, 8.0, 20.0])
@pytest.mark.parametrize("name, gate", [("gru", 1), ("lstm", 3)])
def test_shutting_gates(name, gate, bias):
    """GRU and LSTM divide by 1 − z and o to find n and tanh c: no worse in float32 than autodiff, which keeps them."""
    network, params, state, batch = window(CELLS[name], T=50)
    layer = params.layers[0]
    params = params._replace(layers=(layer._replace(b=layer.b.reshape(-1, 5).at[gate].add(bias).ravel()),))
    precise = gradient(rj.autodiff, network, params, state, batch)[1]
    errors = [
        worst(rj.compare(gradient(algorithm, network, *cast((params, state, batch), "float32"))[1], precise))[1]
        for algorithm in (rj.bptt, rj.autodiff)
    ]
    assert errors[0] <= 2 * errors[1] + 1e-6


@pytest.mark.parametrize("leaf", ["U", "b"])
@dtypes
@cells
def test_saturated_units(cell, dtype, leaf):
    """Pre-activations of some 10⁴, at which nothing flows back through a tanh or a sigmoid."""
    network, params, state, batch = window(cell, dtype=dtype)
    layer = params.layers[0]
    params = params._replace(layers=(layer._replace(**{leaf: 1e4 * getattr(layer, leaf)}),))
    _, grads = assert_right(network, params, state, batch)
    if cell.name == "elman-tanh":
        assert not any(leaf.any() for leaf in jax.tree.leaves(grads.layers)) and grads.V.any()


@pytest.mark.parametrize(("gain", "bound"), [("norm", 1e-5), ("spread", np.inf)])
def test_a_thousand_steps_at_gain_1_8(gain, bound, record_property):
    """W of spectral norm 1.8, or of entries spread by 1.8/√H: there the network is chaotic and δh grows by 10³⁰.

    In float64 the gradient is exact in both.  Float32 follows another trajectory where there is chaos, so that no digit
    of its gradient is left, as of any algorithm's; that error is reported only.
    """
    network, params, state, batch = window(rj.elman(), T=1000, hidden=64)
    W = np.random.default_rng(0).normal(size=(64, 64))
    W *= 1.8 / (np.linalg.norm(W, 2) if gain == "norm" else np.sqrt(64))
    params = params._replace(layers=(params.layers[0]._replace(W=jnp.asarray(W)),))
    _, grads = assert_right(network, params, state, batch)
    assert (jnp.linalg.norm(grads.layers[0].W) > 1e20) == (gain == "spread")
    error = float32_error(network, params, state, batch)
    record_property("error of float32 against float64", error)
    assert error <= bound


@cells
def test_float32_against_float64(cell, record_property):
    error = float32_error(*window(cell, T=100, inputs="float64"))
    record_property("error of float32 against float64", error)
    assert error <= 1e-4


def assert_surfaces(algorithm, network, params, state, batch, bad):
    """The losses of just these steps [T, B] are NaN; so are the loss of the window and part of the gradient."""
    os, _ = apply(network, params, state, batch.xs, None, batch.reset)
    losses = network.loss.value(os, batch.ys)
    np.testing.assert_array_equal(jnp.isnan(losses), bad)
    assert jnp.isfinite(losses[~bad]).all()
    loss, grads = gradient(algorithm, network, params, state, batch)
    assert jnp.isnan(loss)
    assert any(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(grads))


def from_step(step, row=ROW):
    return (np.arange(T)[:, None] >= step) & (np.arange(B)[None, :] == row)


@algorithms
@cells
def test_nan_in_an_input(cell, algorithm):
    """It stays in its row, from its step on, up to a reset."""
    network, params, state, batch = window(cell, depth=2, inputs="float64")
    xs = batch.xs.at[STEP, ROW, 2].set(jnp.nan)
    assert_surfaces(algorithm, network, params, state, batch._replace(xs=xs), from_step(STEP))
    reset = jnp.zeros((T, B), bool).at[STEP + 2, ROW].set(True)
    only = from_step(STEP) & ~from_step(STEP + 2)
    assert_surfaces(algorithm, network, params, state, batch._replace(xs=xs, reset=reset), only)


@algorithms
@cells
def test_nan_between_two_windows(cell, algorithm):
    """In one unit of the state carried on, in each layer and each state value."""
    network, params, state, batch = window(cell, depth=2)
    leaves, structure = jax.tree.flatten(state)
    for index in range(len(leaves)):
        bad = [leaf.at[ROW, 3].set(jnp.nan) if i == index else leaf for i, leaf in enumerate(leaves)]
        assert_surfaces(algorithm, network, params, jax.tree.unflatten(structure, bad), batch, from_step(0))


@algorithms
@cells
def test_nan_in_a_weight(cell, algorithm):
    """In any leaf, at one place: every step is NaN, but for the row of a token, which counts from its first one on."""
    network, params, state, batch = window(cell, depth=2)
    xs = batch.xs.at[STEP, ROW].set(5).at[:STEP].set(batch.xs[:STEP] % 5)
    leaves, structure = jax.tree.flatten(params)
    for index, (path, leaf) in enumerate(jax.tree.leaves_with_path(params)):
        bad = [leaf.at[(-1,) * leaf.ndim].set(jnp.nan) if i == index else leaf for i, leaf in enumerate(leaves)]
        of_token = jax.tree_util.keystr(path) == ".layers[0].U"
        seen = np.maximum.accumulate(np.asarray(xs == 5)) if of_token else np.ones((T, B), bool)
        assert seen[STEP:, ROW].all() and of_token == (not seen[:STEP].any())
        assert_surfaces(algorithm, network, jax.tree.unflatten(structure, bad), state, batch._replace(xs=xs), seen)
