"""Optimal Kronecker sums: the influence of each matrix as r products, reduced with the least variance that there is."""

import jax.numpy as jnp
from jax import lax
from jax.custom_batching import sequential_vmap

from rnn_jax.checks import check_int, check_network
from rnn_jax.gradients import kronecker
from rnn_jax.gradients.kronecker import Crossing, Factors, Signs, by_factors
from rnn_jax.precision import accumulation_dtype
from rnn_jax.types import Algorithm, Array, Network

Pairs = tuple[Array, Array]
"""a [r, m] and A [r, G·H, N]."""


def optimal_kronecker(
    network: Network, rank: int = 1, segment: int | None = None, signs: Signs | None = None
) -> Algorithm:
    """Optimal Kronecker sums (r-OK) by segments.  Unbiased, for every cell and depth.

    A matrix of parameters [W; U; b] has m = H + D + 1 rows, one for each feature of u_t = [h_{t−1}, x_t, 1].  A cell
    that sees u and v apart, as ``gru``, has two matrices, with the features [x_t, 1] and [h_{t−1}, 1].  The influence
    of each matrix on all N state values is estimated by r products, Σ a_i ⊗ A_i, of a_i [m] and A_i [G·H, N].  At the
    border of a segment of n steps, with its J = ∂s_end/∂s_start and C_t = ∂s_end/∂z_t [N, G·H], the r old products and
    the n new ones are written as a sum of p orthogonal ones, and that as a random sum of r, with random signs c and a
    matrix Z [p, r] of orthonormal columns:

        G += (BPTT of the segment)  +  Σ_i (A_i δs_start) ⊗ a_i
        Σ_i a_i ⊗ A_i Jᵀ + Σ_t u_t ⊗ C_tᵀ = Σ_i σ_i x_i ⊗ y_i        by QR of both sides, and SVD of the core
        a_j ← Σ_i c_i L_ij x_i      A_j ← Σ_i c_i L_ij y_i
        L_ij = √(σ_i / q_i) Z_ij    ‖Z_i‖² = q_i = min(1, σ_i / λ)    λ such that Σ q_i = r

    The mean over the signs is Σ σ_i x_i ⊗ y_i.  A large σ stays as it is, q_i = 1, and the others share what is left of
    r: no unbiased estimate of rank r has less variance.  Where r is m, or the number of all steps so far, nothing is
    random, and every draw equals ``rtrl``.

    The memory is r times that of ``kf_rtrl``.  So is the time, O(r H³) a step, beside a factorisation of min(r + n, m)
    vectors of G·H · N numbers a border.  At rank 1 its noise is a little below that of KF-RTRL.

    Choose it if M of ``rtrl`` does not fit in memory, and ``uoro`` is too noisy.  Choose r by the memory there is: the
    noise falls as r grows.

    Args:
      network: what to differentiate.
      rank: r, how many products; 1 or more.
      segment: n, steps per segment, any length; by default the whole window.
      signs: ``border -> c``, min(r + n, m) signs, in place of random ones, for listing all outcomes.

    Returns:
      An Algorithm that draws random numbers.  Its carry's memory holds r pairs of a and A of each matrix and example;
      the exact influence of each parameter that is one number a unit; and a key for each example.

    Raises:
      InputError: when built, an invalid network, rank or segment, or ``signs`` that is no function; in ``update``,
        whatever does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (5, 2), 0, 4)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> _, grads = jax.jit(rj.value_and_grad(rj.optimal_kronecker(network, rank=3, segment=1)))(params, batch)
      >>> _, exact = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
      >>> rj.worst(rj.compare(grads, exact))[1] < 1e-5  # three steps come before the last border, and r is 3
      True

    Source: Benzing et al., *Optimal Kronecker-sum approximation of real time recurrent learning*, ICML (2019), whose
    segments are one step: there p is r + 1.
    """
    check_network(network)
    check_int(rank, "rank")

    def zeros(N: int, g: int, m: int) -> tuple[tuple[int, ...], ...]:
        return (rank, m), (rank, g, N)

    table = kronecker.hadamard(rank + 2)
    claim = kronecker.enumerated(lambda network: table, len(table))
    return by_factors(network, Factors(zeros, credit, lambda n, g, m: min(rank + n, m), advance), claim, segment, signs)


def credit(factors: Pairs, delta: Array) -> Array:
    """δs M = Σ_i a_i ⊗ (A_i δs)."""
    a, A = factors
    m = a.shape[-1]
    share = jnp.einsum("brgn,bn->brg", A, delta)
    return a.reshape(-1, m).T @ share.reshape(-1, share.shape[-1])


