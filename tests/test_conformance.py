"""The conformance suite earns its trust: what is right passes, every wrong line is caught by a check with a name."""

import contextlib
import functools
import importlib
import inspect
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import textbook
from fixtures import CELLS, EACH_KIND, cells_marked, marked

import rnn_jax as rj
from rnn_jax.gradients import bptt
from rnn_jax.testing import matrix, tables
from rnn_jax.testing.algorithm import algorithm_results
from rnn_jax.testing.cell import cell_results
from rnn_jax.testing.loss import loss_results
from rnn_jax.testing.report import exact_arithmetic, raise_on_failure


@pytest.fixture(autouse=True)
def _promotion():
    """As users run it: with JAX's usual promotion of dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@cells_marked()
def test_every_cell_conforms(cell):
    assert len(rj.testing.check_cell(cell)) > 35


def segmented(bptt):
    """With segments that the suite's windows hold several of; by default one would hold all of their few rows."""
    return lambda network: bptt(network, segment=16)


def marks_of(algorithm, cell):
    """Each claim with one cell in the fast set, each rule with one cell in the slow one; the others are exhaustive."""
    if cell != "elman" and (algorithm != "bptt" or cell not in EACH_KIND):
        return [pytest.mark.exhaustive]
    return [] if algorithm in ("bptt", "uoro", "eprop") and cell == "elman" else [pytest.mark.slow]


@pytest.mark.parametrize(
    ("algorithm", "cell"),
    [pytest.param(name, CELLS[cell], id=f"{name}-{cell}", marks=marks_of(name, cell)) for name, cell in matrix.pairs()],
)
def test_every_algorithm_conforms(algorithm, cell):
    assert rj.testing.check_algorithm(rj.ALGORITHMS[algorithm], cells=[cell])


@pytest.mark.slow
def test_bptt_conforms_in_several_segments():
    checks = {result.check for result in rj.testing.check_algorithm(segmented(bptt), cells=[rj.lstm(peepholes=True)])}
    assert checks >= {"structure", "loss", "recurrent state", "gradient", "mask", "reset", "rows", "padding", "jit"}


one_cell_in_ci = pytest.mark.parametrize(
    "cell",
    [
        pytest.param(cell, id=name, marks=pytest.mark.slow if name == "elman" else pytest.mark.exhaustive)
        for name, cell in CELLS.items()
    ],
)
"""The textbook forms conform in every cell, which takes the better part of an hour to see."""


@one_cell_in_ci
def test_textbook_rtrl_conforms(cell):
    assert rj.testing.check_algorithm(textbook.rtrl, cells=[cell])


@one_cell_in_ci
def test_textbook_uoro_conforms(cell):
    assert rj.testing.check_algorithm(textbook.uoro, cells=[cell])


@one_cell_in_ci
def test_textbook_rflo_conforms(cell):
    assert rj.testing.check_algorithm(textbook.rflo, cells=[cell])


@one_cell_in_ci
def test_a_textbook_predictor_conforms(cell):
    assert rj.testing.check_algorithm(textbook.dni, cells=[cell])


BELOW = {"ops": 0, "recurrence": 1, "stack": 2, "losses": 2}
"""Which of recurrence, stack and bptt is the first to use a module."""


def mutated(module, line, instead, count=1):
    """A module with one piece of its source replaced."""
    module = importlib.import_module(f"rnn_jax.{module}")
    source = inspect.getsource(module)
    assert count is None or source.count(line) == count, f"{line!r}: {source.count(line)} times in {module.__name__}"
    wrong = types.ModuleType(module.__name__)
    exec(compile(source.replace(line, instead), f"<wrong {module.__name__}>", "exec"), wrong.__dict__)
    return wrong


