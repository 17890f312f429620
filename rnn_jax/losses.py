"""Losses of one time step: the value ℓ(o_t) and the hand-written error ∂ℓ/∂o_t, where the reverse pass begins."""

import jax.numpy as jnp
from jax.nn import one_hot

from rnn_jax.precision import indices, wide
from rnn_jax.types import Array, Loss


def softmax_cross_entropy() -> Loss:
    """Cross-entropy of a softmax over K classes with integer targets, in nats.

    With ŷ = softmax(o), computed after the maximum is subtracted so that no exponential overflows::

        ℓ(o) = −log ŷ[y] = log Σ_k exp(o_k) − o[y]
        ∂ℓ/∂o = ŷ − onehot(y)                        derivation (3)

    A target outside 0 … K−1 has no class: its loss and its error are NaN, never that of a neighbour.
    """

    def valid(o: Array, y: Array) -> Array:
        return (y >= 0) & (y < o.shape[-1])

    def value(o: Array, y: Array) -> Array:
        o, y = o.astype(wide(o.dtype)), indices(y)
        m = o.max(axis=-1, keepdims=True)
        log_sum = jnp.log(jnp.exp(o - m).sum(axis=-1)) + m[..., 0]
        o_y = jnp.where(one_hot(y, o.shape[-1], dtype=bool), o, 0).sum(axis=-1)
        return jnp.where(valid(o, y), log_sum - o_y, jnp.nan)

    def error(o: Array, y: Array) -> Array:
        precise, y = o.astype(wide(o.dtype)), indices(y)
        e = jnp.exp(precise - precise.max(axis=-1, keepdims=True))
        y_hat = e / e.sum(axis=-1, keepdims=True)
        delta_o = jnp.where(
            valid(o, y)[..., None], jnp.where(one_hot(y, o.shape[-1], dtype=bool), y_hat - 1, y_hat), jnp.nan
        )
        return delta_o.astype(o.dtype)

    return Loss("softmax_cross_entropy", value, error, integer_targets=True)


def squared_error() -> Loss:
    """Half the squared distance over the K outputs: ℓ(o) = ½ Σ_k (o_k − y_k)², ∂ℓ/∂o = o − y; derivation (4)."""

    def value(o: Array, y: Array) -> Array:
        difference = (o - y).astype(wide(o.dtype))
        return 0.5 * (difference * difference).sum(axis=-1)

    return Loss("squared_error", value, error=lambda o, y: o - y, integer_targets=False)