def advance(factors: Pairs, crossing: Crossing, signs: Array) -> Pairs:
    """Old products and new ones as a sum of orthogonal ones, and of these a random sum of r."""
    (a, A), (push, C, _, u) = factors, crossing
    (r, m), (_, g, N), dtype = a.shape, A.shape, a.dtype
    pushed = push(A)
    left, right = jnp.concatenate([a, u]), jnp.concatenate([pushed, C.swapaxes(1, 2)]).reshape(-1, g * N)
    left, right = (each.astype(accumulation_dtype(dtype)) for each in (left, right))
    left = jnp.where(jnp.any(right != 0, axis=1)[:, None], left, 0)
    if len(left) > m:  # more products than features: the influence itself is smaller
        left, right = jnp.eye(m, dtype=left.dtype), left.T @ right
    X, sigma, Y = singular_values(left, right)
    mixed = (signs[: len(sigma), None].astype(sigma.dtype) * mixing(sigma, r)).T
    return (mixed @ X.T).astype(dtype), (mixed @ Y.T).reshape(r, g, N).astype(dtype)


def singular_values(left: Array, right: Array) -> tuple[Array, Array, Array]:
    """X [m, p], σ [p] in falling order and Y [g N, p] of leftᵀ right = X diag(σ) Yᵀ, from [q, m] and [q, g N].

    One by one under ``vmap``: in jaxlib 0.10 a thread of the CPU's pool waits there until other threads have done their
    parts of a batch, so that two batched factorisations at once, on two cores, wait for each other for ever.
    """
    X, sigma, Y = sequential_vmap(_singular_values)(left, right)
    return X, sigma, Y


def _singular_values(left: Array, right: Array) -> tuple[Array, Array, Array]:
    Q_left, R_left = jnp.linalg.qr(left.T)
    Q_right, R_right = jnp.linalg.qr(right.T)
    X, sigma, Y_T = jnp.linalg.svd(R_left @ R_right.T, full_matrices=False)
    X, Y = Q_left @ X, Q_right @ Y_T.T
    sums = X.sum(axis=0, keepdims=True)
    upright = jnp.where(sums < 0, -1, 1).astype(X.dtype)  # else rounding may choose the sign of a pair
    return upright * X, sigma, upright * Y


def mixing(sigma: Array, r: int) -> Array:
    """L [p, r] from singular values in falling order: with a random sign a row, the mean of L Lᵀ is diag(σ)."""
    p = len(sigma)
    sigma = jnp.where(sigma > p * jnp.finfo(sigma.dtype).eps * sigma[:1], sigma, 0)
    if p <= r:
        return jnp.pad(jnp.diag(jnp.sqrt(sigma)), ((0, 0), (0, r - p)))
    k, index = jnp.arange(r, 0, -1, dtype=sigma.dtype), jnp.arange(p)
    tails = jnp.cumsum(sigma[::-1])[::-1]
    head = jnp.argmax(k * sigma[:r] <= tails[:r])  # the first one: the largest k
    k, tail = k[head], tails[head]
    shares = jnp.where(index < head, 1, sigma * k / jnp.where(tail > 0, tail, 1))
    shares = jnp.where(tail > 0, shares, (index < r).astype(sigma.dtype))
    scale = jnp.where(index < head, jnp.sqrt(sigma), jnp.sqrt(tail / k))
    return scale[:, None] * orthonormal(shares, r)


def orthonormal(shares: Array, r: int) -> Array:
    """Z [p, r] with orthonormal columns whose rows have these squared norms, in falling order; their sum is r."""
    p = len(shares)
    Z = jnp.eye(p, r, dtype=shares.dtype)

    def rotate(_: int, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        Z, norms, i, j = state  # row i < r is too long, row j ≥ r too short, and they are orthogonal
        excess, want = norms[i] - shares[i], shares[j] - norms[j]
        moved, between = jnp.minimum(excess, want), norms[i] - norms[j]
        counts = moved > p * jnp.finfo(Z.dtype).eps  # a rest of rounding would turn rows by its root
        sine2 = jnp.clip(jnp.where(counts, moved / jnp.where(counts, between, 1), 0), 0, 1)
        s, c = jnp.sqrt(sine2), jnp.sqrt(1 - sine2)
        long, short = Z[i], Z[j]
        Z = Z.at[i].set(c * long - s * short).at[j].set(s * long + c * short)
        norms = norms.at[i].add(-moved).at[j].add(moved)
        done = (excess <= want).astype(i.dtype)
        return Z, norms, i + done, j + 1 - done

    start = Z, (jnp.arange(p) < r).astype(Z.dtype), jnp.asarray(0), jnp.asarray(r)
    turned: Array = lax.fori_loop(0, p - 1, rotate, start)[0]
    return turned
