"""Extreme numbers: large logits, saturated units, long chaotic sequences, short floats, and NaN, never hidden."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import (
    CELLS,
    TOLERANCE,
    assert_same,
    cells,
    exact_algorithms,
    make_batch,
    make_network,
    make_params,
    make_state,
    marked,
    update_of,
)

import rnn_jax as rj
from rnn_jax import network as net
from rnn_jax.cells import gates
from rnn_jax.diagnostics import worst
from rnn_jax.gradients import traces
from rnn_jax.recurrence import forward

T, B, STEP, ROW = 9, 3, 4, 1

pytestmark = pytest.mark.filterwarnings("ignore:record_property is incompatible")

dtypes = pytest.mark.parametrize("dtype", marked(["float64", "float32"], ["float32"]))

apply = jax.jit(net.apply, static_argnums=0)
jitted = functools.cache(lambda algorithm, network: jax.jit(update_of(algorithm(network))))


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


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gates_keep_their_digits(dtype):
    """σ, 1 − σ and σ′ within four roundings of their own size for any pre-activation, and beyond the smallest float."""
    eps, tiny = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).tiny)
    x = jnp.concatenate([jnp.linspace(-100, 100, 4001), jnp.array([-1e4, 1e4, 0.0, -0.0])]).astype(dtype)
    w, precise = gates.gate(x), np.asarray(x, np.float64)
    e = np.exp(-abs(precise))
    opened, shut = (np.where(sign * precise > 0, 1, e) / (1 + e) for sign in (1, -1))
    for ours, reference in ((gates.sigma, opened), (gates.complement, shut), (gates.slope, opened * shut)):
        off = np.abs(np.asarray(ours(w), np.float64) - reference)
        assert (off <= 4 * eps * reference + tiny).all()
    slopes = jax.vmap(jax.grad(gates.gate))(x)
    assert (np.abs(np.asarray(slopes, np.float64) - opened * shut) <= 3 * eps * opened * shut + tiny).all()


def with_block(params, name, gate, change):
    """The parameters with one gate's block of a layer's leaf changed."""
    layer = params.layers[0]
    leaf = getattr(layer, name)
    blocks = leaf.reshape(*leaf.shape[:-1], -1, layer.W.shape[0])
    changed = blocks.at[..., gate, :].set(change(blocks[..., gate, :])).reshape(leaf.shape)
    return params._replace(layers=(layer._replace(**{name: changed}),))


SHUT = [-80.0, -20.0, -12.0, -5.0, 4.0, 8.0, 12.0, 16.0, 20.0, 80.0]
GATES = [("gru", 0), ("gru", 1), ("lstm", 0), ("lstm", 1), ("lstm", 3)]
each_gate = pytest.mark.parametrize(("name", "gate"), marked(GATES, [("gru", 1), ("lstm", 1)]))
each_dtype = pytest.mark.parametrize("dtype", marked(list(TOLERANCE), ["float32"]))


def distances(network, params, state, batch, dtype, gradient=gradient):
    """How far bptt and autodiff of one dtype are from float64, on the numbers that this dtype can hold."""
    short = cast((params, state, batch), dtype)
    precise = gradient(rj.autodiff, network, *cast(short, "float64"))[1]
    return [
        worst(rj.compare(gradient(algorithm, network, *short)[1], precise))[1] for algorithm in (rj.bptt, rj.autodiff)
    ]


@each_dtype
@each_gate
def test_shut_gates(name, gate, dtype):
    """Within the tolerance of float64, however far a gate is shut or open; at ±80 no further than autodiff."""
    network, params, state, batch = window(CELLS[name], T=40)
    for bias in SHUT:
        ours, reference = distances(
            network, with_block(params, "b", gate, lambda b, x=bias: b + x), state, batch, dtype
        )
        assert ours <= (TOLERANCE[dtype] if abs(bias) <= 20 else max(TOLERANCE[dtype], 3 * reference)), bias


@each_dtype
@pytest.mark.parametrize("leaf", ["d", "U"])
def test_saturated_candidates(leaf, dtype):
    """Of a GRU, where n = ±1: nothing may flow through it, however large v_n is."""
    network, params, state, batch = window(rj.gru(), T=40)
    noise = jax.random.normal(jax.random.key(3), (5,) if leaf == "d" else (6, 5))
    for size in (30.0, 100.0, 1e4):
        ours, reference = distances(
            network, with_block(params, leaf, 2, lambda _, size=size: size * noise), state, batch, dtype
        )
        assert ours <= max(TOLERANCE[dtype], 3 * reference), size


def second_order(algorithm, network, params, state, batch):
    """A Hessian times a vector, over a layer: by the derivative of the hand-written reverse, or of autodiff."""
    (cell,), (layer,), (s0,) = network.cells, params.layers, state
    weights = jnp.asarray(np.random.default_rng(5).normal(size=(T, B, 5)), layer.W.dtype)

    def hidden(layer):
        return (
            rj.unroll(cell, layer, batch.xs, s0)[0]
            if algorithm is rj.bptt
            else forward(cell, layer, batch.xs, s0)[1][0]
        )

    def slope(layer):
        grads = jax.grad(lambda layer: (hidden(layer) * weights).sum(dtype=weights.dtype))(layer)
        return sum(
            (jnp.sin(jnp.arange(g.size, dtype=g.dtype)).reshape(g.shape) * g).sum() for g in jax.tree.leaves(grads)
        )

    return 0.0, jitted_slope(slope, layer)


def jitted_slope(slope, layer):
    return jax.jit(jax.grad(slope))(layer)


BIASES = [("gru", 1, 5.0), ("gru", 1, 16.0), ("lstm", 3, -80.0), ("lstm", 1, 12.0)]


@pytest.mark.slow
@each_dtype
@pytest.mark.parametrize(("name", "gate", "bias"), marked(BIASES, [], BIASES[1::2]))
def test_second_derivatives_at_shut_gates(name, gate, bias, dtype):
    """Finite, and no further from float64 than autodiff's; 3 × 5 units, at 4 × 5 XLA itself is wrong on a CPU."""
    network, params, state, batch = window(CELLS[name])
    params = with_block(params, "b", gate, lambda b: b + bias)
    ours, reference = distances(network, params, state, batch, dtype, second_order)
    assert ours <= max(TOLERANCE[dtype], 3 * reference)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_saturated_unit_has_no_gradient(dtype):
    """u_n = 0, r = ½, v_n = 10⁴: n is 1, and what flows into r must be 0, not a rounding times v_n."""
    cell, one = rj.gru(), jnp.ones((1, 1), dtype)
    s_prev, u, v = (0.3 * one,), (0 * one, 0.3 * one, 0 * one), (0 * one, 0 * one, 1e4 * one)
    s, residual = cell.step(s_prev, u, v)
    _, (delta_r, _, delta_n), _ = cell.adjoint(s_prev, s, residual, (one,))
    assert delta_r == 0 and delta_n == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_confident_predictions(dtype, offset):
    """Loss and gradient within the tolerance of float64 where every target is one class, down to a loss of 1e-8."""
    network, params, state, batch = window(rj.elman(), T=20)
    batch = batch._replace(ys=jnp.zeros_like(batch.ys))
    for margin in (0.0, 8.0, 12.0, 16.0, 20.0):
        short = cast((params._replace(c=params.c.at[0].add(margin)), state), dtype)
        short = (short[0]._replace(c=short[0].c + jnp.asarray(offset, dtype)), short[1])
        loss, grads = gradient(rj.bptt, network, *short, batch)
        exact, precise = gradient(rj.bptt, network, *cast(short, "float64"), batch)
        if offset:  # the logits of float64 have digits that those of the short dtype have not; the loss has them all
            os = apply(network, *short, batch.xs)[0]
            exact = network.loss.value(os.astype("float64"), batch.ys).sum()
        else:
            assert worst(rj.compare(grads, precise))[1] <= TOLERANCE[dtype], margin
        assert abs(float(loss) - float(exact)) <= TOLERANCE[dtype] * float(exact), margin


