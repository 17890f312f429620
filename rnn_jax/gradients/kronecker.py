"""What the rules with Kronecker factors have in common: the influence of a matrix of parameters is kept in factors.

All parameters of a layer that see the same δ are one matrix, [W; U; b], and a step's share of their influence is a
Kronecker product: of its features u_t = [h_{t−1}, x_t, 1], and of C_t = ∂s_end/∂z_t [N, G·H].  Over a segment with
J = ∂s_end/∂s_start the influence on the N state values of all layers becomes::

    M ← J M + Σ_t C_t ⊗ u_t

A rule writes M in fewer numbers, and keeps its mean right by random signs.  A cell that sees u and v apart has two such
matrices, [U; b] and [W; d].  A diagonal W, its bias and the cell's own parameters are one number a unit: their
influence, no larger than a factor, is carried exactly.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import jacobian, recurrence
from rnn_jax.checks import check_function
from rnn_jax.gradients import segments
from rnn_jax.gradients.segments import Blocks, Rule, Segment, by_segments
from rnn_jax.network import zero_states
from rnn_jax.precision import accumulation_dtype
from rnn_jax.types import Algorithm, Array, Claim, Layer, Network, Params, Unbiased, Units

Signs = Callable[[Array], Array]
"""``border -> signs``, as many as a rule may need there, in place of random ones: for listing all outcomes."""

OUTCOMES = 4096
"""How many outcomes of the signs are listed at most."""


class Crossing(NamedTuple):
    """What a segment of n steps does to the influence of one matrix, for one example."""

    push: Callable[[Array], Array]
    """``rows -> rows Jᵀ``: tangents of the state at the start, […, N], taken to the end, J = ∂s_end/∂s_start."""
    C: Array
    """∂s_end/∂z_t of each step, [n, N, G·H]."""
    sizes: Array
    """‖C_t‖, [n]."""
    u: Array
    """Features of each step, [n, m]."""


class Factors(NamedTuple):
    """How a rule writes the influence [N, G·H, m] of one matrix."""

    zeros: Callable[[int, int, int], tuple[tuple[int, ...], ...]]
    """``(N, g, m) -> shapes`` of the factors of one example, g = G·H."""
    credit: Callable[[Any, Array], Array]
    """``(factors, δs [B, N]) -> δs M``, [m, g], summed over the batch."""
    draws: Callable[[int, int, int], int]
    """``(n, g, m) -> signs`` that crossing n steps needs."""
    advance: Callable[[Any, Crossing, Array], Any]
    """``(factors, crossing, signs) -> factors`` of one example."""


class Memory(NamedTuple):
    """What an example carries."""

    factors: Any
    """Of each layer and each of its matrices, [B, …]."""
    units: Any
    """Of each layer, the influence of its parameters of one number a unit, [B, …, N]."""
    key: Array
    border: Array
    """How many borders it has crossed, int [B]."""


def by_factors(network: Network, factors: Factors, claim: Claim, segment: int | None, signs: Signs | None) -> Algorithm:
    """The algorithm of a rule; signs that are given are the same for all matrices and examples."""
    check_function(signs, "signs")

    def init(params: Params, keys: Array) -> Memory:
        B = len(keys)
        N = segments.flatten_state(zero_states(network, B, params.V.dtype)).shape[1]
        blocks = segments.zero_blocks(network, params, (B, N))

        def fresh(matrix: Array) -> tuple[Array, ...]:
            m, g = matrix.shape[2:]
            return tuple(jnp.zeros((B, *shape), matrix.dtype) for shape in factors.zeros(N, g, m))

        by_matrix = tuple(tuple(map(fresh, each.matrices)) for each in blocks)
        units = tuple(tuple(M.swapaxes(1, 2) for M in each.units) for each in blocks)
        return Memory(by_matrix, units, keys, jnp.zeros(B, jnp.int32))

    def draw(segment: Segment, memory: Memory, keys: Array) -> Any:
        """Of each layer and matrix, signs [B, count]."""
        n, number, drawn = len(segment.delta_hs), 0, []
        for level, (_, layer, _) in enumerate(segment.layers):
            of_layer = []
            for each in segments.features(segment, level)[0]:
                count = factors.draws(n, len(layer.b), each.shape[-1])

                def random(key: Array, number: int = number, count: int = count) -> Array:
                    return jax.random.rademacher(jax.random.fold_in(key, number), (count,), jnp.int8)

                given = random if signs is None else lambda border, count=count: signs(border)[:count]
                of_layer.append(jax.vmap(given)(keys if signs is None else memory.border).astype(layer.b.dtype))
                number += 1
            drawn.append(tuple(of_layer))
        return tuple(drawn)

    def credit(segment: Segment, memory: Memory, shared: Any) -> tuple[tuple[Layer, ...], Memory, Any]:
        gradients, delta_start = segments.reverse(segment)
        delta = segments.flatten_state(delta_start)
        credited = tuple(
            Blocks(
                tuple(factors.credit(each, delta) for each in matrices),
                tuple(jnp.tensordot(M, delta, ((0, 2), (0, 1))) for M in units),
            )
            for matrices, units in zip(memory.factors, memory.units, strict=True)
        )
        gradients = jax.tree.map(lambda g, c: g + c.astype(g.dtype), gradients, segments.as_layers(segment, credited))

        def of_example(inputs: Any) -> tuple[Any, Any]:
            arrays, by_matrix, by_unit, signs = inputs
            one = segments.of_example(segment, arrays)
            unit_vectors = segments.unflatten_state(one, jnp.eye(delta.shape[1], dtype=delta.dtype))
            adjoints, start = segments.pull(one, unit_vectors)
            push = partial(push_one_step, one) if n == 1 else partial(jnp.matmul, b=segments.flatten_state(start).T)
            new, units = [], []
            for level, adjoint in enumerate(adjoints):
                features, hs = segments.features(one, level)
                crossings = []
                for kind, (u, C) in enumerate(zip(features, adjoint.deltas, strict=False)):
                    if n == 1:
                        C_T = influence_of_one_step(one, level, kind)
                        crossings.append(Crossing(push, C_T.T[None], norm(C_T)[None], u[:, 0]))
                    else:
                        crossings.append(Crossing(push, C, norm(C, (1, 2)), u[:, 0]))
                new.append(tuple(map(factors.advance, by_matrix[level], crossings, signs[level])))
                theta = segments.layer_blocks(one, level, features, hs, adjoint).units
                units.append(tuple(push(M) + each.T for M, each in zip(by_unit[level], theta, strict=True)))
            return tuple(new), tuple(units)

        keys, n = jax.vmap(jax.random.split)(memory.key), len(segment.delta_hs)
        inputs = segments.example(segment), memory.factors, memory.units, draw(segment, memory, keys[:, 1])
        new, units = jax.vmap(of_example)(inputs) if n == 1 else lax.map(of_example, inputs)
        return gradients, Memory(new, units, keys[:, 0], memory.border + 1), shared

    return by_segments(network, Rule(init, credit), claim, segment)


def push_one_step(one: Segment, rows: Array) -> Array:
    """Rows of tangents, […, N], through a segment of one step, whose J, as large as a product with W, is not made."""
    ds_end = segments.push(one, segments.unflatten_state(one, rows.reshape(-1, rows.shape[-1])))
    return segments.flatten_state(ds_end).reshape(rows.shape)


def influence_of_one_step(one: Segment, level: int, kind: int) -> Array:
    """Cᵀ of a segment of one step, [G·H, N], for one matrix of a layer: of each unit its own, and on through U."""
    ds: list[Units] = []
    for cell, layer, trajectory in (
        (*layer[:2], each) for layer, each in zip(one.layers, one.trajectories, strict=True)
    ):
        s_prev = recurrence.zero_where(one.steps.reset, tuple(ss[:1] for ss in trajectory.ss))
        states = s_prev, tuple(ss[1:] for ss in trajectory.ss), trajectory.residual
        block = jacobian.of_step(cell, layer, *jax.tree.map(lambda a: a[0], states))
        S, G, _, H = block.P.shape
        if len(ds) == level:
            by_gate = (block.P, block.Q)[kind][:, :, 0, None] * jnp.eye(H, dtype=block.P.dtype)[None, None]
            ds.append(tuple(by_gate.reshape(S, G * H, H)))
            continue
        none = tuple(jnp.zeros((len(one.layers[level][1].b), H), block.P.dtype) for _ in range(S))
        du = ds[-1][0] @ layer.U if len(ds) > level else None
        ds.append(none if du is None else jacobian.push(cell, layer._replace(W=None), block, none, du))
    C_T = segments.flatten_state(tuple(ds))
    return C_T if one.steps.mask is None else jnp.where(one.steps.mask, C_T, 0)


def norm(a: Array, axes: tuple[int, ...] | None = None) -> Array:
    """The Euclidean norm over these axes, all by default, in float32 at least."""
    return jnp.sqrt(jnp.square(a.astype(accumulation_dtype(a.dtype))).sum(axis=axes))


def balance(a: Array, b: Array) -> tuple[Array, Array]:
    """ρ and 1/ρ from the norms of a product's factors, ρ² = ‖b‖ / ‖a‖: ρa and b/ρ have one norm, and least variance.

    Both are 0 where a norm is: a product that is 0, as after a reset, leaves neither of its factors behind.
    """
    known = (a > 0) & (b > 0)
    rho = jnp.sqrt(jnp.where(known, b, 1) / jnp.where(known, a, 1))
    return jnp.where(known, rho, 0), jnp.where(known, 1 / rho, 0)


def hadamard(columns: int) -> np.ndarray:
    """Rows of signs with orthogonal columns, the first all ones: over them the mean of c cᵀ is the identity."""
    rows = np.ones((1, 1))
    while len(rows) < columns:
        rows = np.block([[rows, rows], [rows, -rows]])
    return rows[:, :columns]


def choices(rows: int, borders: int) -> Array:
    """All ways to take one of the rows at each border, [rows ** borders, borders]."""
    return jnp.asarray(np.indices((rows,) * borders).reshape(borders, -1).T)


def enumerated(table: Callable[[Network], np.ndarray], rows: int) -> Unbiased:
    """The claim, by segments of two steps, with the rows of a table as the signs of a border; at H = 2 it has ``rows``.

    The last border is left out, since no loss comes after it.
    """
    borders = min(5, int(math.log(OUTCOMES, rows) + 1e-9))

    def enumerate_rows(network: Network, T: int, B: int) -> tuple[Callable[[Array], dict[str, Any]], Array]:
        each = jnp.asarray(table(network))
        return lambda outcome: {"segment": 2, "signs": lambda border: each[outcome[border]]}, choices(len(each), T // 2)

    return Unbiased(enumerate_rows, steps=2 * borders)
