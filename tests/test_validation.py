"""Arguments are validated once in each public call: a trace of the largest calls few functions of ``checks``."""

import sys

import jax
import pytest
from fixtures import make_batch, make_network, make_params, make_state

import rnn_jax as rj
from rnn_jax import checks, network, train

LIMIT = 150


def calls_of(module, function):
    """How many functions of a module a call runs."""
    count = 0

    def watch(frame, event, argument):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename == module.__file__

    sys.setprofile(watch)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 3])
def test_each_public_call_validates_once(depth):
    net = make_network(rj.lstm(), depth)
    params, batch, state = make_params(net), make_batch(net, 6, 3, True, True, weight=True), make_state(net, 3)
    bptt, autodiff = rj.bptt(net), rj.autodiff(net)
    layer, xs = params.layers[0], jax.nn.one_hot(batch.xs, 6)
    public = {
        "bptt": lambda: rj.bptt(net),
        "bptt.update": lambda: jax.eval_shape(bptt.update, params, rj.Carry(state), batch),
        "autodiff.update": lambda: jax.eval_shape(autodiff.update, params, rj.Carry(state), batch),
        "value_and_grad": lambda: jax.eval_shape(rj.value_and_grad(bptt), params, batch),
        "init": lambda: rj.init(net, jax.random.key(0)),
        "apply": lambda: rj.apply(net, params, state, batch.xs),
        "loss": lambda: rj.loss(net, params, state, batch),
        "sample": lambda: rj.sample(net, params, jax.random.key(0), batch.xs[:, 0], 3),
        "unroll": lambda: rj.unroll(rj.lstm(), layer, xs),
        "evaluate": lambda: train.evaluate(net, params, [batch]),
        "initial_state": lambda: network.initial_state(net, params, 3),
    }
    counts = {name: calls_of(checks, function) for name, function in public.items()}
    assert max(counts.values()) <= LIMIT, counts
    assert min(counts.values()) > 0, counts
