"""One recurrent layer through time, and its hand-written reverse.

The forward pass is a ``lax.scan`` of the cell's step; what does not depend on the previous step has left it,
derivation (D2) and (D8)::

    u_t = x_t U + b          one product (or gather) for all steps
    v_t = h_{t−1} W (+ d)    the one product inside the loop
    s_t = f(s_{t−1}, u_t, v_t)

The reverse pass walks the cell's adjoint back and leaves the parameter gradients to products over all steps,
derivation (17), (10) to (13) and (21)::

    δh_t += (the readout's or the next layer's share)
    δs_{t−1}, δu_t, δv_t = adjoint(δs_t)
    δh_{t−1} += δv_t Wᵀ      the one product inside the loop
    dU = Σ x_tᵀ δu_t    db = Σ δu_t    dW = Σ h_{t−1}ᵀ δv_t    dd = Σ δv_t    δx_t = δu_t Uᵀ

A step whose ``mask`` is False holds the state and contributes nothing; a ``reset`` replaces s_{t−1} by zero before a
step that counts, and cuts the gradient there.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax.checks import (
    check_array,
    check_flags,
    check_inputs,
    check_layer,
    check_parts,
    check_units,
    describe,
    require,
)
from rnn_jax.precision import wide
from rnn_jax.types import Array, Cell, Layer, Units


class Kept(NamedTuple):
    """What the forward pass keeps for the reverse pass."""

    ss: Units
    """The states s_1 … s_T, each [T, B, H]; the first one is hs."""
    residual: Units
    """The cell's residuals, each [T, B, H]."""


Saved = tuple[Layer, Array, Units, Kept, Array | None, Array | None]


def zero_state(cell: Cell, batch_size: int, hidden: int, dtype: jnp.dtype) -> Units:
    """The initial state of a layer: S arrays of zeros [B, H]."""
    return tuple(jnp.zeros((batch_size, hidden), dtype) for _ in cell.states)


def forward(
    cell: Cell, layer: Layer, xs: Array, s0: Units, mask: Array | None = None, reset: Array | None = None
) -> tuple[Units, Kept]:
    """Run a layer over a window: ``(s_T, kept)``, with ``hs = kept.ss[0]``.  Plain JAX, differentiable by autodiff.

    Args:
      xs: int tokens [T, B] or floats [T, B, D].  A token outside 0 … D−1 gives NaN.
      s0: S arrays [B, H].
      mask, reset: bool [T, B] or None.
    """

    def step(s_prev: Units, inputs: tuple[Array, Array | None, Array | None]) -> tuple[Units, tuple[Units, Units]]:
        u, mask_t, reset_t = inputs
        s_start = _where_not(reset_t, s_prev)
        v = affine(s_start[0], layer.W, layer.d)
        s, residual = cell.step(s_start, _gates(cell, u), _gates(cell, v))
        if mask_t is not None:
            s = tuple(jnp.where(mask_t[:, None], new, old) for new, old in zip(s, s_prev, strict=True))
        return s, (s, residual)

    s_T, (ss, residual) = lax.scan(step, s0, (_project(layer, _valid(xs, mask)), mask, reset))
    return s_T, Kept(ss, residual)


def reverse(
    cell: Cell,
    layer: Layer,
    xs: Array,
    s0: Units,
    kept: Kept,
    delta_hs: Array,
    delta_s_T: Units,
    mask: Array | None = None,
    reset: Array | None = None,
) -> tuple[Layer, Array, Units]:
    """Run a layer's adjoint back over a window: ``(gradients of the layer, delta_us, delta_s0)``.

    Args:
      xs, s0, mask, reset: as given to ``forward``; ``kept`` is what it returned.
      delta_hs: ∂L/∂h_t through everything but the next step, [T, B, H].
      delta_s_T: ∂L/∂s_T through everything after the window, S arrays [B, H].

    Returns:
      The layer's gradients, summed over steps and batch, in float32 at least; ``delta_us`` [T, B, G·H], from
      which δx_t = δu_t Uᵀ; ``delta_s0``, S arrays [B, H].
    """
    s_starts = _where_not(reset, tuple(jnp.concatenate([s[None], ss[:-1]]) for s, ss in zip(s0, kept.ss, strict=True)))

    def step(delta_s: Units, inputs: tuple[Any, ...]) -> tuple[Units, tuple[Array, Array]]:
        s_start, s, residual, delta_h, mask_t, reset_t = inputs
        delta_s = (delta_s[0] + delta_h, *delta_s[1:])
        delta_s_prev, delta_u_gates, delta_v_gates = cell.adjoint(s_start, s, residual, delta_s)
        delta_u = jnp.concatenate(delta_u_gates, axis=-1)
        delta_v = delta_u if delta_v_gates is delta_u_gates else jnp.concatenate(delta_v_gates, axis=-1)
        delta_s_prev = (delta_s_prev[0] + delta_v @ layer.W.T, *delta_s_prev[1:])
        delta_s_prev = _where_not(reset_t, delta_s_prev)
        if mask_t is not None:
            counts = mask_t[:, None]
            delta_u, delta_v = (jnp.where(counts, delta, 0) for delta in (delta_u, delta_v))
            delta_s_prev = tuple(jnp.where(counts, new, old) for new, old in zip(delta_s_prev, delta_s, strict=True))
        return delta_s_prev, (delta_u, delta_v)

    delta_s0, (delta_us, delta_vs) = lax.scan(
        step, delta_s_T, (s_starts, kept.ss, kept.residual, delta_hs, mask, reset), reverse=True
    )
    xs = _valid(xs, mask)
    xs_rows = jax.nn.one_hot(xs, layer.U.shape[0], dtype=delta_us.dtype) if _are_tokens(xs) else xs
    gradients = Layer(
        U=outer_sum(xs_rows, delta_us),
        W=outer_sum(s_starts[0], delta_vs),
        b=row_sum(delta_us),
        d=None if layer.d is None else row_sum(delta_vs),
    )
    return gradients, delta_us, delta_s0


