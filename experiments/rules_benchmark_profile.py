"""What the time of a rule consists of: the pieces of its step, each a program of its own.

A piece runs over a sequence as the rule does, on the rule's own data.  All that it computes is the carry of its loop
and is returned, so that XLA can neither drop it nor take it out of the loop.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from rules_benchmark_programs import BASES, PROGRAMS, Built, Program, Size, build, problem

import rnn_jax as rj
from rnn_jax import network as net
from rnn_jax import stack
from rnn_jax.gradients import influence, kronecker, segments, traces
from rnn_jax.gradients.kf_rtrl import advance
from rnn_jax.gradients.segments import Segment

STEP = "the same at n = 1: the fixed cost of a step"


class Setting(NamedTuple):
    """A program, and the segments of its sequence after their forward passes."""

    program: Program
    size: Size
    network: rj.Network
    params: rj.Params
    steps: int
    windows: rj.Batch
    """Each segment's steps, [segments, steps, B, …]."""
    arrays: Any
    """Each segment's trajectories, δo and δh."""

    def segment(self, params: rj.Params, inputs: Any) -> Segment:
        """One of them."""
        window, (trajectories, *errors) = inputs
        return Segment(stack.prepare(self.network, params), trajectories, window, *errors)


Build = Callable[[Setting], Built]


class Profile(NamedTuple):
    """A program at one size, and its pieces."""

    program: str
    size: Size
    parts: dict[str, Build]
    """The pieces of which it consists, and something else."""
    beside: dict[str, Build]
    """What explains them: these are parts of other pieces, or are no part."""


def setting(program: Program, size: Size) -> Setting:
    """Run forward once, segment by segment."""
    steps = program.steps(size)
    network, params, batch = problem(size, program.cell, steps)
    length = program.settings(size).get("segment") or program.window or steps
    windows = jax.tree.map(lambda a: a.reshape(-1, length, *a.shape[1:]), batch)

    def run(state: rj.types.State, window: rj.Batch) -> Any:
        each, _, _ = segments.run_forward(network, params, stack.prepare(network, params), state, window)
        return stack.state_at(each.trajectories, length), (each.trajectories, each.delta_os, each.delta_hs)

    _, arrays = jax.jit(partial(lax.scan, run))(net.zero_states(network, size.B, params.V.dtype), windows)
    return Setting(program, size, network, params, steps, windows, arrays)


def scanned(each: Setting, body: Callable[..., Any], start: Any, xs: Any, constants: Any = ()) -> Built:
    """``(constants, carry, x) -> carry`` over xs, or as often as there are steps or segments if xs is a number."""
    length = xs if isinstance(xs, int) else None

    def run(carry: Any, constants: Any, xs: Any) -> Any:
        return lax.scan(lambda carry, x: (body(constants, carry, x), None), carry, xs, length)[0]

    arguments = constants, None if length else xs
    carry = jax.tree.map(jnp.copy, start)  # donated
    compiled = jax.jit(run, donate_argnums=0).lower(carry, *arguments).compile()

    def call() -> Any:
        nonlocal carry
        carry = compiled(carry, *arguments)
        return jax.block_until_ready(carry)

    return Built(call, each.steps)


def of_segments(each: Setting, function: Callable[[Segment], Any]) -> Built:
    """What a function computes from each segment."""

    def body(params: rj.Params, _: Any, inputs: Any) -> Any:
        return function(each.segment(params, inputs))

    xs = each.windows, each.arrays
    shapes = jax.eval_shape(body, each.params, None, jax.tree.map(lambda a: a[0], xs))
    return scanned(each, body, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes), xs, each.params)


def forward(each: Setting) -> Built:
    """States, readout, losses and errors of each segment."""

    def body(params: rj.Params, carry: Any, window: rj.Batch) -> Any:
        layers = stack.prepare(each.network, params)
        segment, *readout = segments.run_forward(each.network, params, layers, carry[0], window)
        return stack.state_at(segment.trajectories, len(window.xs)), (segment[1:2], segment[3:], readout)

    state, window = jax.tree.map(lambda a: a[0], (each.arrays[0][0].ss, each.windows))
    state = (tuple(jnp.zeros_like(s[0]) for s in state),)
    shapes = jax.eval_shape(body, each.params, (state, None), window)
    start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return scanned(each, body, start, each.windows, each.params)


def reverse(each: Setting) -> Built:
    """BPTT of each segment."""
    return of_segments(each, segments.reverse)


def unit_vectors_back(each: Setting) -> Built:
    """J of each segment, and Σ_t C_t, one example after another."""

    def of_segment(segment: Segment) -> Any:
        def of_example(arrays: Any) -> Any:
            one = segments.of_example(segment, arrays)
            (adjoint,), start = segments.pull(one, segments.unflatten_state(one, jnp.eye(each.size.n)))
            return segments.flatten_state(start), adjoint.deltas[0].sum(axis=0)

        return lax.map(of_example, segments.example(segment))

    return of_segments(each, of_segment)


def with_traces(each: Setting) -> Built:
    """The reverse of a rule with traces."""

    def body(params: rj.Params, carry: Any, inputs: Any) -> Any:
        segment = each.segment(params, inputs)
        return traces.credit_layer(segment, 0, carry[1], segment.delta_hs, traces.own_weight)

    (trace,) = _memory(each)
    start = jax.tree.map(jnp.zeros_like, each.params.layers[0]), trace
    return scanned(each, body, start, (each.windows, each.arrays), each.params)


