"""The plots of ``learning_rules.py``: a rule has the same colour and the same marker in all of them."""

import collections
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import figures
import numpy as np
from rule_gradients import GROUPS

from rnn_jax.data.tasks import LEVELS

MARKS = {
    "rtrl": (figures.BLACK, "o"),
    "bptt": (figures.BLUE, "s"),
    "truncated": (figures.SKY, "^"),
    "snap": (figures.GREEN, "D"),
    "eprop": (figures.ORANGE, "v"),
    "rflo": ("#882255", "P"),
    "dni": (figures.PURPLE, "X"),
    "immediate": (figures.DARK_GREY, "*"),
    "uoro": (figures.VERMILLION, "p"),
    "kf_rtrl": ("#332288", "<"),
    "reverse_kf_rtrl": ("#44AA99", ">"),
    "optimal_kronecker": ("#999933", "h"),
    "forward_gradient": ("#661100", "d"),
}
"""Of each rule; the colours beside Okabe and Ito's are of the palette "muted" of Paul Tol."""
VARIANTS: tuple[dict[str, Any], ...] = ({"ls": "-"}, {"ls": "--", "mfc": "white"}, {"ls": ":", "mfc": "none"})
"""Of the settings of a rule, in their order."""
RANDOM = GROUPS["past, stochastic"]
"""Rules that draw random numbers."""
GROUP_TITLES = ("deterministic rules", "rules that draw random numbers")
ROUNDING = 1e-7
"""Errors below are drawn here, on logarithmic axes."""
EXACT = 1e-2
"""Where smaller errors are drawn in the plot of time against error, near the others."""


def rule_of(name: str) -> str:
    """The rule of a name such as "snap, full inside" or "bptt by windows"."""
    return name.replace(",", " ").split()[0]


