"""Rules that walk back over less than the whole sequence, and the one that predicts the rest: what they reduce to."""

from itertools import accumulate, pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import CELLS, assert_close, make_batch, make_network, make_params, marked

import rnn_jax as rj
from rnn_jax.gradients.dni import REFRESH, dni, true_adjoints
from rnn_jax.gradients.immediate import immediate
from rnn_jax.gradients.truncated import truncated
from rnn_jax.testing.scenarios import run, total_gradient

T, B = 13, 3


def tall():
    """An LSTM and a GRU above it: two and one state values, both kinds of adjoint."""
    network = make_network(CELLS["elman"], 2, inputs=3, hidden=4, outputs=3)
    return network._replace(cells=(CELLS["lstm-peepholes"], CELLS["gru"]))


def everything(network, T=T, dtype=None):
    """A batch with masks, resets and weights; inputs are tokens, or floats of a dtype."""
    return make_batch(network, T, B, True, True, dtype, weight=True)


@pytest.mark.parametrize(
    ("history", "every", "windows"),
    [
        pytest.param(13, 5, (13,), marks=pytest.mark.slow),
        pytest.param(16, 4, (6, 7), marks=pytest.mark.slow),
        pytest.param(13, 2, (1,) * 13, marks=pytest.mark.slow),
    ],
)
def test_a_history_as_long_as_the_sequence_is_bptt(history, every, windows):
    network = tall()
    params, batch = make_params(network), everything(network)
    expected = total_gradient(run(rj.bptt(network), params, batch, (T,)))
    assert_close(total_gradient(run(truncated(network, history, every), params, batch, windows)), expected, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, "float64"])
def test_a_history_of_the_steps_between_two_borders_is_bptt_by_windows(dtype):
    network = tall()
    params, batch = make_params(network), everything(network, 12, dtype)
    expected = total_gradient(run(rj.bptt(network), params, batch, (4, 4, 4)))
    assert_close(total_gradient(run(truncated(network, 4, 4), params, batch, (12,))), expected, 1e-12)


def test_a_history_of_one_step_is_the_immediate_derivative():
    network = make_network(CELLS["gru"], inputs=3, outputs=3)
    params, batch = make_params(network), everything(network)
    expected = total_gradient(run(immediate(network), params, batch, (T,)))
    assert_close(total_gradient(run(truncated(network, 1, 1), params, batch, (6, 7))), expected, 1e-12)


@pytest.mark.parametrize(("history", "every", "windows"), marked([(5, 2, (13,)), (5, 3, (6, 7)), (4, 1, (6, 7))], []))
def test_each_loss_walks_back_once_over_the_last_steps(history, every, windows):
    """By autodiff of the last steps before each border, where the losses before the last border have no weight."""
    network = make_network(CELLS["lstm"], inputs=3, outputs=3)
    params, batch = make_params(network), everything(network)._replace(mask=jnp.ones((T, B), bool))
    ends = [0, *accumulate(windows)]
    borders = sorted({0} | {min(a + n, b) for a, b in pairwise(ends) for n in range(every, b - a + every, every)})
    autodiff, expected = rj.autodiff(network), jax.tree.map(jnp.zeros_like, params)
    states = [autodiff.init(params, B).recurrent] * (history + 1)  # from before the sequence, where nothing counts
    states += [state for _, state in run(autodiff, params, batch, (1,) * T)]
    padded = jax.tree.map(lambda a: jnp.concatenate([jnp.zeros_like(a[:1])] * history + [a]), batch)
    update = jax.jit(autodiff.update)
    for last, border in pairwise(borders):
        steps = jax.tree.map(lambda a, i=border: a[i : i + history], padded)
        steps = steps._replace(weight=steps.weight.at[: history - (border - last)].set(0))
        _, estimate = update(params, rj.Carry(states[border]), steps)
        expected = jax.tree.map(jnp.add, expected, estimate.grads)
    assert_close(total_gradient(run(truncated(network, history, every), params, batch, windows)), expected, 1e-12)


@pytest.mark.slow
def test_after_a_reset_the_history_is_that_of_a_new_sequence():
    network = make_network(CELLS["lstm-peepholes"], inputs=3, outputs=3)
    params = make_params(network)
    before, after = (make_batch(network, 4, B, True, True, "float64", seed) for seed in (0, 1))
    begin = jnp.zeros((4, B), bool).at[0].set(True)
    after = after._replace(mask=after.mask | begin)
    algorithm = truncated(network, 9, 2)
    update, fresh = jax.jit(algorithm.update), algorithm.init(params, B)
    used, _ = update(params, fresh, before)
    one, _ = update(params, used, after._replace(reset=begin))
    other, _ = update(params, fresh, after._replace(reset=begin & False))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("history", "every", "name"), [(0, 1, "history"), (4, 5, "every"), (4, 0, "every")])
def test_a_history_that_cannot_be_is_refused(history, every, name):
    with pytest.raises(rj.InputError, match=f"^{name} is "):
        truncated(tall(), history, every)


