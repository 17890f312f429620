"""Time of every learning rule: against its floor, against bptt, and against the rules of other libraries.

One Elman layer with tanh (D 16, K 8, half the squared error, about 100 steps, float32), all in one process on one core.
The programs of a size are compiled apart and called interleaved (A B C A B C ...); a figure is the median of the
process's CPU time a step, with each call awaited.  A program returns what it carries, since XLA drops an influence that
nobody reads.  The floor is the operations of the rule's large products at the rate of one product of 1536², which is
called interleaved too.  Before it is timed, the gradient of an exact rule, of a rival too, is compared with jax.grad's.

The parts:
  speed    every rule and rival at each size, and the goals
  scaling  the powers of n and B in the time of each rule, fitted over four sizes or more
  profile  the pieces of the programs that miss a goal, each timed beside the whole

Rivals are measured where they are installed (pip install 'rnn-jax[rivals]'), and a line tells which are not.

Writes the rows of each size as it goes, summary.json, plots, and tables.md with all tables. About half an hour; a
minute with --quick.

Examples:
  python experiments/rules_benchmark.py
  python experiments/rules_benchmark.py --out runs/speed --resume auto
  python experiments/rules_benchmark.py --rules rtrl kf_rtrl --sizes 64 1 128 1
  python experiments/rules_benchmark.py --quick
"""

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import rules_benchmark_figures
import rules_benchmark_profile
import rules_benchmark_tables
import timing
from rivals import RIVALS, missing
from rules_benchmark_goals import Row, outcomes
from rules_benchmark_profile import PROFILES, Profile
from rules_benchmark_programs import BASES, PROGRAMS, SCALED, Built, Program, Size, build, build_rival, repeated
from rules_benchmark_tables import Slope
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import require

FILES = r"(summary\.json|tables\.md|(exact|unbiased|biased|units)\.png)"
"""What a run writes beside config.json."""
RULES = tuple(rj.ALGORITHMS)
SECONDS = 0.03
"""About how long each timed call takes; one that takes less is repeated."""
PRODUCT = "the large product"


@dataclass(frozen=True)
class Config:
    """What to measure."""

    parts: tuple[Literal["speed", "scaling", "profile"], ...] = ("speed", "scaling", "profile")
    """What to measure; each part can be run alone."""
    rules: tuple[str, ...] = RULES
    """Names of the registry; bptt is measured in any case."""
    rivals: bool = True
    """Measure the rules of other libraries, too, where they are installed."""
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
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    quick: bool = False
    """One rule, small sizes, few rounds and a small product, unless other flags say more; the figures mean nothing."""


QUICK = Config(
    rules=("kf_rtrl",),
    sizes=((8, 2),), scaled_units=(4, 8, 16, 32), scaled_batches=(1,), rounds=2, product=256, quick=True
)  # fmt: skip


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
    parts = experiment.Parts("rules_benchmark", config, FILES)
    absent = missing_rivals(config)
    print(*absent, sep="\n", end="\n" * bool(absent))
    speed, scaled, profiled, slopes = [], [], [], []
    if "speed" in config.parts:
        for size in in_turn("speed", config.sizes):
            measured = partial(measure, config, size, chosen(config, PROGRAMS), with_rivals=config.rivals)
            speed += parts.result(f"speed, {size.n}, {size.B}", measured)
    if "scaling" in config.parts:
        units = [Size(n, 1) for n in config.scaled_units]
        batches = [Size(32, B) for B in config.scaled_batches]
        for size in in_turn("scaling", [*units, *batches]):
            measured = partial(measure, config, size, chosen(config, SCALED))
            scaled += parts.result(f"scaling, {size.n}, {size.B}", measured)
        slopes = [*fit(scaled, "n", units), *fit(scaled, "B", batches)]
    if "profile" in config.parts:
        for each in tqdm(profiles(config), desc="profile", unit="program", disable=None):
            name = f"profile, {each.program}, {each.size.n}, {each.size.B}"
            profiled += parts.result(name, partial(measure_profile, config, each))
    results = outcomes(speed)
    origin = experiment.origin()
    text = rules_benchmark_tables.tables(speed, results, slopes, profiled, origin)
    parts.write("tables.md", partial(experiment.write_text, text=text))
    summary = {
        **origin,
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
        "rows": [
            {"part": part, **row}
            for part, rows in (("speed", speed), ("scaling", scaled), ("profile", profiled))
            for row in rows
        ],
    }
    parts.write_json("summary.json", summary)
    rules_benchmark_figures.plot(speed, parts.folder)
    parts.finish()
    print(text)
    print(f"run folder: {parts.folder}")


def in_turn(part: str, sizes: Iterable[tuple[int, int]]) -> Iterable[Size]:
    """Each size once, with a bar."""
    return tqdm([Size(*each) for each in dict.fromkeys(sizes)], desc=part, unit="size", disable=None)


def on_one_core() -> None:
    """Keep this process on one core, before JAX starts its threads there."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    experiment.use_cores(1)


def missing_rivals(config: Config) -> list[str]:
    """A line for each library of which a rival is wanted, and which is not installed."""
    wanted = dict.fromkeys(rival.library for rival in RIVALS.values() if config.rivals and rival.rule in config.rules)
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
    floors = {name: each.floor(size) for name, each in programs.items() if each.floor}
    return timed(config, size, builders, floors)


def profiles(config: Config) -> list[Profile]:
    """Those of the rules that are asked for; in a quick run each program once, and small."""
    asked = [each for each in PROFILES if PROGRAMS[each.program].rule in config.rules]
    if not config.quick:
        return asked
    return list({each.program: each._replace(size=Size(8, 2)) for each in asked}.values())


def measure_profile(config: Config, profile: Profile) -> list[Row]:
    """The whole program and its pieces, interleaved; ``of`` is the whole, and ``counted`` whether they add up to it."""
    rows = timed(config, profile.size, rules_benchmark_profile.builders(profile), {})
    return [{**row, "of": profile.program, "counted": row["program"] in profile.parts} for row in rows]


def timed(
    config: Config, size: Size, builders: Mapping[str, Callable[[], Built]], floors: Mapping[str, float]
) -> list[Row]:
    """A row for each program; the floors are given in operations of a step."""
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
        each = built[name]
        microseconds = [1e3 * one / (counts[name] * each.steps) for one in milliseconds]
        rows.append(
            {
                **size._asdict(),
                "program": name,
                "microseconds": statistics.median(microseconds),
                "least": min(microseconds),
                "most": max(microseconds),
                "floor": floors[name] / rate if name in floors else None,
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


if __name__ == "__main__":
    experiment.main(Config, run, flags)
