"""The tables of ``learning_rules.py``, in Markdown, with where and how their figures were measured."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rnn_jax.data.tasks import LEVELS

Found = Any
"""What a part of ``learning_rules.py`` has found, as in summary.json."""


def document(origin: dict[str, Any], settings: str, found: dict[str, Found]) -> str:
    """The line of the machine, the command, the settings, and the tables of all parts that are there."""
    machine = origin["machine"]
    versions = f"Python {machine['python']}, jax {machine['jax']}, jaxlib {machine['jaxlib']}"
    where = f"{machine['processor']}, {machine['cores']} core{'s' if machine['cores'] != 1 else ''}, {versions}."
    head = f"{where}\n`{origin['command']}`\n{settings}\n"
    return "\n".join([head, *(f"## {part}\n\n{TABLES[part](each)}\n" for part, each in found.items())])


def alignment(found: Found) -> str:
    """The mean cosines of two rules of groups."""
    before, after = (found[f"groups {when} training"] for when in ("before", "after"))
    lines = [[groups.replace(" | ", " and "), f"{before[groups]:.2f}", f"{after[groups]:.2f}"] for groups in before]
    return f"Mean cosine of two rules of these groups.\n\n{table(['groups', 'before training', 'after'], lines)}"


def sizes(found: Found) -> str:
    """All n in one table, a table for each n, and the noise by the length of segments."""
    head = ["rule", "claim", "bias", "95 % interval", "variance", "cosine", "µs a step", "bytes", "scratch bytes"]
    parts = [by_size(found["rules"])]
    for hidden in dict.fromkeys(row["hidden"] for row in found["rules"]):
        rows = [row for row in found["rules"] if row["hidden"] == hidden]
        parts.append(f"n = {hidden}\n\n{table(head, [rule_line(row) for row in rows])}")
    lengths = list(dict.fromkeys(row["segment"] for row in found["noise"]))
    lines = [
        [name, *(number(row["variance"]) for row in found["noise"] if row["rule"] == name)]
        for name in dict.fromkeys(row["rule"] for row in found["noise"])
    ]
    noise = table(["rule", *map(str, lengths)], lines)
    return "\n\n".join([*parts, f"Relative variance of one example, by the steps of a segment\n\n{noise}"])


def by_size(rows: list[dict[str, Any]]) -> str:
    """A line for each rule, and in each cell a number for each n."""
    sizes = " / ".join(str(hidden) for hidden in dict.fromkeys(row["hidden"] for row in rows))
    lines = []
    for name in dict.fromkeys(row["rule"] for row in rows):
        of_rule = [row for row in rows if row["rule"] == name]
        fields = ("bias", "variance", "cosine", "microseconds", "memory")
        lines.append(
            [
                f"`{name}`",
                of_rule[0]["claim"],
                *(" / ".join(number(row[field]) for row in of_rule) for field in fields),
            ]
        )
    head = ["rule", "claim", "bias", "variance", "cosine", "µs a step", "bytes"]
    return f"By size: in each cell the numbers of n = {sizes}\n\n{table(head, lines)}"


def rule_line(row: dict[str, Any]) -> list[str]:
    """A rule at one size."""
    low, high = row["interval"]
    accuracy = [
        number(row["bias"]),
        f"{number(low)} to {number(high)}",
        number(row["variance"]),
        f"{row['cosine']:.2f}",
    ]
    costs = [number(row["microseconds"]), f"{row['memory']:,}", f"{row['temporaries']:,}"]
    return [f"`{row['rule']}`", row["claim"], *accuracy, *costs]


def training(found: Found) -> str:
    """The loss over the last tenth of training."""
    windows = list(found)

    def line(name: str) -> list[str]:
        cells = []
        for window in windows:
            each = found[window][name]
            curves = np.asarray(each["losses"])
            last = np.mean(curves[:, -max(curves.shape[1] // 10, 1) :], axis=1)
            cells += [f"{last.mean():.3f}", f"{last.min():.3f} to {last.max():.3f}"]
        return [f"`{name}`", *cells]

    best = ", ".join(f"{known} {nats}" for known, nats in LEVELS.items())
    head = [title for window in windows for title in (f"an update every {window}", "all seeds")]
    lines = table(["rule", *head], [line(name) for name in found[windows[0]]])
    return f"Loss over the last tenth of training on delayed addition, nats a step. Best possible: {best}.\n\n{lines}"


def copying(found: Found) -> str:
    """How long the strings are at the end, and the steps seen until then."""
    lines = []
    for name, each in found.items():
        ends = sorted(lengths[-1] for lengths in each["lengths"])
        seen = np.mean([steps[-1] for steps in each["steps"]])
        lines.append([name, ", ".join(map(str, ends)), f"{seen:,.0f}"])
    return f"Bits of a string that are copied at the end.\n\n{table(['rule', 'bits, each seed', 'steps seen'], lines)}"


def tradeoff(found: Found) -> str:
    """Time and error by the length of segments."""
    lengths = list(dict.fromkeys(row["segment"] for row in found))
    parts = []
    for title, figure in (
        ("Microseconds a step", lambda row: row["microseconds"]),
        ("Error of one draw before training", lambda row: row["before training"]["error"]),
        ("Error of one draw after training", lambda row: row["after training"]["error"]),
    ):
        lines = []
        for name in dict.fromkeys(row["rule"] for row in found):
            by_length = {row["segment"]: number(figure(row)) for row in found if row["rule"] == name}
            lines.append([name, *(by_length.get(length, "") for length in lengths)])
        parts.append(f"{title}, by the steps of a segment\n\n{table(['rule', *map(str, lengths)], lines)}")
    return "\n\n".join(parts)


TABLES: dict[str, Callable[[Found], str]] = {
    "alignment": alignment,
    "table": sizes,
    "training": training,
    "copying": copying,
    "tradeoff": tradeoff,
}
"""By the name of the part."""


def table(head: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def number(value: float) -> str:
    """Two digits, and all of those before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value >= 0.001 or value == 0 else f"{value:.1e}"
