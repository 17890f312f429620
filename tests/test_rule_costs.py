"""What the docstring of each rule states of its memory: the bytes that it carries, and how its temporaries grow."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from fixtures import CELLS, make_network, marked

import rnn_jax as rj
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


SEEN = {"elman": (1, 0), "lstm-peepholes": (2, 1), "gru": (1, 1), "indrnn": (1, 0), "rtu": (2, 2)}
"""How many of a unit's state values its next step sees, and how many of them by other ways than W."""


def sizes_of(network, cell):
    params = jax.eval_shape(lambda: rj.init(network, jax.random.key(0)))
    (blocks,) = jax.eval_shape(lambda: segments.zero_blocks(network, rj.init(network, jax.random.key(0)), ()))
    theta = sum(leaf.size for leaf in jax.tree.leaves(params.layers))
    units = sum(leaf.size for leaf in blocks.units)
    N, matrices = len(network.cells[0].states) * network.hidden, tuple(leaf.shape for leaf in blocks.matrices)
    return Sizes(theta, N, *SEEN[cell], matrices, units, network.inputs, network.outputs)


def kronecker(one):
    """B of each matrix, and the influence of the parameters of one number a unit."""
    return sum(g * one.N + m for m, g in one.matrices) + one.units * one.N


def reverse_kronecker(one):
    return sum(m * one.N + g for m, g in one.matrices) + one.units * one.N


CARRIED = {
    "bptt": ({}, lambda one: 0),
    "autodiff": ({}, lambda one: 0),
    "immediate": ({}, lambda one: 0),
    "rtrl": ({}, lambda one: one.N * one.theta),
    "uoro": ({}, lambda one: one.theta + one.N),
    "kf_rtrl": ({}, kronecker),
    "reverse_kf_rtrl": ({}, reverse_kronecker),
    "optimal_kronecker": ({"rank": 1}, kronecker),
    "forward_gradient": ({"directions": 3}, lambda one: 3 * (one.theta + one.N)),
    "snap": ({}, lambda one: one.seen * one.theta),
    "eprop": ({}, lambda one: one.seen_without_w * one.theta),
    "rflo": ({}, lambda one: one.seen_without_w * one.theta),
    "dni": ({}, lambda one: one.N + one.K + 1),
}
"""Numbers that an example carries, with the settings that they depend on; keys, counters and flags come besides."""


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


@pytest.mark.parametrize("cell", ["elman", "lstm-peepholes", "gru", "indrnn", "rtu"])
@pytest.mark.parametrize("name", CARRIED)
def test_each_rule_carries_as_much_as_it_states(name, cell):
    settings, stated = CARRIED[name]
    for hidden in (8, 16):
        network = make_network(CELLS[cell], 1, inputs=3, hidden=hidden, outputs=2, loss=rj.squared_error())
        floats, rest = carried(rj.ALGORITHMS[name](network, **settings), network, hidden)
        assert floats == 4 * stated(sizes_of(network, cell))
        assert rest <= 16


def temporaries(algorithm, network):
    """What XLA reports of an update of T steps and B examples, in bytes."""
    params = jax.eval_shape(lambda: rj.init(network, jax.random.key(0), dtype=jnp.float32))
    carry = jax.eval_shape(lambda params: algorithm.init(params, B, jax.random.key(0)), params)
    xs, ys = (jax.ShapeDtypeStruct((2 * T, B, width), jnp.float32) for width in (network.inputs, network.outputs))
    compiled = jax.jit(algorithm.update).lower(params, carry, rj.Batch(xs, ys)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("cell", marked(["elman", "lstm-peepholes"], ["elman"]))
@pytest.mark.parametrize("name", marked(TEMPORARIES, ["rtrl"]))
def test_the_temporaries_grow_with_the_stated_power_of_h(name, cell):
    """A power too many would double the growth; the gradient itself, of H² numbers, adds a little to the lower one."""
    sizes = [
        temporaries(rj.ALGORITHMS[name](network), network)
        for H in (64, 128)
        for network in [make_network(CELLS[cell], 1, inputs=3, hidden=H, outputs=2, loss=rj.squared_error())]
    ]
    assert math.log2(sizes[1] / sizes[0]) <= TEMPORARIES[name] + 0.45
