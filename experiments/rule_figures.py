"""The plots of ``learning_rules.py``."""

import itertools
from pathlib import Path
from typing import Any

import figures
import numpy as np

from rnn_jax.data.tasks import LEVELS

COLOURS = (figures.BLUE, figures.ORANGE, figures.GREEN, figures.VERMILLION, figures.PURPLE, figures.SKY, figures.BLACK)
LOOKS = [
    {"color": colour, "ls": line, "marker": marker} for line, marker in (("-", "o"), (":", "s")) for colour in COLOURS
]
"""More than are told apart by colour alone: solid lines and dots, then dotted lines and squares."""
ROUNDING = 1e-7
"""Errors below are drawn here, on logarithmic axes."""
EXACT = 1e-2
"""Where exact rules are drawn in the plot of time against error, near the others."""


def plot_alignment(model: str, found: dict[str, Any], path: Path) -> None:
    """A heat map of the cosines between each two rules: before training below the diagonal, after training above."""
    names, before, after = (np.asarray(found[name]) for name in ("rules", "before training", "after training"))
    title = f"Cosine of two rules' recurrent gradients of a window: {model}"
    figure, (axes,) = figures.panels(1, f"{title}\nbelow the diagonal before training, above it after", 7.2)
    cosines = np.tril(before, -1) + np.triu(after)
    image = axes.imshow(cosines, vmin=-1, vmax=1, cmap="PuOr")
    axes.set_xticks(range(len(names)), names, rotation=55, ha="right")
    axes.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(cosines):
        colour = "white" if abs(value) > 0.7 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="mean cosine", shrink=0.8)
    figures.save(figure, path)


