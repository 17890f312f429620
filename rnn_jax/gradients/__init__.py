"""Gradient algorithms: one a file, all behind the contract of ``types.Algorithm``."""

from rnn_jax.gradients.autodiff import autodiff
from rnn_jax.gradients.bptt import bptt
from rnn_jax.gradients.data_parallel import data_parallel, devices_for
from rnn_jax.gradients.whole import value_and_grad

__all__ = ["autodiff", "bptt", "data_parallel", "devices_for", "value_and_grad"]
