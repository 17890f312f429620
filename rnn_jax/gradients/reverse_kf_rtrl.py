"""Reverse KF-RTRL: the Kronecker factors the other way round, signs for δ and an influence for the features."""

import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_network, layer_sizes
from rnn_jax.gradients import kronecker
from rnn_jax.gradients.kronecker import Crossing, Factors, Signs, by_factors
from rnn_jax.types import Algorithm, Array, Network

Pair = tuple[Array, Array]
"""a [G·H] and A [m, N]."""


def reverse_kf_rtrl(network: Network, segment: int | None = None, signs: Signs | None = None) -> Algorithm:
    """Reverse Kronecker-factored RTRL (R-KF-RTRL) by segments.  Unbiased, for every cell and depth.

    A matrix of parameters [W; U; b] has m = H + D + 1 rows, one for each feature of u_t = [h_{t−1}, x_t, 1].  A cell
    that sees u and v apart, as ``gru``, has two matrices, with the features [x_t, 1] and [h_{t−1}, 1].  The influence
    of each matrix on all N state values is estimated by one product a ⊗ A, where a [G·H] belongs to z and A [m, N] to
    the features: the roles of ``kf_rtrl`` exchanged.  At the border of a segment, with its J = ∂s_end/∂s_start, C_t =
    ∂s_end/∂z_t [N, G·H], and ν a random sign for each of the G·H numbers of z:

        G += (BPTT of the segment)  +  a ⊗ (A δs_start)
        a ← ρ_0 a + ρ_1 ν                             ρ_0² = ‖A Jᵀ‖ / ‖a‖
        A ← A Jᵀ / ρ_0 + Σ_t u_t ⊗ (C_t ν) / ρ_1      ρ_1² = ‖Σ_t u_t ⊗ (C_t ν)‖ / ‖ν‖

    The noise comes once a border, whatever the steps before it, so it falls with the segment's length.  Time is O(H³) a
    step.  The memory is that of A, m · N numbers for each matrix and example.

    Choose it if M of ``rtrl`` does not fit in memory, and ``uoro`` is too noisy; before ``kf_rtrl`` where m is less
    than G·H, as for a gated cell of few inputs.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; by default the whole window.
      signs: ``border -> ν``, G·H signs, in place of random ones, for listing all outcomes.

    Returns:
      An Algorithm that draws random numbers.  Its carry's memory holds a and A of each matrix and example; the exact
      influence of each parameter that is one number a unit; and a key for each example.

    Raises:
      InputError: when built, an invalid network or segment, or ``signs`` that is no function; in ``update``, whatever
        does not fit the network.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=2, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> batch = rj.Batch(xs=jnp.array([[0], [1]]), ys=jnp.array([[1], [2]]))  # T = 2, B = 1
      >>> def grads(nu):
      ...     algorithm = rj.reverse_kf_rtrl(network, segment=1, signs=lambda border: nu)
      ...     return rj.value_and_grad(algorithm)(params, batch)[1]
      >>> each = jax.jit(jax.vmap(grads))(jnp.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]))  # all choices at the border
      >>> mean = jax.tree.map(lambda a: a.mean(axis=0), each)
      >>> _, exact = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
      >>> rj.worst(rj.compare(mean, exact))[1] < 1e-5
      True

    Source: Marschall, Cho & Savin, *A unified framework of online learning algorithms for training recurrent neural
    networks*, Journal of Machine Learning Research 21 (2020), whose segments are one step.
    """
    check_network(network)
    factors = Factors(lambda N, g, m: ((g,), (m, N)), credit, lambda n, g, m: g, advance)

    small = network._replace(hidden=2)  # as the claim is tested
    return by_factors(network, factors, kronecker.enumerated(both_signs, len(both_signs(small))), segment, signs)


def both_signs(network: Network) -> np.ndarray:
    """Rows of orthogonal columns and their negatives, for the widest layer: ν has mean 0, ν νᵀ the identity."""
    rows = kronecker.hadamard(
        max(len(cell.gates) * H for cell, (_, H) in zip(network.cells, layer_sizes(network), strict=True))
    )
    return np.concatenate([rows, -rows])


def credit(factors: Pair, delta: Array) -> Array:
    """δs M = (A δs) ⊗ a."""
    a, A = factors
    return jnp.einsum("bmn,bn->bm", A, delta).T @ a


def advance(factors: Pair, crossing: Crossing, signs: Array) -> Pair:
    """The old product, and ν ⊗ Σ_t (C_t ν) u_t, whose mean is Σ_t C_t ⊗ u_t."""
    (a, A), (push, C, _, u) = factors, crossing
    pushed, new = push(A), u.T @ (C @ signs)
    rho0, inverse0 = kronecker.balance(kronecker.norm(a), kronecker.norm(pushed))
    rho1, inverse1 = kronecker.balance(kronecker.norm(signs), kronecker.norm(new))
    rho0, inverse0, rho1, inverse1 = (each.astype(a.dtype) for each in (rho0, inverse0, rho1, inverse1))
    return rho0 * a + rho1 * signs, inverse0 * pushed + inverse1 * new
