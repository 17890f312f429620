"""The hand-written gradient equals ``jax.grad``: every cell, depth, dtype, mask, reset, state, length and split."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import (
    CELLS,
    EACH_KIND,
    TOLERANCE,
    assert_close,
    assert_same,
    cells,
    cells_marked,
    every_cell,
    exact_algorithms,
    make_batch,
    make_network,
    make_params,
    make_state,
    marked,
    update_of,
)
from jax.test_util import check_grads

import rnn_jax as rj
from rnn_jax import network as net
from rnn_jax.recurrence import forward


def both(network, params, state, batch, **options):
    """(loss, grads) by bptt and by autodiff."""
    return tuple(
        jax.jit(update_of(algorithm))(params, state, batch)[0]
        for algorithm in (rj.bptt(network, **options), rj.autodiff(network))
    )


EVERY_RUN = {(1, "float64", 200, 8), (3, "float32", 13, 8)}
"""Corners of the grid, several segments (T = 200) and rows that fill a vector (B = 8) among them; the rest is slow."""
SHAPES = [(1, 1), (2, 4), (13, 4), (13, 8), (200, 1), (200, 8)]
GRID = [(depth, dtype, *shape) for depth in (1, 3) for dtype in ("float64", "float32") for shape in SHAPES]


def cases():
    """Of a GRU the corners are fast and the rest is slow; of the other kinds of cells the corners are slow."""
    for name, cell in CELLS.items():
        for shape in GRID:
            corner, kind = shape in EVERY_RUN, name in EACH_KIND
            fast, slow = name == "gru" and corner, kind and (name == "gru" or corner)
            marks = [] if fast else [pytest.mark.slow if slow else pytest.mark.exhaustive]
            yield pytest.param(cell, *shape, marks=marks, id="-".join(map(str, (name, *shape))))


@pytest.mark.parametrize(("cell", "depth", "dtype", "T", "B"), list(cases()))
def test_bptt_equals_autodiff(cell, depth, dtype, T, B, request):
    if dtype == "float32" and T == 200:
        request.getfixturevalue("this_as_users_compile")
    network = make_network(cell, depth)
    params = make_params(network, dtype)
    ours, reference = jax.jit(update_of(rj.bptt(network))), jax.jit(update_of(rj.autodiff(network)))
    everywhere, nowhere = jnp.ones((T, B), bool), jnp.zeros((T, B), bool)
    mask, reset = make_batch(network, T, B, mask=True, reset=True)[2:4]
    zero, nonzero = net.initial_state(network, params, B), make_state(network, B, dtype)
    cases = {
        "plain": (zero, None, None),
        "nonzero initial state": (nonzero, None, None),
        "mask": (zero, mask, nowhere),
        "reset": (nonzero, everywhere, reset),
        "both": (nonzero, mask, reset),
    }
    for state, *flags in cases.values():
        batch = make_batch(network, T, B)._replace(mask=flags[0], reset=flags[1])
        (result, after), (expected, expected_after) = (update(params, state, batch) for update in (ours, reference))
        assert_same(result, expected, TOLERANCE[dtype])
        assert_close(after, expected_after, TOLERANCE[dtype])


@pytest.mark.parametrize("depth", marked([1, 2], [2]))
@cells
def test_bfloat16(cell, depth):
    network = make_network(cell, depth)
    params = make_params(network, "bfloat16")
    (loss, grads), reference = both(network, params, make_state(network, 8, "bfloat16"), make_batch(network, 50, 8))
    assert_same((loss, grads), reference, TOLERANCE["bfloat16"])
    assert loss.dtype == jnp.float32
    chex.assert_trees_all_equal_shapes_and_dtypes(grads, params)


SEGMENTS = [(1, 1, 1), (4, 0, 0), (4, 1, 0), (4, 0, 1), (4, 1, 1), (13, 1, 1), (50, 0, 1)]


@pytest.mark.parametrize(("segment", "mask", "reset"), marked(SEGMENTS, {(4, 1, 1)}))
@cells
def test_any_segment_float_inputs_and_squared_error(cell, segment, mask, reset):
    network = make_network(cell, 2, inputs=3, outputs=4, loss=rj.squared_error())
    params, state = make_params(network), make_state(network, 2)
    ours, reference = both(
        network, params, state, make_batch(network, 13, 2, mask, reset, dtype="float64"), segment=segment
    )
    assert_same(ours, reference, 1e-12)


@pytest.mark.parametrize("segment", marked([None, 1, 7], [7]))
@cells
def test_recomputed(cell, segment):
    network = make_network(cell, 2)
    params, state, batch = make_params(network), make_state(network, 8), make_batch(network, 30, 8, True, True)
    ours, reference = both(network, params, state, batch, segment=segment, recompute=True)
    assert_same(ours, reference, 1e-12)


@pytest.mark.slow
@cells
def test_as_compiled_for_an_accelerator(cell, monkeypatch):
    """Eight steps to a pass forward, four back, where these divide the segment, and one-hot rows; run on a CPU."""
    chosen = []

    def elsewhere(*arguments, cpu, default):
        chosen.append(default)
        return default(*arguments)

    monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    network = make_network(cell, 2)
    params, state, batch = make_params(network), make_state(network, 8), make_batch(network, 38, 8, True, True)
    ours, reference = both(network, params, state, batch, segment=16)  # of 16, 16 and 6 steps
    assert_same(ours, reference, 1e-12)
    assert chosen


def test_storing_keeps_little_more_than_the_states():
    """An Elman cell's reverse needs hs and nothing else of the forward pass."""
    network = make_network(rj.elman(), inputs=65, hidden=256, outputs=65)
    params, batch = make_params(network, "float32"), make_batch(network, 256, 64)
    program = (
        jax.jit(update_of(rj.bptt(network))).lower(params, net.initial_state(network, params, 64), batch).compile()
    )
    assert program.memory_analysis().temp_size_in_bytes <= 1.3 * 256 * 64 * 256 * 4


