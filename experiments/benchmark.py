"""Time and memory of loss and gradient: bptt beside jax.grad, flax, haiku, equinox and torch (each where installed).

Every case is measured in one process, the programs by turns (A B C A B C ...), compiling apart, each call awaited.
Beside them stands the floor: the model's products, 2·T·B·(3·G·H² + 3·H·K) operations, at the rate that one large
product reaches by turns with them. Long sequences run each in a process of its own, whose peak memory is reported.
Programs for an H100 and a TPU v5e are compiled where accelerators.py finds the plugins to do so.

Writes rows.jsonl as it goes, summary.json and plots; --resume FOLDER goes on where a run was stopped. An hour or two;
--quick touches everything in minutes.

Examples:
  python experiments/benchmark.py
  python experiments/benchmark.py --parts grid --cells lstm --hidden 256
  python experiments/benchmark.py --resume runs/benchmark/20260101-120000
"""

import dataclasses
import itertools
import json
import math
import multiprocessing
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from peers import CELLS, Case, Contender, builders, compiled, network_of, tokens, usual
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import runs
from rnn_jax.checks import require
from rnn_jax.diagnostics import worst
from rnn_jax.gradients.bptt import default_segment
from rnn_jax.ops import matmul, sum_outer_products, transpose_once

Part = Literal["grid", "scaling", "crossover", "long", "programs"]
Row = dict[str, Any]
BPTT, ONE, RECOMPUTED = "bptt", "bptt, one device", "bptt, recomputed"
USUAL, OUTSIDE = "jax.grad, usual scan", "jax.grad, inputs outside"
PRODUCT, PRODUCTS = "one large product", "products alone"
OURS = (BPTT, ONE, RECOMPUTED)
FILES = r"rows\.jsonl|summary\.json|(peers|length|crossover)\.png|(cuda|tpu)-\w+\.json"
"""What a run writes beside config.json."""


@dataclass(frozen=True)
class Config:
    """Which cases to measure."""

    parts: tuple[Part, ...] = ("grid", "scaling", "crossover", "long", "programs")
    """grid: every program; scaling: in H and B; crossover: storing or computing again; long: T to --longest, B = 1."""
    cells: tuple[Literal["elman", "lstm", "gru"], ...] = ("elman", "lstm", "gru")
    hidden: tuple[int, ...] = (128, 256, 512)
    """H of the grid."""
    shapes: tuple[tuple[int, int], ...] = ((1, 1024), (32, 96), (64, 256))
    """(B, T) of the grid."""
    longest: int = 1_000_000
    """The longest T."""
    devices: int | None = None
    """CPU devices that bptt may split a batch over; by default one a core."""
    rounds: int = 7
    """Timed calls of each program, at the least."""
    product: int = 4096
    """Size of the square product whose rate makes the floor."""
    out: Path | None = None
    """Run folder; by default runs/benchmark/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Path | None = None
    """Go on with the run in this folder; give the same flags again."""
    quick: bool = False
    """Small cases of every part, in minutes, unless other flags say more; the figures mean nothing."""


QUICK = Config(hidden=(16,), shapes=((4, 16),), longest=1000, rounds=2, product=256, quick=True)


def flags(parse: runs.Parse) -> Config:
    """The command line; with --quick the flags that are left out are those of a quick run."""
    config = parse(Config())
    return parse(QUICK) if config.quick else config


def loss_and_gradient(case: Case, algorithm: rj.Algorithm) -> Contender:
    """An algorithm of ours as a contender."""
    params = rj.init(network_of(case), jax.random.key(0))
    return compiled(rj.value_and_grad(algorithm), params, rj.Batch(*map(jnp.asarray, tokens(case))))


def programs(case: Case) -> dict[str, Callable[[], Contender]]:
    """What is ours or JAX's own for a case, by name."""
    network, devices = network_of(case), rj.devices_for(case.batch)
    inputs = rj.Batch(*map(jnp.asarray, tokens(case)))
    several = {BPTT: lambda: loss_and_gradient(case, rj.data_parallel(rj.bptt(network), devices))}
    return {
        PRODUCTS: lambda: products_alone(case),
        **(several if len(devices) > 1 else {}),
        ONE: lambda: loss_and_gradient(case, rj.bptt(network)),
        RECOMPUTED: lambda: loss_and_gradient(case, rj.bptt(network, recompute=True)),
        USUAL: lambda: compiled(usual(network), rj.init(network, jax.random.key(0)), inputs),
        OUTSIDE: lambda: loss_and_gradient(case, rj.autodiff(network)),
    }


