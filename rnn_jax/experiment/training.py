"""A training run that goes on where it was stopped, to the bit: state, metrics, and the order of the data."""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from rnn_jax import checkpoint, train
from rnn_jax.checks import InputError, check_int
from rnn_jax.experiment.kept import Kept
from rnn_jax.experiment.progress import Line, Progress, Watch, inform
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


class Training(ABC):
    """A loop of steps with lines of metrics and saves, which a signal may end: ``Run`` and ``SeveralRuns``."""

    _seconds: float
    """The time of training before this process."""

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
          watch: called with each line.  What it raises is said in a line on stderr, and the run goes on.  It can end
            the run by a signal, as with ``signal.raise_signal(signal.SIGINT)``.

        Returns:
          The state after the last step that was made.

        Raises:
          UnsavedError: the last save failed.
          NonFiniteError: a number that is not finite; the last good state is saved.
          InputError: an invalid argument.

        Any other error comes after the steps before it are saved, unless it took the state with it.
        """
        save_every = 10 * every if save_every is None else save_every
        for name, count in (("steps", steps), ("every", every), ("save_every", save_every)):
            check_int(count, name)
        began, done, made = time.perf_counter() - self._seconds, int(state.step), list[train.Metrics]()
        changed = bool(self.unsaved())

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

        def elapsed() -> float:
            return time.perf_counter() - began

        def add(state: train.TrainState) -> None:
            self._add(jax.device_get(made), state, elapsed)
            made.clear()

        def measured(state: train.TrainState) -> Line:
            return measure(state, check) if done % (10 * every) == 0 or done == steps else {}

        try:
            while True:
                if self._begun(state) and (done % every == 0 or done == steps):
                    line = self._report(state, line_of, measured, elapsed, watch)
                    changed = True
                    if progress:
                        progress.line(line)
                if changed and (done % save_every == 0 or done == steps):
                    self.save(state)
                    changed = bool(self.unsaved())
                if done == steps or self._ended(state):
                    break
                until = min(*(done + size - done % size for size in (every, save_every)), steps)
                for after, _ in train.run(noted, state, window, until, until - done):
                    add(after)
                    state, done, changed = after, int(after.step), True
        except Interrupted:
            if changed:
                self.save(state)
        except train.NonFiniteError as error:
            del made[error.step - done :]
            add(error.state)
            self._diverge(error)
            raise
        except Exception:
            if changed and not any(
                isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in jax.tree.leaves(state)
            ):
                with suppress(Exception):  # the first error is the one to tell
                    self.save(state)
            raise
        if self.unsaved():
            raise UnsavedError(str(self.unsaved()[0]))
        return state

    @abstractmethod
    def save(self, state: train.TrainState) -> None:
        """Write a checkpoint, and metrics.jsonl; where this fails, say so on stderr and go on."""

    @abstractmethod
    def unsaved(self) -> list[InputError]:
        """Why files are not as they should be."""

    @abstractmethod
    def _diverge(self, error: train.NonFiniteError) -> None:
        """Save the last good state, and write diverged.json: the step and the message."""

    @abstractmethod
    def _add(self, made: list[train.Metrics], state: train.TrainState, elapsed: Callable[[], float]) -> None:
        """Add the metrics of the steps that led to this state."""

    @abstractmethod
    def _begun(self, state: train.TrainState) -> bool:
        """Whether a line is begun that may end at this state."""

    @abstractmethod
    def _report(
        self,
        state: train.TrainState,
        line_of: Callable[[train.Metrics], Line],
        measured: Callable[[train.TrainState], Line],
        elapsed: Callable[[], float],
        watch: Watch,
    ) -> Line:
        """End a line at this state; returns what is shown of it."""

    @abstractmethod
    def _ended(self, state: train.TrainState) -> bool:
        """Whether no further step can be made."""


class Run(Training):
    """The files of a training run: metrics.jsonl, the folder checkpoint/, and others that are kept as they are.

    A checkpoint holds the state, all lines of metrics up to it, and the sums for the next one.  So metrics.jsonl is
    written again from it, whatever has become of the file.

    A run that met a number that is not finite has diverged.json, its step and the message.

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
        self._sums, self._seconds, self._files = Sums(), 0.0, Kept(folder, kept)
        if saved is not None:
            try:
                self.lines, self._seconds = list(saved.notes["lines"]), float(saved.notes["seconds"])
                self._sums = Sums(*saved.notes["sums"])
            except (TypeError, KeyError, ValueError):
                raise InputError(f"folder is {saved.folder!r}; it must be a checkpoint of a run with metrics") from None

    def save(self, state: train.TrainState) -> None:
        """Write a checkpoint, and metrics.jsonl; where this fails, say so on stderr and go on."""
        notes = {"lines": self.lines, "sums": self._sums, "seconds": self._seconds}
        self._files.keep()
        self._files.attempt("checkpoint", partial(checkpoint.save, self.folder / "checkpoint", state, notes))
        self.write_lines()

    def write_lines(self) -> None:
        """Write metrics.jsonl, unless it is as it should be."""
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        self._files.attempt("metrics.jsonl", partial(self._files.write, "metrics.jsonl", text, renew=True))

    def unsaved(self) -> list[InputError]:
        """Why files are not as they should be."""
        return self._files.unsaved()

    def _diverge(self, error: train.NonFiniteError) -> None:
        self.save(error.state)
        text = json.dumps({"step": error.step, "message": str(error)}) + "\n"
        self._files.attempt("diverged.json", partial(self._files.write, "diverged.json", text, renew=True))

    def _add(self, made: list[train.Metrics], state: train.TrainState, elapsed: Callable[[], float]) -> None:
        """Add the metrics of the steps that led to this state."""
        for metrics in made:
            self._sums = self._sums.add(metrics)
        self._seconds = elapsed()

    def _begun(self, state: train.TrainState) -> bool:
        """Whether a line is begun that ends at this state or later."""
        return self._sums.steps > 0

    def _report(
        self,
        state: train.TrainState,
        line_of: Callable[[train.Metrics], Line],
        measured: Callable[[train.TrainState], Line],
        elapsed: Callable[[], float],
        watch: Watch,
    ) -> Line:
        """End a line at this state; returns what is shown of it."""
        line = {"step": int(state.step), **line_of(self._sums.mean()), "seconds": elapsed()}
        line |= measured(state)
        self._sums, self._seconds = Sums(), elapsed()
        self.lines.append(line)
        self.write_lines()
        inform(watch, line)
        return line

    def _ended(self, state: train.TrainState) -> bool:
        """Whether no further step can be made."""
        return False
