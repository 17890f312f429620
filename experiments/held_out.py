"""Which cell predicts held-out text best at equal size? Character models of several cells and widths, on Shakespeare.

Each cell of each width is trained by char_lm.py from several seeds at once, for the same number of steps, with the
learning rate that char_lm.py gives to the cell. The runs are in CELL-HIDDEN/seed-N of the folder given by --out. The
same command goes on where it was stopped: finished runs are left as they are. Half an hour to an hour on two cores.

Examples:
  python experiments/held_out.py
  python experiments/held_out.py --hidden 512 --seeds 1 --out runs/held_out_512    (hours)
  python experiments/held_out.py --quick
"""

import dataclasses
import itertools
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import char_lm
import figures
import report
from adam import Adam
from tqdm import tqdm

from rnn_jax import experiment, train
from rnn_jax.cells import CELLS
from rnn_jax.checks import check_int, require

LOOKS = {
    "elman": (figures.BLUE, "o"),
    "gru": (figures.VERMILLION, "D"),
    "lstm": (figures.GREEN, "^"),
    "min_gru": (figures.PURPLE, "X"),
    "indrnn": (figures.ORANGE, "s"),
    "rtu": (figures.SKY, "P"),
}
"""Colour and marker of a cell, those of memory_tasks.py where it has the cell."""
OTHERS = [cell for cell in CELLS if cell not in LOOKS]
LOOKS |= {cell: (figures.DARK_GREY, marker) for cell, marker in zip(OTHERS, itertools.cycle("v<>phH*"), strict=False)}


@dataclass(frozen=True)
class Config(Adam):
    """Which models to compare, and for how long they learn."""

    cells: tuple[str, ...] = ("elman", "gru", "lstm", "min_gru")
    """The cells, by their names in char_lm.py."""
    hidden: tuple[int, ...] = (128, 256)
    """H of the one layer, one width after another."""
    seeds: int = 3
    """Runs of each model, of the seeds 0, 1, 2, ..."""
    steps: int = 5000
    """Updates of each run."""
    batch: int = 32
    """B, streams of text read in parallel."""
    length: int = 100
    """T, characters per window; the gradient does not reach beyond it, the state does."""
    rate: float | None = None
    """Peak learning rate of all cells; by default that which char_lm.py gives to the cell."""
    last_rate: float = 0.1
    """The share of it that is left at the end, along a cosine."""
    warm_up: int = 0
    """Updates in which the rate rises linearly to its peak, before it falls."""
    clip_at: float = 1.0
    """Largest norm of the gradient."""
    text: Path | None = None
    """UTF-8 text file; by default 38 plays of Shakespeare."""
    out: Path = Path("runs/held_out")
    """Folder of the runs, the table and the plot; what it has of the same experiment is not computed again."""
    overwrite: bool = False
    """Compute all of it again."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next start."""
    quick: bool = False
    """Two cells, small and hardly trained: half a minute."""


def settings(config: Config, cell: str, hidden: int) -> char_lm.Config:
    """The runs of one model."""
    own = {"cells", "hidden", "out"}
    shared = {name: value for name, value in dataclasses.asdict(config).items() if name not in own}
    return char_lm.Config(
        **shared, cell=cell, hidden=hidden, out=config.out / f"{cell}-{hidden}",
        resume=None if config.overwrite else experiment.AUTO, quiet=True,
    )  # fmt: skip