WRONG_CELLS = {
    "σ′ slip": ("cells.gates", "smaller * (1 - smaller)", "smaller * (1 + smaller)"),
    "σ for 1 − σ": ("cells.gru", "delta_h * complement(z)", "delta_h * sigma(z)"),
    "tanh′ slip": ("cells.elman", "(1 - a) * (1 + a)", "1 - a"),
    "c_t for c_{t−1}": ("cells.lstm", "(_, c_prev), (_, c), (i,", "(_, c), (_, c_prev), (i,"),
    "GRU's δu for δv": ("cells.gru", "(delta_r, delta_z, delta_n * sigma(r))", "(delta_r, delta_z, delta_n)"),
    "leak left out of δh": ("cells.elman", "((1 - self.leak) * delta_h if", "(delta_h if"),
    "δc lacks the share of h": (
        "cells.lstm",
        "delta_c + delta_h * sigma(o) * ((1 - tanh_c) * (1 + tanh_c))",
        "delta_c",
    ),
    "wrong in bfloat16 only": (
        "cells.gru",
        "return (delta_h * sigma(z),)",
        'return ((delta_h * sigma(z)).astype("float32"),)',
    ),
    "one unit leaks into the next": (
        "cells.gru",
        "delta_h * sigma(z),)",
        "delta_h * sigma(z) + 1e-9 * jnp.roll(delta_h, 1, -1),)",
    ),
    "n found by division": (
        "cells.gru",
        "(h_prev,), (r, z, n, v_n), (delta_h,) = s_prev, residual, delta_s",
        "(h_prev,), (h,), (r, z, _, v_n), (delta_h,) = s_prev, s, residual, delta_s\n    "
        "n = (h - sigma(z) * h_prev) / jnp.maximum(complement(z), jnp.finfo(z.dtype).tiny)",
    ),
    "0 / 0 where saturated": ("cells.lstm", "g * slope(i)", "g * slope(i) * (1 - sigma(i)) / (1 - sigma(i))"),
    "× 3 where 11 < |z| < 120": (
        "cells.lstm",
        "delta_h * tanh_c * slope(o)",
        "delta_h * tanh_c * slope(o) * jnp.where((jnp.abs(o) < 1.7e-5) & (jnp.abs(o) > 1e-38), 3, 1).astype(o.dtype)",
    ),
}
WRONG_ALGORITHMS = {
    "gradient × 1.001": ("gradients.bptt", "grad.astype(leaf.dtype)", "1.001 * grad.astype(leaf.dtype)"),
    "loss scaled": ("gradients.bptt", "adjoints.losses.sum(), grads", "adjoints.losses.sum() / 2, grads"),
    "weight of the steps without their mask": (
        "gradients.bptt", "total_weight(batch))", "total_weight(batch._replace(mask=None, weight=None)) + 1)",
    ),
    "batch averaged": ("gradients.bptt", "grad.astype(leaf.dtype)", "grad.astype(leaf.dtype) / batch.xs.shape[1]"),
    "carry dropped between segments": (
        "gradients.bptt", "delta_hs, after.delta_state)",
        "delta_hs, jax.tree.map(jnp.zeros_like, after.delta_state))",
    ),
    "state dropped between windows": ("gradients.bptt", "return Carry(state_T)", "return carry"),
    "error not masked": (
        "gradients.bptt", "weighted_errors(network.loss, os, *targets)", "network.loss.error(os, targets[0])",
    ),
    "loss not masked": ("losses", "jnp.where(share != 0, values * share.astype(values.dtype), 0)", "values"),
    "weight left out of the error": ("losses", "jnp.where(share != 0, delta_os * share, 0)", "delta_os"),
    "weight left out of the loss": ("losses", "values * share.astype(values.dtype)", "values"),
    "weight counts in padding": ("losses", "share = jnp.where(mask, share, 0)", "pass"),
    "δh left out below the highest layer": ("stack", "delta_us @ layer.U.T", "0 * (delta_us @ layer.U.T)"),
    "h_t for h_{t−1} in dW": (
        "recurrence", "hidden_states(trajectory, start, n),)", "hidden_states(trajectory, start + 1, n),)",
    ),
    "Jacobians in forward order": ("recurrence", "reverse=True", "reverse=False"),
    "diagonal adjoint": (
        "recurrence", "ops.matmul(delta_v, W_T, layer.W)", "sum(jnp.split(delta_v * jnp.diagonal(layer.W.reshape("
        "layer.W.shape[0], -1, layer.W.shape[0]), axis1=0, axis2=2).ravel(), len(cell.gates), -1))",
    ),
    "W for Wᵀ": (
        "recurrence", "ops.matmul(delta_v, W_T, layer.W)", "sum(d @ w for d, w in zip("
        "jnp.split(delta_v, len(cell.gates), -1), jnp.split(layer.W, len(cell.gates), -1)))",
    ),
    "reset ignored in the reverse": ("recurrence", "zero_where(reset_t, delta_s_prev)", "delta_s_prev"),
    "reset ignored in dW": ("recurrence", "zero_where(reset, (hidden", "zero_where(None, (hidden"),
    "reset ignored in s_{t−1}": (
        "recurrence", "zero_where(reset_t, state_at(trajectory, t))", "state_at(trajectory, t)",
    ),
    "mask ignored in the reverse": ("recurrence", "jnp.where(counts, new, old)", "new"),
    "masked step leaks into dU and db": ("recurrence", "jnp.where(counts, delta, 0)", "delta"),
    "padding read as input": ("recurrence", "xs if mask is None else", "xs if True else"),
    "readout's share overwritten": (
        "recurrence", "delta_s[0] + delta_h,", "jnp.where((delta_s[0] == 0).all(), delta_h, delta_s[0]),",
    ),
    "b counted twice": ("recurrence", "b=ops.sum_rows(delta_us)", "b=2 * ops.sum_rows(delta_us)"),
    "a token read twice counts once in dU": ("ops", "lax.scatter_add(", "lax.scatter("),
    "rows in wrong order where they fill a vector": ("ops", "return v_T.T ", "return v_T.T[::-1] "),
    "a single row's blocks in wrong order": ("ops", "return v.reshape(1, -1)", "return v[::-1].reshape(1, -1)"),
}  # fmt: skip


