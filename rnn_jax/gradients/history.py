"""The last steps of every example, kept across windows, for rules that walk back further than the window reaches."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rnn_jax import recurrence, trajectory
from rnn_jax.gradients import segments
from rnn_jax.gradients.segments import Segment
from rnn_jax.network import zero_states
from rnn_jax.stack import Trajectories
from rnn_jax.trajectory import Trajectory
from rnn_jax.types import Array, Batch, Network, Params


class History(NamedTuple):
    """The last steps of an example; a step before its last reset does not count, and is all zeros."""

    trajectories: Trajectories
    """Of each layer s_{t−1}, as the step saw it, and the residual, each [B, length, H]."""
    xs: Array
    """Inputs, [B, length, D]; tokens as one-hot rows."""
    counts: Array
    """Whether the step counts, bool [B, length]."""


def empty(network: Network, params: Params, B: int, length: int) -> History:
    """No steps yet, and room for ``length``."""
    state = zero_states(network, B, params.V.dtype)
    layers = zip(network.cells, state, strict=True)
    like = tuple(jax.eval_shape(partial(trajectory.allocate, cell, length - 1), s0) for cell, s0 in layers)
    trajectories = jax.tree.map(lambda a: jnp.zeros((B, length, *a.shape[2:]), a.dtype), like)
    xs = jnp.zeros((B, length, network.inputs), params.V.dtype)
    return History(trajectories, xs, jnp.zeros((B, length), bool))


def before(segment: Segment, history: History, n: int) -> Segment:
    """The n steps before a segment, as a segment without losses."""
    past, xs, counts = jax.tree.map(lambda a: jnp.moveaxis(a[:, -n:], 1, 0), history)
    trajectories = tuple(
        Trajectory(tuple(jnp.concatenate([ss, s[:1]]) for ss, s in zip(old.ss, new.ss, strict=True)), old.residual)
        for old, new in zip(past, segment.trajectories, strict=True)
    )
    if jnp.issubdtype(segment.steps.xs.dtype, jnp.integer):
        xs = xs.argmax(axis=-1).astype(segment.steps.xs.dtype)
    errors = (jnp.zeros((n, *each.shape[1:]), each.dtype) for each in (segment.delta_os, segment.delta_hs))
    return Segment(segment.layers, trajectories, Batch(xs, xs, counts), *errors)


def append(history: History, segment: Segment) -> History:
    """The last steps, those of the segment included, without those from before a reset."""
    steps, (n, B) = segment.steps, segment.delta_hs.shape[:2]
    counts = jnp.ones((n, B), bool) if steps.mask is None else steps.mask
    xs = recurrence.zero_unless(steps.mask, steps.xs)
    if jnp.issubdtype(xs.dtype, jnp.integer):
        xs = jax.nn.one_hot(xs, history.xs.shape[-1], dtype=history.xs.dtype)
    reset = None if steps.reset is None else steps.reset & counts
    seen = tuple(
        Trajectory(
            recurrence.zero_where(reset, tuple(ss[:-1] for ss in each.ss)),
            tuple(recurrence.zero_unless(steps.mask, residual) for residual in each.residual),
        )
        for each in segment.trajectories
    )
    new = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 1), History(seen, xs, counts))
    length = history.counts.shape[1]
    history = jax.tree.map(lambda old, new: jnp.concatenate([old, new], axis=1)[:, -length:], history, new)
    if reset is None:
        return history
    stretch = jnp.moveaxis(segments.stretches(steps), 0, 1)
    lasts = jnp.concatenate([jnp.zeros((B, length), jnp.int32), stretch], axis=1)[:, -length:] == stretch[:, -1:]

    def since_reset(a: Array) -> Array:
        return jnp.where(lasts.reshape(*lasts.shape, *(1,) * (a.ndim - 2)), a, jnp.zeros_like(a))

    return History(*jax.tree.map(since_reset, tuple(history)))
