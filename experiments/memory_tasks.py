"""How far recurrent networks remember: the adding problem, copy memory, parity and the flip-flop.

Each cell is trained by bptt and Adam on sequences that are new at every step, so the training loss is a held-out one.
The dotted line is the loss of the best answer without memory, which is known exactly.  Training of a cell stops when
the task is solved: below --solved of that loss.

The tasks:
  adding       the sum of two marked numbers among T, asked for at the end
  copy_memory  ten symbols, repeated after a lag
  parity       whether the ones so far are odd; trained on strings of up to 16 steps, tested on 512
  flip_flop    the last pulse of each of three inputs, at every step

The cells: elman (tanh, orthogonal W), irnn (relu, identity W), lstm, gru (orthogonal W), min_gru, and lstm-chrono and
gru-chrono, whose gates start with time constants of up to the length of a sequence.

Without arguments: the adding problem of 150 steps, a minute or two on two cores.

Examples:
  python experiments/memory_tasks.py
  python experiments/memory_tasks.py --tasks parity flip_flop
  python experiments/memory_tasks.py --tasks copy_memory --models gru gru-chrono --length 100
  python experiments/memory_tasks.py --out runs/memory --resume auto
  python experiments/memory_tasks.py --quick
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import figures
import jax
import jax.numpy as jnp
import numpy as np
from adam import Adam, check_adam
from models import MODELS, check_models, check_rates
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import data, experiment, train
from rnn_jax.checks import check_int, check_number, require
from rnn_jax.data.tasks import (
    ADDING_CHANCE,
    DELAYS,
    LEVELS,
    PARITY_CHANCE,
    copy_memory_chance,
    flip_flop_chance,
)


def delayed_addition_from_step_10(key: jax.Array, length: int, B: int) -> rj.Batch:
    """Delayed addition, of which the first ten steps do not count: before them there is nothing to add."""
    batch = data.delayed_addition(key, length + max(DELAYS), B)
    counts = jnp.arange(len(batch.xs)) >= max(DELAYS)
    return batch._replace(weight=jnp.broadcast_to(counts[:, None], batch.xs.shape).astype(jnp.float32))


class Task(NamedTuple):
    """A task, and the settings with which it is trained where no flag says otherwise."""

    title: str
    draw: Callable[[jax.Array, int, int], rj.Batch]
    """``(key, length, B) -> batch``."""
    chance: Callable[[int], float]
    """The loss of a step for those who remember nothing, by the length."""
    inputs: int
    outputs: int
    loss: rj.Loss
    unit: str
    models: tuple[str, ...]
    length: int
    hidden: int
    batch: int
    steps: int
    rate: float
    solved: float
    levels: dict[str, float] = {}  # noqa: RUF012
    """The lowest losses of those who remember a part."""


TASKS = {
    "adding": Task(
        "Adding problem",
        data.adding,
        lambda length: ADDING_CHANCE,
        *(2, 1, rj.squared_error(), "half the squared error of the sum"),
        ("elman", "irnn", "lstm", "gru"),
        *(150, 64, 32, 6000, 3e-3, 0.05),
    ),
    "copy_memory": Task(
        "Copy memory",
        data.copy_memory,
        copy_memory_chance,
        *(10, 9, rj.softmax_cross_entropy(), "cross-entropy a step, nats"),
        ("elman", "lstm", "lstm-chrono", "gru", "gru-chrono"),
        *(30, 128, 32, 6000, 1e-3, 0.05),
    ),
    "delayed_addition": Task(
        "Delayed addition",
        delayed_addition_from_step_10,
        lambda length: LEVELS["no dependency"],
        *(2, 2, rj.softmax_cross_entropy(), "cross-entropy a step, nats"),
        ("elman", "lstm", "gru"),
        *(100, 32, 32, 3000, 3e-3, 0.7),
        {name: LEVELS[name] for name in ("one dependency", "both dependencies")},
    ),
    "parity": Task(
        "Parity",
        lambda key, length, B: data.parity(key, length, B, shortest=1),
        lambda length: PARITY_CHANCE,
        *(2, 2, rj.softmax_cross_entropy(), "cross-entropy a step, nats"),
        ("elman", "gru", "min_gru"),
        *(16, 32, 64, 3000, 1e-2, 2e-4),
    ),
    "flip_flop": Task(
        "Three-bit flip-flop",
        data.flip_flop,
        flip_flop_chance,
        *(3, 3, rj.squared_error(), "half the squared error a step"),
        ("elman", "lstm", "gru"),
        *(100, 64, 64, 3000, 3e-3, 0.05),
    ),
}
FILES = rf"summary\.json|({'|'.join(TASKS)})\.png"


@dataclass(frozen=True)
class Config(Adam):
    """Which cells learn which tasks, and how."""

    tasks: tuple[Literal["adding", "copy_memory", "delayed_addition", "parity", "flip_flop"], ...] = ("adding",)
    """The tasks, one after another."""
    models: tuple[str, ...] | None = None
    """The cells; by default those of the task."""
    length: int | None = None
    """Steps of a sequence, of copy_memory the lag, and of parity the longest string; by default 150, 30, 100,
    16 and 100."""
    hidden: int | None = None
    """H, units; by default 64, of copy_memory 128, and of delayed_addition and parity 32."""
    batch: int | None = None
    """B, sequences a training step; by default 32, of parity and flip_flop 64."""
    steps: int | None = None
    """Training steps at most; by default 6,000 of adding and copy_memory, and 3,000 of the others."""
    rate: float | None = None
    """Learning rate of Adam for all cells; by default that of --rates, and of other cells 3e-3, with copy_memory 1e-3
    and with parity 1e-2."""
    rates: tuple[tuple[str, float], ...] = (("irnn", 3e-4),)
    """Cells that have a learning rate of their own where --rate is left out, each followed by it."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    solved: float | None = None
    """The share of the loss without memory below which a task is solved and training stops; by default 0.05, of
    delayed_addition 0.7, which is just above the loss with all memory, and of parity 2e-4, since longer strings need
    more."""
    every: int = 50
    """Training steps of a point of the learning curve."""
    test_length: int = 512
    """Steps of the strings on which parity is tested."""
    tested: int = 256
    """How many strings parity is tested on."""
    seed: int = 0
    """The seed of parameters and sequences."""
    out: Path | None = None
    """Run folder; by default runs/memory_tasks/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next start."""
    quick: bool = False
    """All tasks for a few steps, with small networks and two or three cells each."""


