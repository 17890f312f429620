"""What a check measures, and the error that reports what fails."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax


class Result(NamedTuple):
    """One property, measured: its error and the tolerance.

    Examples:
      >>> import rnn_jax as rj
      >>> print(rj.testing.Result("gradient", "W, lstm", error=4e-16, tolerance=1e-12))
      gradient: W, lstm: 4.0e-16 ≤ 1e-12
    """

    check: str
    """The property: "adjoint", "loss", "gradient" …"""
    case: str
    """Where it was measured."""
    error: float
    tolerance: float
    remedy: str = ""
    """What to do where it fails, if that does not follow from the rest."""

    @property
    def ok(self) -> bool:
        """Whether the error is within the tolerance; NaN never is."""
        return not math.isnan(self.error) and self.error <= self.tolerance

    def __str__(self) -> str:
        """One line; a property that holds or does not has no figures."""
        if self.tolerance == 0 and self.error in (0, math.inf):
            return f"{self.check}: {self.case}: {'ok' if self.ok else 'FAILS'}"
        line = f"{self.check}: {self.case}: {self.error:.1e} {'≤' if self.ok else '> tolerance'} {self.tolerance:.0e}"
        return line if self.ok or not self.remedy else f"{line}; {self.remedy}"


def holds(check: str, case: str, condition: object) -> Result:
    """The result of a property that holds or does not."""
    return Result(check, case, 0.0 if condition else math.inf, 0.0)


class ConformanceError(AssertionError):
    """A claim that does not hold; ``failures`` are the results that fail, and the message has a line for each.

    Examples:
      >>> import rnn_jax as rj
      >>> failed = rj.testing.Result("gradient", "W, lstm", error=0.5, tolerance=1e-12)
      >>> raise rj.testing.ConformanceError("algorithm", [failed])
      Traceback (most recent call last):
      ...
      rnn_jax.testing.report.ConformanceError: algorithm fails 1 of its checks
        gradient: W, lstm: 5.0e-01 > tolerance 1e-12
    """

    def __init__(self, subject: str, failures: list[Result]) -> None:
        self.failures = failures
        lines = [f"  {result}" for result in failures]
        super().__init__("\n".join([f"{subject} fails {len(failures)} of its checks", *lines]))


def raise_on_failure(subject: str, results: Iterable[Result]) -> list[Result]:
    """All results, or ``ConformanceError`` if one fails; an exception while measuring counts as the last failure."""
    measured: list[Result] = []
    raised: Exception | None = None
    try:
        measured.extend(results)
    except Exception as error:
        raised = error
        reason = (str(error).splitlines() or [""])[0]
        measured.append(holds("runs", f"{type(error).__name__}: {reason}", False))
    if failures := [result for result in measured if not result.ok]:
        raise ConformanceError(subject, failures) from raised
    return measured


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Float64 where asked for, and matrix products in full precision on every device."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield
