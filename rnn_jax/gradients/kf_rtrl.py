"""Kronecker-factored RTRL: the influence of each matrix as one Kronecker product, kept unbiased by random signs."""

import jax.numpy as jnp

from rnn_jax.checks import check_network
from rnn_jax.gradients import kronecker
from rnn_jax.gradients.kronecker import Crossing, Factors, Signs, by_factors
from rnn_jax.types import Algorithm, Array, Network

Pair = tuple[Array, Array]
"""a [m] and B [G·H, N]."""


def kf_rtrl(network: Network, segment: int | None = None, signs: Signs | None = None) -> Algorithm:
    """Kronecker-factored RTRL (KF-RTRL) by segments.  Unbiased, for every cell and depth.

    The influence of each matrix of parameters [W; U; b] on all N state values is estimated by one product a ⊗ B.  At
    the border of a segment, with its J = ∂s_end/∂s_start, C_t = ∂s_end/∂z_t and features u_t = [h_{t−1}, x_t, 1], a
    random sign c_t for each step and c_0 for the past::

        G += (BPTT of the segment)  +  (B δs_start) ⊗ a
        a ← c_0 ρ_0 a + Σ_t c_t ρ_t u_t                ρ_0² = ‖B Jᵀ‖ / ‖a‖
        B ← (c_0 / ρ_0) B Jᵀ + Σ_t (c_t / ρ_t) C_tᵀ    ρ_t² = ‖C_t‖ / ‖u_t‖

    A product of which one factor is 0 is left out, so nothing of the past survives a reset.

    With ``segment=1`` this is the published rule.  Its noise is far below UORO's, and falls with the segment's length.
    Time is O(H³) a step, as that of ``rtrl`` by segments of H steps.  What it saves is memory: B has G·H · N numbers a
    layer and example, where M of ``rtrl`` has m times as many.  Choose it where M does not fit.  At a border C_t of all
    steps, n · G·H · N numbers, stand in memory for one example at a time.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; by default the whole window.
      signs: ``border -> c``, n + 1 signs, c_0 first, in place of random ones, for listing all outcomes.

    Raises:
      InputError: when built, a network or a segment that cannot be served; in ``update``, whatever does not fit it.

    Source: Mujika, Meier & Steger, *Approximating real-time recurrent learning with random Kronecker factors*, NeurIPS
    (2018), whose segments are one step.
    """
    check_network(network)
    factors = Factors(lambda N, g, m: ((m,), (g, N)), credit, lambda n, g, m: n + 1, advance)
    table = kronecker.hadamard(3)  # for segments of two steps
    return by_factors(network, factors, kronecker.enumerated(lambda network: table, len(table)), segment, signs)


def credit(factors: Pair, delta: Array) -> Array:
    """δs M = a ⊗ (B δs)."""
    a, B = factors
    return a.T @ jnp.einsum("bgn,bn->bg", B, delta)


def advance(factors: Pair, crossing: Crossing, signs: Array) -> Pair:
    """The old product and those of the steps, added up with random signs."""
    (a, B), (push, C, sizes, u) = factors, crossing
    pushed = push(B)
    rho, inverse = kronecker.balance(
        jnp.concatenate([kronecker.norm(a)[None], kronecker.norm(u, (1,))]),
        jnp.concatenate([kronecker.norm(pushed)[None], sizes]),
    )
    rho, inverse = (signs * each.astype(a.dtype) for each in (rho, inverse))
    a = rho[0] * a + rho[1:] @ u
    return a, inverse[0] * pushed + jnp.tensordot(inverse[1:], C, 1).T