def wrong_algorithm(module, line, instead):
    """BPTT built on the altered module: each module between the two is made anew, and reads from the one before."""
    wrong = mutated(module, line, instead)
    if module == "ops":
        wrong.CACHE = 0  # as in conftest
    for user in ("recurrence", "stack", "gradients.bptt")[BELOW.get(module, 3) :]:
        around = mutated(user, '"""', '"""', count=None)
        for name, value in vars(around).items():
            if getattr(value, "__name__", None) == wrong.__name__:  # the module itself
                setattr(around, name, wrong)
            elif getattr(value, "__module__", None) == wrong.__name__ and hasattr(wrong, name):
                setattr(around, name, getattr(wrong, name))
        wrong = around
    return segmented(wrong.bptt)


def caught_by(results):
    failed = next((result for result in results if not result.ok), None)
    assert failed, "nothing caught it"
    print(f"caught by {failed}")
    return failed


@pytest.mark.parametrize("name", marked(WRONG_CELLS, ["σ′ slip", "GRU's δu for δv", "n found by division"]))
def test_a_wrong_cell_is_caught(name):
    module, line, instead = WRONG_CELLS[name]
    wrong = mutated(module, line, instead)
    if module == "cells.gates":
        gates = wrong
        wrong = mutated("cells.gru", "def gru(", "def gru(")
        vars(wrong).update({part: getattr(gates, part) for part in ("gate", "sigma", "complement", "slope")})
    cell = wrong.elman(leak=0.4) if name.startswith("leak") else getattr(wrong, wrong.__name__.split(".")[-1])()
    with exact_arithmetic():
        failed = caught_by(cell_results(cell))
    expected = {"wrong in": "shape and dtype", "one unit": "unit-wise", "σ′ slip": "derivative"}
    assert failed.check == next((check for start, check in expected.items() if name.startswith(start)), "adjoint")


