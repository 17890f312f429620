"""The programs of rules_benchmark.py: each learning rule, compiled over a sequence, with its floor.

A program runs a sequence in windows, and returns what it carries beside the gradient, since XLA drops an influence that
nobody reads.  The carry is donated, as in training, and one call goes on from where the call before it ended.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from rivals import Gradient, Rival

import rnn_jax as rj
from rnn_jax.checks import require

D, K, T = 16, 8, 100
"""Inputs, outputs, and about how many steps a call runs."""
HEAVY = 2e11
"""Operations of one call; a program with more of them runs a tenth of the steps."""
RATE = 1e-4
"""Of the gradient descent in programs that update the weights, divided by B."""
CELLS: dict[str, Callable[[], rj.Cell]] = {
    "elman": rj.elman,
    "leaky": lambda: rj.elman(leak=0.5),
    "indrnn": rj.indrnn,
    "rtu": rj.rtu,
}


class Size(NamedTuple):
    """One size of the network and the batch."""

    n: int
    """Units."""
    B: int
    """Examples."""

    @property
    def m(self) -> int:
        """Features of a unit: the n units, the D inputs and 1."""
        return self.n + D + 1


class Program(NamedTuple):
    """A rule, and how it is run."""

    rule: str
    """A name of ``rj.ALGORITHMS``."""
    settings: Callable[[Size], dict[str, Any]] = lambda size: {}
    cell: str = "elman"
    window: int | None = None
    """Steps of one update; None: all."""
    multiple: Callable[[Size], int] = lambda size: 1
    """A call runs a multiple of as many steps, so that every call has as many borders."""
    trains: bool = False
    """Whether each window ends with a step of gradient descent."""
    floor: Callable[[Size], float] | None = None
    """Operations of a step's large products."""
    power: int = 2
    """The power of n in the time of a step that the rule's docstring states."""

    def steps(self, size: Size) -> int:
        """How many steps a call runs."""
        each = self.multiple(size)
        steps = each * max(1, round(T / each))
        heavy = self.floor is not None and steps * self.floor(size) > HEAVY
        return steps // 10 if heavy and each == 1 else steps


class Built(NamedTuple):
    """A program, ready to be called."""

    call: Callable[[], Any]
    """Run all steps once, and wait."""
    steps: int
    error: float | None = None
    """Of the first call's gradient, if it is exact: the largest error of a leaf, of the leaf's norm."""
    compile_seconds: float | None = None
    temporaries: int | None = None
    """Scratch memory in bytes, beside arguments and results."""
    memory: int | None = None
    """What the rule carries, in bytes."""


def bptt_products(size: Size) -> float:
    """Forward, reverse and parameters of W, of U without its reverse, and of the readout."""
    return 2 * size.B * (3 * size.n**2 + 2 * D * size.n + 3 * K * size.n)


def rtrl_step(size: Size) -> float:
    """J M of one step."""
    return 2 * size.B * size.n**3 * size.m


def rtrl_segment(steps: int) -> Callable[[Size], float]:
    """The reverse of n + 1 cotangents, their products with the features, and J M once a segment."""

    def operations(size: Size) -> float:
        return 2 * size.B * size.n**2 * (size.n + size.m) * (1 + 1 / size.n) + rtrl_step(size) / steps

    return operations


def kf_product(size: Size) -> float:
    """B Jᵀ of one step."""
    return 2 * size.B * size.n**3


def of(**settings: Any) -> Callable[[Size], dict[str, Any]]:
    """The same settings at each size."""
    return lambda size: settings


def times(steps: int) -> Callable[[Size], int]:
    """The same number of steps at each size."""
    return lambda size: steps


UPDATED, UPDATED_BUFFERED = "rtrl, updates, step by step", "rtrl, updates, online"
BASES = {"elman": "bptt", "leaky": "bptt, leaky", "indrnn": "bptt, indrnn", "rtu": "bptt, rtu"}
"""The program that a cell's rules are related to."""
BPTT = functools.partial(Program, "bptt", floor=bptt_products)
FIFTY = {"settings": of(segment=50), "multiple": times(50)}
FULL = {"settings": of(segment=50, inside="full"), "multiple": times(50)}
SIXTEEN = {"settings": of(segment=16), "multiple": times(16), "power": 3}
PROGRAMS: dict[str, Program] = {
    **{name: BPTT(cell=cell) for cell, name in BASES.items()},
    "jax.grad": Program("autodiff", floor=bptt_products),
    "rtrl, step by step": Program("rtrl", of(segment=1), floor=rtrl_step, power=4),
    "rtrl, segments of 50": Program("rtrl", **FIFTY, floor=rtrl_segment(50), power=4),
    "rtrl, segments of 100": Program("rtrl", of(segment=100), multiple=times(100), floor=rtrl_segment(100), power=4),
    UPDATED: Program("rtrl", of(segment=1), window=1, trains=True, floor=rtrl_step, power=4),
    UPDATED_BUFFERED: Program("rtrl", of(online=True), window=1, multiple=lambda size: size.n, trains=True, power=3),
    "snap": Program("snap", **FIFTY),
    "snap, inside full": Program("snap", **FULL),
    "eprop": Program("eprop", **FIFTY),
    "eprop, inside full": Program("eprop", **FULL),
    "rflo": Program("rflo", **FIFTY, cell="leaky"),
    "snap, indrnn": Program("snap", cell="indrnn", window=50, multiple=times(50)),
    "snap, rtu": Program("snap", cell="rtu", window=50, multiple=times(50)),
    "uoro": Program("uoro", **FIFTY),
    "kf_rtrl, step by step": Program("kf_rtrl", of(segment=1), floor=kf_product, power=3),
    "kf_rtrl, segments of 16": Program("kf_rtrl", **SIXTEEN),
    "reverse_kf_rtrl, segments of 16": Program("reverse_kf_rtrl", **SIXTEEN),
    "optimal_kronecker, segments of 16": Program("optimal_kronecker", **SIXTEEN),
    "forward_gradient": Program("forward_gradient", **FIFTY),
    "dni": Program("dni", **FIFTY),
    "truncated": Program("truncated", multiple=times(8)),
    "immediate": Program("immediate", **FIFTY | {"settings": of()}),
}
SCALED: dict[str, Program] = {
    name: program
    for name, program in PROGRAMS.items()
    if program.cell == "elman" and not program.trains and name not in ("rtrl, segments of 50", "rtrl, segments of 100")
} | {
    "rtrl, segments of n": Program("rtrl", multiple=lambda size: size.n, power=3),
    "snap, rtu": PROGRAMS["snap, rtu"],
}
"""The programs whose scaling is fitted, each with a segment that does not depend on n, but for RTRL's."""


