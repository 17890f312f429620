"""Weights of steps: their share in the sum, the mean by them, and targets that nobody looks at."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures import assert_same, exact_algorithms, make_batch, make_network, make_params

import rnn_jax as rj
from rnn_jax import network as net
from rnn_jax import train

LOSSES = pytest.mark.parametrize(
    "loss",
    [rj.softmax_cross_entropy(), pytest.param(rj.squared_error(), marks=pytest.mark.slow)],
    ids=["softmax_cross_entropy", "squared_error"],
)


@pytest.fixture(autouse=True)
def _promotion():
    """Optax's own arithmetic promotes dtypes implicitly."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def padded(network, seen):
    """A batch, and the same one with targets of no meaning, −100 or NaN, where ``seen`` [T, B] is False."""
    batch = make_batch(network, *seen.shape, dtype="float64")
    there = seen if network.loss.integer_targets else seen[..., None]
    return batch, batch._replace(ys=jnp.where(there, batch.ys, -100 if network.loss.integer_targets else np.nan))


def mean_of(network, batch):
    """The mean loss by weight, and what it divides by, from the definition: plain NumPy sums over steps."""
    params = make_params(network)
    os, _ = net.apply(network, params, net.initial_state(network, params, batch.xs.shape[1]), batch.xs)
    losses = np.asarray(network.loss.value(os, jnp.maximum(batch.ys, 0)))
    weight = np.ones(losses.shape) if batch.weight is None else np.asarray(batch.weight)
    weight = weight if batch.mask is None else weight * np.asarray(batch.mask)
    return (weight * losses).sum() / weight.sum(), weight.sum()


SEEN = np.random.default_rng(7).random((6, 3)) < 0.5


@LOSSES
@pytest.mark.parametrize("field", ["mask", "weight"])
def test_a_target_that_does_not_count_is_never_looked_at(loss, field):
    """Not even as 0 · NaN in a gradient, by hand or by autodiff."""
    network = make_network(rj.gru(), loss=loss)
    params, flags = make_params(network), {field: SEEN if field == "mask" else SEEN.astype(float)}
    good, bad = (batch._replace(**flags) for batch in padded(network, SEEN))
    by_hand, reference = (jax.jit(rj.value_and_grad(algorithm(network))) for algorithm in (rj.bptt, rj.autodiff))
    for function in (by_hand, reference):
        chex.assert_trees_all_equal(function(params, bad), function(params, good))
    assert_same(by_hand(params, bad), reference(params, bad), 1e-12)
    assert math.isfinite(rj.loss(network, params, rj.initial_state(network, params, 3), bad)[0])  # none is refused


@pytest.mark.parametrize(
    ("loss", "dtype"),
    [(rj.softmax_cross_entropy(), "float64"), pytest.param(rj.squared_error(), "float32", marks=pytest.mark.slow)],
    ids=["ce", "square"],
)
def test_two_windows_equal_autodiff(loss, dtype):
    """Depth 2, masks, resets and a carried state, whatever float the weights are in."""
    network = make_network(rj.lstm(), 2, loss=loss)
    params = make_params(network)
    algorithms = [rj.bptt(network, segment=3), rj.autodiff(network)]
    carries = [algorithm.init(params, 3) for algorithm in algorithms]
    update_of_each = [jax.jit(algorithm.update) for algorithm in algorithms]
    for seed in range(2):
        batch = make_batch(network, 7, 3, mask=True, reset=True, weight=True, dtype="float64", seed=seed)
        batch = batch._replace(weight=batch.weight.astype(dtype))
        updates = [update(params, carry, batch) for update, carry in zip(update_of_each, carries, strict=True)]
        carries, (estimate, reference) = zip(*updates, strict=True)
        assert_same(estimate[:2], reference[:2], 1e-12)
        assert estimate.weight == reference.weight
        chex.assert_trees_all_close(*carries, rtol=1e-12)


@exact_algorithms
def test_loss_and_gradient_are_the_weighted_sums(algorithm):
    """The sum over steps of w times what the step gives alone, under a mask of its own."""
    network = make_network(rj.elman())
    params, batch = make_params(network), make_batch(network, 4, 2)
    weight = np.random.default_rng(1).uniform(0, 2, (4, 2))
    value_and_grad = jax.jit(rj.value_and_grad(algorithm(network)))

    def alone(t, b):  # the loss of this step only, but all steps before it advance the state
        only = np.zeros((4, 2))
        only[t, b] = 1
        return jax.tree.map(lambda leaf: weight[t, b] * leaf, value_and_grad(params, batch._replace(weight=only)))

    total = jax.tree.map(lambda *leaves: sum(leaves), *(alone(t, b) for t in range(4) for b in range(2)))
    assert_same(value_and_grad(params, batch._replace(weight=weight)), total, 1e-12)


