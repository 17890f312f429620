"""The dtype in which sums are taken: a long sum needs more digits than a short float has."""

import jax.numpy as jnp


def wide(dtype: jnp.dtype | type) -> jnp.dtype:
    """float32 for shorter floats, the dtype itself otherwise."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)
