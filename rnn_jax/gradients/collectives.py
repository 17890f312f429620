"""Sums over a batch that is split, for rules that learn something of their own from all rows."""

from typing import TypeVar

import jax

Tree = TypeVar("Tree")
AXES = ("batch", "micro_batch")
"""The axes over which ``data_parallel`` and ``micro_batches`` split a batch."""


def sum_over_batch(tree: Tree) -> Tree:
    """The sum over all parts of a split batch; the tree itself where the batch is whole.

        Σ_p tree_p      over the parts of ``data_parallel`` and ``micro_batches``

    Choose it in an algorithm that learns something of its own, such as a predictor.  What an algorithm writes to
    ``Carry.shared`` must be the same in every part, so it first sums over the batch what its own rows contribute.

    Args:
      tree: arrays, computed from the rows of this part.

    Returns:
      A tree of the same form, the same in every part.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> float(rj.sum_over_batch(jnp.array(3.0)))  # the whole batch
      3.0
      >>> parts = jnp.array([1.0, 2.0])
      >>> jax.vmap(rj.sum_over_batch, axis_name="micro_batch")(parts).tolist()  # a batch in two parts
      [3.0, 3.0]
    """
    for axis in AXES:
        if _is_bound(axis):
            tree = jax.lax.psum(tree, axis)
    return tree


def _is_bound(axis: str) -> bool:
    try:
        jax.lax.axis_size(axis)
    except NameError:
        return False
    return True
