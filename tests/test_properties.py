"""What holds of any gradient through time, whatever the cell, the shapes and the numbers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import (
    CELLS,
    assert_close,
    assert_same,
    cells,
    make_batch,
    make_network,
    make_params,
    make_state,
    update_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import rnn_jax as rj
from rnn_jax import network as net

TOLERANCE = 1e-12
T, B = 6, 4
ten = settings(max_examples=10, derandomize=True, deadline=None, database=None)
seeds, flags = st.integers(0, 2**16), st.booleans()


@functools.cache
def jitted(algorithm, network, **options):
    return jax.jit(update_of(algorithm(network, **options)))


def problem(cell, depth=2, T=T, B=B, mask=True, reset=True, dtype=None, seed=0):
    """A network, and the arguments of an update."""
    network = make_network(cell, depth)
    batch = make_batch(network, T, B, mask, reset, dtype, seed)
    return network, (make_params(network, seed=seed), make_state(network, B, seed=seed), batch)


def added(results):
    """The sum of several (loss, grads)."""
    return jax.tree.map(lambda *leaves: sum(leaves), *results)


@pytest.mark.slow
@ten
@given(
    cell=st.sampled_from(list(CELLS.values())),
    depth=st.sampled_from([1, 2]),
    T=st.sampled_from([1, 5, 8]),
    B=st.sampled_from([1, 3]),
    options=st.sampled_from([{}, {"segment": 1}, {"segment": 3}, {"segment": 3, "recompute": True}]),
    mask=flags,
    reset=flags,
    dtype=st.sampled_from([None, "float64"]),
    seed=seeds,
)
def test_bptt_equals_autodiff(cell, depth, T, B, options, mask, reset, dtype, seed):
    network, window = problem(cell, depth, T, B, mask, reset, dtype, seed)
    ours, state = jitted(rj.bptt, network, **options)(*window)
    reference, expected_state = jitted(rj.autodiff, network)(*window)
    assert_same(ours, reference, TOLERANCE)
    assert_close(state, expected_state, TOLERANCE)


@pytest.mark.slow
@ten
@given(
    cell=st.sampled_from(list(CELLS.values())),
    at=st.lists(st.integers(0, T), min_size=3, max_size=3),
    tokens=st.lists(st.integers(-9, 9), min_size=B, max_size=B),
    resets=flags,
    seed=seeds,
)
def test_padded_steps_change_nothing(cell, at, tokens, resets, seed):
    """Three steps that do not count, put in anywhere, whatever they hold."""
    network, (params, state, batch) = problem(cell, seed=seed)
    update = jitted(rj.bptt, network)

    def pad(a, fill):
        return jnp.insert(a, jnp.array(sorted(at)), jnp.asarray(fill, a.dtype), axis=0)

    padded = rj.Batch(*(pad(a, fill) for a, fill in zip(batch[:4], (tokens, tokens, False, resets), strict=True)))
    (expected, after), (result, padded_after) = update(params, state, batch), update(params, state, padded)
    assert_same(result, expected, TOLERANCE)
    assert_close(padded_after, after, TOLERANCE)


@pytest.mark.slow
@ten
@given(
    cell=st.sampled_from(list(CELLS.values())),
    lengths=st.sampled_from([(8,), (1, 7), (4, 4), (5, 3), (2, 3, 3), (3, 2, 3)]),
    seed=seeds,
)
def test_windows_add_up(cell, lengths, seed):
    """Losses and states always; gradients where each window begins with a reset, which none flows through."""
    network, (params, start, batch) = problem(cell, T=8, seed=seed)
    begins = np.cumsum([0, *lengths])
    first = jnp.zeros_like(batch.mask).at[begins[:-1]].set(True)
    update = jitted(rj.bptt, network)

    def whole_and_sum(batch):
        state, results, batch = start, [], jax.tree.map(np.asarray, batch)
        for i, n in zip(begins, lengths, strict=False):
            result, state = update(params, state, jax.tree.map(lambda a, i=i, n=n: a[i : i + n], batch))
            results.append(result)
        whole, after = update(params, start, batch)
        assert_close(state, after, TOLERANCE)
        return whole, added(results)

    (loss, _), (sum_of_losses, _) = whole_and_sum(batch)
    assert abs(sum_of_losses - loss) <= TOLERANCE * loss
    whole, total = whole_and_sum(batch._replace(mask=batch.mask | first, reset=batch.reset | first))
    assert_same(total, whole, TOLERANCE)


@cells
def test_order_of_the_batch(cell):
    network, (params, state, batch) = problem(cell)
    order = jnp.array([2, 0, 3, 1])
    rows, columns = (functools.partial(jax.tree.map, f) for f in (lambda a: a[order], lambda a: a[:, order]))
    update = jitted(rj.bptt, network)
    (result, after), (expected, expected_after) = (
        update(params, rows(state), columns(batch)),
        update(params, state, batch),
    )
    assert_same(result, expected, TOLERANCE)
    assert_close(after, rows(expected_after), TOLERANCE)


@cells
def test_parts_of_the_batch_add_up(cell):
    network, (params, state, batch) = problem(cell)
    update = jitted(rj.bptt, network)
    results = [
        update(params, jax.tree.map(lambda a, r=r: a[r], state), jax.tree.map(lambda a, r=r: a[:, r], batch))[0]
        for r in (slice(0, 2), slice(2, 4))
    ]
    assert_same(added(results), update(params, state, batch)[0], TOLERANCE)


@cells
def test_names_of_the_units(cell):
    """Relabelling the hidden units of a layer relabels its gradients alike, and leaves the loss."""
    network, (params, state, batch) = problem(cell)
    H, orders = network.hidden, ([3, 1, 4, 0, 2], [2, 3, 0, 4, 1])

    def relabel(params):
        layers, below = [], None
        for layer, order in zip(params.layers, orders, strict=True):
            columns = np.concatenate([gate * H + np.array(order) for gate in range(len(cell.gates))])
            rows = slice(None) if below is None else np.array(below)
            b, d, W = (None if a is None else a[..., columns] for a in (layer.b, layer.d, layer.W))
            W = W[np.array(order)] if cell.recurrence == "dense" else W
            p = tuple(each[np.array(order)] for each in layer.p)
            layers.append(rj.Layer(layer.U[rows][:, columns], W, b, d, p))
            below = order
        return rj.Params(tuple(layers), params.V[np.array(below)], params.c)

    def relabel_state(state):
        return tuple(tuple(a[:, np.array(o)] for a in units) for units, o in zip(state, orders, strict=True))

    update = jitted(rj.bptt, network)
    (loss, grads), after = update(params, state, batch)
    result, relabelled_after = update(relabel(params), relabel_state(state), batch)
    assert_same(result, (loss, relabel(grads)), TOLERANCE)
    assert_close(relabelled_after, relabel_state(after), TOLERANCE)


RELU = [CELLS[name] for name in ("elman-relu-leaky", "indrnn", "rtu")]


@pytest.mark.slow
@cells
def test_causality(cell):
    """No output knows an input that is still to come, or one of another row: not by one bit, nor in its Jacobian."""
    network, (params, state, batch) = problem(cell, reset=False, dtype="float64")
    apply = jax.jit(net.apply, static_argnums=0)
    os, _ = apply(network, params, state, batch.xs, batch.mask)
    for t in range(T):
        changed, _ = apply(network, params, state, batch.xs.at[t:].add(1.0), batch.mask)
        chex.assert_trees_all_equal(changed[:t], os[:t])
        assert (changed[t] != os[t]).any(axis=-1)[batch.mask[t]].all()

    layer, (s0, _) = params.layers[0], state
    jacobian = jax.jit(jax.jacrev(lambda xs: rj.unroll(cell, layer, xs, s0, batch.mask)[0]))(batch.xs)
    later = jnp.arange(T)[None, :] > jnp.arange(T)[:, None]  # [t, t'] of ∂h_t/∂x_t'
    other = ~jnp.eye(B, dtype=bool)
    reached = (jacobian != 0).any(axis=(2, 5)).transpose(0, 2, 1, 3)  # [t, t', b, b']
    assert not reached[later].any() and not reached[:, :, other].any()
    share = reached[jnp.arange(T), jnp.arange(T)].diagonal(axis1=1, axis2=2)[batch.mask].mean()
    assert share > 0.7 if cell in RELU else share == 1  # in some steps all units of a relu are silent


@cells
def test_scale_of_the_loss(cell):
    network, window = problem(cell)
    loss = network.loss
    thrice = loss._replace(value=lambda o, y: 3 * loss.value(o, y), error=lambda o, y: 3 * loss.error(o, y))
    result, _ = jitted(rj.bptt, network._replace(loss=thrice))(*window)
    assert_same(result, added([jitted(rj.bptt, network)(*window)[0]] * 3), TOLERANCE)


@pytest.mark.slow
@cells
def test_jit_and_vmap(cell):
    """Eager, jitted, and several problems at once give what one jitted call after the other gives."""
    problems = [problem(cell, seed=seed) for seed in range(3)]
    network, windows = problems[0][0], [window for _, window in problems]
    one_by_one = [jitted(rj.bptt, network)(*window) for window in windows]
    eager, after = update_of(rj.bptt(network))(*windows[0])
    assert_same(eager, one_by_one[0][0], TOLERANCE)
    assert_close(after, one_by_one[0][1], TOLERANCE)
    at_once = jax.jit(jax.vmap(update_of(rj.bptt(network))))(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *windows))
    for index, expected in enumerate(one_by_one):
        result, after = jax.tree.map(lambda a, i=index: a[i], at_once)
        assert_same(result, expected[0], TOLERANCE)
        assert_close(after, expected[1], TOLERANCE)
