"""Back-propagation through time, by hand."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import network as net
from rnn_jax import recurrence
from rnn_jax.checks import check_int, check_network, check_window, require
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


def bptt(network: Network, segment: int | None = None, recompute: bool = False) -> Algorithm:
    """Back-propagation through time, written by hand.  Exact: equal to ``autodiff`` up to rounding.

    The window is cut into segments.  Forward, segment by segment, the layers run and keep their states; then, from the
    last segment to the first, while its arrays are in cache, derivation (3), (7) to (9) and (17)::

        o_t = h_t V + c                   δo_t = ∂ℓ(o_t)/∂o_t
        δh_t = δo_t Vᵀ (+ the recurrent share, walking back)
        dV += Σ h_tᵀ δo_t    dc += Σ δo_t    and dU, dW, db (dd) of each layer from the top down

    Over windows with carried state this is truncated BPTT, derivation (16): the state enters the next window as a
    constant.  Time n² and memory T·n a step and example, n = H.  With ``recompute`` only the states at the segments'
    borders are kept, and each segment runs forward again before its reverse: a third more time, memory 2√T·n at
    segments of √T.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; by default about 16, or as many as hold 256 rows of the batch, so that a
        segment stays in cache and its products are large; √T where states are recomputed.  One longer than a window is
        that window.
      recompute: trade time for memory; with a single segment it costs time and saves nothing.

    Raises:
      InputError: when built, a network or a segment that cannot be served; in ``update``, whatever does not fit it.

    Source: Werbos, *Backpropagation through time: what it does and how to do it*, Proceedings of the IEEE 78 (1990);
    recomputation is Chen et al., *Training deep nets with sublinear memory cost*, arXiv:1604.06174 (2016).
    """
    check_network(network)
    if segment is not None:
        check_int(segment, "segment")
    require(isinstance(recompute, bool), "recompute", recompute, "True or False")

    def init(params: Params, batch_size: int, key: Array | None = None) -> State:
        return net.initial_state(network, params, batch_size)

    def update(params: Params, state: State, batch: Batch) -> tuple[tuple[Array, Params], State]:
        check_window(network, params, state, batch)

        def forward(state: State, window: Batch) -> tuple[State, list[Kept]]:
            xs, after, kept = window.xs, [], []
            for cell, layer, s0 in zip(network.cells, params.layers, state, strict=True):
                s_T, kept_layer = recurrence.forward(cell, layer, xs, s0, window.mask, window.reset)
                xs = kept_layer.ss[0]
                after.append(s_T)
                kept.append(kept_layer)
            return tuple(after), kept

        def advance(state: State, window: Batch) -> tuple[State, tuple[State, list[Kept] | None]]:
            after, kept = forward(state, window)
            return after, (state, None if recompute else kept)

        def reverse(carry: Adjoints, inputs: tuple[Batch, tuple[State, list[Kept] | None]]) -> tuple[Adjoints, None]:
            window, (state, kept) = inputs
            if kept is None:
                _, kept = forward(state, window)
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

        T, B = batch.xs.shape[:2]
        windows = _segments(batch, min(segment or _default_segment(T, B, recompute), T))
        kept = []
        state_T = state
        for group in windows:
            state_T, kept_group = lax.scan(advance, state_T, group)
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


def _default_segment(T: int, B: int, recompute: bool) -> int:
    """About 16 steps or 256 rows, or √T; a divisor of T where there is one within half of that: then all are equal."""
    wanted = math.isqrt(T) if recompute else max(16, 256 // B)
    near = sorted(range(wanted - wanted // 2, wanted + wanted // 2 + 1), key=lambda n: abs(n - wanted))
    return next((n for n in near if n > 0 and T % n == 0), max(1, wanted))


def _segments(batch: Batch, segment: int) -> list[Batch]:
    """Cut [T, …] into segments: full ones stacked as [n, segment, …], and a shorter last one as [1, rest, …]."""
    T = batch.xs.shape[0]
    full = T - T % segment
    groups = [jax.tree.map(lambda a: a[:full].reshape(-1, segment, *a.shape[1:]), batch)]
    return groups if full == T else [*groups, jax.tree.map(lambda a: a[None, full:], batch)]
