"""Real-time recurrent learning: the influence of every parameter on every state value, carried forward in time."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.checks import check_bool, check_network
from rnn_jax.gradients import influence, segments
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
    reverse of the N unit vectors:

        G += (BPTT of the segment)  +  δs_start M
        M ← J M + Θ

    With ``segment=1`` this is the textbook's rule: O(N² θ), for one layer O(H⁴), a step.  A segment of H steps costs
    O(H³) a step.  The memory is that of M, N θ numbers an example, whatever the length of the sequence.

    The end of a window is a border, too, unless ``online``.  Then inputs, states and residuals of the last steps are
    kept, and δs_start walks back through them before it meets M.  A border comes when the segment is full, so that a
    step costs O(H³) although each is a window.  The gradient is the same while the weights are.  Where they change, the
    steps since the border are walked back through with the new W, whereas the M of borders at each step has seen each.

    Choose it if the gradient of an endless sequence must be exact, or you do not know how far back credit must reach.
    Choose ``online`` if there is an update after every step, or windows are shorter than H.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; by default the H of the largest layer.
      online: keep the steps since the border, masked ones too, so that short windows do not end in one.

    Returns:
      An Algorithm whose carry's memory holds M of each example, in blocks [B, N, …], and with ``online`` the steps
      since the border.

    Raises:
      InputError: when built, an invalid network, segment or option; in ``update``, whatever does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> algorithm = rj.rtrl(network)
      >>> update = jax.jit(algorithm.update)
      >>> carry, early = update(params, algorithm.init(params, 2), rj.Batch(xs=tokens[:3], ys=tokens[1:4]))
      >>> _, late = update(params, carry, rj.Batch(xs=tokens[3:6], ys=tokens[4:]))
      >>> grads = jax.tree.map(lambda a, b: a + b, early.grads, late.grads)
      >>> _, whole = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, rj.Batch(xs=tokens[:-1], ys=tokens[1:]))
      >>> rj.worst(rj.compare(grads, whole))[1] < 1e-5  # two windows add up to the sequence
      True

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
            credited, M = influence.cross(segment, memory.M, segments.flatten_state(delta))
            return add(gradients, segments.as_layers(segment, credited)), Memory(M, None), shared
        M, history = flush_history(segment, memory.M, memory.history)
        earlier, delta = segments.reverse(before(segment, history, length), delta)
        credited = segments.as_layers(segment, influence.credit(M, segments.flatten_state(delta)))
        return add(add(gradients, earlier), credited), Memory(cut(M, segment), append(history, segment)), shared

    return by_segments(network, Rule(init, credit), Exact(across_windows=True), length)


def flush_history(segment: Segment, M: Any, history: History) -> tuple[Any, History]:
    """A border for each example of which the segment would push steps out that count.

    It comes before M is credited: XLA for CPUs would copy M if it were read first.
    """
    past = before(segment, history, history.counts.shape[1])
    full = history.counts[:, : len(segment.delta_hs)].any(axis=1)
    zeros = jnp.zeros(jax.tree.leaves(M)[0].shape[:2], segment.delta_hs.dtype)
    M = lax.cond(full.any(), lambda M: influence.cross(past, M, zeros, full)[1], lambda M: M, M)
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