def unroll(
    cell: Cell, layer: Layer, xs: Array, s0: Units, mask: Array | None = None, reset: Array | None = None
) -> tuple[Array, Units]:
    """Run a layer over a window: ``(hs, s_T)``.  ``jax.grad`` through it uses the hand-written reverse.

    The drop-in recurrent layer for any JAX model: cotangents for the layer's parameters, float inputs and the initial
    state; works under ``jit`` and ``vmap``.  Reverse mode only, as any ``custom_vjp``.

    Args:
      cell: ``elman()``, ``lstm()``, ``gru()`` or one of your own.
      layer: its parameters.
      xs: int tokens [T, B] or floats [T, B, D].
      s0: the initial state, S arrays [B, H], as from ``zero_state``.
      mask: bool [T, B] or None; a step that does not count holds the state.
      reset: bool [T, B] or None; the state is zero before such a step, if it counts.

    Returns:
      The hidden states [T, B, H] and the final state, S arrays [B, H].

    Raises:
      InputError: a layer, inputs, flags or a state that do not fit the cell or each other.
    """
    check_parts(cell, "cell", Cell, "a Cell, like elman()")
    require(isinstance(layer, Layer), "layer", describe(layer), "a Layer")
    check_array(layer.W, "layer.W", ("H", f"{len(cell.gates)}·H"), "float")
    check_array(layer.U, "layer.U", ("D", f"{len(cell.gates)}·H"), "float")
    (D, _), (H, _), dtype = layer.U.shape, layer.W.shape, layer.W.dtype
    check_layer(cell, layer, "layer", D, H, dtype)
    _, B = check_inputs(xs, D, dtype)
    check_flags(mask, reset, xs, D)
    check_units(cell, s0, "s0", B, H, dtype)
    return _unroll(cell, layer, xs, s0, mask, reset)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unroll(
    cell: Cell, layer: Layer, xs: Array, s0: Units, mask: Array | None, reset: Array | None
) -> tuple[Array, Units]:
    return _unroll_forward(cell, layer, xs, s0, mask, reset)[0]


def _unroll_forward(
    cell: Cell, layer: Layer, xs: Array, s0: Units, mask: Array | None, reset: Array | None
) -> tuple[tuple[Array, Units], Saved]:
    s_T, kept = forward(cell, layer, xs, s0, mask, reset)
    return (kept.ss[0], s_T), (layer, xs, s0, kept, mask, reset)


def _unroll_reverse(
    cell: Cell, saved: Saved, cotangents: tuple[Array, Units]
) -> tuple[Layer, Array | None, Units, None, None]:
    layer, xs, s0, kept, mask, reset = saved
    delta_hs, delta_s_T = cotangents
    gradients, delta_us, delta_s0 = reverse(cell, layer, xs, s0, kept, delta_hs, delta_s_T, mask, reset)
    gradients = jax.tree.map(lambda gradient, leaf: gradient.astype(leaf.dtype), gradients, layer)
    return gradients, None if _are_tokens(xs) else delta_us @ layer.U.T, delta_s0, None, None


_unroll.defvjp(_unroll_forward, _unroll_reverse)


def affine(a: Array, M: Array, bias: Array | None) -> Array:
    """A M + bias over any leading axes of a."""
    product = a @ M
    return product if bias is None else _add(product, bias)


def outer_sum(a: Array, b: Array) -> Array:
    """Σ_t Σ_b a_tᵀ b_t: [T, B, M] and [T, B, N] to [M, N], summed in float32 at least."""
    return lax.dot_general(a, b, (((0, 1), (0, 1)), ((), ())), preferred_element_type=wide(b.dtype))


def row_sum(a: Array) -> Array:
    """Σ_t Σ_b a_t: [T, B, N] to [N], summed in float32 at least."""
    return a.sum(axis=(0, 1), dtype=wide(a.dtype))


def _project(layer: Layer, xs: Array) -> Array:
    """U = x U + b for all steps: rows of U for tokens, a product for floats."""
    if _are_tokens(xs):
        rows = jnp.asarray(layer.U).at[xs].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return _add(rows, layer.b)
    return affine(xs, layer.U, layer.b)


def _are_tokens(xs: Array) -> bool:
    return bool(jnp.issubdtype(xs.dtype, jnp.integer))


def _valid(xs: Array, mask: Array | None) -> Array:
    """Zero where the step does not count, so that not even NaN gets through."""
    return xs if mask is None else jnp.where(mask if xs.ndim == 2 else mask[..., None], xs, 0)


def _add(rows: Array, bias: Array) -> Array:
    """Rows plus a bias.  Short floats are added in float32: the same sum, but autodiff of it then sums in float32."""
    row = bias.reshape((1,) * (rows.ndim - 1) + (-1,))
    return (rows.astype(wide(rows.dtype)) + row.astype(wide(row.dtype))).astype(rows.dtype)


def _gates(cell: Cell, z: Array) -> Units:
    """The G blocks of [B, G·H], each [B, H]."""
    return tuple(jnp.split(z, len(cell.gates), axis=-1))


def _where_not(reset: Array | None, s: Units) -> Units:
    """Zero where reset is True."""
    return s if reset is None else tuple(jnp.where(reset[..., None], 0, value) for value in s)
