"""Several seeds trained at once: the state has a leading axis of seeds, which devices share, and the windows are shared.

``together`` puts the states of runs that differ in their seed into one, ``make_step`` lifts the step of one run over
them, and ``apart`` takes them out again.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rnn_jax.checks import Description, check_int, describe, require
from rnn_jax.train import Metrics, Step, TrainState
from rnn_jax.types import Array, Batch, Carry


class Own(NamedTuple):
    """The carry of several seeds: beside what their algorithm carries, the step of each and whether it is finite."""

    carry: Carry
    step: Array
    """How many updates each seed has made, int32 [S]."""
    finite: Array
    """As in ``TrainState``, bool [S]; False too where the axis is filled up to a multiple of the devices."""


WHOLE, BY_SEED = PartitionSpec(), PartitionSpec("seed")
STATE: Any = TrainState(BY_SEED, BY_SEED, BY_SEED, WHOLE, WHOLE)  # type: ignore[arg-type]


def together(states: Sequence[TrainState], devices: Sequence[jax.Device]) -> TrainState:
    """The states of several seeds as one, split over devices.

    Each array of the parameters, the optimiser and the carry has a leading axis of seeds.  ``step`` is the number of
    the next window: the least step of the seeds that are finite.  A seed that is ahead waits until the others are
    there.

    Args:
      states: of runs of the same algorithm and optimiser, as from ``train.init_state`` or ``checkpoint.restore``, each
        on one device.
      devices: devices of one kind, like ``jax.devices()``; the number of seeds need not be a multiple of theirs.

    Returns:
      TrainState, for the step that ``make_step`` makes; ``apart`` gives the states back.

    Raises:
      InputError: no state or no device, or states that differ in structure, shapes or dtypes.

    The example of ``make_step`` shows it.
    """
    several = isinstance(states, Sequence) and states and all(isinstance(state, TrainState) for state in states)
    require(several, "states", describe(states), "one TrainState or more, as from train.init_state")
    mesh = _mesh(devices)
    forms = [jax.tree.map(lambda leaf: (jnp.shape(leaf), leaf.dtype), state) for state in states]
    unlike = next((f"{place} differs" for place, form in enumerate(forms) if form != forms[0]), "all are alike")
    require(unlike == "all are alike", "states", Description(f"such that the one at {unlike}"), "alike but for numbers")
    first = min((int(state.step) for state in states if state.finite), default=max(int(state.step) for state in states))
    idle = states[0]._replace(finite=jnp.zeros((), bool))
    filled = [*states, *[idle] * (-len(states) % len(devices))]
    own = [(state.params, state.optimiser, Own(*state[2:])) for state in filled]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *own)
    state = TrainState(*stacked, jnp.full((), first, jnp.int32), jnp.ones((), bool))  # type: ignore[arg-type]
    placed = [jax.device_put(part, NamedSharding(mesh, spec)) for part, spec in zip(state, STATE, strict=True)]
    return TrainState(*placed)


def apart(state: TrainState, count: int) -> list[TrainState]:
    """The states of the seeds, each as that of a run of its own, on one device.

    Args:
      state: as from ``together``, or from a step of it.
      count: how many states were put together.

    Returns:
      A list of TrainState, in their order.

    Raises:
      InputError: not such a state, or more than it has.

    The example of ``make_step`` shows it.
    """
    _check(state)
    check_int(count, "count")
    require(count <= len(state.carry.step), "count", count, f"{len(state.carry.step)} or less")  # type: ignore[attr-defined]
    home = min(state.step.devices(), key=lambda device: device.id)
    params, optimiser, own = jax.device_put(state[:3], home)
    seeds = TrainState(params, optimiser, *own)
    return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], seeds) for seed in range(count)]


def make_step(step: Step, devices: Sequence[jax.Device], one_by_one: bool | None = None) -> Step:
    """The step of one run, lifted over seeds: each makes that step on the same window.

        θ_s ← θ_s + optimiser(clip(g(θ_s, window)))      for each seed s

    Choose it to train the same model from several seeds.  There is no communication between seeds.  On CPUs each device
    makes the steps of its seeds one after another, which is faster than ``vmap`` and gives, bitwise, the numbers of
    ``step`` alone.  On accelerators ``vmap`` makes them as one, equal up to rounding.

    A seed makes a step where its own count is that of the state.  So one that is not finite stays as it is, and the
    others go on.  One that is ahead waits.

    Args:
      step: as from ``train.make_step``, of an algorithm on one device.
      devices: those of ``together``.
      one_by_one: whether a device makes the steps of its seeds one after another; the default is True on CPUs alone.

    Returns:
      A function ``(state, batch) -> (state, metrics)`` for ``train.run``, where ``state`` is from ``together``, and
      each of the metrics has an axis [S].  A seed that made no step has weight 0 there.  ``state`` is donated, and
      ``state.finite`` stays True; ``apart`` tells which seeds are finite.

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
      >>> lifted = rj.seeds.make_step(step, devices)
      >>> state, metrics = lifted(state, rj.Batch(ones, ones))
      >>> alone, _ = step(start(2), rj.Batch(ones, ones))
      >>> bool((rj.seeds.apart(state, 3)[2].params.V == alone.params.V).all())
      True
    """
    mesh = _mesh(devices)
    if one_by_one is None:
        one_by_one = devices[0].platform == "cpu"

    def part(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        def one(own: TrainState) -> tuple[TrainState, Metrics]:
            none = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(step, own, batch)[1])
            goes = own.finite & (own.step == state.step)
            # A branch is a computation of its own: XLA fuses nothing across its border, and rounds as in `step` alone.
            made: tuple[TrainState, Metrics] = lax.cond(
                goes, lambda own: step(own, batch), lambda own: (own, none), own
            )
            return made

        own: Any = state.carry
        seeds = TrainState(state.params, state.optimiser, *own)
        after, metrics = lax.map(one, seeds) if one_by_one else jax.vmap(one)(seeds)
        return TrainState(after.params, after.optimiser, Own(*after[2:]), state.step + 1, state.finite), metrics  # type: ignore[arg-type]

    parts = jax.shard_map(part, mesh=mesh, in_specs=(STATE, WHOLE), out_specs=(STATE, BY_SEED), check_vma=False)
    jitted = partial(jax.jit, donate_argnums=0)(parts)

    def lifted(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        _check(state)
        made: tuple[TrainState, Metrics] = jitted(state, batch)
        return made

    return lifted


def _mesh(devices: Sequence[jax.Device]) -> Mesh:
    listed = isinstance(devices, Sequence) and all(isinstance(device, jax.Device) for device in devices)
    distinct = listed and len(set(devices)) == len(devices) > 0
    require(distinct, "devices", devices, "different devices, like jax.devices()")
    return jax.make_mesh((len(devices),), ("seed",), devices=devices, axis_types=(jax.sharding.AxisType.Auto,))


def _check(state: Any) -> None:
    lifted = isinstance(state, TrainState) and isinstance(state.carry, Own)
    require(lifted, "state", describe(state), "a TrainState, as from seeds.together")
