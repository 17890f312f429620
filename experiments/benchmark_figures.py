"""The benchmark's plots: every program on one case, time and scratch memory against T, and with recomputation."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import figures
from peers import HOISTED, JAX_GRAD, READOUT_OUTSIDE, STANDARD
from timing import BPTT, MATMULS, RECOMPUTED, Case, Row, by_case

MIB = 2**20


def plot(rows: list[Row], folder: Path) -> None:
    """Every plot that the rows have figures for."""
    if grid := by_case(rows, "grid"):
        plot_peers(grid, folder / "peers.png")
    if long := by_case(rows, "long"):
        plot_length(long, folder / "length.png")
    if crossing := by_case(rows, "crossover"):
        plot_crossover(crossing, folder / "crossover.png")


def plot_peers(grid: dict[Case, list[Row]], path: Path) -> None:
    """A bar for the time of each program, one panel a cell, with the floor as a line.

    Of the grid: the largest B and T, at H = 256 or the H nearest to it.
    """
    H, B, T = max((case[1:4] for case in grid), key=lambda sizes: (-abs(sizes[0] - 256), *sizes))
    shown = [(case, rows) for case, rows in grid.items() if case[1:4] == (H, B, T)]
    groups = _groups([row for _, rows in shown for row in rows])
    labels = [label for group in groups for label in ([group.heading] if group.heading else []) + group.names]
    title = f"Loss and gradient, H = {H}, B = {B}, T = {T}, float32"
    figure, panels = figures.panels(len(shown), title, 0.9 + 0.21 * len(labels), sharey=True)
    for axes, (case, rows) in zip(panels, shown, strict=True):
        longest = max(row["milliseconds"] for row in rows)
        for y, row in _places(groups, rows):
            colour = figures.PROGRAMS.get(row["program"], figures.GREY)
            axes.barh(y, row["milliseconds"], color=colour)
            axes.text(row["milliseconds"] + 0.02 * longest, y, f"{row['milliseconds']:.3g}", va="center", fontsize=8)
        axes.axvline(rows[0]["floor"], color=figures.BLACK, lw=1, ls="--")
        axes.set(title=figures.model(case.cell), xlabel="median time, ms", xlim=(0, 1.15 * longest))
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    headings = {group.heading for group in groups}
    for label in panels[0].get_yticklabels():
        label.set_fontweight("bold" if label.get_text() in headings else "normal")
    floor = "floor: the model's products at the rate of one large product"
    figures.legend_below(figure, [figures.entry(floor, color=figures.BLACK, lw=1, ls="--")])
    figures.save(figure, path)


def plot_length(cases: dict[Case, list[Row]], path: Path) -> None:
    """Time and scratch memory per program against T."""
    first = next(iter(cases))
    title = figures.model(first.cell, H=first.hidden, B=first.batch) + ", one device"
    figure, (left, right) = figures.panels(2, title)
    rows = [row for rows in cases.values() for row in rows]
    names = dict.fromkeys(row["program"] for row in rows)
    for name in names:
        points = [row for row in rows if row["program"] == name]
        lengths = [row["length"] for row in points]
        left.semilogx(lengths, [_microseconds(row) for row in points], "o-", color=figures.PROGRAMS[name])
        right.loglog(lengths, [row["temporaries"] / MIB for row in points], "o-", color=figures.PROGRAMS[name])
    left.set(xlabel="T, time steps", ylabel="time per step, µs", ylim=(0, None))
    right.set(xlabel="T, time steps", ylabel="scratch memory, MiB")
    _legend(figure, names)
    figures.save(figure, path)


def plot_crossover(cases: dict[Case, list[Row]], path: Path) -> None:
    """Time per step against scratch memory, one panel a cell, one line a program along which T rises."""
    cells = list(dict.fromkeys(case.cell for case in cases))
    lengths, first = sorted({case.length for case in cases}), next(iter(cases))
    title = f"H = {first.hidden}, B = {first.batch}, one device; along a line T rises: " + ", ".join(map(str, lengths))
    figure, panels = figures.panels(len(cells), title)
    names = [BPTT, RECOMPUTED, STANDARD, READOUT_OUTSIDE, HOISTED]
    for axes, cell in zip(panels, cells, strict=True):
        rows = [row for case, rows in cases.items() if case.cell == cell for row in rows]
        for name in names:
            points = sorted((row for row in rows if row["program"] == name), key=lambda row: row["length"])
            times = [_microseconds(row) for row in points]
            axes.semilogx([row["temporaries"] / MIB for row in points], times, "o-", color=figures.PROGRAMS[name])
        axes.set(title=figures.model(cell), xlabel="scratch memory, MiB", ylim=(0, None))
    panels[0].set(ylabel="time per step, µs")
    _legend(figure, names, columns=3)
    figures.save(figure, path)


class Group(NamedTuple):
    """Programs that stand together in the plot, under a heading, if there is one."""

    heading: str
    devices: int | None
    """How many devices these programs use; None: any number."""
    names: list[str]


def _groups(rows: list[Row]) -> list[Group]:
    """Programs on equally many devices together, the bptt ones first; then other libraries, the fastest first."""
    names = (BPTT, RECOMPUTED, *JAX_GRAD)
    groups = [Group("", None, [MATMULS])]
    for devices in sorted({row["devices"] for row in rows}, reverse=True):
        here = {row["program"] for row in rows if row["devices"] == devices}
        heading = f"{devices} device{'s' if devices > 1 else ''}"
        groups.append(Group(heading, devices, [name for name in names if name in here]))
    others = [row for row in rows if row["program"] not in (*names, MATMULS)]
    fastest = sorted(others, key=lambda row: row["milliseconds"])
    groups.append(Group("other libraries", None, list(dict.fromkeys(row["program"] for row in fastest))))
    return [group for group in groups if group.names]


def _places(groups: list[Group], rows: list[Row]) -> list[tuple[int, Row]]:
    """The line of each row in the plot of the groups, counted from the top."""
    places, y = [], 0
    for heading, devices, names in groups:
        y += bool(heading)
        for name in names:
            places += [(y, row) for row in rows if row["program"] == name and devices in (row["devices"], None)]
            y += 1
    return places


def _legend(figure: Any, names: Iterable[str], columns: int | None = None) -> None:
    entries = [figures.entry(name, color=figures.PROGRAMS[name], marker="o") for name in names]
    figures.legend_below(figure, entries, columns)


def _microseconds(row: Row) -> float:
    """The time of one step, µs."""
    return 1e3 * row["milliseconds"] / row["length"]
