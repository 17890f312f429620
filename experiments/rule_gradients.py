"""The gradients of learning rules at frozen weights, window by window: how right they are, alike, noisy and fast."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax.data.tasks import delayed_addition
from rnn_jax.diagnostics import alignment, bias_and_variance
from rnn_jax.gradients.dni import true_adjoints

Build = Callable[[rj.Network], rj.Algorithm]
Start = Callable[[rj.Network], list[rj.Params]]
"""The parameters of each seed before training."""
Keep = Callable[[str, Callable[[], Any]], Any]
"""``(name, measure) -> result``, as ``experiment.Parts.result``."""
FUTURE = "dni, true future"
"""The exact gradient as future-facing rules share it out: all losses to come, by the parameters' use in this window."""
GROUPS = {
    "past, deterministic": ("rtrl", "truncated", "snap", "eprop", "rflo"),
    "past, stochastic": ("uoro", "kf_rtrl", "reverse_kf_rtrl", "optimal_kronecker", "forward_gradient"),
    "future": (FUTURE, "dni"),
    "within the window": ("bptt", "immediate"),
}
"""Which losses a rule credits to which use of the parameters; one group after the other in plots."""
RULES = tuple(name for group in GROUPS.values() for name in group if name != FUTURE)
FAMILIES: dict[str, Callable[[int], Build]] = {
    "bptt by windows": lambda n: rj.bptt,
    "truncated, h = 2 segments": lambda n: functools.partial(rj.truncated, history=2 * n, every=n),
    "snap": lambda n: functools.partial(rj.snap, segment=n),
    "snap, full inside": lambda n: functools.partial(rj.snap, segment=n, inside="full"),
    "eprop": lambda n: functools.partial(rj.eprop, segment=n),
    "eprop, full inside": lambda n: functools.partial(rj.eprop, segment=n, inside="full"),
    "dni": lambda n: functools.partial(rj.dni, segment=n),
    "immediate": lambda n: rj.immediate,
    "rtrl": lambda n: functools.partial(rj.rtrl, segment=n),
    "uoro": lambda n: functools.partial(rj.uoro, segment=n),
    "kf_rtrl": lambda n: functools.partial(rj.kf_rtrl, segment=n),
    "reverse_kf_rtrl": lambda n: functools.partial(rj.reverse_kf_rtrl, segment=n),
    "optimal_kronecker": lambda n: functools.partial(rj.optimal_kronecker, segment=n),
    "forward_gradient": lambda n: functools.partial(rj.forward_gradient, segment=n),
}
"""Rules by the length of their segments; ``immediate`` has none, and is measured in the longest windows alone."""


class Program(NamedTuple):
    """A rule, compiled for one size."""

    call: Callable[..., tuple[rj.Params, Any]]
    """``(params, batch, key) -> (gradients of each window, carry)``; the carry, so that nothing is left out."""
    unbiased: bool
    memory: int
    """Bytes that the rule carries of an example, beside the recurrent state."""
    temporaries: int
    """Bytes of scratch memory, of the whole batch."""


def noisy_rules(ranks: tuple[int, ...]) -> dict[str, Callable[[int], Build]]:
    """The unbiased rules whose noise falls with the length of their segments, by that length."""
    return {
        "uoro": FAMILIES["uoro"],
        "kf_rtrl": FAMILIES["kf_rtrl"],
        "reverse_kf_rtrl": FAMILIES["reverse_kf_rtrl"],
        **{
            f"optimal_kronecker, rank {rank}": lambda n, rank=rank: functools.partial(
                rj.optimal_kronecker, rank=rank, segment=n
            )
            for rank in ranks
        },
    }


def network_of(cell: str, hidden: int) -> rj.Network:
    """Two inputs, two classes."""
    return rj.Network((rj.CELLS[cell],), 2, hidden, 2, rj.softmax_cross_entropy())


def over_windows(algorithm: rj.Algorithm, window: int, params: rj.Params, batch: rj.Batch, key: Any) -> Any:
    """The gradients of the windows of a sequence, one after another, and the carry after the last."""
    windows = jax.tree.map(lambda a: a.reshape(-1, window, *a.shape[1:]), batch)
    carry = algorithm.init(params, batch.xs.shape[1], key)
    carry, estimates = jax.lax.scan(functools.partial(algorithm.update, params), carry, windows)
    return estimates.grads, carry


