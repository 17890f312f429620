"""Losses of one time step: the value ℓ(o_t) and the hand-written error ∂ℓ/∂o_t, where the reverse pass begins.

A window's loss is the sum of w_t ℓ(o_t) over the steps that count, with the weights w_t of the batch.
"""

import math

import jax.numpy as jnp
from jax import lax
from jax.nn import one_hot

from rnn_jax.precision import accumulation_dtype, as_index
from rnn_jax.types import Array, Batch, Loss


def softmax_cross_entropy() -> Loss:
    """Cross-entropy of a softmax over K classes with integer targets, in nats.

    With ŷ = softmax(o), the differences d_k = o_k − o_y to the target's logit, and m = max(0, max_k d_k):

        ℓ(o) = −log ŷ_y = log(1 + Σ_{k≠y} exp d_k) = m + log1p(Σ_{k≠y} exp(d_k − m) + expm1(−m))
        ∂ℓ/∂o_k = ŷ_k    (k ≠ y)
        ∂ℓ/∂o_y = −Σ_{k≠y} ŷ_k                          = ŷ_y − 1, derivation (3)

    This form subtracts no nearly equal numbers.  Value and error keep their digits for confident right predictions, and
    for logits with a large common offset.  The usual log Σ_k exp(o_k) − o_y and ŷ_y − 1 are 0 below about the rounding
    unit of the dtype.  No exponential overflows.

    A target outside 0 … K−1 has no class: its loss and its error are NaN.

    Choose it for tokens and classes.

    Returns:
      A Loss of logits float […, K] and targets int […].

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> loss = rj.softmax_cross_entropy()
      >>> o, y = jnp.zeros((1, 4)), jnp.array([2])
      >>> round(float(loss.value(o, y)[0]), 4)  # log 4
      1.3863
      >>> loss.error(o, y).tolist()
      [[0.25, 0.25, -0.75, 0.25]]

    Source: Prieto et al., *Grokking at the edge of numerical stability*, ICLR (2025), who call the gradient that
    vanishes early "softmax collapse".
    """
    return Loss("softmax_cross_entropy", _cross_entropy, _cross_entropy_error, integer_targets=True)


def squared_error() -> Loss:
    """Half the squared distance over the K outputs, derivation (4).

        ℓ(o) = ½ Σ_k (o_k − y_k)²      ∂ℓ/∂o = o − y

    Choose it for real-valued targets.  It is in the squared unit of the target.

    Returns:
      A Loss of outputs and targets float […, K].

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> loss = rj.squared_error()
      >>> loss.value(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])).tolist()
      [2.5]
    """
    return Loss("squared_error", _half_square, _difference, integer_targets=False)


def weighted_losses(loss: Loss, os: Array, ys: Array, mask: Array | None, weight: Array | None) -> Array:
    """The loss w ℓ(o) of each step, over any leading axes; zero where a step does not count.

    The target of a masked step, or of a step of weight 0, is never read, neither here nor by autodiff of this function.
    """
    ys, share = _shares(ys, mask, weight)
    values = loss.value(os, ys)
    return values if share is None else jnp.where(share != 0, values * share.astype(values.dtype), 0)


def weighted_errors(loss: Loss, os: Array, ys: Array, mask: Array | None, weight: Array | None) -> Array:
    """The error δo = w ∂ℓ/∂o of each step, in the logits' dtype: the derivative of ``weighted_losses``, by hand."""
    ys, share = _shares(ys, mask, weight)
    delta_os = loss.error(os, ys)
    if share is None:
        return delta_os
    share = share[..., None].astype(delta_os.dtype)
    return jnp.where(share != 0, delta_os * share, 0)


def total_weight(batch: Batch) -> Array:
    """The sum of the weights of the steps that count, in float32 at least; a mean divides by it.

    It is NaN where a weight is NaN or below 0.
    """
    if batch.weight is None:
        count = math.prod(batch.xs.shape[:2]) if batch.mask is None else batch.mask.sum()
        return jnp.asarray(count, jnp.float32)
    weight = jnp.asarray(batch.weight)
    weight = weight if batch.mask is None else jnp.where(batch.mask, weight, 0)
    valid = (weight >= 0).all().astype(accumulation_dtype(weight.dtype))
    return weight.sum(dtype=accumulation_dtype(weight.dtype)) * (valid / valid)


def _shares(ys: Array, mask: Array | None, weight: Array | None) -> tuple[Array, Array | None]:
    """The targets, 0 where a step has no share, and the weight of each step, 0 there; None: 1 everywhere."""
    if mask is None and weight is None:
        return ys, None
    share = jnp.asarray(mask, jnp.float32) if weight is None else jnp.asarray(weight)
    if mask is not None:
        share = jnp.where(mask, share, 0)
    seen = share != 0
    return jnp.where(seen if ys.ndim == share.ndim else seen[..., None], ys, 0), share


def _cross_entropy(o: Array, y: Array) -> Array:
    o, target, one_or_nan = _classes(o, y)
    o_y = jnp.where(target, o, 0).sum(axis=-1, keepdims=True)
    d = jnp.where(target, -jnp.inf, o - o_y)
    m = lax.stop_gradient(jnp.maximum(d.max(axis=-1, keepdims=True), 0))  # any m gives the same value
    return one_or_nan * (m + jnp.log1p(jnp.exp(d - m).sum(axis=-1, keepdims=True) + jnp.expm1(-m)))[..., 0]


def _cross_entropy_error(o: Array, y: Array) -> Array:
    precise, target, one_or_nan = _classes(o, y)
    e = jnp.exp(precise - precise.max(axis=-1, keepdims=True))
    others = jnp.where(target, 0, e / e.sum(axis=-1, keepdims=True))
    error = jnp.where(target, -others.sum(axis=-1, keepdims=True), others)
    return (one_or_nan[..., None] * error).astype(o.dtype)


def _classes(o: Array, y: Array) -> tuple[Array, Array, Array]:
    """Logits in float32 at least; where the target's class is, bool […, K]; 1, or NaN where there is none, […]."""
    o, y = o.astype(accumulation_dtype(o.dtype)), as_index(y)
    exists = ((y >= 0) & (y < o.shape[-1])).astype(o.dtype)
    # A quotient, not a NaN that is chosen from: with jax_debug_nans that one would stop a program on good data.
    return o, one_hot(y, o.shape[-1], dtype=bool), exists / exists


def _half_square(o: Array, y: Array) -> Array:
    difference = o.astype(accumulation_dtype(o.dtype)) - y.astype(accumulation_dtype(y.dtype))
    return 0.5 * (difference * difference).sum(axis=-1)


def _difference(o: Array, y: Array) -> Array:
    return o - y
