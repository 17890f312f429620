"""What becomes of a run that is killed, starved of disk space or damaged, at each moment.

First, char_lm.py is started in a process of its own, a fault is injected (fault_injection.py), and the same command
is repeated, with --resume auto. Then single bits of each file of a stopped run are flipped, and the files are cut and
deleted. The outcome is one of these:

- equal: the run went on, and parameters, optimiser, what the algorithm carries, metrics, test bits and sample are those
  of a run that was never stopped, to the bit;
- refused: it was refused in one line, and every file is as it was;
- WRONG: anything else. The exit status is 1 then.

Examples:
  python experiments/kill_table.py
  python experiments/kill_table.py --quick --algorithms uoro
"""

import contextlib
import dataclasses
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import char_lm
import numpy as np
from tqdm import tqdm

from rnn_jax import checkpoint, experiment
from rnn_jax.checks import InputError, check_int, require
from rnn_jax.gradients import ALGORITHMS

TEXT = "all work and no play makes jack a dull boy. " * 400
STEPS, STOPPED = 120, 70
EQUAL, REFUSED, WRONG = "equal", "refused", "WRONG"
SAVES, FILES = 130, 640
"""How many operations on files a run makes at least, while it saves checkpoints and in all."""
MOMENTS: dict[str, tuple[int, tuple[str, ...], str, tuple[int, int]]] = {
    "SIGKILL at a random time": (12, ("SIGKILL",), "time", (0, 0)),
    "SIGKILL at a random step": (6, ("SIGKILL",), "step", (1, STEPS - 1)),
    "SIGKILL inside a save": (8, ("SIGKILL",), "save", (1, SAVES)),
    "SIGTERM or SIGINT in the first compile": (4, ("SIGTERM", "SIGINT"), "compile", (1, 300)),
    "SIGTERM or SIGINT in an evaluation": (4, ("SIGINT", "SIGTERM"), "evaluation", (1, 40)),
    "SIGTERM or SIGINT inside a save": (4, ("SIGTERM", "SIGINT"), "save", (1, SAVES)),
    "disk full from some write on": (6, ("full",), "file", (1, FILES)),
    "folder deleted": (3, ("delete",), "step", (1, STEPS - 1)),
    "folder deleted, then SIGKILL": (3, ("delete-and-kill",), "step", (1, STEPS - 1)),
}
"""How often (with --quick once), what happens, when, and the range from which the number of the moment is drawn."""
DAMAGES = ("a bit flipped", "cut", "deleted")


@dataclass(frozen=True)
class Config:
    """Which learning rules, how often, and where the table goes."""

    algorithms: tuple[str, ...] = ("bptt", "rtrl", "uoro", "eprop")
    """Learning rules, in turn."""
    times: int = 1
    """How many times as many kills as in the table of the pages, where there are 50."""
    flips: int = 1
    """Flipped bits in each file of a stopped run of each rule, and cuts."""
    seed: int = 0
    """Of the random moments and places."""
    out: Path = Path("kill_table.json")
    """File for the table."""
    quick: bool = False
    """Six kills of one rule, and each file damaged in one way."""


@dataclass(frozen=True)
class Trial:
    """One run that was harmed."""

    what: str
    algorithm: str
    outcome: str
    detail: str


def command(folder: Path, text: Path, algorithm: str) -> list[str]:
    """The flags of char_lm.py, which start the run or go on with it."""
    sizes = {"hidden": 6, "batch": 4, "length": 10, "steps": STEPS, "checkpoint-every": 20, "sample": 20, "devices": 1}
    flags = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    return [*flags, "--algorithm", algorithm, "--text", str(text), "--out", str(folder), "--resume", "auto"]


def watched(plan: Sequence[Any], name: str) -> Any:
    """The items, with a bar on a terminal, and elsewhere with a line a minute."""
    return tqdm(plan, name, mininterval=0.1 if sys.stderr.isatty() else 60, ascii=not sys.stderr.isatty())


def script(name: str, *arguments: str) -> list[str]:
    """A command line for a script beside this one."""
    return [sys.executable, str(Path(__file__).with_name(name)), *arguments]


