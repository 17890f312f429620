"""Copying of strings of bits, whose length a curriculum may change."""

import math

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_array, check_int, check_key, require
from rnn_jax.types import Array, Batch

COPYING_CHANCE = math.log(2)
"""Cross-entropy of a recalled bit for those who remember nothing."""


def copying(key: Array, T: int, B: int, length: int | Array) -> Batch:
    """Copy bits: a string of them is read, and then said again.  Such problems follow each other.

    A problem takes 2·length steps: in the first half the inputs are bits, 0 or 1; in the second half the input is 2,
    and the targets are the bits in their order.  Only these count in the loss, by ``weight``.  The state is reset
    before each problem.  What is left of the T steps after the last whole problem is masked.  The shapes do not depend
    on the length, so that a curriculum may change it inside of ``jit``.

    Args:
      key: a PRNG key.
      T: the number of steps, 2·length or more.
      B: the batch.
      length: bits of a problem; an int, or a traced int32 of 1 or more.

    Returns:
      A batch of tokens xs in {0, 1, 2} and classes ys in {0, 1}, each int [T, B], with mask, reset and weight.

    Raises:
      InputError: a key that is none, sizes that are no positive ints, or a length of more than T / 2.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> xs, ys, mask, reset, weight = rj.data.copying(jax.random.key(0), T=7, B=1, length=3)
      >>> xs[:, 0].tolist(), ys[3:6, 0].tolist(), mask[:, 0].tolist()[-2:]
      ([0, 0, 1, 2, 2, 2, 1], [0, 0, 1], [True, False])

    Source: Graves, Wayne & Danihelka, *Neural Turing machines*, arXiv:1410.5401 (2014); with a curriculum of lengths in
    Menick et al., *A practical sparse approximation for real time recurrent learning*, ICLR (2021).
    """
    check_key(key, "key")
    check_int(T, "T")
    check_int(B, "B")
    if isinstance(length, jax.Array):
        check_array(length, "length", (), "int")
    else:
        check_int(length, "length")
        require(2 * length <= T, "length", length, f"T / 2, {T // 2}, at most")
    t = jnp.arange(T)
    position = t % (2 * length)
    bits = jax.random.bernoulli(key, jnp.float32(0.5), (T, B)).astype(jnp.int32)
    recalled = (position >= length)[:, None]
    said = bits[jnp.maximum(t - length, 0)]
    of_a_problem, first = t < T // (2 * length) * (2 * length), position == 0
    mask, reset = (each[:, None] | jnp.zeros((1, B), bool) for each in (of_a_problem, first))
    weight = jnp.where(recalled, jnp.ones((1, B), jnp.float32), 0)
    return Batch(jnp.where(recalled, 2, bits), jnp.where(recalled, said, 0), mask, reset, weight)
