"""How a run goes on, for those who watch it: a bar on a terminal, and elsewhere a line every so often."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Line = dict[str, Any]
"""What a run reports: the step, and numbers by name."""
Watch = Callable[[Line], None]
"""Called with each line of metrics.jsonl, as it is written."""
SECONDS = 30.0
"""Between two lines off a terminal."""
UNSHOWN = (OSError, ValueError)
"""What a full disk under a log, a pipe without a reader, or a closed stream raises."""


def tell(text: str, error: bool = False) -> None:
    """Print a text at once, on stdout or stderr; where nothing can be printed, the program goes on without.

    Args:
      text: one line or more.
      error: print on stderr.

    Examples:
      >>> from rnn_jax import experiment
      >>> experiment.tell("run folder: runs/a")
      run folder: runs/a
    """
    with suppress(*UNSHOWN):
        print(text, file=sys.stderr if error else sys.stdout, flush=True)


def inform(watch: Watch, line: Line) -> None:
    """Call a watch; what it raises is said in a line on stderr, as a tracker's failure is no reason to end a run.

    Args:
      watch: a function of a line.
      line: "step", and numbers by name.

    Examples:
      >>> from rnn_jax import experiment
      >>> lines = []
      >>> experiment.inform(lines.append, {"step": 1, "bits": 4.0})
      >>> lines
      [{'step': 1, 'bits': 4.0}]
    """
    try:
        watch(line)
    except Exception as error:
        cause = " ".join([f"{type(error).__name__}:", *str(error).split()])
        tell(f"warning: watch failed at step {line['step']} ({cause[:200]}); the run goes on", error=True)


class Progress:
    """Steps, loss, gradient norm, share of clipped steps, speed and time left.

    On a terminal this is a bar by tqdm, on stderr.  Elsewhere, as in the log of a queue, it is a line on stdout every
    30 seconds.  Where nothing can be printed, the run goes on without.

    Args:
      steps: the number of the last step.
      done: the number of steps made before.
      work: how much a step does, such as B · T characters.
      unit: the name of what ``work`` counts.
      describe: makes a short text of a line, such as its loss with the unit.
      quiet: show nothing.

    Examples:
      >>> from rnn_jax import experiment
      >>> with experiment.Progress(2, 0, 3200, "characters", lambda line: f"{line['bits']:.2f} bits") as progress:
      ...     progress.step()
      ...     progress.line({"step": 1, "bits": 4.0, "grad_norm": 0.5, "clipped": 0.0})
    """

    def __init__(
        self, steps: int, done: int, work: int, unit: str, describe: Callable[[Line], str], quiet: bool = False
    ) -> None:
        from tqdm import tqdm

        self._steps, self._first, self._work, self._unit, self._describe = steps, done, work, unit, describe
        self._done, self._text, self._quiet = done, "", quiet
        self._began = self._printed = time.perf_counter()
        self._bar = tqdm(disable=True)
        with suppress(*UNSHOWN):
            self._bar = tqdm(total=steps, initial=done, unit="step", disable=True if quiet else None)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(*UNSHOWN):
            self._bar.close()

    def step(self) -> None:
        """One step is made."""
        self._done += 1
        with suppress(*UNSHOWN):
            self._bar.update(1)
        now = time.perf_counter()
        if self._bar.disable and not self._quiet and now - self._printed >= SECONDS:
            self._printed = now
            left = (now - self._began) * (self._steps - self._done) / (self._done - self._first)
            minutes, seconds = divmod(round(left), 60)
            shown = [f"step {self._done:,} of {self._steps:,}", self._state(), f"{minutes}:{seconds:02} min left"]
            tell(", ".join(part for part in shown if part))

    def line(self, line: Line) -> None:
        """Show the numbers of a line from here on."""
        norm, clipped = f"gradient norm {line['grad_norm']:.2g}", f"{line['clipped']:.0%} clipped"
        self._text = f"{self._describe(line)}, {norm}, {clipped}"
        with suppress(*UNSHOWN):
            self._bar.set_postfix_str(self._state())

    def say(self, text: str) -> None:
        """Print a text, above the bar, if there is one."""
        if not self._quiet:
            with suppress(*UNSHOWN):
                self._bar.write(text)
                sys.stdout.flush()

    def _state(self) -> str:
        made, seconds = self._done - self._first, time.perf_counter() - self._began
        rate = f"{made * self._work / seconds:,.0f} {self._unit}/s" if made else ""
        return ", ".join(part for part in (self._text, rate) if part)
