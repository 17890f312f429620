"""Training: one jitted optax step for any algorithm, and the loop that runs it over a stream of windows."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rnn_jax import network as net
from rnn_jax.checks import check_params, require
from rnn_jax.types import Algorithm, Array, Batch, Network, Params


class TrainState(NamedTuple):
    """All that a run carries from one step to the next, and all that a checkpoint holds."""

    params: Params
    optimiser: optax.OptState
    algorithm: Any
    """The algorithm's state: the recurrent state at the end of the last window, and whatever else it carries."""
    step: Array
    """How many updates were made, int32."""
    finite: Array
    """False from the first step on whose loss or gradient was not finite; nothing has changed since then."""


class Metrics(NamedTuple):
    """What one step tells, as scalars; or the means over several steps, as floats."""

    loss: Array | float
    """Mean over the steps that count, before the update, in the loss's own unit (nats for cross-entropy)."""
    grad_norm: Array | float
    """Global norm of the mean gradient, before clipping."""
    clipped: Array | float
    """Whether clipping changed it: 0 or 1, or a share when averaged over steps."""


class NonFiniteError(FloatingPointError):
    """Training met a loss or gradient that is not finite; ``state`` holds everything as it was before that step."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.step = int(state.step)
        super().__init__(
            f"the loss or its gradient is not finite at step {self.step}; the parameters before it are kept"
        )


Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def start(
    algorithm: Algorithm,
    optimiser: optax.GradientTransformation,
    params: Params,
    batch_size: int,
    key: Array | None = None,
) -> TrainState:
    """The state of a run before its first step."""
    state = algorithm.init(params, batch_size, jax.random.key(0) if key is None else key)
    return TrainState(params, optimiser.init(params), state, jnp.zeros((), jnp.int32), jnp.ones((), bool))


def make_step(
    algorithm: Algorithm, optimiser: optax.GradientTransformation, clip: optax.GradientTransformation | None = None
) -> Step:
    """One training step, jitted: gradient, mean over the steps that count, clip, optimiser.

    The state passed in is donated: use the one returned.  Where the loss or a gradient is not finite, the state stays
    as it was, there and at every later step, and ``run`` raises.

    Args:
      clip: a stateless transformation, such as ``optax.clip`` (elementwise) or ``optax.clip_by_global_norm``.
    """

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        (loss, grads), carried = algorithm.update(state.params, state.algorithm, batch)
        count = batch.ys[..., 0].size if batch.mask is None and batch.ys.ndim == 3 else batch.ys.size
        valid = jnp.asarray(count) if batch.mask is None else batch.mask.sum()
        mean = jax.tree.map(lambda g: g / valid.astype(g.dtype), grads)
        clipped = mean if clip is None else clip.update(mean, clip.init(state.params), state.params)[0]
        updates, optimiser_state = optimiser.update(clipped, state.optimiser, state.params)
        norm = optax.tree.norm(mean)
        changed = jnp.array(
            [(a != b).any() for a, b in zip(jax.tree.leaves(mean), jax.tree.leaves(clipped), strict=True)]
        )
        finite = state.finite & jnp.isfinite(loss) & jnp.isfinite(norm)
        after = TrainState(
            optax.apply_updates(state.params, updates), optimiser_state, carried, state.step + 1, jnp.ones((), bool)
        )
        kept = jax.tree.map(lambda new, old: _select(finite, new, old), after, state._replace(finite=finite))
        return kept, Metrics(loss / valid.astype(loss.dtype), norm, changed.any())

    return step


def run(
    step: Step, state: TrainState, batch_at: Callable[[int], Batch], steps: int, every: int = 1
) -> Iterator[tuple[TrainState, Metrics]]:
    """Train up to step number ``steps``, from wherever ``state`` stands, and report.

    Args:
      batch_at: the window of each step, a pure function of the step's number, so that a resumed run sees the same ones.
      every: how many steps a report spans.

    Yields:
      ``(state, metrics)`` with the metrics averaged over the steps since the last report.  The state is donated to the
      next step: save or copy what is to be kept before asking for the next report.

    Raises:
      NonFiniteError: carries the step and the last good state.
    """
    require(type(steps) is int and steps > 0, "steps", steps, "a positive int")
    require(type(every) is int and every > 0, "every", every, "a positive int")
    done = int(state.step)
    while done < steps:
        reported = []
        for index in range(done, min(done + every, steps)):
            state, metrics = step(state, batch_at(index))
            reported.append(metrics)
        done += len(reported)
        if not state.finite:
            raise NonFiniteError(state)
        yield state, Metrics(*(float(np.mean(jax.device_get(values))) for values in zip(*reported, strict=True)))


def evaluate(network: Network, params: Params, batches: Iterable[Batch]) -> float:
    """The mean loss over the steps that count, in nats for cross-entropy, with state carried from batch to batch."""
    check_params(network, params)
    state, total, count = None, 0.0, 0
    for batch in batches:
        if state is None:
            state = net.initial_state(network, params, batch.xs.shape[1])
        loss, state = _loss(network, params, state, batch)
        total += float(loss)
        count += int(np.prod(batch.xs.shape[:2]) if batch.mask is None else np.asarray(batch.mask).sum())
    require(count > 0, "batches", count, "at least one step that counts")
    return total / count


_loss = jax.jit(net.loss, static_argnums=0)


def _select(condition: Array, new: Array, old: Array) -> Array:
    if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
        data = jnp.where(condition, jax.random.key_data(new), jax.random.key_data(old))
        new = jax.random.wrap_key_data(data, impl=jax.random.key_impl(new))
        return new
    return jnp.where(condition, new, old)
