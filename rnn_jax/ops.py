"""Products and sums as each platform computes them fastest; the tricks of both are here, each with its reason.

The equations that use them are in ``recurrence`` and in ``gradients``.  Sums are taken in float32 at least.
"""

import math
from collections.abc import Callable
from typing import TypeVar

import chex
import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.precision import accumulation_dtype, as_index
from rnn_jax.types import Array

T = TypeVar("T")

STEPS_FORWARD, STEPS_REVERSE = 8, 4
"""Steps unrolled in a pass of either time loop on an accelerator.  There a small step costs as much as the launches of
its kernels, and what several steps leave is written by one kernel.  A CPU launches nothing: one step."""

LANES, BLOCKS = 8, 4
"""Rows of a batch that fill a CPU's vector register, or half of one; column blocks of a single row's product."""

CACHE = 2**20
"""Bytes that a core of a CPU holds close to it, its second-level cache: 1 MiB on server CPUs of 2022 and later."""


def matmul(a: Array, M: Array, M_T: Array) -> Array:
    """A M for a few rows, [B, m] and [m, n] to [B, n]; ``M_T`` is Mᵀ.

    On a CPU the plain product reads all of M once for every few rows, and only one core reads it for a single row.  So
    where B is a multiple of 8 and M larger than a core's cache, the product is computed as (Mᵀ aᵀ)ᵀ, which reads M
    once, with the rows of the batch along the vectors: the whole gradient of an LSTM with H = 384 takes 8 % less time
    for it.  The product of a single row is split into blocks of columns, which XLA shares among the cores: 20 % less
    time at H = 256.  Below these sizes both are slower than the plain product.
    """
    chex.assert_rank([a, M, M_T], 2)

    def turned(a: Array, M: Array, M_T: Array) -> Array:
        v_T: Array = lax.optimization_barrier(lax.dot_general(M_T, a, (((1,), (1,)), ((), ()))))
        return v_T.T  # without the barrier XLA turns the product back

    def blocked(a: Array, M: Array, M_T: Array) -> Array:
        blocks = M_T.reshape(math.gcd(len(M_T), BLOCKS), -1, M_T.shape[1])
        rows = jnp.broadcast_to(a, (len(blocks), *a.shape))
        v: Array = lax.optimization_barrier(lax.dot_general(blocks, rows, (((2,), (2,)), ((0,), (0,)))))
        return v.reshape(1, -1)

    B, size = a.shape[0], M.size * M.dtype.itemsize
    if not isinstance(B, int):  # a program exported for any batch size
        return a @ M
    if (B % LANES or size <= CACHE) if B > 1 else size <= CACHE / 2:
        return a @ M
    on_cpu = blocked if B == 1 else turned
    v: Array = lax.platform_dependent(a, M, M_T, cpu=on_cpu, default=lambda a, M, M_T: a @ M)
    return v


def affine(a: Array, M: Array, bias: Array | None) -> Array:
    """A M + bias over any leading axes of a; summed in float32 at least, as its cotangents then are by autodiff."""
    chex.assert_axis_dimension(a, -1, M.shape[0])
    return add_bias(jnp.matmul(a, M, preferred_element_type=accumulation_dtype(M.dtype)), bias).astype(M.dtype)


def add_bias(rows: Array, bias: Array | None) -> Array:
    """Rows plus a bias, if there is one.

    Short floats are added in float32: the sum is the same, but autodiff of it then sums in float32.
    """
    if bias is None:
        return rows
    row = bias.reshape((1,) * (rows.ndim - 1) + (-1,))
    wide_rows, wide_row = (a.astype(accumulation_dtype(a.dtype)) for a in (rows, row))
    return (wide_rows + wide_row).astype(rows.dtype)


def take_rows(M: Array, tokens: Array) -> Array:
    """The row of each token, [D, n] and int […] to […, n]; NaN for a token outside 0 … D−1."""
    rows: Array = jnp.asarray(M).at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
    return rows


def sum_outer_products(a: Array, b: Array) -> Array:
    """Σ aᵀ b over all rows: […, m] and […, n] to [m, n].

    A CPU transposes the product's first operand before anything else: there the narrower one comes first, 1 to 7 % of
    the whole gradient's time less, and transposed by hand, since XLA for CPUs aborts on the other form under ``vmap``.
    """
    chex.assert_equal_shape_prefix([a, b], a.ndim - 1)
    a, b = (each.reshape(-1, each.shape[-1]) for each in (a, b))

    def straight(a: Array, b: Array) -> Array:
        return lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=accumulation_dtype(b.dtype))

    def turned(a: Array, b: Array) -> Array:
        product = jnp.matmul(lax.optimization_barrier(b.T), a, preferred_element_type=accumulation_dtype(b.dtype))
        total: Array = lax.optimization_barrier(product)
        return total.T

    if b.shape[-1] >= a.shape[-1]:
        return straight(a, b)
    total: Array = lax.platform_dependent(a, b, cpu=turned, default=straight)
    return total


def sum_rows_by_token(tokens: Array, rows: Array, D: int) -> Array:
    """Σ onehot(token)ᵀ row: int [n, B] and [n, B, N] to [D, N].

    On a CPU each row is added to that of its token: 4 to 7 % less of the whole gradient's time than by a product with
    one-hot rows, which accelerators are better at.
    """
    chex.assert_equal_shape_prefix([tokens, rows], tokens.ndim)
    tokens, N = as_index(tokens), rows.shape[-1]
    sums = jnp.zeros((D, N), accumulation_dtype(rows.dtype))
    windows = lax.ScatterDimensionNumbers((1, 2), (), (0,))  # of [1, N]: with .at[].add XLA copies all rows first
    total: Array = lax.platform_dependent(
        tokens.reshape(-1, 1),
        rows.reshape(-1, 1, N),
        cpu=lambda tokens, rows: lax.scatter_add(sums, tokens, rows.astype(sums.dtype), windows, mode="drop"),
        default=lambda tokens, rows: sum_outer_products(jax.nn.one_hot(tokens, D, dtype=rows.dtype), rows),
    )
    return total


def sum_rows(a: Array) -> Array:
    """Σ a over all rows: […, n] to [n]."""
    return a.sum(axis=tuple(range(a.ndim - 1)), dtype=accumulation_dtype(a.dtype))


def by_platform(run: Callable[[int], T], unroll: int) -> T:
    """``run(unroll)``, with that many steps in a pass of its loop, on an accelerator, and ``run(1)`` on a CPU."""
    result: T = lax.platform_dependent(cpu=lambda: run(1), default=lambda: run(unroll))
    return result
