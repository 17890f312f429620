"""The plots of ``gradient_flow.py``."""

from pathlib import Path
from typing import Any

import figures
import numpy as np

from rnn_jax.data.tasks import ADDING_CHANCE

CELLS = {
    "Elman": {"color": figures.BLACK, "ls": "-"},
    "Elman, orthogonal": {"color": figures.BLACK, "ls": "--"},
    "GRU": {"color": figures.BLUE, "ls": "-"},
    "GRU, chrono": {"color": figures.BLUE, "ls": "--"},
    "LSTM": {"color": figures.VERMILLION, "ls": "-"},
    "LSTM, chrono": {"color": figures.VERMILLION, "ls": "--"},
}
"""Networks beside the Gaussian ones: a colour a cell, dashed where the initialisation is another one."""
SPECTRA = ("Elman, orthogonal", "GRU", "LSTM")
"""Of these the singular values are plotted."""
LOWEST_EXPONENT = -3.0
"""Where the axis of the Lyapunov exponents ends, if any is so low."""
FLOOR = 1e-20
"""Where logarithmic axes end, if anything reaches so far down."""


def gain_looks(gains: tuple[float, ...]) -> list[dict[str, Any]]:
    """From light to dark as the gain grows."""
    from matplotlib import colormaps

    shades = np.linspace(0.85, 0.0, len(gains))
    return [{"color": colormaps["viridis"](shade), "ls": "-"} for shade in shades]


def title_of(config: Any, what: str) -> str:
    """What is shown, and of which models."""
    return f"{what}: Elman, GRU and LSTM, H = {config.hidden}, T = {config.length}"


def groups(config: Any, summary: dict[str, Any]) -> list[tuple[str, list[tuple[dict[str, Any], dict[str, Any]]]]]:
    """The panels of a figure: a title, and of each curve its look and what was measured."""
    of_gains = list(zip(gain_looks(config.gains), summary["gain"].values(), strict=True))
    found = [("Elman, Gaussian W with gain g", of_gains)]
    for when in ("before training", "after training"):
        if summary[when]:
            found.append((when, [(CELLS[name], each) for name, each in summary[when].items()]))
    return found


def legend(figure: Any, config: Any) -> None:
    """The gains in the first line, the cells in the second."""
    gains = [
        figures.entry(f"g = {gain:g}", **look)
        for gain, look in zip(config.gains, gain_looks(config.gains), strict=True)
    ]
    cells = [figures.entry(name, **look) for name, look in CELLS.items()]
    columns = max(len(gains), len(cells))
    blank = figures.entry(" ", color="none")
    pairs = zip(*(each + [blank] * (columns - len(each)) for each in (gains, cells)), strict=True)
    figures.legend_below(figure, [entry for pair in pairs for entry in pair], columns)


def three_panels(
    config: Any,
    summary: dict[str, Any],
    what: str,
    curve: Any,
    axis: dict[str, Any],
    path: Path,
    bottom: float = -np.inf,
) -> None:
    """A panel for the gains, one before training and one after; ``curve(found)`` gives x and y.

    What is below ``bottom`` is not shown.
    """
    panels = groups(config, summary)
    figure, axes = figures.panels(len(panels), title_of(config, what), 3.9, sharey=True)
    for each, (title, curves) in zip(axes, panels, strict=True):
        for look, found in curves:
            x, y = curve(found)
            each.plot(x, y, **look)
        each.set(title=title, **{name: value for name, value in axis.items() if name != "ylabel"})
        each.grid(alpha=0.25, lw=0.6)
    axes[0].set(ylabel=axis["ylabel"])
    axes[0].set_ylim(bottom=max(bottom, axes[0].get_ylim()[0]))
    legend(figure, config)
    figures.save(figure, path)


