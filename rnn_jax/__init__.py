"""How a loss assigns credit back through time: gradients of recurrent networks, written by hand and proven exact."""

from rnn_jax import data, diagnostics, network, recurrence, train
from rnn_jax.cells import elman, gru, lstm
from rnn_jax.checks import InputError
from rnn_jax.diagnostics import compare
from rnn_jax.gradients import autodiff, bptt, value_and_grad
from rnn_jax.losses import softmax_cross_entropy, squared_error
from rnn_jax.network import init, sample
from rnn_jax.recurrence import unroll
from rnn_jax.types import Algorithm, Batch, Cell, Layer, Loss, Network, Params

__all__ = [
    "Algorithm",
    "Batch",
    "Cell",
    "InputError",
    "Layer",
    "Loss",
    "Network",
    "Params",
    "autodiff",
    "bptt",
    "compare",
    "data",
    "diagnostics",
    "elman",
    "gru",
    "init",
    "lstm",
    "network",
    "recurrence",
    "sample",
    "softmax_cross_entropy",
    "squared_error",
    "train",
    "unroll",
    "value_and_grad",
]
