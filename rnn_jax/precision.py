"""Dtypes that are wide enough: of sums, which need more digits than a short float has, and of indices."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def accumulation_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype in which numbers of this one are summed: float32 for shorter floats, else the dtype itself."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def as_index(ids: jax.Array) -> jax.Array:
    """Tokens or classes as int32 where theirs is shorter: an int8 cannot be compared with the 300th class."""
    return ids.astype(jnp.int32) if ids.dtype.itemsize < 4 else ids
