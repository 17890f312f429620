"""Does an algorithm keep the contract, and is its claim about its gradient true?"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from rnn_jax.cells import CELLS
from rnn_jax.checks import describe, require
from rnn_jax.testing import claims, contract
from rnn_jax.testing.report import Result, exact_arithmetic, holds, raise_on_failure
from rnn_jax.testing.scenarios import (
    JOINT,
    SEPARATE,
    Factory,
    Scenario,
    built,
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
    """Prove an algorithm: it keeps the contract, and its claim about its gradient holds.

    The contract is the same for every claim:

    - Structure, shapes and dtypes are kept.
    - Loss, weight and recurrent state equal the reference's after each window.  So does the readout's gradient, unless
      the claim says otherwise.
    - A masked step changes nothing, whatever it contains.  A reset cuts off all memory.
    - Rows are independent where nothing is shared, and have keys of their own.
    - A batch split in two gives the same sums, and the same ``shared`` in both halves.
    - NaN surfaces, and the update is traced once.
    - With the first cell only: sums are in float32 at least; results are the same under ``vmap``, without ``jit``, and
      with None for a mask, reset or weight that changes nothing.

    The claim is then tested.  Masks, resets, weights and the carry are part of each:

    - Exact: the gradient equals autodiff's in windows of any length, in three layers and in three dtypes, and for any
      padding.
    - Unbiased: the mean over all outcomes of the randomness is exact.  Over 4096 keys, no element is further off than
      chance allows once in a million tests.
    - Biased: the gradient is exact in the stated limit, by the same factory with the limit's settings, and only
      there.

    Features are tested together, and one by one only after a failure.

    Choose it for every new learning rule.  ``bptt`` with one Elman cell takes about 40 s of CPU time, most of it for
    compiling.

    Args:
      algorithm: ``bptt``, or any function from a network to an ``Algorithm``.  The settings of a claim's limit or
        outcomes are passed to it by name.  A cell or a depth for which it raises ``InputError`` is left out; one cell
        must remain.
      claim: what to test; the default is the algorithm's own claim.
      cells: the cells to test, in a dict by name or in a sequence.

    Returns:
      All results.

    Raises:
      ConformanceError: the checks that fail, each with the case, the worst leaf and the error.  An algorithm that
        raises an error fails with that error.
      InputError: no function, no claim, or no cells.

    Examples:
      >>> import rnn_jax as rj
      >>> rj.testing.check_algorithm(lambda network: rj.bptt, cells=[rj.elman()])
      Traceback (most recent call last):
      ...
      rnn_jax.testing.report.ConformanceError: <lambda> fails 1 of its checks
        structure: an Algorithm, not of type function: FAILS
    """
    require(
        callable(algorithm), "algorithm", describe(algorithm), "a function from a Network to an Algorithm, like bptt"
    )
    require(claim is None or isinstance(claim, Exact | Unbiased | Biased), "claim", describe(claim), "a Claim or None")
    cells = tuple(cells.values()) if isinstance(cells, Mapping) else cells
    listed = isinstance(cells, Sequence) and not isinstance(cells, Cell) and len(cells) > 0
    require(listed, "cells", describe(cells), "cells, one or more, like (elman(), lstm())")
    for index, cell in enumerate(cells):
        require(isinstance(cell, Cell), f"cells[{index}]", describe(cell), "a Cell, like elman()")
    with exact_arithmetic():
        name = getattr(algorithm, "__name__", "algorithm")
        return raise_on_failure(name, algorithm_results(partial(algorithm), claim, cells))


def algorithm_results(algorithm: Factory, claim: Claim | None, cells: Sequence[Cell]) -> Iterator[Result]:
    """The results of ``check_algorithm``, one by one; the first failure of structure ends them."""
    supported = [cell for cell in cells if supports(algorithm, network_of(cell, JOINT[0]))]
    left_out = ", ".join(cell.name for cell in cells if cell not in supported) or "none"
    yield holds("supports", f"one of the cells at least; left out: {left_out}", supported)
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
    where = f"{cell.name}, {scenario}"
    measured = run(built(algorithm, network), *inputs_of(network, scenario), scenario.windows)
    claimed = claim or built(algorithm, network).claim
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
