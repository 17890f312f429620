"""Decoupled neural interfaces: what the future will say of a state is predicted, by a predictor that learns it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import network as net
from rnn_jax import stack
from rnn_jax.checks import check_function, check_network, check_number
from rnn_jax.gradients import segments
from rnn_jax.gradients.collectives import sum_over_batch
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.precision import accumulation_dtype
from rnn_jax.types import Algorithm, Array, Batch, Biased, Layer, Network, Params, State

REFRESH = 5
"""After how many borders the copy that makes the targets is refreshed."""


class Memory(NamedTuple):
    """What an example carries: its last border."""

    features: Array
    """[s, y, 1] there, [B, N + K + 1]."""
    known: Array
    """Whether there was a border since the start, bool [B]."""


class Predictor(NamedTuple):
    """What all examples share, in float32 at least."""

    A: Array
    """[N + K + 1, N]."""
    copy: Array
    """Ā: A as it was at the last refresh."""
    border: Array
    """How many borders there were, int []."""


def dni(
    network: Network,
    rate: float = 0.01,
    segment: int | None = None,
    oracle: Callable[[Array], Array] | None = None,
) -> Algorithm:
    """Decoupled neural interfaces (DNI): BPTT of a segment, and a prediction of what comes after it.  Biased.

    At the border of a segment, δs_end = ∂L/∂s_end of all losses to come is predicted from f = [s, y, 1]: the state of
    all layers, and the target of the last step, one-hot where it is a class, and 0 where the step does not count.  The
    prediction is linear, and learned from the next segment, whose own prediction is by the copy Ā of A:

        target = δs_start of this segment, with δs_end = f_end Ā
        A ← A − rate · mean f_startᵀ (f_start A − target)         f_start: the features of the border before
        G += BPTT of the segment, with δs_end = f_end A

    The mean is over the examples of the whole batch with a border to learn from; one that is followed by a reset is
    none.  Every 5 borders Ā ← A.  Where A = 0 this is truncated BPTT; with the true δs_end it is BPTT of the whole
    sequence.  A segment takes two reverses, up to twice the time of ``bptt``, and O(N²) at its border, once for all its
    steps.  The memory is N + K + 1 numbers an example.

    Choose it for short segments where a bias does no harm: truncation forgets too much there, and online rules cost too
    much.

    Args:
      network: what to differentiate.
      rate: of the predictor's gradient descent; it is stable where rate · ‖f‖² is below 2.
      segment: steps per segment, any length; by default the whole window.
      oracle: ``border -> δs_end [B, N]`` in place of the prediction, for the limit of the claim.

    Returns:
      An Algorithm whose carry's memory holds f of each example's last border, [B, N + K + 1], and whose ``shared``
      holds A and Ā, [N + K + 1, N].

    Raises:
      InputError: when built, an invalid network, rate or segment, or an ``oracle`` that is no function; in ``update``,
        whatever does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> algorithm, errors = rj.dni(network), []
      >>> update, bptt = jax.jit(algorithm.update), jax.jit(rj.bptt(network).update)
      >>> carry = algorithm.init(params, batch_size=2)
      >>> for start in (0, 3):
      ...     window = rj.Batch(xs=tokens[start : start + 3], ys=tokens[start + 1 : start + 4])
      ...     _, truncated = bptt(params, rj.Carry(carry.recurrent), window)
      ...     carry, estimate = update(params, carry, window)
      ...     errors.append(rj.worst(rj.compare(estimate.grads, truncated.grads))[1])
      >>> errors[0] < 1e-5, errors[1] < 1e-5  # truncated BPTT, until the predictor has learned
      (True, False)

    Source: Jaderberg et al., *Decoupled neural interfaces using synthetic gradients*, ICML (2017); linear, with the
    target of the last step and the copy, in Marschall, Cho & Savin, *A unified framework of online learning algorithms
    for training recurrent neural networks*, Journal of Machine Learning Research 21 (2020).
    """
    check_network(network)
    check_function(oracle, "oracle")
    check_number(rate, "rate", 0, math.inf, "a number, 0 or more")

    def init(params: Params, keys: Array) -> Memory:
        state = segments.flatten_state(net.zero_states(network, len(keys), params.V.dtype))
        (B, N), dtype = state.shape, accumulation_dtype(state.dtype)
        return Memory(jnp.zeros((B, N + network.outputs + 1), dtype), jnp.zeros(B, bool))

    def shared(params: Params, key: Array) -> Predictor:
        memory = jax.eval_shape(lambda: init(params, jnp.zeros(1)))
        width, dtype = memory.features.shape[1], memory.features.dtype
        zeros = jnp.zeros((width, width - network.outputs - 1), dtype)
        return Predictor(zeros, zeros, jnp.zeros((), jnp.int32))

    def credit(segment: Segment, memory: Memory, predictor: Predictor) -> tuple[tuple[Layer, ...], Memory, Predictor]:
        f, border = features_at_end(network, segment), predictor.border

        def reverse(A: Array) -> tuple[tuple[Layer, ...], State]:
            delta_end = f @ A if oracle is None else oracle(border)
            delta_end = delta_end.astype(segment.delta_hs.dtype)
            return segments.reverse(segment, segments.unflatten_state(segment, delta_end))

        _, target = reverse(predictor.copy)
        predictor = fit(predictor, memory, segments.flatten_state(target), segment.steps)
        gradients, _ = reverse(predictor.A)
        return gradients, Memory(f, jnp.ones_like(memory.known)), predictor

    def fit(predictor: Predictor, memory: Memory, target: Array, steps: Batch) -> Predictor:
        A, copy, border = predictor
        counts = jnp.ones_like(memory.known) if steps.mask is None else steps.mask.any(axis=0)
        fitted = memory.known & counts & ~starts_anew(steps)
        f = jnp.where(fitted[:, None], memory.features, 0)
        error = jnp.where(fitted[:, None], f @ A - target.astype(A.dtype), 0)
        total, fits, any_step = sum_over_batch((f.T @ error, fitted.sum(dtype=A.dtype), counts.sum(dtype=A.dtype)))
        A = A - rate * total / jnp.maximum(fits, 1)
        border = border + (any_step > 0).astype(border.dtype)
        return Predictor(A, jnp.where((any_step > 0) & (border % REFRESH == 0), A, copy), border)

    claim = Biased(true_future, "the true δ of the future", across_windows=True)
    return by_segments(network, Rule(init, credit, shared), claim, segment)


def features_at_end(network: Network, segment: Segment) -> Array:
    """[s, y, 1] at the segment's end, [B, N + K + 1], in float32 at least."""
    steps = segment.steps
    state = segments.flatten_state(stack.state_at(segment.trajectories, len(segment.delta_hs)))
    dtype = accumulation_dtype(state.dtype)
    y, *shares = jax.tree.map(lambda a: a[-1], (steps.ys, steps.mask, steps.weight))
    y = jax.nn.one_hot(y, network.outputs, dtype=dtype) if network.loss.integer_targets else y.astype(dtype)
    for share in shares:
        y = y if share is None else jnp.where(share.astype(bool)[:, None], y, 0)
    return jnp.concatenate([state.astype(dtype), y, jnp.ones_like(y[:, :1])], axis=1)


