"""Singular values of a matrix whose rows differ in size by more than a float can hold."""

import numpy as np

SWEEPS = 60
"""More than any matrix has needed; rotations converge quadratically."""


def log_singular_values(logs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The logarithms of the singular values of diag(exp(logs)) · rows, each to the digits that the rows allow.

    One-sided Jacobi: rotations make each two rows orthogonal, and then the norms of the rows are the singular values.
    Each row stays a unit vector b and the logarithm of its norm.  With r ≤ 1 the ratio of the norms of a pair, and c
    the cosine between them::

        τ = −2c / (1 − r² + √((1 − r²)² + 4 r² c²))      cos = 1 / √(1 + r² τ²)
        b_large ← cos (b_large − r² τ b_small)            b_small ← cos (b_small + τ b_large)

    Nothing here is as large or as small as the norms, so that none of them over- or underflows, and the small ones have
    as many digits as the large ones.

    Args:
      logs: float64 [M, n], −inf for a row of zeros.
      rows: float64 [M, n, N], of M matrices; they need not be unit vectors.

    Returns:
      float64 [M, n], the largest first; −inf for 0, and for what rounding cannot tell from 0.

    Source: Demmel & Veselić, *Jacobi's method is more accurate than QR*, SIAM Journal on Matrix Analysis and
    Applications 13 (1992).
    """
    logs, rows = normalised(logs.astype(np.float64), rows.astype(np.float64))
    tolerance = logs.shape[1] * np.finfo(np.float64).eps
    turning = np.arange(len(logs))
    for _ in range(SWEEPS):
        logs[turning], rows[turning], furthest = _sweep(logs[turning], rows[turning], tolerance)
        turning = turning[furthest > tolerance]
        if not turning.size:
            break
    return -np.sort(-logs, axis=1)


def _sweep(logs: np.ndarray, rows: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn each two rows of every matrix once; the third result is the largest cosine that a matrix had, [M]."""
    M, n = logs.shape
    every, furthest = np.arange(M), np.zeros(M)
    for i in range(n):
        for j in range(i + 1, n):
            swapped = logs[:, j] > logs[:, i]
            large, small = np.where(swapped, j, i), np.where(swapped, i, j)
            (log_large, log_small), (b_large, b_small) = (
                [each[every, k] for k in (large, small)] for each in (logs, rows)
            )
            c = np.einsum("mk,mk->m", b_large, b_small)
            np.maximum(furthest, np.abs(c), out=furthest)
            if not (np.abs(c) > tolerance).any():
                continue
            r = np.exp(np.subtract(log_small, log_large, out=np.full(M, -np.inf), where=~np.isneginf(log_large)))
            gap = (1 - r) * (1 + r)
            below = gap + np.sqrt(gap * gap + 4 * (r * c) ** 2)
            tau = np.divide(-2 * c, below, out=np.zeros(M), where=below > 0)
            cos = 1 / np.sqrt(1 + (r * tau) ** 2)
            new_large = cos[:, None] * (b_large - (r * r * tau)[:, None] * b_small)
            new_small = cos[:, None] * (b_small + tau[:, None] * b_large)
            new_small[np.linalg.norm(new_small, axis=1) <= tolerance] = 0  # all its digits: the rows were parallel
            logs[every, large], rows[every, large] = normalised(log_large, new_large)
            logs[every, small], rows[every, small] = normalised(log_small, new_small)
    return logs, rows, furthest


def normalised(logs: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of norm 1, or of zeros, and the logarithms with those of the norms added."""
    norms = np.linalg.norm(rows, axis=-1)
    zero = (norms == 0) | np.isneginf(logs)
    scale = np.where(zero, 1.0, norms)
    return np.where(zero, -np.inf, logs + np.log(scale)), np.where(zero[..., None], 0.0, rows / scale[..., None])
