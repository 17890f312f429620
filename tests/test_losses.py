"""Each loss against its definition, its error against autodiff, and both at the edge of the floats."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnn_jax as rj


def test_cross_entropy_is_minus_log_softmax():
    o = jnp.array([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0]])
    y = jnp.array([1, 2])
    expected = -np.log(np.exp(o) / np.exp(o).sum(-1, keepdims=True))[[0, 1], y]
    np.testing.assert_allclose(rj.softmax_cross_entropy().value(o, y), expected, rtol=1e-14)


def test_squared_error_is_half_the_squared_distance():
    assert float(rj.squared_error().value(jnp.array([3.0, 1.0]), jnp.array([1.0, 0.0]))) == 2.5


@pytest.mark.parametrize("loss", [rj.softmax_cross_entropy(), rj.squared_error()], ids=lambda loss: loss.name)
def test_error_is_the_derivative(loss):
    rng = np.random.default_rng(0)
    o = jnp.asarray(rng.normal(size=(4, 3, 5)))
    y = jnp.asarray(rng.integers(0, 5, (4, 3)) if loss.integer_targets else rng.normal(size=(4, 3, 5)))
    expected = jax.grad(lambda o: loss.value(o, y).sum())(o)
    np.testing.assert_allclose(loss.error(o, y), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_large_logits_stay_finite(dtype):
    loss = rj.softmax_cross_entropy()
    o, y = jnp.array([[1e4, -1e4, 0.0]] * 3, dtype), jnp.arange(3)
    np.testing.assert_allclose(loss.value(o, y), [0.0, 2e4, 1e4], rtol=1e-2)
    np.testing.assert_array_equal(loss.error(o, y), [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0], [1.0, 0.0, -1.0]])
    assert loss.error(o, y).dtype == dtype


@pytest.mark.parametrize("y", [-1, 3, 10**6])
def test_a_target_without_a_class_is_nan(y):
    loss = rj.softmax_cross_entropy()
    assert jnp.isnan(loss.value(jnp.zeros(3), jnp.array(y)))
    assert jnp.isnan(loss.error(jnp.zeros(3), jnp.array(y))).all()


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_targets_of_a_short_integer_among_more_classes_than_it_reaches(dtype):
    o, y = jnp.asarray(np.random.default_rng(0).normal(size=(3, 300))), jnp.array([1, 40, 100])
    loss = rj.softmax_cross_entropy()
    for function in (loss.value, loss.error):
        chex.assert_trees_all_equal(function(o, y.astype(dtype)), function(o, y))
