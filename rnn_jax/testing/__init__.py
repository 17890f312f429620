"""Proofs that you can run on your own cell or algorithm: ``check_cell`` and ``check_algorithm``."""

from rnn_jax.testing.algorithm import check_algorithm
from rnn_jax.testing.cell import check_cell
from rnn_jax.testing.findings import ConformanceError, Finding

__all__ = ["ConformanceError", "Finding", "check_algorithm", "check_cell"]
