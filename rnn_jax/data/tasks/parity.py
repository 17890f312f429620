"""Parity: one bit of state that must be kept exactly, for strings of any length."""

import math

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_int, check_key, require
from rnn_jax.types import Array, Batch

PARITY_CHANCE = math.log(2)
"""Cross-entropy of a step after the first, for those who remember nothing."""


def parity(key: Array, T: int, B: int, shortest: int | None = None) -> Batch:
    """Tell at each step whether the ones so far are odd: y_t = (x_1 + … + x_t) mod 2, for coins x.

    Strings have lengths from ``shortest`` to T, each as likely, and the steps after their end are masked.  The state is
    reset before the first step.  A network that keeps the state exactly is right at lengths that it has never seen.

    Args:
      key: a PRNG key.
      T: the number of steps, and the longest length.
      B: the batch.
      shortest: the shortest length; None: all have T.

    Returns:
      A batch of tokens xs in {0, 1} and classes ys in {0, 1}, each int32 [T, B], with mask and reset.

    Raises:
      InputError: a key that is none, sizes that are no positive ints, or a shortest length of more than T.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> batch = rj.data.parity(jax.random.key(0), T=6, B=1)
      >>> batch.xs[:, 0].tolist(), batch.ys[:, 0].tolist()
      ([0, 1, 1, 1, 1, 0], [0, 1, 0, 1, 0, 0])

    Source: the XOR of all bits so far, as in Grazzi et al., *Unlocking state-tracking in linear RNNs through negative
    eigenvalues*, arXiv:2411.12537 (2024), who prove which recurrences cannot compute it.
    """
    check_key(key, "key")
    check_int(T, "T")
    check_int(B, "B")
    shortest = T if shortest is None else shortest
    check_int(shortest, "shortest")
    require(shortest <= T, "shortest", shortest, f"T, {T}, at most")
    bit_key, length_key = jax.random.split(key)
    xs = jax.random.bernoulli(bit_key, jnp.float32(0.5), (T, B)).astype(jnp.int32)
    lengths = jax.random.randint(length_key, (1, B), shortest, T + 1, jnp.int32)
    t = jnp.arange(T, dtype=jnp.int32)[:, None]
    return Batch(xs, xs.cumsum(axis=0, dtype=jnp.int32) % 2, mask=t < lengths, reset=jnp.broadcast_to(t == 0, (T, B)))