def plot(config: Any, summary: dict[str, Any], folder: Path) -> None:
    """All figures of a run."""
    lags = np.arange(config.length)
    by_lag = {"yscale": "log", "xlabel": r"lag $T - t$, steps"}
    three_panels(
        config,
        summary,
        "Error that flows back from the last step",
        lambda found: (lags, found["error by lag"]),
        {**by_lag, "ylabel": r"$\|\partial L/\partial s_t\|\ /\ \|\partial L/\partial s_T\|$"},
        folder / "gradient_flow.png",
        FLOOR,
    )
    three_panels(
        config,
        summary,
        "What each step adds to dW",
        lambda found: (lags[:-1], found["share by lag"][:-1]),  # the first step adds nothing, since h_0 is 0
        {**by_lag, "ylabel": r"$\|h_{t-1}^\top\,\delta v_t\|$, share of the sum over $t$"},
        folder / "shares.png",
        FLOOR,
    )
    three_panels(
        config,
        summary,
        "Error of truncated BPTT",
        lambda found: (config.windows, np.maximum(found["truncation"], 1e-16)),
        {"xscale": "log", "xlabel": r"steps of a window, $k$", "ylabel": r"$\|g_k - g\|\ /\ \|g\|$"},
        folder / "truncation.png",
        0.0,
    )
    three_panels(
        config,
        summary,
        f"Lyapunov spectra over {config.driven} sequences",
        lambda found: (np.arange(1, config.hidden + 1) / config.hidden, found["lyapunov"]),
        {"xlabel": r"index $i\,/\,H$", "ylabel": r"exponent $\lambda_i$, nats a step"},
        folder / "lyapunov.png",
        LOWEST_EXPONENT,
    )
    plot_singular_values(config, summary, folder / "singular_values.png")
    if summary["training"]:
        plot_training(config, summary, folder / "clipping.png")


def plot_singular_values(config: Any, summary: dict[str, Any], path: Path) -> None:
    """The largest singular value by the lag, and the median of the H largest, before training and after it."""
    title = title_of(config, r"Singular values of $\partial s_T/\partial s_t$")
    figure, axes = figures.panels(len(SPECTRA), title, 3.9, sharey=True)
    times = {
        "before training": {"color": figures.GREY, "lw": 2.5},
        "after training": {"color": figures.BLUE, "lw": 1.5},
    }
    parts = {"largest": "-", "median": "--"}
    for each, name in zip(axes, SPECTRA, strict=True):
        for when, look in times.items():
            for part, line in parts.items() if name in summary[when] else ():
                logs = np.asarray(summary[when][name]["singular values"][part])
                each.plot(
                    np.arange(config.length), np.where(logs > np.log(FLOOR), np.exp(logs), np.nan), ls=line, **look
                )
        each.set(title=name, yscale="log", xlabel=r"lag $T - t$, steps")
        each.grid(alpha=0.25, lw=0.6)
    axes[0].set(ylabel="singular value")
    handles = [
        figures.entry(f"{'largest' if part == 'largest' else 'median of the H largest'}, {when}", ls=line, **look)
        for when, look in times.items()
        for part, line in parts.items()
    ]
    figures.legend_below(figure, handles, 2)
    figures.save(figure, path)


def plot_training(config: Any, summary: dict[str, Any], path: Path) -> None:
    """The loss, and the share of the steps whose gradient was clipped."""
    figure, (left, right) = figures.panels(2, title_of(config, "Training on the adding problem"), 3.9)
    for name, curve in summary["training"].items():
        left.plot(curve["step"], curve["loss"], **CELLS[name])
        right.plot(curve["step"], 100 * np.asarray(curve["clipped"]), **CELLS[name])
    left.set(yscale="log", xlabel="training step", ylabel="half the squared error")
    chance = {"color": figures.DARK_GREY, "lw": 1, "ls": ":"}
    left.axhline(ADDING_CHANCE, **chance)
    right.set(xlabel="training step", ylabel=f"steps with a norm above {config.clip:g}, %", ylim=(-2, 102))
    for each in (left, right):
        each.grid(alpha=0.25, lw=0.6)
    handles = [figures.entry(name, **look) for name, look in CELLS.items()]
    figures.legend_below(figure, [*handles, figures.entry("without memory", **chance)], 4)
    figures.save(figure, path)
