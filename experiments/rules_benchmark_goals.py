"""What each learning rule's time is held to: its floor, bptt, another form of the rule, or another library's rule."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from rivals import BRAINTRACE, RIVALS, VANILLA
from rules_benchmark_programs import BASES, PROGRAMS, UPDATED, UPDATED_BUFFERED, Size

Row = dict[str, Any]
"""What was measured of one program at one size."""
FLOOR, M = "its floor", "M"
LARGE = (64, 128)


class Goal(NamedTuple):
    """A bound on a ratio of two figures."""

    program: str
    against: tuple[str, ...]
    """Its floor, or M (of temporaries), or programs and rivals, of which the fastest counts."""
    limit: float
    faster: bool
    """True: at least ``limit`` times faster; False: at most ``limit`` times as long, or as large."""
    n: tuple[int, ...] | None = None
    """The sizes that it holds at; None: all."""
    B: tuple[int, ...] | None = None
    name: str = ""
    """What it is compared with; empty: ``against``."""

    def holds_at(self, size: Size) -> bool:
        """Whether the goal is one of this size."""
        return (self.n is None or size.n in self.n) and (self.B is None or size.B in self.B)

    def words(self) -> str:
        """The bound."""
        against = self.name or " or ".join(self.against)
        where = [f"{axis} = {', '.join(map(str, of))}" for axis, of in (("n", self.n), ("B", self.B)) if of]
        bound = f"≥ {self.limit:g} × faster than {against}" if self.faster else f"≤ {self.limit:g} × {against}"
        return bound + (f" ({'; '.join(where)})" if where else "")


def rivals(rule: str, library: str | None = None) -> tuple[str, ...]:
    """The names of a rule's rivals."""
    return tuple(name for name, rival in RIVALS.items() if rival.rule == rule and library in (rival.library, None))


def _of_segments(program: str) -> list[Goal]:
    every = rivals("rtrl")
    return [
        Goal(program, every, 20, True, n=(64,), name="every rival"),
        Goal(program, every, 38, True, n=(128,), name="every rival"),
        Goal(program, (FLOOR,), 1.7, False, n=LARGE),
        Goal(program, (M,), 1.3, False, n=LARGE, B=(16,), name="M of temporaries"),
    ]


def _of_bptt(limit: float, *names: str) -> list[Goal]:
    return [Goal(name, (BASES[PROGRAMS[name].cell],), limit, False) for name in names]


STEPS, KF = "rtrl, step by step", "kf_rtrl, step by step"
GOALS = [
    Goal(STEPS, (FLOOR,), 1.25, False, n=LARGE, B=(1,)),
    Goal(STEPS, (FLOOR,), 1.6, False, n=LARGE, B=(16,)),
    Goal(STEPS, rivals("rtrl"), 1.5, True, B=(1,), name="every rival"),
    Goal(STEPS, rivals("rtrl"), 2.3, True, B=(16,), name="every rival"),
    *_of_segments("rtrl, segments of 50"),
    *_of_segments("rtrl, segments of 100"),
    Goal(UPDATED_BUFFERED, (UPDATED,), 5, True, n=(64,)),
    Goal(UPDATED_BUFFERED, (UPDATED,), 10, True, n=(128,)),
    *_of_bptt(2, "snap", "rflo", "eprop"),
    Goal("snap", rivals("snap"), 3.5, True, name=BRAINTRACE),
    Goal("eprop", rivals("eprop"), 1.6, True, name=BRAINTRACE),
    *_of_bptt(2.5, "snap, inside full", "eprop, inside full"),
    *_of_bptt(3, "uoro"),
    Goal("uoro", rivals("uoro", BRAINTRACE), 5.5, True, name=BRAINTRACE),
    Goal("uoro", rivals("uoro", VANILLA), 20, True, B=(1,), name=VANILLA),
    Goal(KF, (FLOOR,), 1.8, False, n=(64,), name="its product"),
    Goal(KF, (FLOOR,), 1.4, False, n=(128,), name="its product"),
    Goal(KF, rivals("kf_rtrl", VANILLA), 7, True, B=(1,), name=VANILLA),
    Goal("kf_rtrl, segments of 16", (KF,), 1, True),
    *_of_bptt(2, "snap, indrnn", "snap, rtu"),
]
"""Those of rivals name the fastest one; at sizes where none runs there is nothing to compare."""


class Outcome(NamedTuple):
    """A goal against what was measured."""

    goal: Goal
    ratios: Mapping[Size, float | None]
    """At each size that the goal holds at; None: there was nothing to compare with."""

    @property
    def distance(self) -> float:
        """How many times the worst size is off; at most 1: the goal is met."""
        known = [ratio for ratio in self.ratios.values() if ratio is not None]
        off = [self.goal.limit / ratio if self.goal.faster else ratio / self.goal.limit for ratio in known]
        return max(off, default=float("nan"))

    @property
    def verdict(self) -> str:
        """Met, not met, or not measured."""
        return {True: "met", False: "not met"}[self.distance <= 1] if self.distance == self.distance else "not measured"


def outcomes(rows: list[Row]) -> list[Outcome]:
    """Every goal whose program was measured."""
    measured: dict[Size, dict[str, Row]] = {}
    for row in rows:
        if "microseconds" in row:
            measured.setdefault(Size(row["n"], row["B"]), {})[row["program"]] = row
    found = []
    for goal in GOALS:
        here = {size: by_name for size, by_name in measured.items() if goal.holds_at(size) and goal.program in by_name}
        if here:
            found.append(Outcome(goal, {size: _ratio(goal, by_name) for size, by_name in here.items()}))
    return found


def _ratio(goal: Goal, by_name: dict[str, Row]) -> float | None:
    ours = by_name[goal.program]
    if goal.against == (FLOOR,):
        return ours["microseconds"] / ours["floor"]
    if goal.against == (M,):
        return ours["temporaries"] / ours["memory"]
    others = [by_name[name]["microseconds"] for name in goal.against if name in by_name]
    if not others:
        return None
    return min(others) / ours["microseconds"] if goal.faster else ours["microseconds"] / min(others)