def result(folder: Path) -> tuple[Any, ...]:
    """All of a finished run that must not depend on how often it was stopped."""
    saved = checkpoint.read(folder / "checkpoint")
    arrays = {name: (array.dtype, array.shape, array.tobytes()) for name, array in saved.arrays.items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    summary = experiment.read_sealed(folder / "summary.json") or {}
    kept = {name: summary.get(name) for name in ("test_bits", "validation_bits", "sample", "steps")}
    return arrays, [{name: value for name, value in line.items() if name != "seconds"} for line in lines], kept


def complaints(process: "subprocess.CompletedProcess[str]") -> str:
    """What a process should not have printed on stderr."""
    known = ("error: ", "warning: ", "interrupted; ")
    return "\n".join(line for line in process.stderr.splitlines() if not line.startswith(known))


def killed_after(wait: float, argv: list[str], folder: Path) -> tuple["subprocess.CompletedProcess[str]", float]:
    """A process killed after some seconds, or after half as many where it had ended by then."""
    while True:
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=wait)
            process.kill()
            _, error = process.communicate()
        if process.returncode:
            return subprocess.CompletedProcess(argv, process.returncode, "", error), wait
        shutil.rmtree(folder)
        wait /= 2


def harm(what: str, number: int, algorithm: str, folder: Path, text: Path, rng: random.Random, seconds: float) -> str:
    """Start a run to which something happens; returns a description, which begins with WRONG where it ended wrongly."""
    _, faults, moment, (low, high) = MOMENTS[what]
    fault, flags = faults[number % len(faults)], command(folder, text, algorithm)
    if moment == "compile":
        flags.append("--no-cache")
    if moment == "time":
        done, wait = killed_after(rng.uniform(0, seconds), script("char_lm.py", *flags), folder)
        place = f"after {wait:.1f} s"
    else:
        at = rng.randint(low, high)
        argv = script("fault_injection.py", fault, moment, str(at), *flags)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False)
        place = f"at {moment} {at}"
    said = f"{fault} {place}: status {done.returncode}"
    killed = -signal.SIGKILL
    expected = {"SIGKILL": (killed,), "SIGTERM": (143,), "SIGINT": (130,), "full": (1, 2), "delete": (0,)}
    expected |= {"delete-and-kill": (killed,)}
    if done.returncode not in expected[fault] or complaints(done):
        return f"{WRONG}: {said}; {complaints(done)[-300:]}"
    return said


def kill(
    config: Config, work: Path, text: Path, references: dict[str, Any], seconds: float, rng: random.Random
) -> list[Trial]:
    """Each moment, in processes of their own."""
    quick = [*list(MOMENTS)[1:5], "disk full from some write on", "folder deleted"]
    plan = quick if config.quick else [what for what, row in MOMENTS.items() for _ in range(row[0] * config.times)]
    trials, seen = [], Counter[str]()
    for index, what in enumerate(watched(plan, "kills")):
        algorithm = config.algorithms[index % len(config.algorithms)]
        folder = work / "killed"
        shutil.rmtree(folder, ignore_errors=True)
        detail = harm(what, seen[what], algorithm, folder, text, rng, seconds)
        seen[what] += 1
        outcome = WRONG
        if not detail.startswith(WRONG):
            again = subprocess.run(
                script("char_lm.py", *command(folder, text, algorithm)), capture_output=True, text=True, check=False
            )
            if again.returncode == 0 and not again.stderr and result(folder) == references[algorithm]:
                outcome = EQUAL
            elif again.returncode == 2 and again.stderr.startswith("error: ") and again.stderr.count("\n") == 1:
                outcome = REFUSED
            else:
                detail += f"; again: status {again.returncode}; {again.stderr[-300:]}"
        trials.append(Trial(what, algorithm, outcome, detail))
    return trials


def contents(folder: Path) -> dict[Path, bytes]:
    """All files of a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def go_on(folder: Path) -> str | None:
    """Go on with a run in this process; what is said if it is refused."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            char_lm.run(char_lm.Config(resume=folder, quiet=True))
        except InputError as error:
            return str(error)
    return None


def damaged(path: Path, how: str, rng: random.Random) -> str:
    """Damage a file; returns where."""
    whole = path.read_bytes()
    if how == "deleted":
        path.unlink()
        return ""
    at = rng.randrange(len(whole)) if whole else 0
    if how == "cut":
        path.write_bytes(whole[:at])
        return f"to {at} of {len(whole)} bytes"
    if whole:
        bit = rng.randrange(8)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        return f"bit {bit} of byte {at}"
    return "an empty file"


