"""Back-propagation through time, by hand."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import network as net
from rnn_jax import ops, stack
from rnn_jax.checks import check_bool, check_init, check_int, check_network, check_update
from rnn_jax.losses import total_weight, weighted_errors, weighted_losses
from rnn_jax.precision import accumulation_dtype
from rnn_jax.stack import Stack, Trajectories
from rnn_jax.trajectory import hidden_states
from rnn_jax.types import Algorithm, Array, Batch, Carry, Estimate, Network, Params, State


class Adjoints(NamedTuple):
    """What the reverse pass carries from a segment to the segment before it."""

    delta_state: State
    """∂L/∂(state at the segment's end)."""
    losses: Array
    """The loss of each example, [B]; like the gradients, the sum over the segments seen so far, in float32 at least."""
    grads: Params


def bptt(network: Network, segment: int | None = None, recompute: bool = False) -> Algorithm:
    """Back-propagation through time, written by hand.  Exact: equal to ``autodiff`` up to rounding.

    The window is cut into segments.  The forward pass stores the states of every segment.  The reverse pass goes from
    the last segment to the first, and finishes each while its arrays are in cache.  It is derivation (3), (7) to (9)
    and (17):

        o_t = h_t V + c                   δo_t = ∂ℓ(o_t)/∂o_t
        δh_t = δo_t Vᵀ (+ the recurrent share, walking back)
        dV += Σ h_tᵀ δo_t    dc += Σ δo_t    and dU, dW, db (dd) of each layer from the top down

    Choose it for training: it is the exact gradient of each window.  An example costs O(H²) time a step and O(T·H)
    memory in all.  Over windows with carried state this is truncated BPTT, derivation (16): the state enters the next
    window as a constant.

    Choose ``recompute`` (gradient checkpointing) where a long window does not fit in memory.  It stores only the states
    at the segments' borders, and runs each segment forward again before its reverse.  That takes a third more products
    and O(√T·H) memory at segments of √T.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; one longer than the window is the window.  The default is about 256 / B
        steps (B of one device), between 8 and 128.  Such a segment stays in cache, and its products are large.  With
        ``recompute`` it is √T.
      recompute: True: trade time for memory.  With a single segment it costs time and saves nothing.

    Returns:
      An Algorithm whose carry is the recurrent state alone.

    Raises:
      InputError: when built, an invalid network, segment or option; in ``update``, whatever does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> loss, grads = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
      >>> loss.shape, grads.layers[0].W.shape
      ((), (3, 3))

    Source: Werbos, *Backpropagation through time: what it does and how to do it*, Proceedings of the IEEE 78 (1990).
    Recomputation is Chen et al., *Training deep nets with sublinear memory cost*, arXiv:1604.06174 (2016).
    """
    check_network(network)
    if segment is not None:
        check_int(segment, "segment")
    check_bool(recompute, "recompute")

    def init(params: Params, batch_size: int, key: Array | None = None) -> Carry:
        check_init(network, params, batch_size)
        return Carry(net.zero_states(network, batch_size, params.V.dtype))

    def update(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]:
        check_update(network, params, carry, batch)
        T, B = batch.xs.shape[:2]
        layers = stack.prepare(network, params)
        groups = stack.segments(batch, min(segment or default_segment(T, B, recompute), T))
        end, trajectories, starts = forward(layers, carry.recurrent, groups, recompute)
        state_T = stack.state_at(trajectories, end)

        def reverse(carry: Any, inputs: tuple[Batch, State | None]) -> tuple[Any, None]:
            (end, trajectories, adjoints), (steps, state) = carry, inputs
            start = end if state is not None else end - len(steps.xs)
            if state is not None:
                trajectories = stack.forward_in_place(layers, stack.set_initial(trajectories, state), start, steps)
            adjoints = segment_adjoints(network, params, layers, trajectories, start, steps, adjoints)
            return (start, trajectories, adjoints), None

        after: Any = (end, trajectories, zero_adjoints(params, state_T))
        for inputs in reversed(list(zip(groups, starts, strict=True))):
            after, _ = lax.scan(reverse, after, inputs, reverse=True)
        *_, adjoints = after
        grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), adjoints.grads, params)
        return Carry(state_T), Estimate(adjoints.losses.sum(), grads, total_weight(batch))

    return Algorithm(init, update)


def forward(
    layers: Stack, recurrent: State, groups: list[Batch], recompute: bool
) -> tuple[Array | int, Trajectories, list[State | None]]:
    """Run the layers over groups of segments: ``(end, trajectories, starts)``.

    ``end`` is where in the trajectories the last state is.  With ``recompute`` each segment overwrites the one before
    it, and ``starts`` holds, for each group, the states at the beginning of its segments.
    """
    count = [len(group.xs) * group.xs.shape[1] for group in groups]

    def advance(carry: Any, segment: Batch) -> tuple[Any, State | None]:
        (start, before), n = carry, len(segment.xs)
        after = stack.forward_in_place(layers, before, start, segment)
        if recompute:
            return (start, stack.set_initial(after, stack.state_at(after, n))), stack.state_at(before, start)
        return (start + n, after), None

    carry: Any = (0, stack.allocate(layers, groups[0].xs.shape[1] if recompute else sum(count), recurrent))
    starts = []
    for group in groups:
        carry, states = lax.scan(advance, carry, group)
        starts.append(states)
    return *carry, starts


def zero_adjoints(params: Params, state_T: State) -> Adjoints:
    """Zero adjoints: the state after the window has no share in the window's loss."""
    sums = accumulation_dtype(params.V.dtype)
    grads = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, sums), params)
    return Adjoints(jax.tree.map(jnp.zeros_like, state_T), jnp.zeros(len(state_T[0][0]), sums), grads)


def segment_adjoints(
    network: Network,
    params: Params,
    layers: Stack,
    trajectories: Trajectories,
    start: Array | int,
    segment: Batch,
    after: Adjoints,
) -> Adjoints:
    """Readout, error, reverse and gradients of one segment, added to those of the segments after it."""
    n, B = segment.xs.shape[:2]
    rows = hidden_states(trajectories[-1], start + 1, n), (segment.ys, segment.mask, segment.weight)
    # Steps and batch on one axis, since XLA computes δo a second time otherwise.
    hs, targets = jax.tree.map(lambda a: a.reshape(n * B, *a.shape[2:]), rows)
    os = ops.affine(hs, params.V, params.c)
    losses = weighted_losses(network.loss, os, *targets).reshape(n, B).sum(axis=0)
    delta_os = weighted_errors(network.loss, os, *targets)
    delta_hs = (delta_os @ params.V.T).reshape(n, B, -1)
    gradients, delta_state = stack.reverse(layers, trajectories, start, segment, delta_hs, after.delta_state)
    grads = Params(gradients, ops.sum_outer_products(hs, delta_os), ops.sum_rows(delta_os))
    losses, grads = jax.tree.map(jnp.add, (after.losses, after.grads), (losses, grads))
    return Adjoints(delta_state, losses, grads)


def default_segment(T: int, B: int, recompute: bool) -> int:
    """About 256 rows in 8 … 128 steps, or √T; a divisor of T where one is near: then all segments are equal."""
    wanted = math.isqrt(T) if recompute else min(max(8, 256 // B), 128)
    near = sorted(range(wanted - wanted // 2, wanted + wanted // 2 + 1), key=lambda n: abs(n - wanted))
    return next((n for n in near if n > 0 and T % n == 0), max(1, wanted))