def row_of(config: Config, cell: str, hidden: int) -> dict[str, Any]:
    """The numbers of one model, from its run folders."""
    folder = config.out / f"{cell}-{hidden}"
    places = [folder / f"seed-{seed}" for seed in range(config.seeds)] if config.seeds > 1 else [folder]
    runs = [report.read(place) for place in places]
    found = report.figures_of(report.Row(cell, runs, None))
    summaries = [run.summary for run in runs if run.summary]
    return {
        "cell": cell,
        "hidden": hidden,
        "parameters": summaries[0]["parameters"],
        "test_bits": [summary["test_bits"] for summary in summaries],
        "mean": found["test_bits"],
        "standard_deviation": found["standard_deviation"],
        "training_seconds": found["training_seconds"],
        "seeds": found["count"],
        "finished": found["finished"],
        "baselines": summaries[0]["baselines"],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, the best first."""
    lines = [
        "| cell | H | parameters | bits per character of test text | training, s |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["mean"]):
        bits = f"{row['mean']:.3f}"
        bits += "" if row["standard_deviation"] is None else f" ± {row['standard_deviation']:.3f}"
        bits += f"; {row['seeds'] - row['finished']} not finite" if row["finished"] < row["seeds"] else ""
        lines.append(
            f"| {row['cell']} | {row['hidden']} | {row['parameters']:,} | {bits} | {row['training_seconds']:,.0f} |"
        )
    return "\n".join([*lines, ""])


def plot(config: Config, rows: list[dict[str, Any]], path: Path) -> None:
    """Bits per character of test text against the number of parameters: each seed, and the mean of each model."""
    title = f"Character models, one layer, {config.steps:,} steps of B = {config.batch}, T = {config.length}"
    figure, (axes,) = figures.panels(1, title, 4.4)
    for cell in config.cells:
        colour, marker = LOOKS[cell]
        own = sorted((row for row in rows if row["cell"] == cell), key=lambda row: row["parameters"])
        sizes = [row["parameters"] for row in own]
        axes.plot(sizes, [statistics.fmean(row["test_bits"]) for row in own], marker=marker, color=colour, label=cell)
        for row in own:
            axes.plot([row["parameters"]] * len(row["test_bits"]), row["test_bits"], "_", color=colour, ms=12, mew=1.2)
    for name in ("order-3 characters", "xz"):
        figures.level(axes, rows[0]["baselines"][name], f"{name}, {rows[0]['baselines'][name]:.2f}")
    handles = [figures.entry(cell, color=LOOKS[cell][0], marker=LOOKS[cell][1]) for cell in config.cells]
    handles.append(figures.entry("one seed", color=figures.DARK_GREY, marker="_", ms=12, ls=""))
    axes.set(xscale="log", xlabel="parameters", ylabel="bits per character of test text")
    figures.legend_below(figure, handles)
    figures.save(figure, path)


def run(config: Config) -> None:
    """Train what is not trained yet, and write table.md, held_out.png and summary.json."""
    if config.quick:
        config = dataclasses.replace(config, cells=("elman", "gru"), hidden=(8, 16), length=50, seeds=2, steps=20)
    unknown = [cell for cell in config.cells if cell not in CELLS]
    require(config.cells and not unknown, "cells", unknown or config.cells, f"some of {', '.join(CELLS)}")
    require(config.hidden, "hidden", config.hidden, "one width or more")
    for name in ("seeds", "steps"):
        check_int(getattr(config, name), name)
    models = [(cell, hidden) for hidden in config.hidden for cell in config.cells]
    rows = []
    with tqdm(models, unit="model", disable=None) as bar:
        for cell, hidden in bar:
            bar.set_postfix_str(f"{cell}, H = {hidden}")
            try:
                char_lm.run(settings(config, cell, hidden))
            except train.NonFiniteError as error:
                bar.write(f"{cell}, H = {hidden}, is left out: {error}")
                continue
            rows.append(row_of(config, cell, hidden))
            bar.write(f"{cell}, H = {hidden}: {rows[-1]['mean']:.3f} bits per character of test text")
    require(rows, "cells", config.cells, "of a kind that stays finite with these rates")
    text = table(rows)
    experiment.write_text(config.out / "table.md", text)
    plot(config, rows, config.out / "held_out.png")
    experiment.write_json(
        config.out / "summary.json", {"machine": experiment.machine(), "steps": config.steps, "models": rows}
    )
    print(f"{text}\nMean ± standard deviation over the seeds, which are trained at once.\nfolder: {config.out}")


if __name__ == "__main__":
    experiment.main(Config, run)
