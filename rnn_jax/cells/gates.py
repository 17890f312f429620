"""Sigmoid gates whose two halves, σ and 1 − σ, both keep all their digits.

A gate that remembers is close to 1.  There 1 − σ, if computed from σ, has no digits left, neither in the forward pass
nor in any derivative that follows it: it is 0 from x ≈ 17 on in float32, from x ≈ 6 on in bfloat16.  So a gate is
stored as the smaller one of σ(x) and 1 − σ(x), with a sign that says which one it is::

    w = −σ(−x) where x > 0, else σ(x)        one number a gate, −½ < w ≤ ½
    σ(x) = 1 + w where w < 0, else w         1 − σ(x) = −w where w < 0, else 1 − w
    σ′(x) = |w| (1 − |w|) = dw/dx

Each is accurate to a few roundings of its own size, for every x, and autodiff of a step so written is as well.
"""

import jax.numpy as jnp
from jax import nn

from rnn_jax.types import Array


def gate(x: Array) -> Array:
    """The signed gate w of a pre-activation."""
    positive = x > 0
    # The choice is made inside of σ, since the derivative of −|x| at 0 would be 0.
    smaller = nn.sigmoid(jnp.where(positive, -x, x))
    return jnp.where(positive, -smaller, smaller)


def sigma(w: Array) -> Array:
    """σ(x) of a signed gate."""
    return jnp.where(jnp.signbit(w), 1 + w, w)  # the sign's bit, since w is −0 where the smaller one underflows


def complement(w: Array) -> Array:
    """1 − σ(x) of a signed gate."""
    return jnp.where(jnp.signbit(w), -w, 1 - w)


def slope(w: Array) -> Array:
    """σ′(x) of a signed gate."""
    smaller = jnp.abs(w)
    return smaller * (1 - smaller)
