"""How the error flows back through time: the norms of δ at every step, and what every step adds to the gradient.

Both come out of one hand-written reverse pass, with the gradient itself.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import recurrence, stack
from rnn_jax.checks import check_network, check_weights, check_window, describe, is_array, require
from rnn_jax.gradients.segments import Segment, run_forward
from rnn_jax.precision import accumulation_dtype
from rnn_jax.recurrence import StepAdjoint
from rnn_jax.trajectory import hidden_states
from rnn_jax.types import Array, Batch, Layer, Network, Params, State


class GradientFlow(NamedTuple):
    """What one reverse pass tells about a window, of each example.

    Examples:
      >>> import rnn_jax as rj
      >>> rj.diagnostics.GradientFlow._fields
      ('delta_s', 'contributions', 'loss', 'grads')
    """

    delta_s: State
    """‖∂L/∂s_t‖ after each step, per layer and state value [T + 1, B]; ``delta_s[l][0]`` is ‖δh_t‖ of layer l."""
    contributions: tuple[Layer, ...]
    """The norm of what each step adds to the gradient, per layer and parameter [T, B]; ``contributions[l].W`` is
    ‖h_{t−1}ᵀ δv_t‖ of layer l."""
    loss: Array
    """The loss, summed over steps and examples."""
    grads: Params
    """The gradient, summed over steps and examples, as ``bptt`` has it."""


def gradient_flow(network: Network, params: Params, state: State, batch: Batch) -> GradientFlow:
    """The norm of the error at every step of a window, and of every step's share of the gradient, in one reverse pass.

        δs_t = ∂L/∂s_t        t = 0 … T      with all that is behind step t, and the loss of step t itself
        dU = Σ_t x_tᵀ δu_t    dW = Σ_t h_{t−1}ᵀ δv_t    db = Σ_t δu_t    dd = Σ_t δv_t    dp = Σ_t δp_t

    The norms are Euclidean, over the units of one example.  That of a product of two vectors is the product of their
    norms, so no product is made.  If ‖δh_t‖ falls or grows exponentially with the lag T − t, the gradient vanishes or
    explodes.  For a curve over the lag let ``last_step`` take the loss of the last step alone: otherwise each step adds
    an error of its own.

    It costs the time of ``bptt`` and T·(G + 2 S)·H numbers for each example.

    Args:
      network: cells, sizes and loss.
      params: its parameters.
      state: as from ``initial_state`` or from an earlier window, S arrays [B, H] a layer.
      batch: inputs and targets, with mask, resets and weights or None.

    Returns:
      A GradientFlow: ``delta_s`` with arrays [T + 1, B] in the form of a state, ``contributions`` with arrays [T, B] in
      the form of layers, the loss and the gradient.

    Raises:
      InputError: a batch, parameters or a state that do not fit the network.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network((rj.elman("identity"),), inputs=1, hidden=1, outputs=1, loss=rj.squared_error())
      >>> one = jnp.ones((1, 1))
      >>> params = rj.Params(layers=(rj.Layer(U=one, W=one / 2, b=jnp.zeros(1)),), V=one, c=jnp.zeros(1))
      >>> batch = rj.diagnostics.last_step(rj.Batch(xs=jnp.zeros((3, 1, 1)), ys=-jnp.ones((3, 1, 1))))
      >>> flow = rj.diagnostics.gradient_flow(network, params, rj.initial_state(network, params, 1), batch)
      >>> flow.delta_s[0][0][:, 0].tolist()  # halved by each step back
      [0.125, 0.25, 0.5, 1.0]

    Source: the sum over the steps, and its growth with the lag, are (3) to (5) of Pascanu, Mikolov & Bengio, *On the
    difficulty of training recurrent neural networks*, ICML (2013).
    """
    check_network(network)
    check_window(network, params, state, batch)
    flow: GradientFlow = _gradient_flow(network, params, state, batch)
    return flow


def last_step(batch: Batch) -> Batch:
    """The batch with the loss of the last step alone: of each example the last one that counts.

    Args:
      batch: a window; its weights, where it has some, stay at these steps.

    Returns:
      The batch with a ``weight`` that is 0 elsewhere, float [T, B].

    Raises:
      InputError: anything but a Batch whose mask and weight fit its inputs.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> tokens, mask = jnp.zeros((3, 2), int), jnp.array([[True, True], [True, True], [True, False]])
      >>> rj.diagnostics.last_step(rj.Batch(tokens, tokens, mask)).weight.tolist()
      [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    """
    require(isinstance(batch, Batch), "batch", describe(batch), "a Batch")
    require(is_array(batch.xs) and batch.xs.ndim > 1, "batch.xs", describe(batch.xs), "int[T,B] or float[T,B,D]")
    check_weights(batch.mask, batch.weight, batch.xs.shape[:2], "batch.")
    counts = jnp.ones(batch.xs.shape[:2], bool) if batch.mask is None else batch.mask
    after = jnp.flip(jnp.cumsum(jnp.flip(counts, axis=0), axis=0), axis=0)  # steps that count from here on
    last = counts & (after == 1)
    weight = jnp.ones((), jnp.float32) if batch.weight is None else batch.weight
    return batch._replace(weight=jnp.where(last, weight, 0))


@partial(jax.jit, static_argnames="network")
def _gradient_flow(network: Network, params: Params, state: State, batch: Batch) -> GradientFlow:
    layers = stack.prepare(network, params)
    segment, losses, (dV, dc) = run_forward(network, params, layers, state, batch)
    delta_hs = segment.delta_hs
    delta_s: list[tuple[Array, ...]] = []
    contributions: list[Layer] = []
    gradients: list[Layer] = []
    for level in reversed(range(len(layers))):
        cell, layer, _ = layers[level]
        norms, adjoints = _reverse(segment, level, delta_hs)
        hs, xs = _features(segment, level)
        delta_s.insert(0, norms)
        contributions.insert(0, _contributions(segment, level, xs, hs, adjoints))
        gradients.insert(0, recurrence.layer_gradient(cell, layer, xs, hs, adjoints))
        delta_hs = adjoints.deltas[0] @ layer.U.T
    grads = jax.tree.map(lambda g, leaf: g.astype(leaf.dtype), Params(tuple(gradients), dV, dc), params)
    loss = losses.sum(dtype=accumulation_dtype(params.V.dtype))
    return GradientFlow(tuple(delta_s), tuple(contributions), loss, grads)


def _reverse(segment: Segment, level: int, delta_hs: Array) -> tuple[tuple[Array, ...], StepAdjoint]:
    """A layer's reverse, step by step: the norms of δs_0 … δs_T, S arrays [T + 1, B], and δz_t and δp_t of every step.

    ``delta_hs`` is ∂L/∂h_t through everything but the next step, [T, B, H].
    """
    (cell, layer, W_T), each = segment.layers[level], segment.trajectories[level]

    def back(delta_s: Any, inputs: Any) -> Any:
        t, delta_h, mask, reset = inputs  # each of one step, with the axis of time
        adjoint = recurrence.reverse_states(cell, layer, W_T, each, t[0], delta_h, delta_s, mask, reset)
        norms = _norms((delta_s[0] + delta_h[0], *delta_s[1:]))
        return adjoint.delta_s_prev, (norms, adjoint.deltas, adjoint.delta_p)

    flags = segment.steps.mask, segment.steps.reset
    steps = jax.tree.map(lambda a: a[:, None], (jnp.arange(len(delta_hs)), delta_hs, *flags))
    zeros = tuple(jnp.zeros_like(ss[0]) for ss in each.ss)
    delta_s0, (norms, deltas, delta_p) = lax.scan(back, zeros, steps, reverse=True)
    norms = tuple(jnp.concatenate([first[None], rest]) for first, rest in zip(_norms(delta_s0), norms, strict=True))
    return norms, StepAdjoint(delta_s0, *jax.tree.map(lambda a: a[:, 0], (deltas, delta_p)))


def _features(segment: Segment, level: int) -> tuple[Array, Array]:
    """h_{t−1} [T, B, H] and x_t of a layer as its steps saw them; 0 for x_t at a masked step."""
    steps, each = segment.steps, segment.trajectories
    T = len(steps.xs)
    xs = steps.xs if level == 0 else hidden_states(each[level - 1], 1, T)
    return recurrence.states_before(each[level], 0, T, steps.reset), recurrence.zero_unless(steps.mask, xs)


def _contributions(segment: Segment, level: int, xs: Array, hs: Array, adjoints: StepAdjoint) -> Layer:
    """The norm of each step's share of the gradient of a layer, [T, B] a parameter."""
    cell, layer, _ = segment.layers[level]
    delta_us, delta_vs = adjoints.deltas[0], adjoints.deltas[-1]
    of_u, of_v = _norms((delta_us, delta_vs))
    W: Array | None = None
    if cell.recurrence == "dense":
        W = _norms((hs,))[0] * of_v
    elif cell.recurrence == "diagonal":
        (W,) = _norms((jnp.concatenate([hs] * len(cell.gates), axis=-1) * delta_vs,))
    return Layer(
        U=of_u if xs.ndim == 2 else _norms((xs,))[0] * of_u,
        W=W,
        b=of_u,
        d=None if layer.d is None else of_v,
        p=_norms(adjoints.delta_p),
    )


def _norms(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
    """Euclidean norms over the last axis, in float32 at least; their squares neither overflow nor underflow."""

    def norm(a: Array) -> Array:
        a = jnp.abs(a.astype(accumulation_dtype(a.dtype)))
        largest = a.max(axis=-1, keepdims=True)
        scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
        return (jnp.sqrt(jnp.square(a / scale).sum(axis=-1, keepdims=True)) * scale)[..., 0]

    return tuple(norm(a) for a in arrays)
