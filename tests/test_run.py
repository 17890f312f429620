"""The loop of training: what padding does, what a state belongs to, and which tokens it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import make_batch, make_network, make_params

import rnn_jax as rj
from rnn_jax import train

NETWORK = make_network(rj.gru())
BPTT, ADAM = rj.bptt(NETWORK), optax.adam(0.01)
REAL_STEP = train.make_step(BPTT, ADAM)
PADDED = [3, 4]


@pytest.fixture(autouse=True)
def _promotion():
    """Optax's own arithmetic promotes dtypes implicitly."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def batch_at(index):
    return make_batch(NETWORK, 5, 3, seed=index)


def start(optimiser=ADAM, params=None):
    params = make_params(NETWORK, "float32") if params is None else params
    return train.init_state(BPTT, optimiser, params, 3)


def after(steps):
    """The state that an undisturbed run leads to."""
    *_, (state, _) = train.run(REAL_STEP, start(), batch_at, steps)
    return state


def padded_at(index):
    batch = batch_at(index)
    return batch._replace(mask=jnp.full((5, 3), index not in PADDED))


def unweighted_at(index):
    return batch_at(index)._replace(weight=jnp.full((5, 3), float(index not in PADDED), jnp.float32))


@pytest.mark.parametrize("batches", [padded_at, unweighted_at])
@pytest.mark.parametrize("optimiser", [ADAM, optax.MultiSteps(ADAM, 2)], ids=["adam", "MultiSteps"])
def test_a_window_of_padding_only_changes_nothing_but_the_count(optimiser, batches):
    """Neither parameters nor the optimiser's state, by one bit; a MultiSteps accumulates nothing."""
    step, state = train.make_step(BPTT, optimiser), start(optimiser)
    for index in range(6):
        before = jax.tree.map(jnp.copy, state)
        state, metrics = step(state, batches(index))
        assert state.step == index + 1 and state.finite
        if index in PADDED:
            assert metrics.weight == 0
            chex.assert_trees_all_equal(state[:2], before[:2])
        else:
            assert metrics.weight == 15


def test_a_report_leaves_padding_out():
    """Its mean is that over the windows with a step that counts; alone, padding reports NaN."""
    reports = list(train.run(REAL_STEP, start(), padded_at, 6, every=6))
    singles = [metrics for _, metrics in train.run(REAL_STEP, start(), padded_at, 6, every=1)]
    losses = [metrics.loss for index, metrics in enumerate(singles) if index not in PADDED]
    ((_, metrics),) = reports
    np.testing.assert_allclose(metrics.loss, np.mean(losses), rtol=1e-6)
    assert metrics.weight == 4 * 15
    for index in PADDED:
        assert np.isnan([singles[index].loss, singles[index].grad_norm]).all() and singles[index].weight == 0


HOLDS_PARAMETERS = {
    "prodigy": optax.contrib.prodigy(),
    "schedule_free": optax.contrib.schedule_free(optax.sgd(0.01), 0.01),
    "noise": optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(7)), ADAM),
    "adam": ADAM,
}


@pytest.mark.parametrize("optimiser", HOLDS_PARAMETERS.values(), ids=HOLDS_PARAMETERS)
def test_two_runs_from_one_start(optimiser):
    """A step donates its state only: neither the parameters nor the optimiser go with it."""
    params, step = make_params(NETWORK, "float32"), train.make_step(BPTT, optimiser)
    runs = []
    for _ in range(2):
        *_, (state, _) = train.run(step, start(optimiser, params), batch_at, 2)
        runs.append(state)
    chex.assert_trees_all_equal(*runs)
    chex.assert_trees_all_equal(params, make_params(NETWORK, "float32"))


def test_the_step_is_traced_inside_of_scan_and_jit():
    batches = [batch_at(index) for index in range(4)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    state, metrics = jax.jit(lambda state, batches: jax.lax.scan(REAL_STEP, state, batches))(start(), stacked)
    chex.assert_trees_all_close(state, after(4), rtol=1e-5, atol=1e-7)
    assert metrics.loss.shape == (4,)


@pytest.mark.parametrize("token", [2**32 + 1, -(2**32) + 1])
def test_tokens_beyond_int32_are_refused_not_wrapped(token):
    """Without 64 bits, ``jit`` would make a 1 of them."""
    with jax.enable_x64(False):
        network = make_network(rj.elman())
        params, algorithm = rj.init(network, jax.random.key(0)), rj.bptt(network)
        xs, ys = np.zeros((4, 3), np.int64), np.zeros((4, 3), np.int64)
        xs[2, 1] = token
        batch, step = rj.Batch(xs, ys), train.make_step(algorithm, ADAM)

        def state():
            return train.init_state(algorithm, ADAM, params, 3)

        for call in (
            lambda: step(state(), batch),
            lambda: list(train.run(step, state(), lambda index: batch, 2)),
            lambda: train.evaluate(network, params, [batch]),
        ):
            with pytest.raises(rj.InputError, match=r"^batch\b.*xs"):
                call()
