"""Training: one jitted optax step for any algorithm, and the loop that runs it over a stream of windows."""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from rnn_jax import network as net
from rnn_jax.checks import (
    check_array,
    check_arrays,
    check_inputs,
    check_int,
    check_key,
    check_params,
    check_parts,
    check_window,
    describe,
    is_array,
    require,
)
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
    _check_method(algorithm, optimiser)
    key = jax.random.key(0) if key is None else key
    check_key(key, "key")
    carried = algorithm.init(params, batch_size, key)
    state = TrainState(params, optimiser.init(params), carried, jnp.zeros((), jnp.int32), jnp.ones((), bool))
    places = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(carried)]
    mesh = next((place.mesh for place in places if isinstance(place, NamedSharding)), None)
    if mesh is not None:  # the rest goes where the algorithm has put its state: whole, on each of its devices
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))._replace(algorithm=carried)
    return state


def make_step(
    algorithm: Algorithm, optimiser: optax.GradientTransformation, clip: optax.GradientTransformation | None = None
) -> Step:
    """One training step, jitted: gradient, mean over the steps that count, clip, optimiser.

    The state passed in is donated: use the one returned.  Where the loss or a gradient is not finite, the state stays
    as it was, there and at every later step, and ``run`` raises.

    Args:
      clip: a stateless transformation, such as ``optax.clip`` (elementwise) or ``optax.clip_by_global_norm``.
    """
    _check_method(algorithm, optimiser)
    if clip is not None:
        check_parts(clip, "clip", optax.GradientTransformation, "one of optax, like optax.clip(1.0)")

    @partial(jax.jit, donate_argnums=0)
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        _check_state(state)
        require(isinstance(batch, Batch), "batch", describe(batch), "a Batch")
        (loss, grads), carried = algorithm.update(state.params, state.algorithm, batch)
        valid = jnp.asarray(math.prod(batch.xs.shape[:2])) if batch.mask is None else batch.mask.sum()
        mean = jax.tree.map(lambda g: g / valid.astype(g.dtype), grads)
        fresh = jax.eval_shape(optimiser.init, state.params)
        fits = _form(state.optimiser) == _form(fresh)
        require(fits, "state.optimiser", describe(state.optimiser), "of this optimiser, for these parameters")
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
    for name, function in (("step", step), ("batch_at", batch_at)):
        require(callable(function), name, describe(function), "a function")
    _check_state(state)
    check_arrays(state, "state")
    for name, count in (("steps", steps), ("every", every)):
        check_int(count, name)
    devices = {device for leaf in jax.tree.leaves(state) if isinstance(leaf, jax.Array) for device in leaf.devices()}
    # XLA's sum over several CPU devices can deadlock when a step begins before the last one has ended.
    several = len(devices) > 1 and all(device.platform == "cpu" for device in devices)
    done = int(state.step)
    while done < steps:
        reported = []
        for index in range(done, min(done + every, steps)):
            batch = batch_at(index)
            require(isinstance(batch, Batch), f"batch_at({index})", describe(batch), "a Batch")
            check_arrays(batch, "batch")
            state, metrics = step(state, batch)
            if several:
                jax.block_until_ready(metrics)
            reported.append(metrics)
        done += len(reported)
        if not state.finite:
            raise NonFiniteError(state)
        yield state, Metrics(*(float(np.mean(jax.device_get(values))) for values in zip(*reported, strict=True)))


def evaluate(network: Network, params: Params, batches: Iterable[Batch]) -> float:
    """The mean loss over the steps that count, in nats for cross-entropy, with state carried from batch to batch.

    Raises:
      InputError: parameters or a batch that do not fit the network, or no step that counts.
    """
    check_params(network, params)
    several = isinstance(batches, Iterable) and not is_array(batches)
    require(several, "batches", describe(batches), "batches one after another, as in a list")
    state, total, count = None, 0.0, 0
    for batch in batches:
        if state is None:
            require(isinstance(batch, Batch), "batch", describe(batch), "a Batch")
            _, B = check_inputs(batch.xs, network.inputs, params.V.dtype, "batch.")
            state = net.initial_state(network, params, B)
        check_window(network, params, state, batch)
        loss, state = _loss(network, params, state, batch)
        total += float(loss)
        count += int(np.prod(batch.xs.shape[:2]) if batch.mask is None else np.asarray(batch.mask).sum())
    require(count > 0, "batches", count, "at least one step that counts")
    return total / count


_loss = jax.jit(net.loss, static_argnums=0)


def _check_method(algorithm: Algorithm, optimiser: optax.GradientTransformation) -> None:
    check_parts(algorithm, "algorithm", Algorithm, "an Algorithm, like bptt(network)")
    check_parts(optimiser, "optimiser", optax.GradientTransformation, "one of optax, like optax.adam(1e-3)")


def _check_state(state: Any) -> None:
    require(isinstance(state, TrainState), "state", describe(state), "a TrainState, as from train.start")
    for name, dtype in (("step", "int"), ("finite", "bool")):
        check_array(getattr(state, name), f"state.{name}", (), dtype)


def _form(tree: Any) -> tuple[Any, ...]:
    """Structure, shapes and dtypes, whatever the numbers."""
    return jax.tree.structure(tree), *((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))


def _select(condition: Array, new: Array, old: Array) -> Array:
    if jnp.issubdtype(new.dtype, jax.dtypes.prng_key):
        data = jnp.where(condition, jax.random.key_data(new), jax.random.key_data(old))
        new = jax.random.wrap_key_data(data, impl=jax.random.key_impl(new))
        return new
    return jnp.where(condition, new, old)
