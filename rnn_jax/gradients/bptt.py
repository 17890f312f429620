"""Back-propagation through time, by hand."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import network as net
from rnn_jax import recurrence
from rnn_jax.checks import check_int, check_network, check_window
from rnn_jax.precision import wide
from rnn_jax.recurrence import Kept
from rnn_jax.types import Algorithm, Array, Batch, Network, Params, State


class Adjoints(NamedTuple):
    """What the reverse pass carries from a segment to the one before it."""

    delta_state: State
    """∂L/∂(state at the segment's end)."""
    loss: Array
    grads: Params
    """Sums over the segments seen so far, in float32 at least."""


def bptt(network: Network, segment: int | None = None) -> Algorithm:
    """Back-propagation through time, written by hand.  Exact: equal to ``autodiff`` up to rounding.

    The window is cut into segments.  Forward, segment by segment, the layers run and keep their states; then, from the
    last segment to the first, while its arrays are in cache::

        o_t = h_t V + c                   δo_t = ∂ℓ(o_t)/∂o_t
        δh_t = δo_t Vᵀ (+ the recurrent share, walking back)
        dV += Σ h_tᵀ δo_t    dc += Σ δo_t    and dU, dW, db (dd) of each layer from the top down

    Over windows with carried state this is truncated BPTT: the state enters the next window as a constant.
    Time n² and memory T·n a step and example, n = H.

    Args:
      segment: steps per segment, any length; by default chosen so that a segment stays in cache.

    Raises:
      InputError: when built, a network or a segment that cannot be served; in ``update``, whatever does not fit it.

    Source: Werbos, *Backpropagation through time: what it does and how to do it*, Proceedings of the IEEE 78 (1990).
    """
    check_network(network)
    if segment is not None:
        check_int(segment, "segment")

    def init(params: Params, batch_size: int, key: Array | None = None) -> State:
        return net.initial_state(network, params, batch_size)

    def update(params: Params, state: State, batch: Batch) -> tuple[tuple[Array, Params], State]:
        check_window(network, params, state, batch)

        def forward(state: State, window: Batch) -> tuple[State, tuple[State, list[Kept]]]:
            xs, after, kept = window.xs, [], []
            for cell, layer, s0 in zip(network.cells, params.layers, state, strict=True):
                s_T, kept_layer = recurrence.forward(cell, layer, xs, s0, window.mask, window.reset)
                xs = kept_layer.ss[0]
                after.append(s_T)
                kept.append(kept_layer)
            return tuple(after), (state, kept)

        def reverse(carry: Adjoints, inputs: tuple[Batch, tuple[State, list[Kept]]]) -> tuple[Adjoints, None]:
            window, (state, kept) = inputs
            hs = kept[-1].ss[0]
            os = net.readout(params, hs)
            delta_os = network.loss.error(os, window.ys)
            if window.mask is not None:
                delta_os = jnp.where(window.mask[..., None], delta_os, 0)
            delta_hs = delta_os @ params.V.T
            delta_state, layers = [], []
            for level in reversed(range(len(network.cells))):
                gradients, delta_us, delta_s0 = recurrence.reverse(
                    network.cells[level],
                    params.layers[level],
                    kept[level - 1].ss[0] if level else window.xs,
                    state[level],
                    kept[level],
                    delta_hs,
                    carry.delta_state[level],
                    window.mask,
                    window.reset,
                )
                delta_hs = delta_us @ params.layers[level].U.T
                delta_state.append(delta_s0)
                layers.append(gradients)
            grads = Params(tuple(reversed(layers)), recurrence.outer_sum(hs, delta_os), recurrence.row_sum(delta_os))
            loss = net.sum_of_losses(network, os, window)
            loss, grads = jax.tree.map(jnp.add, (carry.loss, carry.grads), (loss, grads))
            return Adjoints(tuple(reversed(delta_state)), loss, grads), None

        T = batch.xs.shape[0]
        windows = _segments(batch, min(segment or _default_segment(T), T))
        kept = []
        state_T = state
        for group in windows:
            state_T, kept_group = lax.scan(forward, state_T, group)
            kept.append(kept_group)
        sums = wide(params.V.dtype)
        carry = Adjoints(
            jax.tree.map(jnp.zeros_like, state_T),
            jnp.zeros((), sums),
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, sums), params),
        )
        for pair in reversed(list(zip(windows, kept, strict=True))):
            carry, _ = lax.scan(reverse, carry, pair, reverse=True)
        grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), carry.grads, params)
        return (carry.loss, grads), state_T

    return Algorithm(init, update)


def _default_segment(T: int) -> int:
    """About 16 steps, which keeps a segment in cache; a divisor of T where there is one, so that all are equal."""
    return next((n for n in (16, 15, 17, 14, 18, 13, 19, 12, 20, 11, 21, 10, 22, 9, 23, 8, 24) if T % n == 0), 16)


def _segments(batch: Batch, segment: int) -> list[Batch]:
    """Cut [T, …] into segments: full ones stacked as [n, segment, …], and a shorter last one as [1, rest, …]."""
    T = batch.xs.shape[0]
    full = T - T % segment
    groups = [jax.tree.map(lambda a: a[:full].reshape(-1, segment, *a.shape[1:]), batch)]
    return groups if full == T else [*groups, jax.tree.map(lambda a: a[None, full:], batch)]
