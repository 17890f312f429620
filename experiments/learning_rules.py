"""Compare every learning rule on one task: how right its gradient is, what it costs, and how well it trains.

The task is delayed addition: y_t is 1 with probability 1/2 + x_{t−6}/2 − x_{t−10}/4, for coins x.  Every rule sees the
sequence in short windows, as an online learner does, so that what it carries over their borders matters.

The parts:
  accuracy   error, cosine and relative variance of each rule's recurrent gradient, at the weights before and after
             training, and the cosines between each two rules
  time       microseconds a step of each rule, beside its error
  training   the loss of each rule, updated after each window

Examples:
  python experiments/learning_rules.py
  python experiments/learning_rules.py --parts training --rules bptt rtrl snap uoro
  python experiments/learning_rules.py --quick
"""

import dataclasses
import functools
import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import figures
import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import require
from rnn_jax.data.tasks import LEVELS, delayed_addition

FILES = r"summary\.json|(alignment|tradeoff|training)\.png"
"""What a run writes beside config.json."""
RULES = tuple(name for name in rj.ALGORITHMS if name != "autodiff")


@dataclass(frozen=True)
class Config:
    """Which rules to compare, on which network, and for how long."""

    parts: tuple[Literal["accuracy", "time", "training"], ...] = ("accuracy", "time", "training")
    rules: tuple[str, ...] = RULES
    """Names of the registry."""
    cell: str = "elman"
    """A name of the registry of cells."""
    hidden: int = 32
    """H."""
    window: int = 5
    """Steps between two updates."""
    length: int = 100
    """T of the sequences on which gradients are compared."""
    batch: int = 8
    """B."""
    steps: int = 4000
    """Windows to train on."""
    rate: float = 3e-3
    """Of Adam."""
    seeds: int = 3
    """Networks and sequences; the figures are means over them."""
    keys: int = 64
    """Draws of each stochastic rule."""
    seed: int = 0
    out: Path | None = None
    """Run folder; by default runs/learning_rules/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    quick: bool = False
    """A small network, short sequences, one seed and a few steps."""


def over_windows(algorithm: rj.Algorithm, window: int, params: Any, batch: rj.Batch, key: Any) -> Any:
    """The loss and gradient of a sequence, summed over its windows; the carry too, so that nothing is left out."""
    count = len(batch.xs) // window
    windows = jax.tree.map(lambda a: a[: count * window].reshape(count, window, *a.shape[1:]), batch)
    carry = algorithm.init(params, batch.xs.shape[1], key)
    carry, estimates = jax.lax.scan(functools.partial(algorithm.update, params), carry, windows)
    return jax.tree.map(lambda a: a.sum(axis=0), estimates.grads), carry


def recurrent(grads: rj.Params) -> Any:
    """The gradient of the layers as one vector; the readout's is exact in every rule, and would hide the rest."""
    return ravel_pytree(grads.layers)[0]


def network_of(config: Config) -> rj.Network:
    """Two inputs, two classes."""
    return rj.Network((rj.CELLS[config.cell],), 2, config.hidden, 2, rj.softmax_cross_entropy())


