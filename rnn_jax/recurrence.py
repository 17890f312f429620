"""One recurrent layer through time, and its hand-written reverse.

The forward pass is a ``lax.scan`` of the cell's step.  What does not depend on the previous step is computed outside of
it, derivation (D2) and (D8)::

    u_t = x_t U + b          one product (or gather) for all steps
    v_t = h_{t−1} W (+ d)    the one product inside of the loop
    s_t = f(s_{t−1}, u_t + v_t), or f(s_{t−1}, u_t, v_t) for a cell that sees both

The reverse pass walks the cell's adjoint back and leaves the parameter gradients to products over all steps,
derivation (17), (10) to (13) and (21)::

    δh_t += (the readout's or the next layer's share)
    δs_{t−1}, δu_t, δv_t = adjoint(δs_t)                     δu_t = δv_t = δz_t for a cell that sees z_t = u_t + v_t
    δh_{t−1} += δv_t Wᵀ      the one product inside of the loop
    dU = Σ x_tᵀ δu_t    db = Σ δu_t    dW = Σ h_{t−1}ᵀ δv_t    dd = Σ δv_t    dp = Σ δp_t    δx_t = δu_t Uᵀ

A "diagonal" recurrence has v_t = w ⊙ h_{t−1} for each gate, with one w a unit and gate; "none" has no v_t.

A step whose ``mask`` is False leaves the state as it is and contributes nothing.  A ``reset`` replaces s_{t−1} by zero
before a step that counts, and cuts the gradient there.
"""

import functools
import math
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import ops
from rnn_jax.checks import check_layer_window
from rnn_jax.trajectory import (
    Trajectory,
    from_states,
    hidden_states,
    residual_at,
    set_steps,
    state_at,
)
from rnn_jax.types import Array, Cell, Layer, Units

Flags = Array | None
Saved = tuple[Layer, Array, Units, Units, Units, Flags, Flags]
Inputs = tuple[Array, Flags, Flags]
"""Of the time steps: xs, or u, with mask and reset."""


class StepAdjoint(NamedTuple):
    """What the adjoint of one step returns."""

    delta_s_prev: Units
    """∂L/∂s_{t−1}, the share through v included, S arrays [B, H]."""
    deltas: tuple[Array, ...]
    """δz_t [B, G·H], or δu_t and δv_t where the cell sees both."""
    delta_p: Units
    """∂L/∂p of each of the cell's own parameters by this step, each [B, H]."""


def zero_state(cell: Cell, batch_size: int, hidden: int, dtype: Any = jnp.float32) -> Units:
    """The zero state of a layer.

    Args:
      cell: ``elman()``, ``lstm()``, ``gru()`` or one of your own.
      batch_size: B.
      hidden: H.
      dtype: of the state.

    Returns:
      S arrays [B, H]; the first one is h.

    Examples:
      >>> import rnn_jax as rj
      >>> h, c = rj.zero_state(rj.lstm(), batch_size=2, hidden=3)
      >>> h.shape, c.shape
      ((2, 3), (2, 3))
    """
    return tuple(jnp.zeros((batch_size, hidden), dtype) for _ in cell.states)


