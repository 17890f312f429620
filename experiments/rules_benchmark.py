"""Time of every learning rule: against its floor, against bptt, and against the rules of other libraries.

One Elman layer with tanh (D 16, K 8, half the squared error, about 100 steps, float32), all in one process on one core.
The programs of a size are compiled apart and called interleaved (A B C A B C ...); a figure is the median of the
process's CPU time a step, with each call awaited.  A program returns what it carries, since XLA drops an influence that
nobody reads.  The floor is the operations of the rule's large products at the rate of one product of 1536², which is
called interleaved too.  Before it is timed, the gradient of an exact rule, of a rival too, is compared with jax.grad's.

The parts:
  speed    every rule and rival at each size, and the goals
  scaling  the powers of n and B in the time of each rule, fitted over four sizes or more

Rivals are measured where they are installed (pip install 'rnn-jax[rivals]'), and a line tells which are not.

Writes rows.jsonl as it goes, summary.json, tables.md and plots. About half an hour; --quick takes a minute.

Examples:
  python experiments/rules_benchmark.py
  python experiments/rules_benchmark.py --rules rtrl kf_rtrl --sizes 64 1 128 1
  python experiments/rules_benchmark.py --quick
"""

import itertools
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
import rules_benchmark_figures
import timing
from rivals import RIVALS, missing
from rules_benchmark_goals import Outcome, Row, outcomes
from rules_benchmark_programs import BASES, PROGRAMS, SCALED, Built, Program, Size, build, build_rival, repeated
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import require

FILES = r"(rows\.jsonl|summary\.json|tables\.md|(exact|unbiased|biased|units)\.png)"
"""What a run writes beside config.json."""
RULES = tuple(rj.ALGORITHMS)
SECONDS = 0.03
"""About how long each timed call takes; one that takes less is repeated."""
PRODUCT = "the large product"


@dataclass(frozen=True)
class Config:
    """What to measure."""

    parts: tuple[Literal["speed", "scaling"], ...] = ("speed", "scaling")
    rules: tuple[str, ...] = RULES
    """Names of the registry; bptt is measured in any case."""
    sizes: tuple[tuple[int, int], ...] = ((16, 1), (64, 1), (128, 1), (16, 16), (64, 16), (128, 16))
    """(n, B) of the speed part: units and examples."""
    scaled_units: tuple[int, ...] = (32, 64, 128, 256)
    """n of the scaling part, at B = 1."""
    scaled_batches: tuple[int, ...] = (1, 4, 16, 64)
    """B of the scaling part, at n = 32."""
    rounds: int = 9
    """Timed calls of each program, at the least."""
    product: int = 1536
    """Size of the square product whose rate makes the floors."""
    out: Path | None = None
    """Run folder; by default runs/rules_benchmark/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    quick: bool = False
    """One small size, few rounds and a small product, unless other flags say more; the figures mean nothing."""


QUICK = Config(
    sizes=((8, 2),), scaled_units=(4, 8, 16, 32), scaled_batches=(1, 2, 4, 8), rounds=2, product=256, quick=True
)  # fmt: skip


class Slope(NamedTuple):
    """How the time of a program grows."""

    program: str
    axis: Literal["n", "B"]
    values: tuple[int, ...]
    microseconds: tuple[float, ...]
    slope: float
    """Of log time over log n or B: least squares."""
    last: float
    """Between the two largest values."""
    stated: int
    """The power that the rule's docstring states."""


def flags(parse: experiment.Parse) -> Config:
    """The command line; with --quick the flags that are left out are those of a quick run."""
    config = parse(Config())
    return parse(QUICK) if config.quick else config


