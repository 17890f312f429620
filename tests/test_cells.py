"""Cells of every kind of recurrence, with parameters of their own, in layers of different sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import (
    CELLS,
    assert_close,
    assert_same,
    cells,
    cells_marked,
    make_batch,
    make_network,
    make_params,
    make_state,
    marked,
)
from jax.nn import sigmoid

import rnn_jax as rj
from rnn_jax.cells.rtu import gain


@cells_marked()
def test_bptt_equals_autodiff_in_layers_of_different_sizes(cell):
    network = make_network(cell, 2)._replace(hidden=(5, 3))
    params, batch = make_params(network), make_batch(network, 20, 8, True, True, weight=True)
    ours, reference = (
        jax.jit(rj.value_and_grad(algorithm))(params, batch)
        for algorithm in (rj.bptt(network, segment=6), rj.autodiff(network))
    )
    assert_same(ours, reference, 1e-12)


@pytest.mark.slow
@cells
def test_unroll_differentiates_by_hand(cell):
    """Of a layer alone, from zeros: the gradient of its own parameters too, against the plain scan."""
    layer, xs = (
        rj.init_layer(cell, jax.random.key(0), 3, 5, dtype="float64"),
        np.random.default_rng(0).normal(size=(9, 2, 3)),
    )
    s0 = rj.zero_state(cell, 2, 5, "float64")
    ours = jax.grad(lambda layer: (rj.unroll(cell, layer, xs)[0] ** 2).sum())(layer)
    plain = jax.grad(lambda layer: (rj.recurrence.forward(cell, layer, xs, s0)[1][0] ** 2).sum())(layer)
    assert_close(ours, plain, 1e-12)


def hidden(cell, layer, xs):
    return rj.unroll(cell, layer, jnp.asarray(xs))[0]


def test_each_is_what_its_equations_say():
    """Three steps of one row, written out with plain sigmoids."""
    xs = np.random.default_rng(1).normal(size=(3, 1, 2))

    def layer_of(cell):
        return rj.init_layer(cell, jax.random.key(1), 2, 3, dtype="float64")

    cell = rj.elman(leak="learned")
    layer = layer_of(cell)
    h = jnp.zeros((1, 3))
    for x in xs:
        alpha = sigmoid(layer.p[0])[None]
        h = (1 - alpha) * h + alpha * jnp.tanh(x @ layer.U + h @ layer.W + layer.b[None])
    assert_close((hidden(cell, layer, xs)[-1],), (h,), 1e-14)

    cell = rj.indrnn()
    layer = layer_of(cell)
    h = jnp.zeros((1, 3))
    for x in xs:
        h = jax.nn.relu(x @ layer.U + h * layer.W[None] + layer.b[None])
    assert_close((hidden(cell, layer, xs)[-1],), (h,), 1e-14)

    cell = rj.min_gru()
    layer = layer_of(cell)
    h = jnp.zeros((1, 3))
    for x in xs:
        z, n = jnp.split(x @ layer.U + layer.b[None], 2, axis=-1)
        h = (1 - sigmoid(z)) * h + sigmoid(z) * n
    assert_close((hidden(cell, layer, xs)[-1],), (h,), 1e-14)

    cell = rj.rtu()
    layer = layer_of(cell)
    number, (log_nu, log_theta) = np.zeros((1, 3)), map(np.asarray, layer.p)
    turn = np.exp(-np.exp(log_nu) + 1j * np.exp(log_theta))
    for x in xs:
        re, im = np.split(np.asarray(x @ layer.U + layer.b[None]), 2, axis=-1)
        number = turn * number + np.sqrt(1 - np.abs(turn) ** 2) * (re + 1j * im)
        h = np.maximum(number.real, 0)
    assert_close((hidden(cell, layer, xs)[-1],), (h,), 1e-14)

    cell = rj.lstm(peepholes=True)
    layer = layer_of(cell)
    h, c, (p_i, p_f, p_o) = jnp.zeros((1, 3)), jnp.zeros((1, 3)), (p[None] for p in layer.p)
    for x in xs:
        i, f, g, o = jnp.split(x @ layer.U + h @ layer.W + layer.b[None], 4, axis=-1)
        i, f = sigmoid(i + p_i * c), sigmoid(f + p_f * c)
        c = f * c + i * jnp.tanh(g)
        h = sigmoid(o + p_o * c) * jnp.tanh(c)
    assert_close((hidden(cell, layer, xs)[-1],), (h,), 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gain_of_a_trace_unit_keeps_its_digits(dtype):
    """γ = √(1 − exp(−2ν)) and its derivative by log ν, where r is close to 1, in between, and where it is 0."""
    log_nu = np.array([-60.0, -30.0, -8.0, -1.0, 0.5, 2.0, 3.0, 20.0])
    nu = np.exp(np.array(log_nu, "longdouble"))
    gamma = np.sqrt(-np.expm1(-2 * nu))
    with np.errstate(over="ignore"):
        slope = gamma * nu / np.expm1(2 * nu)
    ours, by_jax = jnp.vectorize(jax.value_and_grad(gain))(jnp.asarray(log_nu, dtype))
    np.testing.assert_allclose(ours, gamma.astype(float), rtol=30 * float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(by_jax[:-1], slope[:-1].astype(float), rtol=60 * float(jnp.finfo(dtype).eps))
    assert by_jax[-1] < 1e-20


@pytest.mark.parametrize("recurrent", ["uniform", "orthogonal", "identity"])
def test_a_diagonal_recurrence_is_drawn_in_every_way(recurrent):
    layer = rj.init_layer(rj.lstm(diagonal=True), jax.random.key(0), 3, 5, recurrent)
    assert layer.W.shape == (20,) and (jnp.abs(layer.W) <= 1).all()
    assert recurrent == "uniform" or (jnp.abs(layer.W) == 1).all()


def test_relu_with_an_identity_recurrence_sums_its_inputs_and_stays_finite():
    """Over 400 steps each unit is the sum of relu of its inputs, and these are a hundredth of the usual ones."""
    network = make_network(rj.elman("relu"))._replace(hidden=64, inputs=2)
    usual, params = (rj.init(network, jax.random.key(0), way, "float64") for way in ("uniform", "identity"))
    np.testing.assert_allclose(params.layers[0].U, usual.layers[0].U / 100, rtol=1e-14)
    xs = np.random.default_rng(0).random((400, 3, 2))
    os, ((h,),) = rj.apply(network, params, rj.initial_state(network, params, 3), xs)
    per_step = xs @ np.asarray(params.layers[0].U)
    expected = np.zeros((3, 64))
    for z in per_step:
        expected = np.maximum(expected + z, 0)
    np.testing.assert_allclose(h, expected, rtol=1e-10, atol=1e-14)
    assert np.abs(os).max() < 10


def test_a_cell_without_recurrence_has_its_usual_inputs_beside_an_identity():
    usual, same = (
        rj.init_layer(rj.min_gru(), jax.random.key(0), 3, 5, recurrent) for recurrent in ("uniform", "identity")
    )
    np.testing.assert_array_equal(usual.U, same.U)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "lstm-peepholes", "gru", "gru-diagonal", "min_gru"])
@pytest.mark.parametrize("T_max", [3, 50])
def test_chrono_gates_keep_the_state_for_up_to_the_longest_dependency(name, T_max):
    """At u + v = b a unit keeps c or h in a share τ / (1 + τ) with τ in [1, T_max − 1]; other biases are as ever."""
    cell, H = CELLS[name], 2000
    layer = rj.init_layer(cell, jax.random.key(0), 3, H, dtype="float64", chrono=T_max)
    usual = rj.init_layer(cell, jax.random.key(0), 3, H, dtype="float64")
    for ours, other in zip(layer, usual, strict=True):
        assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), ours, other)) == (ours is not layer.b)
    gates = dict(zip(cell.gates, np.split(np.asarray(layer.b), len(cell.gates)), strict=True))
    kept = {"lstm": "f", "gru": "z"}.get(cell.name.split("-")[0])
    log_tau = gates[kept] if kept else -gates["z"]
    tau = np.exp(log_tau)
    assert (tau >= 1).all() and (tau <= T_max - 1).all()
    np.testing.assert_allclose(tau.mean(), T_max / 2, rtol=0.05)
    if kept == "f":
        np.testing.assert_array_equal(gates["i"], -gates["f"])
    # One step of the cell from h = c = 1, without inputs and recurrent weights but b.
    alone = layer._replace(W=None if layer.W is None else 0 * layer.W, p=tuple(0 * p for p in layer.p))
    ones = tuple(jnp.ones((1, H)) for _ in cell.states)
    _, s = rj.unroll(cell, alone, jnp.zeros((1, 1, 3)), ones)
    np.testing.assert_allclose(s[-1][0], tau / (1 + tau), rtol=1e-12)


@pytest.mark.parametrize("cell", [rj.elman(), rj.elman(leak="learned"), rj.indrnn(), rj.rtu()])
def test_chrono_is_refused_where_no_gate_forgets(cell):
    with pytest.raises(rj.InputError, match=f"chrono is 50; .* {cell.name} has no gate that forgets"):
        rj.init(make_network(rj.gru())._replace(cells=(rj.gru(), cell)), jax.random.key(0), chrono=50)
    with pytest.raises(rj.InputError, match="chrono is 50"):
        rj.init_layer(cell, jax.random.key(0), 3, 5, chrono=50)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"chrono": (0, 1)}, "chrono is"),
        ({"chrono": (0, 2, 0)}, "chrono is"),
        ({"recurrence": "sparse"}, "recurrence is 'sparse'"),
        ({"parameters": ("p",)}, "parameters is"),
        ({"parameters": (rj.Parameter("p", 1.0, 0.0),)}, "parameters is"),
        ({"separate": 1}, "separate is 1"),
        ({"recurrence": "none"}, "must be False, as there is no v"),
    ],
)
def test_what_a_cell_cannot_be_is_refused(change, says):
    network = make_network(rj.gru()._replace(**change))
    with pytest.raises(rj.InputError, match=says):
        rj.bptt(network)


def test_a_layer_that_does_not_fit_its_cell_is_refused():
    xs, dense = np.zeros((4, 2, 3)), rj.init_layer(rj.elman(), jax.random.key(0), 3, 5, dtype="float64")
    for cell, layer, argument in (
        (rj.indrnn(), dense, r"layer\.W"),
        (rj.elman(), dense._replace(W=None), r"layer\.W"),
        (rj.elman(leak="learned"), dense, r"layer\.p is a tuple of 0"),
        (rj.elman(), dense._replace(p=(jnp.zeros(5),)), r"layer\.p is a tuple of 1"),
    ):
        with pytest.raises(rj.InputError, match=argument):
            rj.unroll(cell, layer, xs)


@pytest.mark.parametrize("count", marked([1, 2, 4], []))
def test_micro_batches_add_up_whatever_counts_in_each(count):
    """Loss, gradients, weight and state of the parts are those of the batch, with carried state."""
    network = make_network(rj.lstm(), 2)
    params, batch = make_params(network), make_batch(network, 14, 4, True, True, weight=True)
    batch = batch._replace(mask=batch.mask.at[:, :2].set(False).at[0, 0].set(True))  # hardly a step in the first rows
    whole, parts = rj.bptt(network), rj.micro_batches(rj.bptt(network), count)
    carries = [rj.Carry(make_state(network, 4))] * 2
    for window in (jax.tree.map(lambda a: a[:9], batch), jax.tree.map(lambda a: a[9:], batch)):
        (one, expected), (two, result) = (
            jax.jit(each.update)(params, carry, window) for each, carry in zip((whole, parts), carries, strict=True)
        )
        assert_same(result[:2], expected[:2], 1e-12)
        assert abs(result.weight - expected.weight) < 1e-12 * expected.weight
        assert_close(two.recurrent, one.recurrent, 1e-12)
        carries = [one, two]


def learner(network):
    """BPTT that also learns, in ``shared``, the mean of its inputs over all rows, and counts the rows of each."""
    base = rj.bptt(network)

    def update(params, carry, batch):
        after, estimate = base.update(params, carry._replace(memory=(), shared=()), batch)
        total = rj.sum_over_batch(jnp.stack([batch.xs.sum(dtype=float), jnp.asarray(batch.xs.size, float)]))
        info = {"row": batch.xs.sum(axis=0, dtype=float)}
        memory = carry.memory + info["row"]
        shared = {"mean": total[0] / total[1], "feedback": carry.shared["feedback"]}
        return after._replace(memory=memory, shared=shared), estimate._replace(info=info)

    def init(params, B, key=None):
        shared = {"mean": jnp.zeros(()), "feedback": jnp.ones((network.hidden, network.outputs))}
        return base.init(params, B)._replace(memory=jnp.zeros(B), shared=shared)

    return rj.Algorithm(init, update)


def test_what_is_shared_is_learned_from_all_micro_batches():
    network = make_network(rj.elman(), hidden=4)  # H = B, where rows and feedback weights have one length
    params, batch = make_params(network), make_batch(network, 5, 4)
    whole, parts = learner(network), rj.micro_batches(learner(network), 2)
    (one, expected), (two, result) = (
        jax.jit(each.update)(params, each.init(params, 4), batch) for each in (whole, parts)
    )
    assert_same(result[:2], expected[:2], 1e-12)
    assert_close((two.shared, two.memory, result.info), (one.shared, one.memory, expected.info), 1e-12)


def test_micro_batches_are_refused_where_they_do_not_fit():
    algorithm, params = rj.bptt(make_network(rj.elman())), make_params(make_network(rj.elman()))
    for count in (0, 2.0, None):
        with pytest.raises(rj.InputError, match="count is"):
            rj.micro_batches(algorithm, count)
    with pytest.raises(rj.InputError, match="batch_size is 3; it must be a multiple of 2"):
        rj.micro_batches(algorithm, 2).init(params, 3)
