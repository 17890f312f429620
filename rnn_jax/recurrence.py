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

import math
from collections.abc import Callable
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
from rnn_jax.precision import indices, wide
from rnn_jax.types import Array, Cell, Layer, Units

STEPS_FORWARD, STEPS_REVERSE = 8, 4
"""Steps to a pass of either loop on an accelerator, where a small step costs as much as its kernels' launches: what
these steps leave is then written by one kernel, not several.  On a CPU, which launches nothing, one."""

LANES, BLOCKS = 8, 4
"""Rows of a batch that fill a CPU's vector register, or half of one; parts of a single row's product."""


class Kept(NamedTuple):
    """What the forward pass keeps for the reverse pass."""

    ss: Units
    """The states s_0 … s_T, each [T + 1, B, H]; the first one is h."""
    residual: Units
    """The cell's residuals, each [T, B, H]."""


Flags = Array | None
Saved = tuple[Layer, Array, Units, Units, Units, Flags, Flags]


def zero_state(cell: Cell, batch_size: int, hidden: int, dtype: jnp.dtype) -> Units:
    """The initial state of a layer: S arrays of zeros [B, H]."""
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
      xs: int tokens [T, B] or floats [T, B, D].  A token outside 0 … D−1 gives NaN.
      s0: S arrays [B, H].
      mask, reset: bool [T, B] or None.
      W_T: Wᵀ, as from ``transposed(layer)``, for products in the order that suits the platform; None: h W as it stands,
        where autodiff is to see W.

    Returns:
      The last state, S arrays [B, H]; the states s_1 … s_T, each [T, B, H], of which the first one is hs; and the
      cell's residuals, each [T, B, H].
    """
    inputs = (_project(layer, _valid(xs, mask)), mask, reset)
    s_T, (ss, residual) = lax.scan(_step(cell, layer, W_T), s0, inputs)
    return s_T, ss, residual


def room(cell: Cell, T: int, s0: Units) -> Kept:
    """Room for all that a layer keeps of T steps from a state like s_0."""
    gates = (s0[0],) * len(cell.gates)
    _, residual = jax.eval_shape(cell.step, s0, gates, gates)

    def rooms(T: int, units: Units) -> Units:  # each of a number of its own: XLA would make one of zeros, and copy it
        return tuple(jnp.full((T, *unit.shape), number, unit.dtype) for number, unit in enumerate(units))

    return Kept(rooms(T + 1, s0), rooms(T, residual))


def begin(kept: Kept, s0: Units) -> Kept:
    """Put s_0 in its place."""
    return kept._replace(ss=_put(kept.ss, s0, 0))


def fill(
    cell: Cell,
    layer: Layer,
    W_T: Array,
    xs: Array,
    kept: Kept,
    start: Array | int,
    mask: Flags = None,
    reset: Flags = None,
) -> Kept:
    """Run a layer over the n steps of xs, from s_start in ``kept``, and write what they leave in place behind it.

    The same as ``forward`` does, up to rounding, but each number is written once, where it stays; not for autodiff,
    which would keep a copy of everything for every step.
    """
    n, step = len(xs), _step(cell, layer, W_T)
    inputs = (_project(layer, _valid(xs, mask)), mask, reset)

    def run(together: int) -> Kept:
        def write(carry: tuple[Any, Units, Kept], block: Any) -> tuple[tuple[Any, Units, Kept], None]:
            t, s, kept = carry
            s, (ss, residual) = step(s, block) if together == 1 else lax.scan(step, s, block, unroll=True)
            return (t + together, s, Kept(_put(kept.ss, ss, t + 1), _put(kept.residual, residual, t))), None

        blocks = inputs
        if together > 1:
            blocks = jax.tree.map(lambda a: a.reshape(n // together, together, *a.shape[1:]), inputs)
        return lax.scan(write, (start, state_at(kept, start), kept), blocks)[0][2]

    filled: Kept = _by_platform(run, math.gcd(n, STEPS_FORWARD))
    return filled


def transposed(layer: Layer) -> Array:
    """Wᵀ as an array of its own, made once outside all loops, whose products walk it or W, whichever is faster."""
    W_T: Array = lax.optimization_barrier(layer.W.T)  # else XLA takes it back into the product
    return W_T


def state_at(kept: Kept, t: Array | int) -> Units:
    """s_t, S arrays [B, H]."""
    return _at(kept.ss, t)


def hidden(kept: Kept, start: Array | int, n: int) -> Array:
    """h_start … of n steps, [n, B, H]."""
    return lax.dynamic_slice_in_dim(kept.ss[0], start, n, allow_negative_indices=False)


def reverse(
    cell: Cell,
    layer: Layer,
    W_T: Array,
    xs: Array,
    kept: Kept,
    start: Array | int,
    delta_hs: Array,
    delta_s_T: Units,
    mask: Flags = None,
    reset: Flags = None,
) -> tuple[Layer, Array, Units]:
    """Run a layer's adjoint back over the n steps of xs: ``(gradients of the layer, delta_us, delta_s0)``.

    Args:
      W_T: Wᵀ, as from ``transposed(layer)``.
      xs, mask, reset: as the forward pass had them.
      kept: what it left, of these steps and maybe others; the first of these leads from s_start to s_start+1.
      delta_hs: ∂L/∂h_t through everything but the next step, [n, B, H].
      delta_s_T: ∂L/∂(the state after these steps) through everything after them, S arrays [B, H].

    Returns:
      The layer's gradients, summed over steps and batch, in float32 at least; ``delta_us`` [n, B, G·H], from
      which δx_t = δu_t Uᵀ; ``delta_s0``, ∂L/∂s_start, S arrays [B, H].
    """

    def step(carry: tuple[Any, Units], inputs: tuple[Any, ...]) -> tuple[tuple[Any, Units], tuple[Array, ...]]:
        (t, delta_s), (delta_h, mask_t, reset_t) = carry, inputs
        s_start, s, residual = _where_not(reset_t, state_at(kept, t)), state_at(kept, t + 1), _at(kept.residual, t)
        delta_s = (delta_s[0] + delta_h, *delta_s[1:])
        delta_s_prev, delta_u_gates, delta_v_gates = cell.adjoint(s_start, s, residual, delta_s)
        distinct = (delta_u_gates,) if delta_v_gates is delta_u_gates else (delta_u_gates, delta_v_gates)
        deltas = tuple(jnp.concatenate(gates, axis=-1) for gates in distinct)  # δu_t, and δv_t where it is another
        delta_s_prev = (delta_s_prev[0] + product(deltas[-1], W_T, layer.W), *delta_s_prev[1:])
        delta_s_prev = _where_not(reset_t, delta_s_prev)
        if mask_t is not None:
            counts = mask_t[:, None]
            deltas = tuple(jnp.where(counts, delta, 0) for delta in deltas)
            delta_s_prev = tuple(jnp.where(counts, new, old) for new, old in zip(delta_s_prev, delta_s, strict=True))
        return (t - 1, delta_s_prev), deltas

    n = len(xs)
    inputs = (delta_hs, mask, reset)
    (_, delta_s0), (delta_us, *rest) = _by_platform(
        lambda together: lax.scan(step, (start + n - 1, delta_s_T), inputs, reverse=True, unroll=together),
        math.gcd(n, STEPS_REVERSE),
    )
    delta_vs = rest[0] if rest else delta_us
    (h_starts,) = _where_not(reset, (hidden(kept, start, n),))
    gradients = Layer(
        U=_input_sum(_valid(xs, mask), delta_us, layer.U.shape[0]),
        W=outer_sum(h_starts, delta_vs),
        b=row_sum(delta_us),
        d=None if layer.d is None else row_sum(delta_vs),
    )
    return gradients, delta_us, delta_s0


def unroll(
    cell: Cell, layer: Layer, xs: Array, s0: Units, mask: Flags = None, reset: Flags = None
) -> tuple[Array, Units]:
    """Run a layer over a window: ``(hs, s_T)``.  ``jax.grad`` through it uses the hand-written reverse.

    The drop-in recurrent layer for any JAX model: cotangents for the layer's parameters, float inputs and the initial
    state; works under ``jit``, ``vmap`` and ``shard_map``, and can be exported for any batch size.  Reverse mode only,
    as any ``custom_vjp``.

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
    return _unroll(cell, *_all_varying((layer, xs, s0, mask, reset)))


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
    s_T, ss, residual = forward(cell, layer, xs, s0, mask, reset, transposed(layer))
    return (ss[0], s_T), (layer, xs, s0, ss, residual, mask, reset)


