"""Time and memory of loss and gradient: bptt compared with jax.grad, flax, haiku, equinox and torch, where installed.

The programs of a case are compiled apart and called interleaved in one process (A B C A B C ...); each call is awaited,
and medians are reported. bptt and every way to write the network for jax.grad run split over the same devices, and on
one device; other libraries run as their users run them. Beside them stands the floor: the model's matrix products,
2·T·B·(3·G·H² + 3·H·K) operations, at the throughput of one large product, which is called interleaved with them. Long
sequences run each in a process of its own, whose peak memory is reported. Programs for an H100 and a TPU v5e are
compiled where accelerators.py finds the plugins to do so.

Each case is kept as it is measured; then summary.json and the plots are written. With --out and --resume auto the same
command goes on where it was stopped. An hour or two; --quick touches everything in minutes.

Examples:
  python experiments/benchmark.py
  python experiments/benchmark.py --parts grid --cells lstm --hidden 256
  python experiments/benchmark.py --out runs/benchmark/all --resume auto
"""

import dataclasses
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import benchmark_figures
import jax
import jax.numpy as jnp
import seed_steps
import timing
import tricks
from peers import HOISTED, JAX_GRAD, READOUT_OUTSIDE, STANDARD, builders, by_jax_grad
from timing import BPTT, MATMULS, RECOMPUTED, Candidate, Case, Program, Row, batch_of, by_case, network_of
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import require
from rnn_jax.diagnostics import worst

Part = Literal["grid", "profile", "tricks", "seeds", "scaling", "crossover", "long", "programs"]
DIAGONAL = "bptt, diagonal W"
PROFILE = (MATMULS, BPTT, DIAGONAL)
FILES = r"summary\.json|(peers|length|crossover)\.png|(cuda|tpu)-\w+\.json"
"""What a run writes beside config.json."""


