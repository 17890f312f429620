"""The conformance matrix: for every algorithm and cell, the largest error of what its claim says."""

from collections.abc import Iterator

import jax

from rnn_jax.cells import CELLS
from rnn_jax.diagnostics import nan_largest
from rnn_jax.gradients import ALGORITHMS
from rnn_jax.testing import claims
from rnn_jax.testing.algorithm import scenario_results
from rnn_jax.testing.report import Result, exact_arithmetic
from rnn_jax.testing.scenarios import JOINT, PLAIN, Factory, network_of, supports
from rnn_jax.types import Cell

COLUMNS = (
    "loss, weight, state, readout",
    "exact, float64",
    "exact, float32",
    "exact, bfloat16",
    "unbiased: mean of all outcomes",
    "unbiased: largest \\|z\\| over keys",
    "biased: in its limit",
)
Row = tuple[str, str, str, dict[str, Result]]
"""Algorithm, claim, cell, and the worst result of each column that the claim has."""


def pairs() -> Iterator[tuple[str, str]]:
    """The names of each algorithm and of each cell that it supports; ``autodiff`` is the reference and has none."""
    for name, algorithm in ALGORITHMS.items():
        for cell_name, cell in CELLS.items():
            if name != "autodiff" and supports(algorithm, network_of(cell, PLAIN)):
                yield name, cell_name


def rows() -> Iterator[Row]:
    """A row for each pair."""
    for name, cell_name in pairs():
        algorithm, cell = ALGORITHMS[name], CELLS[cell_name]
        claim = algorithm(network_of(cell, PLAIN)).claim
        with exact_arithmetic():
            results = _results(algorithm, cell)
        worst = {
            column: max(each, key=lambda result: nan_largest(result.error)) for column, each in results.items() if each
        }
        yield name, type(claim).__name__, cell_name, worst


def _results(algorithm: Factory, cell: Cell) -> dict[str, list[Result]]:
    """All results of each column."""
    results: dict[str, list[Result]] = {column: [] for column in COLUMNS}
    for scenario in JOINT:
        for result in scenario_results(algorithm, None, cell, scenario):
            if result.check == "gradient":
                results[f"exact, {scenario.dtype}"].append(result)
            elif scenario.dtype == "float64":
                results[COLUMNS[0]].append(result)
    for result in (*claims.unbiased(algorithm, None, cell), *claims.biased(algorithm, None, cell)):
        columns = {"mean of all outcomes": COLUMNS[4], "mean over keys": COLUMNS[5], "exact in its limit": COLUMNS[6]}
        if result.check in columns:
            results[columns[result.check]].append(result)
    return results


def markdown(found: list[Row]) -> str:
    """The matrix as a table, with what it was measured on."""
    columns = [name for name in COLUMNS if any(name in results for *_, results in found)]
    head = ["algorithm", "claim", "cell", *columns]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, claim, cell, results in found:
        errors = [
            f"{results[column].error:.0e}" + ("" if results[column].ok else " ✗") if column in results else "–"
            for column in columns
        ]
        lines.append(f"| {' | '.join([name, claim, cell, *errors])} |")
    tolerances = [next(results[name].tolerance for *_, results in found if name in results) for name in columns]
    lines.append(f"| tolerance | | | {' | '.join(f'{each:.0e}' for each in tolerances)} |")
    where = f"jax {jax.__version__}, {jax.devices()[0].device_kind}, matmul precision highest"
    return "\n".join([*lines, "", f"Worst leaf and sequence, ‖g − ref‖ / ‖ref‖ ({where}).", ""])
