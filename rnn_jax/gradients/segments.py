"""One driver for every learning rule: a window is cut into segments, and a rule says what crosses their borders.

Forward, segment by segment, the layers run.  The driver reads out, computes losses and errors, and sees to masks,
resets, weights, wide sums and the carried state.  A rule gets the segment and gives the gradient of the layers::

    G += (the hand-written reverse of the segment)  +  δs_start · (what the rule carries for ∂s_start/∂θ)

It may use three things, all of them by hand: ``reverse``, the segment's own BPTT; ``pull``, which takes cotangents of
the state at its end back to parameters and to its start, per example; and ``push``, the tangent of its states.

Per-example derivatives by a layer's parameters are ``Blocks``: all columns of [W; U; b] that see the same δ are one
matrix, since their derivative is one product of features [h_{t−1}, x_t, 1] and δz_t.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import jacobian, ops, recurrence, stack
from rnn_jax import network as net
from rnn_jax.checks import check_init, check_int, check_network, check_update
from rnn_jax.losses import total_weight, weighted_errors, weighted_losses
from rnn_jax.precision import accumulation_dtype
from rnn_jax.recurrence import StepAdjoint
from rnn_jax.stack import Stack, Trajectories
from rnn_jax.trajectory import Trajectory, hidden_states
from rnn_jax.types import Algorithm, Array, Batch, Carry, Cell, Claim, Estimate, Layer, Network, Params, State, Units


class Segment(NamedTuple):
    """A segment of n steps after its forward pass."""

    layers: Stack
    trajectories: Trajectories
    """States s_0 … s_n and residuals of each layer."""
    steps: Batch
    delta_os: Array
    """∂ℓ_t/∂o_t, [n, B, K]."""
    delta_hs: Array
    """∂ℓ_t/∂h_t of the highest layer, [n, B, H]: the error of each step by its own loss alone."""


class Blocks(NamedTuple):
    """Derivatives by the parameters of one layer, in the form in which rules carry them."""

    matrices: tuple[Array, ...]
    """[…, features, G·H], one for each kind of δ; features are h_{t−1} (where W is a matrix), x_t and 1."""
    units: tuple[Array, ...]
    """[…, G·H] or […, H]: a diagonal W, its bias, and the cell's own parameters."""


class Rule(NamedTuple):
    """What a learning rule adds to the driver: what an example carries, and how a segment is credited.

    The example of ``by_segments`` has one.
    """

    init: Callable[[Params, Array], Any]
    """``(params, keys [B]) -> memory`` of B fresh examples, the batch first."""
    credit: Callable[[Segment, Any, Any], tuple[tuple[Layer, ...], Any, Any]]
    """``(segment, memory, shared) -> (gradients of the layers, memory, shared)``; gradients are summed over the batch.
    The driver holds the memory of an example whose segment is wholly masked."""
    shared: Callable[[Params, Array], Any] = lambda params, key: ()
    """``(params, key) -> shared``."""


def by_segments(network: Network, rule: Rule, claim: Claim, segment: int | None = None) -> Algorithm:
    """The algorithm of a rule: the window in segments, and the rule's credit for each.

        G += gradients of credit(segment, memory, shared)      dV += Σ h_tᵀ δo_t    dc += Σ δo_t

    The driver runs the layers forward, and does losses, readout, masks, resets, weights, wide sums and the carried
    state.

    Choose it for a rule whose credit within a segment is a reverse pass.

    Args:
      network: what to differentiate.
      rule: what an example carries, and how a segment is credited.
      claim: what the gradient is, as ``testing.check_algorithm`` tests it.
      segment: steps per segment, any length; None: the whole window.

    Returns:
      An Algorithm whose carry has the rule's memory and what it shares.

    Raises:
      InputError: when built, an invalid network or segment; in ``update``, whatever does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> from rnn_jax.gradients import segments
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> def credit(segment, memory, shared):
      ...     gradients, _ = segments.reverse(segment)  # nothing crosses a border
      ...     return gradients, memory, shared
      >>> rule = segments.Rule(init=lambda params, keys: (), credit=credit)
      >>> _, grads = jax.jit(rj.value_and_grad(segments.by_segments(network, rule, rj.Exact())))(params, batch)
      >>> _, exact = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
      >>> rj.worst(rj.compare(grads, exact))[1] < 1e-5  # the window is one segment
      True
    """
    check_network(network)
    if segment is not None:
        check_int(segment, "segment")

    def init(params: Params, batch_size: int, key: Array | None = None) -> Carry:
        check_init(network, params, batch_size)
        return fresh(params, batch_size, key)

    def fresh(params: Params, batch_size: int, key: Array | None = None) -> Carry:
        own, common = jax.random.split(jax.random.key(0) if key is None else key)
        state = net.zero_states(network, batch_size, params.V.dtype)
        return Carry(state, rule.init(params, jax.random.split(own, batch_size)), rule.shared(params, common))

    def update(params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]:
        check_update(network, params, carry, batch, fresh)
        sums = accumulation_dtype(params.V.dtype)
        layers = stack.prepare(network, params)

        def advance(carried: Any, steps: Batch) -> tuple[Any, None]:
            (state, memory, shared), loss, grads = carried
            each, losses, (dV, dc) = run_forward(network, params, layers, state, steps)
            gradients, after, shared = rule.credit(each, memory, shared)
            memory = after if steps.mask is None else where_rows(steps.mask.any(axis=0), after, memory)
            grads = jax.tree.map(lambda total, new: total + new.astype(sums), grads, Params(gradients, dV, dc))
            carry = Carry(stack.state_at(each.trajectories, len(steps.xs)), memory, shared)
            return (carry, loss + losses.sum(dtype=sums), grads), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, sums), params)
        carried: Any = (carry, jnp.zeros((), sums), zeros)
        for group in stack.segments(batch, min(segment or len(batch.xs), len(batch.xs))):
            carried, _ = lax.scan(advance, carried, group)
        carry, loss, grads = carried
        grads = jax.tree.map(lambda grad, leaf: grad.astype(leaf.dtype), grads, params)
        return carry, Estimate(loss, grads, total_weight(batch))

    return Algorithm(init, update, claim)


