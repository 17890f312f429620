"""Real-time recurrent learning: the influence of every parameter on every state value, carried forward in time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import ops
from rnn_jax.checks import check_bool, check_network
from rnn_jax.gradients import segments
from rnn_jax.gradients.history import History, append, before, empty
from rnn_jax.gradients.segments import Blocks, Rule, Segment, by_segments
from rnn_jax.network import zero_states
from rnn_jax.types import Algorithm, Array, Exact, Layer, Network, Params


class Memory(NamedTuple):
    """What crosses a border, and with ``online`` the steps since."""

    M: tuple[Blocks, ...]
    """∂s/∂θ, blocks [B, N, …] of each layer."""
    history: History | None


def rtrl(network: Network, segment: int | None = None, online: bool = False) -> Algorithm:
    """Real-time recurrent learning by segments.  Exact across windows of any lengths, for every cell and depth.

    M = ∂s/∂θ [N, θ] of the N state values of all layers crosses the border of two segments; inside of a segment the
    hand-written reverse does the work.  With J = ∂s_end/∂s_start and Θ = ∂s_end/∂θ of the segment, which are the
    reverse of the N unit vectors::

        G += (BPTT of the segment)  +  δs_start M
        M ← J M + Θ

    With ``segment=1`` this is the textbook's rule: O(N² θ), for one layer O(H⁴), a step.  A segment of H steps costs
    O(H³) a step.  The memory is that of M, N θ numbers an example, whatever the length of the sequence.

    The end of a window is a border, too, unless ``online``.  Then inputs, states and residuals of the last steps are
    kept, and δs_start walks back through them before it meets M.  A border comes when the segment is full, so that a
    step costs O(H³) although each is a window.  The gradient is the same while the weights are.  Where they change, the
    steps since the border are walked back through with the new W, whereas the M of borders at each step has seen each.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; by default the H of the largest layer.
      online: keep the steps since the border, so that windows shorter than a segment have none at their end.

    Raises:
      InputError: when built, a network or a segment that cannot be served; in ``update``, whatever does not fit it.

    Source: Williams & Zipser, *A learning algorithm for continually running fully recurrent neural networks*, Neural
    Computation 1 (1989); by segments: Schmidhuber, *A fixed size storage O(n³) time complexity learning algorithm for
    fully recurrent continually running networks*, Neural Computation 4 (1992).
    """
    check_network(network)
    check_bool(online, "online")
    length = longest(network) if segment is None else segment

    def init(params: Params, keys: Array) -> Memory:
        state = zero_states(network, len(keys), params.V.dtype)
        M = segments.zero_blocks(network, params, segments.flatten_state(state).shape)
        return Memory(M, empty(network, params, len(keys), length) if online else None)

    def credit(segment: Segment, memory: Memory, shared: Any) -> tuple[tuple[Layer, ...], Memory, Any]:
        gradients, delta = segments.reverse(segment)
        if memory.history is None:
            credited, M = cross(segment, memory.M, segments.flatten_state(delta))
            return add(gradients, segments.as_layers(segment, credited)), Memory(M, None), shared
        M, history = make_room(segment, memory.M, memory.history)
        earlier, delta = segments.reverse(before(segment, history, length), delta)
        credited = segments.as_layers(segment, credit_only(M, segments.flatten_state(delta)))
        return add(add(gradients, earlier), credited), Memory(cut(M, segment), append(history, segment)), shared

    return by_segments(network, Rule(init, credit), Exact(across_windows=True), length)


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
        for level, (credited, influence) in enumerate(zip(*carried, strict=True)):
            adjoint, (features, hs) = adjoints[level], segments.features(one, level)
            own = np.arange(end, end + len(adjoint.delta_s_prev) * hs.shape[-1]).reshape(-1, hs.shape[-1])
            end += own.size
            each = zip(credited.matrices, influence.matrices, adjoint.deltas, features, strict=False)
            matrices = [cross_rows(b, J_delta, *arguments, own) for arguments in each]
            added = segments.layer_blocks(one, level, (), hs, adjoint).units
            units = [
                (total + delta[b] @ m[b], m.at[b].set(J @ m[b] + new))
                for total, m, new in zip(credited.units, influence.units, added, strict=True)
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


def credit_only(M: Any, delta: Array) -> Any:
    """δs_start M, summed over the batch: one product of all rows."""
    return jax.tree.map(lambda m: (delta.reshape(-1) @ m.reshape(delta.size, -1)).reshape(m.shape[2:]), M)


def make_room(segment: Segment, M: Any, history: History) -> tuple[Any, History]:
    """A border for each example of which the segment would push steps out that count.

    It comes before M is credited: XLA for CPUs would copy M if it were read first.
    """
    past = before(segment, history, history.counts.shape[1])
    full = history.counts[:, : len(segment.delta_hs)].any(axis=1)
    zeros = jnp.zeros(jax.tree.leaves(M)[0].shape[:2], segment.delta_hs.dtype)
    M = lax.cond(full.any(), lambda M: cross(past, M, zeros, full)[1], lambda M: M, M)
    return M, history._replace(counts=history.counts & ~full[:, None])


def add(gradients: tuple[Layer, ...], others: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The sum, in the dtype of the first."""
    total: tuple[Layer, ...] = jax.tree.map(lambda g, other: g + other.astype(g.dtype), gradients, others)
    return total


def cut(M: Any, segment: Segment) -> Any:
    """M is 0 after a reset."""
    if segment.steps.reset is None:
        return M
    return segments.where_rows(segments.stretches(segment.steps)[-1] == 0, M, jax.tree.map(jnp.zeros_like, M))


def longest(network: Network) -> int:
    """H of the largest layer."""
    return network.hidden if isinstance(network.hidden, int) else max(network.hidden)


def _at(tree: Any, b: Array) -> Any:
    return jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, b, keepdims=False), tree)
