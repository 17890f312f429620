"""Is what this algorithm claims of its gradient true?"""

from collections.abc import Iterator, Mapping, Sequence

from rnn_jax.cells import CELLS
from rnn_jax.checks import describe, require
from rnn_jax.testing import claims, contract
from rnn_jax.testing.report import Result, exact_arithmetic, holds, raise_on_failure
from rnn_jax.testing.scenarios import (
    JOINT,
    SEPARATE,
    Factory,
    Scenario,
    inputs_of,
    network_of,
    reference,
    run,
    supports,
)
from rnn_jax.types import Biased, Cell, Claim, Exact, Unbiased


def check_algorithm(
    algorithm: Factory, claim: Claim | None = None, cells: Mapping[str, Cell] | Sequence[Cell] = tuple(CELLS.values())
) -> list[Result]:
    """Prove an algorithm: that it keeps the contract, and just what it claims of its gradient.

    The contract, for any claim: structure, shapes and dtypes are kept; loss, weight and recurrent state equal the
    reference's after each window, and so does the readout's gradient, unless the claim says otherwise; a masked step
    leaves everything as it is, whatever stands in it; a reset cuts off all memory; rows are independent where nothing
    is shared, and have keys of their own; a batch split in two gives the same sums, and the same ``shared`` in both
    halves; NaN surfaces; one trace; and, tried with the first cell only, sums are wide, and results are the same under
    ``vmap``, without ``jit``, and with None for a mask, reset or weight that says nothing.

    Exact: equal to autodiff, in windows of any length, 1 included, in three layers, in three dtypes, whatever the
    padding.  Unbiased: the mean over every outcome of the randomness is exact, and over 4096 keys no element is further
    off than chance allows once in a million tests.  Biased: exact in the stated limit, by the same factory with the
    limit's settings, and not elsewhere.  Masks, resets, weights and the carry are part of every claim; features are
    tried together, and one by one only after a failure.

    Args:
      algorithm: ``bptt``, or any function from a network to an ``Algorithm``; the settings of a claim's limit or
        outcomes are given to it by name.  Where it raises ``InputError`` for a cell or a depth, that case is left out;
        one cell must remain.
      claim: what to test; by default, what it declares itself.
      cells: the cells to try, by name or in a row.

    Returns:
      All results.

    Raises:
      ConformanceError: what fails, with the case, the worst leaf and the size; an algorithm that raises fails with
        that error.
      InputError: no function, a claim that is none, or cells that are none.
    """
    require(
        callable(algorithm), "algorithm", describe(algorithm), "a function from a Network to an Algorithm, like bptt"
    )
    require(claim is None or isinstance(claim, Exact | Unbiased | Biased), "claim", describe(claim), "a Claim or None")
    cells = tuple(cells.values()) if isinstance(cells, Mapping) else cells
    listed = isinstance(cells, Sequence) and len(cells) > 0 and all(isinstance(cell, Cell) for cell in cells)
    require(listed, "cells", describe(cells), "cells, one or more, like (elman(), lstm())")
    with exact_arithmetic():
        name = getattr(algorithm, "__name__", "algorithm")
        return raise_on_failure(name, algorithm_results(algorithm, claim, cells))


def algorithm_results(algorithm: Factory, claim: Claim | None, cells: Sequence[Cell]) -> Iterator[Result]:
    """The results of ``check_algorithm``, one by one; the first failure of structure ends them."""
    supported = [cell for cell in cells if supports(algorithm, network_of(cell, JOINT[0]))]
    yield holds("supports", "one of the cells at least", supported)
    for result in contract.structure(algorithm, supported[0]) if supported else ():
        yield result
        if not result.ok:
            return
    for number, cell in enumerate(supported):
        tried: set[str] = set()
        for scenario in JOINT:
            together = list(scenario_results(algorithm, claim, cell, scenario))
            yield from together
            if scenario.dtype not in tried and not all(result.ok for result in together):
                tried.add(scenario.dtype)
                for alone in SEPARATE:
                    yield from scenario_results(algorithm, claim, cell, alone._replace(dtype=scenario.dtype))
        yield from cell_results(algorithm, claim, cell, slow=number == 0)


def scenario_results(algorithm: Factory, claim: Claim | None, cell: Cell, scenario: Scenario) -> Iterator[Result]:
    """One sequence, compared with the reference; nothing where the algorithm does not support its network."""
    network = network_of(cell, scenario)
    if not supports(algorithm, network):
        return
    built, where = algorithm(network), f"{cell.name}, {scenario}"
    measured = run(built, *inputs_of(network, scenario), scenario.windows)
    claimed = claim or built.claim
    yield from contract.agreement(measured, reference(network, scenario), claimed, scenario, where)
    if isinstance(claimed, Exact):
        yield claims.exact(measured, claimed, network, scenario, where)


def cell_results(algorithm: Factory, claim: Claim | None, cell: Cell, slow: bool) -> Iterator[Result]:
    """The laws of the contract and those of the claim, for one cell; ``slow``: those that hardly depend on the cell."""
    for depth in (1, 2) if slow else (1,):
        network = contract.trial_network(cell, depth)
        if supports(algorithm, network):
            each = contract.trial(algorithm, network)
            claimed = claim or each.algorithm.claim
            yield from contract.laws(each)
            if slow and depth == 1:
                yield from contract.slow_laws(algorithm, each, claimed)
            if isinstance(claimed, Exact):
                yield from claims.exact_laws(each)
    yield from claims.unbiased(algorithm, claim, cell)
    yield from claims.biased(algorithm, claim, cell)