WRONG_LOSSES = {
    "ŷ_y − 1": ("jnp.where(target, -others.sum(axis=-1, keepdims=True), others)", "(e / e.sum(axis=-1, keepdims=True) "
        "- target.astype(o.dtype))"),
    "log Σ exp": ("(m + jnp.log1p(jnp.exp(d - m).sum(axis=-1, keepdims=True) + jnp.expm1(-m)))",
        "(m + jnp.log(jnp.exp(d - m).sum(axis=-1, keepdims=True) + jnp.exp(-m)))"),
    "error lacks the target": ("jnp.where(target, -others.sum(axis=-1, keepdims=True), others)", "others"),
    "short sums": ("o, y = o.astype(accumulation_dtype(o.dtype)), as_index(y)", "y = as_index(y)"),
    "error × 1.001": ("one_or_nan[..., None] * error", "1.001 * one_or_nan[..., None] * error"),
}  # fmt: skip


@pytest.mark.parametrize("name", marked(WRONG_LOSSES, ["log Σ exp", "error × 1.001"]))
def test_a_wrong_loss_is_caught(name):
    with exact_arithmetic():
        caught_by(loss_results(mutated("losses", *WRONG_LOSSES[name]).softmax_cross_entropy()))


@pytest.mark.parametrize("loss", [rj.softmax_cross_entropy(), rj.squared_error()], ids=lambda loss: loss.name)
def test_every_loss_conforms(loss):
    assert len(rj.testing.check_loss(loss)) == 60


def with_step(step=None, adjoint=None, **parts):
    """A GRU with another step or adjoint, made from its own."""
    gru = rj.gru()
    return gru._replace(
        step=step(gru.step) if step else gru.step, adjoint=adjoint(gru.adjoint) if adjoint else gru.adjoint, **parts
    )


BROKEN = {
    "a list for a tuple": with_step(step=lambda f: lambda *a: (list(f(*a)[0]), f(*a)[1])),
    "a list of deltas": with_step(adjoint=lambda f: lambda *a: tuple(map(list, f(*a)))),
    "a missing state": with_step(states=("h", "c")),
    "a state too many": with_step(step=lambda f: lambda *a: (f(*a)[0] * 2, f(*a)[1])),
    "an array for a tuple": with_step(step=lambda f: lambda *a: (f(*a)[0][0], f(*a)[1])),
    "states in a list": with_step(states=["h"]),
    "a recurrence that is none of the three": rj.gru()._replace(recurrence="diag"),
    "a bias that is no number": rj.gru()._replace(bias=("1", 0.0, 0.0)),
    "a flag that is no bool": rj.gru()._replace(recurrent_bias="yes"),
    "no name": rj.gru()._replace(name=None),
    "an error of its own": with_step(adjoint=lambda f: lambda *a: {}["no such key"]),
}


@pytest.mark.parametrize("name", marked(BROKEN, ["a list for a tuple", "an error of its own"], ["a list of deltas"]))
def test_a_broken_cell_fails_by_name(name):
    with pytest.raises(rj.testing.ConformanceError, match=r"cell (gru|None) fails"):
        rj.testing.check_cell(BROKEN[name])
    with contextlib.suppress(rj.testing.ConformanceError):  # and nothing else; lists do no harm here
        rj.testing.check_algorithm(bptt, cells=[BROKEN[name]])


@pytest.mark.slow
def test_a_residual_of_bools_is_as_good_as_any():
    def step(s_prev, z):
        return (jnp.where(z[0] > 0, z[0], 0),), (z[0] > 0,)

    def adjoint(s_prev, s, residual, delta_s):
        return (jnp.zeros_like(delta_s[0]),), (jnp.where(residual[0], delta_s[0], 0),)

    cell = rj.Cell("relu", ("h",), ("z",), step, adjoint, (0.0,))
    assert rj.testing.check_cell(cell)


def test_a_loss_that_raises_fails_by_name():
    broken = rj.squared_error()._replace(error=lambda o, y: o @ y)
    with pytest.raises(rj.testing.ConformanceError, match=r"loss squared_error fails[\s\S]*TypeError"):
        rj.testing.check_loss(broken)
    with pytest.raises(rj.InputError, match="loss is"):
        rj.testing.check_loss(None)


