"""The flip-flop: three bits that are set now and then, and must be shown at every step."""

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.checks import check_int, check_key
from rnn_jax.types import Array, Batch

BITS, PULSE = 3, 0.1
"""How many bits, and the probability of a pulse, of each bit at each step."""


def flip_flop(key: Array, T: int, B: int) -> Batch:
    """Show the sign of the last pulse of each of three inputs, at every step.

        x_tk ∈ {−1, 0, 1}, not 0 with probability 1/10     y_tk = x_sk     s: the last step up to t where x_sk is not 0

    At the first step all inputs have a pulse.  The state is reset before it.  Those who remember nothing show what is
    there, or 0: ``flip_flop_chance``.

    Args:
      key: a PRNG key.
      T: the number of steps.
      B: the batch.

    Returns:
      A batch of inputs xs and targets ys, each float32 [T, B, 3], with reset.

    Raises:
      InputError: a key that is none, or sizes that are no positive ints.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> batch = rj.data.flip_flop(jax.random.key(0), T=8, B=1)
      >>> batch.xs[:, 0, 0].astype(int).tolist(), batch.ys[:, 0, 0].astype(int).tolist()
      ([1, 0, 0, -1, 0, 0, 0, 0], [1, 1, 1, -1, -1, -1, -1, -1])

    Source: Sussillo & Barak, *Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
    networks*, Neural Computation 25 (2013).
    """
    check_key(key, "key")
    check_int(T, "T")
    check_int(B, "B")
    pulse_key, sign_key = jax.random.split(key)
    signs = 2 * jax.random.bernoulli(sign_key, jnp.float32(0.5), (T, B, BITS)).astype(jnp.float32) - 1
    t = jnp.arange(T)[:, None, None]
    pulses = jax.random.bernoulli(pulse_key, jnp.float32(PULSE), signs.shape) | (t == 0)
    last = lax.cummax(jnp.where(pulses, t, 0), axis=0)
    ys = jnp.take_along_axis(signs, last, axis=0)
    return Batch(jnp.where(pulses, signs, 0), ys, reset=jnp.broadcast_to(t[..., 0] == 0, (T, B)))


def flip_flop_chance(T: int) -> float:
    """Half the squared error a step of those who remember nothing: ½ for each bit without a pulse.

        3/2 · 9/10 · (T − 1) / T

    Args:
      T: the number of steps.

    Returns:
      The loss of a step.

    Raises:
      InputError: a T that is no positive int.

    Examples:
      >>> from rnn_jax.data.tasks import flip_flop_chance
      >>> round(flip_flop_chance(100), 4)
      1.3365
    """
    check_int(T, "T")
    return BITS / 2 * (1 - PULSE) * (T - 1) / T