def damage(config: Config, work: Path, stopped: dict[str, Path], references: dict[str, Any], rng: random.Random) -> Any:
    """Each file of a stopped run, damaged in each way, in this process."""
    times = {"a bit flipped": config.flips, "cut": config.flips, "deleted": 1}
    plan = [
        (algorithm, file, how)
        for algorithm, folder in stopped.items()
        for index, file in enumerate(sorted(contents(folder)))
        for how in (DAMAGES[index % 3 :][:1] if config.quick else DAMAGES)
        for _ in range(times[how])
    ]
    trials = []
    for algorithm, file, how in watched(plan, "damages"):
        folder = work / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(stopped[algorithm], folder)
        place = damaged(folder / file, how, rng)
        before = contents(folder)
        detail = f"{file} {how} {place}".rstrip()
        try:
            refusal = go_on(folder)
        except Exception as error:
            outcome, refusal = WRONG, f"{type(error).__name__}: {error}"
        else:
            if refusal is None:
                outcome = EQUAL if result(folder) == references[algorithm] else WRONG
            else:
                outcome = REFUSED if "\n" not in refusal and contents(folder) == before else WRONG
        kind = "checkpoint/…" if file.parts[0] == "checkpoint" else file.name
        trials.append(Trial(f"{kind}: {how}", algorithm, outcome, detail + (f"; {refusal}" if refusal else "")))
    return trials


def table(trials: list[Trial]) -> str:
    """The table in Markdown: each moment, and how often each outcome came."""
    counts: dict[str, Counter[str]] = {}
    for trial in trials:
        counts.setdefault(trial.what, Counter())[trial.outcome] += 1
    rows = [f"| {what} | {count[EQUAL]} | {count[REFUSED]} | {count[WRONG]} |" for what, count in counts.items()]
    head = "| what happened | went on, equal to the bit | refused in one line, files as they were | anything else |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def run(config: Config) -> int:
    """Make the table, print it, and write it with all trials; the status is 1 if anything went wrong."""
    unknown = [name for name in config.algorithms if name not in ALGORITHMS]
    require(config.algorithms and not unknown, "algorithms", list(config.algorithms), "names of learning rules")
    for name in ("times", "flips"):
        check_int(getattr(config, name), name)
    if config.quick:
        config = dataclasses.replace(config, algorithms=config.algorithms[:1], flips=1)
    rng, began = random.Random(config.seed), time.perf_counter()
    os.environ["JAX_PLATFORMS"] = "cpu"
    experiment.use_cores()
    with tempfile.TemporaryDirectory() as place:
        work, text = Path(place), Path(place) / "text.txt"
        text.write_text(TEXT)
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")  # compiled programs are kept there
        references, stopped, seconds = {}, {}, 0.0
        for algorithm in watched(config.algorithms, "runs that are not stopped"):
            whole, part = work / f"whole-{algorithm}", work / f"part-{algorithm}"
            started = time.perf_counter()
            subprocess.run(
                script("char_lm.py", *command(whole, text, algorithm)), check=True, capture_output=True, text=True
            )
            seconds = time.perf_counter() - started
            flags = command(part, text, algorithm)
            argv = script("fault_injection.py", "SIGINT", "step", str(STOPPED), *flags)
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            require(done.returncode == 130, "status", done.returncode, f"130; it printed {done.stderr[-300:]!r}")
            references[algorithm], stopped[algorithm] = result(whole), part
        trials = kill(config, work, text, references, seconds, rng)
        trials += damage(config, work, stopped, references, rng)
    shown = table(trials)
    wrong = [trial for trial in trials if trial.outcome == WRONG]
    minutes = (time.perf_counter() - began) / 60
    print(shown)
    print(f"\n{len(trials)} trials with {', '.join(config.algorithms)} in {minutes:.0f} minutes; {len(wrong)} wrong")
    for trial in wrong:
        print(f"{WRONG}: {trial.what}, {trial.algorithm}: {trial.detail}")
    summary = {"table": shown, "minutes": minutes, "machine": experiment.machine(), "numpy": np.__version__}
    experiment.write_json(config.out, {**summary, "trials": [dataclasses.asdict(trial) for trial in trials]})
    return 1 if wrong else 0


if __name__ == "__main__":
    experiment.main(Config, run)