@dataclass(frozen=True)
class Config:
    """Which cases to measure."""

    parts: tuple[Part, ...] = ("grid", "profile", "tricks", "seeds", "scaling", "crossover", "long", "programs")
    """grid: every program; profile: bptt with and without its recurrent products; tricks: bptt with
    each platform trick of rnn_jax/ops.py replaced by its plain form; seeds: a training step of several seeds; scaling:
    in H and B; crossover: storing states or recomputing them (gradient checkpointing); long: T to --longest, B = 1;
    programs: compiled for accelerators."""
    cells: tuple[Literal["elman", "lstm", "gru"], ...] = ("elman", "lstm", "gru")
    """The cells of all parts."""
    hidden: tuple[int, ...] = (128, 256, 512)
    """H of the grid."""
    shapes: tuple[tuple[int, int], ...] = ((1, 1024), (32, 96), (64, 256))
    """(B, T) of the grid."""
    longest: int = 1_000_000
    """The longest T."""
    devices: int | None = None
    """CPU devices that a batch may be split over; by default one a core."""
    rounds: int = 7
    """Timed calls of each program, at the least."""
    product: int = 4096
    """Size of the square product whose rate makes the floor."""
    out: Path | None = None
    """Run folder; by default runs/benchmark/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    quick: bool = False
    """Small cases of every part, in minutes, unless other flags say more; the figures mean nothing."""


QUICK = Config(hidden=(16,), shapes=((4, 16),), longest=1000, rounds=2, product=256, quick=True)


class Job(NamedTuple):
    """One measurement: a case, or a program of it."""

    part: Part
    case: Case
    way: str
    """Which of the measurements of this case; empty where there is one."""
    measure: Callable[[], list[Row]]


def flags(parse: experiment.Parse) -> Config:
    """The command line; with --quick the flags that are left out are those of a quick run."""
    config = parse(Config())
    return parse(QUICK) if config.quick else config


def run(config: Config) -> int:
    """Measure every case, and write the run folder."""
    config = prepare(config)
    parts = experiment.Parts("benchmark", config, FILES)
    rows = measure_all(config, parts)
    ratios = [ratios_of(case, part, here) for part in ("grid", "scaling") for case, here in by_case(rows, part).items()]
    report(ratios, rows)
    parts.write_json("summary.json", {"machine": experiment.machine(), "ratios": ratios, "rows": rows})
    benchmark_figures.plot(rows, parts.folder)
    parts.finish()
    print(f"run folder: {parts.folder}")
    return 0


def prepare(config: Config) -> Config:
    """The configuration with its devices, which are made, or refused where it is invalid."""
    if config.devices is None:
        config = dataclasses.replace(config, devices=experiment.cores())
    for name in ("longest", "devices", "rounds", "product"):
        require(getattr(config, name) > 0, name, getattr(config, name), "a positive int")
    experiment.use_cores(config.devices)
    for name in ("cells", "hidden", "shapes", "parts"):
        require(getattr(config, name), name, getattr(config, name), "one or more")
    require(min([*config.hidden, *itertools.chain(*config.shapes)]) > 0, "hidden, shapes", config.hidden, "positive")
    return config


def measure_all(config: Config, parts: experiment.Parts) -> list[Row]:
    """Every row: those that the run folder has, and those of the jobs that are left."""
    rows: list[Row] = []
    with tqdm(plan(config, parts.folder), unit="case", disable=None) as bar:
        for part, case, way, measure in bar:
            bar.set_postfix_str(f"{part}: {case.cell}, H={case.hidden} B={case.batch} T={case.length} {way}")
            name = "-".join(map(str, (part, *case, *filter(None, [way]))))
            rows += [{"part": part, "way": way, **row} for row in parts.result(name, measure)]
    return rows


def plan(config: Config, folder: Path) -> list[Job]:
    """Every measurement that the configuration asks for."""
    jobs: list[Job] = []

    def add_interleaved(part: Part, case: Case, names: tuple[str, ...] | None = None, split: bool = True) -> None:
        jobs.append(Job(part, case, "", partial(measure_interleaved, config, case, names, split)))

    def add_isolated(case: Case, way: str, function: Callable[[Case], Row]) -> None:
        known = {**case._asdict(), "program": way, "devices": 1}
        jobs.append(Job("long", case, way, lambda: [known | timing.isolated(function, case)]))

    small = config.quick
    H = 16 if small else 256
    for hidden, (B, T), cell in itertools.product(config.hidden, config.shapes, config.cells):
        add_interleaved("grid", Case(cell, hidden, B, T))
    for cell in config.cells:
        add_interleaved("profile", Case(cell, H, 4, 16) if small else Case(cell, H, 64, 256), PROFILE)
        for hidden, B, T in ((16, 8, 16),) if small else ((256, 64, 256), (384, 64, 96), (256, 1, 1024)):
            case = Case(cell, hidden, B, T)
            measure = partial(timing.measure, case, tricks.builders(case), config.rounds, config.product)
            jobs.append(Job("tricks", case, "", measure))
        for hidden in (16,) if small else (128, 256):
            case = Case(cell, hidden, 4, 16) if small else Case(cell, hidden, 32, 100)
            measure = partial(timing.measure, case, seed_steps.builders(case), config.rounds, config.product)
            jobs.append(Job("seeds", case, "", measure))
        for hidden in (16,) if small else (64, 128, 256, 512, 1024):
            add_interleaved("scaling", Case(cell, hidden, 32, 64), (BPTT, *JAX_GRAD))
        for B in (2,) if small else (1, 4, 16, 64, 256):
            add_interleaved("scaling", Case(cell, H, B, 64), (BPTT, *JAX_GRAD))
        for T in (16, 64) if small else (64, 256, 1024, 4096):
            storing = (BPTT, RECOMPUTED, STANDARD, READOUT_OUTSIDE, HOISTED)
            add_interleaved("crossover", Case(cell, H, 32, T), storing, split=False)
    lengths = [T for T in (1_000, 10_000, 100_000, 1_000_000) if config.longest > T]
    for T, name in itertools.product([*lengths, config.longest], (BPTT, RECOMPUTED, STANDARD)):
        add_isolated(Case("elman", H, 1, T), name, partial(measure_one, name=name))
    add_isolated(Case("elman", H, 1, config.longest), "float64 error", float64_error)
    for platform, cell in itertools.product(("cuda", "tpu"), config.cells):
        case = Case(cell, 16, 8, 32) if small else Case(cell, 512, 64, 128)
        jobs.append(Job("programs", case, platform, partial(accelerator, case, platform, folder)))
    return [job for job in jobs if job.part in config.parts]


def programs(case: Case) -> dict[Program, Callable[[], Candidate]]:
    """How to build what this library and jax.grad have for a case: split over all devices, and on one."""
    network, devices = network_of(case), rj.devices_for(case.batch)
    algorithms = {BPTT: rj.bptt(network), **by_jax_grad(network)}
    chosen: dict[Program, Callable[[], Candidate]] = {Program(MATMULS, len(devices)): lambda: timing.matmuls_only(case)}
    for shared in {len(devices): devices, 1: devices[:1]}.values():
        for name, algorithm in algorithms.items():
            split = rj.data_parallel(algorithm, shared)
            chosen[Program(name, len(shared))] = partial(timing.loss_and_gradient, case, split)
    diagonal = network._replace(cells=tuple(cell._replace(recurrence="diagonal") for cell in network.cells))
    units = rj.data_parallel(rj.bptt(diagonal), devices)
    chosen[Program(DIAGONAL, len(devices))] = partial(timing.loss_and_gradient, case, units, diagonal)
    chosen[Program(RECOMPUTED)] = partial(timing.loss_and_gradient, case, rj.bptt(network, recompute=True))
    return chosen


def measure_interleaved(config: Config, case: Case, names: tuple[str, ...] | None, split: bool) -> list[Row]:
    """The rows of the named programs of a case, or of every program and every other library.

    Args:
      split: also measure the programs that split the batch over devices.
    """
    chosen = {
        program: build
        for program, build in programs(case).items()
        if (program.name != DIAGONAL if names is None else program.name in names) and (split or program.devices == 1)
    }
    if names is None:
        chosen |= {Program(name): partial(build, case) for name, build in builders(case.cell).items()}
    return timing.measure(case, chosen, config.rounds, config.product)


def measure_one(case: Case, name: str) -> Row:
    """One program of a case on one device, in this process."""
    return timing.measure_isolated(programs(case)[Program(name)]())


def float64_error(case: Case) -> Row:
    """How far the gradient of bptt with recomputation is from jax.grad's in float64: ‖g − ref‖ / ‖ref‖, worst leaf."""
    jax.config.update("jax_enable_x64", True)
    network = network_of(case)
    params = rj.init(network, jax.random.key(0), dtype=jnp.float64)
    grads, reference = (
        jax.jit(rj.value_and_grad(algorithm))(params, batch_of(case))[1]
        for algorithm in (rj.bptt(network, recompute=True), rj.autodiff(network))
    )
    leaf, error = worst(rj.compare(grads, reference))
    return {"error": error, "worst_leaf": leaf}


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


