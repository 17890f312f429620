"""RTRL in windows of any length: a border at the end of each, or one that waits until the last steps fill a segment."""

import importlib

import jax
import jax.numpy as jnp
import pytest
from fixtures import assert_close, make_batch, make_params, marked

import rnn_jax as rj
from rnn_jax.testing.algorithm import algorithm_results
from rnn_jax.testing.contract import difference
from rnn_jax.testing.report import exact_arithmetic
from rnn_jax.testing.scenarios import run, total_gradient

WINDOWS = [((24,),), ((12, 12),), ((5, 1, 7, 11),), ((1,) * 24,)]


def problem(depth=2, flags=True):
    cells = (rj.lstm(), rj.gru())[:depth]
    network = rj.Network(cells, 3, 4, 2, rj.squared_error())
    return network, make_params(network), make_batch(network, 24, 3, flags, flags, "float64", weight=True)


@pytest.mark.parametrize("windows", marked(WINDOWS, [((5, 1, 7, 11),)]))
@pytest.mark.parametrize("segment", marked([None, 1, 7], [1]))
@pytest.mark.parametrize("online", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_stack_in_any_windows_is_jax_grad(windows, segment, online):
    network, params, batch = problem()
    ours = total_gradient(run(rj.rtrl(network, segment, online), params, batch, windows))
    assert_close(ours, total_gradient(run(rj.autodiff(network), params, batch, (24,))), 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [False, True])
def test_online_at_frozen_weights_each_window_is_that_of_borders_at_every_step(flags):
    network, params, batch = problem(1, flags)
    windows = (1, 1, 2, 5, 1, 1, 1, 6, 6)
    ours, stepwise = (run(rj.rtrl(network, *each), params, batch, windows) for each in ((6, True), (1, False)))
    for (one, _), (other, _) in zip(ours, stepwise, strict=True):
        assert_close(one.grads, other.grads, 1e-11)


@pytest.mark.slow
def test_a_border_that_loses_what_is_kept_is_caught(monkeypatch):
    network, params, batch = problem(1)
    module = importlib.import_module("rnn_jax.gradients.rtrl")  # the package has the function by that name
    monkeypatch.setattr(module, "flush_history", lambda segment, M, history: (M, history))
    ours = total_gradient(run(rj.rtrl(network, 3, True), params, batch, (1,) * 24))
    assert difference(ours, total_gradient(run(rj.autodiff(network), params, batch, (24,)))) > 1e-3


@pytest.mark.slow
def test_after_a_reset_nothing_is_left_of_the_time_before():
    network, params, batch = problem(1, False)
    algorithm = rj.rtrl(network, 5, online=True)
    update, fresh = jax.jit(algorithm.update), algorithm.init(params, 3)
    first, last = (jax.tree.map(lambda a, part=part: a[part], batch) for part in (slice(0, 3), slice(3, 6)))
    last = last._replace(reset=jnp.zeros((3, 3), bool).at[0].set(True))
    used, _ = update(params, fresh, first)
    after, expected = (update(params, carry, last)[0] for carry in (used, fresh))
    assert difference(after, expected) <= 1e-12


@pytest.mark.slow
def test_rtrl_online_conforms():
    """But that its memory is the same wherever padding stands: what is kept has other places in the history then."""

    def online(network):
        return rj.rtrl(network, segment=4, online=True)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), exact_arithmetic():
        results = list(algorithm_results(online, None, [rj.elman()]))
    assert {result.check for result in results if not result.ok} <= {"padding"}
    assert len(results) > 80