@pytest.mark.slow
def test_cells_may_be_listed():
    with pytest.raises(rj.InputError, match=r"cells\[0\] is"):
        rj.testing.check_algorithm(bptt, cells=["gru"])
    assert rj.testing.check_algorithm(textbook.rflo, cells=[rj.elman("relu", leak=0.4)])


EVERY_RUN = {"gradient × 1.001", "h_t for h_{t−1} in dW", "masked step leaks into dU and db"}
"""The others are slow to compile."""
TWO_MINUTES = {"reset ignored in s_{t−1}"}


@pytest.mark.parametrize("name", marked(WRONG_ALGORITHMS, EVERY_RUN, TWO_MINUTES))
def test_a_wrong_algorithm_is_caught(name):
    with exact_arithmetic():
        caught_by(algorithm_results(wrong_algorithm(*WRONG_ALGORITHMS[name]), None, tuple(CELLS.values())))


@pytest.mark.slow
def test_a_failure_is_told_in_words():
    gru = mutated(*WRONG_CELLS["GRU's δu for δv"]).gru()
    with pytest.raises(rj.testing.ConformanceError, match=r"cell gru fails") as caught:
        rj.testing.check_cell(gru)
    assert re.search(
        r"adjoint: ∂h/∂v_n at unit \d of row \d is \S+, by jax.vjp \S+, in float64: "
        r"\S+ > tolerance 7e-15",
        str(caught.value),
    )


def truncated(k, claimed=None):
    """BPTT cut every k steps: biased, and exact where k is no less than T."""

    def algorithm(network, k=k):
        inner = rj.bptt(network)

        def update(params, carry, batch):
            whole = len(batch.xs) // k * k
            parts = []
            if whole:
                windows = jax.tree.map(lambda a: a[:whole].reshape(-1, k, *a.shape[1:]), batch)
                carry, each = jax.lax.scan(lambda carry, window: inner.update(params, carry, window), carry, windows)
                parts = [jax.tree.map(lambda a: a.sum(0), each)]
            if whole < len(batch.xs):
                carry, last = inner.update(params, carry, jax.tree.map(lambda a: a[whole:], batch))
                parts.append(last)
            return carry, jax.tree.map(lambda *a: sum(a), *parts)

        def limit(network, params, batch):
            return {"k": len(batch.xs)}, params, batch

        return rj.Algorithm(inner.init, update, claimed or rj.Biased(limit, "k = T"))

    return algorithm


def noisy(amount=0.5, bias=0.0, listed=True, base=textbook.rtrl):
    """A rule times 1 ± amount by a coin for each parameter leaf: unbiased, if bias is zero and the rule is exact."""

    def algorithm(network, coins=None):
        inner = base(network)

        def init(params, batch_size, key):
            return inner.init(params, batch_size)._replace(shared=key if coins is None else jax.random.key(0))

        def update(params, carry, batch):
            key = carry.shared
            carry, estimate = inner.update(params, carry._replace(shared=()), batch)
            leaves, structure = jax.tree.flatten(estimate.grads)
            signs = jax.random.rademacher(key, (len(leaves),)) if coins is None else coins
            leaves = [
                leaf * (1 + bias + amount * sign).astype(leaf.dtype) for leaf, sign in zip(leaves, signs, strict=True)
            ]
            estimate = estimate._replace(grads=jax.tree.unflatten(structure, leaves))
            moves = rj.sum_over_batch(estimate.weight) != 0
            data = jnp.where(moves, jax.random.key_data(jax.random.split(key)[0]), jax.random.key_data(key))
            return carry._replace(shared=jax.random.wrap_key_data(data)), estimate

        def enumerate_outcomes(network, T, B):
            count = len(jax.tree.leaves(rj.init(network, jax.random.key(0))))
            table = 2 * (jnp.arange(2**count)[:, None] >> jnp.arange(count) & 1) - 1
            return lambda coins: {"coins": coins}, table

        return rj.Algorithm(init, update, rj.Unbiased(enumerate_outcomes if listed else None, exact_readout=False))

    return algorithm


