"""The gradient of a whole sequence by any algorithm, in the shape of ``jax.value_and_grad``."""

from collections.abc import Callable

import jax

from rnn_jax.checks import check_key, check_parts, describe, is_array, require
from rnn_jax.types import Algorithm, Array, Batch, Params


def value_and_grad(algorithm: Algorithm) -> Callable[..., tuple[Array, Params]]:
    """The loss and gradient of a whole sequence by any algorithm, from the zero state.

        value_and_grad(algorithm)(params, batch, key=None) -> (loss, grads)

    Loss and gradients are weighted sums over the steps that count and the batch.  Stochastic algorithms use the key,
    which is ``jax.random.key(0)`` by default; the others ignore it.

    Choose it for one gradient, in the form of ``jax.value_and_grad``.  For training over windows choose
    ``train.make_step``, which carries the state.

    Args:
      algorithm: ``bptt(network)`` or another.

    Returns:
      A pure function, to be wrapped in ``jax.jit``.  ``loss`` is a scalar in float32 at least; ``grads`` are Params.

    Raises:
      InputError: not an algorithm; when called, parameters, a batch or a key that do not fit.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = jax.tree.map(jnp.zeros_like, rj.init(network, jax.random.key(0)))
      >>> tokens = jnp.array([[0], [1], [2]])  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> loss, grads = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
      >>> round(float(loss), 4)  # 2 log 4
      2.7726
      >>> grads.c.tolist()  # the sum of ŷ − y over two steps
      [0.5, -0.5, -0.5, 0.5]
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