@pytest.mark.slow
def test_with_the_true_future_the_predictor_s_rule_is_bptt():
    network = make_network(CELLS["gru"], inputs=3, outputs=3)
    params, batch = make_params(network), everything(network)
    futures, ends = true_adjoints(network, params, batch), jnp.asarray([4, 8, 12, 13])
    algorithm = dni(network, segment=4, oracle=lambda border: futures[ends][border])
    expected = total_gradient(run(rj.bptt(network), params, batch, (T,)))
    assert_close(total_gradient(run(algorithm, params, batch, (T,))), expected, 1e-12)


@pytest.mark.slow
def test_without_a_rate_the_predictor_s_rule_is_bptt_by_windows():
    network = tall()
    params, batch = make_params(network), everything(network)
    expected = total_gradient(run(rj.bptt(network), params, batch, (5, 5, 3)))
    assert_close(total_gradient(run(dni(network, 0.0, 5), params, batch, (T,))), expected, 1e-12)


@pytest.mark.slow
def test_the_predictor_learns_as_its_equations_say():
    """Step by step by autodiff: targets, the mean over the borders with a future, and the copy that makes targets."""
    network, n, count, rate = make_network(CELLS["gru"], inputs=3, outputs=3), 2, 2 * REFRESH + 3, 0.05
    params = make_params(network)
    batch = everything(network, n * count)._replace(xs=make_batch(network, n * count, B, seed=4).xs)
    batch = batch._replace(mask=batch.mask.at[3 * n : 4 * n].set(False).at[4 * n : 5 * n, 0].set(False))  # padding
    algorithm = dni(network, rate, n)
    carry = algorithm.init(params, B)
    A = copy = np.zeros(carry.shared.A.shape)
    features, borders, state, total = [None] * B, 0, carry.recurrent, jax.tree.map(jnp.zeros_like, params)

    def loss_and_prediction(params, state, steps, A):
        """Of a segment, with the prediction's δ at its end held constant."""
        loss, end = rj.loss(network, params, state, steps)
        y = jnp.where((steps.mask[-1] & (steps.weight[-1] > 0))[:, None], jax.nn.one_hot(steps.ys[-1], 3), 0)
        f = jnp.concatenate([end[0][0], y, jnp.ones((B, 1))], axis=1)
        return loss + (jax.lax.stop_gradient(f @ A) * end[0][0]).sum(), (f, end)

    of_params, of_state = (jax.jit(jax.grad(loss_and_prediction, i, has_aux=True)) for i in (0, 1))
    for i in range(count):
        steps = jax.tree.map(lambda a, i=i: a[i * n : (i + 1) * n], batch)
        target, (f, end) = of_state(params, state, steps, jnp.asarray(copy))
        target, counts = np.asarray(target[0][0]), np.asarray(steps.mask).any(axis=0)
        slopes = []
        for b in np.flatnonzero(counts):
            first = np.flatnonzero(steps.mask[:, b])[0]
            if features[b] is not None and not steps.reset[first, b]:
                slopes.append(np.outer(features[b], features[b] @ A - target[b]))
            features[b] = np.asarray(f[b])
        A = A - rate * np.mean(slopes, axis=0) if slopes else A
        borders += bool(counts.any())
        copy = A if counts.any() and borders % REFRESH == 0 else copy
        gradients, _ = of_params(params, state, steps, jnp.asarray(A))
        total, state = jax.tree.map(jnp.add, total, gradients), end
    carry, estimate = algorithm.update(params, carry, batch)
    assert int(carry.shared.border) == borders < count
    assert np.abs(carry.shared.A - carry.shared.copy).max() > 0
    assert_close((carry.shared.A, carry.shared.copy), (jnp.asarray(A), jnp.asarray(copy)), 1e-12)
    assert_close(estimate.grads, total, 1e-12)


@pytest.mark.slow
def test_a_learned_future_is_better_than_none():
    """One sequence again and again, at frozen weights, in segments of one step."""
    network = make_network(CELLS["elman"], inputs=3, hidden=8, outputs=3)
    params, batch = make_params(network), make_batch(network, 60, 4)
    exact = total_gradient(run(rj.bptt(network), params, batch, (60,)))
    algorithm = dni(network, 0.05, 1)
    update, carry = jax.jit(algorithm.update), algorithm.init(params, 4)
    errors = []
    for _ in range(40):
        carry, estimate = update(params, algorithm.init(params, 4)._replace(shared=carry.shared), batch)
        errors.append(float(jnp.linalg.norm(estimate.grads.layers[0].W - exact.layers[0].W)))
    truncation = gradient_error(truncated(network, 1, 1), params, batch, exact)
    assert errors[-1] < 0.8 * truncation


def gradient_error(algorithm, params, batch, exact):
    grads = total_gradient(run(algorithm, params, batch, (len(batch.xs),)))
    return float(jnp.linalg.norm(grads.layers[0].W - exact.layers[0].W))
