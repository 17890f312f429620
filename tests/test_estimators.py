"""Bias, variance and alignment of estimated gradients: cases whose answer is known, and rules whose claim is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import make_batch, make_network, make_params

import rnn_jax as rj
from rnn_jax.diagnostics import alignment, bias_and_variance

SIZE = 40
"""Of the recurrent parameters in the synthetic cases."""


def params_of(vectors, V=0.0):
    """Parameters whose recurrent part is these vectors, […, SIZE], in two leaves."""
    vectors = np.asarray(vectors, np.float64)
    layer = rj.Layer(U=vectors[..., : SIZE // 2], W=vectors[..., SIZE // 2 :], b=vectors[..., :0])
    return rj.Params((layer,), np.full((*vectors.shape[:-1], 1), V), vectors[..., :0])


def noise_of(rng, kind, keys):
    """Of variance 1 a parameter: alike in all directions, in one direction alone, or with heavy tails."""
    if kind == "one direction":
        return np.outer(rng.normal(size=keys), np.ones(SIZE))
    rows = rng.normal(size=(keys, SIZE))
    return rows * np.exp(rng.normal(size=(keys, 1)) - 1) if kind == "heavy tails" else rows


@pytest.mark.parametrize("bias", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", ["alike", "one direction", "heavy tails"])
def test_the_interval_covers_the_bias(kind, bias):
    """About 19 in 20 intervals cover it, and start at 0 where there is no bias."""
    rng, exact = np.random.default_rng(0), np.ones(SIZE)
    off = bias * np.sqrt(SIZE) * np.eye(SIZE)[0]
    found = [
        bias_and_variance(params_of(exact + off + noise_of(rng, kind, 32)), params_of(exact)).interval
        for _ in range(400)
    ]
    assert np.mean([low <= bias <= high for low, high in found]) > 0.92
    assert bias or np.mean([low == 0 for low, _ in found]) > 0.92


def test_bias_and_variance_are_found():
    """The estimate is right where the norm of the mean, off by √(variance / K), is not."""
    rng, exact = np.random.default_rng(0), np.ones(SIZE)
    draws = exact + 0.2 * np.sqrt(SIZE) * np.eye(SIZE)[3] + 2 * rng.normal(size=(100, SIZE))
    found = bias_and_variance(params_of(draws), params_of(exact))
    naive = np.linalg.norm(draws.mean(axis=0) - exact) / np.linalg.norm(exact)
    assert abs(found.bias - 0.2) < 0.05 < abs(naive - 0.2)
    assert abs(found.variance - 4) < 0.2
    assert abs(found.error - np.sqrt(4 + 0.2**2)) < 0.1
    assert abs(found.cosine - 1.2 / np.sqrt(5)) < 0.1


def test_one_draw_is_taken_as_free_of_noise():
    exact = np.ones(SIZE)
    found = bias_and_variance(params_of(1.5 * exact[None], V=7.0), params_of(exact))
    assert (found.bias, found.interval, found.variance, found.error) == (0.5, (0.5, 0.5), 0.0, 0.5)
    assert found.cosine == pytest.approx(1)


def test_an_unbiased_rule_is_told_from_a_biased_one():
    """UORO's interval begins at 0, and that of its mixture with a wrong gradient does not."""
    network = make_network(rj.elman(), hidden=3)
    params, batch = make_params(network), make_batch(network, 6, 2)
    _, exact = rj.value_and_grad(rj.bptt(network))(params, batch)

    def draws_of(algorithm):
        keys = jax.random.split(jax.random.key(0), 2000)
        draw = jax.vmap(lambda key: algorithm.update(params, algorithm.init(params, 2, key), batch)[1].grads)
        return jax.jit(draw)(keys)

    unbiased = draws_of(rj.uoro(network, segment=1))
    wrong = rj.value_and_grad(rj.immediate(network))(params, batch)[1]
    biased = jax.tree.map(lambda draw, grad: (draw + grad[None]) / 2, unbiased, wrong)
    found = bias_and_variance(unbiased, exact)
    assert found.interval[0] == 0 < found.interval[1] and found.variance > 0.1
    assert bias_and_variance(biased, exact).interval[0] > 0
    once = jax.tree.map(lambda leaf: leaf[None], wrong)
    assert bias_and_variance(once, exact).bias == pytest.approx(2 * bias_and_variance(biased, exact).bias, rel=0.2)


def test_alignment_is_of_the_layers_alone():
    a, b = np.eye(SIZE)[:2]
    gradients = {"a": params_of(a), "both": params_of(a + b, V=9.0), "not a": params_of(-a), "none": params_of(0 * a)}
    half = 0.5**0.5
    wanted = [[1, half, -1, 0], [half, 1, -half, 0], [-1, -half, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_allclose(alignment(gradients), wanted, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: bias_and_variance(p, p), "one key or more"),
        (
            lambda p: bias_and_variance(jax.tree.map(lambda a: a[None, 0], p), p),
            "draws is of .* with the keys in front",
        ),
        (lambda p: bias_and_variance(None, p), "draws is of type NoneType; it must be Params"),
        (lambda p: bias_and_variance(p._replace(layers=()), p), r"draws.layers is \(\)"),
        (lambda p: bias_and_variance(jax.tree.map(lambda a: a[None][:0], p), p), "one key or more"),
        (lambda p: bias_and_variance(p, jax.tree.map(jnp.int32, p)), "exact.* must be an array of floats"),
        (lambda p: alignment([p]), "gradients is .* a dict of Params"),
        (lambda p: alignment({"a": p, "b": jax.tree.map(lambda a: a[None], p)}), r"gradients\['b'\].* as the first"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(call, says):
    with pytest.raises(rj.InputError, match=says) as caught:
        call(make_params(make_network(rj.elman())))
    assert "\n" not in str(caught.value)