def settings(config: Config, task: Task) -> Task:
    """The task with what the flags say."""
    names = ("models", "length", "hidden", "batch", "steps", "rate", "solved")
    return task._replace(**{name: getattr(config, name) for name in names if getattr(config, name) is not None})


def learn(config: Config, key: str, task: Task, name: str) -> dict[str, Any]:
    """Train one cell, and test it on parity; returns a row of the summary."""
    model = MODELS[name]
    rate = config.rate or dict(config.rates).get(name, task.rate)
    network = rj.Network((model.cell,), task.inputs, task.hidden, task.outputs, task.loss)
    jitted = jax.jit(task.draw, static_argnums=(1, 2))  # of the same function, so that it is compiled once a task
    draw = lambda key: jitted(key, task.length, task.batch)  # noqa: E731
    init_key, data_key = jax.random.split(jax.random.key(config.seed))
    T = len(jax.eval_shape(draw, data_key).xs)
    algorithm, optimiser = rj.bptt(network), config.adam(rate)
    step = train.make_step(algorithm, optimiser, train.clip_by_global_norm(config.clip))
    state = train.init_state(algorithm, optimiser, model.init(network, init_key, T), task.batch)
    chance, curve, solved, finite = task.chance(task.length), [], None, True
    chunk = next(size for size in range(min(50, config.every), 0, -1) if config.every % size == 0)
    began = time.perf_counter()
    with tqdm(total=task.steps, desc=name, unit="step", disable=None, leave=False) as bar:
        reports = train.run(
            step, state, lambda i: draw(jax.random.fold_in(data_key, i)), task.steps, config.every, chunk
        )
        try:
            for state, metrics in reports:
                curve.append((int(state.step), float(metrics.loss)))
                bar.update(int(state.step) - bar.n)
                bar.set_postfix(loss=f"{metrics.loss:.2g}")
                if metrics.loss < task.solved * chance:
                    solved = int(state.step)
                    break
        except train.NonFiniteError as error:
            state, finite = error.state, False
    seconds = time.perf_counter() - began
    tested = {"accuracy": accuracy(config, network, state.params)} if key == "parity" else {}
    return {
        "model": name,
        "rate": rate,
        "solved at step": solved,
        "finite": finite,
        "loss": curve[-1][1] if curve else float("nan"),
        "seconds": seconds,
        "curve": curve,
        **tested,
    }


def accuracy(config: Config, network: rj.Network, params: rj.Params) -> list[float]:
    """The share of right answers at each step of longer strings of parity than those of training."""
    batch = data.parity(jax.random.key(config.seed + 1000), config.test_length, config.tested)
    state = rj.initial_state(network, params, config.tested)
    os, _ = jax.jit(rj.apply, static_argnums=0)(network, params, state, batch.xs)
    right: list[float] = np.asarray((os.argmax(axis=-1) == batch.ys).mean(axis=1, dtype=jnp.float32)).tolist()
    return right


