"""Copy memory: a string of symbols that is asked for after a long lag."""

import math

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_int, check_key
from rnn_jax.types import Array, Batch

SYMBOLS, LENGTH = 8, 10
BLANK, GO = SYMBOLS, SYMBOLS + 1
"""The tokens beside the symbols."""


def copy_memory(key: Array, lag: int, B: int) -> Batch:
    """Copy ten symbols after a lag: they are read, ``lag`` steps later a sign comes, and then they are said.

        xs:  s_1 … s_10  blank … blank  go  blank … blank
        ys:  blank … … … … … … … …  blank   s_1  … … s_10

    Of the T = lag + 20 steps all count.  The state is reset before the first one.  Those who remember nothing answer
    blank at first, and then any symbol: ``copy_memory_chance``.

    Args:
      key: a PRNG key.
      lag: steps from the last symbol that is read to the first that is said, less one.
      B: the batch.

    Returns:
      A batch of tokens xs in {0 … 9}, of which 8 is the blank and 9 the sign, and of classes ys in {0 … 8}, each int32
      [T, B], with reset.

    Raises:
      InputError: a key that is none, or sizes that are no positive ints.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> batch = rj.data.copy_memory(jax.random.key(0), lag=5, B=2)
      >>> batch.xs.shape, bool((batch.xs[:10] == batch.ys[-10:]).all())
      ((25, 2), True)
      >>> batch.xs[10:, 0].tolist()
      [8, 8, 8, 8, 9, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8]

    Source: Hochreiter & Schmidhuber, *Long short-term memory*, Neural Computation 9 (1997); in this form Arjovsky, Shah
    & Bengio, *Unitary evolution recurrent neural networks*, ICML (2016).
    """
    check_key(key, "key")
    check_int(lag, "lag")
    check_int(B, "B")
    symbols = jax.random.randint(key, (LENGTH, B), 0, SYMBOLS, jnp.int32)
    blanks = jnp.full((lag + LENGTH, B), BLANK, jnp.int32)
    xs, ys = jnp.concatenate([symbols, blanks.at[lag - 1].set(GO)]), jnp.concatenate([blanks, symbols])
    first = jnp.arange(len(xs))[:, None] == 0
    return Batch(xs, ys, reset=jnp.broadcast_to(first, xs.shape))


def copy_memory_chance(lag: int) -> float:
    """Cross-entropy a step of those who remember nothing.

        10 log 8 / (lag + 20)

    Args:
      lag: as in ``copy_memory``.

    Returns:
      Nats a step.

    Raises:
      InputError: a lag that is no positive int.

    Examples:
      >>> from rnn_jax.data.tasks import copy_memory_chance
      >>> round(copy_memory_chance(30), 3)
      0.416
    """
    check_int(lag, "lag")
    return LENGTH * math.log(SYMBOLS) / (lag + 2 * LENGTH)
