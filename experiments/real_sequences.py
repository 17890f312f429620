"""Train small recurrent networks on real sequences, by bptt and Adam, and test them on sequences held out.

The sets:
  digits  handwritten digits, pixel by pixel: the class of an image after 64 steps (scikit-learn)
  vowels  utterances of 7 to 29 frames, with masks: which of nine men speaks (sktime, the set JapaneseVowels)
  laser   the intensity of a chaotic laser, one step ahead (reservoirpy, series A of the Santa Fe competition)

They are files of these packages: pip install 'rnn-jax[real]'.  Five minutes on two cores.

Examples:
  python experiments/real_sequences.py
  python experiments/real_sequences.py --sets vowels --models elman irnn lstm gru
  python experiments/real_sequences.py --out runs/real --resume auto
  python experiments/real_sequences.py --quick
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import figures
import jax
import jax.numpy as jnp
import numpy as np
import optax
from adam import Adam, check_adam
from models import MODELS, check_models, check_rates
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment, train
from rnn_jax.checks import check_int, check_number, require
from rnn_jax.data import real

RATE = 1e-2
"""Learning rate of networks with gates."""
SETS = ("digits", "vowels", "laser")
FILES = r"summary\.json|real_sequences\.png"


@dataclass(frozen=True)
class Config(Adam):
    """Which networks learn what, and how."""

    sets: tuple[Literal["digits", "vowels", "laser"], ...] = SETS
    """The sets of sequences, one after another."""
    models: tuple[str, ...] = ("elman", "gru", "lstm")
    """The networks, by the names of experiments/models.py."""
    hidden: int = 64
    """H, units of the one recurrent layer."""
    batch: int = 32
    """B, sequences a training step."""
    epochs: int = 40
    """Passes over the sequences for training, of the laser over its windows."""
    rate: float | None = None
    """Learning rate of Adam at the start, for all networks; by default that of --rates, and of others 1e-2."""
    rates: tuple[tuple[str, float], ...] = (("elman", 3e-3), ("irnn", 3e-4))
    """Networks that have a learning rate of their own where --rate is left out, each followed by it: those without
    gates, whose gradient grows most."""
    last_rate: float = 0.0
    """The share of the learning rate that is left at the end, along a cosine."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    laser_learnt: int = 8000
    """Steps of the laser from which windows for training come; the others are held out."""
    laser_window: int = 120
    """Steps of a window of the laser."""
    laser_stride: int = 5
    """Steps of the laser between the starts of two windows."""
    laser_warm_up: int = 20
    """Steps at the start of a window of the laser that have no weight."""
    seed: int = 0
    """The seed of parameters and of the order of sequences."""
    out: Path | None = None
    """Run folder; by default runs/real_sequences/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next start."""
    quick: bool = False
    """Two small networks and two epochs."""


class Problem(NamedTuple):
    """A set of sequences as a problem of training."""

    network: Callable[[rj.Cell, int], rj.Network]
    """``(cell, H) -> network``."""
    sequences: rj.Batch
    """For training, as columns."""
    score: Callable[[rj.Network, rj.Params], float]
    """What is measured on the sequences held out."""
    chance: float
    """The score of those who guess: of the most frequent class, or that all stays as it is."""
    name: str
    """What the score is, with its unit."""


def classified(sequences: rj.Batch, held_out: rj.Batch, name: str) -> Problem:
    """Sequences with a class each, which is asked for at the step that has weight."""
    classes = int(np.max(sequences.ys)) + 1
    frequencies = np.bincount(np.asarray(held_out.ys)[0], minlength=classes)

    def network(cell: rj.Cell, hidden: int) -> rj.Network:
        return rj.Network((cell,), sequences.xs.shape[-1], hidden, classes, rj.softmax_cross_entropy())

    def score(network: rj.Network, params: rj.Params) -> float:
        right = outputs(network, params, held_out.xs, held_out.mask).argmax(axis=-1) == held_out.ys
        return 100 * float((right * held_out.weight).sum() / held_out.weight.sum())

    return Problem(network, sequences, score, 100 * frequencies.max() / frequencies.sum(), name)


def digits(config: Config) -> Problem:
    """Digits, of which each pixel is a step."""
    return classified(*real.pixel_digits(), "digits: right, % of 359 held out")


def vowels(config: Config) -> Problem:
    """Speakers of vowels, of any length."""
    return classified(*real.japanese_vowels(), "vowels: right, % of 370 held out")


def laser(config: Config) -> Problem:
    """The next intensity of a laser; the error is the mean square over the variance, of the steps held out."""
    learnt, T = config.laser_learnt, config.laser_window
    series = real.santa_fe_laser()
    series = (series - series[:learnt].mean()) / series[:learnt].std()
    starts = np.arange(0, learnt - T, config.laser_stride)
    t = np.arange(T)[:, None]
    windows = series[starts[None] + t][..., None], series[starts[None] + t + 1][..., None]
    reset, weight = (
        np.broadcast_to(part, (T, len(starts))) for part in (t == 0, np.float32(t >= config.laser_warm_up))
    )
    variance = series[learnt:].var()

    def network(cell: rj.Cell, hidden: int) -> rj.Network:
        return rj.Network((cell,), 1, hidden, 1, rj.squared_error())

    def score(network: rj.Network, params: rj.Params) -> float:
        ahead = outputs(network, params, series[:-1, None, None], None)[learnt - 1 :, 0, 0]
        return float(jnp.square(ahead - series[learnt:]).mean() / variance)

    persistence = float(np.square(series[learnt:] - series[learnt - 1 : -1]).mean() / variance)
    sequences = rj.Batch(*windows, reset=reset, weight=weight)
    return Problem(network, sequences, score, persistence, "laser: mean square error / variance")


