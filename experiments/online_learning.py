"""What it costs to learn online: an update after every step, and influence and states made by the weights of the past.

The influence M of the textbook's RTRL has seen the weights of each step.  ``rtrl(online=True)`` keeps the last steps,
and walks back through them by the current weights.  Truncation keeps the last steps alone.  At each learning rate of
SGD two things are measured, over the recurrent parameters:

  the error of a step's gradient, against the exact one: of that step's loss, the whole sequence so far run anew at the
  current weights;
  the distance between the weights of a rule and of the textbook's RTRL after training, over the distance moved.

Examples:
  python experiments/online_learning.py
  python experiments/online_learning.py --rates 1e-3 1e-2 --steps 2000
  python experiments/online_learning.py --quick
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import require
from rnn_jax.data.tasks import delayed_addition

DIVERGED = 10
"""Weights that have moved this many times their norm at the start are not compared."""
TEXTBOOK = "rtrl, a border at each step"
RULES: dict[str, Callable[[rj.Network], rj.Algorithm]] = {
    TEXTBOOK: functools.partial(rj.rtrl, segment=1),
    "rtrl, online": functools.partial(rj.rtrl, online=True),
    "truncated, h = 16": functools.partial(rj.truncated, history=16, every=1),
    "truncated, h = 4": functools.partial(rj.truncated, history=4, every=1),
    "immediate": rj.immediate,
}
LOOKS = {
    TEXTBOOK: {"color": figures.BLUE, "marker": "o", "ms": 9, "mfc": "none"},
    "rtrl, online": {"color": figures.ORANGE, "marker": "s"},
    "truncated, h = 16": {"color": figures.GREEN, "marker": "^"},
    "truncated, h = 4": {"color": figures.PURPLE, "marker": "v"},
    "immediate": {"color": figures.BLACK, "marker": "D"},
}


@dataclass(frozen=True)
class Config:
    """Which network learns, for how long, and at which rates."""

    cell: str = "elman"
    """A name of the registry of cells."""
    hidden: int = 32
    """H."""
    batch: int = 4
    """B."""
    steps: int = 1000
    """Steps of the sequence, with an update after each."""
    checks: int = 50
    """Steps of the last half at which the gradient is compared; they are spread evenly."""
    rates: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Learning rates of SGD, of the mean gradient over the batch."""
    seeds: int = 3
    """Networks and sequences; the figures are geometric means over them."""
    seed: int = 0
    """The first seed."""
    out: Path | None = None
    """Run folder; by default runs/online_learning/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    quick: bool = False
    """A small network, few steps and rates, and one seed."""


def recurrent(params: rj.Params) -> jax.Array:
    """The parameters of the layers as one vector."""
    return ravel_pytree(params.layers)[0]


def learner(algorithm: rj.Algorithm, network: rj.Network, config: Config) -> Callable[..., Any]:
    """``(rate, params, data) -> (error, weights after training, loss of the last quarter)``."""
    exact = rj.value_and_grad(rj.bptt(network))
    first = config.steps // 2
    at = jnp.linspace(first, config.steps - 1, config.checks).astype(jnp.int32)

    @jax.jit
    def learn(rate: Any, params: rj.Params, data: rj.Batch) -> Any:
        optimiser = optax.sgd(rate)
        step = rj.train.make_step(algorithm, optimiser)

        def update(state: Any, window: rj.Batch) -> Any:
            _, estimate = algorithm.update(state.params, state.carry, window)
            after, metrics = step(state, window)
            return after, (state.params, recurrent(estimate.grads), metrics.loss)

        windows = jax.tree.map(lambda a: a[:, None], data)
        start = rj.train.init_state(algorithm, optimiser, params, config.batch)
        end, (weights, grads, losses) = jax.lax.scan(update, start, windows)

        def compare(t: Any) -> Any:
            now = jax.tree.map(lambda a: a[t], weights)
            alone = jnp.broadcast_to((jnp.arange(config.steps) == t)[:, None], data.xs.shape)
            reference = recurrent(exact(now, data._replace(weight=alone.astype(jnp.float32)))[1])
            return jnp.square(grads[t] - reference).sum(), jnp.square(reference).sum()

        off, size = jax.lax.map(compare, at)
        return jnp.sqrt(off.sum() / size.sum()), recurrent(end.params), losses[-config.steps // 4 :].mean()

    return learn


def measure(config: Config) -> list[dict[str, Any]]:
    """A row for each rule and rate, with a number a seed."""
    network = rj.Network((rj.CELLS[config.cell],), 2, config.hidden, 2, rj.softmax_cross_entropy())
    seeds = range(config.seed, config.seed + config.seeds)
    params = [rj.init(network, jax.random.key(seed), recurrent="orthogonal") for seed in seeds]
    data = [delayed_addition(jax.random.key(seed + 1000), config.steps, config.batch) for seed in seeds]
    rows: list[dict[str, Any]] = []
    textbook: dict[tuple[float, int], Any] = {}
    for name, build in tqdm(RULES.items(), desc="rules", disable=None):
        learn = learner(build(network), network, config)
        for rate in config.rates:
            row: dict[str, Any] = {"rule": name, "rate": rate, "error": [], "distance": [], "loss": []}
            for seed, (start, sequence) in enumerate(zip(params, data, strict=True)):
                error, weights, loss = learn(rate, start, sequence)
                weights, origin = np.asarray(weights, np.float64), np.asarray(recurrent(start), np.float64)
                reference = textbook.setdefault((rate, seed), weights)
                moved = np.linalg.norm(reference - origin)
                far = max(moved, np.linalg.norm(weights - origin)) > DIVERGED * np.linalg.norm(origin)
                row["error"].append(float("nan") if far else float(error))
                row["distance"].append(float("nan") if far else float(np.linalg.norm(weights - reference) / moved))
                row["loss"].append(float(loss))
            rows.append(row)
    return rows


def run(config: Config) -> None:
    """Measure, print, plot, and write summary.json."""
    require(config.cell in rj.CELLS, "cell", config.cell, f"one of {', '.join(rj.CELLS)}")
    for name in ("hidden", "batch", "steps", "checks", "seeds"):
        require(getattr(config, name) > 0, name, getattr(config, name), "positive")
    require(config.rates and min(config.rates) > 0, "rates", config.rates, "positive numbers, one or more")
    if config.quick:
        config = dataclasses.replace(config, hidden=8, batch=2, steps=60, checks=8, rates=(1e-4, 1e-2), seeds=1)
    folder = experiment.new_folder("online_learning", config, r"summary\.json|online_learning\.png")
    rows = measure(config)
    plot(config, rows, folder / "online_learning.png")
    print("error of a step's gradient; distance of the weights from the textbook's, over the distance moved; loss")
    print(f"{'rate':>9}" + "".join(f"{name:>30}" for name in RULES))
    for rate in config.rates:
        cells = [
            tuple(mean(row[field]) for field in ("error", "distance", "loss")) for row in rows if row["rate"] == rate
        ]
        print(
            f"{rate:>9.0e}" + "".join(f"{error:>12.1e}{distance:>10.1e}{loss:>8.3f}" for error, distance, loss in cells)
        )
    experiment.write_json(folder / "summary.json", {"machine": experiment.machine(), "rows": rows})
    print(f"run folder: {folder}")


def mean(numbers: list[float]) -> float:
    """The geometric mean; 0 where one is, and NaN where a run has diverged."""
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(numbers))))


def plot(config: Config, rows: list[dict[str, Any]], path: Path) -> None:
    """The error of the gradient and the distance of the weights against the learning rate."""
    sizes = figures.model(config.cell.split("-")[0], H=config.hidden, B=config.batch, T=config.steps)
    title = f"An update after every step, SGD on delayed addition: {sizes}"
    figure, (left, right) = figures.panels(2, title, 4.6)
    for name, look in LOOKS.items():
        of_rule = [row for row in rows if row["rule"] == name]
        left.plot(config.rates, [mean(row["error"]) for row in of_rule], **look)
        if name != TEXTBOOK:
            right.plot(config.rates, [mean(row["distance"]) for row in of_rule], **look)
    losses = [float(np.mean(row["loss"])) for row in rows if row["rule"] == TEXTBOOK]
    for axes in (left, right):
        axes.axvline(config.rates[int(np.argmin(losses))], color=figures.DARK_GREY, lw=1, ls=":")
        axes.set(xscale="log", yscale="log", xlabel="learning rate")
    left.set(ylabel="error of a step's gradient / norm of it")
    right.set(ylabel="distance from the textbook's weights / moved")
    handles = [figures.entry(name, **look) for name, look in LOOKS.items()]
    handles.append(figures.entry("rate of least loss", color=figures.DARK_GREY, lw=1, ls=":"))
    figures.legend_below(figure, handles, 3)
    figures.save(figure, path)


if __name__ == "__main__":
    experiment.main(Config, run)
