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
  python experiments/online_learning.py --out runs/online --resume auto
  python experiments/online_learning.py --quick
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
from rnn_jax.network import Recurrent

TEXTBOOK = "rtrl, a border at each step"
LOOKS = (
    {"color": figures.BLUE, "marker": "o", "ms": 9, "mfc": "none"},
    {"color": figures.ORANGE, "marker": "s"},
    {"color": figures.GREEN, "marker": "^"},
    {"color": figures.PURPLE, "marker": "v"},
    {"color": figures.BLACK, "marker": "D"},
)
"""Of the rules in their order."""


@dataclass(frozen=True)
class Config:
    """Which network learns, for how long, and at which rates."""

    cell: str = "elman"
    """A name of the registry of cells."""
    hidden: int = 32
    """H."""
    recurrent: Recurrent = "orthogonal"
    """Initialisation of W."""
    batch: int = 4
    """B."""
    steps: int = 1000
    """Steps of the sequence, with an update after each."""
    checks: int = 50
    """Steps of the last half at which the gradient is compared; they are spread evenly."""
    rates: tuple[float, ...] = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Learning rates of SGD, of the mean gradient over the batch."""
    histories: tuple[int, int] = (16, 4)
    """Steps over which the two truncated rules walk back."""
    diverged: float = 10.0
    """Weights that have moved more than so many times their norm at the start are not compared."""
    seeds: int = 3
    """Networks and sequences; the figures are geometric means over them."""
    seed: int = 0
    """The first seed."""
    out: Path | None = None
    """Run folder; by default runs/online_learning/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next start."""
    quick: bool = False
    """A small network, few steps and rates, and one seed."""


def rules_of(config: Config) -> dict[str, Callable[[rj.Network], rj.Algorithm]]:
    """All rules, the textbook's RTRL first."""
    truncated = {
        f"truncated, h = {history}": functools.partial(rj.truncated, history=history, every=1)
        for history in config.histories
    }
    textbook, online = functools.partial(rj.rtrl, segment=1), functools.partial(rj.rtrl, online=True)
    return {TEXTBOOK: textbook, "rtrl, online": online, **truncated, "immediate": rj.immediate}


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


def problems_of(config: Config) -> tuple[rj.Network, list[tuple[rj.Params, rj.Batch]]]:
    """The network, and for each seed the weights at the start and a sequence."""
    network = rj.Network((rj.CELLS[config.cell],), 2, config.hidden, 2, rj.softmax_cross_entropy())
    seeds = range(config.seed, config.seed + config.seeds)
    params = [rj.init(network, jax.random.key(seed), config.recurrent) for seed in seeds]
    data = [delayed_addition(jax.random.key(seed + 1000), config.steps, config.batch) for seed in seeds]
    return network, list(zip(params, data, strict=True))


def train(config: Config, name: str) -> list[list[tuple[float, list[float], float]]]:
    """The error, the weights after training and the loss of a rule, by the rate and the seed."""
    network, problems = problems_of(config)
    learn = learner(rules_of(config)[name](network), network, config)
    learnt = [[learn(rate, *problem) for problem in problems] for rate in config.rates]
    return [[(float(error), weights.tolist(), float(loss)) for error, weights, loss in row] for row in learnt]


def measure(config: Config, parts: experiment.Parts) -> list[dict[str, Any]]:
    """A row for each rule and rate, with a number a seed."""
    rules = rules_of(config)
    learnt = {
        name: parts.result(name, functools.partial(train, config, name))
        for name in tqdm(rules, desc="rules", disable=None)
    }
    origins = [np.asarray(recurrent(start), np.float64) for start, _ in problems_of(config)[1]]
    rows: list[dict[str, Any]] = []
    for name, (place, rate) in itertools.product(rules, enumerate(config.rates)):
        row: dict[str, Any] = {"rule": name, "rate": rate, "error": [], "distance": [], "loss": []}
        for seed, origin in enumerate(origins):
            error, weights, loss = learnt[name][place][seed]
            reference = np.array(learnt[TEXTBOOK][place][seed][1])
            moved, distance = np.linalg.norm(reference - origin), np.linalg.norm(np.array(weights) - reference)
            farthest = max(moved, np.linalg.norm(np.array(weights) - origin))
            far = farthest > config.diverged * np.linalg.norm(origin)
            row["error"].append(float("nan") if far else error)
            row["distance"].append(float("nan") if far else float(distance / moved))
            row["loss"].append(loss)
        rows.append(row)
    return rows


def run(config: Config) -> None:
    """Measure, print, plot, and write summary.json."""
    require(config.cell in rj.CELLS, "cell", config.cell, f"one of {', '.join(rj.CELLS)}")
    for name in ("hidden", "batch", "steps", "checks", "seeds"):
        require(getattr(config, name) > 0, name, getattr(config, name), "positive")
    require(min(config.histories) > 0, "histories", config.histories, "positive")
    require(config.histories[0] != config.histories[1], "histories", config.histories, "two different ones")
    require(config.diverged > 0, "diverged", config.diverged, "positive")
    require(config.rates and min(config.rates) > 0, "rates", config.rates, "positive numbers, one or more")
    if config.quick:
        config = dataclasses.replace(config, hidden=8, batch=2, steps=60, checks=8, rates=(1e-4, 1e-2), seeds=1)
    if config.cache:
        experiment.keep_compiled()
    parts = experiment.Parts("online_learning", config, r"summary\.json|online_learning\.png")
    rows = measure(config, parts)
    parts.write("online_learning.png", functools.partial(plot, config, rows))
    print("error of a step's gradient; distance of the weights from the textbook's, over the distance moved; loss")
    print(f"{'rate':>9}" + "".join(f"{name:>30}" for name in rules_of(config)))
    for rate in config.rates:
        cells = [
            tuple(mean(row[field]) for field in ("error", "distance", "loss")) for row in rows if row["rate"] == rate
        ]
        print(
            f"{rate:>9.0e}" + "".join(f"{error:>12.1e}{distance:>10.1e}{loss:>8.3f}" for error, distance, loss in cells)
        )
    parts.write_json("summary.json", {"machine": experiment.machine(), "rows": rows})
    parts.finish()
    print(f"run folder: {parts.folder}")


def mean(numbers: list[float]) -> float:
    """The geometric mean; 0 where one is, and NaN where a run has diverged."""
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(numbers))))


def plot(config: Config, rows: list[dict[str, Any]], path: Path) -> None:
    """The error of the gradient and the distance of the weights against the learning rate."""
    sizes = figures.model(config.cell.split("-")[0], H=config.hidden, B=config.batch, T=config.steps)
    title = f"An update after every step, SGD on delayed addition: {sizes}"
    figure, (left, right) = figures.panels(2, title, 4.6)
    looks = dict(zip(rules_of(config), LOOKS, strict=True))
    for name, look in looks.items():
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
    handles = [figures.entry(name, **look) for name, look in looks.items()]
    handles.append(figures.entry("rate of least loss", color=figures.DARK_GREY, lw=1, ls=":"))
    figures.legend_below(figure, handles, 3)
    figures.save(figure, path)


if __name__ == "__main__":
    experiment.main(Config, run)