CLAIMS = {
    "biased": (truncated(5), None),
    "unbiased, listed": (noisy(), None),
    "unbiased, by keys": (noisy(listed=False), None),
    "claims to be exact": (truncated(5, rj.Exact()), "gradient"),
    "claims to be exact, noisy": (lambda network: noisy(base=rj.bptt)(network)._replace(claim=rj.Exact()), "readout"),
    "claims to be unbiased, listed": (noisy(bias=1e-9), "mean of all outcomes"),
    "claims to be unbiased across windows": (noisy(base=rj.bptt), "mean of all outcomes"),
    "claims to be unbiased across windows, by keys": (noisy(base=rj.bptt, listed=False), "mean over keys"),
    "claims to be unbiased, by keys": (noisy(bias=0.1, listed=False), "mean over keys"),
    "claims to be random": (noisy(amount=0.0), "is random"),
    "claims to be biased": (
        lambda network, k=5: rj.bptt(network)._replace(claim=truncated(5)(network).claim),
        "elsewhere",
    ),
    "wrong in its limit": (
        lambda network, k=5: truncated(k)(network)._replace(claim=rj.Biased(lambda n, p, b: ({"k": 36}, p, b))),
        "exact in its limit",
    ),
    "a limit that the factory does not take": (lambda network: truncated(5)(network), "runs"),
    "changes its state's dtype": (
        lambda network: rj.Algorithm(
            lambda *a: rj.Carry((), jnp.zeros(3)),
            lambda p, c, b: (rj.Carry((), jnp.zeros(3, int)), rj.Estimate(jnp.zeros(()), p, jnp.array(18.0))),
        ),
        "structure",
    ),
    "supports nothing": (lambda network: rj.elman(leak=3.0), "supports"),
}


def up_to_a_failure(results):
    """What is tested after the first failure costs minutes to compile."""
    for result in results:
        yield result
        if not result.ok:
            return


@pytest.mark.parametrize(
    "name",
    marked(CLAIMS, ["supports nothing"], ["wrong in its limit", "claims to be unbiased across windows, by keys"]),
)
def test_claims_are_held_to(name):
    algorithm, check = CLAIMS[name]
    if check is None:
        rj.testing.check_algorithm(algorithm, cells=[rj.elman()])
    else:
        with pytest.raises(rj.testing.ConformanceError) as caught, exact_arithmetic():
            raise_on_failure(name, up_to_a_failure(algorithm_results(algorithm, None, [rj.elman()])))
        assert re.search(check, caught.value.failures[0].check)


def altered(rule, carry=lambda carry, first: carry, batch=lambda batch: batch, estimate=lambda estimate: estimate):
    """A rule with something done to what its update is given, or to what it gives; its limit is that of the rule."""

    def factory(network, **settings):
        inner = rule(network, **settings)

        def update(params, before, window):
            first = inner.init(params, window.xs.shape[1], jax.random.key(0))
            after, given = inner.update(params, carry(before, first), batch(window))
            return after, estimate(given)

        return rj.Algorithm(inner.init, update, inner.claim)

    return factory


def times(factor):
    return lambda estimate: estimate._replace(grads=jax.tree.map(lambda g: factor * g, estimate.grads))


def hidden_times(factor):
    """Of the layers only: the readout's gradient stays right."""
    return lambda estimate: estimate._replace(
        grads=estimate.grads._replace(layers=jax.tree.map(lambda g: factor * g, estimate.grads.layers))
    )


def seven(estimate):
    return estimate._replace(loss=jnp.full_like(estimate.loss, 7))


def doubled(estimate):
    return estimate._replace(loss=2 * estimate.loss)


def no_flags(batch):
    return batch._replace(mask=None, reset=None)