def run(config: Config) -> None:
    """Train every cell on every task, print, plot, and write summary.json after each task."""
    if config.quick:
        small = {"hidden": 16, "batch": 16, "steps": 100, "every": 50, "length": 12, "test_length": 48}
        config = dataclasses.replace(config, tasks=tuple(TASKS), **small)
        jax.config.update("jax_disable_most_optimizations", True)  # nearly all of the time would be compiling
    check(config)
    if config.cache:
        experiment.keep_compiled()
    parts = experiment.Parts("memory_tasks", config, FILES)
    summary: dict[str, Any] = {"machine": experiment.machine(), "tasks": {}}
    for key in config.tasks:
        task = settings(config, TASKS[key])
        if config.quick and config.models is None:
            task = task._replace(models=("elman", "gru", "min_gru") if key == "parity" else ("elman", "gru"))
        chance = task.chance(task.length)
        print(f"{task.title}: {sizes(key, task)}; loss without memory {chance:.4f}")
        rows = []
        for name in tqdm(task.models, desc=key, unit="cell", disable=None):
            rows.append(parts.result(f"{key}-{name}", functools.partial(learn, config, key, task, name)))
            tqdm.write(line(config, rows[-1]))
        summary["tasks"][key] = {"settings": sizes(key, task), "loss without memory": chance, "models": rows}
        parts.write_json("summary.json", summary)
        parts.write(f"{key}.png", functools.partial(plot, config, key, task, rows))
    parts.finish()
    print(f"run folder: {parts.folder}")


def check(config: Config) -> None:
    """Refuse what no run can have."""
    require(config.tasks, "tasks", config.tasks, f"some of {', '.join(TASKS)}")
    if config.models is not None:
        check_models(config.models)
    for name in ("length", "hidden", "batch", "steps", "every", "test_length", "tested"):
        if getattr(config, name) is not None:
            check_int(getattr(config, name), name)
    check_int(config.seed, "seed", 0)
    if config.length is not None:
        require(config.length > 2, "length", config.length, "3 steps or more")
    for name in ("rate", "clip", "solved"):
        if getattr(config, name) is not None:
            check_number(getattr(config, name), name, 1e-12, 1e12, "a positive number")
    check_rates(config.rates)
    check_adam(config)


def line(config: Config, row: dict[str, Any]) -> str:
    """What is printed of a cell."""
    end = f"solved at step {row['solved at step']:,}" if row["solved at step"] else "not solved"
    end = end if row["finite"] else "not finite"
    text = f"  {row['model']:<12} {row['loss']:>8.4f}   {end:<22}{row['seconds']:>6.0f} s"
    if "accuracy" in row:
        text += f"   {np.mean(row['accuracy'][-config.test_length // 2 :]):.1%} right in the last half of the test"
    return text


def sizes(key: str, task: Task) -> str:
    """The sizes as the title gives them."""
    return f"H = {task.hidden}, B = {task.batch}, {'lag' if key == 'copy_memory' else 'T'} = {task.length}"


def plot(config: Config, key: str, task: Task, rows: list[dict[str, Any]], path: Path) -> None:
    """The learning curve of each cell, and for parity the accuracy by steps of the test, 1, 2, 3 to 4, 5 to 8, ..."""
    title = f"{task.title}: one recurrent layer, {sizes(key, task)}, Adam"
    figure, axes = figures.panels(2 if key == "parity" else 1, title, 3.8)
    for row in rows:
        curve = np.array(row["curve"]).reshape(-1, 2)
        (drawn,) = axes[0].plot(*curve.T, **MODELS[row["model"]].look, markevery=max(len(curve) // 10, 1))
        if row["solved at step"]:
            axes[0].plot(*curve[-1], marker="*", ms=13, color=drawn.get_color(), mec="black", mew=0.6)
    figures.level(axes[0], task.chance(task.length))
    for remembered, loss in task.levels.items():
        figures.level(axes[0], loss, remembered)
    axes[0].set(yscale="log", xlim=(0, None), xlabel="training step", ylabel=task.unit)
    if key == "parity":
        ends = [0, *(2**power for power in range((config.test_length - 1).bit_length())), config.test_length]
        for row in rows:
            right = [100 * np.mean(row["accuracy"][first:end]) for first, end in itertools.pairwise(ends)]
            axes[1].plot(ends[1:], right, **MODELS[row["model"]].look)
        axes[1].axvline(task.length, color=figures.DARK_GREY, lw=1, ls=":")
        axes[1].annotate(
            " longest in training", (task.length, 0.9), xycoords=("data", "axes fraction"), va="top",
            color=figures.DARK_GREY, fontsize=9,
        )  # fmt: skip
        figures.level(axes[1], 50)
        axes[1].set(xscale="log", xlabel="step of a test string", ylabel="right answers, %", ylim=(40, 103))
    handles = [figures.entry(row["model"], **MODELS[row["model"]].look) for row in rows]
    if any(row["solved at step"] for row in rows):
        handles.append(figures.entry("solved", marker="*", ms=11, ls="", color="white", mec="black"))
    handles.append(figures.entry("without memory", color=figures.DARK_GREY, lw=1, ls=":"))
    figures.legend_below(figure, handles)
    figures.save(figure, path)


if __name__ == "__main__":
    experiment.main(Config, run)