def ratios_of(case: Case, part: str, rows: list[Row]) -> dict[str, Any]:
    """The ratios of a case: of like programs on the same devices first, then of other libraries.

    ``like_for_like`` has one entry for each number of devices that bptt ran on, the larger first.  ``others`` has
    the milliseconds of each other library, and how many times those of bptt on the most devices they are.
    """
    ours = sorted((row for row in rows if row["program"] == BPTT), key=lambda row: -row["devices"])
    others = [row for row in rows if row["program"] not in (BPTT, RECOMPUTED, MATMULS, *JAX_GRAD)]
    return {
        "part": part,
        **case._asdict(),
        "floor": rows[0]["floor"],
        "matmuls_only": next((row["milliseconds"] for row in rows if row["program"] == MATMULS), None),
        "like_for_like": [like_for_like(row, rows) for row in ours],
        "others": {
            row["program"]: {
                "milliseconds": row["milliseconds"],
                "ratio": row["milliseconds"] / ours[0]["milliseconds"],
            }
            for row in sorted(others, key=lambda row: row["milliseconds"])
        },
    }


def like_for_like(ours: Row, rows: list[Row]) -> dict[str, Any]:
    """The times of bptt and of the fastest variant of jax.grad on as many devices, the runner-up, in milliseconds."""
    rivals = [row for row in rows if row["program"] in JAX_GRAD and row["devices"] == ours["devices"]]
    runner_up = min(rivals, key=lambda row: row["milliseconds"])
    return {
        "devices": ours["devices"],
        "bptt": ours["milliseconds"],
        "x_floor": ours["milliseconds"] / ours["floor"],
        "runner_up": runner_up["program"],
        "runner_up_milliseconds": runner_up["milliseconds"],
        "ratio": runner_up["milliseconds"] / ours["milliseconds"],
    }


