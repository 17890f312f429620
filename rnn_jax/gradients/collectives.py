"""Sums over a batch that is split, for rules that learn something of their own from all of it."""

from typing import TypeVar

import jax

Tree = TypeVar("Tree")
AXES = ("batch", "micro_batch")
"""The axes over which ``data_parallel`` and ``micro_batches`` split a batch."""


def sum_over_batch(tree: Tree) -> Tree:
    """The sum over all parts of a split batch; the tree itself where the batch is whole.

    What an algorithm writes to ``Carry.shared`` must be the same in every part, so whatever it learns there from its
    own rows goes through this.
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