def gradients(config: Config, params: rj.Params, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The exact gradient, and draws of each rule's, [keys, θ]."""
    network, batch = network_of(config), delayed_addition(jax.random.key(seed), config.length, config.batch)
    _, exact = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
    drawn = {}
    for name in config.rules:
        algorithm = rj.ALGORITHMS[name](network)
        count = config.keys if isinstance(algorithm.claim, rj.Unbiased) else 1

        @jax.jit
        def draw(key: Any, algorithm: rj.Algorithm = algorithm) -> Any:
            return recurrent(over_windows(algorithm, config.window, params, batch, key)[0])

        drawn[name] = np.stack([draw(key) for key in jax.random.split(jax.random.key(seed + 1), count)])
    return np.asarray(recurrent(exact)), drawn


def accuracy(exact: np.ndarray, drawn: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Of each rule: the error of its mean, its relative variance, and the mean cosine of its draws."""
    size = np.linalg.norm(exact)
    return {
        name: {
            "bias": float(np.linalg.norm(g.mean(0) - exact) / size),
            "variance": float(np.square(g - g.mean(0)).sum(1).mean() / size**2),
            "error": float(np.sqrt(np.square(g - exact).sum(1).mean()) / size),
            "cosine": float((g @ exact / np.linalg.norm(g, axis=1) / size).mean()),
        }
        for name, g in drawn.items()
    }


def alignment(drawn: dict[str, np.ndarray]) -> np.ndarray:
    """The cosine of each two rules' first draws."""
    unit = np.stack([g[0] / np.linalg.norm(g[0]) for g in drawn.values()])
    return unit @ unit.T


def train(config: Config, name: str, seed: int) -> tuple[list[float], rj.Params]:
    """The loss a step over training, averaged over reports, and the weights after it."""
    network = network_of(config)
    algorithm, optimiser = rj.ALGORITHMS[name](network), optax.adam(config.rate)
    params = rj.init(network, jax.random.key(seed), recurrent="orthogonal")
    data = delayed_addition(jax.random.key(seed + 100), config.steps * config.window, config.batch)

    def batch_at(index: int) -> rj.Batch:
        return jax.tree.map(lambda a: a[config.window * index :][: config.window], data)

    data = jax.tree.map(np.asarray, data)
    start = rj.train.init_state(algorithm, optimiser, params, config.batch, jax.random.key(seed))
    step, every, losses = rj.train.make_step(algorithm, optimiser), max(1, config.steps // 40), []
    for state, metrics in rj.train.run(step, start, batch_at, config.steps, every=every, chunk=every):
        losses.append(float(metrics.loss))
        params = state.params
    return losses, params


def seconds(config: Config) -> dict[str, float]:
    """Microseconds a step of each rule, interleaved; compiling is left out."""
    network = network_of(config)
    params = rj.init(network, jax.random.key(0), recurrent="orthogonal")
    batch, key = delayed_addition(jax.random.key(1), config.length, config.batch), jax.random.key(2)
    programs = {}
    for name in config.rules:
        algorithm = rj.ALGORITHMS[name](network)
        program = jax.jit(functools.partial(over_windows, algorithm, config.window))
        programs[name] = program.lower(params, batch, key).compile()
        jax.block_until_ready(programs[name](params, batch, key))
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _, (name, program) in itertools.product(range(3 if config.quick else 15), programs.items()):
        start = time.perf_counter()
        jax.block_until_ready(program(params, batch, key))
        times[name].append(1e6 * (time.perf_counter() - start) / config.length)
    return {name: statistics.median(each) for name, each in times.items()}


def mean(results: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Over the seeds."""
    return {
        name: {field: statistics.fmean(each[name][field] for each in results) for field in results[0][name]}
        for name in results[0]
    }


def run(config: Config) -> None:
    """Measure what is asked for, print it, plot it, and write summary.json."""
    unknown = [name for name in config.rules if name not in RULES]
    require(not unknown and config.rules, "rules", unknown or config.rules, f"some of {', '.join(RULES)}")
    require(config.cell in rj.CELLS, "cell", config.cell, f"one of {', '.join(rj.CELLS)}")
    if config.quick:
        config = dataclasses.replace(config, hidden=8, length=30, batch=2, steps=40, seeds=1, keys=4)
    folder = experiment.new_folder("learning_rules", config, FILES)
    summary: dict[str, Any] = {"machine": experiment.machine()}
    trained: dict[tuple[str, int], Any] = {}
    if "training" in config.parts:
        runs = list(itertools.product(config.rules, range(config.seeds)))
        for name, seed in tqdm(runs, desc="training", disable=None):
            trained[name, seed] = train(config, name, config.seed + seed)
        summary["training"] = {name: [trained[name, seed][0] for seed in range(config.seeds)] for name in config.rules}
        plot_training(config, summary["training"], folder / "training.png")
    if "accuracy" in config.parts or "time" in config.parts:
        network, results, cosines = network_of(config), [], []
        for seed in tqdm(range(config.seed, config.seed + config.seeds), desc="gradients", disable=None):
            params = rj.init(network, jax.random.key(seed), recurrent="orthogonal")
            exact, drawn = gradients(config, params, seed)
            results.append(accuracy(exact, drawn))
            cosines.append(alignment(drawn))
        summary["accuracy"], summary["alignment"] = mean(results), np.mean(cosines, axis=0).tolist()
        plot_alignment(config, np.mean(cosines, axis=0), folder / "alignment.png")
    if "time" in config.parts:
        summary["microseconds"] = seconds(config)
        plot_tradeoff(config, summary, folder / "tradeoff.png")
    report(config, summary)
    experiment.write_json(folder / "summary.json", summary)
    print(f"run folder: {folder}")


def report(config: Config, summary: dict[str, Any]) -> None:
    """One line a rule."""
    print(f"{'rule':<20}{'claim':<10}{'bias':>9}{'variance':>10}{'cosine':>8}{'µs a step':>11}{'final loss':>12}")
    for name in config.rules:
        claim = type(rj.ALGORITHMS[name](network_of(config)).claim).__name__
        measured, none = summary.get("accuracy", {}).get(name, {}), float("nan")
        figures_ = [measured.get(field, none) for field in ("bias", "variance", "cosine")]
        microseconds = summary.get("microseconds", {}).get(name, none)
        losses = [statistics.fmean(each[-4:]) for each in summary.get("training", {}).get(name, [])]
        final = statistics.fmean(losses) if losses else none
        print(
            f"{name:<20}{claim:<10}{figures_[0]:>9.1e}{figures_[1]:>10.1e}{figures_[2]:>8.2f}{microseconds:>11.1f}{final:>12.3f}"
        )


def title(config: Config) -> str:
    """What every plot is of."""
    model = figures.model(config.cell.split("-")[0], H=config.hidden, B=config.batch)
    return f"{model}, delayed addition, windows of {config.window}"


def plot_alignment(config: Config, cosines: np.ndarray, path: Path) -> None:
    """A heat map of the cosines between each two rules."""
    figure, (axes,) = figures.panels(1, f"Cosine of two rules' recurrent gradients: {title(config)}", 6.5)
    image = axes.imshow(cosines, vmin=-1, vmax=1, cmap="PuOr")
    names = list(config.rules)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(cosines):
        colour = "white" if abs(value) > 0.7 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, label="cosine")
    figures.save(figure, path)


COLOURS = {"Exact": figures.BLUE, "Unbiased": figures.ORANGE, "Biased": figures.GREEN}


def plot_tradeoff(config: Config, summary: dict[str, Any], path: Path) -> None:
    """Time a step against the error of one draw."""
    figure, (axes,) = figures.panels(1, f"Time against error: {title(config)}, T = {config.length}", 4.6)
    for name in config.rules:
        claim = type(rj.ALGORITHMS[name](network_of(config)).claim).__name__
        point = summary["microseconds"][name], max(summary["accuracy"][name]["error"], 1e-8)
        axes.loglog(*point, "o", color=COLOURS[claim])
        axes.annotate(name, point, xytext=(5, 3), textcoords="offset points", fontsize=9)
    axes.set(xlabel="microseconds a step", ylabel="error of one draw, of the gradient's norm")
    figures.legend_below(figure, [figures.entry(claim, color=c, marker="o", ls="") for claim, c in COLOURS.items()])
    figures.save(figure, path)


def plot_training(config: Config, losses: dict[str, list[list[float]]], path: Path) -> None:
    """The mean loss over the seeds against the windows seen."""
    figure, (axes,) = figures.panels(1, f"Training online: {title(config)}, Adam {config.rate}", 4.8)
    palette = (
        figures.BLUE,
        figures.ORANGE,
        figures.GREEN,
        figures.VERMILLION,
        figures.PURPLE,
        figures.SKY,
        figures.BLACK,
    )
    looks = [{"color": colour, "ls": line} for line in ("-", ":") for colour in palette]
    handles = []
    for (name, each), style in zip(losses.items(), itertools.cycle(looks), strict=False):
        curve = np.mean(each, axis=0)
        axes.plot(np.linspace(0, config.steps, len(curve) + 1)[1:], curve, **style)
        handles.append(figures.entry(name, **style))
    for known, nats in LEVELS.items():
        figures.level(axes, nats, f"best loss, {known}")
    axes.set(xlabel="windows", ylabel="cross-entropy a step, nats")
    figures.legend_below(figure, handles, 5)
    figures.save(figure, path)


if __name__ == "__main__":
    experiment.main(Config, run)
