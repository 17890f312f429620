"""The rules with Kronecker factors: what they reduce to, textbook steps sample by sample, and what may not survive."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import CELLS, assert_close, make_batch, make_network, make_params, marked

import rnn_jax as rj
from rnn_jax.gradients.kf_rtrl import kf_rtrl
from rnn_jax.gradients.optimal_kronecker import mixing, optimal_kronecker
from rnn_jax.gradients.reverse_kf_rtrl import reverse_kf_rtrl
from rnn_jax.gradients.rtrl import rtrl
from rnn_jax.gradients.uoro import norms
from rnn_jax.testing import claims, contract
from rnn_jax.testing.contract import difference
from rnn_jax.testing.scenarios import run, total_gradient

RULES = {"kf_rtrl": kf_rtrl, "reverse_kf_rtrl": reverse_kf_rtrl, "optimal_kronecker": optimal_kronecker}
rules = pytest.mark.parametrize(
    "rule",
    [pytest.param(rule, id=name, marks=[pytest.mark.slow] * (name != "kf_rtrl")) for name, rule in RULES.items()],
)
kinds = pytest.mark.parametrize("cell", ["elman", "lstm-peepholes", "gru", "indrnn"])


def signs_of(count):
    """Signs of 50 borders."""
    table = jnp.asarray(np.random.default_rng(1).choice([-1.0, 1.0], (50, count)))
    return lambda border: table[border]


def problem(cell="elman", depth=1, T=6, B=2):
    network = make_network(CELLS[cell], depth, inputs=3, hidden=4, outputs=2, loss=rj.squared_error())
    return network, make_params(network), make_batch(network, T, B, True, True, "float64", weight=True)


@pytest.mark.slow
@rules
@pytest.mark.parametrize("depth", [1, 2])
@kinds
def test_one_segment_is_bptt(cell, depth, rule):
    network, params, batch = problem(cell, depth)
    ours, reference = (total_gradient(run(each(network), params, batch, (6,))) for each in (rule, rj.bptt))
    assert_close(ours, reference, 1e-12)


@pytest.mark.parametrize("segment", [1, 4])
@kinds
@pytest.mark.slow
def test_optimal_kronecker_of_as_many_products_as_steps_is_rtrl(cell, segment):
    """Each draw, window by window: nothing is left to chance."""
    network, params, batch = problem(cell)
    windows = (3, 3)
    ours = run(optimal_kronecker(network, rank=6, segment=segment), params, batch, windows, jax.random.key(7))
    for (estimate, _), (expected, _) in zip(ours, run(rtrl(network), params, batch, windows), strict=True):
        assert_close(estimate.grads, expected.grads, 1e-12)


@pytest.mark.slow
def test_fewer_products_leave_it_to_chance():
    network, params, batch = problem(T=6, B=1)
    batch = batch._replace(mask=None, reset=None)
    ours, reference = (run(each, params, batch, (6,)) for each in (optimal_kronecker(network, 2, 1), rtrl(network)))
    assert difference(total_gradient(ours), total_gradient(reference)) > 1e-6


def every_sum(sigma, r):
    """L Lᵀ for every choice of signs of the rows of L."""
    L = np.asarray(mixing(jnp.asarray(sigma), r))
    signs = 1 - 2 * (np.indices((2,) * len(sigma)).reshape(len(sigma), -1).T)
    return np.einsum("si,ij,kj,sk->sik", signs, L, L, signs)


def test_the_tail_of_a_flat_spectrum():
    """Four equal values into three products: 4² / 3 − 4, as all four share the loss; two alone would lose 2."""
    sums = every_sum(np.ones(4), 3)
    np.testing.assert_allclose(sums.mean(0), np.eye(4), atol=1e-14)
    np.testing.assert_allclose(np.square(sums - np.eye(4)).sum((1, 2)).mean(), 4 / 3, rtol=1e-12)


@pytest.mark.parametrize("spectrum", ["uniform", "steep", "of rank 2", "zero"])
@pytest.mark.parametrize(("p", "r"), marked([(2, 1), (4, 3), (7, 3), (6, 1), (3, 5)], [(4, 3)]))
def test_mixing_is_unbiased_and_of_least_variance(p, r, spectrum):
    """(Σ tail)² / k − Σ tail², the tail as long as its largest value needs."""
    rng = np.random.default_rng(p + 10 * r)
    drawn = {
        "uniform": rng.uniform(size=p),
        "steep": np.exp(3 * rng.normal(size=p)),
        "of rank 2": np.concatenate([rng.uniform(size=2), np.zeros(p - 2)]),
        "zero": np.zeros(p),
    }[spectrum]
    sigma = np.sort(drawn)[::-1]
    sums = every_sum(sigma, r)
    np.testing.assert_allclose(sums.mean(0), np.diag(sigma), atol=1e-13 * max(sigma[0], 1))
    least = 0.0
    for k in range(min(r, p), 0, -1):
        tail = sigma[min(r, p) - k :]
        if k * tail[0] <= tail.sum() * (1 + 1e-12):
            least = tail.sum() ** 2 / k - np.square(tail).sum() if p > r else 0.0
            break
    variance = np.square(sums - np.diag(sigma)).sum((1, 2)).mean()
    np.testing.assert_allclose(variance, least, rtol=1e-9, atol=1e-12 * max(sigma[0], 1) ** 2)


def textbook(rule, network, params, batch, signs):
    """One step at a time, one example, tanh: the exact immediate share, and the past by the factors."""
    (layer,), V, c = params
    W, U, b = (np.asarray(a) for a in (layer.W, layer.U, layer.b))
    n = len(b)
    h, total = np.zeros(n), np.zeros((n, n + len(U) + 1))
    row, matrix = (np.zeros(n + len(U) + 1), np.zeros((n, n))) if rule is kf_rtrl else (np.zeros(n), 0 * total.T)
    for t in range(len(batch.xs)):
        u, sign = np.concatenate([h, batch.xs[t, 0], [1]]), np.asarray(signs(t))
        h = np.tanh(u @ np.concatenate([W, U, b[None]]))
        D, J = 1 - h**2, (W * (1 - h**2)).T
        e = (h @ V + c - batch.ys[t, 0]) @ V.T
        pushed = matrix @ J.T
        past = np.outer(pushed @ e, row) if rule is kf_rtrl else np.outer(row, pushed @ e)
        total += np.outer(e * D, u) + past
        rho0 = np.sqrt(np.linalg.norm(pushed) / np.linalg.norm(row)) if t else 1.0
        if rule is kf_rtrl:
            rho1 = np.sqrt(np.linalg.norm(D) / np.linalg.norm(u))
            row = sign[0] * rho0 * row + sign[1] * rho1 * u
            matrix = sign[0] / rho0 * pushed + sign[1] / rho1 * np.diag(D)
        else:
            new = np.outer(u, D * sign)
            rho1 = np.sqrt(np.linalg.norm(new) / np.linalg.norm(sign))
            row, matrix = rho0 * row + rho1 * sign, pushed / rho0 + new / rho1
    return total.T


@pytest.mark.parametrize(
    ("rule", "count"), [(kf_rtrl, 2), pytest.param(reverse_kf_rtrl, 4, marks=pytest.mark.slow)], ids=["kf", "reverse"]
)
def test_segments_of_one_step_are_the_textbook_s(rule, count):
    """The same draws, the same gradient."""
    network, params, batch = problem(T=7, B=1)
    batch, signs = rj.Batch(batch.xs, jnp.nan_to_num(batch.ys)), signs_of(count)
    ours = total_gradient(run(rule(network, segment=1, signs=signs), params, batch, (3, 4))).layers[0]
    joined = jnp.concatenate([ours.W, ours.U, ours.b[None]])
    assert difference(joined, jnp.asarray(textbook(rule, network, params, batch, signs))) <= 1e-12


@pytest.mark.slow
@rules
@pytest.mark.parametrize("segment", [1, None])
@kinds
def test_nothing_of_the_past_survives_a_reset(cell, segment, rule):
    """The mean cannot see it: an old factor that is multiplied by 0 would only add noise."""
    network, params, batch = problem(cell)
    batch = batch._replace(mask=jnp.ones_like(batch.mask), reset=jnp.zeros_like(batch.reset).at[0].set(True))
    algorithm = rule(network, segment=segment)
    update, fresh = jax.jit(algorithm.update), algorithm.init(params, 2, jax.random.key(3))
    used, _ = update(params, fresh, batch)
    start = fresh._replace(memory=fresh.memory._replace(key=used.memory.key, border=used.memory.border))
    after, expected = (update(params, carry, batch)[0].memory for carry in (used, start))
    assert difference(after, expected) <= 1e-12


@rules
def test_memory_is_as_stated(rule):
    """Numbers an example, one matrix, of H = 4 and 8: factors of the features and of the influence."""
    for H in (4, 8):
        network = make_network(rj.lstm(), inputs=3, hidden=H)
        memory = rule(network).init(make_params(network), 5).memory
        G, S, m = 4 * H, 2 * H, H + 3 + 1
        stated = G + S * m if rule is reverse_kf_rtrl else m + S * G
        assert sum(leaf.size for leaf in jax.tree.leaves((memory.factors, memory.units))) == 5 * stated


def test_norms_of_short_floats_are_taken_in_float32():
    rows = jnp.full((2, 1000), 0.1, jnp.bfloat16)
    each = norms((rows, rows[:, :10]))
    assert each.dtype == jnp.float32
    np.testing.assert_allclose(each, 1010**0.5 * np.asarray(rows[:, 0], float), rtol=1e-4)


def test_ranks_that_cannot_be_served():
    network = make_network(rj.elman())
    for rank in (0, 1.5, True):
        with pytest.raises(rj.InputError, match="rank is"):
            optimal_kronecker(network, rank)


def failures(results):
    """The checks that fail."""
    return {result.check for result in results if not result.ok}


def without_signs(advance):
    return lambda factors, crossing, signs: advance(factors, crossing, jnp.ones_like(signs))


def without_j(advance):
    return lambda factors, crossing, signs: advance(factors, crossing._replace(push=lambda rows: rows), signs)


def without_last_step(advance):
    return lambda factors, crossing, signs: advance(factors, crossing._replace(C=crossing.C.at[-1].set(0)), signs)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [without_signs, without_j, without_last_step])
@pytest.mark.parametrize("name", RULES)
def test_a_wrong_line_is_caught(name, wrong, monkeypatch):
    module = importlib.import_module(f"rnn_jax.gradients.{name}")
    monkeypatch.setattr(module, "advance", wrong(module.advance))
    plain = next(claims.unbiased(RULES[name], None, rj.elman()))
    assert plain.check == "mean of all outcomes"
    assert not plain.ok


@pytest.mark.slow
def test_a_factor_kept_past_a_reset_is_caught(monkeypatch):
    module = importlib.import_module("rnn_jax.gradients.kronecker")

    def unguarded(a, b):
        known = (a > 0) & (b > 0)
        rho = jnp.where(known, jnp.sqrt(jnp.where(known, b, 1) / jnp.where(known, a, 1)), 1)
        return rho, 1 / rho

    monkeypatch.setattr(module, "balance", unguarded)
    for rule in (kf_rtrl, reverse_kf_rtrl):
        assert "reset" in failures(contract.laws(contract.trial(rule, contract.trial_network(rj.elman()))))
