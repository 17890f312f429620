"""Build the programs of a benchmark, and measure their time and memory.

A candidate is one compiled program that computes the loss and the gradient of a case. ``measure`` calls the candidates
of a case interleaved (A B C A B C ...), so that a change of the machine's speed affects all of them alike. Each call is
awaited, and medians are reported. Two references stand beside them: the floor, which is the time of the model's matrix
products at the rate of one large product, and ``matmuls_only``, which makes those products at their own shapes.
"""

import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

import rnn_jax as rj
from rnn_jax.checks import require
from rnn_jax.gradients.bptt import default_segment
from rnn_jax.ops import matmul, sum_outer_products

BPTT, RECOMPUTED, MATMULS = "bptt", "bptt, with recomputation", "matmuls only"
WHOLE, BY_ROW = PartitionSpec(), PartitionSpec("batch")
Row = dict[str, Any]
"""What was measured of one program on one case: one line of rows.jsonl."""


class Case(NamedTuple):
    """One shape of the benchmark: a model of characters with one recurrent layer, in float32."""

    cell: str
    hidden: int
    """H, units."""
    batch: int
    """B, sequences."""
    length: int
    """T, time steps."""
    vocabulary: int = 65
    """D = K, tokens."""


class Program(NamedTuple):
    """What a candidate is called in rows and plots: two candidates of a case differ in one of these."""

    name: str
    devices: int = 1
    """How many devices the batch is split over.  On a CPU the threads of one device may use every core."""


class Candidate(NamedTuple):
    """A compiled loss and gradient."""

    call: Callable[[], float]
    """Compute both once, wait, and return the loss, summed over T and B, in nats."""
    parameters: int
    """How many numbers the gradient has."""
    compile_seconds: float | None = None
    temporaries: int | None = None
    """Scratch memory in bytes: beside arguments and results, as XLA plans it, on one device."""


