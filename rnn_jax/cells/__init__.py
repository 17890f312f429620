"""Cells: one a file, each a step and its hand-written adjoint, unit by unit."""

from rnn_jax.cells.elman import elman
from rnn_jax.cells.gru import gru
from rnn_jax.cells.lstm import lstm

__all__ = ["elman", "gru", "lstm"]
