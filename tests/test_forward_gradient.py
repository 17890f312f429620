"""Forward gradients: every outcome of a tiny network's signs, and what a direction outlives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import CELLS, assert_close, make_batch, make_network, make_params

import rnn_jax as rj
from rnn_jax.gradients.forward_gradient import forward_gradient
from rnn_jax.testing.scenarios import run, total_gradient

T, B = 12, 2


def test_the_mean_over_all_signs_is_exact_and_their_variance_is_the_number_of_parameters_less_one():
    network = make_network(CELLS["elman"], inputs=1, hidden=2, outputs=2)
    params, batch = make_params(network), make_batch(network, T, 1, dtype="float64")
    signs = 1.0 - 2 * jnp.asarray(np.arange(256)[:, None] >> np.arange(8) & 1, float)

    def gradient(row):
        return total_gradient(run(forward_gradient(network, signs=lambda draw: row), params, batch, (5, 7)))

    drawn = jax.lax.map(gradient, signs, batch_size=256)
    exact = total_gradient(run(rj.autodiff(network), params, batch, (T,)))
    assert_close(jax.tree.map(lambda a: a.mean(axis=0), drawn), exact, 1e-12)
    errors = jax.tree.map(lambda a, mean: a - mean[None], drawn.layers, exact.layers)
    variance, size = (sum(jnp.square(a).sum() for a in jax.tree.leaves(each)) for each in (errors, exact.layers))
    np.testing.assert_allclose(variance / 256 / size, 8 - 1, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "noise"), [("lstm-peepholes", "rademacher"), ("gru-diagonal", "normal")])
def test_the_gradient_is_the_derivative_along_each_direction_times_it(cell, noise):
    """Directions of a new sequence are read from its memory; JAX's derivative along them is the reference."""
    network = make_network(CELLS[cell], 2, inputs=3, hidden=4, outputs=3)
    params, batch = make_params(network), make_batch(network, T, 1, True, weight=True)
    algorithm = forward_gradient(network, 3, noise)
    memory = algorithm.init(params, 1, jax.random.key(7)).memory
    total = jax.tree.map(jnp.zeros_like, params.layers)

    def loss(params):
        return rj.loss(network, params, rj.initial_state(network, params, 1), batch)[0]

    slope_along = jax.jit(lambda direction: jax.jvp(loss, (params,), (direction,))[1])
    for number in range(3):
        of_layers = tuple(
            rj.gradients.segments.as_layer(each, layer, jax.tree.map(lambda a, i=number: a[0, i], v))
            for each, layer, v in zip(network.cells, params.layers, memory.v, strict=True)
        )
        slope = slope_along(jax.tree.map(jnp.zeros_like, params)._replace(layers=of_layers))
        total = jax.tree.map(lambda a, v, slope=slope: a + slope * v / 3, total, of_layers)
    measured = total_gradient(run(algorithm, params, batch, (5, 7), jax.random.key(7)))
    assert_close(measured.layers, total, 1e-12)


@pytest.mark.slow
def test_neither_segments_nor_windows_change_the_directions():
    network = make_network(CELLS["elman"], inputs=3, hidden=4, outputs=3)
    params, batch = make_params(network), make_batch(network, T, B, True, True, weight=True)
    batch = batch._replace(reset=batch.reset.at[5:8].set(True), mask=batch.mask.at[5:8].set(True))

    def after(segment, windows):
        algorithm = forward_gradient(network, 2, segment=segment)
        update, total, start = jax.jit(algorithm.update), None, 0
        carry = algorithm.init(params, B, jax.random.key(1))
        for n in windows:
            window = jax.tree.map(lambda a, i=start, n=n: a[i : i + n], batch)
            carry, estimate = update(params, carry, window)
            total = estimate.grads if total is None else jax.tree.map(jnp.add, total, estimate.grads)
            start += n
        return total, (carry.memory.ds, carry.memory.v), carry.memory.draw, jax.random.key_data(carry.memory.key)

    expected = after(None, (T,))
    resets = (batch.reset & batch.mask).sum(axis=0)
    np.testing.assert_array_equal(expected[2], resets)
    for segment, windows in ((1, (T,)), (4, (6, 6))):
        measured = after(segment, windows)
        assert_close(measured[:2], expected[:2], 1e-12)
        np.testing.assert_array_equal(measured[2], expected[2])
        np.testing.assert_array_equal(measured[3], expected[3])


def test_new_directions_are_drawn_at_a_reset_alone():
    network = make_network(CELLS["elman"])
    params, batch = make_params(network), make_batch(network, 4, B)
    algorithm = forward_gradient(network)
    start = algorithm.init(params, B, jax.random.key(2))
    reset = jnp.zeros((4, B), bool).at[2, 1].set(True)
    carry, _ = algorithm.update(params, start, batch._replace(reset=reset))
    old, new = (carry_.memory.v[0].matrices[0] for carry_ in (start, carry))
    np.testing.assert_array_equal(old[0], new[0])
    assert bool((old[1] != new[1]).all())


@pytest.mark.parametrize(("settings", "name"), [({"directions": 0}, "directions"), ({"noise": "uniform"}, "noise")])
def test_what_cannot_be_drawn_is_refused(settings, name):
    with pytest.raises(rj.InputError, match=f"^{name} is "):
        forward_gradient(make_network(CELLS["elman"]), **settings)
