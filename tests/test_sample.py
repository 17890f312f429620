"""Sampling draws from the softmax of the logits, in every dtype, and is compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import make_network, make_params, marked

import rnn_jax as rj

K, N = 65, 20_000
DTYPES = pytest.mark.parametrize("dtype", marked(["float64", "float32", "bfloat16"], ["float32"]))


def draws(logits, dtype, temperature=1.0):
    """Tokens of a network whose logits are these at every step."""
    network = rj.Network((rj.elman(),), K, 2, K, rj.softmax_cross_entropy())
    params = rj.init(network, jax.random.key(0), dtype=jnp.dtype(dtype))
    params = params._replace(V=jnp.zeros_like(params.V), c=jnp.asarray(logits, dtype))
    tokens = np.asarray(rj.sample(network, params, jax.random.key(11), np.array([0]), N, temperature))
    return np.bincount(tokens, minlength=K)


def chi2(counts, probabilities):
    expected = N * probabilities / probabilities.sum()
    return ((counts - expected) ** 2 / expected).sum()


@DTYPES
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_equal_tokens_are_drawn_equally(dtype, offset):
    """χ² of 64 degrees of freedom is above 124.8 once in 10⁵; a Gumbel noise in bfloat16 is at 500."""
    assert chi2(draws(np.full(K, offset), dtype), np.ones(K)) < 124.8


@DTYPES
@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_a_temperature_is_a_power_of_the_probabilities(dtype, temperature):
    logits = np.arange(K) % 4 / 2  # exact in bfloat16
    assert chi2(draws(logits, dtype, temperature), np.exp(logits / temperature)) < 124.8


@DTYPES
def test_a_class_of_one_percent(dtype):
    logits = np.asarray(jnp.asarray([np.log(0.99)] + [np.log(0.01 / 64)] * 64, dtype), float)
    share = 1 - np.exp(logits[0]) / np.exp(logits).sum()
    rare = draws(logits, dtype)[1:].sum()
    assert abs(rare - N * share) < 4.5 * np.sqrt(N * share * (1 - share))


def test_the_second_call_traces_nothing_anew():
    """Neither another key, prime, temperature or parameters, nor an equal network; another length does."""
    calls = []
    step = rj.elman().step

    def counted(*arguments):
        calls.append(1)
        return step(*arguments)

    def draw(seed=0, length=7, temperature=1.0):
        network = make_network(rj.elman()._replace(step=counted))
        params = make_params(network, seed=seed)
        return rj.sample(network, params, jax.random.key(seed), np.array([1, seed]), length, temperature)

    draw()
    count = len(calls)
    draw(1), draw(2, temperature=0.5), draw(3, temperature=2)
    assert len(calls) == count > 0
    draw(length=8)
    assert len(calls) > count


def test_temperature_zero_takes_the_likeliest():
    counts = draws(np.eye(K)[5] * 1e-2, "float32", 0.0)
    assert counts[5] == N
