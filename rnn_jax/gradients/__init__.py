"""Gradient algorithms: one a file, all behind the contract of ``types.Algorithm``."""

from collections.abc import Callable

from rnn_jax.gradients.autodiff import autodiff
from rnn_jax.gradients.bptt import bptt
from rnn_jax.gradients.collectives import sum_over_batch
from rnn_jax.gradients.data_parallel import data_parallel, devices_for
from rnn_jax.gradients.dni import dni
from rnn_jax.gradients.eprop import eprop, rflo
from rnn_jax.gradients.forward_gradient import forward_gradient
from rnn_jax.gradients.immediate import immediate
from rnn_jax.gradients.kf_rtrl import kf_rtrl
from rnn_jax.gradients.micro_batches import micro_batches
from rnn_jax.gradients.optimal_kronecker import optimal_kronecker
from rnn_jax.gradients.reverse_kf_rtrl import reverse_kf_rtrl
from rnn_jax.gradients.rtrl import rtrl
from rnn_jax.gradients.sequence import value_and_grad
from rnn_jax.gradients.snap import snap
from rnn_jax.gradients.truncated import truncated
from rnn_jax.gradients.uoro import uoro
from rnn_jax.types import Algorithm, Network

ALGORITHMS: dict[str, Callable[[Network], Algorithm]] = {
    "bptt": bptt,
    "rtrl": rtrl,
    "uoro": uoro,
    "kf_rtrl": kf_rtrl,
    "reverse_kf_rtrl": reverse_kf_rtrl,
    "optimal_kronecker": optimal_kronecker,
    "forward_gradient": forward_gradient,
    "snap": snap,
    "eprop": eprop,
    "rflo": rflo,
    "dni": dni,
    "truncated": truncated,
    "immediate": immediate,
    "autodiff": autodiff,
}
"""Every algorithm by its name; the conformance matrix and ``char_lm.py`` read it."""

__all__ = [
    "ALGORITHMS",
    "autodiff",
    "bptt",
    "data_parallel",
    "devices_for",
    "dni",
    "eprop",
    "forward_gradient",
    "immediate",
    "kf_rtrl",
    "micro_batches",
    "optimal_kronecker",
    "reverse_kf_rtrl",
    "rflo",
    "rtrl",
    "snap",
    "sum_over_batch",
    "truncated",
    "uoro",
    "value_and_grad",
]