def product_of(size: int) -> Callable[[], Any]:
    """One float32 product of two square matrices, awaited."""
    a = jnp.ones((size, size))
    product = jax.jit(jnp.matmul)
    return lambda: product(a, a).block_until_ready()


def products_alone(case: Case) -> Contender:
    """The model's products at their own shapes, made as bptt makes them, on its devices, and nothing else.

    T recurrent products forward and T back, one after another, and those of the readout and the parameters, a segment
    at a time.
    """
    devices = rj.devices_for(case.batch)
    n = default_segment(case.length, case.batch // len(devices), recompute=False)
    params = rj.init(network_of(case), jax.random.key(0))
    mesh = Mesh(np.array(devices), ("batch",))
    G = len(CELLS[case.cell]().gates)
    h, delta = jnp.ones((case.batch, case.hidden)), jnp.ones((case.batch, G * case.hidden))

    def run(params: rj.Params, h: jax.Array, delta: jax.Array) -> tuple[jax.Array, rj.Params]:
        W, V = params.layers[0].W, params.V
        W_T = transpose_once(params.layers[0].W)
        h = lax.fori_loop(0, case.length, lambda _, h: 1e-3 * matmul(h, W, W_T)[:, : case.hidden], h)
        delta = lax.fori_loop(0, case.length, lambda _, d: 1e-3 * jnp.tile(matmul(d, W_T, W), (1, G)), delta)
        hs, deltas = jnp.tile(h, (n, 1)), jnp.tile(delta, (n, 1))

        def segment(_: Any, sums: Any) -> Any:
            loss, dW, dV = sums
            rows = hs + 1e-9 * loss  # of this pass: else one would do for all
            os = rows @ V
            delta_hs = os @ V.T
            return 1e-9 * delta_hs[0, 0], dW + sum_outer_products(rows, deltas), dV + sum_outer_products(rows, os)

        sums = (jnp.zeros(()), jnp.zeros_like(W), jnp.zeros_like(V))
        loss, dW, dV = lax.fori_loop(0, -(-case.length // n), segment, sums)
        return loss[None], params._replace(layers=(params.layers[0]._replace(W=dW[None]),), V=dV[None])

    spec, rows = PartitionSpec(), PartitionSpec("batch")
    parts = jax.shard_map(run, mesh=mesh, in_specs=(spec, rows, rows), out_specs=rows, check_vma=False)

    def summed(*arguments: Any) -> tuple[jax.Array, rj.Params]:
        losses, sums = parts(*arguments)
        return losses.sum(), sums

    return compiled(summed, params, h, delta)


def operations(case: Case) -> float:
    """Of the model's products: forward, error and parameter gradients; an input token's row is no product."""
    G = len(CELLS[case.cell]().gates)
    return 2 * case.length * case.batch * (3 * G * case.hidden**2 + 3 * case.hidden * case.vocabulary)


def measure(case: Case, chosen: dict[str, Callable[[], Contender]], rounds: int, product: int) -> list[Row]:
    """Milliseconds of each program, by turns with the others and with one large product."""
    contenders = {name: build() for name, build in chosen.items()}
    untaught = case.length * case.batch * math.log(case.vocabulary)
    for name, contender in contenders.items():  # weights are each library's own draw: all predict about nothing yet
        loss = contender.call()
        fits = name == PRODUCTS or abs(loss / untaught - 1) < 0.3
        require(fits, f"loss of {name}", loss, f"about {untaught:.0f}")
    calls: dict[str, Callable[[], Any]] = {name: contender.call for name, contender in contenders.items()}
    calls[PRODUCT] = product_of(product)
    calls[PRODUCT]()
    times: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    while len(times[PRODUCT]) < rounds or (time.perf_counter() - began < 10 and len(times[PRODUCT]) < 5 * rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
            time.sleep(0.005)  # idle threads of the last program's pool come to rest
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    floor = operations(case) * medians.pop(PRODUCT) / (2 * product**3)
    return [
        {
            **case._asdict(),
            "program": name,
            "milliseconds": median,
            "least": min(times[name]),
            "calls": len(times[name]),
            "floor": floor,
            "compile_seconds": contenders[name].compile_seconds,
            "temporaries": contenders[name].temporaries,
            "devices": len(rj.devices_for(case.batch)) if name in (BPTT, PRODUCTS) else 1,
        }
        for name, median in medians.items()
    ]


def alone(case: Case, name: str) -> Row:
    """One program of a case, in this process and nothing else: time of a call, and peak memory of the process."""
    contender = programs(case)[name]()
    taken = []
    while len(taken) < 2 or (sum(taken) < 5 and len(taken) < 9):  # the first call also finds its memory
        start = time.perf_counter()
        contender.call()
        taken.append(time.perf_counter() - start)
    return {
        **case._asdict(),
        "program": name,
        "milliseconds": 1e3 * statistics.median(taken[1:]),
        "temporaries": contender.temporaries,
        "compile_seconds": contender.compile_seconds,
        "peak_resident": peak_resident(),
    }


def peak_resident() -> int | None:
    """The most memory this process has held, in bytes, where Linux tells; getrusage counts its parent's in."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), None)


def exactness(case: Case, name: str) -> Row:
    """How far the recomputing bptt is from jax.grad in float64, norm-wise, on a case."""
    jax.config.update("jax_enable_x64", True)
    network = network_of(case)
    params = rj.init(network, jax.random.key(0), dtype=jnp.float64)
    batch = rj.Batch(*map(jnp.asarray, tokens(case)))
    ours, judge = (
        jax.jit(rj.value_and_grad(algorithm))(params, batch)[1]
        for algorithm in (rj.bptt(network, recompute=True), rj.autodiff(network))
    )
    leaf, error = worst(rj.compare(ours, judge))
    return {**case._asdict(), "program": name, "error": error, "worst_leaf": leaf}


def in_new_process(function: Callable[[Case, str], Row], case: Case, name: str) -> Row:
    """Run it in a process of its own; one that dies, of memory say, is a row that says so."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(function, case, name).result()
    except Exception as error:
        return {**case._asdict(), "program": name, "failed": type(error).__name__}


def accelerator(case: Case, platform: str, folder: Path) -> list[Row]:
    """Kernels, cycles and memory of the programs compiled for a device that need not be there."""
    script, file = Path(__file__).with_name("accelerators.py"), folder / f"{platform}-{case.cell}.json"
    flags = {"platform": platform, "out": file, "cell": case.cell, "hidden": case.hidden, "batch": case.batch}
    arguments = [str(part) for name, value in {**flags, "length": case.length}.items() for part in (f"--{name}", value)]
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        return [{**case._asdict(), "program": platform, "failed": done.stderr.strip().splitlines()[-1]}]
    rows = json.loads(file.read_text())["programs"]
    return [{**case._asdict(), **{name: value for name, value in row.items() if name != "bodies"}} for row in rows]


def plan(config: Config, folder: Path) -> list[tuple[Part, Case, str, Callable[[], list[Row]]]]:
    """Every measurement: its part, its case, a word more where one case is measured in several ways, and how."""
    jobs: list[tuple[Part, Case, str, Callable[[], list[Row]]]] = []

    def beside(part: Part, case: Case, names: tuple[str, ...] | None = None) -> None:
        def job() -> list[Row]:
            chosen = programs(case)
            if names is None:
                chosen |= {name: partial(build, case) for name, build in builders(case.cell).items()}
            chosen = {name: build for name, build in chosen.items() if names is None or name in names}
            return measure(case, chosen, config.rounds, config.product)

        jobs.append((part, case, "", job))

    def lonely(case: Case, name: str, function: Callable[[Case, str], Row]) -> None:
        jobs.append(("long", case, name, lambda: [in_new_process(function, case, name)]))

    for H, (B, T), cell in itertools.product(config.hidden, config.shapes, config.cells):
        beside("grid", Case(cell, H, B, T))
    small = config.quick
    for cell in config.cells:
        for H in (16,) if small else (64, 128, 256, 512, 1024):
            beside("scaling", Case(cell, H, 32, 64), (BPTT, ONE, USUAL, OUTSIDE))
        for B in (2,) if small else (1, 4, 16, 64, 256):
            beside("scaling", Case(cell, 16 if small else 256, B, 64), (BPTT, ONE, USUAL, OUTSIDE))
        for T in (16, 64) if small else (64, 256, 1024, 4096):
            beside("crossover", Case(cell, 16 if small else 256, 32, T), (ONE, RECOMPUTED, USUAL, OUTSIDE))
    lengths = [T for T in (1_000, 10_000, 100_000, 1_000_000) if config.longest > T]
    for T, name in itertools.product([*lengths, config.longest], (ONE, RECOMPUTED, USUAL)):
        lonely(Case("elman", 16 if small else 256, 1, T), name, alone)
    lonely(Case("elman", 16 if small else 256, 1, config.longest), "float64 error", exactness)
    for platform, cell in itertools.product(("cuda", "tpu"), config.cells):
        case = Case(cell, 16, 8, 32) if small else Case(cell, 512, 64, 128)
        jobs.append(("programs", case, platform, partial(accelerator, case, platform, folder)))
    return [job for job in jobs if job[0] in config.parts]


def run(config: Config) -> int:
    """Measure every case, and write the run folder."""
    if config.devices is None:
        config = dataclasses.replace(config, devices=runs.cores())
    for name in ("longest", "devices", "rounds", "product"):
        require(getattr(config, name) > 0, name, getattr(config, name), "a positive int")
    runs.use_cores(config.devices)
    for name in ("cells", "hidden", "shapes", "parts"):
        require(getattr(config, name), name, getattr(config, name), "one or more")
    require(min([*config.hidden, *itertools.chain(*config.shapes)]) > 0, "hidden, shapes", config.hidden, "positive")
    if config.resume:
        folder = config.resume
        require((folder / "rows.jsonl").is_file(), "resume", str(folder), "the folder of an earlier run")
    else:
        folder = runs.new_folder("benchmark", config, FILES)
    file = folder / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["part"], *(row[field] for field in Case._fields), row["way"]) for row in rows}
    left = [job for job in plan(config, folder) if (job[0], *job[1], job[2]) not in done]
    with file.open("a") as log, tqdm(total=len(left), unit="case", disable=None) as bar:
        for part, case, way, job in left:
            bar.set_postfix_str(f"{part}: {case.cell}, H={case.hidden} B={case.batch} T={case.length} {way}")
            fresh = [{"part": part, "way": way, **row} for row in job()]
            log.write("".join(json.dumps(row) + "\n" for row in fresh))
            log.flush()
            rows += fresh
            bar.update()
    report(rows)
    runs.write_json(folder / "summary.json", {"machine": runs.machine(), "rows": rows})
    plot(rows, folder)
    print(f"run folder: {folder}")
    return 0


def report(rows: list[Row]) -> None:
    """The tables, printed."""
    print(f"\n{'grid':<28}{'floor ms':>9}{'alone':>7}{'ours':>7}{'x floor':>9}{'next':>9}{'x ours':>8}  which is")
    for (cell, H, B, T), here in _by_case(rows, "grid").items():
        ours = min(row["milliseconds"] for row in here if row["program"] in OURS)
        others = [row for row in here if row["program"] not in (*OURS, PRODUCTS)]
        following = min(others, key=lambda row: row["milliseconds"])
        alone = next(row["milliseconds"] for row in here if row["program"] == PRODUCTS)
        name, floor = f"{cell} H={H} B={B} T={T}", here[0]["floor"]
        print(
            f"{name:<28}{floor:>9.1f}{alone:>7.1f}{ours:>7.1f}{ours / floor:>9.2f}"
            f"{following['milliseconds']:>9.1f}"
            f"{following['milliseconds'] / ours:>8.2f}  {following['program']}"
        )
    for row in rows:
        if row["part"] in ("long", "programs"):
            shown = {name: value for name, value in row.items() if name not in ("part", "way")}
            print(" ".join(f"{name}={_short(value)}" for name, value in shown.items() if value is not None))


def plot(rows: list[Row], folder: Path) -> None:
    """Bars against the peers with the floor as a line; time and memory against T; storing against recomputing."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {
        PRODUCTS: "#555555",
        BPTT: "#b03a2e",
        ONE: "#d98880",
        RECOMPUTED: "#e8b7a4",
        USUAL: "#1f4e79",
        OUTSIDE: "#7fa6c9",
    }
    grid = _by_case(rows, "grid")
    if grid:
        H, B, T = max((H, B, T) for _, H, B, T in grid if min(256, max(key[1] for key in grid)) == H)
        shown = {key[0]: here for key, here in grid.items() if key[1:] == (H, B, T)}
        figure, panels = plt.subplots(1, len(shown), figsize=(3.6 * len(shown) + 1, 3.6), layout="constrained")
        for axes, (cell, here) in zip([panels] if len(shown) == 1 else panels, shown.items(), strict=True):
            here = sorted(here, key=lambda row: -row["milliseconds"])
            names = [row["program"] for row in here]
            axes.barh(names, [row["milliseconds"] for row in here], color=[colours.get(n, "#bbbbbb") for n in names])
            axes.axvline(here[0]["floor"], color="black", lw=1, ls="--")
            axes.set(title=cell, xlabel="ms for loss and gradient")
            axes.annotate("floor", (here[0]["floor"], 0.99), xycoords=("data", "axes fraction"), fontsize=8, va="top")
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(axis="y", labelsize=8)
        figure.suptitle(f"H = {H}, B = {B}, T = {T}; floor: all products at the rate of one large one", fontsize=10)
        figure.savefig(folder / "peers.png", dpi=120)
        plt.close(figure)
    long = [row for row in rows if row["part"] == "long" and "milliseconds" in row]
    if long:
        figure, (above, below) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
        for name in dict.fromkeys(row["program"] for row in long):
            here = [row for row in long if row["program"] == name]
            lengths = [row["length"] for row in here]
            style = {"marker": "o", "ms": 4, "color": colours[name], "label": name}
            above.semilogx(lengths, [1e3 * row["milliseconds"] / row["length"] for row in here], **style)
            below.loglog(lengths, [row["temporaries"] / 2**20 for row in here], **style)
        above.set(xlabel="T, time steps", ylabel="µs per step", ylim=(0, None), title="time")
        below.set(xlabel="T, time steps", ylabel="MiB beside arguments and results", title="temporaries")
        _finish(figure, [above, below], f"Elman, H = {long[0]['hidden']}, B = 1", folder / "length.png")
    crossing = _by_case(rows, "crossover")
    if crossing:
        cells = list(dict.fromkeys(key[0] for key in crossing))
        figure, panels = plt.subplots(1, len(cells), figsize=(3.4 * len(cells) + 1, 3.6), layout="constrained")
        for axes, cell in zip([panels] if len(cells) == 1 else panels, cells, strict=True):
            cases = [here for key, here in crossing.items() if key[0] == cell]
            for name in (ONE, RECOMPUTED, USUAL, OUTSIDE):
                points = [row for here in cases for row in here if row["program"] == name]
                axes.semilogx(
                    [row["temporaries"] / 2**20 for row in points],
                    [1e3 * row["milliseconds"] / row["length"] for row in points],
                    marker="o", ms=4, color=colours[name], label=name,
                )  # fmt: skip
                axes.annotate(
                    f"T={points[-1]['length']}",
                    (points[-1]["temporaries"] / 2**20, 1e3 * points[-1]["milliseconds"] / points[-1]["length"]),
                    fontsize=7, xytext=(3, 3), textcoords="offset points",
                )  # fmt: skip
            axes.set(title=cell, xlabel="MiB of temporaries", ylabel="µs per step", ylim=(0, None))
        H, B = cases[0][0]["hidden"], cases[0][0]["batch"]
        title = f"storing or computing again, H = {H}, B = {B}, T rising along a line"
        _finish(figure, panels if len(cells) > 1 else [panels], title, folder / "crossover.png")


def _finish(figure: Any, panels: Any, title: str, path: Path) -> None:
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=120)


def _by_case(rows: list[Row], part: Part) -> dict[tuple[str, int, int, int], list[Row]]:
    cases: dict[tuple[str, int, int, int], list[Row]] = {}
    for row in rows:
        if row["part"] == part:
            cases.setdefault((row["cell"], row["hidden"], row["batch"], row["length"]), []).append(row)
    return cases


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    runs.main(Config, run, flags)
