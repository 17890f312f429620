"""The conformance matrix: for every algorithm and cell, the error of what the algorithm claims of its gradient."""

from collections.abc import Iterator
from typing import NamedTuple

import jax

from rnn_jax.cells import CELLS
from rnn_jax.diagnostics import nan_largest
from rnn_jax.gradients import ALGORITHMS
from rnn_jax.testing import claims
from rnn_jax.testing.algorithm import scenario_results
from rnn_jax.testing.fixtures import TOLERANCE, make_network
from rnn_jax.testing.report import Result, exact_arithmetic
from rnn_jax.testing.scenarios import (
    BFLOAT16,
    DEEP,
    EVERYTHING,
    FLOAT32,
    PLAIN,
    Factory,
    Scenario,
    built,
    network_of,
    supports,
)
from rnn_jax.types import Biased, Cell, Exact, Unbiased

THIRDS = (13, 13, 13)
TABLES = {
    "One layer, float64": EVERYTHING._replace(windows=THIRDS),
    "Three layers, float64 (two, where outcomes are listed)": DEEP._replace(windows=THIRDS),
    "One layer, float32, exact algorithms": FLOAT32,
    "One layer, bfloat16, exact algorithms": BFLOAT16,
}
"""The tables of the matrix, each with the sequence that it is measured on; windows of one length are compiled once."""


class Entry(NamedTuple):
    """What was measured of one algorithm with one cell."""

    algorithm: str
    cell: str
    table: str
    claim: str
    """Exact, Unbiased or Biased: it may depend on the cell and the depth."""
    contract: Result
    """The worst of loss, weight, recurrent state and readout."""
    claimed: Result
    """What the claim says: the gradient, its mean over all outcomes, or the gradient in the claim's limit."""


def pairs() -> Iterator[tuple[str, str]]:
    """The names of each algorithm and of each cell that it supports; ``autodiff`` is the reference and has none."""
    for name, algorithm in ALGORITHMS.items():
        for cell_name, cell in CELLS.items():
            if name != "autodiff" and supports(algorithm, network_of(cell, PLAIN)):
                yield name, cell_name


def entries() -> Iterator[Entry]:
    """The matrix, entry by entry, a cell at a time: the references of a cell serve all algorithms."""
    each = list(pairs())
    for cell_name, cell in CELLS.items():
        for name in (name for name, supported in each if supported == cell_name):
            for table, scenario in TABLES.items():
                with exact_arithmetic():
                    measured = _measured(ALGORITHMS[name], cell, scenario)
                if measured is not None:
                    yield Entry(name, cell_name, table, *measured)
        jax.clear_caches()  # the programs of a cell would fill the memory


def _measured(algorithm: Factory, cell: Cell, scenario: Scenario) -> tuple[str, Result, Result] | None:
    """The claim, the worst result of the contract and the claim's; None where there is nothing to measure."""
    network = network_of(cell, scenario)
    if not supports(algorithm, network):
        return None
    claim = built(algorithm, network).claim
    if scenario.dtype != "float64" and not isinstance(claim, Exact):
        return None
    results = list(scenario_results(algorithm, None, cell, scenario))
    contract = _worst([result for result in results if result.check != "gradient"])
    if isinstance(claim, Unbiased):
        small = make_network(cell, min(scenario.depth, 2), inputs=2, hidden=2, outputs=2)
        results.append(claims.mean_of_outcomes(algorithm, small, claim, everything=True))
    if isinstance(claim, Biased):
        results.append(claims.limit(algorithm, claim, network, scenario))
    return type(claim).__name__, contract, results[-1]


def _worst(results: list[Result]) -> Result:
    return max(results, key=lambda result: nan_largest(result.error))


def markdown(found: list[Entry]) -> str:
    """The matrix as tables, with what it was measured on."""
    where = f"jax {jax.__version__}, {jax.devices()[0].device_kind}, matmul precision highest"
    parts = [_table(title, [entry for entry in found if entry.table == title]) for title in TABLES]
    return "\n".join([*parts, f"Worst leaf, ‖g − ref‖ / ‖ref‖ ({where}).", ""])


def _table(title: str, found: list[Entry]) -> str:
    """A row for each algorithm, a column for each cell, and in the last one the worst of the contract."""
    head = ["algorithm", "claim", *CELLS, "contract"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name in ALGORITHMS:
        row = {entry.cell: entry for entry in found if entry.algorithm == name}
        if row:
            usual = next(iter(row.values())).claim
            errors = [_text(row[cell].claimed, row[cell].claim != usual) if cell in row else "–" for cell in CELLS]
            contract = _text(_worst([entry.contract for entry in row.values()]))
            lines.append(f"| {' | '.join([name, usual, *errors, contract])} |")
    tolerance = TOLERANCE[TABLES[title].dtype]
    return "\n".join([f"{title}; tolerance {tolerance:.0e}:", "", *lines, ""])


def _text(result: Result, bold: bool = False) -> str:
    mark = "**" if bold else ""
    return f"{mark}{result.error:.0e}{mark}" + ("" if result.ok else " ✗")
