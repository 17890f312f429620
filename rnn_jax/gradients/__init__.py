"""Gradient algorithms: one a file, all behind the contract of ``types.Algorithm``."""

from collections.abc import Callable

from rnn_jax.gradients.autodiff import autodiff
from rnn_jax.gradients.bptt import bptt
from rnn_jax.gradients.collectives import sum_over_batch
from rnn_jax.gradients.data_parallel import data_parallel, devices_for
from rnn_jax.gradients.micro_batches import micro_batches
from rnn_jax.gradients.sequence import value_and_grad
from rnn_jax.types import Algorithm, Network

ALGORITHMS: dict[str, Callable[[Network], Algorithm]] = {"bptt": bptt, "autodiff": autodiff}
"""Every algorithm by its name; the conformance matrix and ``char_lm.py`` read it."""

__all__ = [
    "ALGORITHMS",
    "autodiff",
    "bptt",
    "data_parallel",
    "devices_for",
    "micro_batches",
    "sum_over_batch",
    "value_and_grad",
]
