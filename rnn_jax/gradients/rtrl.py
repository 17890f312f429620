"""Real-time recurrent learning: the influence of every parameter on every state value, carried forward in time."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.checks import check_network
from rnn_jax.gradients import segments
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.network import zero_states
from rnn_jax.types import Algorithm, Array, Exact, Layer, Network, Params


def rtrl(network: Network, segment: int | None = None) -> Algorithm:
    """Real-time recurrent learning by segments.  Exact across windows of any lengths, for every cell and depth.

    M = ∂s/∂θ [N, θ] of the N state values of all layers crosses the border of two segments; inside of a segment the
    hand-written reverse does the work.  With J = ∂s_end/∂s_start and Θ = ∂s_end/∂θ of the segment, which are the
    reverse of the N unit vectors::

        G += (BPTT of the segment)  +  δs_start M
        M ← J M + Θ

    With ``segment=1`` this is the textbook's rule: O(N² θ), for one layer O(H⁴), a step.  A segment of H steps costs
    O(H³) a step.  The memory is that of M, N θ numbers an example, whatever the length of the sequence.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; by default the H of the largest layer.

    Raises:
      InputError: when built, a network or a segment that cannot be served; in ``update``, whatever does not fit it.

    Source: Williams & Zipser, *A learning algorithm for continually running fully recurrent neural networks*, Neural
    Computation 1 (1989); by segments: Schmidhuber, *A fixed size storage O(n³) time complexity learning algorithm for
    fully recurrent continually running networks*, Neural Computation 4 (1992).
    """
    check_network(network)

    def init(params: Params, keys: Array) -> Any:
        state = zero_states(network, len(keys), params.V.dtype)
        return segments.zero_blocks(network, params, segments.flatten_state(state).shape)

    def credit(segment: Segment, M: Any, shared: Any) -> tuple[tuple[Layer, ...], Any, Any]:
        gradients, delta_state = segments.reverse(segment)
        delta_start = segments.flatten_state(delta_state)
        N = delta_start.shape[1]

        def of_example(total: Any, inputs: Any) -> tuple[Any, Any]:
            arrays, M, delta = inputs
            one = segments.of_example(segment, arrays)
            unit_vectors = segments.unflatten_state(one, jnp.eye(N, dtype=delta.dtype))
            adjoints, start = segments.pull(one, unit_vectors)
            J = segments.flatten_state(start)  # J[n] = ∂s_n/∂s_start, since row n is the reverse of unit vector n
            theta = segments.blocks(one, adjoints)
            total = jax.tree.map(lambda a, m: a + (delta @ m.reshape(N, -1)).reshape(m.shape[1:]), total, M)
            M = jax.tree.map(lambda m, new: (J @ m.reshape(N, -1)).reshape(m.shape) + new, M, theta)
            return total, M

        zeros = jax.tree.map(lambda m: jnp.zeros(m.shape[2:], m.dtype), M)
        credited, M = lax.scan(of_example, zeros, (segments.example(segment), M, delta_start))
        credited = segments.as_layers(segment, credited)
        return jax.tree.map(lambda g, c: g + c.astype(g.dtype), gradients, credited), M, shared

    return by_segments(
        network, Rule(init, credit), Exact(across_windows=True), longest(network) if segment is None else segment
    )


def longest(network: Network) -> int:
    """H of the largest layer."""
    return network.hidden if isinstance(network.hidden, int) else max(network.hidden)
