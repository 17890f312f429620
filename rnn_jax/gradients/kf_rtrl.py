"""Kronecker-factored RTRL: the influence of each matrix as one Kronecker product, kept unbiased by random signs."""

import jax.numpy as jnp

from rnn_jax.checks import check_network
from rnn_jax.gradients import kronecker
from rnn_jax.gradients.kronecker import Crossing, Factors, Signs, by_factors
from rnn_jax.types import Algorithm, Array, Network

Pair = tuple[Array, Array]
"""a [m] and A [G·H, N]."""


def kf_rtrl(network: Network, segment: int | None = None, signs: Signs | None = None) -> Algorithm:
    """Kronecker-factored RTRL (KF-RTRL) by segments.  Unbiased, for every cell and depth.

    A matrix of parameters [W; U; b] has m = H + D + 1 rows, one for each feature of u_t = [h_{t−1}, x_t, 1].  A cell
    that sees u and v apart, as ``gru``, has two matrices, with the features [x_t, 1] and [h_{t−1}, 1].  The influence
    of each matrix on all N state values is estimated by one product a ⊗ A, of a [m] and A [G·H, N].  At the border of a
    segment of n steps, with its J = ∂s_end/∂s_start, C_t = ∂s_end/∂z_t [N, G·H], and a random sign c_t for each step
    and c_0 for the past:

        G += (BPTT of the segment)  +  (A δs_start) ⊗ a
        a ← c_0 ρ_0 a + Σ_t c_t ρ_t u_t                ρ_0² = ‖A Jᵀ‖ / ‖a‖
        A ← (c_0 / ρ_0) A Jᵀ + Σ_t (c_t / ρ_t) C_tᵀ    ρ_t² = ‖C_t‖ / ‖u_t‖

    A product of which one factor is 0 is left out, so nothing of the past survives a reset.

    With ``segment=1`` this is the published rule.  Its noise is far below UORO's, and falls with the segment's length.
    Time is O(H³) a step, as that of ``rtrl`` by segments of H steps.  What it saves is memory: A has G·H · N numbers a
    matrix and example, where M of ``rtrl`` has m times as many.  At a border C_t of all steps, n · G·H · N numbers,
    stand in memory for one example at a time.

    Choose it if M of ``rtrl`` does not fit in memory, and ``uoro`` is too noisy.

    Args:
      network: what to differentiate.
      segment: n, steps per segment, any length; by default the whole window.
      signs: ``border -> c``, n + 1 signs, c_0 first, in place of random ones, for listing all outcomes.

    Returns:
      An Algorithm that draws random numbers.  Its carry's memory holds a and A of each matrix and example; the exact
      influence of each parameter that is one number a unit; and a key for each example.

    Raises:
      InputError: when built, an invalid network or segment, or ``signs`` that is no function; in ``update``, whatever
        does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> a, A = rj.kf_rtrl(network).init(params, batch_size=2).memory.factors[0][0]  # m = 3 + 4 + 1, N = G·H = 3
      >>> a.shape, A.shape
      ((2, 8), (2, 3, 3))
      >>> M = rj.rtrl(network).init(params, batch_size=2).memory.M[0].matrices[0]
      >>> M.size // A.size  # m times as many
      8

    Source: Mujika, Meier & Steger, *Approximating real-time recurrent learning with random Kronecker factors*, NeurIPS
    (2018), whose segments are one step.
    """
    check_network(network)
    factors = Factors(lambda N, g, m: ((m,), (g, N)), credit, lambda n, g, m: n + 1, advance)
    table = kronecker.hadamard(3)  # for segments of two steps
    return by_factors(network, factors, kronecker.enumerated(lambda network: table, len(table)), segment, signs)


def credit(factors: Pair, delta: Array) -> Array:
    """δs M = a ⊗ (A δs)."""
    a, A = factors
    return a.T @ jnp.einsum("bgn,bn->bg", A, delta)


def advance(factors: Pair, crossing: Crossing, signs: Array) -> Pair:
    """The old product and those of the steps, added up with random signs."""
    (a, A), (push, C, sizes, u) = factors, crossing
    pushed = push(A)
    rho, inverse = kronecker.balance(
        jnp.concatenate([kronecker.norm(a)[None], kronecker.norm(u, (1,))]),
        jnp.concatenate([kronecker.norm(pushed)[None], sizes]),
    )
    rho, inverse = (signs * each.astype(a.dtype) for each in (rho, inverse))
    a = rho[0] * a + rho[1:] @ u
    return a, inverse[0] * pushed + jnp.tensordot(inverse[1:], C, 1).T
