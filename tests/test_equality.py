"""Networks, cells and losses are values: equal where they are built alike, and a static argument of ``jit``."""

import itertools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fixtures import CELLS, make_batch, make_network, make_params, marked

import rnn_jax as rj
from rnn_jax import network as net
from rnn_jax import train

PARTS = {
    "elman": rj.elman,
    "elman-relu": lambda: rj.elman("relu"),
    "elman-leaky": lambda: rj.elman(leak=0.4),
    "elman-as-leaky-to-six-digits": lambda: rj.elman(leak=0.4 + 1e-9),
    "elman-relu-leaky": lambda: rj.elman("relu", leak=0.4),
    "lstm": rj.lstm,
    "lstm-forget-0": lambda: rj.lstm(forget_bias=0.0),
    "gru": rj.gru,
    "softmax_cross_entropy": rj.softmax_cross_entropy,
    "squared_error": rj.squared_error,
    "network": lambda: make_network(rj.lstm()),
    "network-of-two": lambda: make_network(rj.lstm(), 2),
    "network-of-another-width": lambda: make_network(rj.lstm(), hidden=7),
    "network-of-another-loss": lambda: make_network(rj.lstm(), loss=rj.squared_error()),
}


@pytest.fixture(autouse=True)
def _promotion():
    """Optax's own arithmetic promotes dtypes implicitly."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("build", PARTS.values(), ids=PARTS)
def test_built_alike_are_equal(build):
    one, two = build(), build()
    assert one == two and hash(one) == hash(two) and one is not two


@pytest.mark.parametrize("build", PARTS.values(), ids=PARTS)
def test_a_pickle_is_equal(build):
    again = pickle.loads(pickle.dumps(build()))
    assert again == build() and hash(again) == hash(build())


def test_built_otherwise_are_not_equal():
    for one, two in itertools.combinations(PARTS, 2):
        assert PARTS[one]() != PARTS[two](), (one, two)


def test_a_whole_number_or_a_float_as_an_option():
    assert rj.elman(leak=1) == rj.elman(leak=1.0) and rj.lstm(forget_bias=1) == rj.lstm()


@pytest.mark.parametrize("name", marked(CELLS, ["gru"]))
def test_a_pickled_cell_steps_the_same(name):
    cell, again = CELLS[name], pickle.loads(pickle.dumps(CELLS[name]))
    layer = rj.init_layer(cell, jax.random.key(0), 3, 4)
    xs = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    chex.assert_trees_all_equal(rj.unroll(cell, layer, xs), rj.unroll(again, layer, xs))


def traced(loss):
    """The loss, and its calls: one each time a program is traced."""
    calls = []

    def value(o, y):
        calls.append(o.shape)
        return loss.value(o, y)

    return loss._replace(value=value), calls


def test_an_equal_network_is_not_traced_again():
    loss, calls = traced(rj.softmax_cross_entropy())
    params, batch = make_params(make_network(rj.lstm())), make_batch(make_network(rj.lstm()), 5, 3)
    first = train.evaluate(make_network(rj.lstm(), loss=loss), params, [batch])
    count = len(calls)
    assert count and train.evaluate(make_network(rj.lstm(), loss=loss), params, [batch]) == first
    assert len(calls) == count
    train.evaluate(make_network(rj.lstm(), loss=loss._replace(name="another")), params, [batch])
    assert len(calls) == 2 * count


@pytest.mark.slow
@pytest.mark.parametrize("integer", [np.int64, np.uint8])
def test_sizes_are_any_integers(integer):
    """NumPy's count as Python's: the same network, and the same numbers."""
    plain = rj.Network((rj.gru(), rj.gru()), 6, (5, 4), 6, rj.softmax_cross_entropy())
    network = plain._replace(inputs=integer(6), hidden=(integer(5), integer(4)), outputs=integer(6))
    assert network == plain and hash(network) == hash(plain)
    key = jax.random.key(0)
    params = rj.init(network, key, dtype=jnp.float64)
    chex.assert_trees_all_equal(params, rj.init(plain, key, dtype=jnp.float64))
    chex.assert_trees_all_equal(
        rj.init_layer(rj.gru(), key, integer(6), integer(5)), rj.init_layer(rj.gru(), key, 6, 5)
    )
    chex.assert_trees_all_equal_shapes(
        rj.initial_state(network, params, integer(3)), rj.initial_state(plain, params, 3)
    )
    prime = np.array([1])
    np.testing.assert_array_equal(
        rj.sample(network, params, key, prime, integer(4)), rj.sample(plain, params, key, prime, 4)
    )

    batch, optimiser = make_batch(plain, 5, 3), optax.sgd(0.1)
    states = []
    for algorithm in (rj.bptt(network, segment=integer(2)), rj.bptt(plain, segment=2)):
        state = train.init_state(algorithm, optimiser, params, 3 if states else integer(3))
        *_, last = train.run(
            train.make_step(algorithm, optimiser), state, lambda index: batch, integer(2), every=integer(2)
        )
        states.append(last)
    chex.assert_trees_all_equal(*states)


def test_a_network_is_a_static_argument():
    """Of a user's own function too."""
    count = []

    def loss(network, params, batch):
        count.append(1)
        return net.loss(network, params, net.initial_state(network, params, 3), batch)[0]

    jitted = jax.jit(loss, static_argnums=0)
    params, batch = make_params(make_network(rj.gru())), make_batch(make_network(rj.gru()), 4, 3)
    for _ in range(2):
        jitted(make_network(rj.gru()), params, batch)
    assert len(count) == 1
