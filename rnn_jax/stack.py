"""The recurrent layers of a network, one above the other, over the steps of a segment: forward, and reverse.

The hidden states of a layer are the inputs of the next one, so going back δh of a layer is δu Uᵀ of the one above it,
derivation (17).
"""

import jax

from rnn_jax import recurrence, trajectory
from rnn_jax.trajectory import Trajectory
from rnn_jax.types import Array, Batch, Cell, Layer, Network, Params, State

Stack = tuple[tuple[Cell, Layer, Array | None], ...]
"""The layers, the lowest first, ready to be run: each with its cell, its parameters and Wᵀ."""
Trajectories = tuple[Trajectory, ...]
"""One for each layer."""


def prepare(network: Network, params: Params) -> Stack:
    """The layers of a network, with what is computed once, outside of all loops."""
    layers = zip(network.cells, params.layers, strict=True)
    return tuple((cell, layer, recurrence.transposed(cell, layer)) for cell, layer in layers)


def forward(
    network: Network, params: Params, state: State, xs: Array, mask: Array | None = None, reset: Array | None = None
) -> tuple[Array, State]:
    """Run all layers over a window, in plain JAX: the highest one's hidden states [T, B, H], and the state after."""
    after = []
    for cell, layer, s0 in zip(network.cells, params.layers, state, strict=True):
        s_T, (xs, *_), _ = recurrence.forward(cell, layer, xs, s0, mask, reset)
        after.append(s_T)
    return xs, tuple(after)


def allocate(stack: Stack, T: int, state: State) -> Trajectories:
    """Buffers for T steps of each layer, with the state in the first place."""
    return tuple(
        trajectory.set_initial(trajectory.allocate(cell, T, s0), s0)
        for (cell, _, _), s0 in zip(stack, state, strict=True)
    )


def set_initial(trajectories: Trajectories, state: State) -> Trajectories:
    """Write the state into the first place of each layer's buffers."""
    return tuple(trajectory.set_initial(each, s0) for each, s0 in zip(trajectories, state, strict=True))


def state_at(trajectories: Trajectories, t: Array | int) -> State:
    """The state s_t of each layer."""
    return tuple(trajectory.state_at(each, t) for each in trajectories)


def forward_in_place(stack: Stack, trajectories: Trajectories, start: Array | int, segment: Batch) -> Trajectories:
    """Run all layers over a segment, from their states at ``start``, and write what they leave behind it."""
    xs = segment.xs
    after: list[Trajectory] = []
    for layer, each in zip(stack, trajectories, strict=True):
        after.append(recurrence.forward_in_place(*layer, xs, each, start, segment.mask, segment.reset))
        xs = trajectory.hidden_states(after[-1], start + 1, len(xs))
    return tuple(after)


def reverse(
    stack: Stack, trajectories: Trajectories, start: Array | int, segment: Batch, delta_hs: Array, delta_state: State
) -> tuple[tuple[Layer, ...], State]:
    """Run all layers back over a segment, from the top down: ``(gradients, delta_state at its start)``.

    Args:
      delta_hs: ∂L/∂h_t of the highest layer through the readout, [n, B, H].
      delta_state: ∂L/∂(state at the segment's end), per layer.
    """
    n, gradients, delta_starts = len(segment.xs), [], []
    for level in reversed(range(len(stack))):
        cell, layer, W_T = stack[level]
        xs = trajectory.hidden_states(trajectories[level - 1], start + 1, n) if level else segment.xs
        each = trajectories[level], start, delta_hs, delta_state[level]
        gradient, delta_us, delta_s0 = recurrence.reverse(cell, layer, W_T, xs, *each, segment.mask, segment.reset)
        delta_hs = delta_us @ layer.U.T
        gradients.append(gradient)
        delta_starts.append(delta_s0)
    return tuple(reversed(gradients)), tuple(reversed(delta_starts))


def segments(batch: Batch, length: int) -> list[Batch]:
    """Cut [T, …] into segments: full ones stacked [count, length, …], and a shorter last one."""
    T = len(batch.xs)
    full = T - T % length
    groups = [jax.tree.map(lambda a: a[:full].reshape(-1, length, *a.shape[1:]), batch)]
    return groups if full == T else [*groups, jax.tree.map(lambda a: a[None, full:], batch)]
