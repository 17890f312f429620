"""Tasks: every target follows from the inputs, and the stated losses of those who remember nothing are right."""

import math

import chex
import jax
import numpy as np
import pytest
from fixtures import marked

import rnn_jax as rj
from rnn_jax import data
from rnn_jax.data import tasks

KEY = jax.random.key(0)


def test_delayed_addition_is_what_it_says():
    """The classes' frequencies, given the inputs of 6 and 10 steps before, are the stated probabilities."""
    batch = rj.data.delayed_addition(jax.random.key(0), 4000, 8)
    x, y = (np.asarray(a) for a in batch[:2])
    for six, ten in ((0, 0), (0, 1), (1, 0), (1, 1)):
        seen = y[10:][(x[4:-6] == six) & (x[:-10] == ten)]
        assert abs(seen.mean() - (0.5 + six / 2 - ten / 4)) < 0.02


@pytest.mark.parametrize("length", [1, 3, 5])
def test_copying_says_again_what_it_read(length):
    """Each target that counts is the input one length before; problems begin with a reset, and the rest is masked."""
    xs, ys, mask, reset, weight = map(np.asarray, data.copying(jax.random.key(0), 32, 4, length))
    whole = 32 // (2 * length) * 2 * length
    recalled = np.arange(32) % (2 * length) >= length
    assert mask[:whole].all() and not mask[whole:].any()
    assert (xs[:whole][recalled[:whole]] == 2).all() and set(np.unique(xs[~recalled])) == {0, 1}
    np.testing.assert_array_equal(weight, np.broadcast_to(recalled[:, None], weight.shape))
    counted = np.flatnonzero(recalled[:whole])
    np.testing.assert_array_equal(ys[counted], xs[counted - length])
    np.testing.assert_array_equal(reset[:, 0], np.arange(32) % (2 * length) == 0)


def test_the_length_of_copying_may_be_traced():
    """A curriculum changes it inside of one compiled program."""
    key = jax.random.key(0)
    traced = jax.jit(lambda length: data.copying(key, 20, 2, length))(jax.numpy.asarray(4))
    chex.assert_trees_all_equal(traced, data.copying(key, 20, 2, 4))
    with pytest.raises(rj.InputError, match="length is 11; it must be T / 2, 10, at most"):
        data.copying(key, 20, 2, 11)