def report(ratios: list[dict[str, Any]], rows: list[Row]) -> None:
    """The tables, printed: like for like, other libraries, then the rows of the other parts."""
    print("\nbptt and the fastest variant of jax.grad on the same devices, median milliseconds for loss and gradient")
    print(f"{'case':<26}{'devices':>8}{'floor':>9}{'matmuls':>9}{'bptt':>9}{'x floor':>9}{'jax.grad':>10}{'ratio':>7}")
    for each in ratios:
        matmuls = "" if each["matmuls_only"] is None else f"{each['matmuls_only']:.1f}"
        for pair in each["like_for_like"]:
            print(
                f"{_name(each):<26}{pair['devices']:>8}{each['floor']:>9.1f}{matmuls:>9}{pair['bptt']:>9.1f}"
                f"{pair['x_floor']:>9.2f}{pair['runner_up_milliseconds']:>10.1f}{pair['ratio']:>7.2f}"
                f"  {pair['runner_up']}"
            )
    print("\nother libraries as their users run them: milliseconds (times those of bptt on the most devices)")
    for each in ratios:
        if each["others"]:
            shown = (f"{name} {x['milliseconds']:.1f} ({x['ratio']:.2f})" for name, x in each["others"].items())
            print(f"{_name(each):<26}  " + "  ".join(shown))
    print(f"\nwhere the time of bptt goes, on all devices: {DIAGONAL} has no recurrent product and no dW")
    for case, here in by_case(rows, "profile").items():
        most = max(row["devices"] for row in here)
        shown = (f"{row['program']} {row['milliseconds']:.1f}" for row in here if row["devices"] == most)
        print(f"{_name(case._asdict()):<26}  " + "  ".join(shown) + f"  floor {here[0]['floor']:.1f}")
    print("\nbptt with one platform trick replaced by its plain form: times the time of bptt as it is")
    for case, here in by_case(rows, "tricks").items():
        usual = next(row["milliseconds"] for row in here if row["program"] == BPTT)
        shown = (f"{row['program']} {row['milliseconds'] / usual:.2f}" for row in here if row["program"] != BPTT)
        print(f"{_name(case._asdict()):<26}  " + "  ".join(shown))
    print(f"\na training step of {seed_steps.SEEDS} seeds on all devices, and of one run on one: milliseconds a seed")
    for case, here in by_case(rows, "seeds").items():
        shown = (f"{row['program']} {seed_steps.a_seed(row['program'], row['milliseconds']):.2f}" for row in here)
        print(f"{_name(case._asdict()):<26}  " + "  ".join(shown))
    for row in rows:
        if row["part"] in ("long", "programs"):
            shown = (f"{name}={_short(value)}" for name, value in row.items() if name not in ("part", "way"))
            print(" ".join(text for text in shown if not text.endswith("=None")))


def _name(sizes: dict[str, Any]) -> str:
    return f"{sizes['cell']} H={sizes['hidden']} B={sizes['batch']} T={sizes['length']}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    experiment.main(Config, run, flags)
