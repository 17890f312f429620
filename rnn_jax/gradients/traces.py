"""What the rules with eligibility traces have in common: the Jacobian that they let through is a unit's own.

Such a rule keeps, for every parameter, its influence on the state values of its own unit alone.  Inside of a segment
the hand-written reverse runs with the rule's own unit Jacobian j, and without the product with Wᵀ; what crosses a
border is the trace E, walking back from the errors e and from 1::

    λ_t = e_t + j_{t+1} λ_{t+1}        π_t = j_{t+1} π_{t+1}, π_end = 1
    G += Σ_t u_tᵀ (λ_t ∂h_t/∂z_t) + (j_1 λ_1) E        E ← (j_1 π_1) E + Σ_t u_tᵀ (π_t ∂h_t/∂z_t)

The error of a layer is what reaches it at the same step; what another layer remembers is left out.

That is ``inside="own"``.  With ``inside="full"`` λ walks back through the full Jacobian, W and the layers above
included, and the trace alone is limited to its own unit::

    G += (BPTT of the segment) + δs_start E        E as above

Then a segment that is the whole sequence gives BPTT.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import recurrence
from rnn_jax.gradients import segments
from rnn_jax.gradients.segments import Blocks, Segment
from rnn_jax.recurrence import StepAdjoint
from rnn_jax.trajectory import hidden_states
from rnn_jax.types import Array, Batch, Cell, Layer, Network, Params, Units

Own = Callable[[Cell, Layer], tuple[Cell, Layer]]
"""The cell and the layer with the recurrence that the rule lets through."""
Error = Array | StepAdjoint
"""What reaches a layer: the error of each step alone, or λ, where credit inside of the segment is that of BPTT."""
Inside = Literal["own", "full"]
"""The Jacobian inside of a segment: the rule's own one, of a unit alone, or the full one."""


def own_weight(cell: Cell, layer: Layer) -> tuple[Cell, Layer]:
    """Of W each unit's weight to itself, for each gate: SnAp-1."""
    if cell.recurrence != "dense" or layer.W is None:
        return cell, layer
    H = len(layer.W)
    own = jnp.diagonal(layer.W.reshape(H, -1, H), axis1=0, axis2=2).reshape(-1)
    return cell._replace(recurrence="diagonal"), layer._replace(W=own)


def no_weight(cell: Cell, layer: Layer) -> tuple[Cell, Layer]:
    """Nothing of W: e-prop."""
    return cell._replace(recurrence="none"), layer._replace(W=None)


def init(network: Network, params: Params, keys: Array, inside: Inside, own: Own) -> tuple[Blocks, ...]:
    """The traces of B fresh examples, [B, R, …], of those R values of each unit that the next step sees."""

    def of_layer(cell: Cell, layer: Layer, trace: Blocks) -> Blocks:
        kept = seen(cell, layer) if inside == "full" else seen(*own(cell, layer))
        repeated: Blocks = jax.tree.map(lambda E: jnp.repeat(E, len(kept), axis=1), trace)
        return repeated

    each = segments.zero_blocks(network, params, (len(keys), 1))
    return tuple(map(of_layer, network.cells, params.layers, each))