def _unroll_reverse(
    cell: Cell, saved: Saved, cotangents: tuple[Array, Units]
) -> tuple[Layer, Array | None, Units, None, None]:
    layer, xs, s0, ss, residual, mask, reset = saved
    delta_hs, delta_s_T = cotangents
    kept = Kept(tuple(jnp.concatenate([first[None], rest]) for first, rest in zip(s0, ss, strict=True)), residual)
    gradients, delta_us, delta_s0 = reverse(
        cell, layer, transposed(layer), xs, kept, 0, delta_hs, delta_s_T, mask, reset
    )
    gradients = jax.tree.map(lambda gradient, leaf: gradient.astype(leaf.dtype), gradients, layer)
    return gradients, None if _are_tokens(xs) else delta_us @ layer.U.T, delta_s0, None, None


_unroll.defvjp(_unroll_forward, _unroll_reverse)


def product(a: Array, M: Array, M_T: Array) -> Array:
    """A M, of few rows a.  On a CPU as (Mᵀ aᵀ)ᵀ, where B is 1 or a multiple of 8.

    As it stands, the product reads all of M, often larger than a core's cache, once for every few rows; turned, with
    the rows of the batch along the vectors, it reads M once.  The product of one row, all reading, is made in blocks of
    columns, which the cores share.  ``M_T`` is Mᵀ as an array, so that neither is made here.
    """

    def turned(a: Array, M: Array, M_T: Array) -> Array:
        v_T: Array = lax.optimization_barrier(lax.dot_general(M_T, a, (((1,), (1,)), ((), ()))))
        return v_T.T  # the barrier, else XLA turns the product back

    def shared(a: Array, M: Array, M_T: Array) -> Array:
        blocks = M_T.reshape(math.gcd(len(M_T), BLOCKS), -1, M_T.shape[1])
        rows = jnp.broadcast_to(a, (len(blocks), *a.shape))
        v: Array = lax.optimization_barrier(lax.dot_general(blocks, rows, (((2,), (2,)), ((0,), (0,)))))
        return v.reshape(1, -1)

    B = a.shape[0]
    if not isinstance(B, int) or (B > 1 and B % LANES):  # of a program exported for any B, it is no int
        return a @ M
    on_cpu = shared if B == 1 else turned
    v: Array = lax.platform_dependent(a, M, M_T, cpu=on_cpu, default=lambda a, M, M_T: a @ M)
    return v