def plot_sizes(model: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against n, and the error of one draw."""
    figure, panels = figures.panels(3, f"Cost and error of one draw against n: {model}", 4.8)
    names = list(dict.fromkeys(row["rule"] for row in rows))
    for axes, field, label in zip(
        panels,
        ("microseconds", "memory", "error"),
        ("microseconds a step", "bytes carried of an example", "error of one draw / norm"),
        strict=True,
    ):
        for name, look in zip(names, LOOKS, strict=False):
            of_rule = [row for row in rows if row["rule"] == name]
            ys = [max(row[field], ROUNDING) if field == "error" else row[field] or np.nan for row in of_rule]
            axes.plot([row["hidden"] for row in of_rule], ys, **look)
        axes.set(xscale="log", yscale="log", xlabel="n", ylabel=label)
        sizes = sorted({row["hidden"] for row in rows})
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
    handles = [figures.entry(name, **look) for name, look in zip(names, LOOKS, strict=False)]
    figures.legend_below(figure, handles, 5)
    figures.save(figure, path)


def plot_noise(model: str, rows: list[dict[str, Any]], path: Path) -> None:
    """The relative variance against the length of segments."""
    figure, (axes,) = figures.panels(1, f"Noise of the unbiased rules: {model}, B = 1", 4.6)
    handles = []
    for name, look in zip(dict.fromkeys(row["rule"] for row in rows), LOOKS, strict=False):
        of_rule = [row for row in rows if row["rule"] == name]
        axes.plot([row["segment"] for row in of_rule], [max(row["variance"], 1e-9) for row in of_rule], **look)
        handles.append(figures.entry(name, **look))
    lengths = sorted({row["segment"] for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="steps a segment", ylabel="variance / squared norm of the gradient")
    axes.set_xticks(lengths, map(str, lengths))
    axes.minorticks_off()
    figures.legend_below(figure, handles, 3)
    figures.save(figure, path)


def plot_training(model: str, losses: dict[str, Any], windows: int, path: Path) -> None:
    """The mean loss over the seeds against the windows seen."""
    figure, (axes,) = figures.panels(1, f"Training online on delayed addition: {model}", 5.2)
    handles = []
    for (name, each), look in zip(losses.items(), LOOKS, strict=False):
        curve = np.mean(each["losses"], axis=0)
        look = {**look, "marker": ""}
        axes.plot(np.linspace(0, windows, len(curve) + 1)[1:], curve, **look)
        handles.append(figures.entry(name, **look))
    for known, nats in LEVELS.items():
        figures.level(axes, nats, f"best loss, {known}")
    axes.set(xlabel="windows, with an update after each", ylabel="cross-entropy a step, nats")
    figures.legend_below(figure, handles, 5)
    figures.save(figure, path)


def plot_copying(model: str, found: dict[str, Any], path: Path) -> None:
    """The length of the strings against the steps seen: the mean over the seeds, and all of them as a band."""
    figure, (axes,) = figures.panels(1, f"Copying strings that grow when they are copied well: {model}", 5.2)
    handles = []
    for (name, each), look in zip(found.items(), LOOKS, strict=False):
        look = {**look, "marker": ""}
        lengths = np.asarray(each["lengths"])
        xs = np.mean(each["steps"], axis=0) / 1000
        axes.plot(xs, lengths.mean(axis=0), **look)
        axes.fill_between(xs, lengths.min(axis=0), lengths.max(axis=0), color=look["color"], alpha=0.12, lw=0)
        handles.append(figures.entry(name, **look))
    axes.set(xlabel="thousands of steps seen, of all examples", ylabel="bits of a string", ylim=(1, None))
    figures.legend_below(figure, handles, 4)
    figures.save(figure, path)


def plot_tradeoff(model: str, rows: list[dict[str, Any]], path: Path) -> None:
    """Time a step against the error of one draw: a line a rule, and a point a length of segments."""
    moments = ("before training", "after training")
    title = f"Time against error of one draw, by the steps of a segment: {model}"
    figure, panels = figures.panels(2, title, 5.4, sharey=True)
    names = list(dict.fromkeys(row["rule"] for row in rows))
    lengths = sorted({row["segment"] for row in rows})
    for axes, when in zip(panels, moments, strict=True):
        for name, look in zip(names, LOOKS, strict=False):
            of_rule = [row for row in rows if row["rule"] == name]
            xs = [row["microseconds"] for row in of_rule]
            ys = [max(row[when]["error"], EXACT) for row in of_rule]
            axes.plot(xs, ys, **{**look, "marker": ""}, alpha=0.6)
            for row, x, y in zip(of_rule, xs, ys, strict=True):
                axes.plot(x, y, look["marker"], color=look["color"], ms=3 + 2 * lengths.index(row["segment"]))
        axes.set(xscale="log", yscale="log", xlabel="microseconds a step", title=when)
        figures.level(axes, EXACT, "0.01 and less")
    panels[0].set(ylabel="error of one draw / norm of the gradient")
    handles = [figures.entry(name, **look) for name, look in zip(names, LOOKS, strict=False)]
    style = {"color": figures.DARK_GREY, "ls": "", "marker": "o"}
    handles += [figures.entry(f"segments of {n}", ms=3 + 2 * i, **style) for i, n in enumerate(lengths)]
    figures.legend_below(figure, handles, 4)
    figures.save(figure, path)


def table_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table as text, one line a rule and size."""
    head = f"{'n':>4}  {'rule':<20}{'claim':<18}{'bias':>9}  {'95 %':<18}{'variance':>9}{'cosine':>8}"
    lines = [f"{head}{'µs a step':>11}{'bytes':>11}{'scratch':>11}"]
    for hidden, group in itertools.groupby(rows, key=lambda row: row["hidden"]):
        for row in group:
            low, high = row["interval"]
            accuracy = (
                f"{row['bias']:>9.1e}  {f'{low:.1e} … {high:.1e}':<18}{row['variance']:>9.1e}{row['cosine']:>8.2f}"
            )
            costs = f"{row['microseconds']:>11.1f}{row['memory']:>11,}{row['temporaries']:>11,}"
            lines.append(f"{hidden:>4}  {row['rule']:<20}{row['claim']:<18}{accuracy}{costs}")
    return lines