@pytest.mark.slow
def test_weights_of_one_are_no_weights():
    network = make_network(rj.lstm())
    params, batch = make_params(network), make_batch(network, 6, 3, mask=True)
    value_and_grad = jax.jit(rj.value_and_grad(rj.bptt(network)))
    for ones in (np.ones((6, 3)), np.ones((6, 3), np.float32), jnp.ones((6, 3), jnp.bfloat16)):
        assert_same(value_and_grad(params, batch._replace(weight=ones)), value_and_grad(params, batch), 1e-14)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "mask"),
    [
        (jnp.asarray, False),
        (np.asarray, True),
        (lambda weight: np.asarray(weight, np.float32), True),
    ],
    ids=["jax", "numpy", "float32"],
)
def test_means_divide_by_the_sum_of_weights(kind, mask):
    """The step, the report and the evaluation; at the parameters before the update."""
    network, optimiser = make_network(rj.elman()), optax.sgd(0.5)
    algorithm, params = rj.bptt(network), make_params(network)
    batch = make_batch(network, 5, 3, weight=True)
    if mask:  # at the end of each row, where no step that counts comes after
        batch = batch._replace(mask=np.arange(5)[:, None] < np.array([2, 5, 4]))
    batch = batch._replace(weight=kind(batch.weight))
    loss, weight = mean_of(network, batch)
    _, grads = jax.jit(rj.value_and_grad(rj.autodiff(network)))(params, batch)

    state, metrics = train.make_step(algorithm, optimiser)(train.init_state(algorithm, optimiser, params, 3), batch)
    assert math.isclose(metrics.loss, loss, rel_tol=1e-6) and math.isclose(metrics.weight, weight, rel_tol=1e-6)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g / weight, params, grads)
    chex.assert_trees_all_close(state.params, expected, rtol=1e-6)
    assert math.isclose(train.evaluate(network, params, [batch]), loss, rel_tol=1e-6)


@pytest.mark.slow
def test_a_report_averages_the_loss_by_weight():
    network, optimiser = make_network(rj.elman()), optax.sgd(0.0)
    algorithm, params = rj.bptt(network), make_params(network)
    batches = [make_batch(network, 5, 3, weight=True, reset=True, seed=seed) for seed in range(3)]
    batches = [batch._replace(reset=jnp.arange(5)[:, None] + jnp.zeros((5, 3)) == 0) for batch in batches]
    means = np.array([mean_of(network, batch) for batch in batches])
    state = train.init_state(algorithm, optimiser, params, 3)
    ((_, metrics),) = train.run(train.make_step(algorithm, optimiser), state, batches.__getitem__, 3, every=3)
    expected = np.average(means[:, 0], weights=means[:, 1])
    assert math.isclose(metrics.loss, expected, rel_tol=1e-12)
    assert math.isclose(metrics.weight, means[:, 1].sum(), rel_tol=1e-12)
    assert math.isclose(train.evaluate(network, params, batches), expected, rel_tol=1e-12)


BAD = pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])


def weighted(network, value, valid):
    batch = make_batch(network, 5, 3)
    weight, mask = np.ones((5, 3)), np.ones((5, 3), bool)
    weight[2, 1], mask[2, 1] = value, valid
    return batch._replace(weight=weight, mask=mask)


@BAD
@exact_algorithms
def test_a_bad_weight_is_refused_where_it_can_be_seen(algorithm, bad):
    network = make_network(rj.elman())
    params, batch = make_params(network), weighted(network, bad, True)
    for function in (
        lambda: rj.value_and_grad(algorithm(network))(params, batch),
        lambda: rj.loss(network, params, rj.initial_state(network, params, 3), batch),
        lambda: train.evaluate(network, params, [batch]),
    ):
        with pytest.raises(rj.InputError, match=r"batch\.weight"):
            function()


@BAD
def test_a_bad_weight_stops_a_run(bad):
    """Under ``jit`` it cannot be looked at: the mean is NaN."""
    network, optimiser = make_network(rj.elman()), optax.sgd(0.1)
    algorithm = rj.bptt(network)
    state = train.init_state(algorithm, optimiser, make_params(network), 3)
    step = train.make_step(algorithm, optimiser)
    with pytest.raises(train.NonFiniteError, match="at step 0") as caught:
        list(train.run(step, state, lambda index: weighted(network, bad, True), 2))
    _, metrics = step(caught.value.state, weighted(network, bad, True))
    assert not np.isfinite(metrics.loss)


@exact_algorithms
def test_the_weight_of_a_masked_step_is_ignored(algorithm):
    network, optimiser = make_network(rj.gru()), optax.sgd(0.1)
    params, method = make_params(network), algorithm(network)
    step = train.make_step(method, optimiser)

    def results(weight):
        batch = weighted(network, weight, False)
        return train.evaluate(network, params, [batch]), step(train.init_state(method, optimiser, params, 3), batch)

    for weight in (-1.0, np.nan, np.inf, 1e30):
        chex.assert_trees_all_equal(results(weight), results(1.0))


@pytest.mark.slow
@LOSSES
def test_sequence_to_one(loss):
    """The loss of the last step alone: that of a plain JAX model that reads out once."""
    network = make_network(rj.lstm(), 2, loss=loss)
    params = make_params(network)
    last = np.zeros((6, 3), bool)
    last[-1] = True
    full, batch = padded(network, last)
    batch = batch._replace(weight=last.astype(float))

    def once(params):
        os, _ = rj.apply(network, params, rj.initial_state(network, params, 3), batch.xs)
        return loss.value(os[-1], full.ys[-1]).sum()

    assert_same(jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch), jax.value_and_grad(once)(params), 1e-12)
    state = train.init_state(rj.bptt(network), optax.sgd(0.1), params, 3)
    _, metrics = train.make_step(rj.bptt(network), optax.sgd(0.1))(state, batch)
    assert metrics.weight == 3 and math.isclose(metrics.loss, once(params) / 3, rel_tol=1e-12)