def compiled(build: Build, network: rj.Network, window: int, params: rj.Params, batch: rj.Batch) -> Program:
    """A rule over windows."""
    algorithm, key = build(network), jax.random.key(0)
    call = jax.jit(functools.partial(over_windows, algorithm, window)).lower(params, batch, key).compile()
    carry = jax.eval_shape(lambda: algorithm.init(params, 1, key))
    memory = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((carry.memory, carry.shared)))
    temporaries = call.memory_analysis().temp_size_in_bytes
    return Program(call, isinstance(algorithm.claim, rj.Unbiased), memory, temporaries)


def future(network: rj.Network, window: int) -> Callable[[rj.Params, rj.Batch, Any], Any]:
    """The gradients of the windows, future-facing and exact."""

    @jax.jit
    def call(params: rj.Params, batch: rj.Batch, key: Any) -> Any:
        futures = true_adjoints(network, params, batch)
        algorithm = rj.dni(network, oracle=lambda border: futures[window * (border + 1)])
        return over_windows(algorithm, window, params, batch, key)

    return call


def exact_gradient(network: rj.Network) -> Callable[[rj.Params, rj.Batch], rj.Params]:
    """Of the whole sequence."""
    gradient = jax.jit(rj.value_and_grad(rj.bptt(network)))
    return lambda params, batch: gradient(params, batch)[1]


def draws(program: Program, params: rj.Params, batch: rj.Batch, keys: int) -> rj.Params:
    """Gradients of the sequence, leaves [keys, …]; one only of a rule without randomness."""
    each = jax.random.split(jax.random.key(1), keys if program.unbiased else 1)
    sums = [jax.tree.map(lambda a: np.asarray(a).sum(axis=0), program.call(params, batch, key)[0]) for key in each]
    return jax.tree.map(lambda *rows: np.stack(rows), *sums)


def accuracy_of(program: Program, settings: list[tuple[rj.Params, rj.Batch, rj.Params]], keys: int) -> dict[str, Any]:
    """Accuracy over (params, batch, exact gradient) of several seeds: the mean of each number."""
    found = [bias_and_variance(draws(program, params, batch, keys), exact) for params, batch, exact in settings]
    return {
        field: np.mean([getattr(each, field) for each in found], axis=0).tolist()
        for field in ("bias", "interval", "variance", "error", "cosine")
    }


def settings_of(
    network: rj.Network, params: list[rj.Params], length: int, batch: int
) -> list[tuple[rj.Params, rj.Batch, rj.Params]]:
    """A sequence and its exact gradient for each seed's parameters."""
    exact, batches = (
        exact_gradient(network),
        [delayed_addition(jax.random.key(1000 + seed), length, batch) for seed in range(len(params))],
    )
    return [(each, data, exact(each, data)) for each, data in zip(params, batches, strict=True)]


