"""Training by learning rules online: an update after each window, of one endless sequence or of growing problems."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from rule_gradients import Build

import rnn_jax as rj
from rnn_jax.data.tasks import copying, delayed_addition


class Learner(NamedTuple):
    """A rule in the copying task."""

    build: Build
    whole: bool = False
    """Whether an update comes after a chunk of whole problems, and not after each window."""
    rmsprop: bool = False
    """Whether it is trained by RMSprop, and not by Adam."""


COPYING = {
    "bptt by windows": Learner(rj.bptt),
    "bptt of whole problems": Learner(rj.bptt, whole=True),
    "rtrl": Learner(functools.partial(rj.rtrl, online=True)),
    "optimal_kronecker": Learner(rj.optimal_kronecker),
    "kf_rtrl": Learner(rj.kf_rtrl),
    "snap": Learner(rj.snap),
    "snap, full inside": Learner(functools.partial(rj.snap, inside="full")),
    "uoro, segments of a window": Learner(rj.uoro),
    "uoro, segments of 1": Learner(functools.partial(rj.uoro, segment=1)),
    "immediate, RMSprop": Learner(rj.immediate, rmsprop=True),
}
"""UORO with a fresh memory in each window is "bptt by windows": nothing crosses a border then."""


def by_addition(
    algorithm: rj.Algorithm,
    optimiser: optax.GradientTransformation,
    window: int,
    batch: int,
    steps: int,
    reports: int,
) -> Callable[[rj.Params, int], Any]:
    """``(params, seed) -> (losses [reports], params, whether all was finite)`` of training on delayed addition."""
    step = rj.train.make_step(algorithm, optimiser)

    @jax.jit
    def train(params: rj.Params, seed: Any) -> Any:
        data = delayed_addition(jax.random.key(seed + 100), steps * window, batch)
        windows = jax.tree.map(lambda a: a.reshape(steps, window, *a.shape[1:]), data)
        state = rj.train.init_state(algorithm, optimiser, params, batch, jax.random.key(seed))
        state, metrics = jax.lax.scan(step, state, windows)
        return metrics.loss.reshape(reports, -1).mean(axis=1), state.params, state.finite

    return train


def by_copying(
    algorithm: rj.Algorithm,
    optimiser: optax.GradientTransformation,
    window: int,
    chunk: int,
    batch: int,
    chunks: int,
    solved: float,
) -> Callable[[rj.Params, int], Any]:
    """``(params, seed) -> (length of the strings after each chunk, steps seen, whether all was finite)``.

    An update comes after each window, which divides the chunk.  The strings grow by a bit after each chunk of problems
    whose loss is below ``solved``, in nats a bit.
    """
    step = rj.train.make_step(algorithm, optimiser)

    def advance(carry: Any, key: Any) -> Any:
        state, length = carry
        problems = copying(key, chunk, batch, length)
        windows = jax.tree.map(lambda a: a.reshape(-1, window, *a.shape[1:]), problems)
        state, metrics = jax.lax.scan(step, state, windows)
        loss = jnp.where(metrics.weight > 0, metrics.loss * metrics.weight, 0).sum() / metrics.weight.sum()
        grown = jnp.minimum(length + (loss < solved), chunk // 2)
        return (state, grown), (grown, problems.mask[:, 0].sum())

    @jax.jit
    def train(params: rj.Params, seed: Any) -> Any:
        keys = jax.random.split(jax.random.key(seed + 100), chunks)
        state = rj.train.init_state(algorithm, optimiser, params, batch, jax.random.key(seed))
        (state, _), (lengths, seen) = jax.lax.scan(advance, (state, jnp.ones((), jnp.int32)), keys)
        return lengths, batch * seen.cumsum(), state.finite

    return train
