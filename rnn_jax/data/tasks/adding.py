"""The adding problem: two marked numbers among many, whose sum is asked for at the end."""

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_int, check_key, require
from rnn_jax.types import Array, Batch

ADDING_CHANCE = 1 / 12
"""Half the squared error of those who remember nothing and answer 1: half the variance 1/6 of the sum."""


def adding(key: Array, T: int, B: int) -> Batch:
    """Add two marked numbers: y_T = x_r + x_s, with r in the first half of the steps and s in the second.

        x_t ~ U[0, 1)     r ~ U{0 … T/2 − 1}     s ~ U{T/2 … T − 1}

    Each input is a number and its mark, 1 at r and s and else 0.  Only the last step counts in the loss, by ``weight``.
    The state is reset before the first step.

    Args:
      key: a PRNG key.
      T: the number of steps, 2 or more.
      B: the batch.

    Returns:
      A batch of inputs xs float32 [T, B, 2] and targets ys float32 [T, B, 1], with reset and weight.

    Raises:
      InputError: a key that is none, or sizes that are no positive ints, or a T of 1.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> batch = rj.data.adding(jax.random.key(0), T=50, B=3)
      >>> numbers, marks = batch.xs[..., 0], batch.xs[..., 1]
      >>> bool(((numbers * marks).sum(axis=0) == batch.ys[-1, :, 0]).all()), batch.weight.sum(axis=0).tolist()
      (True, [1.0, 1.0, 1.0])

    Source: Hochreiter & Schmidhuber, *Long short-term memory*, Neural Computation 9 (1997); with a mark in each half of
    a fixed number of steps in Arjovsky, Shah & Bengio, *Unitary evolution recurrent neural networks*, ICML (2016).
    """
    check_key(key, "key")
    check_int(T, "T")
    check_int(B, "B")
    require(T > 1, "T", T, "2 or more")
    number_key, first_key, second_key = jax.random.split(key, 3)
    numbers = jax.random.uniform(number_key, (T, B), jnp.float32)
    first = jax.random.randint(first_key, (1, B), 0, T // 2, jnp.int32)
    second = jax.random.randint(second_key, (1, B), T // 2, T, jnp.int32)
    t = jnp.arange(T, dtype=jnp.int32)[:, None]
    marks = ((t == first) | (t == second)).astype(jnp.float32)
    last = jnp.broadcast_to(t == T - 1, (T, B)).astype(jnp.float32)
    xs = jnp.stack([numbers, marks], axis=-1)
    ys = last * (numbers * marks).sum(axis=0, keepdims=True)
    return Batch(xs, ys[..., None], reset=jnp.broadcast_to(t == 0, (T, B)), weight=last)