def run(config: Config) -> None:
    """Measure what is asked for, print it, plot it, and write the run folder."""
    unknown = [name for name in config.rules if name not in RULES]
    require(not unknown and config.rules, "rules", unknown or config.rules, f"some of {', '.join(RULES)}")
    numbers = [*itertools.chain(*config.sizes), *config.scaled_units, *config.scaled_batches, config.rounds]
    require(min([*numbers, config.product]) > 0, "sizes, rounds, product", min(numbers), "positive numbers")
    on_one_core()
    folder = experiment.new_folder("rules_benchmark", config, FILES)
    rows, slopes = [], []
    with (folder / "rows.jsonl").open("w") as log:

        def keep(part: str, fresh: list[Row]) -> list[Row]:
            fresh = [{"part": part, **row} for row in fresh]
            log.write("".join(json.dumps(row) + "\n" for row in fresh))
            log.flush()
            return fresh

        absent = [{"program": text.split()[0], "missing": text} for text in missing_rivals(config)]
        for row in keep("speed", absent):
            print(row["missing"])
        if "speed" in config.parts:
            for size in tqdm([Size(*each) for each in config.sizes], desc="speed", unit="size", disable=None):
                rows += keep("speed", measure(config, size, chosen(config, PROGRAMS), with_rivals=True))
        if "scaling" in config.parts:
            scaled: list[Row] = []
            units = [Size(n, 1) for n in config.scaled_units]
            batches = [Size(32, B) for B in config.scaled_batches]
            for size in tqdm(dict.fromkeys(units + batches), desc="scaling", unit="size", disable=None):
                scaled += keep("scaling", measure(config, size, chosen(config, SCALED)))
            slopes = [*fit(scaled, "n", units), *fit(scaled, "B", batches)]
            rows += scaled
    speed = [row for row in rows if row["part"] == "speed"]
    results = outcomes(speed)
    text = tables(speed, results, slopes)
    experiment.write_text(folder / "tables.md", text)
    summary = {
        "machine": experiment.machine(),
        "missing": absent,
        "goals": [
            {
                "program": each.goal.program,
                "goal": each.goal.words(),
                "ratios": {f"{size.n}, {size.B}": ratio for size, ratio in each.ratios.items()},
                "distance": each.distance,
                "verdict": each.verdict,
            }
            for each in results
        ],
        "slopes": [each._asdict() for each in slopes],
        "rows": rows,
    }
    experiment.write_json(folder / "summary.json", summary)
    rules_benchmark_figures.plot(speed, folder)
    print(text)
    print(f"run folder: {folder}")