def starts_anew(steps: Batch) -> Array:
    """Whether the first step that counts is reset, bool [B]."""
    if steps.reset is None:
        return jnp.zeros(steps.xs.shape[1], bool)
    if steps.mask is None:
        return steps.reset[0]
    first = jnp.argmax(steps.mask, axis=0)
    return jnp.take_along_axis(steps.reset & steps.mask, first[None], axis=0)[0]


def true_future(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """Segments of one step, and δ after each of them by the reverse of the whole sequence."""
    futures = true_adjoints(network, params, batch)
    any_step = jnp.ones(len(batch.xs), bool) if batch.mask is None else batch.mask.any(axis=1)
    (counted,) = jnp.nonzero(any_step)
    return {"segment": 1, "oracle": lambda border: futures[counted + 1][border]}, params, batch


def true_adjoints(network: Network, params: Params, batch: Batch) -> Array:
    """∂L/∂s_t of the losses after step t, s_0 … s_T, [T + 1, B, N]."""
    B, layers = batch.xs.shape[1], stack.prepare(network, params)
    zeros = net.zero_states(network, B, params.V.dtype)
    segment, _, _ = segments.run_forward(network, params, layers, zeros, batch)

    def back(carry: tuple[Array, State], inputs: tuple[Batch, Array]) -> tuple[tuple[Array, State], Array]:
        (t, delta), (step, delta_h) = carry, inputs
        one = jax.tree.map(lambda a: a[None], step)
        _, delta = stack.reverse(layers, segment.trajectories, t, one, delta_h[None], delta)
        return (t - 1, delta), segments.flatten_state(delta)

    T = len(batch.xs)
    _, deltas = lax.scan(back, (jnp.asarray(T - 1), zeros), (batch, segment.delta_hs), reverse=True)
    return jnp.concatenate([deltas, segments.flatten_state(zeros)[None]])