def test_recomputing_keeps_the_borders_only():
    """Temporaries by XLA's own account: at T = 4096, a twelfth of what autodiff takes."""
    network = make_network(rj.elman(), inputs=8, hidden=64, outputs=8)
    params, batch = make_params(network, "float32"), make_batch(network, 4096, 1)
    state = net.initial_state(network, params, 1)
    ours, reference = (
        jax.jit(update_of(algorithm)).lower(params, state, batch).compile().memory_analysis().temp_size_in_bytes
        for algorithm in (rj.bptt(network, recompute=True), rj.autodiff(network))
    )
    assert ours <= 0.08 * reference


@every_cell
def test_adjoint_equals_vjp_of_the_step(cell):
    rng = np.random.default_rng(0)

    def draw(count):
        return tuple(jnp.asarray(rng.normal(size=7)) for _ in range(count))

    S, G = len(cell.states), len(cell.gates)
    arguments = draw(S), *(draw(G) for _ in range(1 + cell.separate)), *draw(len(cell.parameters))
    s, residual = cell.step(*arguments)
    delta_s = draw(S)
    expected = jax.vjp(lambda *arguments: cell.step(*arguments)[0], *arguments)[1](delta_s)
    p = arguments[2 + cell.separate :]
    adjoints = cell.adjoint(arguments[0], s, residual, delta_s, *p)
    chex.assert_trees_all_close(adjoints, expected, rtol=1e-13, atol=1e-14)


@cells
def test_unroll_differentiates_by_hand(cell):
    """Cotangents of parameters, inputs and initial state, against the plain scan and against finite differences."""
    network = make_network(cell, inputs=3)
    layer, (s0,) = make_params(network).layers[0], make_state(network, 2)
    xs, _, mask, reset, _ = make_batch(network, 9, 2, mask=True, reset=True, dtype="float64")
    weights = make_batch(network._replace(inputs=5), 9, 2, dtype="float64", seed=3).xs

    def scalar(unroll, layer, xs, s0):
        hs, s_T = unroll(layer, xs, s0)
        return (hs * weights).sum() + sum((value**2).sum() for value in s_T)

    def by_hand(layer, xs, s0):
        return rj.unroll(cell, layer, xs, s0, mask, reset)

    def plain(layer, xs, s0):
        s_T, (hs, *_), _ = forward(cell, layer, xs, s0, mask, reset)
        return hs, s_T

    ours, reference = (
        jax.jit(jax.grad(functools.partial(scalar, f), (0, 1, 2)))(layer, xs, s0) for f in (by_hand, plain)
    )
    assert_close(ours, reference, 1e-12)
    if cell.name != "elman-relu-leak0.4":  # finite differences step over its kink
        check_grads(jax.jit(functools.partial(scalar, by_hand)), (layer, xs, s0), order=1, modes=["rev"])

    stacked = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a, -a]), (layer, xs, s0))
    gradient = jax.grad(functools.partial(scalar, by_hand), (0, 1, 2))
    batched = jax.jit(jax.vmap(gradient))(*stacked)
    one = jax.jit(gradient)
    looped = [one(*jax.tree.map(lambda a, i=i: a[i], stacked)) for i in range(3)]
    assert_close(batched, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped), 1e-12)


