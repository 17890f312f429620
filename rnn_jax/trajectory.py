"""The states and residuals of a window, in buffers that are allocated once and written in place."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.types import Array, Cell, Units


class Trajectory(NamedTuple):
    """What a layer's forward pass stores for its reverse pass."""

    ss: Units
    """The states s_0 … s_T, each [T + 1, B, H]; the first one is h."""
    residual: Units
    """The cell's residuals, each [T, B, H]."""


def allocate(cell: Cell, T: int, s0: Units) -> Trajectory:
    """Buffers for T steps from a state like s_0; every entry is written before it is read."""
    like = s0[0]
    inputs = ((like,) * len(cell.gates),) * (2 if cell.separate else 1)
    _, residual = jax.eval_shape(cell.step, s0, *inputs, *(like,) * len(cell.parameters))

    def buffers(T: int, units: Units) -> Units:
        # Distinct fill values, since XLA merges equal buffers, and copies them when they are written.
        return tuple(jnp.full((T, *unit.shape), number, unit.dtype) for number, unit in enumerate(units))

    return Trajectory(buffers(T + 1, s0), buffers(T, residual))


def from_states(s0: Units, ss: Units, residual: Units) -> Trajectory:
    """The trajectory of a window whose states s_1 … s_T and residuals are stacked already."""
    return Trajectory(tuple(jnp.concatenate([first[None], rest]) for first, rest in zip(s0, ss, strict=True)), residual)


def set_initial(trajectory: Trajectory, s0: Units) -> Trajectory:
    """Write s_0."""
    return trajectory._replace(ss=_write(trajectory.ss, s0, 0))


def set_steps(trajectory: Trajectory, t: Array | int, ss: Units, residual: Units) -> Trajectory:
    """Write the states after s_t, of one step [B, H] or of several [n, B, H], and the residuals of these steps."""
    return Trajectory(_write(trajectory.ss, ss, t + 1), _write(trajectory.residual, residual, t))


def state_at(trajectory: Trajectory, t: Array | int) -> Units:
    """s_t, S arrays [B, H]."""
    return _read(trajectory.ss, t)


def residual_at(trajectory: Trajectory, t: Array | int) -> Units:
    """The residual of the step from s_t, each [B, H]."""
    return _read(trajectory.residual, t)


def hidden_states(trajectory: Trajectory, start: Array | int, n: int) -> Array:
    """The hidden states h_start … of n steps, [n, B, H]."""
    return lax.dynamic_slice_in_dim(trajectory.ss[0], start, n, allow_negative_indices=False)


def _read(buffers: Units, t: Array | int) -> Units:
    return tuple(lax.dynamic_index_in_dim(each, t, keepdims=False, allow_negative_indices=False) for each in buffers)


def _write(buffers: Units, blocks: Units, t: Array | int) -> Units:
    return tuple(
        lax.dynamic_update_slice_in_dim(each, block.reshape(-1, *each.shape[1:]), t, 0, allow_negative_indices=False)
        for each, block in zip(buffers, blocks, strict=True)
    )
