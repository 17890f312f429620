"""Several seeds trained at once: devices share the seeds, and all seeds read the same windows.

``together`` makes one state of those of runs that differ in their seed, ``make_step`` lifts the step of one run over
it, and ``apart`` takes them out again.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax.checks import Description, check_int, describe, require
from rnn_jax.train import Metrics, Step, TrainState
from rnn_jax.types import Array, Batch

NEVER = np.iinfo(np.int32).max
WHOLE, BY_SEED = PartitionSpec(), PartitionSpec("seed")


class Seeds(NamedTuple):
    """The carry of several seeds; beside it their common state has a step, and neither parameters nor optimiser."""

    states: Any
    """One by one: a tuple of TrainState, each on its device.  By ``vmap``: one TrainState with a leading axis of seeds,
    split over devices and filled up to a multiple of them."""
    starts: Array
    """The window at which each begins, int32 [S]; one that is not finite never does."""


def together(states: Sequence[TrainState], devices: Sequence[jax.Device], one_by_one: bool | None = None) -> TrainState:
    """The states of several seeds as one, over several devices.

    ``step`` of the result is the number of the next window: the least step of the seeds that are finite.  A seed that
    is ahead waits until the others are there.

    Args:
      states: of runs of the same algorithm and optimiser, as from ``train.init_state`` or ``checkpoint.restore``, each
        on one device.
      devices: devices of one kind, like ``jax.devices()``; the number of seeds need not be a multiple of theirs.
      one_by_one: whether a device makes the steps of its seeds one after another; the default is True on CPUs alone.

    Returns:
      TrainState, for the step that ``make_step`` makes; ``apart`` gives the states back.

    Raises:
      InputError: no state or no device, or states that differ in structure, shapes or dtypes.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from rnn_jax import seeds, train
      >>> states = [train.TrainState((), (), (), jnp.int32(step), jnp.bool_(True)) for step in (7, 5)]
      >>> int(seeds.together(states, jax.local_devices()).step)  # the first seed waits
      5
    """
    several = isinstance(states, Sequence) and states and all(isinstance(state, TrainState) for state in states)
    require(several, "states", describe(states), "one TrainState or more, as from train.init_state")
    mesh = _mesh(devices)
    forms = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), state) for state in states]
    alike = all(form == forms[0] for form in forms)
    require(alike, "states", Description("of several forms"), "alike in structure, shapes and dtypes")
    starts = [int(state.step) if state.finite else NEVER for state in states]
    step, finite = jnp.full((), min(starts), jnp.int32), jnp.ones((), bool)
    if devices[0].platform == "cpu" if one_by_one is None else one_by_one:
        places = [devices[index % len(devices)] for index in range(len(states))]
        each = tuple(jax.device_put(state, place) for state, place in zip(states, places, strict=True))
        return TrainState((), (), Seeds(each, np.array(starts, np.int32)), step, finite)  # type: ignore[arg-type]
    empty = -len(states) % len(devices)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states, *[states[0]] * empty)
    seeds = jax.device_put(Seeds(stacked, jnp.array(starts + [NEVER] * empty, jnp.int32)), NamedSharding(mesh, BY_SEED))
    step, finite = jax.device_put((step, finite), NamedSharding(mesh, WHOLE))
    return TrainState((), (), seeds, step, finite)  # type: ignore[arg-type]


def apart(state: TrainState, count: int) -> list[TrainState]:
    """The states of the seeds, each as that of a run of its own, on one device.

    The next step of ``state`` donates them: save or copy them before.

    Args:
      state: as from ``together``, or from a step of it.
      count: how many states were put together.

    Returns:
      A list of TrainState, in their order.

    Raises:
      InputError: not such a state, or more than it has.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from rnn_jax import seeds, train
      >>> states = [train.TrainState((), (), (), jnp.int32(step), jnp.bool_(True)) for step in (7, 5)]
      >>> [int(state.step) for state in seeds.apart(seeds.together(states, jax.local_devices()), count=2)]
      [7, 5]
    """
    seeds = _seeds(state)
    check_int(count, "count")
    require(count <= len(seeds.starts), "count", count, f"{len(seeds.starts)} or less")
    if not isinstance(seeds.states, TrainState):
        return list(seeds.states[:count])
    stacked = jax.device_put(seeds.states, min(state.step.devices(), key=lambda device: device.id))
    return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], stacked) for seed in range(count)]


def make_step(step: Step, devices: Sequence[jax.Device]) -> Step:
    """The step of one run, lifted over seeds: each makes that step on the same window.

        θ_s ← θ_s + optimiser(clip(g(θ_s, window)))      for each seed s

    Choose it to train the same model from several seeds.  Nothing is communicated between seeds.

    One by one, each device runs the program of ``step`` for its seeds, one after another, while the other devices run
    theirs.  The numbers are bitwise those of ``step`` alone, and on CPUs it is no slower than ``vmap``.  By ``vmap``,
    each device makes the steps of its seeds as one.  They are those of ``step`` up to rounding.

    A seed that is not finite stays as it is, and the others go on.

    Args:
      step: as from ``train.make_step``, of an algorithm on one device.
      devices: those of ``together``.

    Returns:
      A function ``(state, batch) -> (state, metrics)`` for ``train.run`` with ``chunk`` = 1, where ``state`` is from
      ``together``, and each of the metrics has one number for each seed.  A seed that waits has weight 0 there.
      ``state`` is donated, and ``state.finite`` stays True; ``apart`` tells which seeds are finite.

    Raises:
      InputError: no device; when called, a state that is not from ``together``.

    Examples:
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=2, hidden=4, outputs=2, loss=rj.softmax_cross_entropy())
      >>> algorithm, optimiser = rj.bptt(network), optax.sgd(0.1)
      >>> def start(seed):
      ...     return rj.train.init_state(algorithm, optimiser, rj.init(network, jax.random.key(seed)), batch_size=2)
      >>> step, devices = rj.train.make_step(algorithm, optimiser), jax.local_devices()
      >>> state, ones = rj.seeds.together([start(seed) for seed in range(3)], devices), jax.numpy.ones((5, 2), int)
      >>> state, metrics = rj.seeds.make_step(step, devices)(state, rj.Batch(ones, ones))
      >>> alone, _ = step(start(2), rj.Batch(ones, ones))
      >>> bool((rj.seeds.apart(state, 3)[2].params.V == alone.params.V).all())
      True
    """
    mesh = _mesh(devices)

    def part(index: Array, seeds: Seeds, batch: Batch) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, start: Array) -> tuple[TrainState, Metrics]:
            after, metrics = step(state._replace(finite=state.finite & (start <= index)), batch)
            weight = jnp.where(start <= index, metrics.weight, 0)
            after = after._replace(finite=jnp.where(start <= index, after.finite, state.finite))
            return after, metrics._replace(weight=weight)

        return jax.vmap(one)(*seeds)

    parts = jax.shard_map(part, mesh=mesh, in_specs=(WHOLE, BY_SEED, WHOLE), out_specs=BY_SEED, check_vma=False)

    @partial(jax.jit, donate_argnums=0)
    def stacked(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        seeds: Any = state.carry
        states, metrics = parts(state.step, seeds, batch)
        return state._replace(carry=seeds._replace(states=states), step=state.step + 1), metrics

    def each(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        seeds, index = _seeds(state), int(state.step)
        made = [
            step(own, batch) if start <= index else (own, Metrics(0.0, 0.0, 0.0, 0.0))
            for own, start in zip(*seeds, strict=True)
        ]
        states, metrics = zip(*made, strict=True)
        carry: Any = seeds._replace(states=states)
        return state._replace(carry=carry, step=np.array(index + 1, np.int32)), Metrics(*zip(*metrics, strict=True))  # type: ignore[arg-type]

    def lifted(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        return stacked(state, batch) if isinstance(_seeds(state).states, TrainState) else each(state, batch)

    return lifted


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    listed = isinstance(devices, Sequence) and all(isinstance(device, jax.Device) for device in devices)
    distinct = listed and len(set(devices)) == len(devices) > 0
    require(distinct, "devices", devices, "different devices, like jax.devices()")
    return Mesh(np.array(devices), ("seed",))


def _seeds(state: Any) -> Seeds:
    lifted = isinstance(state, TrainState) and isinstance(state.carry, Seeds)
    require(lifted, "state", describe(state), "a TrainState, as from seeds.together")
    seeds: Seeds = state.carry
    return seeds