PROBLEMS = {"digits": digits, "vowels": vowels, "laser": laser}
apply = jax.jit(rj.apply, static_argnums=0)


def outputs(network: rj.Network, params: rj.Params, xs: Any, mask: Any) -> np.ndarray:
    """The outputs of sequences from the zero state, [T, N, K]."""
    state = rj.initial_state(network, params, xs.shape[1])
    return np.asarray(apply(network, params, state, xs, mask)[0])


def learn(config: Config, problem: Problem, name: str) -> dict[str, Any]:
    """Train one network; a point of the curve is its score after an epoch."""
    model = MODELS[name]
    network = problem.network(model.cell, config.hidden)
    T, N = problem.sequences.xs.shape[:2]
    B = min(config.batch, N)
    per_epoch = N // B
    rate = config.rate or dict(config.rates).get(name, RATE)
    algorithm = rj.bptt(network)
    optimiser = config.adam(optax.cosine_decay_schedule(rate, config.epochs * per_epoch, config.last_rate))
    step = train.make_step(algorithm, optimiser, train.clip_by_global_norm(config.clip))
    params = model.init(network, jax.random.key(config.seed), T)
    state = train.init_state(algorithm, optimiser, params, B)

    def batch_at(index: int) -> rj.Batch:
        epoch, place = divmod(index, per_epoch)
        chosen = np.random.default_rng([config.seed, epoch]).permutation(N)[place * B :][:B]
        return jax.tree.map(lambda part: part[:, chosen], problem.sequences)

    curve: list[tuple[int, float]] = []
    began = time.perf_counter()
    reports = train.run(step, state, batch_at, config.epochs * per_epoch, every=per_epoch, chunk=per_epoch)
    with tqdm(total=config.epochs, desc=name, unit="epoch", disable=None, leave=False) as bar:
        for state, metrics in reports:
            curve.append((int(state.step) // per_epoch, problem.score(network, state.params)))
            bar.update()
            bar.set_postfix(loss=f"{metrics.loss:.2g}", held_out=f"{curve[-1][1]:.4g}")
    return {"model": name, "held out": curve[-1][1], "seconds": time.perf_counter() - began, "curve": curve}


def run(config: Config) -> None:
    """Train every network on every set, print, plot, and write summary.json."""
    if config.quick:
        config = dataclasses.replace(config, models=("elman", "gru"), hidden=8, epochs=2)
    check(config)
    if config.cache:
        experiment.keep_compiled()
    problems = {name: PROBLEMS[name](config) for name in config.sets}
    parts = experiment.Parts("real_sequences", config, FILES)
    summary: dict[str, Any] = {"machine": experiment.machine(), "sets": {}}
    for key, problem in problems.items():
        print(f"{problem.name}; {problem.chance:.3g} by guessing")
        rows = []
        for name in tqdm(config.models, desc=key, unit="network", disable=None):
            rows.append(parts.result(f"{key}-{name}", functools.partial(learn, config, problem, name)))
            tqdm.write(f"  {name:<12}{rows[-1]['held out']:>9.4g}{rows[-1]['seconds']:>6.0f} s")
        summary["sets"][key] = {"score": problem.name, "by guessing": problem.chance, "models": rows}
        parts.write_json("summary.json", summary)
    parts.write("real_sequences.png", functools.partial(plot, config, summary["sets"]))
    parts.finish()
    print(f"run folder: {parts.folder}")


def check(config: Config) -> None:
    """Refuse what no run can have."""
    require(config.sets, "sets", config.sets, f"some of {', '.join(SETS)}")
    check_models(config.models)
    for name in ("hidden", "batch", "epochs", "laser_learnt", "laser_window", "laser_stride"):
        check_int(getattr(config, name), name)
    fits = 0 <= config.laser_warm_up < config.laser_window < config.laser_learnt <= 10_000
    sizes = config.laser_warm_up, config.laser_window, config.laser_learnt
    require(fits, "laser_warm_up, laser_window, laser_learnt", sizes, "each smaller than the next, at most 10,000")
    check_number(config.last_rate, "last_rate", 0, 1, "in 0 … 1")
    check_int(config.seed, "seed", 0)
    for name in ("rate", "clip"):
        if getattr(config, name) is not None:
            check_number(getattr(config, name), name, 1e-12, 1e12, "a positive number")
    check_rates(config.rates)
    check_adam(config)


def plot(config: Config, sets: dict[str, Any], path: Path) -> None:
    """The score of each network after each epoch, a panel a set."""
    title = f"Held-out sequences: one recurrent layer, H = {config.hidden}, B = {config.batch}, bptt and Adam"
    figure, panels = figures.panels(len(sets), title, 3.6)
    for axes, (key, found) in zip(panels, sets.items(), strict=True):
        for row in found["models"]:
            axes.plot(
                *zip(*row["curve"], strict=True), **MODELS[row["model"]].look, markevery=max(config.epochs // 8, 1)
            )
        figures.level(axes, found["by guessing"], "persistence" if key == "laser" else "guessing")
        axes.set(xlabel="epoch", ylabel=found["score"], yscale="log" if key == "laser" else "linear")
    figures.legend_below(figure, [figures.entry(name, **MODELS[name].look) for name in config.models])
    figures.save(figure, path)


if __name__ == "__main__":
    experiment.main(Config, run)
