"""What becomes of a run that is killed, starved of disk space or damaged, at each moment.

First, char_lm.py is started in a process of its own, a fault is injected (fault_injection.py), and the same command
is repeated, with --resume auto. Then single bits are flipped in each file of runs that were stopped or are finished,
and the files are cut and deleted. The outcome is one of these:

- equal: the run went on, and parameters, optimiser, what the algorithm carries, metrics, test bits and sample are those
  of a run that was never stopped, to the bit, and no file is missing;
- refused: it was refused in one line, and every file is as it was;
- WRONG: anything else. The exit status is 1 then.

Examples:
  python experiments/kill_table.py
  python experiments/kill_table.py --out runs/kills --resume auto
  python experiments/kill_table.py --quick --algorithms uoro
"""

import contextlib
import dataclasses
import functools
import io
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
    """Multiplies the number of kills, 50."""
    flips: int = 1
    """Flipped bits in each file of a run, and cuts."""
    seed: int = 0
    """Of the random moments and places."""
    out: Path | None = None
    """Run folder; by default runs/kill_table/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    quick: bool = False
    """Six kills of one rule, and each file of a stopped run damaged in one way."""


@dataclass(frozen=True)
class Trial:
    """One run that was harmed."""

    what: str
    algorithm: str
    outcome: str
    detail: str


class Kind(NamedTuple):
    """A kind of run whose files are damaged."""

    algorithm: str
    finished: bool = False
    seeds: int = 1

    def __str__(self) -> str:
        """As the table says it."""
        return ("finished run" if self.finished else "stopped run") + (f" of {self.seeds} seeds" * (self.seeds > 1))


def command(folder: Path, text: Path, algorithm: str, seeds: int = 1) -> list[str]:
    """The flags of char_lm.py, which start the run or go on with it."""
    sizes = {"hidden": 6, "batch": 4, "length": 10, "steps": STEPS, "checkpoint-every": 20, "sample": 20, "devices": 1}
    flags = [part for name, value in (sizes | {"seeds": seeds}).items() for part in (f"--{name}", str(value))]
    return [*flags, "--algorithm", algorithm, "--text", str(text), "--out", str(folder), "--resume", "auto"]


def watched(plan: Sequence[Any], name: str) -> Any:
    """The items, with a bar on a terminal, and elsewhere with a line a minute."""
    return tqdm(plan, name, mininterval=0.1 if sys.stderr.isatty() else 60, ascii=not sys.stderr.isatty())


def script(name: str, *arguments: str) -> list[str]:
    """A command line for a script beside this one."""
    return [sys.executable, str(Path(__file__).with_name(name)), *arguments]


class Unharmed:
    """Runs that are not harmed, made when they are first asked for, as a table that goes on may need none.

    Args:
      work: a folder for them, and for the text.
    """

    def __init__(self, work: Path) -> None:
        self.work, self.text = work, work / "text.txt"
        self.text.write_text(TEXT)
        self.whole, self.stopped = functools.cache(self._whole), functools.cache(self._stopped)
        self.result = functools.cache(lambda algorithm, seeds=1: result(self.whole(algorithm, seeds)[0]))

    def _whole(self, algorithm: str, seeds: int = 1) -> tuple[Path, float]:
        """The folder of a finished run, and its seconds."""
        folder, began = self.work / f"whole-{algorithm}-{seeds}", time.perf_counter()
        argv = script("char_lm.py", *command(folder, self.text, algorithm, seeds))
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        require(done.returncode == 0, "status", done.returncode, f"0; it printed {done.stderr[-300:]!r}")
        return folder, time.perf_counter() - began

    def _stopped(self, algorithm: str, seeds: int = 1) -> Path:
        """The folder of a run that was stopped by Ctrl-C."""
        folder = self.work / f"stopped-{algorithm}-{seeds}"
        flags = command(folder, self.text, algorithm, seeds)
        argv = script("fault_injection.py", "SIGINT", "step", str(STOPPED), *flags)
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        require(done.returncode == 130, "status", done.returncode, f"130; it printed {done.stderr[-300:]!r}")
        return folder


def result(folder: Path) -> dict[str, Any]:
    """All of a finished run that must not depend on how often it was stopped; of several seeds, that of each."""
    summary = experiment.read_sealed(folder / "summary.json") or {}
    found: dict[str, Any] = {name: summary.get(name) for name in ("test_bits", "validation_bits", "sample", "steps")}
    found["files"] = {path for path in contents(folder) if "checkpoint" not in path.parts}
    if seeds := sorted(folder.glob("seed-*")):
        return found | {path.name: result(path) for path in seeds}
    arrays = checkpoint.read(folder / "checkpoint").arrays
    found["arrays"] = {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found["lines"] = [{name: value for name, value in line.items() if name != "seconds"} for line in lines]
    return found


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


def kill(what: str, number: int, algorithm: str, unharmed: Unharmed, rng: random.Random) -> list[Trial]:
    """One moment, in processes of their own."""
    folder, text = unharmed.work / "killed", unharmed.text
    shutil.rmtree(folder, ignore_errors=True)
    expected, (_, seconds) = unharmed.result(algorithm), unharmed.whole(algorithm)
    detail, outcome = harm(what, number, algorithm, folder, text, rng, seconds), WRONG
    if not detail.startswith(WRONG):
        before = contents(folder)
        argv = script("char_lm.py", *command(folder, text, algorithm))
        again = subprocess.run(argv, capture_output=True, text=True, check=False)
        if again.returncode == 0 and not again.stderr and result(folder) == expected:
            outcome = EQUAL
        elif again.returncode == 2 and re.fullmatch("error: .*\n", again.stderr) and contents(folder) == before:
            outcome = REFUSED
        else:
            detail += f"; again: status {again.returncode}; {again.stderr[-300:]}"
    return [Trial(what, algorithm, outcome, detail)]


def contents(folder: Path) -> dict[Path, bytes]:
    """All files of a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def go_on(folder: Path) -> str | None:
    """Go on with a run in this process; what is said if it is refused."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
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


def damage(kind: Kind, how: str, config: Config, unharmed: Unharmed, rng: random.Random) -> list[Trial]:
    """Each file of a run, damaged in one way, in this process; of two seeds, those of the second and of both."""
    algorithm, finished, seeds = kind
    whole = unharmed.whole(algorithm, seeds)[0] if finished else unharmed.stopped(algorithm, seeds)
    expected, folder = unharmed.result(algorithm, seeds), unharmed.work / "damaged"
    files = sorted(path for path in contents(whole) if path.parts[0] != "seed-0")
    files = files[DAMAGES.index(how) :: len(DAMAGES)] if config.quick else files
    trials = []
    for file in files * (1 if how == "deleted" else config.flips):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        place = damaged(folder / file, how, rng)
        before = contents(folder)
        detail = f"{file} {how} {place}".rstrip()
        try:
            refusal = go_on(folder)
        except Exception as error:
            outcome, refusal = WRONG, f"{type(error).__name__}: {error}"
        else:
            if refusal is None:
                outcome = EQUAL if result(folder) == expected else WRONG
            else:
                outcome = REFUSED if "\n" not in refusal and contents(folder) == before else WRONG
        shown = re.sub(r"checkpoint/.*", "checkpoint/…", re.sub(r"seed-\d+", "seed-N", file.as_posix()))
        trials.append(Trial(f"{kind}: {shown}", algorithm, outcome, detail + (f"; {refusal}" if refusal else "")))
    return trials


def table(trials: list[Trial]) -> str:
    """The table in Markdown: each moment, and how often each outcome came."""
    counts: dict[str, Counter[str]] = {}
    for trial in trials:
        counts.setdefault(trial.what, Counter())[trial.outcome] += 1
    rows = [f"| {what} | {count[EQUAL]} | {count[REFUSED]} | {count[WRONG]} |" for what, count in counts.items()]
    head = "| what happened | went on, equal to the bit | refused in one line, files as they were | anything else |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def plan(config: Config) -> dict[str, Callable[[Unharmed, random.Random], list[Trial]]]:
    """The parts by their names: a kill, or the files of a run damaged in one way."""
    names = config.algorithms
    quick = [*list(MOMENTS)[1:5], "disk full from some write on", "folder deleted"]
    moments = {what: 1 if config.quick else row[0] * config.times for what, row in MOMENTS.items()}
    kills = [(what, number) for what in (quick if config.quick else MOMENTS) for number in range(moments[what])]
    kinds = [Kind(algorithm) for algorithm in names]
    if not config.quick:
        kinds += [Kind(names[0], finished=True), Kind(names[0], seeds=2)]
    parts: dict[str, Callable[[Unharmed, random.Random], list[Trial]]] = {}
    for index, (what, number) in enumerate(kills):
        parts[f"{what} {number + 1}"] = functools.partial(kill, what, number, names[index % len(names)])
    for kind in kinds:
        for how in DAMAGES:
            parts[f"{kind}, {kind.algorithm}, {how}"] = functools.partial(damage, kind, how, config)
    return parts


def run(config: Config) -> int:
    """Make the table, print it, and write it with all trials; the status is 1 if anything went wrong."""
    unknown = [name for name in config.algorithms if name not in ALGORITHMS]
    require(config.algorithms and not unknown, "algorithms", list(config.algorithms), "names of learning rules")
    for name in ("times", "flips"):
        check_int(getattr(config, name), name)
    if config.quick:
        config = dataclasses.replace(config, algorithms=config.algorithms[:1], flips=1)
    os.environ["JAX_PLATFORMS"] = "cpu"
    experiment.use_cores()
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # Orbax' tasks, of checkpoints that were damaged on purpose
    parts = experiment.Parts("kill_table", config, r"summary\.json|table\.md")
    with tempfile.TemporaryDirectory() as work:
        os.environ["XDG_CACHE_HOME"] = str(Path(work) / "cache")  # compiled programs are kept there
        unharmed = Unharmed(Path(work))

        def measured(name: str, trials_of: Callable[[Unharmed, random.Random], list[Trial]]) -> dict[str, Any]:
            began, rng = time.perf_counter(), random.Random(f"{config.seed} {name}")
            trials = [dataclasses.asdict(trial) for trial in trials_of(unharmed, rng)]
            return {"trials": trials, "minutes": (time.perf_counter() - began) / 60}

        found = [
            parts.result(name, functools.partial(measured, name, trials_of))
            for name, trials_of in watched(list(plan(config).items()), "parts")
        ]
    trials = [Trial(**trial) for part in found for trial in part["trials"]]
    minutes = sum(part["minutes"] for part in found)
    shown = table(trials)
    wrong = [trial for trial in trials if trial.outcome == WRONG]
    print(shown)
    print(f"\n{len(trials)} trials with {', '.join(config.algorithms)} in {minutes:.0f} minutes; {len(wrong)} wrong")
    for trial in wrong:
        print(f"{WRONG}: {trial.what}, {trial.algorithm}: {trial.detail}")
    parts.write("table.md", functools.partial(experiment.write_text, text=shown + "\n"))
    summary = {"table": shown, "minutes": minutes, "machine": experiment.machine(), "numpy": np.__version__}
    parts.write_json("summary.json", {**summary, "trials": [dataclasses.asdict(trial) for trial in trials]})
    parts.finish()
    print(f"run folder: {parts.folder}")
    return 1 if wrong else 0


if __name__ == "__main__":
    experiment.main(Config, run)
