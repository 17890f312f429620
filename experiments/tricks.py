"""What each platform trick of rnn_jax/ops.py is worth: bptt as it is, and with one trick replaced by its plain form."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import jax
from jax import lax
from timing import BPTT, Candidate, Case, Program, loss_and_gradient, network_of

import rnn_jax as rj
from rnn_jax import ops
from rnn_jax.precision import accumulation_dtype


def plain_product(a: jax.Array, M: jax.Array, M_T: jax.Array) -> jax.Array:
    """A M, whatever the sizes."""
    return a @ M


def without_barrier(a: jax.Array, M: jax.Array, M_T: jax.Array) -> jax.Array:
    """(Mᵀ aᵀ)ᵀ as XLA rewrites it where nothing forbids it."""
    return lax.dot_general(M_T, a, (((1,), (1,)), ((), ()))).T


def one_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Σ aᵀ b as one product, whichever of the two is wider."""
    a, b = (each.reshape(-1, each.shape[-1]) for each in (a, b))
    return lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=accumulation_dtype(b.dtype))


def one_hot_product(tokens: jax.Array, rows: jax.Array, D: int) -> jax.Array:
    """Σ onehot(token)ᵀ row as a product."""
    return one_product(jax.nn.one_hot(tokens, D, dtype=rows.dtype), rows)


PLAIN: dict[str, dict[str, Callable[..., Any]]] = {
    BPTT: {},
    "h W as it is": {"matmul": plain_product},
    "h W turned, no barrier": {"matmul": without_barrier},
    "outer products as they are": {"sum_outer_products": one_product},
    "tokens as one-hot rows": {"sum_rows_by_token": one_hot_product},
}
"""What is measured: functions of ``ops``, and what stands in their place."""


def builders(case: Case) -> dict[Program, Callable[[], Candidate]]:
    """How to build bptt with each of the replacements, on all devices."""
    devices = rj.devices_for(case.batch)
    return {Program(name, len(devices)): partial(build, case, plain, devices) for name, plain in PLAIN.items()}


def build(case: Case, plain: dict[str, Callable[..., Any]], devices: list[jax.Device]) -> Candidate:
    """Compile the gradient of a case while these functions stand in ``ops``."""
    with contextlib.ExitStack() as replaced:
        for name, function in plain.items():
            replaced.enter_context(mock.patch.object(ops, name, function))
        return loss_and_gradient(case, rj.data_parallel(rj.bptt(network_of(case)), devices))
