"""What the docstring of each rule states of its memory: the bytes that it carries, and how its temporaries grow."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import CELLS, make_network, marked

import rnn_jax as rj
from rnn_jax import trajectory
from rnn_jax.gradients import segments

T, B = 32, 4


class Sizes(NamedTuple):
    """The symbols of the docstrings, of one layer."""

    theta: int
    """Recurrent parameters."""
    N: int
    """State values."""
    seen: int
    seen_without_w: int
    matrices: tuple[tuple[int, int], ...]
    """(m, G·H) of each matrix of parameters."""
    units: int
    """Parameters of one number a unit."""
    D: int
    K: int
    residuals: int
    """What the forward pass keeps of a step, beside the states."""
    dense: bool
    """Whether there are weights between units."""


SEEN = {"elman": (1, 0), "lstm-peepholes": (2, 1), "gru": (1, 1), "indrnn": (1, 0), "rtu": (2, 2)}
"""How many of a unit's state values its next step sees, and how many of them by other ways than W."""


def sizes_of(network, cell):
    params = jax.eval_shape(lambda: rj.init(network, jax.random.key(0)))
    (blocks,) = jax.eval_shape(lambda: segments.zero_blocks(network, rj.init(network, jax.random.key(0)), ()))
    theta = sum(leaf.size for leaf in jax.tree.leaves(params.layers))
    units = sum(leaf.size for leaf in blocks.units)
    (one,), H, matrices = network.cells, network.hidden, tuple(leaf.shape for leaf in blocks.matrices)
    step = jax.eval_shape(partial(trajectory.allocate, one, 1), (jnp.zeros(H),) * len(one.states))
    residuals, dense = sum(leaf.size for leaf in step.residual), one.recurrence == "dense"
    N, D, K = len(one.states) * H, network.inputs, network.outputs
    return Sizes(theta, N, *SEEN[cell], matrices, units, D, K, residuals, dense)


def kronecker(one):
    """B of each matrix, and the influence of the parameters of one number a unit."""
    return sum(g * one.N + m for m, g in one.matrices) + one.units * one.N


def reverse_kronecker(one):
    return sum(m * one.N + g for m, g in one.matrices) + one.units * one.N


def kept_step(one):
    """A step of a history."""
    return one.N + one.residuals + one.D


RULES = rj.ALGORITHMS | {
    "optimal_kronecker, rank 3": partial(rj.optimal_kronecker, rank=3),
    "forward_gradient, 3 directions": partial(rj.forward_gradient, directions=3),
    "rtrl, online": partial(rj.rtrl, segment=5, online=True),
    "snap, n = 2": partial(rj.snap, n=2),
}


CARRIED = {
    "bptt": lambda one: 0,
    "autodiff": lambda one: 0,
    "immediate": lambda one: 0,
    "truncated": lambda one: 15 * kept_step(one),
    "rtrl": lambda one: one.N * one.theta,
    "rtrl, online": lambda one: one.N * one.theta + 5 * kept_step(one),
    "uoro": lambda one: one.theta + one.N,
    "kf_rtrl": kronecker,
    "reverse_kf_rtrl": reverse_kronecker,
    "optimal_kronecker": kronecker,
    "optimal_kronecker, rank 3": lambda one: 3 * kronecker(one._replace(units=0)) + one.units * one.N,
    "forward_gradient": lambda one: one.theta + one.N,
    "forward_gradient, 3 directions": lambda one: 3 * (one.theta + one.N),
    "snap": lambda one: one.seen * one.theta,
    "snap, n = 2": lambda one: (one.N if one.dense else one.seen) * one.theta,
    "eprop": lambda one: one.seen_without_w * one.theta,
    "rflo": lambda one: one.seen_without_w * one.theta,
    "dni": lambda one: one.N + one.K + 1,
}
"""Numbers that an example carries; keys, counters and flags come besides, in 16 bytes at most."""


TEMPORARIES = {name: 1 for name in rj.ALGORITHMS} | {
    name: 2 for name in ("rtrl", "kf_rtrl", "reverse_kf_rtrl", "optimal_kronecker")
}
"""The power of H with which what an update needs beside its carry grows: the states of a segment, or for rules that
walk back from each unit by itself, H times as much."""


def carried(algorithm, network, hidden):
    """Bytes an example carries: of floats, and of all else."""
    params = jax.eval_shape(lambda: rj.init(network, jax.random.key(0), dtype=jnp.float32))
    memory = jax.eval_shape(lambda params: algorithm.init(params, B, jax.random.key(0)), params).memory
    leaves = jax.tree.leaves(memory)
    floats = [leaf.size * leaf.dtype.itemsize for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return sum(floats) / B, (sum(leaf.size * leaf.dtype.itemsize for leaf in leaves) - sum(floats)) / B


def problem(cell, hidden):
    return make_network(CELLS[cell], 1, inputs=3, hidden=hidden, outputs=2, loss=rj.squared_error())


@pytest.mark.parametrize("cell", marked(["elman", "lstm-peepholes", "gru", "indrnn", "rtu"], ["elman"]))
@pytest.mark.parametrize("name", CARRIED)
def test_each_rule_carries_as_much_as_it_states(name, cell):
    for hidden in (8, 16):
        network = problem(cell, hidden)
        floats, rest = carried(RULES[name](network), network, hidden)
        assert floats == 4 * CARRIED[name](sizes_of(network, cell))
        assert rest <= 16


def test_snap_carries_as_many_traces_as_units_are_within_reach():
    """On a ring each unit reaches itself and the next one: r = 2 at every H."""
    for hidden in (8, 16):
        network, ring = problem("elman", hidden), np.roll(np.eye(hidden, dtype=bool), 1, axis=1)
        floats, _ = carried(rj.snap(network, 2, ring), network, hidden)
        assert floats == 4 * 2 * sizes_of(network, "elman").theta


def compiled(algorithm, network):
    """XLA's own account, in bytes, of an update of 2T steps and B examples: ``(arguments, temporaries)``.

    Of the arguments those of the carry's memory.
    """
    params = jax.eval_shape(lambda: rj.init(network, jax.random.key(0), dtype=jnp.float32))
    carry = jax.eval_shape(lambda params: algorithm.init(params, B, jax.random.key(0)), params)
    xs, ys = (jax.ShapeDtypeStruct((2 * T, B, width), jnp.float32) for width in (network.inputs, network.outputs))
    analysis = jax.jit(algorithm.update).lower(params, carry, rj.Batch(xs, ys)).compile().memory_analysis()
    others = jax.tree.leaves((params, carry.recurrent, carry.shared, xs, ys))
    memory = analysis.argument_size_in_bytes - sum(leaf.size * leaf.dtype.itemsize for leaf in others)
    return memory, analysis.temp_size_in_bytes


@pytest.mark.parametrize("cell", marked(["elman", "lstm-peepholes"], ["elman"], ["lstm-peepholes"]))
@pytest.mark.parametrize("name", marked(CARRIED, ["rtrl"]))
def test_xla_counts_as_much_as_is_stated(name, cell):
    """The memory that goes in, to the byte; and the power of H with which temporaries grow.

    A power too many would double the growth; the gradient itself, of H² numbers, adds a little to the lower one.
    """
    temporaries = []
    for hidden in (64, 128):
        network = problem(cell, hidden)
        memory, temporary = compiled(RULES[name](network), network)
        assert 0 <= memory - 4 * B * CARRIED[name](sizes_of(network, cell)) <= 16 * B
        temporaries.append(temporary)
    if name in TEMPORARIES:
        assert math.log2(temporaries[1] / temporaries[0]) <= TEMPORARIES[name] + 0.45