def run_forward(
    network: Network, params: Params, layers: Stack, state: State, steps: Batch
) -> tuple[Segment, Array, tuple[Array, Array]]:
    """Forward, readout and errors of a segment: ``(segment, losses [n·B], (dV, dc))``."""
    n, B = steps.xs.shape[:2]
    trajectories = stack.forward_in_place(layers, stack.allocate(layers, n, state), 0, steps)
    rows = hidden_states(trajectories[-1], 1, n), (steps.ys, steps.mask, steps.weight)
    hs, targets = jax.tree.map(lambda a: a.reshape(n * B, *a.shape[2:]), rows)
    os = ops.affine(hs, params.V, params.c)
    losses = weighted_losses(network.loss, os, *targets)
    delta_os = weighted_errors(network.loss, os, *targets)
    delta_hs = (delta_os @ params.V.T).reshape(n, B, -1)
    segment = Segment(layers, trajectories, steps, delta_os.reshape(n, B, -1), delta_hs)
    return segment, losses, (ops.sum_outer_products(hs, delta_os), ops.sum_rows(delta_os))


def reverse(segment: Segment, delta_end: State | None = None) -> tuple[tuple[Layer, ...], State]:
    """BPTT of the segment: ``(gradients summed over the batch, ∂L/∂(state at its start))``."""
    if delta_end is None:
        delta_end = jax.tree.map(lambda a: jnp.zeros_like(a[0]), tuple(each.ss for each in segment.trajectories))
    return stack.reverse(segment.layers, segment.trajectories, 0, segment.steps, segment.delta_hs, delta_end)


def pull(segment: Segment, delta_end: State) -> tuple[tuple[StepAdjoint, ...], State]:
    """Cotangents of the states at the end, taken back through all layers: ``(δ of every step, per layer; δs_start)``.

    ``delta_end`` has the batch's rows; or, in a segment of one example, R cotangents of that example.
    """
    flags = segment.steps.mask, segment.steps.reset
    n, (R, _) = len(segment.delta_hs), delta_end[-1][0].shape
    delta_hs = jnp.zeros((n, R, segment.delta_hs.shape[-1]), segment.delta_hs.dtype)
    adjoints: list[StepAdjoint] = []
    for (cell, layer, W_T), each, delta in reversed(
        list(zip(segment.layers, segment.trajectories, delta_end, strict=True))
    ):
        adjoints.insert(0, recurrence.reverse_states(cell, layer, W_T, each, 0, delta_hs, delta, *flags))
        delta_hs = adjoints[0].deltas[0] @ layer.U.T
    return tuple(adjoints), tuple(each.delta_s_prev for each in adjoints)


def blocks(segment: Segment, adjoints: tuple[StepAdjoint, ...]) -> tuple[Blocks, ...]:
    """The sums over the steps of δ times features, one for each row of δ."""
    return tuple(
        layer_blocks(segment, level, *features(segment, level), adjoint) for level, adjoint in enumerate(adjoints)
    )


def push(segment: Segment, ds_start: State) -> State:
    """The tangent of the states at the end, from one of those at the start, rows of the batch."""
    return tangents(segment, ds_start)[0]


