"""The tables of rules_benchmark.py, in Markdown: tables.md has all that the page docs/rules_benchmark.md shows."""

import itertools
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, NamedTuple

from rivals import BRAINTRACE
from rules_benchmark_goals import Outcome, Row
from rules_benchmark_programs import Size


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


def tables(
    speed: list[Row], results: list[Outcome], slopes: list[Slope], profiled: list[Row], origin: dict[str, Any]
) -> str:
    """All tables, and where they were measured."""
    sizes = list(dict.fromkeys(Size(row["n"], row["B"]) for row in speed))
    heads = [f"{size.n}, {size.B}" for size in sizes]
    parts = [measured_on(origin)]
    if results:
        lines = [
            [each.goal.program, each.goal.words(), *(_number(each.ratios.get(size)) for size in sizes), each.verdict]
            for each in results
        ]
        parts.append("## Goals\n\nA goal bounds a ratio, at each size (n, B):")
        parts.append(_table(["rule", "goal", *heads, ""], lines))
    if profiled:
        parts.append("## What the time consists of\n\nEach piece is timed alone, interleaved with the whole; those in")
        parts[-1] += " brackets are parts of others, or explain them, and do not count for the rest:"
        parts.append(_table(["program", "n, B", "piece", "µs a step", "of the whole"], _pieces(profiled)))
    if speed:
        parts.append("## Times\n\nCPU time of one core, µs a step, at (n, B):")
        parts.append(_table(["program", *heads], _times(speed, sizes)))
    if slopes:
        parts.append("## Powers\n\nPowers of n (at B = 1) and of B (at n = 32) in the time of a step:")
        head = ["program", "of", "from … to", "fitted", "between the last two", "stated"]
        parts.append(_table(head, [_power(each) for each in slopes]))
    return "\n\n".join(parts) + "\n"


def measured_on(origin: dict[str, Any]) -> str:
    """The machine, the versions, the command and the commit, in one line."""
    machine = origin["machine"]
    versions = f"Python {machine['python']}, jax {machine['jax']}, jaxlib {machine['jaxlib']}"
    with suppress(PackageNotFoundError):
        versions += f", {BRAINTRACE} {version(BRAINTRACE)}"
    return (
        f"One core of {machine['processor']}, {versions}; commit {origin['commit']}, {origin['time']}: "
        f"`{origin['command']}`"
    )


def _pieces(rows: list[Row]) -> list[list[str]]:
    """The whole, the pieces that count, the rest, and the others."""
    lines = []
    for of, each in itertools.groupby(rows, key=lambda row: (row["of"], row["n"], row["B"])):
        program, *size = of
        times = {row["program"]: (row["microseconds"], row["counted"]) for row in each}
        whole, _ = times.pop(program)
        counted = {name: taken for name, (taken, counts) in times.items() if counts}
        beside = {f"({name})": taken for name, (taken, counts) in times.items() if not counts}
        pieces = {"the whole": whole, **counted, "the rest": whole - sum(counted.values()), **beside}
        for name, taken in pieces.items():
            first = [program, ", ".join(map(str, size))] if name == "the whole" else ["", ""]
            lines.append([*first, name, _number(taken), f"{taken / whole:.0%}"])
    return lines


def _power(each: Slope) -> list[str]:
    powers = (f"{power:.2f}" for power in (each.slope, each.last))
    return [each.program, each.axis, f"{each.values[0]} … {each.values[-1]}", *powers, str(each.stated)]


def _times(rows: list[Row], sizes: list[Size]) -> list[list[str]]:
    """The lines of the programs, and below them those of their floors, and of the rate that makes these."""
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
    return [*lines, ["rate of the floors, GFLOP/s", *line(names[0], "rate")]]


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
