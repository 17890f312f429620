"""One table and one plot of several runs of char_lm.py: means over the seeds, time, and the commands.

Runs that differ in nothing but the seed are one row, with the mean and the standard deviation of their bits per
character of test text. The folder of several seeds stands for their runs. A run that is not finished is counted, and
has no test bits. The column "expected" has the value that docs/benchmarks.md gives for the same flags, or – where it
gives none.

Examples:
  python experiments/report.py runs/char_lm/*
  python experiments/report.py runs/a runs/three
  python experiments/report.py runs/a runs/b --out report
"""

import dataclasses
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import char_lm
import figures
import tyro

from rnn_jax import experiment
from rnn_jax.checks import refuse, require

FILES = r"report\.(md|json|png)"
RUN = {
    "seed", "seeds", "out", "overwrite", "resume", "generate", "checkpoint_every", "cache", "quiet", "tensorboard",
    "devices",
}  # fmt: skip
"""Settings that make no other experiment."""
EXPECTED = (
    (char_lm.Config(), 2.34),
    (char_lm.Config(cell="lstm", hidden=256, steps=5700), 2.07),
)
"""Flags, and bits per character of test text as in docs/benchmarks.md, with seed 0."""
COLOURS = (figures.BLUE, figures.VERMILLION, figures.GREEN, figures.ORANGE, figures.PURPLE, figures.SKY, figures.BLACK)


@dataclass(frozen=True)
class Config:
    """Which runs, and where the report goes."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Folders of runs of char_lm.py, of one seed or of several; one that is given twice counts once."""
    out: Path | None = None
    """Folder of the report; by default runs/report/TIME."""
    overwrite: bool = False
    """Replace the earlier report in the folder given by --out."""


class OneRun(NamedTuple):
    """What the folder of a run says."""

    settings: dict[str, Any]
    """Its flags as resolved."""
    command: str
    points: dict[int, float]
    """Bits per character of validation text, by the step."""
    summary: dict[str, Any] | None
    """None where it is not finished."""


class Row(NamedTuple):
    """Runs that differ in the seed alone."""

    label: str
    runs: list[OneRun]
    expected: float | None


def runs_in(folder: Path) -> list[Path]:
    """The folders of single runs: this one, or those of its seeds that have begun."""
    config = experiment.read_config(folder, "char_lm", char_lm.Config, "folders")
    if config.seeds == 1:
        return [folder]
    each = [folder / f"seed-{seed}" for seed in range(config.seed, config.seed + config.seeds)]
    begun = [path for path in each if (path / "config.json").is_file()]
    require(begun, "folders", str(folder), "a folder with a run, and none of its seeds has begun")
    return begun


def read(folder: Path) -> OneRun:
    """One run."""
    config = experiment.read_config(folder, "char_lm", char_lm.Config, "folders")
    starts = (experiment.read_sealed(folder / "config.json") or {}).get("started by", [])
    metrics = folder / "metrics.jsonl"
    try:
        texts = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
        lines = [(line["step"], line.get("validation_bits")) for line in map(json.loads, texts)]
    except (ValueError, TypeError, KeyError):
        refuse("folders", str(metrics), "a file as it was written; it is made again where the run goes on")
    points = {step: bits for step, bits in lines if bits is not None}
    command = starts[0]["command"] if starts else ""
    summary = experiment.read_sealed(folder / "summary.json")
    finished = summary is not None and summary["steps"] == config.steps  # else it goes on to more steps now
    return OneRun(dataclasses.asdict(config), command, points, summary if finished else None)


def settings_of(run: OneRun) -> dict[str, Any]:
    """Of a run, all that makes it another experiment."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in run.settings.items()} | {
        name: None for name in RUN
    }


def rows_of(runs: Sequence[OneRun]) -> list[Row]:
    """Runs by their settings; a label names those that differ between the rows and are not at their defaults."""
    groups: dict[str, list[OneRun]] = {}
    for run in runs:
        groups.setdefault(json.dumps(settings_of(run)), []).append(run)
    each = [json.loads(key) for key in groups]
    differing = [name for name in each[0] if len({json.dumps(settings[name]) for settings in each}) > 1]
    rows = []
    for settings, members in zip(each, groups.values(), strict=True):
        usual = usual_settings(settings)
        shown = [name for name in differing if name != "cell" and settings[name] != usual[name]]
        label = ", ".join([settings["cell"], *(f"{name} {settings[name]}" for name in shown)])
        known = [value for config, value in EXPECTED if settings == expected_settings(config)]
        rows.append(Row(label, members, known[0] if known else None))
    return rows


def usual_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of a run with the same cell and no flag but what the defaults depend on."""
    given = {name: settings[name] for name in ("cell", "optimiser", "quick")}
    return expected_settings(char_lm.Config(**given))