def forward(
    cell: Cell,
    layer: Layer,
    xs: Array,
    s0: Units,
    mask: Flags = None,
    reset: Flags = None,
    W_T: Array | None = None,
) -> tuple[Units, Units, Units]:
    """Run a layer over a window: ``(s_T, ss, residual)``.  Plain JAX, differentiable by autodiff.

    Args:
      cell: the layer's cell.
      layer: its parameters.
      xs: int tokens [T, B] or floats [T, B, D].  A token outside 0 … D−1 gives NaN.
      s0: S arrays [B, H].
      mask: bool [T, B], whether the step counts, or None.
      reset: bool [T, B], whether the state is zero before the step, or None.
      W_T: Wᵀ, as from ``transposed(cell, layer)``, for products in the order that suits the platform; None: h W as it
        is, where autodiff is to see W.

    Returns:
      The last state, S arrays [B, H]; the states s_1 … s_T, each [T, B, H], of which the first one is hs; and the
      cell's residuals, each [T, B, H].

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> cell, one = rj.elman("identity"), jnp.ones((1, 1))
      >>> layer = rj.Layer(U=one, W=2 * one, b=jnp.zeros(1))
      >>> (h,), (hs,), _ = rj.recurrence.forward(cell, layer, jnp.ones((3, 1, 1)), (0 * one,))
      >>> hs[:, 0, 0].tolist()  # 1 + 2 h of the step before
      [1.0, 3.0, 7.0]
    """
    chex.assert_equal_shape(s0)
    step = partial(_scan_step, cell, layer, W_T)
    s_T, (ss, residual) = lax.scan(step, s0, (project(layer, xs, mask), mask, reset))
    return s_T, ss, residual


