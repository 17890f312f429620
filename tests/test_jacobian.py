"""The Jacobian of one step, its tangent and its transpose, against JAX's own derivatives of the step."""

import jax
import jax.numpy as jnp
import numpy as np
from fixtures import assert_close, cells, cells_marked

import rnn_jax as rj
from rnn_jax import jacobian, recurrence

B, D, H = 3, 4, 5


def draw(rng, *shape):
    return jnp.asarray(rng.normal(size=shape))


def layer_and_step(cell):
    """A layer with noise on every parameter, its inputs and state, and one step as a function of all three."""
    rng = np.random.default_rng(0)
    layer = rj.init_layer(cell, jax.random.key(0), D, H, dtype="float64")
    layer = jax.tree.map(lambda a: a + 0.3 * draw(rng, *a.shape), layer)
    x, s_prev = draw(rng, B, D), tuple(draw(rng, B, H) for _ in cell.states)

    def step(layer, s_prev, x):
        return recurrence.step_forward(cell, layer, None, s_prev, recurrence.project(layer, x[None])[0])

    return layer, x, s_prev, step


@cells_marked()
def test_push_and_pull_are_the_derivatives_of_the_step(cell):
    layer, x, s_prev, step = layer_and_step(cell)
    s, residual = step(layer, s_prev, x)
    block = jacobian.of_step(cell, layer, s_prev, s, residual)
    rng = np.random.default_rng(1)
    ds_prev, dx, delta_s = tuple(draw(rng, B, H) for _ in s), draw(rng, B, D), tuple(draw(rng, B, H) for _ in s)

    _, tangent = jax.jvp(lambda s_prev, x: step(layer, s_prev, x)[0], (s_prev, x), (ds_prev, dx))
    assert_close(jacobian.push(cell, layer, block, ds_prev, dx @ layer.U), tangent, 1e-12)
    _, tangent = jax.jvp(lambda s_prev: step(layer, s_prev, x)[0], (s_prev,), (ds_prev,))
    assert_close(jacobian.push(cell, layer, block, ds_prev), tangent, 1e-12)

    adjoint = jacobian.pull(cell, layer, block, delta_s)
    gradients = jacobian.layer_gradients(cell, layer, x, s_prev[0], adjoint)
    for row in range(B):  # per example: nothing is summed over the batch
        of_row = tuple(jnp.zeros_like(a).at[row].set(a[row]) for a in delta_s)
        _, transpose = jax.vjp(lambda layer, s_prev: step(layer, s_prev, x)[0], layer, s_prev)
        delta_layer, delta_s_prev = transpose(of_row)
        assert_close(jax.tree.map(lambda a, row=row: a[row], gradients), delta_layer, 1e-12)
        assert_close(tuple(a[row] for a in adjoint.delta_s_prev), tuple(a[row] for a in delta_s_prev), 1e-12)


@cells
def test_pull_is_the_reverse_s_step(cell):
    layer, x, s_prev, step = layer_and_step(cell)
    s, residual = step(layer, s_prev, x)
    delta_s = tuple(draw(np.random.default_rng(2), B, H) for _ in s)
    W_T = layer.W.T if cell.recurrence == "dense" else None
    back = recurrence.step_back(cell, layer, W_T, s_prev, s, residual, delta_s)
    assert_close(jacobian.pull(cell, layer, jacobian.of_step(cell, layer, s_prev, s, residual), delta_s), back, 1e-12)


def test_a_token_is_a_row_of_ones_and_zeros():
    cell = rj.elman()
    layer, _, s_prev, _ = layer_and_step(cell)
    adjoint = recurrence.StepAdjoint(s_prev, (s_prev[0],), ())
    tokens = jnp.asarray([2, 0, 2])
    by_token, by_row = (
        jacobian.layer_gradients(cell, layer, x, s_prev[0], adjoint) for x in (tokens, jax.nn.one_hot(tokens, D))
    )
    assert_close(by_token, by_row, 0.0)
