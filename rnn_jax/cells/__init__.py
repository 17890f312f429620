"""Cells: one a file, each a step and its hand-written adjoint, unit by unit."""

from rnn_jax.cells.elman import elman, indrnn
from rnn_jax.cells.gru import gru
from rnn_jax.cells.lstm import lstm
from rnn_jax.cells.min_gru import min_gru

__all__ = ["elman", "gru", "indrnn", "lstm", "min_gru"]