def forward_in_place(
    cell: Cell,
    layer: Layer,
    W_T: Array | None,
    xs: Array,
    trajectory: Trajectory,
    start: Array | int,
    mask: Flags = None,
    reset: Flags = None,
) -> Trajectory:
    """Run a layer over the n steps of xs, from s_start of the trajectory, and write states and residuals into it.

    It computes the same as ``forward``, up to rounding, but writes each number once, in place.  It is not for autodiff,
    which would store a copy of the whole trajectory at every step.
    """
    n, step = len(xs), partial(_scan_step, cell, layer, W_T)
    inputs = (project(layer, xs, mask), mask, reset)

    def run(unroll: int) -> Trajectory:
        def write(carry: tuple[Any, Units, Trajectory], block: Any) -> tuple[tuple[Any, Units, Trajectory], None]:
            t, s, trajectory = carry
            s, stored = step(s, block) if unroll == 1 else lax.scan(step, s, block, unroll=True)
            return (t + unroll, s, set_steps(trajectory, t, *stored)), None

        blocks = inputs
        if unroll > 1:
            blocks = jax.tree.map(lambda a: a.reshape(n // unroll, unroll, *a.shape[1:]), inputs)
        return lax.scan(write, (start, state_at(trajectory, start), trajectory), blocks)[0][2]

    return ops.by_platform(run, math.gcd(n, ops.STEPS_FORWARD))


def reverse(
    cell: Cell,
    layer: Layer,
    W_T: Array | None,
    xs: Array,
    trajectory: Trajectory,
    start: Array | int,
    delta_hs: Array,
    delta_s_T: Units,
    mask: Flags = None,
    reset: Flags = None,
) -> tuple[Layer, Array, Units]:
    """Run a layer's adjoint back over the n steps of xs: ``(gradients of the layer, delta_us, delta_s0)``.

    Args:
      W_T: Wᵀ, as from ``transposed(cell, layer)``.
      xs, mask, reset: as the forward pass had them.
      trajectory: what it stored of these steps, and maybe of others; the first of these is from s_start to s_start+1.
      delta_hs: ∂L/∂h_t through everything but the next step, [n, B, H].
      delta_s_T: ∂L/∂(the state after these steps) through everything after them, S arrays [B, H].

    Returns:
      The layer's gradients, summed over steps and batch, in float32 at least; ``delta_us`` [n, B, G·H], from
      which δx_t = δu_t Uᵀ; ``delta_s0``, ∂L/∂s_start, S arrays [B, H].
    """
    adjoints = reverse_states(cell, layer, W_T, trajectory, start, delta_hs, delta_s_T, mask, reset)
    hs_prev = states_before(trajectory, start, len(xs), reset)
    gradients = layer_gradient(cell, layer, zero_unless(mask, xs), hs_prev, adjoints)
    return gradients, adjoints.deltas[0], adjoints.delta_s_prev


def layer_gradient(cell: Cell, layer: Layer, xs: Array, hs_prev: Array, adjoints: StepAdjoint) -> Layer:
    """The products over all steps, summed over the batch, from the δ of every step."""
    delta_us, delta_vs = adjoints.deltas[0], adjoints.deltas[-1]
    return Layer(
        U=_input_gradient(xs, delta_us, layer.U.shape[0]),
        W=_recurrent_gradient(cell, hs_prev, delta_vs),
        b=ops.sum_rows(delta_us),
        d=None if layer.d is None else ops.sum_rows(delta_vs),
        p=tuple(ops.sum_rows(delta_p) for delta_p in adjoints.delta_p),
    )


def reverse_states(
    cell: Cell,
    layer: Layer,
    W_T: Array | None,
    trajectory: Trajectory,
    start: Array | int,
    delta_hs: Array,
    delta_s_T: Units,
    mask: Flags = None,
    reset: Flags = None,
) -> StepAdjoint:
    """Run a layer's adjoint back over n steps, and sum nothing: ∂L/∂s_start, and δz_t and δp_t of every step.

    Cotangents of several losses of one example may stand where the batch does, [n, R, H] and [R, H], beside a
    trajectory of one row.

    Returns:
      ``delta_s_prev``, S arrays [R, H]; ``deltas`` [n, R, G·H] and ``delta_p`` [n, R, H] of all steps.
    """
    n, rows = len(delta_hs), delta_s_T[0].shape
    chex.assert_equal_shape([delta_hs[0], *delta_s_T])

    def step(carry: tuple[Any, Units], inputs: Inputs) -> tuple[tuple[Any, Units], tuple[Any, Any]]:
        (t, delta_s), (delta_h, mask_t, reset_t) = carry, inputs
        s_prev = zero_where(reset_t, state_at(trajectory, t))
        s, residual = state_at(trajectory, t + 1), residual_at(trajectory, t)
        delta_s = (delta_s[0] + delta_h, *delta_s[1:])
        delta_s_prev, deltas, delta_p = step_back(cell, layer, W_T, s_prev, s, residual, delta_s)
        delta_s_prev = zero_where(reset_t, delta_s_prev)
        if mask_t is not None:
            counts = mask_t[:, None]
            deltas, delta_p = jax.tree.map(lambda delta: jnp.where(counts, delta, 0), (deltas, delta_p))
            delta_s_prev = tuple(jnp.where(counts, new, old) for new, old in zip(delta_s_prev, delta_s, strict=True))
        delta_s_prev = tuple(jnp.broadcast_to(delta, rows) for delta in delta_s_prev)
        return (t - 1, delta_s_prev), (deltas, delta_p)

    inputs = (delta_hs, mask, reset)
    (_, delta_s0), (deltas, delta_ps) = ops.by_platform(
        lambda unroll: lax.scan(step, (start + n - 1, delta_s_T), inputs, reverse=True, unroll=unroll),
        math.gcd(n, ops.STEPS_REVERSE),
    )
    return StepAdjoint(delta_s0, deltas, delta_ps)


def states_before(trajectory: Trajectory, start: Array | int, n: int, reset: Flags = None) -> Array:
    """h_{t−1} of n steps as the steps saw them, [n, B, H]."""
    (hs_prev,) = zero_where(reset, (hidden_states(trajectory, start, n),))
    return hs_prev


def step_forward(cell: Cell, layer: Layer, W_T: Array | None, s_prev: Units, u: Array) -> tuple[Units, Units]:
    """One step of one layer, from the input pre-activation.

        v_t = h_{t−1} W     s_t, residual = f(s_{t−1}, u_t + v_t)

    Choose it in a learning rule that goes forward in time, one step after another.

    Args:
      cell: the layer's cell.
      layer: its parameters.
      W_T: Wᵀ as from ``transposed(cell, layer)``, for the product that is fastest on the platform; None: h W as it is.
      s_prev: s_{t−1}, S arrays [B, H].
      u: u_t [B, G·H], as from ``project(layer, xs)``.

    Returns:
      s_t, S arrays [B, H], and the cell's residual, each [B, H].

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> cell, one = rj.elman("identity"), jnp.ones((1, 1))
      >>> layer = rj.Layer(U=one, W=2 * one, b=jnp.zeros(1))
      >>> (h,), _ = rj.recurrence.step_forward(cell, layer, None, (one,), 3 * one)
      >>> h.tolist()  # u + h W
      [[5.0]]
    """
    chex.assert_equal_shape(s_prev)
    chex.assert_equal_shape_prefix([u, s_prev[0]], 1)
    v = recurrent_product(cell, layer, W_T, s_prev[0])
    inputs = [u] if v is None else [u, v] if cell.separate else [u + v]
    return cell.step(s_prev, *(_gates(cell, each) for each in inputs), *own_parameters(layer, s_prev[0]))


def step_back(
    cell: Cell, layer: Layer, W_T: Array | None, s_prev: Units, s: Units, residual: Units, delta_s: Units
) -> StepAdjoint:
    """The adjoint of ``step_forward``.

        δs_{t−1}, δz_t = adjoint(δs_t)      δh_{t−1} += δv_t Wᵀ

    Args:
      cell: the layer's cell.
      layer: its parameters.
      W_T: Wᵀ as from ``transposed(cell, layer)``; it is needed where the recurrence is dense.
      s_prev: s_{t−1}, S arrays [B, H].
      s: s_t, as ``step_forward`` returned it.
      residual: as ``step_forward`` returned it.
      delta_s: δs_t, S arrays [B, H].

    Returns:
      StepAdjoint: δs_{t−1}; δz_t, or δu_t and δv_t; δp.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> cell, one = rj.elman("identity"), jnp.ones((1, 1))
      >>> layer = rj.Layer(U=one, W=2 * one, b=jnp.zeros(1))
      >>> s, residual = rj.recurrence.step_forward(cell, layer, None, (one,), one)
      >>> adjoint = rj.recurrence.step_back(cell, layer, layer.W.T, (one,), s, residual, (one,))
      >>> adjoint.delta_s_prev[0].tolist()  # δz Wᵀ
      [[2.0]]
    """
    chex.assert_equal_shape([*s_prev, *s])
    chex.assert_equal_shape(delta_s)
    p = own_parameters(layer, s_prev[0])
    delta_s_prev, *rest = cell.adjoint(s_prev, s, residual, delta_s, *p)
    count = 2 if cell.separate else 1
    deltas = tuple(jnp.concatenate(gates, axis=-1) for gates in rest[:count])
    return with_recurrent_share(cell, layer, W_T, StepAdjoint(delta_s_prev, deltas, tuple(rest[count:])))


def with_recurrent_share(cell: Cell, layer: Layer, W_T: Array | None, adjoint: StepAdjoint) -> StepAdjoint:
    """The adjoint of a step through the units alone, plus the share of δh_{t−1} that flows through v."""
    share = recurrent_adjoint(cell, layer, W_T, adjoint.deltas[-1])
    if share is None:
        return adjoint
    delta_h, *others = adjoint.delta_s_prev
    return adjoint._replace(delta_s_prev=(delta_h + share, *others))


def project(layer: Layer, xs: Array, mask: Flags = None) -> Array:
    """Input pre-activations u = x U + b of all steps: rows of U for tokens, a product for floats.

        u_t = x_t U + b

    Args:
      layer: its parameters.
      xs: int tokens [T, B] or floats [T, B, D].
      mask: bool [T, B] or None; a step that is False has the input 0, whatever is in ``xs``.

    Returns:
      [T, B, G·H].
    """
    xs = zero_unless(mask, xs)
    return ops.add_bias(ops.take_rows(layer.U, xs), layer.b) if _are_tokens(xs) else ops.affine(xs, layer.U, layer.b)


def transposed(cell: Cell, layer: Layer) -> Array | None:
    """Wᵀ of a dense recurrence; None where there is no matrix W."""
    return None if layer.W is None or cell.recurrence != "dense" else layer.W.T


def unroll(
    cell: Cell, layer: Layer, xs: Array, s0: Units | None = None, mask: Flags = None, reset: Flags = None
) -> tuple[Array, Units]:
    """Run a layer over a window; ``jax.grad`` through it runs the hand-written reverse.

        u_t = x_t U + b     v_t = h_{t−1} W     s_t = f(s_{t−1}, u_t + v_t)

    Choose it as the recurrent layer of a model of your own, in plain JAX, flax or equinox.  It gives cotangents for the
    layer's parameters, float inputs and the initial state.  It works under ``jit``, ``vmap`` and ``shard_map``, and can
    be exported for any batch size.  As a ``custom_vjp`` it has no forward mode (``jax.jvp``).

    An example costs O(H²) time a step and O(T·H) memory.

    Args:
      cell: ``elman()``, ``lstm()``, ``gru()`` or one of your own.
      layer: its parameters, as from ``init_layer``.
      xs: int tokens [T, B] or floats [T, B, D].
      s0: the initial state, S arrays [B, H]; None: zeros.
      mask: bool [T, B] or None; a step that is False leaves the state as it is.
      reset: bool [T, B] or None; the state is zero before a step that is True, if the step counts.

    Returns:
      The hidden states [T, B, H], and the final state, S arrays [B, H].

    Raises:
      InputError: a layer, inputs, flags or a state that do not fit the cell or each other.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> cell, xs = rj.elman(), jnp.ones((6, 2, 3), jnp.float32)  # [T, B, D]
      >>> layer = rj.init_layer(cell, jax.random.key(0), inputs=3, hidden=4)
      >>> hs, (h,) = rj.unroll(cell, layer, xs)
      >>> hs.shape, bool((hs[-1] == h).all())
      ((6, 2, 4), True)
      >>> grads = jax.grad(lambda layer: rj.unroll(cell, layer, xs)[0].sum())(layer)
      >>> grads.W.shape
      (4, 4)
    """
    B, H, dtype = check_layer_window(cell, layer, xs, s0, mask, reset)
    s0 = zero_state(cell, B, H, dtype) if s0 is None else s0
    return _unroll(cell, *_all_varying((layer, xs, s0, mask, reset)))


def zero_where(reset: Flags, s: Units) -> Units:
    """Zero where reset is True."""
    return s if reset is None else tuple(jnp.where(reset[..., None], 0, value) for value in s)


def zero_unless(mask: Flags, xs: Array) -> Array:
    """Zero where the step does not count, so that not even NaN gets through."""
    return xs if mask is None else jnp.where(mask if xs.ndim == 2 else mask[..., None], xs, 0)


def _scan_step(
    cell: Cell, layer: Layer, W_T: Array | None, s_prev: Units, inputs: Inputs
) -> tuple[Units, tuple[Units, Units]]:
    """The scanned step, ``(s_{t−1}, (u_t, mask_t, reset_t)) -> (s_t, (s_t, residual))``."""
    u, mask_t, reset_t = inputs
    s, residual = step_forward(cell, layer, W_T, zero_where(reset_t, s_prev), u)
    if mask_t is not None:
        s = tuple(jnp.where(mask_t[:, None], new, old) for new, old in zip(s, s_prev, strict=True))
    return s, (s, residual)


def recurrent_product(cell: Cell, layer: Layer, W_T: Array | None, h: Array) -> Array | None:
    """Recurrent pre-activations v = h W (+ d), [B, G·H]; None where there is no recurrence."""
    if layer.W is None:
        return None
    if cell.recurrence == "diagonal":
        v = jnp.concatenate([h] * len(cell.gates), axis=-1) * layer.W[None]
    else:
        v = h @ layer.W if W_T is None else ops.matmul(h, layer.W, W_T)
    return ops.add_bias(v, layer.d)


def recurrent_adjoint(cell: Cell, layer: Layer, W_T: Array | None, delta_v: Array) -> Array | None:
    """The share of δh_{t−1} that flows through v: δv Wᵀ, [B, H]."""
    if layer.W is None:
        return None
    if W_T is None:
        shares = jnp.split(delta_v * layer.W[None], len(cell.gates), axis=-1)
        return functools.reduce(jnp.add, shares)
    return ops.matmul(delta_v, W_T, layer.W)


def _recurrent_gradient(cell: Cell, hs_prev: Array, delta_vs: Array) -> Array | None:
    """dW, the sum of h_{t−1}ᵀ δv_t over the steps and the batch."""
    if cell.recurrence == "none":
        return None
    if cell.recurrence == "diagonal":
        return ops.sum_rows(jnp.concatenate([hs_prev] * len(cell.gates), axis=-1) * delta_vs)
    return ops.sum_outer_products(hs_prev, delta_vs)


def _input_gradient(xs: Array, delta_us: Array, D: int) -> Array:
    """dU, the sum of x_tᵀ δu_t over the steps and the batch."""
    return ops.sum_rows_by_token(xs, delta_us, D) if _are_tokens(xs) else ops.sum_outer_products(xs, delta_us)


def own_parameters(layer: Layer, like: Array) -> Units:
    """The cell's own parameters, each broadcast to every row."""
    return tuple(jnp.broadcast_to(p[None], like.shape) for p in layer.p)


def _are_tokens(xs: Array) -> bool:
    return bool(jnp.issubdtype(xs.dtype, jnp.integer))


def _gates(cell: Cell, z: Array) -> Units:
    """The G blocks of [B, G·H], each [B, H]."""
    return tuple(jnp.split(z, len(cell.gates), axis=-1))


def _all_varying(tree: Any) -> Any:
    """The same arrays, marked inside of ``jax.shard_map`` as varying over every mesh axis over which one of them does.

    The transpose of the mark is the sum over its axes: so each cotangent is summed over the axes over which it varies
    and its primal does not.
    """
    axes_of = jax.tree.map(lambda leaf: jax.typeof(leaf).manual_axis_type.varying, tree)
    axes = frozenset[str]().union(*jax.tree.leaves(axes_of))
    return jax.tree.map(lambda leaf, own: lax.pcast(leaf, tuple(axes - own), to="varying"), tree, axes_of)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unroll(cell: Cell, layer: Layer, xs: Array, s0: Units, mask: Flags, reset: Flags) -> tuple[Array, Units]:
    return _unroll_forward(cell, layer, xs, s0, mask, reset)[0]


def _unroll_forward(
    cell: Cell, layer: Layer, xs: Array, s0: Units, mask: Flags, reset: Flags
) -> tuple[tuple[Array, Units], Saved]:
    s_T, ss, residual = forward(cell, layer, xs, s0, mask, reset, transposed(cell, layer))
    return (ss[0], s_T), (layer, xs, s0, ss, residual, mask, reset)


def _unroll_reverse(
    cell: Cell, saved: Saved, cotangents: tuple[Array, Units]
) -> tuple[Layer, Array | None, Units, None, None]:
    layer, xs, s0, ss, residual, mask, reset = saved
    trajectory, W_T = from_states(s0, ss, residual), transposed(cell, layer)
    gradients, delta_us, delta_s0 = reverse(cell, layer, W_T, xs, trajectory, 0, *cotangents, mask, reset)
    gradients = jax.tree.map(lambda gradient, leaf: gradient.astype(leaf.dtype), gradients, layer)
    return gradients, None if _are_tokens(xs) else delta_us @ layer.U.T, delta_s0, None, None


_unroll.defvjp(_unroll_forward, _unroll_reverse)