def tangents(segment: Segment, ds_start: State, direction: tuple[Blocks, ...] | None = None) -> tuple[State, Array]:
    """``push``, and with a direction of the parameters, blocks [B, …]: ``(ds_end, dh_t of the highest layer)``."""
    steps, ds_end, dus, dhs = segment.steps, [], None, segment.delta_hs
    for level, ((cell, layer, _), each, ds0) in enumerate(
        zip(segment.layers, segment.trajectories, ds_start, strict=True)
    ):
        s_prev = recurrence.zero_where(steps.reset, tuple(ss[:-1] for ss in each.ss))
        s = tuple(ss[1:] for ss in each.ss)
        blocks = jax.vmap(partial(jacobian.of_step, cell, layer))(s_prev, s, each.residual)
        own = None if direction is None else step_tangents(segment, level, blocks, direction[level])

        def step(ds: Any, inputs: Any, cell: Cell = cell, layer: Layer = layer) -> Any:
            block, du, own, mask, reset = inputs
            ds_new = jacobian.push(cell, layer, block, recurrence.zero_where(reset, ds), du)
            if own is not None:
                ds_new = tuple(new + share for new, share in zip(ds_new, own, strict=True))
            if mask is not None:
                ds_new = tuple(jnp.where(mask[:, None], new, old) for new, old in zip(ds_new, ds, strict=True))
            return ds_new, ds_new[0]

        ds, dhs = lax.scan(step, ds0, (blocks, dus, own, steps.mask, steps.reset))
        ds_end.append(ds)
        if level + 1 < len(segment.layers):
            dus = dhs @ segment.layers[level + 1][1].U
    return tuple(ds_end), dhs


def step_tangents(segment: Segment, level: int, block: jacobian.Jacobian, direction: Blocks) -> Units:
    """What a direction of a layer's parameters adds to ds_t within the step t alone, S arrays [n, B, H]."""
    (cell, layer, _), (matrix_features, hs) = segment.layers[level], features(segment, level)
    count, units = len(cell.gates), list(direction.units)
    du, *dv = (
        jnp.einsum("bmg,nbm->nbg", matrix, each)
        for matrix, each in zip(direction.matrices, matrix_features, strict=True)
    )
    if cell.recurrence == "diagonal":
        dv = [jnp.concatenate([hs] * count, axis=-1) * units.pop(0)[None]]
        if layer.d is not None:
            dv[0] = dv[0] + units.pop(0)[None]
    ds = jnp.zeros_like(block.A[:, :, 0])  # [n, S, B, H]
    for blocks, tangent in zip((block.P, block.Q), (du, *dv), strict=False):
        gates = jnp.stack(jnp.split(tangent, count, axis=-1), axis=1)
        ds = ds + (blocks * gates[:, None]).sum(axis=2)
    for number, dp in enumerate(units):
        ds = ds + block.R[:, :, number] * dp[None, None]
    return tuple(jnp.moveaxis(ds, 1, 0))


def features(segment: Segment, level: int) -> tuple[tuple[Array, ...], Array]:
    """What the matrices of a layer see, one array for each kind of δ, [n, B, features]; and h_{t−1}, [n, B, H]."""
    cell, layer, _ = segment.layers[level]
    n, mask = len(segment.delta_hs), segment.steps.mask
    xs = segment.steps.xs if level == 0 else hidden_states(segment.trajectories[level - 1], 1, n)
    xs = recurrence.zero_unless(mask, xs)
    if jnp.issubdtype(xs.dtype, jnp.integer):
        xs = jax.nn.one_hot(xs, layer.U.shape[0], dtype=layer.U.dtype)
    hs = recurrence.states_before(segment.trajectories[level], 0, n, segment.steps.reset)
    ones = jnp.ones((*hs.shape[:2], 1), hs.dtype)
    if cell.recurrence != "dense":
        return (jnp.concatenate([xs, ones], axis=-1),), hs
    if cell.separate:
        return (jnp.concatenate([xs, ones], axis=-1), jnp.concatenate([hs, ones], axis=-1)), hs
    return (jnp.concatenate([hs, xs, ones], axis=-1),), hs


def layer_blocks(
    segment: Segment, level: int, matrix_features: tuple[Array, ...], hs: Array, adjoint: StepAdjoint
) -> Blocks:
    """The blocks of one layer, [R, …], from the δ of all steps, [n, R, …]."""
    cell, layer, _ = segment.layers[level]
    matrices = tuple(outer(delta, each) for delta, each in zip(adjoint.deltas, matrix_features, strict=False))
    units: list[Array] = []
    if cell.recurrence == "diagonal":
        units.append((jnp.concatenate([hs] * len(cell.gates), axis=-1) * adjoint.deltas[-1]).sum(axis=0))
        if layer.d is not None:
            units.append(adjoint.deltas[-1].sum(axis=0))
    units += [delta.sum(axis=0) for delta in adjoint.delta_p]
    return Blocks(matrices, tuple(units))


