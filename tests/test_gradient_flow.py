"""The flow of the error through time, against autodiff of perturbed states and dense Jacobians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import CELLS, EACH_KIND, assert_close, make_batch, make_network, make_params, make_state, marked

import rnn_jax as rj
from rnn_jax import recurrence
from rnn_jax.diagnostics import gradient_flow, last_step, lyapunov_spectrum, singular_values, state_jacobian
from rnn_jax.diagnostics.graded_svd import log_singular_values
from rnn_jax.gradients.segments import flatten_state
from rnn_jax.losses import weighted_losses

T, B = 6, 3
cells = pytest.mark.parametrize("name", marked(["lstm", *EACH_KIND, "rtu", "elman-learned-leak"], ["lstm"]))


def case(name, depth=2):
    """Layers of a cell with noise everywhere, a state that is not zero, and a batch with mask, resets and weights."""
    network = make_network(CELLS[name], depth, hidden=3)
    params, state = make_params(network), make_state(network, B)
    return network, params, state, make_batch(network, T, B, mask=True, reset=True, weight=True)


def of_example(b, state, batch):
    rows = jax.tree.map(lambda a: a[b : b + 1], state)
    return rows, jax.tree.map(lambda a: a[:, b : b + 1], batch)


def plain_step(network, layers, state, x, mask, reset, added):
    """One step of all layers, in the plainest JAX, with something added to the state of each."""
    after, h = [], None
    for cell, layer, s, more in zip(network.cells, layers, state, added, strict=True):
        u = recurrence.project(layer, (x if h is None else h)[None])[0]
        start = s if reset is None else tuple(jnp.where(reset[:, None], 0, value) for value in s)
        s_new, _ = recurrence.step_forward(cell, layer, None, start, u)
        if mask is not None:
            s_new = tuple(jnp.where(mask[:, None], new, old) for new, old in zip(s_new, s, strict=True))
        after.append(tuple(value + each for value, each in zip(s_new, more, strict=True)))
        h = after[-1][0]
    return tuple(after)


def perturbed_loss(network, params, layers_at, state, batch, added):
    """The loss with layers of its own for each step, and something added to every state, s_0 included."""
    state, os = jax.tree.map(jnp.add, state, added[0]), []
    for t in range(T):
        mask, reset = (None if each is None else each[t] for each in (batch.mask, batch.reset))
        state = plain_step(network, layers_at[t], state, batch.xs[t], mask, reset, added[t + 1])
        os.append(state[-1][0] @ params.V + params.c[None])
    return weighted_losses(network.loss, jnp.stack(os), batch.ys, batch.mask, batch.weight).sum()


def norm(a):
    return np.linalg.norm(np.asarray(a).ravel())


@cells
def test_norms_are_those_of_autodiff(name):
    """δs of every state, and each step's share of every gradient, with masks, resets and weights, in two layers."""
    network, params, state, batch = case(name)
    flow = gradient_flow(network, params, state, batch)
    layers_at = [params.layers] * T
    by_hand = jax.jit(jax.grad(perturbed_loss, argnums=(2, 5)), static_argnums=0)
    for b in range(B):
        rows, window = of_example(b, state, batch)
        zeros = [jax.tree.map(jnp.zeros_like, rows)] * (T + 1)
        shares, deltas = by_hand(network, params, layers_at, rows, window, zeros)
        of_state = jax.tree.map(lambda *each: np.array([norm(a) for a in each]), *deltas)
        of_layers = jax.tree.map(lambda *each: np.array([norm(a) for a in each]), *shares)
        ours = jax.tree.map(lambda a, b=b: a[:, b], (flow.delta_s, flow.contributions))
        assert_close(ours, (of_state, of_layers), 1e-12)


@cells
def test_the_gradient_comes_with_it(name):
    network, params, state, batch = case(name)
    flow = gradient_flow(network, params, state, batch)
    carry = rj.bptt(network).init(params, B)._replace(recurrent=state)
    _, estimate = rj.bptt(network).update(params, carry, batch)
    assert abs(flow.loss - estimate.loss) < 1e-12 * abs(estimate.loss)
    assert_close(flow.grads, estimate.grads, 1e-12)


def test_norms_neither_overflow_nor_underflow():
    """An error of 1e-30 has a square that float32 does not hold."""
    network = rj.Network((rj.elman("identity"),), 1, 2, 1, rj.squared_error())
    layer = rj.Layer(U=jnp.zeros((1, 2), "float32"), W=1e-10 * jnp.eye(2, dtype="float32"), b=jnp.ones(2, "float32"))
    params = rj.Params((layer,), jnp.ones((2, 1), "float32"), jnp.zeros(1, "float32"))
    batch = last_step(rj.Batch(jnp.zeros((4, 1, 1), "float32"), jnp.ones((4, 1, 1), "float32")))
    flow = gradient_flow(network, params, rj.initial_state(network, params, 1), batch)
    np.testing.assert_allclose(flow.delta_s[0][0][1:, 0], 2**0.5 * np.array([1e-30, 1e-20, 1e-10, 1]), rtol=1e-5)


