"""The guard: no step leaves a number that is not finite, and no finite one is refused."""

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
LINEAR = make_network(rj.elman("identity"), loss=rj.squared_error())


@pytest.fixture(autouse=True)
def _promotion():
    """Optax's own arithmetic promotes dtypes implicitly."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def batch_at(index):
    return make_batch(NETWORK, 5, 3, seed=index)


def stopped(optimiser, algorithm=None, steps=8):
    """The error that ends a run, and the state that as many steps as it was good for lead to."""
    algorithm = algorithm or rj.bptt(NETWORK)
    step = train.make_step(algorithm, optimiser)
    state = train.init_state(algorithm, optimiser, make_params(NETWORK, "float32"), 3)
    with pytest.raises(train.NonFiniteError) as caught:
        list(train.run(step, state, batch_at, steps))
    expected = train.init_state(algorithm, optimiser, make_params(NETWORK, "float32"), 3)
    for index in range(caught.value.step):
        expected, _ = step(expected, batch_at(index))
    return caught.value, expected


def test_zero_over_zero_in_the_optimiser_stops_the_run():
    """Rows of U whose token never came have a gradient of 0, which adam without eps makes NaN."""
    error, expected = stopped(optax.adam(0.01, eps=0.0))
    chex.assert_trees_all_equal(error.state._replace(finite=expected.finite), expected)
    chex.assert_tree_all_finite(error.state.params)


def test_a_rate_that_overflows_stops_the_run_at_its_step():
    error, expected = stopped(optax.sgd(lambda count: jnp.where(count == 3, jnp.inf, 0.1)))
    assert error.step == 3
    chex.assert_trees_all_equal(error.state._replace(finite=expected.finite), expected)


def test_a_carry_that_becomes_nan_stops_the_run():
    """Loss, gradient and parameters are finite in that window; the next one would begin at NaN."""
    algorithm = rj.bptt(NETWORK)

    def update(params, carry, batch):
        carry, estimate = algorithm.update(params, carry, batch)
        spoiled = (batch.xs == batch_at(2).xs).all()
        return jax.tree.map(lambda leaf: jnp.where(spoiled, jnp.nan, leaf), carry), estimate

    error, expected = stopped(optax.sgd(0.1), algorithm._replace(update=update))
    assert error.step == 2
    chex.assert_trees_all_equal(error.state._replace(finite=expected.finite), expected)


def test_an_optimiser_that_starts_with_infinity_trains():
    optimiser = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    algorithm = rj.bptt(NETWORK)
    state = train.init_state(algorithm, optimiser, make_params(NETWORK, "float32"), 3)
    assert any(jnp.isinf(leaf).any() for leaf in jax.tree.leaves(state.optimiser))
    *_, (state, _) = train.run(train.make_step(algorithm, optimiser), state, batch_at, 3)
    assert state.finite and state.step == 3


@pytest.mark.parametrize("by_norm", [False, True])
def test_a_finite_exploding_gradient_goes_on(by_norm):
    """Its square is beyond float32: the norm is right all the same, and the update is the clipped one."""
    params, algorithm = make_params(LINEAR, "float32"), rj.bptt(LINEAR)
    batch = make_batch(LINEAR, 5, 3, dtype="float32")
    batch = batch._replace(xs=1e14 * batch.xs, ys=1e14 * batch.ys)
    _, grads = rj.value_and_grad(algorithm)(params, batch)
    norm = np.sqrt(sum((np.asarray(leaf, float) ** 2).sum() for leaf in jax.tree.leaves(grads))) / 15
    assert 1e27 < norm < 1e33
    clip = train.clip_by_global_norm(1.0) if by_norm else optax.clip(1.0)
    step = train.make_step(algorithm, optax.sgd(1.0), clip)
    state, metrics = step(train.init_state(algorithm, optax.sgd(1.0), params, 3), batch)
    assert state.finite and state.step == 1 and metrics.clipped
    np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-5)
    updates = jax.tree.map(lambda new, old: np.asarray(new, float) - np.asarray(old, float), state.params, params)
    size = optax.tree.norm(updates) if by_norm else max(abs(leaf).max() for leaf in jax.tree.leaves(updates))
    np.testing.assert_allclose(size, 1, rtol=1e-5)


TREE = {"a": np.array([3.0, -4.0], np.float32), "b": np.array([[12.0]], np.float32)}
"""Of norm 13."""


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_global_norm(scale):
    """Also where the sum of squares is above or below all floats."""
    scaled = jax.tree.map(lambda leaf: leaf * np.float32(scale), TREE)
    np.testing.assert_allclose(train.global_norm(scaled), 13 * scale, rtol=1e-6)


def test_global_norm_of_zeros_is_zero():
    assert train.global_norm(jax.tree.map(np.zeros_like, TREE)) == 0


@pytest.mark.parametrize("max_norm", [1.0, 12.9, 13.1])
def test_clip_by_global_norm_is_that_of_optax(max_norm):
    clips = train.clip_by_global_norm(max_norm), optax.clip_by_global_norm(max_norm)
    ours, theirs = (clip.update(TREE, clip.init(TREE))[0] for clip in clips)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-28, 1e30])
def test_clip_by_global_norm_beyond_the_squares(scale):
    scaled = jax.tree.map(lambda leaf: leaf * np.float32(scale), TREE)
    clip = train.clip_by_global_norm(6.5 * scale)
    clipped, _ = clip.update(scaled, clip.init(scaled))
    expected = jax.tree.map(lambda leaf: leaf / 2, scaled)
    chex.assert_trees_all_close(clipped, expected, rtol=1e-6)