def seen(cell: Cell, layer: Layer) -> tuple[int, ...]:
    """Which of a unit's state values the next step sees; of the others no trace is kept, since no credit reaches it.

    The recurrent weights see h, and the cell's step whatever it reads.
    """
    unit = jax.ShapeDtypeStruct((1, layer.b.shape[0] // len(cell.gates)), layer.b.dtype)
    z = (unit,) * len(cell.gates)
    inputs = ((unit,) * len(cell.states), *[z] * (2 if cell.separate else 1), *[unit] * len(layer.p))
    program = jax.make_jaxpr(cell.step)(*inputs).jaxpr
    read = {id(each) for equation in program.eqns for each in equation.invars} | {id(each) for each in program.outvars}
    states = range(len(cell.states))
    return tuple(k for k in states if id(program.invars[k]) in read or (k == 0 and cell.recurrence != "none"))


def credit(
    segment: Segment, traces: tuple[Blocks, ...], given: Sequence[Error], own: Own
) -> tuple[tuple[Layer, ...], tuple[Blocks, ...]]:
    """The gradients of all layers and their traces."""
    results = [
        credit_layer(segment, level, trace, each, own)
        for level, (trace, each) in enumerate(zip(traces, given, strict=True))
    ]
    return tuple(gradient for gradient, _ in results), tuple(trace for _, trace in results)


def full_adjoints(segment: Segment, errors: Sequence[Array] | None = None) -> list[StepAdjoint]:
    """λ of each layer from its errors, through its full Jacobian; without them that of the whole stack, as in BPTT."""
    adjoints: list[StepAdjoint] = []
    for level in reversed(range(len(segment.layers))):
        if errors is not None:
            error = errors[level]
        elif adjoints:
            error = adjoints[0].deltas[0] @ segment.layers[level + 1][1].U.T
        else:
            error = segment.delta_hs
        adjoints.insert(0, _walk_back(segment, level, segment.layers[level], error))
    return adjoints


def errors_at_the_same_step(segment: Segment) -> list[Array]:
    """The error that reaches each layer's h_t by the loss of step t alone, through the layers above it."""
    errors = [segment.delta_hs]
    for level in range(len(segment.layers) - 1, 0, -1):
        errors.insert(0, adjoint_at_the_same_step(segment, level, errors[0]).deltas[0] @ segment.layers[level][1].U.T)
    return errors


def adjoint_at_the_same_step(segment: Segment, level: int, error: Array) -> StepAdjoint:
    """The adjoint of every step by its own error alone, without any credit through time; δs_{t−1} is left out."""
    (cell, layer, _), each = segment.layers[level], segment.trajectories[level]
    s_prev = recurrence.zero_where(segment.steps.reset, tuple(ss[:-1] for ss in each.ss))
    s = tuple(ss[1:] for ss in each.ss)
    delta_s = (error, *(jnp.zeros_like(error) for _ in s[1:]))
    _, *rest = cell.adjoint(s_prev, s, each.residual, delta_s, *recurrence.own_parameters(layer, error))
    count = 2 if cell.separate else 1
    if (mask := segment.steps.mask) is not None:
        rest = jax.tree.map(lambda a: jnp.where(mask[..., None], a, 0), rest)
    deltas = tuple(jnp.concatenate(gates, axis=-1) for gates in rest[:count])
    return StepAdjoint((), deltas, tuple(rest[count:]))


def gradient(segment: Segment, level: int, adjoint: StepAdjoint) -> Layer:
    """The gradient of a layer, summed over the batch, from the δ of every step."""
    cell, layer, _ = segment.layers[level]
    n, steps = len(segment.delta_hs), segment.steps
    xs = steps.xs if level == 0 else hidden_states(segment.trajectories[level - 1], 1, n)
    hs = recurrence.states_before(segment.trajectories[level], 0, n, steps.reset)
    return recurrence.layer_gradient(cell, layer, recurrence.zero_unless(steps.mask, xs), hs, adjoint)


def _walk_back(
    segment: Segment, level: int, each: tuple[Cell, Layer, Array | None], error: Array, end: Units | None = None
) -> StepAdjoint:
    """The adjoint of all steps from the errors of each one and δs at the end, by default 0."""
    zeros = tuple(jnp.zeros_like(error[0]) for _ in each[0].states)
    flags = segment.steps.mask, segment.steps.reset
    return recurrence.reverse_states(
        *each, segment.trajectories[level], 0, error, zeros if end is None else end, *flags
    )


def _walks(
    segment: Segment, level: int, given: Error, own: Own, kept: tuple[int, ...]
) -> tuple[StepAdjoint, list[StepAdjoint]]:
    """λ, and π of the state values that have a trace; what walks back through the own Jacobian does so in one loop."""
    each = (*own(*segment.layers[level][:2]), None)
    ss = segment.trajectories[level].ss
    rows = np.eye(len(ss))[list(kept)]  # 1 in one state value, and for λ in none
    if not isinstance(given, StepAdjoint):
        rows = np.concatenate([np.zeros((1, len(ss))), rows])
    ends = tuple(
        jnp.broadcast_to(row.astype(s.dtype)[:, None, None], (len(rows), *s[0].shape))
        for row, s in zip(rows.T, ss, strict=True)
    )
    errors = jnp.zeros((len(rows), len(segment.delta_hs), *ss[0][0].shape), ss[0].dtype)
    if not isinstance(given, StepAdjoint):
        errors = errors.at[0].set(given)
    walked = jax.vmap(lambda error, end: _walk_back(segment, level, each, error, end))(errors, ends)
    adjoints: list[StepAdjoint] = [jax.tree.map(lambda a, i=i: a[i], walked) for i in range(len(rows))]
    return (given, adjoints) if isinstance(given, StepAdjoint) else (adjoints[0], adjoints[1:])


def credit_layer(segment: Segment, level: int, traces: Blocks, given: Error, own: Own) -> tuple[Layer, Blocks]:
    """The gradient of one layer, and its traces."""
    cell, layer, _ = segment.layers[level]
    kept = seen(cell, layer) if isinstance(given, StepAdjoint) else seen(*own(cell, layer))
    adjoint, through = _walks(segment, level, given, own, kept)
    if not kept:
        return gradient(segment, level, adjoint), traces
    states, features = range(len(kept)), segments.features(segment, level)
    parts = [segments.layer_blocks(segment, level, *features, each) for each in through]
    new = jax.tree.map(lambda *each: jnp.stack(each, axis=1), *parts)  # [B, R, …]

    def of_kept(each: StepAdjoint) -> Array:
        return jnp.stack([each.delta_s_prev[k] for k in kept], axis=1)

    at_start = of_kept(adjoint)  # [B, R, H]
    between = jnp.stack([of_kept(each) for each in through], axis=1)  # [B, R, R, H], ∂s_k/∂s_j

    def of_example(total: Blocks, inputs: Any) -> tuple[Blocks, None]:
        trace, at_start = inputs

        def plus(a: Array, E: Array) -> Array:
            return a + sum(_by_unit(d, e) for d, e in zip(at_start, E, strict=True))

        return jax.tree.map(plus, total, trace), None

    def advanced(E: Array, new: Array) -> Array:
        by_unit = jax.vmap(_by_unit)
        return new + jnp.stack([sum(by_unit(between[:, k, j], E[:, j]) for j in states) for k in states], axis=1)

    start = jax.tree.map(lambda E: jnp.zeros(E.shape[2:], E.dtype), traces)
    credited, _ = lax.scan(of_example, start, (traces, at_start))
    total = jax.tree.map(
        lambda g, c: g + c.astype(g.dtype), gradient(segment, level, adjoint), segments.as_layer(cell, layer, credited)
    )
    return total, jax.tree.map(advanced, traces, new)


def _by_unit(numbers: Array, a: Array) -> Array:
    """Numbers of each unit, [H], times its columns in every gate's block, […, G·H] or [H]."""
    tiled = jnp.concatenate([numbers] * (a.shape[-1] // len(numbers)))
    return tiled.reshape(*(1,) * (a.ndim - 1), -1) * a


def first_step(batch: Batch) -> Batch:
    """The batch's first step alone, where there is no credit through time."""
    first: Batch = jax.tree.map(lambda a: a[:1], batch)
    return first


def one_segment(batch: Batch) -> Batch:
    """The batch without its last step: a sequence of one window, however many the whole of it is cut into."""
    shorter: Batch = jax.tree.map(lambda a: a[: max(1, len(a) - 1)], batch)
    return shorter
