"""The cases that the library itself checks on, and assertions about gradients."""

import rnn_jax as rj
from rnn_jax.diagnostics import worst
from rnn_jax.testing.cases import CELLS, TOLERANCE, make_batch, make_network, make_params, make_state

__all__ = [
    "CELLS",
    "TOLERANCE",
    "assert_close",
    "assert_same",
    "make_batch",
    "make_network",
    "make_params",
    "make_state",
    "update_of",
]


def update_of(algorithm):
    """One window of an algorithm that carries the recurrent state alone: ``(params, state, batch)`` to loss, gradient,
    and the state after it."""

    def update(params, state, batch):
        carry, estimate = algorithm.update(params, rj.Carry(state), batch)
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
