"""A training step of several seeds: one by one on all devices, as one by vmap, and beside them a step of one run."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import optax
from timing import Candidate, Case, Program, batch_of, network_of

import rnn_jax as rj

SEEDS = 4
ALONE, ONE_BY_ONE, BY_VMAP = "one run", "seeds, one by one", "seeds, by vmap"


def builders(case: Case) -> dict[Program, Callable[[], Candidate]]:
    """How to build the step of one run on one device, and those of ``SEEDS`` runs on all devices."""
    devices = jax.local_devices()
    return {
        Program(ALONE): partial(build, case, 1, devices[:1], True),
        Program(ONE_BY_ONE, len(devices)): partial(build, case, SEEDS, devices, True),
        Program(BY_VMAP, len(devices)): partial(build, case, SEEDS, devices, False),
    }


def build(case: Case, count: int, devices: list[jax.Device], one_by_one: bool) -> Candidate:
    """Steps of bptt and Adam on the same windows, each from the state that the last one left."""
    network, batch = network_of(case), batch_of(case)
    algorithm, optimiser = rj.bptt(network), optax.adam(1e-3)

    def start(seed: int) -> rj.train.TrainState:
        return rj.train.init_state(algorithm, optimiser, rj.init(network, jax.random.key(seed)), case.batch)

    step = rj.seeds.make_step(rj.train.make_step(algorithm, optimiser), devices)
    state = rj.seeds.together([start(seed) for seed in range(count)], devices, one_by_one)

    def call() -> float:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(state)
        return case.length * case.batch * float(np.mean(metrics.loss))

    return Candidate(call, count * sum(leaf.size for leaf in jax.tree.leaves(start(0).params)))


def a_seed(program: str, milliseconds: float) -> float:
    """The milliseconds of a step, a seed."""
    return milliseconds if program == ALONE else milliseconds / SEEDS
