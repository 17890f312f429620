"""The plots of rules_benchmark.py: the time of a step against n, for every rule and rival, with the floors."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import figures
from rivals import RIVALS
from rules_benchmark_programs import PROGRAMS, Program


class Kind(NamedTuple):
    """The rules of one figure."""

    title: str
    rules: tuple[str, ...]
    cells: tuple[str, ...]


KINDS = {
    "exact": Kind("RTRL, exact", ("bptt", "rtrl"), ("elman",)),
    "unbiased": Kind(
        "unbiased rules",
        ("bptt", "uoro", "kf_rtrl", "reverse_kf_rtrl", "optimal_kronecker", "forward_gradient"),
        ("elman",),
    ),
    "biased": Kind(
        "biased rules",
        ("bptt", "autodiff", "snap", "eprop", "rflo", "dni", "truncated", "immediate"),
        ("elman", "leaky"),
    ),
    "units": Kind("exact RTRL without weights between units", ("bptt", "snap"), ("indrnn", "rtu")),
}
COLOURS = (figures.BLUE, figures.ORANGE, figures.GREEN, figures.VERMILLION, figures.PURPLE, figures.SKY)
MARKS = "sD^v<>pP"


def plot(rows: list[dict[str, Any]], folder: Path) -> None:
    """A figure for each kind of rule, with a panel for each B, where two sizes or more were measured."""
    if len({row["n"] for row in rows}) < 2:
        return
    for name, kind in KINDS.items():
        shown = {program: each for program, each in PROGRAMS.items() if of_kind(each, kind)}
        if any(row["program"] in shown and shown[row["program"]].rule != "bptt" for row in rows):
            plot_kind(kind, shown, rows, folder / f"{name}.png")


def of_kind(program: Program, kind: Kind) -> bool:
    """Whether the figure of a kind shows a program."""
    return program.rule in kind.rules and program.cell in kind.cells


def plot_kind(kind: Kind, programs: dict[str, Program], rows: list[dict[str, Any]], path: Path) -> None:
    """Time against n: coloured lines are this project's, grey ones other libraries', dotted ones floors."""
    theirs = [name for name, rival in RIVALS.items() if rival.rule in kind.rules and "elman" in kind.cells]
    looks = iter(itertools.product(("-", "--"), COLOURS))
    references = iter(itertools.product(("-", "--"), (figures.BLACK,)))
    styles: dict[str, dict[str, Any]] = {}
    for name, program in programs.items():
        styles[name] = dict(zip(("ls", "color"), next(references if program.rule == "bptt" else looks), strict=True))
    styles |= {name: {"color": figures.GREY, "marker": mark} for name, mark in zip(theirs, MARKS, strict=False)}
    batches = list(dict.fromkeys(row["B"] for row in rows))
    names = [name for name in styles if any(row["program"] == name for row in rows)]
    title = f"CPU time of a step, one core, float32: {kind.title}"
    figure, panels = figures.panels(len(batches), title, 4.4 + 0.2 * ((len(names) + 2) // 3), sharey=True)
    for axes, B in zip(panels, batches, strict=True):
        for name in names:
            points = sorted((row["n"], row["microseconds"], row["floor"]) for row in rows if _is(row, name, B))
            units = [n for n, *_ in points]
            axes.loglog(units, [each for _, each, _ in points], **{"marker": "o", **styles[name]})
            if points and points[0][2] and not programs[name].trains:
                axes.loglog(units, [floor for *_, floor in points], color=styles[name]["color"], lw=1, ls=":")
        sizes = sorted({row["n"] for row in rows if row["B"] == B})
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
        axes.set(title=f"B = {B}", xlabel="n, units")
    panels[0].set_ylabel("time of a step, µs")
    entries = [figures.entry(name, **{"marker": "o", **styles[name]}) for name in names]
    figures.legend_below(figure, [*entries, figures.entry("floor", color=figures.BLACK, lw=1, ls=":")], 3)
    figures.save(figure, path)


def _is(row: dict[str, Any], name: str, B: int) -> bool:
    return row["program"] == name and row["B"] == B