def test_the_last_step_is_that_of_each_example():
    """Behind a mask, and with the weight that it has."""
    xs = jnp.zeros((4, 2, 1))
    mask = jnp.array([[True, True], [True, False], [True, True], [False, False]])
    weight = jnp.arange(8.0).reshape(4, 2)
    assert last_step(rj.Batch(xs, xs)).weight.tolist() == [[0, 0]] * 3 + [[1, 1]]
    assert last_step(rj.Batch(xs, xs, mask)).weight.tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]
    assert last_step(rj.Batch(xs, xs, mask, None, weight)).weight.tolist() == [[0, 0], [0, 0], [4, 5], [0, 0]]
    assert last_step(rj.Batch(xs, xs, jnp.zeros_like(mask))).weight.sum() == 0


def dense_jacobians(network, params, rows, window):
    """∂s_t/∂s_{t−1} of one example by ``jax.jacobian``, [T, N, N], along the trajectory of the state."""
    found, zeros = [], jax.tree.map(jnp.zeros_like, rows)
    for t in range(T):
        mask, reset = (None if each is None else each[t] for each in (window.mask, window.reset))

        def step(state, t=t, mask=mask, reset=reset):
            return plain_step(network, params.layers, state, window.xs[t], mask, reset, zeros)

        flat = jax.jacobian(lambda s: flatten_state(step(s))[0])(rows)
        found.append(np.asarray(flatten_state(flat).reshape(len(flatten_state(rows)[0]), -1)))
        rows = step(rows)
    return np.stack(found)


@pytest.mark.slow
@cells
def test_singular_values_are_those_of_the_dense_product(name):
    """Resets, which make them 0, and masks, which leave them as they are, included."""
    network, params, state, batch = case(name)
    logs = singular_values(network, params, state, batch.xs, batch.mask, batch.reset)
    assert logs.dtype == np.float64 and (logs[T] == 0).all()
    for b in range(B):
        product = np.eye(logs.shape[-1])
        for t, J in reversed(list(enumerate(dense_jacobians(network, params, *of_example(b, state, batch))))):
            product = product @ J
            dense = np.linalg.svd(product, compute_uv=False)
            np.testing.assert_allclose(np.exp(logs[t, b]), dense, rtol=0, atol=1e-12 * dense[0])


@pytest.mark.slow
@cells
def test_exponents_are_those_of_the_dense_jacobians(name):
    network, params, state, batch = case(name)
    batch = batch._replace(reset=None)
    for count in (None, 2):
        exponents = lyapunov_spectrum(network, params, state, batch.xs, batch.mask, count=count)
        N = flatten_state(state).shape[1]
        for b in range(B):
            Q, logs = np.asarray(jax.random.orthogonal(jax.random.key(0), N))[:, :count], 0
            for J in reversed(dense_jacobians(network, params, *of_example(b, state, batch))):
                Q, R = np.linalg.qr(J.T @ Q)
                on = np.abs(np.diag(R))
                with np.errstate(divide="ignore"):
                    logs = logs + np.log(np.where(on > 1e-13, on, 0))
            np.testing.assert_allclose(exponents[b], logs / int(batch.mask[:, b].sum()), rtol=1e-11, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "lstm-peepholes"])
def test_the_jacobian_of_a_step_is_dense_autodiff_s(name):
    network, params, state, batch = case(name)
    J = state_jacobian(network, params, state, batch.xs[0])
    plain = batch._replace(mask=None, reset=None)
    for b in range(B):
        dense = dense_jacobians(network, params, *of_example(b, state, plain))[0]
        np.testing.assert_allclose(J[b], dense, atol=1e-12)


def linear(W):
    """A network whose Jacobian is Wᵀ everywhere."""
    W = jnp.asarray(W)
    network = rj.Network((rj.elman("identity"),), 1, len(W), 1, rj.squared_error())
    layer = rj.Layer(jnp.zeros((1, len(W))), W, jnp.zeros(len(W)))
    params = rj.Params((layer,), jnp.zeros((len(W), 1)), jnp.zeros(1))
    return network, params, rj.initial_state(network, params, 1)


