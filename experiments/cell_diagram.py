"""The diagram of the documentation: what the step and the adjoint of a cell are given, and what they return."""

from pathlib import Path
from typing import Any

import figures

YOURS = {"facecolor": "#D6E8F5", "edgecolor": figures.BLUE, "linewidth": 1.5}
LIBRARY = {"facecolor": "#F2F2F2", "edgecolor": figures.GREY, "linewidth": 1.0}
"""The two functions of a cell, and what the library computes around them."""
ROUNDED = "round,pad=0,rounding_size=1.2"


def box(axes: Any, x: float, y: float, width: float, height: float, text: str, style: dict[str, Any]) -> None:
    """A rounded box with its centre at (x, y), and a text in it."""
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=ROUNDED, **style))
    axes.text(x, y, text, ha="center", va="center", linespacing=1.6)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str, line: str = "-") -> None:
    """An arrow between two points."""
    style = {"arrowstyle": "-|>,head_width=0.25,head_length=0.5", "color": colour, "lw": 1.5, "ls": line}
    axes.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0})


def note(axes: Any, x: float, y: float, text: str, align: str = "center", colour: str = "black") -> None:
    """A label beside an arrow."""
    axes.text(x, y, text, ha=align, va="center", color=colour, linespacing=1.4)


def draw(path: Path) -> None:
    """The step above, forward in time; the adjoint below it, backward."""
    title = "One step of a cell: every array that step and adjoint see is [B, H]"
    figure, (axes,) = figures.panels(1, title, 5.4)
    axes.set(xlim=(0, 100), ylim=(0, 60))
    axes.set_axis_off()
    forward, backward, stored = figures.BLUE, figures.VERMILLION, figures.DARK_GREY

    box(axes, 37, 56, 48, 6, r"$u_t = x_t\,U + b$        $v_t = h_{t-1}\,W$        $z_t = u_t + v_t$", LIBRARY)
    box(axes, 76, 56, 22, 6, r"$p$: one number per unit", LIBRARY)
    box(axes, 50, 40, 48, 8, r"$s_t$, residual = step($s_{t-1}$, $z_t$, *$p$)", YOURS)
    box(axes, 50, 20, 48, 8, r"$\delta s_{t-1}$, $\delta z_t$, *$\delta p$ = adjoint($s_{t-1}$, $s_t$, residual, "
        r"$\delta s_t$, *$p$)", YOURS)  # fmt: skip
    box(axes, 33, 4, 60, 6, r"$dU = \Sigma\,x_t^\top\delta z_t$    $db = \Sigma\,\delta z_t$    "
        r"$dW = \Sigma\,h_{t-1}^\top\delta z_t$    $\delta h_{t-1}$ += $\delta z_t\,W^\top$", LIBRARY)  # fmt: skip
    box(axes, 76, 4, 22, 6, r"$dp = \Sigma\,\delta p$", LIBRARY)

    arrow(axes, (4, 40), (26, 40), forward)
    note(axes, 3, 43.5, r"$s_{t-1}$: $S$ arrays", "left")
    arrow(axes, (74, 40), (96, 40), forward)
    note(axes, 97, 43.5, r"$s_t$: $S$ arrays", "right")
    arrow(axes, (42, 53), (42, 44), forward)
    note(axes, 43, 48.5, r"$z_t$: $G$ arrays", "left")
    arrow(axes, (70, 53), (70, 44), forward)
    note(axes, 71, 48.5, r"$p$", "left")

    arrow(axes, (50, 36), (50, 24), stored, "--")
    note(axes, 51.5, 30, r"stored: $s_{t-1}$, $s_t$, residual", "left", stored)

    arrow(axes, (96, 20), (74, 20), backward)
    note(axes, 97, 23.5, r"$\delta s_t$: $S$ arrays", "right")
    arrow(axes, (26, 20), (4, 20), backward)
    note(axes, 3, 23.5, r"$\delta s_{t-1}$: $S$ arrays", "left")
    arrow(axes, (42, 16), (42, 7), backward)
    note(axes, 43, 11.5, r"$\delta z_t$: $G$ arrays", "left")
    arrow(axes, (70, 16), (70, 7), backward)
    note(axes, 71, 11.5, r"$\delta p$", "left")

    from matplotlib.patches import Patch

    entries = [
        Patch(label="you write", **YOURS),
        Patch(label="the library computes", **LIBRARY),
        figures.entry("forward in time", color=forward, lw=2),
        figures.entry("backward in time", color=backward, lw=2),
    ]
    figures.legend_below(figure, entries)
    figures.save(figure, path)