@pytest.mark.parametrize("T", [2, 7, 40])
def test_adding_asks_for_the_sum_of_two_marked_numbers(T):
    batch = data.adding(KEY, T, 500)
    numbers, marks = np.moveaxis(np.asarray(batch.xs), -1, 0)
    for half in (marks[: T // 2], marks[T // 2 :]):
        np.testing.assert_array_equal(half.sum(axis=0), 1)
        assert (half.sum(axis=1) > 0).all()  # each step of a half is marked in some row
    np.testing.assert_allclose(batch.ys[-1, :, 0], (numbers * marks).sum(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(batch.weight, np.repeat(np.arange(T) == T - 1, 500).reshape(T, 500))


def test_copy_memory_says_its_symbols_after_the_sign():
    lag, B = 7, 50
    xs, ys = (np.asarray(part) for part in data.copy_memory(KEY, lag, B)[:2])
    assert xs.shape == ys.shape == (lag + 20, B)
    assert set(np.unique(xs[:10])) == set(range(8))
    np.testing.assert_array_equal(ys[-10:], xs[:10])
    np.testing.assert_array_equal(np.flatnonzero((xs == 9).all(axis=1)), [10 + lag - 1])
    assert (xs[10:] >= 8).all() and (xs == 9).sum() == B and (ys[:-10] == 8).all()


def test_parity_counts_the_ones_so_far():
    batch = data.parity(KEY, 9, 300, shortest=3)
    xs, ys, mask = (np.asarray(part) for part in batch[:3])
    np.testing.assert_array_equal(ys, np.cumsum(xs, axis=0) % 2)
    assert set(mask.sum(axis=0)) == set(range(3, 10)) and (np.diff(mask.astype(int), axis=0) <= 0).all()
    assert data.parity(KEY, 9, 300).mask.all()
    with pytest.raises(rj.InputError, match="shortest is 10; it must be T, 9, at most"):
        data.parity(KEY, 9, 300, shortest=10)


def test_flip_flop_shows_the_last_pulse():
    xs, ys = (np.asarray(part) for part in data.flip_flop(KEY, 60, 40)[:2])
    assert set(np.unique(xs)) == {-1, 0, 1} and (xs[0] != 0).all()
    assert abs((xs[1:] != 0).mean() - 0.1) < 0.01 and abs(xs.mean()) < 0.01
    shown = np.zeros(xs.shape[1:])
    for x, y in zip(xs, ys, strict=True):
        shown = np.where(x != 0, x, shown)
        np.testing.assert_array_equal(y, shown)


MADE = {
    "adding": lambda key: data.adding(key, 12, 3),
    "copy_memory": lambda key: data.copy_memory(key, 12, 3),
    "parity": lambda key: data.parity(key, 12, 3, shortest=2),
    "flip_flop": lambda key: data.flip_flop(key, 12, 3),
}


@pytest.mark.parametrize("name", MADE)
def test_a_task_is_a_pure_function_of_its_key_and_starts_from_zero(name):
    make = MADE[name]
    batch = make(KEY)
    chex.assert_trees_all_equal(batch, make(KEY), jax.jit(make)(KEY))
    assert (np.asarray(make(jax.random.key(1)).xs) != np.asarray(batch.xs)).any()
    np.testing.assert_array_equal(batch.reset, np.arange(len(batch.xs))[:, None] + np.zeros((1, 3)) == 0)


SEVERAL = {
    "copying": lambda key: data.copying(key, 12, 3, 2),
    "delayed_addition": lambda key: data.delayed_addition(key, 12, 3),
}
"""Tasks with other resets, or none."""


@pytest.mark.parametrize("name", marked([*MADE, *SEVERAL], ["adding"]))
def test_a_task_is_the_same_in_32_and_64_bits(name):
    """An example in a docstring, which is tested in 64 bits, is what a user sees in 32."""
    made = []
    for wide in (False, True):
        with jax.enable_x64(wide):
            made.append((MADE | SEVERAL)[name](KEY))
    chex.assert_trees_all_equal_shapes_and_dtypes(*made)
    chex.assert_trees_all_equal(*made)


def constant(loss, o, ys, weight=None):
    """The mean loss of logits that are always the same."""
    losses = np.asarray(loss.value(np.broadcast_to(np.float32(o), (*ys.shape[:2], len(o))), ys))
    return np.average(losses, weights=weight)


@pytest.mark.slow
def test_the_losses_of_those_who_remember_nothing():
    """The best answers that depend on the input and the number of the step alone, on 4,000 rows."""
    square, entropy = rj.squared_error(), rj.softmax_cross_entropy()
    batch = data.adding(KEY, 10, 4000)
    assert abs(constant(square, [1.0], batch.ys, batch.weight) - tasks.ADDING_CHANCE) < 0.003
    _, ys = data.copy_memory(KEY, 30, 4000)[:2]
    blank, symbol = [0.0] * 8 + [99.0], [99.0] * 8 + [0.0]
    found = (40 * constant(entropy, blank, ys[:40]) + 10 * constant(entropy, symbol, ys[40:])) / 50
    assert abs(found - tasks.copy_memory_chance(30)) < 1e-6
    ys = data.parity(KEY, 10, 4000).ys
    assert abs(np.asarray(ys[1:]).mean() - 0.5) < 0.01 and math.isclose(tasks.PARITY_CHANCE, np.log(2))
    xs, ys = data.flip_flop(KEY, 30, 4000)[:2]
    assert abs(np.asarray(square.value(xs, ys)).mean() - tasks.flip_flop_chance(30)) < 0.003
    assert math.isclose(tasks.COPYING_CHANCE, np.log(2))
