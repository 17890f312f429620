"""The trace rules against textbook steps, and what they reduce to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import textbook
from fixtures import CELLS, assert_close, make_batch, make_network, make_params

import rnn_jax as rj
from rnn_jax.gradients.eprop import eprop
from rnn_jax.gradients.rtrl import rtrl
from rnn_jax.gradients.snap import snap
from rnn_jax.testing.scenarios import run, total_gradient

WINDOWS = (7, 5)
RING = (0.524, 0.250, 0.128, 0.0736, 0.0419)
"""How far SnAp-n of orders 1 to 5 is off on the ring of six units below; order 6 is exact."""


def setting(cell, depth=1, T=12, B=3, **sizes):
    network = make_network(cell, depth, **sizes)
    return network, make_params(network), make_batch(network, T, B, mask=True, reset=True, weight=True)


def gradient(algorithm, params, batch, windows=WINDOWS):
    return total_gradient(run(algorithm, params, batch, windows))


def recurrent(params):
    """Of the recurrent parameters alone, as one vector: the readout is exact in all of these."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params.layers)])


def off(grads, reference):
    return np.linalg.norm(recurrent(grads) - recurrent(reference)) / np.linalg.norm(recurrent(reference))


def ring(H):
    """Each unit reads the one before it."""
    return np.roll(np.eye(H, dtype=bool), 1, axis=1)


def sparse(params, pattern):
    (layer,) = params.layers
    W = np.where(pattern[:, None], layer.W.reshape(len(pattern), -1, len(pattern)), 0)
    return params._replace(layers=(layer._replace(W=jnp.asarray(W.reshape(layer.W.shape))),))


def masked_rtrl(network, pattern, n):
    """RTRL whose influence is cut, at every step, to the units within reach: SnAp-n as the paper has it."""
    (cell,), H = network.cells, len(pattern)
    reached = sum(np.linalg.matrix_power(pattern.astype(int), k) for k in range(n)) > 0

    def mask_of(params):
        def units(leaf):
            return jnp.broadcast_to(jnp.arange(leaf.shape[-1]) % H, leaf.shape).reshape(-1)

        unit = jnp.concatenate([units(leaf) for leaf in jax.tree.leaves(params.layers)])
        return jnp.tile(jnp.asarray(reached.T, float)[:, unit], (len(cell.states), 1))

    def memory_of(params, B, keys):
        return jnp.zeros((B, *mask_of(params).shape))

    def step_rule(step, M, shared):
        N = M.shape[1]
        unit_vectors = jnp.broadcast_to(jnp.eye(N)[:, None], (N, len(M), N))
        theta, J = jax.vmap(step.flat_pull)(unit_vectors)
        M = mask_of(step.params)[None] * (jnp.einsum("nbm,bmp->bnp", J, M) + theta.swapaxes(0, 1))
        grads = jnp.einsum("bn,bnp->bp", step.flat_error(), M)
        return textbook.unflatten(jax.tree.map(lambda a: a[None], step.params.layers), grads), M

    return textbook.online(network, rj.Biased(None), memory_of, step_rule)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["elman", "gru", "lstm"])
def test_snap_is_rtrl_with_its_influence_cut_to_what_is_within_reach(cell):
    network, params, batch = setting(CELLS[cell])
    pattern = ring(5) | np.eye(5, dtype=bool)
    pattern[1, 4] = True  # one unit reaches more than the others do
    params = sparse(params, pattern)
    expected = sparse(gradient(masked_rtrl(network, pattern, 2), params, batch, (12,)), pattern)
    assert_close(gradient(snap(network, 2, pattern, segment=4), params, batch), expected, 1e-12)


@pytest.mark.slow
def test_snap_with_all_units_within_reach_is_rtrl():
    network, params, batch = setting(CELLS["elman"])
    expected = gradient(rtrl(network), params, batch)
    assert_close(gradient(snap(network, 2), params, batch), expected, 1e-12)
    assert_close(gradient(snap(network, 2, inside="full", segment=2), params, batch), expected, 1e-12)


@pytest.mark.slow
def test_both_forms_of_the_first_order_are_one_rule():
    network, params, batch = setting(CELLS["elman"])
    everything = np.ones((5, 5), bool)
    for inside in ("own", "full"):
        trace, block = (gradient(snap(network, 1, each, inside, 4), params, batch) for each in (None, everything))
        assert_close(trace, block, 1e-12)


