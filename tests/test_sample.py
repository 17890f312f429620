"""Sampling: tokens come as often as the network says, whatever the dtype, and each length is compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import make_network, make_params

import rnn_jax as rj

K, DRAWS = 65, 50_000
RARE = np.log([0.99] + [0.01 / (K - 1)] * (K - 1))
SLOPE = np.linspace(-1, 1, K)


def frequencies(logits, dtype, temperature=1.0):
    """How often each token was drawn, and how often it should be, where the logits are these at every step."""
    network = make_network(rj.elman(), inputs=K, hidden=2, outputs=K)
    params = rj.init(network, jax.random.key(0), dtype=dtype)
    params = params._replace(V=jnp.zeros_like(params.V), c=jnp.asarray(logits, dtype))
    tokens = rj.sample(network, params, jax.random.key(11), np.array([0]), DRAWS, temperature)
    weights = np.exp(np.asarray(params.c, float) / temperature)
    return np.bincount(tokens, minlength=K), DRAWS * weights / weights.sum()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize(("logits", "temperature"), [(np.zeros(K), 1.0), (SLOPE, 0.5), (SLOPE, 3.0)])
def test_chi_square(logits, temperature, dtype):
    """Of 64 degrees of freedom, mean 64 and standard deviation √128: five of them above."""
    drawn, expected = frequencies(logits, jnp.dtype(dtype), temperature)
    assert ((drawn - expected) ** 2 / expected).sum() < 64 + 5 * 128**0.5


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_a_class_of_one_percent(dtype):
    drawn, expected = frequencies(RARE, jnp.dtype(dtype))
    rare, share = drawn[1:].sum(), expected[1:].sum() / DRAWS
    assert abs(rare - DRAWS * share) < 5 * (DRAWS * share * (1 - share)) ** 0.5


def test_a_second_call_traces_nothing_anew():
    traces, cell = [], rj.gru()

    def counted(*args):
        traces.append(args)
        return cell.step(*args)

    network = make_network(cell._replace(step=counted))
    params = make_params(network)
    rj.sample(network, params, jax.random.key(0), np.array([1, 2]), 5)
    first = len(traces)
    rj.sample(network, params, jax.random.key(1), np.array([3, 0]), 5, 0.7)
    assert len(traces) == first > 0