@pytest.mark.parametrize("platform", ["cpu", "default"])
@pytest.mark.parametrize("dtype", marked(["uint8", "int8", "int16", "int64"], ["int8"]))
def test_tokens_of_any_integer_dtype(dtype, platform, monkeypatch):
    """More rows of U than the dtype reaches, where it is short; on accelerators the rows are one-hot."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arguments, **branches: branches[platform](*arguments))
    network = make_network(rj.elman(), inputs=300, outputs=300)
    params, state, batch = make_params(network), make_state(network, 2), make_batch(network, 9, 2)
    batch = batch._replace(xs=(batch.xs % 128).astype(dtype))
    assert_same(*both(network, params, state, batch), 1e-12)


def test_unroll_of_tokens_has_no_cotangent_for_them():
    network = make_network(rj.gru())
    layer, (s0,) = make_params(network).layers[0], make_state(network, 2)
    tokens = make_batch(network, 7, 2).xs
    grads = [
        jax.grad(lambda layer, f=f: jnp.sum(f(layer) ** 2))(layer)
        for f in (
            lambda layer: rj.unroll(network.cells[0], layer, tokens, s0)[0],
            lambda layer: forward(network.cells[0], layer, tokens, s0)[1][0],
        )
    ]
    assert_close(*grads, 1e-12)


@cells
def test_loss_by_finite_differences(cell):
    network = make_network(cell)
    params, state, batch = make_params(network), make_state(network, 2), make_batch(network, 6, 2)

    @jax.custom_vjp
    def loss(params):
        return net.loss(network, params, state, batch)[0]

    def reverse(grads, delta):
        return (jax.tree.map(lambda grad: delta * grad, grads),)

    loss.defvjp(lambda params: update_of(rj.bptt(network))(params, state, batch)[0], reverse)
    check_grads(jax.jit(loss), (params,), order=1, modes=["rev"])


@exact_algorithms
@cells_marked()
def test_windows_carry_the_state(cell, algorithm):
    """Losses of windows add up to the whole; the gradient is that with a stop_gradient at each window's start."""
    network = make_network(cell, 2)
    params, state, batch = make_params(network), make_state(network, 3), make_batch(network, 12, 3, True, True)
    update = jax.jit(update_of(algorithm(network)))
    whole, cut = jnp.zeros(()), state
    total = jax.tree.map(jnp.zeros_like, params)
    for start, stop in ((0, 5), (5, 6), (6, 12)):
        (loss, grads), cut = update(params, cut, jax.tree.map(lambda a, i=start, j=stop: a[i:j], batch))
        whole, total = whole + loss, jax.tree.map(jnp.add, total, grads)

    def truncated(params):
        carried, sum_of_losses = state, 0.0
        for start, stop in ((0, 5), (5, 6), (6, 12)):
            window = jax.tree.map(lambda a, i=start, j=stop: a[i:j], batch)
            loss, carried = net.loss(network, params, jax.lax.stop_gradient(carried), window)
            sum_of_losses += loss
        return sum_of_losses

    expected, state_T = net.loss(network, params, state, batch)
    assert abs(whole - expected) < 1e-12 * abs(expected)
    chex.assert_trees_all_close(cut, state_T, rtol=1e-13, atol=1e-14)
    assert_close(total, jax.jit(jax.grad(truncated))(params), 1e-12)