def test_singular_values_are_exact_far_beyond_the_range_of_a_float():
    """Powers of a dense symmetric matrix, from 10^120 down to 10^−1200: each is right, and not the norm alone."""
    values, lag = np.array([1.5, 1.4999, 1.0, 0.9, 1e-2, 1e-4]) * 1.6, 300
    Q = np.asarray(jax.random.orthogonal(jax.random.key(1), len(values)))
    network, params, state = linear(Q @ np.diag(values) @ Q.T)
    logs = singular_values(network, params, state, jnp.zeros((lag, 1, 1)))
    for steps in (1, 2, 50, lag):
        np.testing.assert_allclose(logs[lag - steps, 0], steps * np.log(values), atol=steps * 1e-11)
    exponents = lyapunov_spectrum(network, params, state, jnp.zeros((lag, 1, 1)))[0]
    np.testing.assert_allclose(exponents[2:], np.log(values[2:]), atol=0.02)
    assert abs(exponents.sum() - np.log(values).sum()) < 1e-11


def test_a_graded_matrix_has_all_its_singular_values():
    """Against high precision where rows differ by 10^40; and equal, parallel and empty rows."""
    mpmath = pytest.importorskip("mpmath")
    rng = np.random.default_rng(0)
    rows, logs = np.triu(rng.normal(size=(5, 5))) + 3 * np.eye(5), -23.0 * np.arange(5)
    with mpmath.workdps(80):
        exact = mpmath.svd_r(
            mpmath.diag([mpmath.exp(log) for log in logs]) * mpmath.matrix(rows.tolist()), compute_uv=0
        )
        wanted = [float(mpmath.log(value)) for value in exact]
    np.testing.assert_allclose(log_singular_values(logs[None], rows[None])[0], wanted, atol=1e-13)
    special = np.array([[[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 2, 3], [2, 4, 6], [0, 0, 1]], [[0, 0, 0]] * 3])
    found = np.exp(log_singular_values(np.zeros((3, 3)), special))
    np.testing.assert_allclose(found, np.linalg.svd(special, compute_uv=False), atol=1e-14)
    assert (found[1:, 2] == 0).all()


@pytest.mark.slow
def test_an_error_through_a_chaotic_network_grows_with_its_largest_exponent():
    """Three readings of one network agree: ‖δh‖, the largest singular value and the largest exponent."""
    H, steps = 16, 400
    W = 3 * np.random.default_rng(0).normal(size=(H, H)) / H**0.5
    network = rj.Network((rj.elman(),), 1, H, 1, rj.squared_error())
    layer = rj.Layer(jnp.zeros((1, H)), jnp.asarray(W), jnp.zeros(H))
    params = rj.Params((layer,), jnp.ones((H, 1)), jnp.zeros(1))
    state, xs = ((0.5 * jnp.ones((1, H)),),), jnp.zeros((steps, 1, 1))
    _, state = rj.apply(network, params, state, xs)
    batch = last_step(rj.Batch(xs, jnp.ones((steps, 1, 1))))
    delta = np.asarray(gradient_flow(network, params, state, batch).delta_s[0][0][:, 0])
    largest = singular_values(network, params, state, xs)[0, 0, 0]
    (exponent,) = lyapunov_spectrum(network, params, state, xs, count=1)[0]
    assert exponent > 0.1
    assert np.log(delta[0] / delta[-1]) < largest
    assert abs(largest / steps - exponent) < 0.02 and abs(np.log(delta[0] / delta[-1]) / steps - exponent) < 0.02


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda n, p, s, b: gradient_flow(n, p, s, b._replace(ys=b.ys[:-1])), "batch.ys is"),
        (lambda n, p, s, b: gradient_flow(n, p, (), b), "state is"),
        (lambda n, p, s, b: last_step(b.xs), "batch is .* it must be a Batch"),
        (lambda n, p, s, b: last_step(b._replace(mask=b.mask[:-1])), "batch.mask is"),
        (lambda n, p, s, b: singular_values(n, p, s, b.xs[0]), "xs is"),
        (lambda n, p, s, b: singular_values(n, p, s, b.xs, b.mask[:, :1]), "mask is"),
        (lambda n, p, s, b: lyapunov_spectrum(n, p, s, b.xs, count=0), "count is 0; it must be a positive int"),
        (lambda n, p, s, b: lyapunov_spectrum(n, p, s, b.xs, count=13), "count is 13; it must be 12 at most"),
        (lambda n, p, s, b: state_jacobian(n, p, s, b.xs), "state|x is"),
        (lambda n, p, s, b: state_jacobian(n, p, s, None), "x is of type NoneType"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, says):
    with pytest.raises(rj.InputError, match=says) as caught:
        call(*case("lstm"))
    assert "\n" not in str(caught.value)
