"""The influence M = ∂s/∂θ [N, θ] of all parameters on all state values, and how it crosses the border of a segment.

Each matrix of parameters has its share of M, [B, N, m, G·H], in the matrix's own order, as ``segments.Blocks`` have it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import ops
from rnn_jax.gradients import segments
from rnn_jax.gradients.segments import Blocks, Segment
from rnn_jax.types import Array


def cross(segment: Segment, M: Any, delta: Array, crosses: Array | None = None) -> tuple[Any, Any]:
    """A border: ``(δs_start M, summed over the batch; J M + Θ of each example)``.

    M is passed over once, one example after another and some rows of the parameters after others, so that what is read
    is still in cache when it is written, in place.

    Args:
      crosses: the examples whose M changes, bool [B]; None: all.
    """
    B, N = delta.shape
    arrays = segments.example(segment)
    zeros = jax.tree.map(lambda m: jnp.zeros(m.shape[2:], m.dtype), M)

    def of_example(b: Array, carried: Any) -> Any:
        one = segments.of_example(segment, _at(arrays, b))
        unit_vectors = segments.unflatten_state(one, jnp.eye(N, dtype=delta.dtype))
        adjoints, start = segments.pull(one, unit_vectors)
        J = segments.flatten_state(start)  # J[n] = ∂s_n/∂s_start, since row n is the reverse of unit vector n
        if crosses is not None:
            J = jnp.where(crosses[b], J, jnp.eye(N, dtype=J.dtype))
            adjoints = jax.tree.map(lambda a: jnp.where(crosses[b], a, 0), adjoints)
        J_delta = jnp.concatenate([J, delta[b][None]])
        both: list[Any] = []
        end = 0
        for level, (credited, M) in enumerate(zip(*carried, strict=True)):
            adjoint, (features, hs) = adjoints[level], segments.features(one, level)
            own = np.arange(end, end + len(adjoint.delta_s_prev) * hs.shape[-1]).reshape(-1, hs.shape[-1])
            end += own.size
            each = zip(credited.matrices, M.matrices, adjoint.deltas, features, strict=False)
            matrices = [cross_rows(b, J_delta, *arguments, own) for arguments in each]
            added = segments.layer_blocks(one, level, (), hs, adjoint).units
            units = [
                (total + delta[b] @ m[b], m.at[b].set(J @ m[b] + new))
                for total, m, new in zip(credited.units, M.units, added, strict=True)
            ]
            both.append(tuple(Blocks(*(tuple(pair[k] for pair in kind) for kind in (matrices, units))) for k in (0, 1)))
        return tuple(zip(*both, strict=True))

    credited, M = lax.fori_loop(0, B, of_example, (zeros, M))
    return credited, M


def cross_rows(
    b: Array, J_delta: Array, credited: Array, M: Array, deltas: Array, features: Array, own: np.ndarray
) -> tuple[Array, Array]:
    """``cross`` for one matrix of parameters of example b: credited [m, g], M [B, N, m, g], deltas [n, N, g].

    Args:
      own: which of the N state values are those of the matrix's layer, [S, H].  Within one step a parameter moves, of
        these, its unit's alone; and the layers above.
    """
    n, (_, N, m, g) = len(deltas), M.shape
    count, dense = rows_at_once(N, g, M.dtype.itemsize), own.max() + 1 if n == 1 else 0

    def of_rows(i: Array | int, carried: tuple[Array, Array], count: int = count) -> tuple[Array, Array]:
        credited, M = carried
        old = lax.dynamic_slice(M, (b, 0, i, 0), (1, N, count, g)).reshape(N, count * g)
        product = (J_delta @ old).reshape(N + 1, count, g)
        theta = segments.outer(deltas[:, dense:], lax.dynamic_slice_in_dim(features, i, count, axis=2))
        new = jnp.concatenate([product[:dense], product[dense:N] + theta])
        share = lax.dynamic_slice_in_dim(credited, i, count) + product[N]
        credited = lax.dynamic_update_slice_in_dim(credited, share, i, 0)
        return credited, lax.dynamic_update_slice(M, new[None], (b, 0, i, 0))

    carried = credited, M
    if count < m:
        carried = lax.fori_loop(0, m // count, lambda k, carried: of_rows(k * count, carried), carried)
    if rest := m % count if count < m else m:
        carried = of_rows(m - rest, carried, rest)
    credited, M = carried
    if n == 1:
        gates = np.arange(g).reshape(-1, own.shape[1])
        rows, columns = (a.ravel() for a in np.broadcast_arrays(own[:, None], gates[None]))
        M = M.at[b, rows, :, columns].add(deltas[0, rows, columns][:, None] * features[0], unique_indices=True)
    return credited, M


def rows_at_once(N: int, g: int, itemsize: int) -> int:
    """Rows of a matrix of parameters whose share of M, [N, rows, g], and the new one fill a core's cache twice."""
    return max(1, 2 * ops.CACHE // (N * g * itemsize))


def credit(M: Any, delta: Array) -> Any:
    """δs_start M, summed over the batch: one product of all rows."""
    return jax.tree.map(lambda m: (delta.reshape(-1) @ m.reshape(delta.size, -1)).reshape(m.shape[2:]), M)


def _at(tree: Any, b: Array) -> Any:
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, b, keepdims=False), tree)