@pytest.mark.slow
def test_on_a_ring_the_error_falls_to_zero_as_the_order_grows():
    H, D, K, T, rng = 6, 3, 2, 40, np.random.default_rng(0)
    network = make_network(rj.elman(), inputs=D, hidden=H, outputs=K, loss=rj.squared_error())
    U, b, V = rng.normal(size=(D, H)), 0.1 * rng.normal(size=H), rng.normal(size=(H, K))
    batch = rj.Batch(jnp.asarray(rng.normal(size=(T, 1, D))), jnp.asarray(rng.normal(size=(T, 1, K))))
    W = ring(H) * rng.uniform(0.8, 1.2, (H, 1))
    params = rj.Params((rj.Layer(*map(jnp.asarray, (U, W, b))),), jnp.asarray(V), jnp.zeros(K))
    exact = sparse(gradient(rj.bptt(network), params, batch, (T,)), ring(H))
    errors = [off(gradient(snap(network, n, ring(H)), params, batch, (T,)), exact) for n in range(1, H + 1)]
    assert errors[-1] < 1e-12
    np.testing.assert_allclose(errors[:-1], RING, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("rule", [snap, eprop])
def test_one_segment_of_the_full_jacobian_is_bptt(rule):
    network, params, batch = setting(rj.gru(), depth=2)
    expected = gradient(rj.bptt(network), params, batch, (12,))
    assert_close(gradient(rule(network, inside="full"), params, batch, (12,)), expected, 1e-12)


@pytest.mark.slow
def test_a_trace_across_segments_is_closer_than_truncation():
    network, T = make_network(CELLS["elman"], hidden=16, inputs=8), 96
    params = rj.init(network, jax.random.key(0), dtype="float64")
    batch = make_batch(network, T, 4)
    exact = gradient(rj.bptt(network), params, batch, (T,))
    for k in (1, 4, 16):
        full, own = (gradient(snap(network, inside=each, segment=k), params, batch, (T,)) for each in ("full", "own"))
        truncated = gradient(rj.bptt(network), params, batch, (k,) * (T // k))
        assert off(full, exact) < min(off(truncated, exact), off(own, exact))


@pytest.mark.slow
def test_snap_of_trace_units_is_exact_in_windows_of_any_length():
    network, params, batch = setting(CELLS["rtu"])
    assert isinstance(snap(network).claim, rj.Exact)
    exact = gradient(rj.autodiff(network), params, batch, (12,))
    for windows in (WINDOWS, (1,) * 12):
        assert_close(gradient(snap(network), params, batch, windows), exact, 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["elman-leaky", "gru", "lstm-peepholes"])
@pytest.mark.parametrize("rule", ["snap", "eprop", "eprop-random"])
def test_two_layers_equal_the_textbooks_step_by_step(rule, cell):
    """Nothing is switched off here, as W is in the limits that the conformance check takes."""
    network, params, batch = setting(rj.elman(leak=0.3) if cell == "elman-leaky" else CELLS[cell], depth=2)
    ours = snap(network) if rule == "snap" else eprop(network, "random" if rule == "eprop-random" else "symmetric")
    feedback = ours.init(params, 3, jax.random.key(0)).shared or None  # what ``run`` starts from
    stepwise = textbook.unit_traces(network, own_weight=rule == "snap", feedback=feedback)
    for (one, _), (other, _) in zip(*(run(each, params, batch, (6, 6)) for each in (ours, stepwise)), strict=True):
        assert_close(one.grads, other.grads, 1e-12)


@pytest.mark.slow
def test_eprop_of_leaky_units_without_w_is_rtrl():
    network, params, batch = setting(rj.elman(leak=0.3))
    (layer,) = params.layers
    params = params._replace(layers=(layer._replace(W=jnp.zeros_like(layer.W)),))
    assert_close(gradient(eprop(network), params, batch), gradient(rtrl(network), params, batch), 1e-12)


@pytest.mark.slow
def test_adaptive_feedback_comes_to_the_readout_by_the_decay_alone():
    """B and V learn from the same sum, so of B − Vᵀ each step leaves 1 − decay."""
    network, params, batch = setting(rj.elman(leak=0.3), depth=2)
    rate, decay = 0.1, 0.05
    algorithm = eprop(network, "adaptive", rate=rate, decay=decay)
    carry, update = algorithm.init(params, 3, jax.random.key(1)), jax.jit(algorithm.update)
    difference = carry.shared[-1] - params.V.T
    for _ in range(4):
        carry, estimate = update(params, carry, batch)
        V = (1 - decay) * params.V - rate * estimate.grads.V / estimate.weight
        params = params._replace(V=V)
        difference = (1 - decay) * difference
        assert_close((carry.shared[-1] - V.T,), (difference,), 1e-12)


def test_feedback_is_kept_in_a_window_without_weight():
    network, params, batch = setting(rj.elman())
    algorithm = eprop(network, "adaptive", decay=0.5)
    carry = algorithm.init(params, 3)
    after, _ = algorithm.update(params, carry, batch._replace(weight=jnp.zeros_like(batch.weight)))
    assert (after.shared[0] == carry.shared[0]).all()


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda network: snap(network, 0), "n is 0"),
        (lambda network: snap(network, inside="all"), "inside is 'all'"),
        (lambda network: snap(network, 2, [[True]]), "pattern is of type list"),
        (lambda network: snap(network, 2, np.ones((4, 4), bool)), r"pattern is bool\[4,4\]"),
        (lambda network: snap(network, 2, np.ones((5, 5))), r"pattern is float64\[5,5\]"),
        (lambda network: snap(make_network(rj.min_gru()), 2, np.ones((5, 5), bool)), "no weights between units"),
        (lambda network: eprop(network, "true"), "feedback is 'true'"),
        (lambda network: eprop(network, "adaptive", segment=3), "segment is 3; it must be None"),
        (lambda network: eprop(network, "adaptive", rate=-1.0), "rate is -1.0"),
        (lambda network: eprop(network, "adaptive", decay=2.0), "decay is 2.0"),
    ],
)
def test_what_a_rule_cannot_serve_is_refused(build, says):
    with pytest.raises(rj.InputError, match=says):
        build(make_network(rj.elman()))