def forgetful(carry, first):
    return carry._replace(recurrent=first.recurrent)


def rule(function, **settings):
    return functools.partial(function, **settings)


def shared_noise(network):
    """UORO whose rows draw from one key in ``shared`` by their place, which a split of the batch changes."""
    base = textbook.uoro(network)

    def init(params, B, key=None):
        return base.init(params, B, key)._replace(shared=jax.random.key(9))

    def update(params, carry, batch):
        keys = jax.random.split(carry.shared, batch.xs.shape[1])
        after, estimate = base.update(params, carry._replace(memory=carry.memory | {"key": keys}, shared=()), batch)
        return after._replace(shared=carry.shared), estimate

    return rj.Algorithm(init, update, base.claim)


def no_layers(network, **settings):
    """RFLO that gives nothing to the layers, unless its feedback is symmetric."""
    inner = textbook.rflo(network, **settings)
    estimate = hidden_times(0.0 if settings.get("feedback", "random") == "random" else 1.0)
    return altered(lambda network: inner, estimate=estimate)(network)


def vacuous(network, rate=0.1):
    """A predictor with a limit in which there is nothing to learn."""

    def limit(network, params, batch):
        return {}, params, batch._replace(mask=jnp.zeros(batch.xs.shape[:2], bool))

    return textbook.dni(network, rate)._replace(claim=rj.Biased(limit, "no steps"))


def not_a_number(network):
    """RFLO whose trace is NaN in short floats."""
    inner = textbook.rflo(network)

    def update(params, carry, batch):
        after, estimate = inner.update(params, carry, batch)
        short = params.V.dtype != jnp.float64
        return after, hidden_times(jnp.nan)(estimate) if short else estimate

    return inner._replace(update=update)


def unlearned(network):
    """A predictor that is trained in padding too."""
    base = textbook.dni(network)

    def update(params, carry, batch):
        after, estimate = base.update(params, carry, batch)
        return after._replace(shared=after.shared + 1e-3), estimate

    return base._replace(update=update)


WRONG_RULES = {
    "UORO drops mask and reset": (altered(textbook.uoro, batch=no_flags), "elman", "finite|loss"),
    "UORO's memory ignores mask and reset": (rule(textbook.uoro, wrong="ignores masks and resets"), "elman", "mask"),
    "UORO's memory ignores resets": (rule(textbook.uoro, wrong="ignores resets"), "elman", "reset"),
    "UORO's memory moves in padding": (rule(textbook.uoro, wrong="ignores masks"), "elman", "mask"),
    "UORO returns the loss 7": (altered(textbook.uoro, estimate=seven), "elman", "loss"),
    "UORO carries its memory past J": (rule(textbook.uoro, wrong="loses J"), "elman", "mean of all outcomes"),
    "UORO × 1.001": (altered(textbook.uoro, estimate=hidden_times(1.001)), "elman", "mean of all outcomes"),
    "UORO forgets its memory": (rule(textbook.uoro, wrong="forgets its memory"), "elman", "reset"),
    "one key for all rows": (rule(textbook.uoro, wrong="one key"), "elman", "rows"),
    "all rows use the first key": (rule(textbook.uoro, wrong="first key"), "elman", "rows"),
    "noise that a split changes": (shared_noise, "elman", "rows|batch in two"),
    "RFLO doubles the loss": (altered(textbook.rflo, estimate=doubled), "elman-relu-leaky", "loss"),
    "exact gradients, doubled loss": (altered(truncated(37), estimate=doubled), "elman", "loss"),
    "RFLO × −3": (altered(textbook.rflo, estimate=times(-3)), "elman-relu-leaky", "readout"),
    "RFLO × −3 but for the readout": (
        altered(textbook.rflo, estimate=hidden_times(-3)), "elman-relu-leaky", "exact in its limit",
    ),
    "RFLO has no trace": (rule(textbook.rflo, wrong="no trace"), "elman-relu-leaky", "exact in its limit"),
    "RFLO forgets its trace": (rule(textbook.rflo, wrong="forgets its memory"), "elman-relu-leaky", "reset"),
    "RFLO forgets the carried state": (altered(textbook.rflo, carry=forgetful), "elman-relu-leaky", "loss"),
    "RTRL forgets the carried state": (altered(textbook.rtrl, carry=forgetful), "elman", "loss"),
    "RTRL forgets M": (rule(textbook.rtrl, wrong="forgets its memory"), "elman", "gradient"),
    "RTRL's M ignores resets": (rule(textbook.rtrl, wrong="ignores resets"), "elman", "gradient"),
    "RTRL sums in short floats": (rule(textbook.rtrl, wrong="short sums"), "elman", "loss|gradient|wide sums|readout"),
    "RFLO has no gradient for its layers": (no_layers, "elman-relu-leaky", "biased elsewhere"),
    "RFLO is NaN in short floats": (not_a_number, "elman-relu-leaky", "finite"),
    "a limit without steps": (vacuous, "elman", "exact in its limit"),
    "UORO's first step of a window is not seen": (
        altered(textbook.uoro, batch=lambda b: b._replace(xs=b.xs.at[0].set(0))), "elman", "loss|recurrent",
    ),
    "a predictor forgets sum_over_batch": (rule(textbook.dni, wrong="forgets sum_over_batch"), "elman", "batch in two"),
    "a predictor is trained in padding": (unlearned, "elman", "mask"),
}  # fmt: skip
FAST_RULES = {"UORO returns the loss 7", "RFLO × −3"}
"""The others run in the slow set."""