@exact_algorithms
@pytest.mark.parametrize(
    "inputs", [pytest.param(None, id="tokens"), pytest.param("float64", id="floats", marks=pytest.mark.slow)]
)
@cells
def test_padding_never_changes_anything(cell, inputs, algorithm):
    """Masked steps before, amid and after, and masked rows, whatever stands in them, even NaN."""
    network = make_network(cell, 2)
    params, state, batch = make_params(network), make_state(network, 2), make_batch(network, 8, 2, False, True, inputs)
    update = jax.jit(update_of(algorithm(network)))
    (loss, grads), after = update(params, state, batch)

    def pad(a, steps, rows, fill):
        a = np.insert(np.asarray(a), [0, 3, 8][:steps], fill, axis=0)
        return jnp.asarray(np.concatenate([a, np.full((a.shape[0], rows, *a.shape[2:]), fill, a.dtype)], axis=1))

    for steps, rows in ((3, 0), (0, 2), (3, 2)):
        fill = 10**6 if inputs is None else np.nan
        padded = rj.Batch(
            pad(batch.xs, steps, rows, fill),
            pad(batch.ys, steps, rows, -1),
            pad(np.ones((8, 2), bool), steps, rows, False),
            pad(batch.reset, steps, rows, True),
        )
        wider = jax.tree.map(lambda a, n=rows: jnp.concatenate([a, jnp.ones((n, a.shape[1]))]), state)
        (padded_loss, padded_grads), padded_after = update(params, wider, padded)
        assert_same((padded_loss, padded_grads), (loss, grads), 1e-12)
        chex.assert_trees_all_close(jax.tree.map(lambda a: a[:2], padded_after), after, rtol=1e-13, atol=1e-14)
        chex.assert_trees_all_equal(jax.tree.map(lambda a: a[2:], padded_after), jax.tree.map(lambda a: a[2:], wider))


@cells
def test_no_gradient_flows_back_through_a_reset(cell):
    """With a reset at step k, the loss after it has the gradient of a sequence that begins at k."""
    network = make_network(cell, 2)
    params, batch, k = make_params(network), make_batch(network, 10, 2), 4
    late = jnp.arange(10)[:, None].repeat(2, 1) >= k
    reset = jnp.zeros((10, 2), bool).at[k].set(True)
    state = make_state(network, 2)
    hidden_start = rj.Batch(batch.xs, batch.ys, None, reset)
    early = jax.tree.map(lambda a: a[:k], batch)
    update = jax.jit(update_of(rj.bptt(network)))
    (whole, grads), _ = update(params, state, hidden_start)
    (first, first_grads), _ = update(params, state, early)
    (second, second_grads) = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, jax.tree.map(lambda a: a[k:], batch))
    assert late.any()
    assert_same((whole, grads), (first + second, jax.tree.map(jnp.add, first_grads, second_grads)), 1e-12)


@exact_algorithms
def test_one_trace(algorithm):
    network = make_network(rj.lstm(), 2)
    built = algorithm(network)
    update = jax.jit(chex.assert_max_traces(built.update, n=1))
    params = make_params(network)
    carry = built.init(params, 3)
    for seed in range(3):
        carry, estimate = update(params, carry, make_batch(network, 5, 3, seed=seed))
        params = jax.tree.map(lambda p, g: p - 0.01 * g, params, estimate.grads)


class WithAndWithoutJit(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_bptt(self):
        network = make_network(rj.gru())
        params, state, batch = make_params(network), make_state(network, 2), make_batch(network, 7, 2)
        reference, _ = update_of(rj.autodiff(network))(params, state, batch)
        result, _ = self.variant(update_of(rj.bptt(network)))(params, state, batch)
        assert_same(result, reference, 1e-12)


def test_value_and_grad_has_the_shape_of_jax():
    network = make_network(rj.elman())
    params, batch = make_params(network), make_batch(network, 7, 2)
    state = net.initial_state(network, params, 2)
    expected = jax.value_and_grad(lambda params: net.loss(network, params, state, batch)[0])(params)
    assert_same(rj.value_and_grad(rj.bptt(network))(params, batch), expected, 1e-12)