def affine(a: Array, M: Array, bias: Array | None) -> Array:
    """A M + bias over any leading axes of a, summed in float32 at least, as its cotangents then are by autodiff."""
    return _add(jnp.matmul(a, M, preferred_element_type=wide(M.dtype)), bias).astype(M.dtype)


def outer_sum(a: Array, b: Array) -> Array:
    """Σ aᵀ b over all rows: […, M] and […, N] to [M, N], summed in float32 at least.

    A CPU transposes the product's first operand to begin with: there b stands first where it is the narrower one.
    """
    axes = tuple(range(a.ndim - 1))

    def straight(a: Array, b: Array) -> Array:
        return lax.dot_general(a, b, ((axes, axes), ((), ())), preferred_element_type=wide(b.dtype))

    if b.shape[-1] >= a.shape[-1]:
        return straight(a, b)
    total: Array = lax.platform_dependent(
        a, b, cpu=lambda a, b: lax.optimization_barrier(straight(b, a)).T, default=straight
    )
    return total


def row_sum(a: Array) -> Array:
    """Σ a over all rows: […, N] to [N], summed in float32 at least."""
    return a.sum(axis=tuple(range(a.ndim - 1)), dtype=wide(a.dtype))


def _project(layer: Layer, xs: Array) -> Array:
    """U = x U + b for all steps: rows of U for tokens, a product for floats."""
    if _are_tokens(xs):
        rows = jnp.asarray(layer.U).at[xs].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return _add(rows, layer.b)
    return affine(xs, layer.U, layer.b)


