"""Rolling truncated BPTT: every few steps, the newest losses walk back over a history of fixed length."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import recurrence, stack, trajectory
from rnn_jax.checks import check_int, check_network, require
from rnn_jax.gradients import segments
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.network import zero_states
from rnn_jax.stack import Trajectories
from rnn_jax.trajectory import Trajectory
from rnn_jax.types import Algorithm, Array, Batch, Biased, Layer, Network, Params


class Memory(NamedTuple):
    """The last h − 1 steps of an example; a step before its last reset does not count, and is all zeros."""

    trajectories: Trajectories
    """Of each layer s_{t−1}, as the step saw it, and the residual, each [B, h − 1, H]."""
    xs: Array
    """Inputs, [B, h − 1, D]; tokens as one-hot rows."""
    counts: Array
    """Whether the step counts, bool [B, h − 1]."""


def truncated(network: Network, history: int = 16, every: int = 8) -> Algorithm:
    """Truncated BPTT(h; h′), rolling: after every h′ steps the losses of these walk back over the last h.  Biased.

    Each loss is credited once, at the next border; borders are after every h′ steps of a window, and at its end.  The
    walk goes back over the last h steps, the current one included, those of earlier windows too::

        δs_t = Σ_i (∂s_i/∂s_t)ᵀ e_i         i: the steps since the last border
        G += Σ_t (∂s_t/∂θ)ᵀ δs_t             t: the last h steps

    So a loss reaches h − h′ + 1 … h steps.  Exact where h is the length of the sequence; (1, 1) is ``immediate``, and
    h = h′ is BPTT by windows of h steps.  Choose it for training online, where windows are shorter than what must be
    remembered.  The reverse takes h / h′ times that of ``bptt``, O(H²) a step.  The memory is the states and inputs of
    h − 1 steps an example, whatever the length of the sequence; a token takes D numbers, as many as the vocabulary.
    States from earlier windows are used as they were, by the weights of that time.

    Args:
      network: what to differentiate.
      history: h, the number of steps to walk back over.
      every: h′, after how many steps; h at most.

    Raises:
      InputError: when built, a network or numbers that cannot be served; in ``update``, whatever does not fit it.

    Source: Williams & Peng, *An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories*, Neural Computation 2 (1990).
    """
    check_network(network)
    check_int(history, "history")
    check_int(every, "every")
    require(every <= history, "every", every, f"history, {history}, at most")

    def init(params: Params, keys: Array) -> Any:
        B, length, dtype = len(keys), history - 1, params.V.dtype
        if not length:
            return ()
        state = zero_states(network, B, dtype)
        layers = zip(network.cells, state, strict=True)
        like = tuple(jax.eval_shape(partial(trajectory.allocate, cell, length - 1), s0) for cell, s0 in layers)

        def zeros(tree: Any) -> Any:
            return jax.tree.map(lambda a: jnp.zeros((B, length, *a.shape[2:]), a.dtype), tree)

        return Memory(zeros(like), jnp.zeros((B, length, network.inputs), dtype), jnp.zeros((B, length), bool))

    def credit(segment: Segment, memory: Any, shared: Any) -> tuple[tuple[Layer, ...], Any, Any]:
        gradients, delta_start = segments.reverse(segment)
        if not memory:
            return gradients, memory, shared
        n = len(segment.delta_hs)
        if n < history:
            trajectories, steps = before(segment, memory, history - n)
            zeros = jnp.zeros((history - n, *segment.delta_hs.shape[1:]), segment.delta_hs.dtype)
            earlier, _ = stack.reverse(segment.layers, trajectories, 0, steps, zeros, delta_start)
            gradients = jax.tree.map(jnp.add, gradients, earlier)
        return gradients, append(memory, segment), shared

    claim = Biased(partial(whole_history, every=every), "a history as long as the sequence", across_windows=True)
    return by_segments(network, Rule(init, credit), claim, every)


def before(segment: Segment, memory: Memory, n: int) -> tuple[Trajectories, Batch]:
    """The n steps before the segment, time first; nobody looks at their targets."""
    past, xs, counts = jax.tree.map(lambda a: jnp.moveaxis(a[:, -n:], 1, 0), memory)
    trajectories = tuple(
        Trajectory(tuple(jnp.concatenate([ss, s[:1]]) for ss, s in zip(old.ss, new.ss, strict=True)), old.residual)
        for old, new in zip(past, segment.trajectories, strict=True)
    )
    if jnp.issubdtype(segment.steps.xs.dtype, jnp.integer):
        xs = xs.argmax(axis=-1).astype(segment.steps.xs.dtype)
    return trajectories, Batch(xs, xs, counts)


def append(memory: Memory, segment: Segment) -> Memory:
    """The last steps, those of the segment included, without those from before a reset."""
    steps, (n, B) = segment.steps, segment.delta_hs.shape[:2]
    counts = jnp.ones((n, B), bool) if steps.mask is None else steps.mask
    xs = recurrence.zero_unless(steps.mask, steps.xs)
    if jnp.issubdtype(xs.dtype, jnp.integer):
        xs = jax.nn.one_hot(xs, memory.xs.shape[-1], dtype=memory.xs.dtype)
    reset = None if steps.reset is None else steps.reset & counts
    seen = tuple(
        Trajectory(
            recurrence.zero_where(reset, tuple(ss[:-1] for ss in each.ss)),
            tuple(recurrence.zero_unless(steps.mask, residual) for residual in each.residual),
        )
        for each in segment.trajectories
    )
    new = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), Memory(seen, xs, counts))
    length = memory.counts.shape[1]
    memory = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1)[:, -length:], memory, new)
    if reset is None:
        return memory
    stretch = jnp.moveaxis(segments.stretches(steps), 0, 1)
    lasts = jnp.concatenate([jnp.zeros((B, length), jnp.int32), stretch], axis=1)[:, -length:] == stretch[:, -1:]

    def since_reset(a: Array) -> Array:
        return jnp.where(lasts.reshape(*lasts.shape, *(1,) * (a.ndim - 2)), a, jnp.zeros_like(a))

    return Memory(*jax.tree.map(since_reset, tuple(memory)))


def whole_history(network: Network, params: Params, batch: Batch, every: int) -> tuple[dict[str, Any], Params, Batch]:
    """All steps."""
    return {"history": max(len(batch.xs), every), "every": every}, params, batch
