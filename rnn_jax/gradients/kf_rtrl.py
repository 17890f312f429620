"""Kronecker-factored RTRL: the influence of each matrix as one Kronecker product, kept unbiased by random signs."""

import jax.numpy as jnp

from rnn_jax.gradients import kronecker
from rnn_jax.gradients.kronecker import Crossing, Factors, Signs, by_factors
from rnn_jax.types import Algorithm, Array, Network

Pair = tuple[Array, Array]
"""a [m] and B [G·H, N]."""


def kf_rtrl(network: Network, segment: int | None = None, signs: Signs | None = None) -> Algorithm:
    """Kronecker-factored RTRL (KF-RTRL) by segments.  Unbiased, for every cell and depth."""
    factors = Factors(lambda N, g, m: ((m,), (g, N)), credit, lambda n, g, m: n + 1, advance)
    columns = 3
    return by_factors(network, factors, kronecker.enumerated(lambda network: kronecker.hadamard(columns), 4), segment, signs)


def credit(factors: Pair, delta: Array) -> Array:
    """δs M = (B δs) ⊗ a."""
    a, B = factors
    return jnp.einsum("bgn,bn->bg", B, delta).T @ a


def advance(factors: Pair, crossing: Crossing, signs: Array) -> Pair:
    """The old product and those of the steps, added up with random signs."""
    (a, B), (J, C, u) = factors, crossing
    pushed = B @ J.T
    rho, inverse = kronecker.balance(
        jnp.concatenate([kronecker.norm(a)[None], kronecker.norm(u, (1,))]),
        jnp.concatenate([kronecker.norm(pushed)[None], kronecker.norm(C, (1, 2))]),
    )
    old, *_ = rho, inverse = (signs * rho).astype(a.dtype), (signs * inverse).astype(a.dtype)
    a = rho[0] * a + rho[1:] @ u
    return a, inverse[0] * pushed + jnp.tensordot(inverse[1:], C, 1).T