def problem(size: Size, cell: str, steps: int) -> tuple[rj.Network, rj.Params, rj.Batch]:
    """A network of one layer, its weights, and a batch."""
    network = rj.Network((CELLS[cell](),), D, size.n, K, rj.squared_error())
    weights, inputs, targets = jax.random.split(jax.random.key(0), 3)
    xs, ys = jax.random.normal(inputs, (steps, size.B, D)), jax.random.normal(targets, (steps, size.B, K))
    return network, rj.init(network, weights), rj.Batch(xs, ys)


def build(program: Program, size: Size) -> Built:
    """Compile a program, and compare the first call's gradient with ``jax.grad`` where the rule claims that they agree.

    With updates of the weights the two agree to a few per cent, as they were small.
    """
    steps = program.steps(size)
    network, params, batch = problem(size, program.cell, steps)
    algorithm = rj.ALGORITHMS[program.rule](network, **program.settings(size))
    count = steps // (program.window or steps)
    rate = RATE / size.B

    def run(carried: Any, batch: rj.Batch) -> Any:
        def update(carried: Any, window: rj.Batch) -> Any:
            params, carry, total = carried
            carry, estimate = algorithm.update(params, carry, window)
            total = jax.tree.map(jnp.add, total, estimate.grads)
            if program.trains:
                params = jax.tree.map(lambda p, g: p - rate * g, params, estimate.grads)
            return (params, carry, total), None

        params, carry = carried
        windows = jax.tree.map(lambda a: a.reshape(count, -1, *a.shape[1:]), batch)
        zeros = jax.tree.map(jnp.zeros_like, params)
        (params, carry, total), _ = lax.scan(update, (params, carry, zeros), windows)
        return (params, carry), total

    fresh = jax.tree.map(
        jnp.copy, (params, algorithm.init(params, size.B, jax.random.key(1)))
    )  # donated: no two as one
    memory = sum(leaf.nbytes for leaf in jax.tree.leaves(fresh[1].memory))
    began = time.perf_counter()
    compiled = jax.jit(run, donate_argnums=0).lower(fresh, batch).compile()
    seconds = time.perf_counter() - began
    carried, gradient = compiled(fresh, batch)

    def call() -> Any:
        nonlocal carried
        carried, gradient = compiled(carried, batch)
        return jax.block_until_ready((carried, gradient))

    error = None
    if isinstance(algorithm.claim, rj.Exact):
        error = worst_of(gradient, exact_gradient(network, params, batch))
        require(error < (0.1 if program.trains else 1e-4), f"error of {program.rule}", error, "rounding")
    return Built(call, steps, error, seconds, compiled.memory_analysis().temp_size_in_bytes, memory)


def build_rival(rival: Rival, exact_program: Program, size: Size) -> Built:
    """A rival on the same weights and data; an exact one must agree with ``jax.grad``."""
    steps = exact_program.steps(size)
    network, params, batch = problem(size, "elman", steps)
    began = time.perf_counter()
    call = rival.build(params, batch)
    gradient = call()
    seconds, error = time.perf_counter() - began, None
    if rival.exact:
        layer = exact_gradient(network, params, batch).layers[0]
        error = worst_of(gradient, Gradient(layer.U, layer.W))
        require(error < 1e-4, f"error of a rival of {rival.rule}", error, "rounding")
    return Built(call, steps, error, seconds)


def exact_gradient(network: rj.Network, params: rj.Params, batch: rj.Batch) -> rj.Params:
    """By ``jax.grad``."""
    gradient: rj.Params = jax.jit(rj.value_and_grad(rj.autodiff(network)))(params, batch)[1]
    return gradient


def worst_of(ours: Any, reference: Any) -> float:
    """The largest error of a leaf, of the leaf's norm."""
    errors = jax.tree.map(lambda a, b: jnp.linalg.norm(jnp.asarray(a) - b) / jnp.linalg.norm(b), ours, reference)
    return float(max(jax.tree.leaves(errors)))


def repeated(call: Callable[[], Any], seconds: float) -> tuple[Callable[[], None], int]:
    """A call that calls so often that it takes about as long; and how often."""
    call()
    began = time.process_time()
    call()
    count = max(1, min(500, int(seconds / max(time.process_time() - began, 1e-9))))

    def calls() -> None:
        for _ in range(count):
            call()

    return calls, count
