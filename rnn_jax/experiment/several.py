"""Training runs of several seeds at once, each with files of its own."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rnn_jax import seeds, train
from rnn_jax.checks import InputError, require
from rnn_jax.experiment.kept import Kept
from rnn_jax.experiment.progress import Line, Watch, tell
from rnn_jax.experiment.training import Run, Training


class SeveralRuns(Training):
    """The files of several runs that are trained at once; each run has those of ``Run``, as if it were alone.

    ``fit`` takes the state of ``seeds.together``, in the order of the runs, and the step of ``seeds.make_step``.  A run
    that is farther than others, as after a kill between two saves, waits until they are there.  One that meets a number
    that is not finite ends there: that is said in a line on stderr and in its diverged.json, and the others go on.  No
    error is raised, even if all have ended so.

    ``watch`` is called with the lines of all runs, which say their "seed" besides.  "seconds" is the time of all runs
    together.

    Args:
      runs: the files of the runs by their seeds.
      folder: the folder of them all, if it has files of its own.
      kept: the names of these files, which stand there, and are written again where they are gone.

    Raises:
      InputError: no run.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> from rnn_jax import experiment
      >>> from rnn_jax.interrupts import SignalsWait
      >>> network = rj.Network(cells=(rj.elman(),), inputs=2, hidden=4, outputs=2, loss=rj.softmax_cross_entropy())
      >>> algorithm, optimiser, devices = rj.bptt(network), optax.sgd(0.1), jax.local_devices()
      >>> def start(seed):
      ...     return rj.train.init_state(algorithm, optimiser, rj.init(network, jax.random.key(seed)), batch_size=2)
      >>> step = rj.seeds.make_step(rj.train.make_step(algorithm, optimiser), devices)
      >>> state, ones = rj.seeds.together([start(0), start(1)], devices), jax.numpy.ones((5, 2), int)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     runs = experiment.SeveralRuns({seed: experiment.Run(Path(folder) / f"seed-{seed}") for seed in (0, 1)})
      ...     with SignalsWait() as signals:
      ...         state = runs.fit(step, state, lambda index: rj.Batch(ones, ones), steps=20, every=10, signals=signals)
      ...     sorted(path.name for path in Path(folder).iterdir())
      ['seed-0', 'seed-1']
      >>> [line["step"] for line in runs.runs[1].lines]
      [10, 20]
    """

    def __init__(self, runs: Mapping[int, Run], folder: Path = Path(), kept: tuple[str, ...] = ()) -> None:
        require(runs, "runs", {}, "one or more")
        self._files = Kept(folder, kept)
        self.runs = dict(runs)
        self._seconds = max(run._seconds for run in self.runs.values())
        self._told = set[int]()

    def save(self, state: train.TrainState) -> None:
        """Save each run that has come so far, and those whose last save failed."""
        self._files.keep()
        for run, own in zip(self.runs.values(), self._apart(state), strict=True):
            if int(own.step) == int(state.step) or run.unsaved():
                run.save(own)

    def unsaved(self) -> list[InputError]:
        """Why files of any run are not as they should be."""
        return [*self._files.unsaved(), *(error for run in self.runs.values() for error in run.unsaved())]

    def _diverge(self, error: train.NonFiniteError) -> None:
        raise error  # the common state is always finite

    def _apart(self, state: train.TrainState) -> list[train.TrainState]:
        return seeds.apart(state, len(self.runs))

    def _add(self, made: list[train.Metrics], state: train.TrainState, elapsed: Callable[[], float]) -> None:
        first = int(state.step) - len(made)
        starts: Sequence[int] = state.carry.starts.tolist()  # type: ignore[attr-defined]
        for index, ((seed, run), own) in enumerate(zip(self.runs.items(), self._apart(state), strict=True)):
            columns: list[Any] = [list(metrics) for metrics in made]
            steps = [train.Metrics(*(each[index] for each in metrics)) for metrics in columns]
            steps = steps[max(starts[index] - first, 0) : max(int(own.step) - first, 0)]
            if steps:
                run._add(steps, own, elapsed)
            if not own.finite and seed not in self._told:
                error = train.NonFiniteError(own)
                tell(f"seed {seed}: {error}; the other seeds go on", error=True)
                run._diverge(error)
                self._told.add(seed)

    def _begun(self, state: train.TrainState) -> bool:
        return any(self._due(run, own, state) for run, own in zip(self.runs.values(), self._apart(state), strict=True))

    def _due(self, run: Run, own: train.TrainState, state: train.TrainState) -> bool:
        return run._begun(own) and int(own.step) == int(state.step)

    def _report(
        self,
        state: train.TrainState,
        line_of: Callable[[train.Metrics], Line],
        measured: Callable[[train.TrainState], Line],
        elapsed: Callable[[], float],
        watch: Watch,
    ) -> Line:
        lines = []
        for (seed, run), own in zip(self.runs.items(), self._apart(state), strict=True):
            if self._due(run, own, state):
                lines.append(run._report(own, line_of, measured, elapsed, partial(_watched, watch, seed)))
        return {name: statistics.fmean(line[name] for line in lines) for name in lines[0]}

    def _ended(self, state: train.TrainState) -> bool:
        return not any(own.finite for own in self._apart(state))


def _watched(watch: Watch, seed: int, line: Line) -> None:
    watch({"seed": seed, **line})