def looks(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """A line style, colour and marker for each name."""
    seen: collections.Counter[str] = collections.Counter()
    found = {}
    for name in names:
        colour, marker = MARKS[rule_of(name)]
        found[name] = {"color": colour, "marker": marker, **VARIANTS[seen[rule_of(name)]]}
        seen[rule_of(name)] += 1
    return found


def in_group(name: str, group: str) -> bool:
    """Whether a name belongs into the panel of this title."""
    return (rule_of(name) in RANDOM) == (group == GROUP_TITLES[1])


def legend(figure: Any, styles: dict[str, dict[str, Any]], columns: int, more: Iterable[Any] = ()) -> None:
    """All names with their looks, under the axes."""
    entries = [figures.entry(name, **look) for name, look in styles.items()]
    figures.legend_below(figure, [*entries, *more], columns)


def curve(axes: Any, xs: Any, ys: Any, look: dict[str, Any], number: int) -> None:
    """A line with eight markers, at places that differ from one curve to the next."""
    every = max(len(xs) // 8, 1)
    axes.plot(xs, ys, **look, markevery=(number % every, every))


def plot_alignment(model: str, found: dict[str, Any], path: Path) -> None:
    """A heat map of the cosines between each two rules: before training below the diagonal, after training above."""
    names, before, after = (np.asarray(found[name]) for name in ("rules", "before training", "after training"))
    title = f"Cosine of two rules' recurrent gradients of a window: {model}"
    figure, (axes,) = figures.panels(1, f"{title}\nbelow the diagonal before training, above it after", 7.6)
    cosines = np.tril(before, -1) + np.triu(after)
    np.fill_diagonal(cosines, np.nan)
    image = axes.imshow(cosines, vmin=-1, vmax=1, cmap="PuOr")
    axes.set_xticks(range(len(names)), names, rotation=55, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(cosines):
        if row != column:
            colour = "white" if abs(value) > 0.7 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, color=colour)
    ends = np.cumsum([sum(name in group for name in names) for group in GROUPS.values()])[:-1]
    for end in ends:
        axes.axhline(end - 0.5, color=figures.BLACK, lw=1)
        axes.axvline(end - 0.5, color=figures.BLACK, lw=1)
    axes.plot([-0.5, len(names) - 0.5], [-0.5, len(names) - 0.5], color=figures.DARK_GREY, lw=1)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="mean cosine", shrink=0.8)
    figures.save(figure, path)


def plot_sizes(model: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against n, and the error of one draw."""
    figure, panels = figures.panels(3, f"Cost and error of one draw against n: {model}", 4.8)
    styles = looks(dict.fromkeys(row["rule"] for row in rows))
    for axes, field, label in zip(
        panels,
        ("microseconds", "memory", "error"),
        ("microseconds a step", "bytes carried of an example", "error of one draw / norm"),
        strict=True,
    ):
        for name, look in styles.items():
            of_rule = [row for row in rows if row["rule"] == name]
            ys = [max(row[field], ROUNDING) if field == "error" else row[field] or np.nan for row in of_rule]
            axes.plot([row["hidden"] for row in of_rule], ys, **look)
        axes.set(xscale="log", yscale="log", xlabel="n", ylabel=label)
        sizes = sorted({row["hidden"] for row in rows})
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
    legend(figure, styles, 5)
    figures.save(figure, path)


def plot_noise(model: str, rows: list[dict[str, Any]], path: Path) -> None:
    """The relative variance against the length of segments."""
    figure, (axes,) = figures.panels(1, f"Noise of the unbiased rules: {model}, B = 1", 4.6)
    styles = looks(dict.fromkeys(row["rule"] for row in rows))
    for number, (name, look) in enumerate(styles.items()):
        of_rule = [row for row in rows if row["rule"] == name]
        ys = [max(row["variance"], 1e-9) for row in of_rule]
        axes.plot([row["segment"] for row in of_rule], ys, **look, ms=10 - number)  # one shows around the next
    lengths = sorted({row["segment"] for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="steps a segment", ylabel="variance / squared norm of the gradient")
    axes.set_xticks(lengths, map(str, lengths))
    axes.minorticks_off()
    legend(figure, styles, 3)
    figures.save(figure, path)


def plot_training(model: str, losses: dict[int, dict[str, Any]], steps: int, path: Path) -> None:
    """The mean loss over the seeds against the steps seen: a row of panels for each number of steps an update."""
    title = f"Training online on delayed addition: {model}"
    figure, panels = figures.panels(2, title, 1.4 + 3.2 * len(losses), sharey=True, rows=len(losses))
    styles = looks(next(iter(losses.values())))
    for axes, (window, group) in zip(panels, itertools.product(losses, GROUP_TITLES), strict=True):
        for number, (name, each) in enumerate(losses[window].items()):
            ys = np.mean(each["losses"], axis=0)
            if in_group(name, group):
                curve(axes, np.linspace(0, steps, len(ys) + 1)[1:] / 1000, ys, styles[name], number)
        for known, nats in LEVELS.items():
            axes.axhline(nats, color=figures.DARK_GREY, lw=1, ls=":", zorder=0)
            if group == GROUP_TITLES[1]:
                axes.annotate(f" {known}", (1, nats), xycoords=("axes fraction", "data"), va="center", fontsize=9)
        axes.set(xlabel="thousands of steps")
        axes.label_outer()
        if group == GROUP_TITLES[0]:
            every = f"{window} steps" if window > 1 else "step"
            axes.set(ylabel=f"an update every {every}\ncross-entropy a step, nats")
    for axes, group in zip(panels, GROUP_TITLES, strict=False):
        axes.set(title=group)
    legend(figure, styles, 5)
    figures.save(figure, path)


def plot_copying(model: str, found: dict[str, Any], path: Path) -> None:
    """The length of the strings against the steps seen: the mean over the seeds, with its name and final range."""
    figure, (axes,) = figures.panels(1, f"Copying strings that grow when they are copied well: {model}", 5.2)
    ends = {}
    for number, ((name, each), look) in enumerate(zip(found.items(), looks(found).values(), strict=True)):
        lengths = np.asarray(each["lengths"])
        curve(axes, np.mean(each["steps"], axis=0) / 1000, lengths.mean(axis=0), look, 7 * number)
        low, high = lengths[:, -1].min(), lengths[:, -1].max()
        ends[f"{name}: {low}" + (f" to {high}" if high > low else "")] = lengths[:, -1].mean(), look
    axes.set(xlabel="thousands of steps seen, of all examples", ylabel="bits of a string, mean over the seeds")
    axes.set_ylim(1, None)
    label_ends(axes, ends)
    figures.save(figure, path)


def label_ends(axes: Any, ends: dict[str, tuple[float, dict[str, Any]]]) -> None:
    """Write names beside the right ends of their curves, from the lowest up, at least a line's height apart."""
    low, high = axes.get_ylim()
    gap, floor = (high - low) / 18, -np.inf
    for name, (y, look) in sorted(ends.items(), key=lambda item: item[1][0]):
        floor = max(y, floor + gap)
        across = axes.get_yaxis_transform()
        axes.plot([1, 1.03], [y, floor], transform=across, color=look["color"], lw=1, clip_on=False)
        axes.text(1.035, floor, name, transform=across, va="center", fontsize=9)


def plot_tradeoff(model: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Time a step against the error of one draw after training: a line a rule, and a point a length of segments."""
    title = f"Time against error of one draw, by the steps of a segment: {model}"
    figure, panels = figures.panels(2, title, 6.0, sharey=True)
    styles = looks(dict.fromkeys(row["rule"] for row in rows))
    lengths = sorted({row["segment"] for row in rows})
    for axes, group in zip(panels, GROUP_TITLES, strict=True):
        axes.sharex(panels[0])
        for name, look in styles.items():
            of_rule = [row for row in rows if row["rule"] == name and in_group(name, group)]
            xs = [row["microseconds"] for row in of_rule]
            ys = [max(row["after training"]["error"], EXACT) for row in of_rule]
            axes.plot(xs, ys, **{**look, "marker": ""}, alpha=0.6)
            for row, x, y in zip(of_rule, xs, ys, strict=True):
                axes.plot(x, y, **look, ms=4 + 2 * lengths.index(row["segment"]))
        axes.set(xscale="log", yscale="log", xlabel="microseconds a step", title=group)
        label_overlaps(axes, [row for row in rows if row["segment"] == lengths[-1] and in_group(row["rule"], group)])
    low, high = EXACT / 1.5, panels[0].get_ylim()[1]
    ticks = [10.0**power for power in range(-2, int(np.ceil(np.log10(high))))]
    panels[0].set(ylabel="error of one draw / norm of the gradient", ylim=(low, high))
    panels[0].set_yticks(ticks, ["≤ 0.01", *(f"{tick:g}" for tick in ticks[1:])])
    style = {"color": figures.DARK_GREY, "ls": "", "marker": "o"}
    steps = [figures.entry(f"segments of {n}", ms=4 + 2 * i, **style) for i, n in enumerate(lengths)]
    legend(figure, styles, 4, steps)
    figures.save(figure, path)


def label_overlaps(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Write the names of rules whose points lie on one another, above the uppermost and to the right of others."""

    def place(row: dict[str, Any]) -> tuple[float, float]:
        return row["microseconds"], max(row["after training"]["error"], EXACT)

    def distance(row: dict[str, Any], other: dict[str, Any]) -> float:
        return float(np.max(np.abs(np.log(np.divide(place(row), place(other))))))

    rest, top = rows, max((place(row)[1] for row in rows), default=0)
    while rest:
        near = [row for row in rest if distance(rest[0], row) < 0.25]
        x, y = min(place(row) for row in near)
        if len(near) > 1:
            offset, edge = ((0, 12), "bottom") if y > 0.9 * top else ((75, -8), "center")
            names = "\n".join(row["rule"] for row in near)
            line = {"arrowstyle": "-", "color": figures.DARK_GREY, "lw": 0.8}
            axes.annotate(names, (x, y), offset, textcoords="offset points", va=edge, fontsize=9, arrowprops=line)
        rest = [row for row in rest if row not in near]
