"""What a check finds, and the error that says so."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax


class Finding(NamedTuple):
    """One figure that a check measured, and the bound it must keep."""

    check: str
    """The property: "adjoint", "mask", "windows" …"""
    case: str
    """Where it was measured."""
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        """Whether the bound is kept; NaN never does."""
        return not math.isnan(self.error) and self.error <= self.bound

    def __str__(self) -> str:
        """One line."""
        return f"{self.check}: {self.case}: {self.error:.1e} {'≤' if self.ok else 'where at most'} {self.bound:.0e}"


class ConformanceError(AssertionError):
    """A claim that does not hold; ``findings`` holds the failures, and the message has a line for each."""

    def __init__(self, subject: str, findings: list[Finding]) -> None:
        self.findings = findings
        lines = [f"  {finding}" for finding in findings]
        super().__init__("\n".join([f"{subject} fails {len(findings)} of its checks", *lines]))


def settle(subject: str, findings: Iterable[Finding]) -> list[Finding]:
    """Every finding, or ``ConformanceError`` if one of them fails, an error raised on the way being the last."""
    found: list[Finding] = []
    raised: Exception | None = None
    try:
        found.extend(findings)
    except Exception as error:
        raised = error
        reason = (str(error).splitlines() or [""])[0]
        found.append(Finding("runs", f"{type(error).__name__}: {reason}", math.inf, 0.0))
    if failures := [finding for finding in found if not finding.ok]:
        raise ConformanceError(subject, failures) from raised
    return found


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """64 bits where asked for, and products in full precision on every device."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield
