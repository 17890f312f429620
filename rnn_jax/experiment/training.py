"""A training run that goes on where it was stopped, to the bit: state, metrics, and the order of the data."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rnn_jax import checkpoint, train
from rnn_jax.checks import InputError, check_int
from rnn_jax.experiment.files import write_text, writing
from rnn_jax.experiment.progress import Line, Progress, Watch
from rnn_jax.interrupts import SignalsWait
from rnn_jax.types import Batch

AHEAD = 2
"""How many steps are queued before the oldest is awaited, so that a signal waits for no more than these."""


class Interrupted(Exception):  # noqa: N818
    """A signal waits: no further step is to be made."""


class UnsavedError(RuntimeError):
    """The last save of a run failed."""


class Sums(NamedTuple):
    """The metrics of the steps since the last line, added one by one, so that an interruption changes no digit."""

    steps: int = 0
    loss: float = 0.0
    """Σ w ℓ"""
    grad_norm: float = 0.0
    clipped: float = 0.0
    weight: float = 0.0
    """Σ w"""
    seen: int = 0
    """Steps of weight above 0."""

    def add(self, metrics: train.Metrics) -> "Sums":
        """With one step more, whose metrics are numbers on the host."""
        loss, norm, clipped, weight = map(float, metrics)
        if weight == 0:
            return self._replace(steps=self.steps + 1)
        return Sums(
            self.steps + 1,
            self.loss + loss * weight,
            self.grad_norm + norm,
            self.clipped + clipped,
            self.weight + weight,
            self.seen + 1,
        )

    def mean(self) -> train.Metrics:
        """The means over the steps; NaN where none has weight."""
        if not self.seen:
            return train.Metrics(np.nan, np.nan, np.nan, 0.0)
        norm, clipped = self.grad_norm / self.seen, self.clipped / self.seen
        return train.Metrics(self.loss / self.weight, norm, clipped, self.weight)


class Run:
    """The files of a training run: metrics.jsonl, the folder checkpoint/, and others that are kept as they are.

    A checkpoint holds the state, all lines of metrics up to it, and the sums for the next one.  So metrics.jsonl is
    written again from it, whatever has become of the file.

    A file that cannot be written does not end the run.  It is said in a line on stderr, and tried again at the next
    save.  A folder that was deleted is made again then, whole.

    Args:
      folder: the folder of the run; its files config.json and others stand there.
      kept: the names of these files.
      saved: as from ``checkpoint.read``, of a run that is resumed.

    Raises:
      InputError: a checkpoint without lines of metrics.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> from rnn_jax import experiment
      >>> from rnn_jax.interrupts import SignalsWait
      >>> network = rj.Network(cells=(rj.elman(),), inputs=2, hidden=4, outputs=2, loss=rj.softmax_cross_entropy())
      >>> algorithm, optimiser = rj.bptt(network), optax.sgd(0.1)
      >>> state = rj.train.init_state(algorithm, optimiser, rj.init(network, jax.random.key(0)), batch_size=2)
      >>> step, ones = rj.train.make_step(algorithm, optimiser), jax.numpy.ones((5, 2), int)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     run = experiment.Run(Path(folder))
      ...     with SignalsWait() as signals:
      ...         state = run.fit(step, state, lambda index: rj.Batch(ones, ones), steps=20, every=10, signals=signals)
      ...     sorted(path.name for path in Path(folder).iterdir())
      ['checkpoint', 'metrics.jsonl']
      >>> [line["step"] for line in run.lines]
      [10, 20]
    """

    def __init__(self, folder: Path, kept: tuple[str, ...] = (), saved: checkpoint.Saved | None = None) -> None:
        self.folder = folder
        self.lines: list[Line] = []
        """The lines of metrics.jsonl."""
        self._sums, self._seconds, self._unsaved = Sums(), 0.0, dict[str, InputError]()
        if saved is not None:
            try:
                self.lines, self._seconds = list(saved.notes["lines"]), float(saved.notes["seconds"])
                self._sums = Sums(*saved.notes["sums"])
            except (TypeError, KeyError, ValueError):
                raise InputError(f"folder is {saved.folder!r}; it must be a checkpoint of a run with metrics") from None
        self._kept = {name: (folder / name).read_text(encoding="utf-8") for name in kept}

    def save(self, state: train.TrainState) -> None:
        """Write a checkpoint, and metrics.jsonl; where this fails, say so on stderr and go on."""
        notes = {"lines": self.lines, "sums": self._sums, "seconds": self._seconds}
        for name, text in self._kept.items():
            self._attempt(name, partial(self._keep, name, text))
        self._attempt("checkpoint", partial(checkpoint.save, self.folder / "checkpoint", state, notes))
        self.write_lines()

    def write_lines(self) -> None:
        """Write metrics.jsonl, unless it is as it should be."""
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        self._attempt("metrics.jsonl", partial(self._keep, "metrics.jsonl", text, renew=True))

    def fit(
        self,
        step: train.Step,
        state: train.TrainState,
        batch_at: Callable[[int], Batch],
        steps: int,
        every: int,
        signals: SignalsWait,
        save_every: int | None = None,
        line_of: Callable[[train.Metrics], Line] = lambda metrics: metrics._asdict(),
        measure: Callable[[train.TrainState, Callable[[], None]], Line] = lambda state, check: {},
        progress: Progress | None = None,
        watch: Watch = lambda line: None,
    ) -> train.TrainState:
        """Train to the last step, or until a signal comes, which is delivered by the caller.

        A line is written at each multiple of ``every`` and at the last step, a checkpoint at each multiple of
        ``save_every`` and at the last step, and both where a signal comes.  A run that is resumed from any of these
        writes the same lines, but for "seconds".

        Args:
          step: as from ``train.make_step``.
          state: as from ``train.init_state``, or that of the checkpoint with which the run is resumed.
          batch_at: the window of each step, a pure function of the step's number.
          steps: the number of the last step, counted from the start of training.
          every: how many steps a line spans.
          signals: a context that holds signals, such as Ctrl-C.
          save_every: how many steps a checkpoint spans; by default ten lines.
          line_of: what a line says of the means of the metrics.
          measure: ``measure(state, check)``, what the lines of every tenth multiple of ``every`` and of the last step
            say besides.  It calls ``check()`` now and then, which raises ``Interrupted`` where a signal waits; the run
            that is resumed begins with this measurement.
          progress: shows the steps and the lines.
          watch: called with each line.

        Returns:
          The state after the last step that was made.

        Raises:
          UnsavedError: the last save failed.
          NonFiniteError: a number that is not finite; the last good state is saved.
          InputError: an invalid argument.
        """
        save_every = 10 * every if save_every is None else save_every
        for name, count in (("steps", steps), ("every", every), ("save_every", save_every)):
            check_int(count, name)
        began, done, made = time.perf_counter() - self._seconds, int(state.step), list[train.Metrics]()
        changed = bool(self._unsaved)

        def check() -> None:
            if signals.pending is not None:
                raise Interrupted

        def window(index: int) -> Batch:
            check()
            return batch_at(index)

        def noted(state: train.TrainState, batch: Batch) -> tuple[train.TrainState, train.Metrics]:
            state, metrics = step(state, batch)
            made.append(metrics)
            if len(made) > AHEAD:
                jax.block_until_ready(made[-1 - AHEAD].loss)
            if progress:
                progress.step()
            return state, metrics

        def add(count: int) -> None:
            for metrics in jax.device_get(made[:count]):
                self._sums = self._sums.add(metrics)
            made.clear()
            self._seconds = time.perf_counter() - began

        def report() -> None:
            line = {"step": done, **line_of(self._sums.mean()), "seconds": time.perf_counter() - began}
            if done % (10 * every) == 0 or done == steps:
                line |= measure(state, check)
            self._sums, self._seconds = Sums(), time.perf_counter() - began
            self.lines.append(line)
            self.write_lines()
            watch(line)
            if progress:
                progress.line(line)

        try:
            while True:
                if self._sums.steps and (done % every == 0 or done == steps):
                    report()
                    changed = True
                if changed and (done % save_every == 0 or done == steps):
                    self.save(state)
                    changed = bool(self._unsaved)
                if done == steps:
                    break
                until = min(*(done + size - done % size for size in (every, save_every)), steps)
                for after, _ in train.run(noted, state, window, until, until - done):
                    state, done, changed = after, int(after.step), True
                    add(len(made))
        except Interrupted:
            if changed:
                self.save(state)
        except train.NonFiniteError as error:
            add(error.step - done)
            self.save(error.state)
            raise
        if self._unsaved:
            raise UnsavedError(str(next(iter(self._unsaved.values()))))
        return state

    def _keep(self, name: str, text: str, renew: bool = False) -> None:
        path = self.folder / name
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() or (renew and path.read_bytes() != text.encode()):
                write_text(path, text)

    def _attempt(self, name: str, write: Callable[[], Any]) -> None:
        try:
            write()
        except InputError as error:
            self._unsaved[name] = error
            with suppress(OSError):
                print(f"warning: {error}; the run goes on, and tries again", file=sys.stderr, flush=True)
        else:
            self._unsaved.pop(name, None)
