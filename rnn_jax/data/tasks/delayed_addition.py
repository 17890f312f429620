"""Delayed addition: the sum of two inputs of some steps before, of which each is one dependency."""

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_int, check_key
from rnn_jax.types import Array, Batch

DELAYS = (6, 10)
LEVELS = {"no dependency": 0.66, "one dependency": 0.52, "both dependencies": 0.45}
"""Cross-entropy a step of the best predictor that knows none, one or both of the delayed inputs, rounded."""


def delayed_addition(key: Array, T: int, B: int) -> Batch:
    """Add two inputs of some steps before: y_t is 1 with probability ½ + ½ x_{t−6} − ¼ x_{t−10}.

    The inputs are coins.  The first ten steps, before which there is nothing to add, count as if x had been 0.

    Args:
      key: a PRNG key.
      T: the number of steps.
      B: the batch.

    Returns:
      A batch of tokens xs in {0, 1} and classes ys in {0, 1}, each int [T, B].

    Raises:
      InputError: a key that is none, or sizes that are no positive ints.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> batch = rj.data.delayed_addition(jax.random.key(0), T=100, B=2)
      >>> batch.xs.shape, batch.ys.shape
      ((100, 2), (100, 2))

    Source: Pitis, *Recurrent neural networks in TensorFlow I* (2016), as used by Marschall, Cho & Savin, Journal of
    Machine Learning Research 21 (2020).
    """
    check_key(key, "key")
    check_int(T, "T")
    check_int(B, "B")
    input_key, target_key = jax.random.split(key)
    first, second = DELAYS
    x = jax.random.bernoulli(input_key, jnp.float32(0.5), (T, B)).astype(jnp.float32)
    past = jnp.concatenate([jnp.zeros((second, B), jnp.float32), x])
    p = 0.5 + 0.5 * past[second - first : second - first + T] - 0.25 * past[:T]
    ys = jax.random.bernoulli(target_key, p).astype(jnp.int32)
    return Batch(x.astype(jnp.int32), ys)
