"""Proofs that you can run on your own cell, loss or algorithm: ``check_cell``, ``check_loss``, ``check_algorithm``."""

from rnn_jax.testing.algorithm import check_algorithm
from rnn_jax.testing.cell import check_cell
from rnn_jax.testing.loss import check_loss
from rnn_jax.testing.report import ConformanceError, Result

__all__ = ["ConformanceError", "Result", "check_algorithm", "check_cell", "check_loss"]