@pytest.mark.parametrize("leaf", ["U", "b"])
@dtypes
@cells
def test_saturated_units(cell, dtype, leaf):
    """Pre-activations of some 10⁶, at which nothing flows back through a tanh or a sigmoid."""
    network, params, state, batch = window(cell, dtype=dtype)
    layer = params.layers[0]
    params = params._replace(layers=(layer._replace(**{leaf: 1e6 * getattr(layer, leaf)}),))
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


@exact_algorithms
@cells
def test_nan_in_an_input(cell, algorithm):
    """It stays in its row, from its step on, up to a reset."""
    network, params, state, batch = window(cell, depth=2, inputs="float64")
    xs = batch.xs.at[STEP, ROW, 2].set(jnp.nan)
    assert_surfaces(algorithm, network, params, state, batch._replace(xs=xs), from_step(STEP))
    reset = jnp.zeros((T, B), bool).at[STEP + 2, ROW].set(True)
    only = from_step(STEP) & ~from_step(STEP + 2)
    assert_surfaces(algorithm, network, params, state, batch._replace(xs=xs, reset=reset), only)


@exact_algorithms
@cells
def test_nan_between_two_windows(cell, algorithm):
    """In one unit of the state carried on, in each layer and each state value that the next step sees."""
    network, params, state, batch = window(cell, depth=2)
    for level, units in enumerate(state):
        for k in traces.seen(cell, params.layers[level]):
            bad = tuple(leaf.at[ROW, 3].set(jnp.nan) if i == k else leaf for i, leaf in enumerate(units))
            carried = (*state[:level], bad, *state[level + 1 :])
            assert_surfaces(algorithm, network, params, carried, batch, from_step(0))


@exact_algorithms
@cells
def test_nan_in_a_weight(cell, algorithm):
    """In any leaf, at one place: every step is NaN, but for the row of a token, which counts from its first one on."""
    network, params, state, batch = window(cell, depth=2)
    xs = batch.xs.at[STEP, ROW].set(5).at[:STEP].set(batch.xs[:STEP] % 5)
    leaves, structure = jax.tree.flatten(params)
    for index, (path, leaf) in enumerate(jax.tree.leaves_with_path(params)):
        place = (*(-1,) * (leaf.ndim - 1), 0)  # of the first gate, which every cell's output sees in the same step
        bad = [leaf.at[place].set(jnp.nan) if i == index else leaf for i, leaf in enumerate(leaves)]
        of_token = jax.tree_util.keystr(path) == ".layers[0].U"
        seen = np.maximum.accumulate(np.asarray(xs == 5)) if of_token else np.ones((T, B), bool)
        assert seen[STEP:, ROW].all() and of_token == (not seen[:STEP].any())
        assert_surfaces(algorithm, network, jax.tree.unflatten(structure, bad), state, batch._replace(xs=xs), seen)
