"""One plot style for every experiment: the page's width, no frame, and colours that colour-blind readers tell apart.

``panels`` starts a figure and ``save`` ends it; between them stands plain matplotlib, which is imported only here.
"""

from pathlib import Path
from typing import Any

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
"""Of the palette of Okabe and Ito, *Color universal design* (2008)."""
GREY, DARK_GREY = "#BBBBBB", "#666666"
PROGRAMS = {
    "bptt": BLUE,
    "bptt, with recomputation": SKY,
    "jax.grad": VERMILLION,
    "jax.grad, standard scan": VERMILLION,
    "jax.grad, readout outside": ORANGE,
    "jax.grad, hoisted": PURPLE,
    "jax.grad, rj.autodiff": GREEN,
    "matmuls only": DARK_GREY,
}
"""The colour of each program; other libraries are grey."""
WIDTH, DPI = 9.0, 120
"""Inches and dots an inch: text of 10 points is easy to read where the figure is shown about 900 pixels wide."""
STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
}


def panels(count: int, title: str, height: float = 3.6, sharey: bool = False, rows: int = 1) -> tuple[Any, list[Any]]:
    """A figure of rows of ``count`` axes side by side, ``height`` inches high, with a title above them all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(
        rows, count, figsize=(WIDTH, height), sharey=sharey, squeeze=False, layout="constrained"
    )
    figure.suptitle(title)
    return figure, list(axes.flat)


def save(figure: Any, path: Path) -> None:
    """Write the figure as a PNG, and close it."""
    import matplotlib.pyplot as plt

    figure.savefig(path, dpi=DPI, pil_kwargs={"optimize": True})
    plt.close(figure)


def legend_below(figure: Any, handles: list[Any], columns: int | None = None) -> None:
    """One legend for all axes, under them; by default in one line."""
    figure.legend(handles=handles, ncols=columns or len(handles), loc="outside lower center")


def entry(label: str, **style: Any) -> Any:
    """An entry of a legend: a line, a marker or both, as ``axes.plot`` would draw them."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **style)


def level(axes: Any, y: float, label: str = "") -> None:
    """A dotted line across the axes at ``y``, with its label at the left end, just above it."""
    axes.axhline(y, color=DARK_GREY, lw=1, ls=":")
    place = {"xycoords": ("axes fraction", "data"), "xytext": (2, 3), "textcoords": "offset points"}
    axes.annotate(label, (0.01, y), color=DARK_GREY, fontsize=9, **place)


def model(name: str, **sizes: int) -> str:
    """A model as titles name it: ``model("lstm", H=256, T=64)`` is "LSTM, H = 256, T = 64"."""
    title = name.capitalize() if name == "elman" else name.upper()
    return ", ".join([title, *(f"{size} = {value:,}" for size, value in sizes.items())])
