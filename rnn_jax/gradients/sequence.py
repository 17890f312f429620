"""The gradient of a whole sequence by any algorithm, in the shape of ``jax.value_and_grad``."""

from collections.abc import Callable

import jax

from rnn_jax.checks import check_key, check_parts, describe, is_array, require
from rnn_jax.types import Algorithm, Array, Batch, Params


def value_and_grad(algorithm: Algorithm) -> Callable[..., tuple[Array, Params]]:
    """``value_and_grad(algorithm)(params, batch, key=None) -> (loss, grads)``, from the zero state.

    Loss and gradients are weighted sums over the steps that count and the batch.  The key is used by stochastic
    algorithms only; without one they use ``jax.random.key(0)``.  A pure function: wrap it in ``jax.jit``.
    """
    check_parts(algorithm, "algorithm", Algorithm, "an Algorithm, like bptt(network)")

    def of_batch(params: Params, batch: Batch, key: Array | None = None) -> tuple[Array, Params]:
        require(isinstance(batch, Batch), "batch", describe(batch), "a Batch")
        require(is_array(batch.xs) and batch.xs.ndim >= 2, "batch.xs", describe(batch.xs), "int[T,B] or float[T,B,D]")
        key = jax.random.key(0) if key is None else key
        check_key(key, "key")
        _, estimate = algorithm.update(params, algorithm.init(params, batch.xs.shape[1], key), batch)
        return estimate.loss, estimate.grads

    return of_batch
