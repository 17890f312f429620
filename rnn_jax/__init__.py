"""Gradients of recurrent networks through time, written by hand and proven equal to ``jax.grad``."""

from rnn_jax import checkpoint, data, diagnostics, gradients, jacobian, network, ops, recurrence, seeds, testing, train
from rnn_jax.cells import *  # noqa: F403
from rnn_jax.cells import __all__ as _cells
from rnn_jax.checks import InputError
from rnn_jax.diagnostics import compare, worst
from rnn_jax.gradients import *  # noqa: F403
from rnn_jax.gradients import __all__ as _gradients
from rnn_jax.losses import softmax_cross_entropy, squared_error
from rnn_jax.network import apply, init, init_layer, initial_state, loss, sample
from rnn_jax.recurrence import unroll, zero_state
from rnn_jax.types import (
    Algorithm,
    Batch,
    Biased,
    Carry,
    Cell,
    Estimate,
    Exact,
    Layer,
    Loss,
    Network,
    Parameter,
    Params,
    Unbiased,
)

__version__ = "0.2.0.dev0"

__all__ = [
    *_cells,
    *_gradients,
    "Algorithm",
    "Batch",
    "Biased",
    "Carry",
    "Cell",
    "Estimate",
    "Exact",
    "InputError",
    "Layer",
    "Loss",
    "Network",
    "Parameter",
    "Params",
    "Unbiased",
    "__version__",
    "apply",
    "compare",
    "checkpoint",
    "data",
    "diagnostics",
    "gradients",
    "init",
    "init_layer",
    "initial_state",
    "loss",
    "jacobian",
    "network",
    "ops",
    "recurrence",
    "sample",
    "seeds",
    "softmax_cross_entropy",
    "squared_error",
    "testing",
    "train",
    "unroll",
    "worst",
    "zero_state",
]
