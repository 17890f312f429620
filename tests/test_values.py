"""Cells, losses and networks are values: equal, hashable, picklable; and sizes may be NumPy's integers."""

import itertools
import pickle

import chex
import jax
import numpy as np
import pytest
from cases import make_batch, make_network, make_params

import rnn_jax as rj
from rnn_jax import train

MAKE = {
    "elman": rj.elman,
    "elman-relu": lambda: rj.elman("relu"),
    "elman-leak0.4": lambda: rj.elman(leak=0.4),
    "elman-leak0.5": lambda: rj.elman(leak=0.5),
    "lstm": rj.lstm,
    "lstm-forget0": lambda: rj.lstm(0.0),
    "gru": rj.gru,
    "softmax_cross_entropy": rj.softmax_cross_entropy,
    "squared_error": rj.squared_error,
    "network": lambda: make_network(rj.lstm()),
    "network-deep": lambda: make_network(rj.lstm(), 2),
    "network-wide": lambda: make_network(rj.lstm(), hidden=6),
    "network-gru": lambda: make_network(rj.gru()),
    "network-squared": lambda: make_network(rj.lstm(), loss=rj.squared_error()),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_made_twice_is_one_value(make):
    assert make() == make() and hash(make()) == hash(make())
    assert pickle.loads(pickle.dumps(make())) == make()


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(MAKE, 2)))
def test_others_are_not_equal(one, other):
    assert MAKE[one]() != MAKE[other]()


def test_an_equal_network_is_not_compiled_anew():
    traces, step = [], rj.gru().step

    def counted(*args):
        traces.append(args)
        return step(*args)

    def evaluated():
        network = make_network(rj.gru()._replace(step=counted))
        return train.evaluate(network, make_params(network), [make_batch(network, 5, 3)])

    first, count = evaluated(), len(traces)
    assert evaluated() == first and len(traces) == count > 0


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8])
def test_numpy_integers_as_sizes(kind):
    """The results are those of Python's own integers."""

    def results(integer):
        network = rj.Network((rj.gru(),), integer(6), integer(5), integer(6), rj.softmax_cross_entropy())
        params, algorithm = rj.init(network, jax.random.key(0)), rj.bptt(network, segment=integer(2))
        carry = algorithm.init(params, integer(3))
        _, estimate = algorithm.update(params, carry, make_batch(network, 5, 3))
        return params, estimate[:2], rj.sample(network, params, jax.random.key(1), np.array([1]), integer(4))

    chex.assert_trees_all_equal(results(kind), results(int))
