"""Any algorithm over a batch in parts, one after another, in the memory of one part."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.checks import check_int, check_parts, describe, is_array, require
from rnn_jax.precision import accumulation_dtype
from rnn_jax.types import Algorithm, Array, Batch, Carry, Estimate, Params


def micro_batches(algorithm: Algorithm, count: int) -> Algorithm:
    """The same algorithm with the batch in ``count`` parts, one after another.

    The sums of the parts add up to those of the whole batch:

        L = Σ_p L_p      dθ = Σ_p dθ_p      weight = Σ_p weight_p

    A training step divides by the summed weight, so its mean is that of the whole batch, however many steps count in
    each part.  The mean of the parts' means would differ.

    Choose it where the activations of the whole batch do not fit in memory: they take the memory of one part.  An
    algorithm with arrays in ``Carry.shared`` learns from all parts at once, so its parts run side by side, in the
    memory of all.

    Args:
      algorithm: ``bptt(network)`` or another.
      count: the number of parts; with one, the result is ``algorithm`` itself.

    Returns:
      An Algorithm with the same claim.

    Raises:
      InputError: not an algorithm or a positive int; when initialised or called, a batch that ``count`` does not
        divide.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 4), 0, 4)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> algorithm = rj.micro_batches(rj.bptt(network), 2)
      >>> carry, estimate = jax.eval_shape(algorithm.update, params, algorithm.init(params, 4), batch)
      >>> estimate.grads.V.shape, carry.recurrent[0][0].shape
      ((3, 4), (4, 3))
    """
    check_parts(algorithm, "algorithm", Algorithm, "an Algorithm, like bptt(network)")
    check_int(count, "count")
    if count == 1:
        return algorithm

    def init(params: Params, batch_size: int, key: Array | None = None) -> Carry:
        check_int(batch_size, "batch_size")
        multiple = f"a multiple of {count}, the number of parts"
        require(batch_size % count == 0, "batch_size", batch_size, multiple)
        return algorithm.init(params, batch_size, key)

    def update(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]:
        require(isinstance(carry, Carry), "carry", describe(carry), "a Carry, as from init")
        require(isinstance(batch, Batch), "batch", describe(batch), "a Batch")
        rows = _split(count, (carry.recurrent, carry.memory), 0, "carry")
        windows = _split(count, batch, 1, "batch")

        def part(rows: Any, window: Batch) -> tuple[Carry, Estimate]:
            recurrent, memory = rows
            return algorithm.update(params, Carry(recurrent, memory, carry.shared), window)

        def add(sums: Any, inputs: Any) -> tuple[Any, tuple[Carry, dict[str, Array]]]:
            after, estimate = part(*inputs)
            sums = jax.tree.map(lambda total, a: total + a.astype(total.dtype), sums, estimate[:3])
            return sums, (after, estimate.info)

        _, like = jax.eval_shape(part, *jax.tree.map(lambda a: a[0], (rows, windows)))
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, accumulation_dtype(a.dtype)), like[:3])
        if jax.tree.leaves(carry.shared):
            after, estimates = jax.vmap(part, axis_name="micro_batch")(rows, windows)
            sums = jax.tree.map(lambda total, a: a.sum(axis=0, dtype=total.dtype), zeros, estimates[:3])
            info = estimates.info
        else:
            sums, (after, info) = lax.scan(add, zeros, (rows, windows))
        sums = jax.tree.map(lambda total, a: total.astype(a.dtype), sums, like[:3])
        recurrent, memory, info = _joined((after.recurrent, after.memory, info))
        shared = jax.tree.map(lambda a: a[0], after.shared)
        loss, grads, weight = sums
        return Carry(recurrent, memory, shared), Estimate(loss, grads, weight, info)

    return Algorithm(init, update, algorithm.claim)


def _split(count: int, tree: Any, axis: int, name: str) -> Any:
    """The rows along an axis as [count, rows / count] parts, which come first."""

    def split(a: Array) -> Array:
        fits = is_array(a) and a.ndim > axis and a.shape[axis] % count == 0
        require(fits, name, describe(a), f"of arrays whose rows are a multiple of {count}, the number of parts")
        parts = a.reshape(*a.shape[:axis], count, -1, *a.shape[axis + 1 :])
        return jnp.moveaxis(parts, axis, 0)

    return jax.tree.map(split, tree)


def _joined(tree: Any) -> Any:
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tree)
