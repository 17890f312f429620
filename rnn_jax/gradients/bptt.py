"""Back-propagation through time, by hand."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import network as net
from rnn_jax import recurrence
from rnn_jax.checks import check_int, check_network, check_window, require
from rnn_jax.precision import wide
from rnn_jax.recurrence import Kept
from rnn_jax.types import Algorithm, Array, Batch, Network, Params, State

Memory = tuple[Kept, ...]
"""What each layer keeps, the lowest first."""


class Adjoints(NamedTuple):
    """What the reverse pass carries from a segment to the one before it."""

    delta_state: State
    """∂L/∂(state at the segment's end)."""
    losses: Array
    """The loss of each example, [B]; like the gradients, the sum over the segments seen so far, in float32 at least."""
    grads: Params


def bptt(network: Network, segment: int | None = None, recompute: bool = False) -> Algorithm:
    """Back-propagation through time, written by hand.  Exact: equal to ``autodiff`` up to rounding.

    The window is cut into segments.  Forward, segment by segment, the layers run and keep their states; then, from the
    last segment to the first, while its arrays are in cache, derivation (3), (7) to (9) and (17)::

        o_t = h_t V + c                   δo_t = ∂ℓ(o_t)/∂o_t
        δh_t = δo_t Vᵀ (+ the recurrent share, walking back)
        dV += Σ h_tᵀ δo_t    dc += Σ δo_t    and dU, dW, db (dd) of each layer from the top down

    Over windows with carried state this is truncated BPTT, derivation (16): the state enters the next window as a
    constant.  Time n² and memory T·n a step and example, n = H.  With ``recompute`` only the states at the segments'
    borders are kept, and each segment runs forward again before its reverse: a third more products, memory 2√T·n at
    segments of √T.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; by default as many as hold 256 rows of the batch, 8 to 128, so that a
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

        def state_at(kept: Memory, t: Array | int) -> State:
            return tuple(recurrence.state_at(layer, t) for layer in kept)

        def begin(kept: Memory, state: State) -> Memory:
            return tuple(recurrence.begin(layer, s0) for layer, s0 in zip(kept, state, strict=True))

        def forward(kept: Memory, start: Array | int, window: Batch) -> Memory:
            xs, filled = window.xs, []
            for cell, layer, W_T, room in zip(network.cells, params.layers, transposed, kept, strict=True):
                filled.append(recurrence.fill(cell, layer, W_T, xs, room, start, window.mask, window.reset))
                xs = recurrence.hidden(filled[-1], start + 1, len(xs))
            return tuple(filled)

        def advance(carry: tuple[Any, Memory], window: Batch) -> tuple[tuple[Any, Memory], State | None]:
            (first, kept), n = carry, len(window.xs)
            filled = forward(kept, first, window)
            if recompute:  # the next segment takes its place
                return (first, begin(filled, state_at(filled, n))), state_at(kept, first)
            return (first + n, filled), None

        def reverse(carry: tuple[Any, Memory, Adjoints], inputs: Any) -> tuple[tuple[Any, Memory, Adjoints], None]:
            (end, kept, adjoints), (window, border) = carry, inputs
            n = len(window.xs)
            first = 0 if recompute else end - n
            if recompute:
                kept = forward(begin(kept, border), first, window)
            rows = recurrence.hidden(kept[-1], first + 1, n), (window.ys, window.mask, window.weight)
            # On one axis, else XLA computes δo a second time.
            hs, targets = jax.tree.map(lambda a: a.reshape(n * B, *a.shape[2:]), rows)
            os = net.readout(params, hs)
            losses = net.losses(network, os, *targets).reshape(n, B).sum(axis=0)
            delta_os = net.errors(network, os, *targets)
            delta_hs = (delta_os @ params.V.T).reshape(n, B, -1)
            delta_state, layers = [], []
            for level in reversed(range(len(network.cells))):
                gradients, delta_us, delta_s0 = recurrence.reverse(
                    network.cells[level],
                    params.layers[level],
                    transposed[level],
                    recurrence.hidden(kept[level - 1], first + 1, n) if level else window.xs,
                    kept[level],
                    first,
                    delta_hs,
                    adjoints.delta_state[level],
                    window.mask,
                    window.reset,
                )
                delta_hs = delta_us @ params.layers[level].U.T
                delta_state.append(delta_s0)
                layers.append(gradients)
            dV, dc = recurrence.outer_sum(hs, delta_os), recurrence.row_sum(delta_os)
            grads = Params(tuple(reversed(layers)), dV, dc)
            losses, grads = jax.tree.map(jnp.add, (adjoints.losses, adjoints.grads), (losses, grads))
            return (first, kept, Adjoints(tuple(reversed(delta_state)), losses, grads)), None

        T, B = batch.xs.shape[:2]
        transposed = [recurrence.transposed(layer) for layer in params.layers]
        n = min(segment or default_segment(T, B, recompute), T)
        # Room for the window; or for one segment, where each begins at the state in the first place.
        rooms = [
            recurrence.room(cell, n if recompute else T, s0) for cell, s0 in zip(network.cells, state, strict=True)
        ]
        groups, borders = _segments(batch, n), []
        carry = (0, begin(tuple(rooms), state))
        for group in groups:
            carry, states = lax.scan(advance, carry, group)
            borders.append(states)
        end, kept = carry
        state_T = state_at(kept, 0 if recompute else T)
        sums = wide(params.V.dtype)
        adjoints = Adjoints(
            jax.tree.map(jnp.zeros_like, state_T),
            jnp.zeros(B, sums),
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, sums), params),
        )
        for pair in reversed(list(zip(groups, borders, strict=True))):
            (end, kept, adjoints), _ = lax.scan(reverse, (end, kept, adjoints), pair, reverse=True)
        grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), adjoints.grads, params)
        return (adjoints.losses.sum(), grads), state_T

    return Algorithm(init, update)


def default_segment(T: int, B: int, recompute: bool) -> int:
    """About 256 rows in 8 … 128 steps, or √T; a divisor of T where one is near: then all segments are equal."""
    wanted = math.isqrt(T) if recompute else min(max(8, 256 // B), 128)
    near = sorted(range(wanted - wanted // 2, wanted + wanted // 2 + 1), key=lambda n: abs(n - wanted))
    return next((n for n in near if n > 0 and T % n == 0), max(1, wanted))


def _segments(batch: Batch, segment: int) -> list[Batch]:
    """Cut [T, …] into segments: full ones stacked [n, segment, …], and a shorter last one."""
    T = len(batch.xs)
    full = T - T % segment
    groups = [jax.tree.map(lambda a: a[:full].reshape(-1, segment, *a.shape[1:]), batch)]
    return groups if full == T else [*groups, jax.tree.map(lambda a: a[None, full:], batch)]
