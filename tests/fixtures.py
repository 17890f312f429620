"""The networks and batches that the library itself checks on, its registries, and assertions about gradients."""

import pytest

import rnn_jax as rj
from rnn_jax.cells import CELLS
from rnn_jax.diagnostics import worst
from rnn_jax.gradients import ALGORITHMS
from rnn_jax.testing.fixtures import TOLERANCE, make_batch, make_network, make_params, make_state

__all__ = [
    "CELLS",
    "EACH_KIND",
    "TOLERANCE",
    "algorithms",
    "assert_close",
    "assert_same",
    "cells",
    "cells_marked",
    "every_cell",
    "exact_algorithms",
    "make_batch",
    "make_network",
    "make_params",
    "make_state",
    "marked",
    "update_of",
]


EXACT = {
    name: algorithm
    for name, algorithm in ALGORITHMS.items()
    if isinstance(algorithm(make_network(CELLS["elman"])).claim, rj.Exact)
}


EACH_KIND = ("elman", "lstm-peepholes", "gru", "indrnn", "min_gru")
"""Every recurrence, one and two state values, both kinds of adjoint, and parameters of a cell's own."""


def cells_marked(*fast):
    """All cells: those of ``fast``, one of each kind in the slow set, and the others in the exhaustive one."""
    marks = {name: [pytest.mark.slow if name in EACH_KIND else pytest.mark.exhaustive] for name in CELLS}
    marks |= {name: [] for name in fast}
    every = [pytest.param(cell, id=name, marks=marks[name]) for name, cell in CELLS.items()]
    return pytest.mark.parametrize("cell", every)


def marked(values, fast, exhaustive=()):
    """The values of a parameter, or of several in a row; those outside of ``fast`` are slow, or exhaustive."""

    def marks(value):
        return [] if value in fast else [pytest.mark.exhaustive if value in exhaustive else pytest.mark.slow]

    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [
        pytest.param(*row, marks=marks(value), id="-".join(map(str, row)))
        for value, row in zip(values, rows, strict=True)
    ]


every_cell = cells_marked(*CELLS)
cells = cells_marked("gru")
"""The GRU has all that a cell may have, but for a second state value and parameters of its own; the rest is slow."""
algorithms = pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(algorithm, id=name, marks=[] if name == "bptt" else [pytest.mark.slow])
        for name, algorithm in ALGORITHMS.items()
    ],
)
EXACT_MARKS = {"bptt": [], "autodiff": [pytest.mark.exhaustive]}
exact_algorithms = pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(algorithm, id=name, marks=EXACT_MARKS.get(name, [pytest.mark.slow]))
        for name, algorithm in EXACT.items()
    ],
)


def update_of(algorithm):
    """One window of an algorithm with a fresh memory: ``(params, state, batch)`` to loss, gradient, and the state after
    it."""

    def update(params, state, batch):
        rows = batch.xs.shape[1] if isinstance(batch, rj.Batch) and getattr(batch.xs, "ndim", 0) > 1 else 1
        carry = algorithm.init(params, max(rows, 1))._replace(recurrent=state)
        carry, estimate = algorithm.update(params, carry, batch)
        return (estimate.loss, estimate.grads), carry.recurrent

    return update


def assert_close(grads, reference, tolerance):
    leaf, error = worst(rj.compare(grads, reference))
    assert error <= tolerance, f"{leaf} is off by {error:.1e}"


def assert_same(loss_and_grads, reference, tolerance):
    """Loss and gradients both, norm-wise."""
    (loss, grads), (reference_loss, reference_grads) = loss_and_grads, reference
    assert abs(loss - reference_loss) <= tolerance * abs(reference_loss)
    assert_close(grads, reference_grads, tolerance)