@pytest.mark.parametrize("name", marked(WRONG_RULES, FAST_RULES))
def test_a_wrong_rule_is_caught(name):
    wrong, cell, check = WRONG_RULES[name]
    with exact_arithmetic():
        failed = caught_by(algorithm_results(wrong, None, [CELLS[cell]]))
    assert re.match(check, failed.check)


def test_the_table_of_the_registries_is_this_version_s():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    same = tables.read(readme, "registries") == tables.registries()
    assert same, "write the table again: python -m rnn_jax.testing --write README.md"


def entries_of(text):
    """The entries of each table of the matrix, by table, algorithm and cell; bold says no more than the claim."""
    found, title, head = {}, None, []
    for line in text.splitlines():
        parts = [part.strip() for part in line.strip("| ").split(" | ")]
        if "; tolerance " in line:
            title, head = line.split("; tolerance ")[0], []
        elif line.startswith("| algorithm"):
            head = parts
        elif line.startswith("| "):
            found |= {
                (title, parts[0], name): entry.strip("*") for name, entry in zip(head[2:], parts[2:], strict=True)
            }
    return found


def test_the_matrix_in_the_docs_has_every_algorithm_and_cell():
    page = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text()
    written = entries_of(tables.read(page, "conformance matrix"))
    measured = {(name, cell) for (_, name, cell), entry in written.items() if entry != "–"}
    differ = (measured - {(name, "contract") for name in rj.ALGORITHMS}) ^ set(matrix.pairs())
    again = "an hour or two of JAX_DISABLE_MOST_OPTIMIZATIONS=1 python -m rnn_jax.testing --write docs/conformance.md"
    assert not differ, f"measure the matrix again, by {again}; it lacks or has too many: {differ}"
    assert not any("✗" in entry for entry in written.values())


@pytest.mark.exhaustive
def test_the_matrix_in_the_docs_is_this_version_s():
    """The same entries, each within a factor of 30 of what is measured here."""
    page = (Path(__file__).parents[1] / "docs" / "conformance.md").read_text()
    written = entries_of(tables.read(page, "conformance matrix"))
    measured = entries_of(matrix.markdown(list(matrix.entries())))
    assert written.keys() == measured.keys()
    for key, entry in measured.items():
        assert (written[key] == "–") == (entry == "–")
        if entry != "–":
            assert 1 / 30 <= (float(written[key]) + 1e-17) / (float(entry) + 1e-17) <= 30
