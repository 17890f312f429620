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
    """The Jacobian of one step of one layer, from the cell's adjoint of the S unit vectors.

    Choose it in a learning rule that goes forward in time, such as RTRL.  It costs S evaluations of the adjoint.

    Args:
      cell: the layer's cell.
      layer: its parameters.
      s_prev: s_{t−1}, S arrays [B, H].
      s: s_t, as the step returned it for ``s_prev``; S arrays [B, H].
      residual: as the step returned it, each [B, H].

    Returns:
      Jacobian: the blocks A, P, Q and R of every unit of every example.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> from rnn_jax import jacobian
      >>> cell = rj.elman("identity", leak=0.25)
      >>> layer = rj.init_layer(cell, jax.random.key(0), inputs=3, hidden=1)
      >>> s_prev, u = (jnp.ones((1, 1), jnp.float32),), jnp.ones((1, 1), jnp.float32)
      >>> s, residual = rj.recurrence.step_forward(cell, layer, None, s_prev, u)
      >>> blocks = jacobian.of_step(cell, layer, s_prev, s, residual)
      >>> float(blocks.A[0, 0, 0, 0]), float(blocks.P[0, 0, 0, 0])  # 1 − α and α
      (0.75, 0.25)
    """
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
    """The tangent of a step in state and input.

        ds_t = A ds_{t−1} + Q dv_t + P du_t      dv_t = dh_{t−1} W

    Args:
      cell: the layer's cell.
      layer: its parameters.
      jacobian: as from ``of_step``.
      ds_prev: ds_{t−1}, S arrays [B, H].
      du: du_t [B, G·H]; None: zero.

    Returns:
      ds_t, S arrays [B, H].

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> from rnn_jax import jacobian
      >>> cell, one = rj.elman("identity"), jnp.ones((1, 1))
      >>> layer = rj.Layer(U=one, W=2 * one, b=jnp.zeros(1))
      >>> s, residual = rj.recurrence.step_forward(cell, layer, None, (one,), one)
      >>> blocks = jacobian.of_step(cell, layer, (one,), s, residual)
      >>> (dh,) = jacobian.push(cell, layer, blocks, (one,))
      >>> dh.tolist()  # dh_{t−1} W
      [[2.0]]
    """
    chex.assert_equal_shape(ds_prev)
    ds = _applied(jacobian.A, jnp.stack(ds_prev))
    dv = recurrence.recurrent_product(cell, layer._replace(d=None), None, ds_prev[0])
    for block, tangent in ((jacobian.Q, dv), (jacobian.P, du)):
        if tangent is not None:
            ds = ds + _applied(block, _by_gate(cell, tangent))
    return tuple(ds)


def pull(cell: Cell, layer: Layer, jacobian: Jacobian, delta_s: Units) -> StepAdjoint:
    """The transpose of a step, the same as ``recurrence.step_back``.

        δs_{t−1} = Aᵀ δs_t, and δh_{t−1} += δv_t Wᵀ    δu_t = Pᵀ δs_t    δv_t = Qᵀ δs_t    δp = Rᵀ δs_t

    Args:
      cell: the layer's cell.
      layer: its parameters.
      jacobian: as from ``of_step``.
      delta_s: δs_t, S arrays [B, H].

    Returns:
      StepAdjoint: δs_{t−1}; δz_t, or δu_t and δv_t; δp.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> from rnn_jax import jacobian
      >>> cell, one = rj.elman("identity"), jnp.ones((1, 1))
      >>> layer = rj.Layer(U=one, W=2 * one, b=jnp.zeros(1))
      >>> s, residual = rj.recurrence.step_forward(cell, layer, None, (one,), one)
      >>> blocks = jacobian.of_step(cell, layer, (one,), s, residual)
      >>> jacobian.pull(cell, layer, blocks, (one,)).delta_s_prev[0].tolist()  # δz Wᵀ
      [[2.0]]
    """
    chex.assert_equal_shape(delta_s)
    delta = jnp.stack(delta_s)
    delta_s_prev, delta_u, delta_v, delta_p = (jnp.einsum("kjbh,kbh->jbh", block, delta) for block in jacobian)
    deltas = tuple(_flat(each) for each in ((delta_u, delta_v) if cell.separate else (delta_u,)))
    W_T = layer.W.T if layer.W is not None and cell.recurrence == "dense" else None
    adjoint = StepAdjoint(tuple(delta_s_prev), deltas, tuple(delta_p))
    return recurrence.with_recurrent_share(cell, layer, W_T, adjoint)


def layer_gradients(cell: Cell, layer: Layer, x: Array, h_prev: Array, adjoint: StepAdjoint) -> Layer:
    """The gradient of a layer's parameters by one step, for each example apart.

        dU = x_tᵀ δu_t    db = δu_t    dW = h_{t−1}ᵀ δv_t    dd = δv_t    dp = δp_t

    Args:
      cell: the layer's cell.
      layer: its parameters.
      x: the step's inputs, int tokens [B] or floats [B, D].
      h_prev: h_{t−1} as the step saw it, [B, H].
      adjoint: as from ``pull``.

    Returns:
      A Layer whose leaves have the batch first: U [B, D, G·H], W [B, H, G·H], b [B, G·H].

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> from rnn_jax import jacobian
      >>> cell, one = rj.elman("identity"), jnp.ones((1, 1))
      >>> layer = rj.Layer(U=one, W=2 * one, b=jnp.zeros(1))
      >>> s, residual = rj.recurrence.step_forward(cell, layer, None, (one,), one)
      >>> blocks = jacobian.of_step(cell, layer, (one,), s, residual)
      >>> adjoint = jacobian.pull(cell, layer, blocks, (one,))
      >>> jacobian.layer_gradients(cell, layer, one, 3 * one, adjoint).W.tolist()  # h_{t−1}ᵀ δz
      [[[3.0]]]
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


def _applied(block: Array, tangent: Array) -> Array:
    """[k, j, B, H] times [j, B, H], [k, B, H]: not as a product, which under ``vmap`` would turn all rows."""
    return (block * tangent[None]).sum(axis=1)


def _by_gate(cell: Cell, z: Array) -> Array:
    """[B, G·H] as [G, B, H]."""
    return jnp.stack(jnp.split(z, len(cell.gates), axis=-1))


def _flat(z: Array) -> Array:
    """[G, B, H] as [B, G·H]."""
    return jnp.concatenate(list(z), axis=-1)
