"""The reference: the gradient by ``jax.value_and_grad``, to which every hand-written one is compared."""

import functools
from typing import Any

import jax

from rnn_jax import network as net
from rnn_jax.checks import check_network, check_update
from rnn_jax.types import Algorithm, Array, Batch, Carry, Cell, Estimate, Loss, Network, Params, Units


def autodiff(network: Network) -> Algorithm:
    """Back-propagation through time by JAX's own differentiation of ``network.loss``.  Exact.

    The state carried between windows is a constant of the next window, as in ``bptt``.
    This is the one file of the library in which autodiff appears.
    """
    check_network(network)

    def init(params: Params, batch_size: int, key: Array | None = None) -> Carry:
        return Carry(net.initial_state(network, params, batch_size))

    def update(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]:
        check_update(network, params, carry, batch)
        loss_of = functools.partial(net.window_loss, network, state=carry.recurrent, batch=batch)
        (loss, recurrent), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return Carry(recurrent), Estimate(loss, grads, net.total_weight(batch))

    return Algorithm(init, update)


def step_adjoint(cell: Cell, inputs: tuple[Any, ...], delta_s: Units) -> tuple[Any, ...]:
    """What ``cell.adjoint`` must return, by ``jax.vjp`` of the cell's step at these inputs, (s_prev, z, *p)."""
    _, transpose = jax.vjp(lambda *inputs: cell.step(*inputs)[0], *inputs)
    adjoints: tuple[Any, ...] = transpose(delta_s)
    return adjoints


def loss_error(loss: Loss, o: Array, y: Array) -> Array:
    """What ``loss.error`` must return, by ``jax.grad`` of the loss's value."""
    error: Array = jax.grad(lambda o: loss.value(o, y).sum())(o)
    return error
