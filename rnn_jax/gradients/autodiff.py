"""The reference: the gradient by ``jax.value_and_grad``, to which every hand-written one is compared."""

from typing import Any

import jax

from rnn_jax import network as net
from rnn_jax.checks import check_init, check_network, check_update
from rnn_jax.losses import total_weight
from rnn_jax.types import Algorithm, Array, Batch, Carry, Cell, Estimate, Loss, Network, Params, State, Units


def autodiff(network: Network) -> Algorithm:
    """Back-propagation through time by JAX's own differentiation of the forward pass.  Exact.

        dθ = jax.grad(L)(θ)

    The state carried between windows is a constant of the next window, as in ``bptt``.  This is the one file of the
    library in which autodiff appears.

    Choose it as the reference for another algorithm.  ``bptt`` gives the same gradient in less time and memory.

    Args:
      network: what to differentiate.

    Returns:
      An Algorithm whose carry is the recurrent state alone.

    Raises:
      InputError: when built, an invalid network; in ``update``, whatever does not fit it.

    Examples:
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> rj.autodiff(network).claim
      Exact(across_windows=False)
    """
    check_network(network)

    def init(params: Params, batch_size: int, key: Array | None = None) -> Carry:
        check_init(network, params, batch_size)
        return Carry(net.zero_states(network, batch_size, params.V.dtype))

    def update(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]:
        check_update(network, params, carry, batch)

        def loss_of(params: Params) -> tuple[Array, State]:
            return net.window_loss(network, params, carry.recurrent, batch)

        (loss, recurrent), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        return Carry(recurrent), Estimate(loss, grads, total_weight(batch))

    return Algorithm(init, update)


def step_adjoint(cell: Cell, inputs: tuple[Any, ...], delta_s: Units) -> tuple[Any, ...]:
    """The reference for ``cell.adjoint``: ``jax.vjp`` of the cell's step at the inputs (s_prev, z, *p)."""
    _, transpose = jax.vjp(lambda *inputs: cell.step(*inputs)[0], *inputs)
    adjoints: tuple[Any, ...] = transpose(delta_s)
    return adjoints


def loss_error(loss: Loss, o: Array, y: Array) -> Array:
    """The reference for ``loss.error``: ``jax.grad`` of the loss's value."""
    error: Array = jax.grad(lambda o: loss.value(o, y).sum())(o)
    return error
