"""How a loss assigns credit back through time: gradients of recurrent networks, written by hand and proven exact."""

from rnn_jax import data, diagnostics, network, recurrence, testing, train
from rnn_jax.cells import elman, gru, lstm
from rnn_jax.checks import InputError
from rnn_jax.diagnostics import compare
from rnn_jax.gradients import autodiff, bptt, data_parallel, devices_for, value_and_grad
from rnn_jax.losses import softmax_cross_entropy, squared_error
from rnn_jax.network import init, sample
from rnn_jax.recurrence import unroll
from rnn_jax.types import Algorithm, Batch, Biased, Cell, Exact, Layer, Loss, Network, Params, Unbiased

__all__ = [
    "Algorithm",
    "Batch",
    "Biased",
    "Cell",
    "Exact",
    "InputError",
    "Layer",
    "Loss",
    "Network",
    "Params",
    "Unbiased",
    "autodiff",
    "bptt",
    "compare",
    "data",
    "data_parallel",
    "devices_for",
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
    "testing",
    "train",
    "unroll",
    "value_and_grad",
]
