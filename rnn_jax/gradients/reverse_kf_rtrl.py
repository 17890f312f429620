"""Reverse KF-RTRL: the Kronecker factors the other way round, signs for δ and an influence for the features."""

import jax.numpy as jnp

from rnn_jax.checks import check_network, layer_sizes
from rnn_jax.gradients import kronecker
from rnn_jax.gradients.kronecker import Crossing, Factors, Signs, by_factors
from rnn_jax.types import Algorithm, Array, Network

Pair = tuple[Array, Array]
"""A [G·H] and B [m, N]."""


def reverse_kf_rtrl(network: Network, segment: int | None = None, signs: Signs | None = None) -> Algorithm:
    """Reverse Kronecker-factored RTRL (R-KF-RTRL) by segments.  Unbiased, for every cell and depth.

    The influence of each matrix of parameters [W; U; b] on all N state values is estimated by one product A ⊗ B, where
    A belongs to z and B to the features: the roles of ``kf_rtrl`` exchanged.  At the border of a segment, with its
    J = ∂s_end/∂s_start, C_t = ∂s_end/∂z_t, features u_t = [h_{t−1}, x_t, 1] and ν a random sign for each of the G·H
    numbers of z::

        G += (BPTT of the segment)  +  A ⊗ (B δs_start)
        A ← ρ_0 A + ρ_1 ν                             ρ_0² = ‖B Jᵀ‖ / ‖A‖
        B ← B Jᵀ / ρ_0 + Σ_t u_t ⊗ (C_t ν) / ρ_1      ρ_1² = ‖Σ_t u_t ⊗ (C_t ν)‖ / ‖ν‖

    The noise comes once a border, whatever the steps before it, so it falls with the segment's length.  Time is O(H³) a
    step.  The memory is that of B, m · N numbers for each matrix and example.  Choose it before ``kf_rtrl`` where that
    is less than G·H · N, as for a gated cell of few inputs.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; by default the whole window.
      signs: ``border -> ν``, G·H signs, in place of random ones, for listing all outcomes.

    Raises:
      InputError: when built, a network or a segment that cannot be served; in ``update``, whatever does not fit it.

    Source: Marschall, Cho & Savin, *A unified framework of online learning algorithms for training recurrent neural
    networks*, Journal of Machine Learning Research 21 (2020), whose segments are one step.
    """
    check_network(network)
    factors = Factors(lambda N, g, m: ((g,), (m, N)), credit, lambda n, g, m: g, advance)

    small = network._replace(hidden=2)  # as the claim is tested
    return by_factors(network, factors, kronecker.enumerated(both_signs, len(both_signs(small))), segment, signs)


def both_signs(network: Network) -> Array:
    """Rows of orthogonal columns and their negatives, for the widest layer: ν has mean 0, ν νᵀ the identity."""
    rows = kronecker.hadamard(
        max(len(cell.gates) * H for cell, (_, H) in zip(network.cells, layer_sizes(network), strict=True))
    )
    return jnp.concatenate([rows, -rows])


def credit(factors: Pair, delta: Array) -> Array:
    """δs M = (B δs) ⊗ A."""
    A, B = factors
    return jnp.einsum("bmn,bn->bm", B, delta).T @ A


def advance(factors: Pair, crossing: Crossing, signs: Array) -> Pair:
    """The old product, and ν ⊗ Σ_t (C_t ν) u_t, whose mean is Σ_t C_t ⊗ u_t."""
    (A, B), (push, C, _, u) = factors, crossing
    pushed, new = push(B), u.T @ (C @ signs)
    rho0, inverse0 = kronecker.balance(kronecker.norm(A), kronecker.norm(pushed))
    rho1, inverse1 = kronecker.balance(kronecker.norm(signs), kronecker.norm(new))
    rho0, inverse0, rho1, inverse1 = (each.astype(A.dtype) for each in (rho0, inverse0, rho1, inverse1))
    return rho0 * A + rho1 * signs, inverse0 * pushed + inverse1 * new