def tokens(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets [T, B], int32."""
    drawn = np.random.default_rng(0).integers(0, case.vocabulary, (case.length + 1, case.batch), np.int32)
    return drawn[:-1], drawn[1:]


def batch_of(case: Case) -> rj.Batch:
    """Inputs and targets as a batch of this library."""
    return rj.Batch(*map(jnp.asarray, tokens(case)))


def network_of(case: Case) -> rj.Network:
    """The case as a network of this library."""
    K = case.vocabulary
    return rj.Network((rj.CELLS[case.cell],), K, case.hidden, K, rj.softmax_cross_entropy())


def compiled(function: Callable[..., tuple[jax.Array, Any]], params: Any, *inputs: Any) -> Candidate:
    """A candidate from a JAX function ``(params, *inputs) -> (loss, grads)``."""
    began = time.perf_counter()
    program = jax.jit(function).lower(params, *inputs).compile()
    seconds = time.perf_counter() - began
    arguments = jax.device_put((params, *inputs), program.input_shardings[0])

    def call() -> float:
        return float(jax.block_until_ready(program(*arguments))[0])

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Candidate(call, count, seconds, program.memory_analysis().temp_size_in_bytes)


def loss_and_gradient(case: Case, algorithm: rj.Algorithm, network: rj.Network | None = None) -> Candidate:
    """A candidate from an algorithm of the case's network, or of another one of its sizes."""
    params = rj.init(network or network_of(case), jax.random.key(0))
    return compiled(rj.value_and_grad(algorithm), params, batch_of(case))


def matmuls_only(case: Case) -> Candidate:
    """The model's matrix products at their own shapes, made as bptt makes them, on its devices, and nothing else.

    T recurrent products forward and T in reverse, one after another; then those of the readout and the parameters, a
    segment at a time.  What its call returns is not a loss.
    """
    devices = rj.devices_for(case.batch)
    n = default_segment(case.length, case.batch // len(devices), recompute=False)
    params = rj.init(network_of(case), jax.random.key(0))
    G = len(rj.CELLS[case.cell].gates)

    def on_one_device(params: rj.Params, h: jax.Array, delta: jax.Array) -> tuple[jax.Array, rj.Params]:
        W, V = params.layers[0].W, params.V
        W_T = W.T
        h = lax.fori_loop(0, case.length, lambda _, h: 1e-3 * matmul(h, W, W_T)[:, : case.hidden], h)
        delta = lax.fori_loop(0, case.length, lambda _, d: 1e-3 * jnp.tile(matmul(d, W_T, W), (1, G)), delta)
        hs, deltas = jnp.tile(h, (n, 1)), jnp.tile(delta, (n, 1))

        def segment(_: Any, sums: Any) -> Any:
            loss, dW, dV = sums
            rows = hs + 1e-9 * loss  # differs from pass to pass, so that XLA cannot compute one pass for all
            os = rows @ V
            delta_hs = os @ V.T
            return 1e-9 * delta_hs[0, 0], dW + sum_outer_products(rows, deltas), dV + sum_outer_products(rows, os)

        sums = (jnp.zeros(()), jnp.zeros_like(W), jnp.zeros_like(V))
        loss, dW, dV = lax.fori_loop(0, -(-case.length // n), segment, sums)
        return loss[None], params._replace(layers=(params.layers[0]._replace(W=dW[None]),), V=dV[None])

    parts = jax.shard_map(
        on_one_device,
        mesh=Mesh(np.array(devices), ("batch",)),
        in_specs=(WHOLE, BY_ROW, BY_ROW),
        out_specs=BY_ROW,
        check_vma=False,
    )

    def over_all(*arguments: Any) -> tuple[jax.Array, rj.Params]:
        losses, sums = parts(*arguments)
        return losses.sum(), sums

    h, delta = jnp.ones((case.batch, case.hidden)), jnp.ones((case.batch, G * case.hidden))
    return compiled(over_all, params, h, delta)


def large_product(size: int) -> Callable[[], Any]:
    """A call that multiplies two float32 matrices [size, size] and waits; compiled and called once already."""
    a, product = jnp.ones((size, size)), jax.jit(jnp.matmul)

    def call() -> jax.Array:
        return product(a, a).block_until_ready()

    call()
    return call


def matmul_operations(case: Case) -> float:
    """Floating-point operations of the model's products: forward, error and parameter gradients.

    The row of U that belongs to an input token is a look-up and no product.
    """
    G = len(rj.CELLS[case.cell].gates)
    return 2 * case.length * case.batch * (3 * G * case.hidden**2 + 3 * case.hidden * case.vocabulary)


def check_loss(case: Case, program: Program, loss: float) -> None:
    """Every model predicts about nothing before training, so its loss is about T·B·ln K nats."""
    initial_loss = case.length * case.batch * math.log(case.vocabulary)
    fits = program.name == MATMULS or abs(loss / initial_loss - 1) < 0.3
    require(fits, f"loss of {program.name}", loss, f"about {initial_loss:.0f}")


def interleaved(
    calls: Mapping[Any, Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    seconds: float = 10,
) -> dict[Any, list[float]]:
    """Milliseconds of every call, in ``rounds`` rounds, or more while they have taken less than ``seconds``.

    With ``time.process_time`` as the clock they are those of this process on all its cores.
    """
    times: dict[Any, list[float]] = {name: [] for name in calls}
    began, done = time.perf_counter(), 0
    while done < rounds or (time.perf_counter() - began < seconds and done < 5 * rounds):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(1e3 * (clock() - start))
            time.sleep(0.005)  # the idle threads of this program's pool come to rest before the next program
        done += 1
    return times


def measure(case: Case, builders: Mapping[Program, Callable[[], Candidate]], rounds: int, size: int) -> list[Row]:
    """Time and scratch memory of each program, interleaved with the others and with one product of ``size``².

    A row has ``milliseconds`` (median), ``least`` (milliseconds), ``floor`` (milliseconds), ``compile_seconds``,
    ``temporaries`` (bytes on one device) and ``devices``.
    """
    candidates = {program: build() for program, build in builders.items()}
    for program, candidate in candidates.items():
        check_loss(case, program, candidate.call())
    calls: dict[Program | None, Callable[[], Any]] = {program: each.call for program, each in candidates.items()}
    times = interleaved({**calls, None: large_product(size)}, rounds)
    floor = matmul_operations(case) * statistics.median(times.pop(None)) / (2 * size**3)
    return [
        {
            **case._asdict(),
            "program": program.name,
            "devices": program.devices,
            "milliseconds": statistics.median(taken),
            "least": min(taken),
            "calls": len(taken),
            "floor": floor,
            **_costs(candidates[program]),
        }
        for program, taken in times.items()
    ]


def measure_isolated(candidate: Candidate) -> Row:
    """Time of a candidate that has its process to itself, in milliseconds, and that process's peak memory in bytes."""
    taken = []
    while len(taken) < 2 or (sum(taken) < 5 and len(taken) < 9):  # the first call also allocates, and is not counted
        start = time.perf_counter()
        candidate.call()
        taken.append(time.perf_counter() - start)
    return {
        "milliseconds": 1e3 * statistics.median(taken[1:]),
        **_costs(candidate),
        "peak_resident": peak_resident(),
    }


def isolated(function: Callable[..., Row], *arguments: Any) -> Row:
    """What a function returns in a new process; where the process dies, of memory say, what it died of."""
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(function, *arguments).result()
    except Exception as error:
        return {"failed": type(error).__name__}


def peak_resident() -> int | None:
    """The most memory this process has held, in bytes, where Linux tells; getrusage would count its parent's in."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def by_case(rows: list[Row], part: str) -> dict[Case, list[Row]]:
    """The rows of one part of the benchmark that were timed, by case."""
    cases: dict[Case, list[Row]] = {}
    for row in rows:
        if row["part"] == part and "milliseconds" in row:
            cases.setdefault(Case(*(row[field] for field in Case._fields)), []).append(row)
    return cases


def _costs(candidate: Candidate) -> Row:
    return {name: getattr(candidate, name) for name in ("parameters", "compile_seconds", "temporaries")}
