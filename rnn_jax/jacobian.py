"""The Jacobian of one step of one layer, unit by unit, from the cell's adjoint alone; its tangent and its transpose.

A cell is unit-wise, so ∂s_t/∂s_{t−1} through the unit itself, ∂s_t/∂u_t and ∂s_t/∂v_t are small blocks of each unit::

    A = ∂s_t/∂s_{t−1} [S, S]    P = ∂s_t/∂u_t [S, G]    Q = ∂s_t/∂v_t [S, G]    R = ∂s_t/∂p [S, parameters]

Row k of all four is the adjoint of the k-th unit vector.  With W they are the tangent of a step in state and input, and
its transpose::

    push    ds_t     = A ds_{t−1} + Q dv_t + P du_t    where dv_t = dh_{t−1} W
    pull    δs_{t−1} = Aᵀ δs_t, and δh_{t−1} += δv_t Wᵀ    δu_t = Pᵀ δs_t    δv_t = Qᵀ δs_t    δp = Rᵀ δs_t

Everything is per example: no sum over the batch is taken.  Learning rules that go forward in time need nothing else.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rnn_jax import recurrence
from rnn_jax.recurrence import StepAdjoint
from rnn_jax.types import Array, Cell, Layer, Units


class Jacobian(NamedTuple):
    """The blocks of every unit of every example."""

    A: Array
    """∂s_t/∂s_{t−1} through the unit itself, [S, S, B, H]."""
    P: Array
    """∂s_t/∂u_t, [S, G, B, H]."""
    Q: Array
    """∂s_t/∂v_t, [S, G, B, H]; P itself where the cell sees u + v."""
    R: Array
    """∂s_t/∂p of the cell's own parameters, [S, parameters, B, H]."""


def of_step(cell: Cell, layer: Layer, s_prev: Units, s: Units, residual: Units) -> Jacobian:
    """The Jacobian of the step that made ``s`` and ``residual`` of ``s_prev``, each array [B, H]."""
    chex.assert_equal_shape([*s_prev, *s])
    S, (B, H) = len(s), s[0].shape
    p = recurrence.own_parameters(layer, s[0])
    unit_vectors = jnp.broadcast_to(jnp.eye(S, dtype=s[0].dtype)[:, :, None, None], (S, S, B, H))

    def row(unit_vector: Array) -> tuple[Array, ...]:
        delta_s_prev, *rest = cell.adjoint(s_prev, s, residual, tuple(unit_vector), *p)
        deltas, delta_p = rest[: 2 if cell.separate else 1], rest[2 if cell.separate else 1 :]
        own = jnp.stack(delta_p) if delta_p else jnp.zeros((0, B, H), s[0].dtype)
        return jnp.stack(delta_s_prev), jnp.stack(deltas[0]), jnp.stack(deltas[-1]), own

    jacobian = Jacobian(*jax.vmap(row)(unit_vectors))
    chex.assert_shape(jacobian, [(S, n, B, H) for n in (S, len(cell.gates), len(cell.gates), len(cell.parameters))])
    return jacobian


def push(cell: Cell, layer: Layer, jacobian: Jacobian, ds_prev: Units, du: Array | None = None) -> Units:
    """The tangent of a step: ds_t, S arrays [B, H], from ds_{t−1} and du_t [B, G·H] (None: zero)."""
    chex.assert_equal_shape(ds_prev)
    ds = jnp.einsum("kjbh,jbh->kbh", jacobian.A, jnp.stack(ds_prev))
    dv = recurrence.recurrent_product(cell, layer._replace(d=None), None, ds_prev[0])
    for block, tangent in ((jacobian.Q, dv), (jacobian.P, du)):
        if tangent is not None:
            ds = ds + jnp.einsum("kgbh,gbh->kbh", block, _by_gate(cell, tangent))
    return tuple(ds)


def pull(cell: Cell, layer: Layer, jacobian: Jacobian, delta_s: Units) -> StepAdjoint:
    """The transpose of a step, ``StepAdjoint`` from δs_t, S arrays [B, H]; as ``recurrence.step_back``."""
    chex.assert_equal_shape(delta_s)
    delta = jnp.stack(delta_s)
    delta_s_prev, delta_u, delta_v, delta_p = (jnp.einsum("kjbh,kbh->jbh", block, delta) for block in jacobian)
    deltas = tuple(_flat(each) for each in ((delta_u, delta_v) if cell.separate else (delta_u,)))
    W_T = layer.W.T if layer.W is not None and cell.recurrence == "dense" else None
    adjoint = StepAdjoint(tuple(delta_s_prev), deltas, tuple(delta_p))
    return recurrence.with_recurrent_share(cell, layer, W_T, adjoint)


def layer_gradients(cell: Cell, layer: Layer, x: Array, h_prev: Array, adjoint: StepAdjoint) -> Layer:
    """The gradient of a layer's parameters by one step, one for each example: every leaf has the batch in front.

    Args:
      x: the step's inputs, tokens int [B] or floats [B, D].
      h_prev: h_{t−1} as the step saw it, [B, H].
      adjoint: as from ``pull``.
    """
    delta_u, delta_v = adjoint.deltas[0], adjoint.deltas[-1]
    inputs = jax.nn.one_hot(x, layer.U.shape[0], dtype=delta_u.dtype) if x.ndim == 1 else x
    chex.assert_equal_shape_prefix([inputs, h_prev, delta_u], 1)
    dense = h_prev[:, :, None] * delta_v[:, None, :]
    diagonal = jnp.concatenate([h_prev] * len(cell.gates), axis=-1) * delta_v
    return Layer(
        U=inputs[:, :, None] * delta_u[:, None, :],
        W=None if layer.W is None else dense if cell.recurrence == "dense" else diagonal,
        b=delta_u,
        d=None if layer.d is None else delta_v,
        p=adjoint.delta_p,
    )


def _by_gate(cell: Cell, z: Array) -> Array:
    """[B, G·H] as [G, B, H]."""
    return jnp.stack(jnp.split(z, len(cell.gates), axis=-1))


def _flat(z: Array) -> Array:
    """[G, B, H] as [B, G·H]."""
    return jnp.concatenate(list(z), axis=-1)