def expected_settings(config: char_lm.Config) -> dict[str, Any]:
    """Those of a run with these flags."""
    return settings_of(OneRun(dataclasses.asdict(char_lm.resolve(config)), "", {}, None))


def figures_of(row: Row) -> dict[str, Any]:
    """The numbers of a row."""
    finished = [run.summary for run in row.runs if run.summary]
    bits = [summary["test_bits"] for summary in finished]
    return {
        "runs": row.label,
        "count": len(row.runs),
        "finished": len(finished),
        "test_bits": statistics.mean(bits) if bits else None,
        "standard_deviation": statistics.stdev(bits) if len(bits) > 1 else None,
        "expected": row.expected,
        "training_seconds": statistics.mean(summary["training_seconds"] for summary in finished) if bits else None,
        "seeds": [run.settings["seed"] for run in row.runs],
        "commands": [run.command for run in row.runs],
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown, and below them the command of each."""
    lines = [
        "| runs | seeds | bits per character of test text | expected | training, s |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        bits = "–" if row["test_bits"] is None else f"{row['test_bits']:.3f}"
        bits += "" if row["standard_deviation"] is None else f" ± {row['standard_deviation']:.3f}"
        expected = "–" if row["expected"] is None else f"{row['expected']:.2f}"
        seconds = "–" if row["training_seconds"] is None else f"{row['training_seconds']:,.0f}"
        seeds = ", ".join(map(str, sorted(row["seeds"])))
        unfinished = row["count"] - row["finished"]
        seeds += f"; {unfinished} not finished" if unfinished else ""
        lines.append(f"| {row['runs']} | {seeds} | {bits} | {expected} | {seconds} |")
    commands = [f"- {row['runs']}, seed {row['seeds'][0]}: `{row['commands'][0]}`" for row in rows]
    legend = (
        "Mean ± standard deviation over the seeds; – where no run is finished. Expected is the value that "
        "docs/benchmarks.md gives for the same flags with seed 0; – where it gives none. The commands:"
    )
    return "\n".join([*lines, "", legend, "", *commands, ""])


def plot(rows: list[Row]) -> Any:
    """Bits per character of validation text against the characters read: the mean of each row, and the range."""
    settings = rows[0].runs[0].settings
    same = {run.settings["cell"] for row in rows for run in row.runs}
    name = figures.model(settings["cell"]) if len(same) == 1 else "Character models"
    figure, (axes,) = figures.panels(1, f"{name}: validation text while training", 4.4)
    for index, row in enumerate(rows):
        colour = COLOURS[index % len(COLOURS)]
        work = row.runs[0].settings["batch"] * row.runs[0].settings["length"]
        steps = sorted({step for run in row.runs for step in run.points})
        found = [[run.points[step] for run in row.runs if step in run.points] for step in steps]
        characters = [step * work for step in steps]
        style = ("-", "--", ":")[index // len(COLOURS) % 3]
        axes.plot(characters, [statistics.mean(bits) for bits in found], style, marker="o", color=colour, ms=3)
        axes.fill_between(characters, list(map(min, found)), list(map(max, found)), color=colour, alpha=0.2, lw=0)
        axes.plot([], [], style, marker="o", color=colour, ms=3, label=f"{row.label} (n = {len(row.runs)})")
    axes.set(xlabel="characters of training text read", ylabel="bits per character", xscale="log")
    axes.legend()
    return figure


def run(config: Config) -> None:
    """Read the runs, print the table, and write report.md, report.json and, where there are points, report.png."""
    require(config.folders, "folders", list(map(str, config.folders)), "one or more folders of runs")
    folders = {path.resolve(): path for folder in config.folders for path in runs_in(folder)}
    rows = rows_of([read(folder) for folder in folders.values()])
    numbers = [figures_of(row) for row in rows]
    text = table(numbers)
    figure = plot(rows) if any(run.points for row in rows for run in row.runs) else None
    folder = experiment.new_folder("report", config, FILES, config.folders)
    experiment.write_text(folder / "report.md", text)
    experiment.write_json(folder / "report.json", numbers)
    if figure:
        with experiment.writing(folder / "report.png"):
            figures.save(figure, folder / "report.png")
    print(text)
    if not figure:
        print("no plot: no run has bits per character of validation text yet")
    print(f"report: {folder}")


if __name__ == "__main__":
    experiment.main(Config, run)
