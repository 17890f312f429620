"""The judge: the gradient by ``jax.value_and_grad``, against which every hand-written one is held."""

from typing import Any

import jax

from rnn_jax import network as net
from rnn_jax.checks import check_network, check_window
from rnn_jax.types import Algorithm, Array, Batch, Cell, Loss, Network, Params, State, Units


def autodiff(network: Network) -> Algorithm:
    """Back-propagation through time by JAX's own differentiation of ``network.loss``.  Exact.

    The state carried between windows is a constant of the next window, as in ``bptt``.
    This is the one file of the library in which autodiff appears.
    """
    check_network(network)

    def init(params: Params, batch_size: int, key: Array | None = None) -> State:
        return net.initial_state(network, params, batch_size)

    def update(params: Params, state: State, batch: Batch) -> tuple[tuple[Array, Params], State]:
        check_window(network, params, state, batch)
        value_and_grad = jax.value_and_grad(lambda params: net.loss(network, params, state, batch), has_aux=True)
        (loss, state), grads = value_and_grad(params)
        return (loss, grads), state

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