def outer(deltas: Array, each: Array) -> Array:
    """Σ_t features_t ⊗ δ_t, [n, R, g] and [n, B, m] to [R, m, g]; B is R or 1."""
    n, R, g = deltas.shape
    if n == 1:  # no product, which would stand in memory on its own
        return each[0][..., None] * deltas[0][:, None]
    if each.shape[1] == 1:  # the features first: a CPU transposes the first operand of such a product, here the smaller
        product = lax.dot_general(each[:, 0], deltas.reshape(n, R * g), (((0,), (0,)), ((), ())))
        return product.reshape(-1, R, g).swapaxes(0, 1)
    return lax.dot_general(each, deltas, (((0,), (0,)), ((1,), (1,))))


def as_layer(cell: Cell, layer: Layer, each: Blocks) -> Layer:
    """Blocks without leading axes as the gradient of a layer."""
    H = layer.b.shape[0] // len(cell.gates)
    first = each.matrices[0]
    if cell.recurrence != "dense":
        units = list(each.units)
        W = units.pop(0) if cell.recurrence == "diagonal" else None
        d = units.pop(0) if layer.d is not None else None
        return Layer(first[:-1], W, first[-1], d, tuple(units))
    if cell.separate:
        second = each.matrices[1]
        return Layer(first[:-1], second[:H], first[-1], None if layer.d is None else second[H], each.units)
    return Layer(first[H:-1], first[:H], first[-1], None, each.units)


def as_layers(segment: Segment, each: tuple[Blocks, ...]) -> tuple[Layer, ...]:
    """Blocks of all layers as gradients of all layers."""
    return tuple(as_layer(cell, layer, one) for (cell, layer, _), one in zip(segment.layers, each, strict=True))


def zero_blocks(network: Network, params: Params, leading: tuple[int, ...]) -> tuple[Blocks, ...]:
    """Blocks of zeros for all layers, with these axes in front."""

    def of_layer(cell: Cell, layer: Layer) -> Blocks:
        g, H = layer.b.shape[0], layer.b.shape[0] // len(cell.gates)
        D, zeros = layer.U.shape[0], lambda *shape: jnp.zeros((*leading, *shape), layer.b.dtype)
        own = tuple(zeros(H) for _ in layer.p)
        if cell.recurrence == "none":
            return Blocks((zeros(D + 1, g),), own)
        if cell.recurrence == "diagonal":
            return Blocks((zeros(D + 1, g),), (zeros(g), *(() if layer.d is None else (zeros(g),)), *own))
        if cell.separate:
            return Blocks((zeros(D + 1, g), zeros(H + 1, g)), own)
        return Blocks((zeros(H + D + 1, g),), own)

    return tuple(of_layer(cell, layer) for cell, layer in zip(network.cells, params.layers, strict=True))


def flatten_state(state: State) -> Array:
    """All state values of all layers side by side, [B, N]."""
    return jnp.concatenate([value for units in state for value in units], axis=-1)


def unflatten_state(segment: Segment, flat: Array) -> State:
    """[R, N] as a state of R rows."""
    state, start = [], 0
    for (cell, _, _), each in zip(segment.layers, segment.trajectories, strict=True):
        H, units = each.ss[0].shape[-1], []
        for _ in cell.states:
            units.append(flat[:, start : start + H])
            start += H
        state.append(tuple(units))
    return tuple(state)


def example(segment: Segment) -> Any:
    """The segment's arrays with the batch in front: slice b of them is ``of_example`` of example b."""
    arrays = segment.trajectories, segment.steps, segment.delta_os, segment.delta_hs
    return jax.tree.map(lambda a: jnp.moveaxis(a, 1, 0), arrays)


def of_example(segment: Segment, arrays: Any) -> Segment:
    """A segment of one example."""
    trajectories, *rest = jax.tree.map(lambda a: a[:, None], arrays)
    return Segment(segment.layers, tuple(Trajectory(*each) for each in trajectories), *rest)


def stretches(steps: Batch) -> Array:
    """How many resets an example has had since the segment's start, up to this step and with it, int32 [n, B]."""
    if steps.reset is None:
        return jnp.zeros(steps.xs.shape[:2], jnp.int32)
    resets = steps.reset if steps.mask is None else steps.reset & steps.mask
    return jnp.asarray(jnp.cumsum(resets, axis=0, dtype=jnp.int32))


def where_rows(condition: Array, new: Any, old: Any) -> Any:
    """Row by row of two trees, keys included."""

    def select(new: Array, old: Array) -> Array:
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            data = select(jax.random.key_data(new), jax.random.key_data(old))
            wrapped: Array = jax.random.wrap_key_data(data, impl=jax.random.key_impl(old))
            return wrapped
        chosen: Array = jnp.where(condition.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
        return chosen

    return jax.tree.map(select, new, old)