def alignments(
    cell: str, hidden: int, rules: tuple[str, ...], window: int, length: int, batch: int, params: dict[str, Any]
) -> dict[str, Any]:
    """The cosines between each two rules' gradients of a window, averaged over windows and seeds.

    ``params`` are those of each seed, by when: before training, and after.
    """
    network = network_of(cell, hidden)
    first = next(iter(params.values()))
    settings = settings_of(network, first, length, batch)
    calls = {
        name: compiled(rj.ALGORITHMS[name], network, window, *settings[0][:2]).call
        for name in tqdm(rules, desc="alignment", disable=None)
    }
    calls = {name: calls.get(name, future(network, window)) for name in ordered(rules)}
    result: dict[str, Any] = {"rules": list(calls)}
    for when, each in params.items():
        cosines = []
        for seed, weights in enumerate(each):
            gradients = {
                name: call(weights, settings[seed][1], jax.random.key(number))[0]
                for number, (name, call) in enumerate(calls.items())
            }
            for number in range(length // window):
                at = {name: jax.tree.map(lambda a: a[number], grads) for name, grads in gradients.items()}  # noqa: B023
                cosines.append(alignment(at))
        mean = np.mean(cosines, axis=0)
        result[when] = mean.tolist()
        result[f"groups {when}"] = between_groups(list(calls), mean)
    return result


def ordered(rules: tuple[str, ...]) -> list[str]:
    """The rules and the exact future-facing gradient, group by group."""
    return [name for group in GROUPS.values() for name in group if name in rules or name == FUTURE]


def between_groups(names: list[str], cosines: np.ndarray) -> dict[str, float]:
    """The mean cosine of two different rules, one of each of two groups, or both of one."""
    means = {}
    for first, second in itertools.combinations_with_replacement(GROUPS, 2):
        pairs = [
            cosines[names.index(a), names.index(b)]
            for a, b in itertools.product(GROUPS[first], GROUPS[second])
            if a != b and a in names and b in names
        ]
        if pairs:
            means[f"{first} | {second}"] = float(np.mean(pairs))
    return means


def table(
    cell: str,
    sizes: tuple[int, ...],
    rules: tuple[str, ...],
    window: int,
    length: int,
    batch: int,
    start: Start,
    keys: int,
    keep: Keep,
) -> list[dict[str, Any]]:
    """Of each rule at each size: its claim, accuracy, time a step and memory."""

    def row(hidden: int, name: str) -> dict[str, Any]:
        network = network_of(cell, hidden)
        settings = settings_of(network, start(network), length, batch)
        program = compiled(rj.ALGORITHMS[name], network, window, *settings[0][:2])
        return {
            "rule": name,
            "hidden": hidden,
            "claim": claim_of(rj.ALGORITHMS[name](network)),
            **accuracy_of(program, settings, keys),
            "microseconds": microseconds({name: program}, *settings[0][:2])[name],
            "memory": program.memory,
            "temporaries": program.temporaries,
        }

    return [
        keep(f"table, {name}, H = {hidden}", functools.partial(row, hidden, name))
        for hidden, name in tqdm(list(itertools.product(sizes, rules)), desc="table", disable=None)
    ]


def claim_of(algorithm: rj.Algorithm) -> str:
    """The claim in words; that of ``bptt`` is about each window alone."""
    within = isinstance(algorithm.claim, rj.Exact) and not algorithm.claim.across_windows
    return f"{type(algorithm.claim).__name__}{' in a window' if within else ''}"


def noise(
    noisy: dict[str, Callable[[int], Build]],
    cell: str,
    hidden: int,
    lengths: tuple[int, ...],
    length: int,
    start: Start,
    keys: int,
    keep: Keep,
) -> list[dict[str, Any]]:
    """The relative variance of the unbiased rules against the length of their segments, for one example."""
    network = network_of(cell, hidden)
    settings = settings_of(network, start(network), length, 1)

    def row(name: str, segment: int) -> dict[str, Any]:
        program = compiled(noisy[name](segment), network, length, *settings[0][:2])
        return {"rule": name, "segment": segment, **accuracy_of(program, settings, keys)}

    return [
        keep(f"noise, {name}, segments of {segment}", functools.partial(row, name, segment))
        for name, segment in tqdm(list(itertools.product(noisy, lengths)), desc="noise", disable=None)
    ]


def tradeoff(
    families: dict[str, Callable[[int], Build]],
    cell: str,
    hidden: int,
    lengths: tuple[int, ...],
    length: int,
    batch: int,
    keys: int,
    params: dict[str, list[rj.Params]],
    keep: Keep,
) -> list[dict[str, Any]]:
    """Time a step, and error of a draw by the weights' age, of each family of rules, in windows of one segment."""
    network = network_of(cell, hidden)
    settings = {when: settings_of(network, each, length, batch) for when, each in params.items()}
    some = next(iter(settings.values()))[0][:2]

    def rows(segment: int) -> list[dict[str, Any]]:
        programs = {
            name: compiled(family(segment), network, segment, *some)
            for name, family in tqdm(families.items(), desc=f"segments of {segment}", disable=None)
            if name != "immediate" or segment == max(lengths)
        }
        times = microseconds(programs, *some)
        found = []
        for name, program in programs.items():
            accuracy = {when: accuracy_of(program, each, keys) for when, each in settings.items()}
            found.append({"rule": name, "segment": segment, "microseconds": times[name], **accuracy})
        return found

    kept = [keep(f"tradeoff, segments of {segment}", functools.partial(rows, segment)) for segment in lengths]
    return list(itertools.chain(*kept))


def microseconds(programs: dict[str, Program], params: rj.Params, batch: rj.Batch, rounds: int = 9) -> dict[str, float]:
    """The median time a step of each program, in interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _, (name, program) in itertools.product(range(rounds), programs.items()):
        start = time.perf_counter()
        jax.block_until_ready(program.call(params, batch, jax.random.key(0)))
        times[name].append(1e6 * (time.perf_counter() - start) / len(batch.xs))
    return {name: statistics.median(each[1:]) for name, each in times.items()}
