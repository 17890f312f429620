"""Handwritten digits, read pixel by pixel."""

import numpy as np

from rnn_jax.data.real.installed import installed_file
from rnn_jax.types import Batch

EVERY = 5
"""One image of so many is for testing."""


def pixel_digits() -> tuple[Batch, Batch]:
    """The 1,797 digits of scikit-learn as sequences of 64 pixels, row by row; every fifth one is for testing.

    Inputs are grey levels in [0, 1].  The class is asked for at the last step, by ``weight``, and the state is reset
    before the first one.  A column is an image, so that a batch is a choice of columns.

    Returns:
      Two batches for training and testing, of 1,438 and 359 columns: xs float32 [64, N, 1], ys int32 [64, N], with
      reset and weight.

    Raises:
      InputError: the package scikit-learn is not installed.

    Examples:
      >>> from rnn_jax.data import real
      >>> train, test = real.pixel_digits()
      >>> train.xs.shape, test.xs.shape, test.ys[-1, :5].tolist()
      ((64, 1438, 1), (64, 359, 1), [4, 9, 4, 9, 4])

    Source: Alpaydin & Kaynak, *Optical recognition of handwritten digits*, UCI machine learning repository (1998), the
    images of 13 writers.
    """
    rows = np.loadtxt(installed_file("scikit-learn", "sklearn/datasets/data/digits.csv.gz"), delimiter=",")
    pixels = np.ascontiguousarray(rows[:, :-1].T[..., None], np.float32) / 16
    held_out = np.arange(len(rows)) % EVERY == EVERY - 1
    return _batch(pixels[:, ~held_out], rows[~held_out, -1]), _batch(pixels[:, held_out], rows[held_out, -1])


def _batch(pixels: np.ndarray, classes: np.ndarray) -> Batch:
    T, N, _ = pixels.shape
    t = np.arange(T)[:, None] + np.zeros((1, N), int)
    ys = np.broadcast_to(classes.astype(np.int32), (T, N))
    return Batch(pixels, ys, reset=t == 0, weight=(t == T - 1).astype(np.float32))  # type: ignore[arg-type]
