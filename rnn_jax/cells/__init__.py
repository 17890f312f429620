"""Cells: one a file, each a step and its hand-written adjoint, unit by unit."""

from rnn_jax.cells.elman import elman, indrnn
from rnn_jax.cells.gru import gru
from rnn_jax.cells.lstm import lstm
from rnn_jax.cells.min_gru import min_gru
from rnn_jax.cells.rtu import rtu
from rnn_jax.types import Cell

CELLS: dict[str, Cell] = {
    "elman": elman(),
    "elman-relu-leaky": elman("relu", leak=0.4),
    "elman-identity": elman("identity"),
    "elman-learned-leak": elman(leak="learned"),
    "elman-diagonal": elman(diagonal=True),
    "indrnn": indrnn(),
    "lstm": lstm(),
    "lstm-peepholes": lstm(peepholes=True),
    "lstm-diagonal": lstm(diagonal=True),
    "gru": gru(),
    "gru-diagonal": gru(diagonal=True),
    "min_gru": min_gru(),
    "rtu": rtu(),
}
"""Every cell, with each option that changes its equations, by name; tests, scripts and the matrix read it."""

__all__ = ["CELLS", "elman", "gru", "indrnn", "lstm", "min_gru", "rtu"]
