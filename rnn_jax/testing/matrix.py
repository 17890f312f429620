"""The conformance matrix: the worst error of every algorithm, cell and dtype, feature by feature."""

from collections.abc import Iterator
from pathlib import Path

import jax

from rnn_jax.checks import require
from rnn_jax.gradients import ALGORITHMS
from rnn_jax.testing.algorithm import FEATURES, measure
from rnn_jax.testing.cases import CELLS, TOLERANCE
from rnn_jax.testing.findings import Finding, exact_arithmetic
from rnn_jax.types import Exact

BEGIN, END = "<!-- conformance matrix: python -m rnn_jax.testing --write README.md -->", "<!-- end -->"

Row = tuple[str, str, str, list[Finding]]


def rows() -> Iterator[Row]:
    """``(algorithm, cell, dtype, findings)``, a finding for each feature."""
    for name, algorithm in ALGORITHMS.items():
        if name == "autodiff":  # the reference itself
            continue
        for cell_name, cell in CELLS.items():
            for dtype in TOLERANCE:
                with exact_arithmetic():
                    cases = [case._replace(dtype=dtype) for case in FEATURES]
                    yield name, cell_name, dtype, [measure(algorithm, Exact(), cell, case) for case in cases]


def markdown(found: list[Row]) -> str:
    """The matrix as a table, with what it was measured on."""
    head = ["algorithm", "cell", "dtype", *(case.name for case in FEATURES), "may be"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, cell, dtype, findings in found:
        errors = [f"{finding.error:.0e}" + ("" if finding.ok else " ✗") for finding in findings]
        lines.append(f"| {' | '.join([name, cell, dtype, *errors, f'{TOLERANCE[dtype]:.0e}'])} |")
    where = f"jax {jax.__version__}, {jax.devices()[0].device_kind}, matmul precision highest"
    return "\n".join([*lines, "", f"Worst leaf, ‖g − ref‖ / ‖ref‖ ({where}).", ""])


def write(path: Path, table: str) -> None:
    """Put the matrix between its markers in a file."""
    before, after = split(path.read_text())
    path.write_text(f"{before}{BEGIN}\n{table}{END}{after}")


def split(text: str) -> tuple[str, str]:
    """What stands before and after the matrix."""
    require(
        BEGIN in text and END in text.split(BEGIN)[1], "file", "a text without markers", f"one with {BEGIN} and {END}"
    )
    before, rest = text.split(BEGIN)
    return before, rest.split(END, 1)[1]