def _step(
    cell: Cell, layer: Layer, W_T: Array | None
) -> Callable[[Units, tuple[Array, Flags, Flags]], tuple[Units, tuple[Units, Units]]]:
    """The scanned step, ``(s_{t−1}, (u_t, mask_t, reset_t)) -> (s_t, (s_t, residual))``."""

    def step(s_prev: Units, inputs: tuple[Array, Flags, Flags]) -> tuple[Units, tuple[Units, Units]]:
        u, mask_t, reset_t = inputs
        s_start = _where_not(reset_t, s_prev)
        v = _add(s_start[0] @ layer.W if W_T is None else product(s_start[0], layer.W, W_T), layer.d)
        s, residual = cell.step(s_start, _gates(cell, u), _gates(cell, v))
        if mask_t is not None:
            s = tuple(jnp.where(mask_t[:, None], new, old) for new, old in zip(s, s_prev, strict=True))
        return s, (s, residual)

    return step


def _at(rooms: Units, t: Array | int) -> Units:
    """Step t of each, [B, H]."""
    return tuple(lax.dynamic_index_in_dim(room, t, keepdims=False, allow_negative_indices=False) for room in rooms)


def _put(rooms: Units, blocks: Units, t: Array | int) -> Units:
    """Write one step [B, H], or a block of several [n, B, H], into their rooms [T, B, H] from step t on."""
    return tuple(
        lax.dynamic_update_slice_in_dim(room, block.reshape(-1, *room.shape[1:]), t, 0, allow_negative_indices=False)
        for room, block in zip(rooms, blocks, strict=True)
    )


def _input_sum(xs: Array, delta_us: Array, D: int) -> Array:
    """The sum of x_tᵀ δu_t.  Of tokens: δu_t goes to its token's row, on accelerators by a product of one-hot rows."""
    if not _are_tokens(xs):
        return outer_sum(xs, delta_us)
    xs = indices(xs)
    sums = jnp.zeros((D, delta_us.shape[-1]), wide(delta_us.dtype))
    rows = lax.ScatterDimensionNumbers((1, 2), (), (0,))  # windows [1, G·H]: with .at[xs].add XLA copies all rows first
    total: Array = lax.platform_dependent(
        xs.reshape(-1, 1),
        delta_us.reshape(-1, 1, delta_us.shape[-1]),
        cpu=lambda xs, delta_us: lax.scatter_add(sums, xs, delta_us.astype(sums.dtype), rows, mode="drop"),
        default=lambda xs, delta_us: outer_sum(jax.nn.one_hot(xs, D, dtype=delta_us.dtype), delta_us),
    )
    return total


def _by_platform(run: Callable[[int], Any], together: int) -> Any:
    """``run(together)``, that many steps to a pass of its loop, on an accelerator, and ``run(1)`` on a CPU."""
    return lax.platform_dependent(cpu=lambda: run(1), default=lambda: run(together))


def _are_tokens(xs: Array) -> bool:
    return bool(jnp.issubdtype(xs.dtype, jnp.integer))


def _valid(xs: Array, mask: Array | None) -> Array:
    """Zero where the step does not count, so that not even NaN gets through."""
    return xs if mask is None else jnp.where(mask if xs.ndim == 2 else mask[..., None], xs, 0)


def _add(rows: Array, bias: Array | None) -> Array:
    """Rows plus a bias, if there is one.

    Short floats are added in float32: the same sum, but autodiff of it then sums in float32.
    """
    if bias is None:
        return rows
    row = bias.reshape((1,) * (rows.ndim - 1) + (-1,))
    return (rows.astype(wide(rows.dtype)) + row.astype(wide(row.dtype))).astype(rows.dtype)


def _gates(cell: Cell, z: Array) -> Units:
    """The G blocks of [B, G·H], each [B, H]."""
    return tuple(jnp.split(z, len(cell.gates), axis=-1))


def _where_not(reset: Array | None, s: Units) -> Units:
    """Zero where reset is True."""
    return s if reset is None else tuple(jnp.where(reset[..., None], 0, value) for value in s)