def passed_over(each: Setting) -> Built:
    """What the rule carries, read and written once a segment."""
    return scanned(each, lambda _, carry, x: jax.tree.map(jnp.negative, carry), _memory(each), len(each.windows.xs))


def influence_product(each: Setting) -> Built:
    """J M of each example, in blocks that stay in cache."""
    n, B, m = each.size.n, each.size.B, each.size.m
    blocks = -(-m // influence.rows_at_once(n, n, 4))
    M = jax.random.normal(jax.random.key(2), (n, -(-m * n // blocks)))

    def body(J: Any, M: Any, _: Any) -> Any:
        return lax.fori_loop(0, B * blocks, lambda k, M: J @ M, M)

    return scanned(each, body, M, each.steps, _rotation(n))


def factor_product(each: Setting) -> Built:
    """B Jᵀ of all examples."""
    start = jax.random.normal(jax.random.key(2), (each.size.B, each.size.n, each.size.n))
    return scanned(each, lambda J, factor, _: factor @ J, start, each.steps, _rotation(each.size.n))


def signs(each: Setting) -> Built:
    """Two signs for each example, and its next key."""

    def body(_: Any, carry: Any, x: Any) -> Any:
        keys = jax.vmap(jax.random.split)(carry[0])
        draw = lambda key: jax.random.rademacher(jax.random.fold_in(key, 0), (2,), jnp.int8)  # noqa: E731
        return keys[:, 0], jax.vmap(draw)(keys[:, 1]).astype(jnp.float32)

    keys = jax.random.split(jax.random.key(2), each.size.B)
    return scanned(each, body, (keys, jnp.zeros((each.size.B, 2))), each.steps)


def factors(each: Setting) -> Built:
    """Norms and new factors of Kronecker-factored RTRL, without the product."""
    (n, B), m = each.size, each.size.m

    def of_example(pair: Any, u: Any, own: Any, signs: Any) -> Any:
        C = (own[:, None] * jnp.eye(n)).T[None]
        crossing = kronecker.Crossing(lambda rows: rows, C, kronecker.norm(own)[None], u[None])
        return advance(pair, crossing, signs)

    u, own, drawn = (jax.random.normal(jax.random.key(k), (each.steps, B, size)) for k, size in enumerate((m, n, 2)))
    start = jnp.ones((B, m)), jnp.ones((B, n, n))
    return scanned(each, lambda _, pair, xs: jax.vmap(of_example)(pair, *xs), start, (u, own, jnp.sign(drawn)))


def one_unit(each: Setting) -> Built:
    """The program at n = 1."""
    return build(each.program, Size(1, each.size.B))


def base(each: Setting) -> Built:
    """The program that the goal compares with."""
    return build(PROGRAMS[BASES[each.program.cell]], each.size)


def _memory(each: Setting) -> Any:
    algorithm = rj.ALGORITHMS[each.program.rule](each.network, **each.program.settings(each.size))
    memory = algorithm.init(each.params, each.size.B, jax.random.key(1)).memory
    return memory.M if each.program.rule == "rtrl" else memory


def _rotation(n: int) -> jax.Array:
    """An orthogonal matrix: products with it neither grow nor fade."""
    return jnp.linalg.qr(jax.random.normal(jax.random.key(3), (n, n)))[0]


PASS = {"forward pass and readout": forward, "reverse pass": reverse}
RTRL: tuple[dict[str, Build], dict[str, Build]] = (
    {"the product J M": influence_product, "M, read and written once": passed_over, **PASS},
    {STEP: one_unit},
)
KF: tuple[dict[str, Build], dict[str, Build]] = (
    {"the product B Jᵀ": factor_product, "signs": signs, "norms and new factors": factors, **PASS},
    {STEP: one_unit},
)
KF_SEGMENTS: tuple[dict[str, Build], dict[str, Build]] = (
    {"reverse of the unit vectors": unit_vectors_back, **PASS},
    {"a product of n³ for each step and example": factor_product},
)
TRACES: tuple[dict[str, Build], dict[str, Build]] = (
    {"forward pass and readout": forward, "reverse pass with traces": with_traces},
    {"reverse pass of bptt": reverse, "the traces, read and written once": passed_over, "all of bptt": base},
)
PROFILES = [
    Profile("rtrl, step by step", Size(128, 1), *RTRL),
    Profile("rtrl, step by step", Size(16, 16), *RTRL),
    *(Profile("kf_rtrl, step by step", size, *KF) for size in (Size(64, 1), Size(64, 16), Size(128, 1))),
    Profile("kf_rtrl, segments of 16", Size(64, 16), *KF_SEGMENTS),
    Profile("snap, indrnn", Size(128, 1), *TRACES),
    *(Profile("snap, rtu", size, *TRACES) for size in (Size(64, 16), Size(128, 16))),
]


def builders(profile: Profile) -> dict[str, Callable[[], Built]]:
    """The whole program, under its own name, and its pieces."""
    program = PROGRAMS[profile.program]
    each = setting(program, profile.size)
    pieces = {name: partial(piece, each) for name, piece in (profile.parts | profile.beside).items()}
    return {profile.program: partial(build, program, profile.size), **pieces}
