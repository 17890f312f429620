"""The tables of the README and of ``docs/`` that are generated, each between two marker lines of its page."""

from pathlib import Path

from rnn_jax.cells import CELLS
from rnn_jax.checks import require
from rnn_jax.gradients import ALGORITHMS
from rnn_jax.testing import matrix
from rnn_jax.testing.scenarios import PLAIN, network_of

END = "<!-- end -->"
PAGES = {"registries": "README.md", "conformance matrix": "docs/conformance.md"}
"""The page of each table."""


def begin(name: str) -> str:
    """The line before a table; ``END`` is the one after it."""
    return f"<!-- {name}: python -m rnn_jax.testing --write {PAGES[name]} -->"


def names_in(text: str) -> list[str]:
    """The tables for which a text has both markers."""
    return [name for name in PAGES if begin(name) in text and END in text.split(begin(name))[1]]


def read(text: str, name: str) -> str:
    """A table as it stands in a text."""
    return text.split(begin(name))[1].split(END)[0].strip("\n") + "\n"


def write(path: Path, tables: dict[str, str]) -> None:
    """Put tables between their markers in a file."""
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        before, rest = text.split(begin(name))
        text = f"{before}{begin(name)}\n{table}{END}{rest.split(END, 1)[1]}"
    path.write_text(text, encoding="utf-8")


def require_names(text: str) -> list[str]:
    """The tables of a text, one at least."""
    names = names_in(text)
    require(len(names) > 0, "file", "a text without markers", f"one with {begin('registries')} and {END}, or the like")
    return names


def registries() -> str:
    """Every algorithm with its claim, and every cell by its recurrence."""
    lines = ["| algorithm | claim | what it is |", "|---|---|---|"]
    for name, algorithm in ALGORITHMS.items():
        claim = type(algorithm(network_of(CELLS["elman"], PLAIN)).claim).__name__
        lines.append(f"| `{name}` | {claim} | {_first_sentence(algorithm)} |")
    lines += ["", "| recurrence | cells |", "|---|---|"]
    for recurrence, product in (("dense", "h W"), ("diagonal", "w ⊙ h"), ("none", "")):
        names = [f"`{name}`" for name, cell in CELLS.items() if cell.recurrence == recurrence]
        lines.append(f"| {recurrence}{', ' * bool(product)}{product} | {', '.join(names)} |")
    return "\n".join([*lines, ""])


def conformance_matrix() -> tuple[str, bool]:
    """The matrix as a table, and whether every claim holds."""
    from tqdm import tqdm

    found: list[matrix.Entry] = []
    with tqdm(total=len(list(matrix.pairs())), unit="pair", desc="conformance matrix") as bar:
        for entry in matrix.entries():
            found.append(entry)
            bar.n = len({(each.algorithm, each.cell) for each in found})
            bar.set_postfix_str(f"{entry.algorithm}, {entry.cell}")
    return matrix.markdown(found), all(entry.contract.ok and entry.claimed.ok for entry in found)


def _first_sentence(function: object) -> str:
    return (function.__doc__ or "").split(".  ")[0].split("\n")[0].rstrip(".")
