"""Spoken vowels, sequences of different lengths."""

from pathlib import Path

import numpy as np

from rnn_jax.data.real.installed import installed_file
from rnn_jax.types import Batch

FILE = "sktime/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"


def japanese_vowels() -> tuple[Batch, Batch]:
    """Who says /ae/: nine men, utterances of 7 to 29 frames of 12 cepstral coefficients, for training and testing.

    The speaker is asked for at the last frame of each utterance, by ``weight``.  The frames after it are masked, and
    the state is reset before the first one.  Inputs have mean 0 and standard deviation 1 over the frames for training,
    each coefficient for itself.  A column is an utterance, so that a batch is a choice of columns.

    Returns:
      Two batches for training and testing, of 270 and 370 columns: xs float32 [29, N, 12], ys int32 [29, N], with mask,
      reset and weight.

    Raises:
      InputError: the package sktime is not installed.

    Examples:
      >>> from rnn_jax.data import real
      >>> train, test = real.japanese_vowels()
      >>> train.xs.shape, test.xs.shape, int(train.mask.sum(axis=0).min())
      ((29, 270, 12), (29, 370, 12), 7)

    Source: Kudo, Toyama & Shimbo, *Multidimensional curve classification using passing-through regions*, Pattern
    Recognition Letters 20 (1999), with their division into training and testing.
    """
    train, test = (_read(installed_file("sktime", FILE.format(part))) for part in ("TRAIN", "TEST"))
    frames = np.concatenate([utterance for utterance, _ in train])
    mean, deviation = frames.mean(axis=0), frames.std(axis=0)
    longest = max(len(utterance) for utterance, _ in train + test)
    return _batch(train, longest, mean, deviation), _batch(test, longest, mean, deviation)


def _read(file: Path) -> list[tuple[np.ndarray, int]]:
    """Utterances [T, 12] and speakers of a file: a line each, the coefficients divided by colons, the speaker last."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line and line[0] not in "#@"]
    parts = [line.split(":") for line in lines]
    return [(np.array([series.split(",") for series in each[:-1]], float).T, int(each[-1]) - 1) for each in parts]


def _batch(examples: list[tuple[np.ndarray, int]], longest: int, mean: np.ndarray, deviation: np.ndarray) -> Batch:
    xs = np.zeros((longest, len(examples), len(mean)), np.float32)
    for column, (utterance, _) in enumerate(examples):
        xs[: len(utterance), column] = (utterance - mean) / deviation
    lengths, speakers = np.array([len(utterance) for utterance, _ in examples]), [speaker for _, speaker in examples]
    t = np.arange(longest)[:, None] + np.zeros_like(lengths[None])
    ys = np.broadcast_to(np.array(speakers, np.int32), t.shape)
    last = (t == lengths[None] - 1).astype(np.float32)
    return Batch(xs, ys, t < lengths[None], t == 0, last)  # type: ignore[arg-type]
