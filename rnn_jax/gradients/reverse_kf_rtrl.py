"""Reverse KF-RTRL: the Kronecker factors the other way round, signs for δ and an influence for the features."""

import jax.numpy as jnp

from rnn_jax.checks import layer_sizes

from rnn_jax.gradients import kronecker
from rnn_jax.gradients.kronecker import Crossing, Factors, Signs, by_factors
from rnn_jax.types import Algorithm, Array, Network

Pair = tuple[Array, Array]
"""A [G·H] and B [m, N]."""


def reverse_kf_rtrl(network: Network, segment: int | None = None, signs: Signs | None = None) -> Algorithm:
    """Reverse Kronecker-factored RTRL by segments.  Unbiased, for every cell and depth."""
    factors = Factors(lambda N, g, m: ((g,), (m, N)), credit, lambda n, g, m: g, advance)

    def table(network: Network) -> Array:
        rows = kronecker.hadamard(widest(network))
        return jnp.concatenate([rows, -rows])

    def widest(network: Network, H: int | None = None) -> int:
        return max(len(cell.gates) * (H or size) for cell, (_, size) in zip(network.cells, layer_sizes(network), strict=True))

    claim = kronecker.enumerated(table, 2 * len(kronecker.hadamard(widest(network, 2))))
    return by_factors(network, factors, claim, segment, signs)


def credit(factors: Pair, delta: Array) -> Array:
    """δs M = A ⊗ (B δs)."""
    A, B = factors
    return A.T @ jnp.einsum("bmn,bn->bm", B, delta)


def advance(factors: Pair, crossing: Crossing, signs: Array) -> Pair:
    """The old product, and ν ⊗ Σ_t (C_t ν) u_t, whose mean is Σ_t C_t ⊗ u_t."""
    (A, B), (J, C, u) = factors, crossing
    pushed, new = B @ J.T, u.T @ (C @ signs)
    rho0, inverse0 = kronecker.balance(kronecker.norm(A), kronecker.norm(pushed))
    rho1, inverse1 = kronecker.balance(kronecker.norm(signs), kronecker.norm(new))
    A, B = rho0 * A + rho1 * signs, inverse0 * pushed + inverse1 * new
    return A.astype(signs.dtype), B.astype(signs.dtype)
