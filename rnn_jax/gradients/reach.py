"""The influence of each unit's parameters on the units within its reach, and on no other: what SnAp-n carries.

R_j are the units that unit j reaches in fewer than n steps through the weights that a pattern allows.  M_j = ∂s/∂θ_j is
carried for all state values of R_j and for no others, so its Jacobian is that of R_j alone, J_j = J[R_j, R_j].  Step by
step M_j ← J_j M_j + ∂s_t/∂θ_j.  The same numbers come by segments: for each j the hand-written reverse runs with
W[R_j, R_j], from the errors of R_j and from the unit vectors of its state at the end::

    G_j += (the reverse of the errors, at unit j) + δs_start M_j        M_j ← J_j M_j + Θ_j
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import recurrence
from rnn_jax.gradients import segments
from rnn_jax.gradients.segments import Blocks, Segment
from rnn_jax.precision import accumulation_dtype
from rnn_jax.types import Array, Cell, Layer


class Reach(NamedTuple):
    """The units within reach of each unit, on the host."""

    units: np.ndarray
    """int [H, r]: unit j itself, the others, and j again where there are fewer than r."""
    within: np.ndarray
    """bool [H, r]: False for what only fills the row."""


def reach_of(pattern: np.ndarray, n: int) -> Reach:
    """What each unit reaches in fewer than n steps; ``pattern[i, j]``: whether unit j reads unit i."""
    reached = step = np.eye(len(pattern), dtype=bool)
    for _ in range(min(n, len(pattern)) - 1):
        step = step @ pattern
        reached = reached | step
    r = int(reached.sum(axis=1).max())
    units, within = np.zeros((len(pattern), r), int), np.zeros((len(pattern), r), bool)
    for j, row in enumerate(reached):
        listed = [j, *(k for k in np.flatnonzero(row) if k != j)]
        units[j] = listed + [j] * (r - len(listed))
        within[j, : len(listed)] = True
    return Reach(units, within)


def init(cell: Cell, zeros: Blocks, reach: Reach) -> Blocks:
    """The influences of B fresh examples, [B, H, S·r, G, features] and [B, H, S·r]; ``zeros``: of the layer, [B, …]."""
    (H, r), B = reach.units.shape, len(zeros.matrices[0])
    leading = (B, H, len(cell.states) * r)
    return Blocks(
        tuple(jnp.zeros((*leading, len(cell.gates), a.shape[-2]), a.dtype) for a in zeros.matrices),
        tuple(jnp.zeros(leading, a.dtype) for a in zeros.units),
    )


def credit(
    segment: Segment, level: int, memory: Blocks, error: Array | None, delta_start: Array | None, reach: Reach
) -> tuple[Layer, Blocks]:
    """The gradient of a layer, summed over the batch, and the influences after the segment.

    Args:
      error: ∂ℓ_t/∂h_t of each step, [n, B, H], which walks back through W[R_j, R_j]; None: zero.
      delta_start: what is credited to the influences besides, [B, S, H]; None: zero.
    """
    cell, layer, _ = segment.layers[level]
    hs = segment.trajectories[level].ss[0]
    dtype, wide = hs.dtype, accumulation_dtype(hs.dtype)
    n, B, H = len(segment.delta_hs), *hs.shape[1:]
    error = jnp.zeros((n, B, H), dtype) if error is None else error
    delta_start = jnp.zeros((B, len(cell.states), H), dtype) if delta_start is None else delta_start

    def of_example(total: Blocks, inputs: Any) -> tuple[Blocks, Blocks]:
        arrays, before, error, delta = inputs
        one = segments.of_example(segment, arrays)
        features = tuple(each[:, 0] for each in segments.features(one, level)[0])

        def of_unit(units: Array, within: Array, M: Blocks) -> tuple[Blocks, Blocks]:
            adjoint, J = _walk_back(one, level, error, units, within)
            theta = _of_first_unit(cell, adjoint, features)
            share = J.at[0].add(delta[:, units].reshape(-1))

            def advanced(m: Array, new: Array) -> Array:
                moved = share.astype(wide) @ m.reshape(len(m), -1).astype(wide)
                return moved.reshape(len(share), *m.shape[1:]) + new

            after = jax.tree.map(advanced, M, theta)
            return jax.tree.map(lambda a: a[0], after), jax.tree.map(lambda a, m: a[1:].astype(m.dtype), after, M)

        credited, after = jax.vmap(of_unit)(jnp.asarray(reach.units), jnp.asarray(reach.within), before)
        return jax.tree.map(jnp.add, total, credited), after

    zeros = jax.tree.map(lambda m: jnp.zeros((m.shape[1], *m.shape[3:]), wide), memory)
    errors = jnp.moveaxis(error, 1, 0)
    credited, memory = lax.scan(of_example, zeros, (segments.example(segment), memory, errors, delta_start))
    matrices = tuple(a.transpose(2, 1, 0).reshape(a.shape[2], -1) for a in credited.matrices)
    return segments.as_layer(cell, layer, Blocks(matrices, credited.units)), memory


def _walk_back(
    one: Segment, level: int, error: Array, units: Array, within: Array
) -> tuple[recurrence.StepAdjoint, Array]:
    """The reverse of one example through these units alone: row 0 of the errors, the others of a state value each.

    Returns:
      The adjoint of every step, and δs at the start, [1 + S·r, S·r].
    """
    cell, layer, _ = one.layers[level]
    assert layer.W is not None
    H, r, S = len(layer.W), len(units), len(cell.states)
    kept = within.astype(error.dtype)
    W = layer.W.reshape(H, -1, H)[units][:, :, units] * (kept[:, None, None] * kept[None, None])
    W = W.reshape(r, -1)
    among = layer._replace(W=W, p=tuple(p[units] for p in layer.p))
    trajectory = jax.tree.map(lambda a: a[..., units], one.trajectories[level])
    unit_vectors = jnp.eye(S * r, dtype=error.dtype).reshape(S * r, S, r) * kept[None, None]
    ends = jnp.concatenate([jnp.zeros((1, S, r), error.dtype), unit_vectors])
    errors = jnp.zeros((len(error), 1 + S * r, r), error.dtype).at[:, 0].set(error[:, units] * kept[None])
    end = tuple(ends[:, k] for k in range(S))
    flags = one.steps.mask, one.steps.reset
    adjoint = recurrence.reverse_states(cell, among, W.T, trajectory, 0, errors, end, *flags)
    return adjoint, jnp.stack(adjoint.delta_s_prev, axis=1).reshape(1 + S * r, S * r)


def _of_first_unit(cell: Cell, adjoint: recurrence.StepAdjoint, features: tuple[Array, ...]) -> Blocks:
    """Of the first unit's parameters, the sums over the steps of δ times features, [1 + S·r, G, features]."""
    G = len(cell.gates)
    wide = accumulation_dtype(features[0].dtype)
    deltas = tuple(delta.reshape(*delta.shape[:2], G, -1)[..., 0] for delta in adjoint.deltas)
    matrices = tuple(
        jnp.einsum("nrg,nm->rgm", delta, each, preferred_element_type=wide)
        for delta, each in zip(deltas, features, strict=False)
    )
    return Blocks(matrices, tuple(delta[..., 0].sum(axis=0, dtype=wide) for delta in adjoint.delta_p))
