"""Run char_lm.py with a fault injected at a chosen moment: the child process of kill_table.py.

python experiments/fault_injection.py FAULT MOMENT NUMBER FLAGS…   with the flags of char_lm.py, --out among them.

FAULT is SIGKILL, SIGTERM or SIGINT, full (from then on a file may have 64 bytes only), delete (the run folder), or
delete-and-kill. MOMENT and NUMBER say when: file, the number of operations on files of the run folder; save, the number
of those that are made while a checkpoint is saved; compile, the number of milliseconds in the first step, which is
compiled then; evaluation, the number of windows; step, its number.
"""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import char_lm

from rnn_jax import checkpoint, data, experiment, train

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
"""Events of Python's audit hooks; the threads that write the arrays of a checkpoint work between them."""


def inject(fault: str, folder: Path) -> None:
    """Make the fault."""
    if fault == "full":
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    elif fault.startswith("delete"):
        shutil.rmtree(folder)
    if fault.startswith("SIG") or fault.endswith("kill"):
        os.kill(os.getpid(), getattr(signal, fault) if fault.startswith("SIG") else signal.SIGKILL)


def at_file(number: int, happen: Callable[[], None], folder: Path, saving: bool) -> None:
    """Before operation ``number`` on a file of the folder; with ``saving``, of those of ``checkpoint.save``."""
    seen, save, within = [], checkpoint.save, []

    def noted(*arguments: Any) -> None:
        within.append(None)
        save(*arguments)
        within.clear()

    def look(event: str, arguments: Any) -> None:
        if event in OPERATIONS and str(arguments[0]).startswith(str(folder)) and (within or not saving):
            seen.append(event)
            if len(seen) == number:
                happen()

    checkpoint.save = noted
    sys.addaudithook(look)


def at_compile(number: int, happen: Callable[[], None]) -> None:
    """``number`` milliseconds after the first step has begun."""
    make_step = train.make_step

    def make(*arguments: Any) -> train.Step:
        step, timer = make_step(*arguments), threading.Timer(number / 1e3, happen)

        def timed(state: train.TrainState, batch: Any) -> Any:
            if timer.ident is None:
                timer.start()
            return step(state, batch)

        return timed

    train.make_step = make


def after_call(of: Any, name: str, happen: Callable[[], None], when: Callable[[int, tuple[Any, ...]], bool]) -> None:
    """After a call of a function that ``when(calls, arguments)`` chooses."""
    function, calls = getattr(of, name), []

    def instead(*arguments: Any) -> Any:
        result = function(*arguments)
        calls.append(None)
        if when(len(calls), arguments):
            happen()
        return result

    setattr(of, name, instead)


def main() -> None:
    """Arrange the fault, and run char_lm."""
    fault, moment, number, *flags = sys.argv[1:]
    folder, at = Path(flags[flags.index("--out") + 1]), int(number)
    happen = lambda: inject(fault, folder)  # noqa: E731
    if moment in ("file", "save"):
        at_file(at, happen, folder, moment == "save")
    elif moment == "compile":
        at_compile(at, happen)
    elif moment == "evaluation":
        after_call(train, "_evaluate_window", happen, lambda calls, arguments: calls == at)
    else:
        after_call(data, "training_window", happen, lambda calls, arguments: calls > 1 and arguments[-1] == at)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has started this in the background
    sys.argv = ["char_lm.py", *flags]
    experiment.main(char_lm.Config, char_lm.main, char_lm.flags)


if __name__ == "__main__":
    main()
