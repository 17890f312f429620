"""Fixed points: of maps where they are known, and of every cell beside autodiff's Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import CELLS, make_network, make_params, make_state

import rnn_jax as rj
from rnn_jax import stack
from rnn_jax.diagnostics import fixed_points
from rnn_jax.gradients.segments import flatten_state

CELLS_AT_REST = ("elman", "lstm", "gru", "indrnn", "min_gru", "rtu")
"""One of each kind, but an LSTM without peepholes: with these weights the c of the other grows for ever."""


def one_layer(activation, W, b=None):
    W = jnp.asarray(W)
    network = rj.Network((rj.elman(activation),), 1, len(W), 1, rj.squared_error())
    b = jnp.zeros(len(W)) if b is None else jnp.asarray(b)
    return network, rj.Params((rj.Layer(jnp.zeros((1, len(W))), W, b),), jnp.zeros((len(W), 1)), jnp.zeros(1))


def test_the_one_fixed_point_of_a_linear_map_is_found_from_anywhere():
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(4, 4)), rng.normal(size=4)
    found = fixed_points(*one_layer("identity", W, b), ((jnp.asarray(100 * rng.normal(size=(7, 4))),),), jnp.zeros(1))
    assert (found.starts, found.converged, found.reached_from.tolist()) == (7, 7, [7])
    np.testing.assert_allclose(found.states[0], np.linalg.solve(np.eye(4) - W.T, b), rtol=1e-10)
    np.testing.assert_allclose(np.sort_complex(found.eigenvalues[0]), np.sort_complex(np.linalg.eigvals(W)), atol=1e-12)
    assert found.stable.tolist() == [bool((np.abs(np.linalg.eigvals(W)) < 1).all())]


def test_stable_points_and_saddles_of_two_units_apart():
    """h = tanh(2 h) has a stable point on each side of an unstable one, so two such units have 4 and 5."""
    axis = jnp.linspace(-1.2, 1.2, 15)
    starts = ((jnp.stack(jnp.meshgrid(axis, axis), axis=-1).reshape(-1, 2),),)
    found = fixed_points(*one_layer("tanh", 2 * np.eye(2)), starts, jnp.zeros(1))
    assert (len(found.states), found.stable.sum()) == (9, 4)
    h = 0.9575040240772687
    corners = {tuple(point) for point in (found.states / h).round(8) + 0.0}
    assert corners == {(a, b) for a in (-1.0, 0.0, 1.0) for b in (-1.0, 0.0, 1.0)}
    assert (np.abs(found.eigenvalues[:4]) < 1).all() and found.stable.tolist() == [True] * 4 + [False] * 5
    (centre,) = np.abs(found.eigenvalues[np.linalg.norm(found.states, axis=1) < 1e-8])
    np.testing.assert_allclose(centre, [2, 2])
    assert found.reached_from.sum() == found.converged and (found.residuals <= found.tolerance).all()


def test_where_there_is_none_none_is_found():
    """h = relu(h + 1) goes to infinity."""
    found = fixed_points(*one_layer("relu", [[1.0]], [1.0]), ((jnp.zeros((3, 1)),),), jnp.zeros(1))
    assert (found.states.shape, found.eigenvalues.shape, found.converged) == ((0, 1), (0, 1), 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS_AT_REST)
def test_every_cell_rests_there_with_autodiff_s_eigenvalues(name):
    """Two layers, an input of one token, and parameters in float32 outside of 64-bit mode, halved: so states rest."""
    network = make_network(CELLS[name], 2, hidden=3)
    params = jax.tree.map(lambda leaf: jnp.float32(leaf / 2), make_params(network))
    starts = jax.tree.map(jnp.float32, make_state(network, 40))
    with jax.enable_x64(False):
        found = fixed_points(network, params, starts, jnp.asarray(2, jnp.int32))
    assert len(found.states) and found.states.dtype == np.float64
    params = jax.tree.map(jnp.float64, params)

    def step(flat):
        widths = iter(np.split(np.arange(len(flat)), len(flat) // 3))
        state = tuple(tuple(flat[None, next(widths)] for _ in cell.states) for cell in network.cells)
        return flatten_state(stack.forward(network, params, state, jnp.full((1, 1), 2))[1])[0]

    for s, residual, eigenvalues in zip(found.states, found.residuals, found.eigenvalues, strict=True):
        assert np.linalg.norm(step(jnp.asarray(s)) - s) <= 1.1 * residual + 1e-15 and residual <= 1e-10
        dense = np.linalg.eigvals(np.asarray(jax.jacobian(step)(jnp.asarray(s))))
        nearest = np.abs(dense[:, None] - eigenvalues[None]).min(axis=1)
        assert nearest.max() < 1e-6 and (np.diff(np.abs(eigenvalues)) < 1e-12).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"starts": ()}, "starts is"),
        ({"starts": ((jnp.zeros((3, 2)),),)}, r"starts\[0\] \(h\) is float64\[3,2\]"),
        ({"x": jnp.zeros(2)}, "x is float64"),
        ({"x": 0.0}, "x is of type float"),
        ({"tolerance": 0}, "tolerance is 0; it must be a positive number"),
        ({"distance": -1.0}, "distance is -1.0"),
        ({"iterations": 0}, "iterations is 0"),
        ({"params": None}, "params is of type NoneType"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, says):
    network, params = one_layer("tanh", np.eye(4))
    arguments = {"params": params, "starts": ((jnp.zeros((3, 4)),),), "x": jnp.zeros(1), **change}
    with pytest.raises(rj.InputError, match=says) as caught:
        fixed_points(network, **arguments)
    assert "\n" not in str(caught.value)