def on_one_core() -> None:
    """Keep this process on one core, before JAX starts its threads there."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    experiment.use_cores(1)


def missing_rivals(config: Config) -> list[str]:
    """A line for each library of which a rival is wanted, and which is not installed."""
    wanted = dict.fromkeys(rival.library for rival in RIVALS.values() if rival.rule in config.rules)
    return [text for library in wanted if (text := missing(library))]


def chosen(config: Config, programs: dict[str, Program]) -> dict[str, Program]:
    """The programs of the rules that are asked for, and those that they are related to."""
    bases = {BASES[program.cell] for program in programs.values() if program.rule in config.rules}
    return {name: program for name, program in programs.items() if program.rule in config.rules or name in bases}


def measure(config: Config, size: Size, programs: dict[str, Program], with_rivals: bool = False) -> list[Row]:
    """CPU time, scratch memory and floor of each program at one size, interleaved."""
    builders: dict[str, Callable[[], Built]] = {name: partial(build, each, size) for name, each in programs.items()}
    if with_rivals:
        stepwise = {True: PROGRAMS["rtrl, step by step"], False: PROGRAMS["bptt"]}
        for name, rival in RIVALS.items():
            if rival.rule in config.rules and (size.B > 1) in rival.batches and not missing(rival.library):
                builders[name] = partial(build_rival, rival, stepwise[rival.exact], size)
    built = {
        name: builder()
        for name, builder in tqdm(builders.items(), desc=f"n = {size.n}, B = {size.B}", leave=False, disable=None)
    }
    calls, counts = {}, {}
    for name, each in built.items():
        calls[name], counts[name] = repeated(each.call, SECONDS)
    calls[PRODUCT] = timing.large_product(config.product)
    taken = timing.interleaved(calls, config.rounds, time.process_time, seconds=0 if config.quick else 10)
    rate = 2 * config.product**3 / (1e3 * statistics.median(taken.pop(PRODUCT)))  # operations a microsecond
    rows = []
    for name, milliseconds in taken.items():
        each, floor = built[name], programs[name].floor if name in programs else None
        microseconds = [1e3 * one / (counts[name] * each.steps) for one in milliseconds]
        rows.append(
            {
                **size._asdict(),
                "program": name,
                "microseconds": statistics.median(microseconds),
                "least": min(microseconds),
                "most": max(microseconds),
                "floor": floor and floor(size) / rate,
                "rounds": len(milliseconds),
                "rate": rate / 1e3,
                **{field: value for field, value in each._asdict().items() if field != "call"},
            }
        )
    jax.clear_caches()
    return rows


def fit(rows: list[Row], axis: Literal["n", "B"], sizes: list[Size]) -> list[Slope]:
    """The power of n, or of B, in the time of each program, over four sizes or more."""
    found = []
    for name, program in SCALED.items():
        times = {(row["n"], row["B"]): row["microseconds"] for row in rows if row["program"] == name}
        here = [size for size in sizes if size in times]
        if len(here) < 4:
            continue
        values, microseconds = [getattr(size, axis) for size in here], [times[size] for size in here]
        slope = float(np.polyfit(np.log(values), np.log(microseconds), 1)[0])
        last = math.log(microseconds[-1] / microseconds[-2]) / math.log(values[-1] / values[-2])
        stated = program.power if axis == "n" else 1
        found.append(Slope(name, axis, tuple(values), tuple(microseconds), slope, last, stated))
    return found


def tables(rows: list[Row], results: list[Outcome], slopes: list[Slope]) -> str:
    """The goals, the times and the powers, in Markdown."""
    sizes = list(dict.fromkeys(Size(row["n"], row["B"]) for row in rows))
    heads = [f"{size.n}, {size.B}" for size in sizes]
    parts = []
    if results:
        lines = [
            [each.goal.program, each.goal.words(), *(_number(each.ratios.get(size)) for size in sizes), each.verdict]
            for each in results
        ]
        parts.append("Goals; the ratio that each bounds, at (n, B):\n\n" + _table(["rule", "goal", *heads, ""], lines))
    if rows:
        parts.append(
            "CPU time of one core, µs a step, at (n, B):\n\n" + _table(["program", *heads], _times(rows, sizes))
        )
    if slopes:
        head = ["program", "of", "from … to", "fitted", "at the end", "stated"]
        lines = [
            [
                each.program,
                each.axis,
                f"{each.values[0]} … {each.values[-1]}",
                *(f"{power:.2f}" for power in (each.slope, each.last)),
                str(each.stated),
            ]
            for each in slopes
        ]
        parts.append("Powers of n (at B = 1) and of B (at n = 32) in the time of a step:\n\n" + _table(head, lines))
    return "\n\n".join(parts) + "\n"


def _times(rows: list[Row], sizes: list[Size]) -> list[list[str]]:
    """The lines of the programs, and below them those of their floors."""
    names = list(dict.fromkeys(row["program"] for row in rows))

    def line(name: str, field: str) -> list[str]:
        values = {(row["n"], row["B"]): row[field] for row in rows if row["program"] == name}
        return [_number(values.get(size)) for size in sizes]

    floors = [name for name in names if any(row["floor"] for row in rows if row["program"] == name)]
    seen, lines = set(), [[name, *line(name, "microseconds")] for name in names]
    for name in floors:
        numbers = line(name, "floor")
        if tuple(numbers) not in seen:
            lines.append([f"floor of {name}", *numbers])
        seen.add(tuple(numbers))
    return lines


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    experiment.main(Config, run, flags)
