"""Compare every learning rule: how right its gradient is, what it costs, and how well it trains.

The task is delayed addition: y_t is 1 with probability 1/2 + x_{t−6}/2 − x_{t−10}/4, for coins x.  Every rule sees the
sequence in short windows, as an online learner does, so that what it carries over their borders matters.  In the part
copying, strings of bits are repeated, and grow when they are copied well.

The parts:
  alignment  the cosine between each two rules' gradients of a window, at the weights before training and after
  table      claim, bias, variance and cosine of each rule, its time a step and its bytes, by n; and how the noise of
             the unbiased rules falls with segments and rank
  training   the loss of each rule on delayed addition, with an update after every step, and after every 5
  copying    how long the strings become that each rule learns to copy
  tradeoff   time a step against the error of one draw, by the length of segments: choose a rule by this plot

An update after every step is what online learning is in the strict sense.  A window of one step leaves nothing of rules
that look inside a window alone: there ``bptt`` is ``immediate``.  So training is shown in windows of 5 steps too.

The run folder holds a plot of each part, summary.json, and tables.md, with all tables in Markdown.

Examples:
  python experiments/learning_rules.py
  python experiments/learning_rules.py --parts training --rules bptt rtrl snap uoro --training-windows 1
  python experiments/learning_rules.py --out runs/rules --resume auto
  python experiments/learning_rules.py --quick
"""

import dataclasses
import functools
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import figures
import jax
import jax.numpy as jnp
import numpy as np
import optax
import rule_figures
import rule_gradients
import rule_tables
import rule_training
from adam import Adam, check_adam
from jax.flatten_util import ravel_pytree
from rule_gradients import RULES, network_of
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import check_number, require
from rnn_jax.network import Recurrent

FILES = r"summary\.json|tables\.md|(alignment|sizes|noise|training|copying|tradeoff)\.png"
"""What a run writes beside config.json."""


@dataclass(frozen=True)
class Config(Adam):
    """Which parts to run, for which rules, on which network, and for how long."""

    parts: tuple[Literal["alignment", "table", "training", "copying", "tradeoff"], ...] = (
        "alignment",
        "table",
        "training",
        "copying",
        "tradeoff",
    )
    """What to measure; each part can be run alone."""
    rules: tuple[str, ...] = RULES
    """Names of the registry, for alignment, table and training."""
    cell: str = "elman"
    """A name of the registry of cells."""
    hidden: int = 32
    """H, except in table."""
    recurrent: Recurrent = "orthogonal"
    """Initialisation of W; orthogonal weights forget slowly."""
    sizes: tuple[int, ...] = (16, 32, 64, 128)
    """H in table; the first one is that of the noise by segments."""
    window: int = 5
    """Steps of the windows in table, and between two updates of the training that gives the weights after training."""
    training_windows: tuple[int, ...] = (1, 5)
    """Steps between two updates in training, whose curves are shown for each of these."""
    alignment_window: int = 1
    """Steps of the windows in alignment; longer ones share more and more of their own losses."""
    segments: tuple[int, ...] = (1, 2, 5, 10, 25)
    """Steps of a segment in tradeoff; all divide the length."""
    noise_segments: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Steps of a segment where the noise of the unbiased rules is measured."""
    ranks: tuple[int, ...] = (1, 2, 4)
    """Ranks of optimal_kronecker where its noise is measured."""
    length: int = 100
    """T of the sequences on which gradients are compared, a multiple of the window."""
    batch: int = 8
    """B on delayed addition."""
    steps: int = 20_000
    """Steps of training on delayed addition, a multiple of as many windows as there are reports."""
    reports: int = 40
    """Points of a learning curve on delayed addition; each is the mean of the steps up to it."""
    rate: float = 3e-3
    """Learning rate of Adam, and of RMSprop; the same for all rules, and not tuned."""
    rms_decay: float = 0.9
    """RMSprop's decay of the mean of squared gradients; its eps is that of Adam."""
    copying_cell: str = "gru"
    """The cell that learns to copy."""
    copying_window: int = 4
    """Steps between two updates of copying; it divides the chunk."""
    copying_batch: int = 16
    """B of copying."""
    chunk: int = 64
    """Steps of copying after which the strings may grow."""
    chunks: int = 600
    """How many chunks of copying there are."""
    solved: float = 0.15
    """Bits a bit, below which the strings of copying grow."""
    seeds: int = 3
    """Networks and sequences; the figures are means over them."""
    keys: int = 32
    """Draws of each stochastic rule."""
    seed: int = 0
    """The first seed."""
    out: Path | None = None
    """Run folder; by default runs/learning_rules/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next start."""
    quick: bool = False
    """A small network, few rules, short sequences, one seed and a few steps."""


QUICK = ("rtrl", "uoro", "dni", "bptt")
"""One rule of each group."""


def check(config: Config) -> None:
    """Refuse what does not fit together."""
    unknown = [name for name in config.rules if name not in RULES]
    require(not unknown and config.rules, "rules", unknown or config.rules, f"some of {', '.join(RULES)}")
    for name in ("cell", "copying_cell"):
        value = getattr(config, name)
        require(value in rj.CELLS, name, value, f"one of {', '.join(rj.CELLS)}")
    of_addition = ("hidden", "window", "length", "batch", "steps", "reports", "rate")
    of_copying = ("copying_window", "copying_batch", "chunk", "chunks", "solved")
    for name in (*of_addition, *of_copying, "seeds", "keys"):
        require(getattr(config, name) > 0, name, getattr(config, name), "positive")
    for name in ("sizes", "segments", "noise_segments", "ranks"):
        value = getattr(config, name)
        require(value and min(value) > 0, name, value, "positive numbers, one or more")
    for window in (config.window, config.alignment_window):
        fits = window > 0 and config.length % window == 0
        require(fits, "length", config.length, f"a multiple of the window, {window}")
    divide = all(config.length % n == 0 for n in config.segments)
    require(divide, "segments", config.segments, f"divisors of the length, {config.length}")
    require(
        config.training_windows and min(config.training_windows) > 0,
        "training_windows",
        config.training_windows,
        "positive numbers, one or more",
    )
    for window in (config.window, *config.training_windows):
        fits = config.steps % (config.reports * window) == 0
        require(fits, "steps", config.steps, f"a multiple of {config.reports} windows of {window}")
    divides = config.chunk % config.copying_window == 0
    require(divides, "copying_window", config.copying_window, f"a divisor of the chunk, {config.chunk}")
    check_adam(config)
    check_number(config.rms_decay, "rms_decay", 0, math.nextafter(1, 0), "0 or more and below 1")


def some(config: Config, rules: dict[str, Any]) -> dict[str, Any]:
    """All of them; two where it must be quick."""
    return dict(itertools.islice(rules.items(), 2)) if config.quick else rules


def model(config: Config, **sizes: int) -> str:
    """What a plot is of, on delayed addition."""
    return figures.model(config.cell.split("-")[0], **sizes)


def initial(config: Config, network: rj.Network) -> list[rj.Params]:
    """The parameters of each seed before training."""
    seeds = range(config.seed, config.seed + config.seeds)
    return [rj.init(network, jax.random.key(seed), config.recurrent) for seed in seeds]


def train(config: Config, name: str, window: int) -> list[dict[str, Any]]:
    """The losses, the weights after training one after another, and whether all was finite, of each seed."""
    network, algorithm = network_of(config.cell, config.hidden), rj.ALGORITHMS[name]
    sizes = window, config.batch, config.steps // window, config.reports
    program = rule_training.by_addition(algorithm(network), config.adam(config.rate), *sizes)
    runs = (program(params, seed) for seed, params in enumerate(initial(config, network), config.seed))
    return [
        {"losses": losses.tolist(), "params": ravel_pytree(params)[0].tolist(), "finite": bool(finite)}
        for losses, params, finite in runs
    ]


def trained(config: Config, parts: experiment.Parts, name: str, window: int) -> list[dict[str, Any]]:
    """As ``train``, once a run."""
    part = f"training, {name}, windows of {window}"
    found: list[dict[str, Any]] = parts.result(part, functools.partial(train, config, name, window))
    return found


def weights(config: Config, parts: experiment.Parts) -> dict[str, list[rj.Params]]:
    """Of each seed, before training and after training by exact RTRL."""
    before = initial(config, network_of(config.cell, config.hidden))
    unravel = ravel_pytree(before[0])[1]
    after = [unravel(jnp.array(each["params"], jnp.float32)) for each in trained(config, parts, "rtrl", config.window)]
    return {"before training": before, "after training": after}


def alignment(config: Config, parts: experiment.Parts) -> dict[str, Any]:
    """The cosines, and their means within groups and between them."""
    sizes = config.alignment_window, config.length, config.batch
    found: dict[str, Any] = parts.result(
        "alignment",
        lambda: rule_gradients.alignments(config.cell, config.hidden, config.rules, *sizes, weights(config, parts)),
    )
    title = f"{model(config, H=config.hidden, B=config.batch)}, windows of {config.alignment_window}"
    parts.write("alignment.png", functools.partial(rule_figures.plot_alignment, title, found))
    return found


def table(config: Config, parts: experiment.Parts) -> dict[str, Any]:
    """Of each rule at each size, and the noise by segments."""
    start = functools.partial(initial, config)
    sizes = config.window, config.length, config.batch
    rows = rule_gradients.table(config.cell, config.sizes, config.rules, *sizes, start, config.keys, parts.result)
    title = f"{model(config, B=config.batch, T=config.length)}, windows of {config.window}"
    parts.write("sizes.png", functools.partial(rule_figures.plot_sizes, title, rows))
    length = 3 * max(config.noise_segments)
    noisy = some(config, rule_gradients.noisy_rules(config.ranks))
    of_noise = config.sizes[0], config.noise_segments, length, start, config.keys
    noise = rule_gradients.noise(noisy, config.cell, *of_noise, parts.result)
    parts.write(
        "noise.png", functools.partial(rule_figures.plot_noise, model(config, H=config.sizes[0], T=length), noise)
    )
    return {"rules": rows, "noise": noise}


def training(config: Config, parts: experiment.Parts) -> dict[int, Any]:
    """The learning curves of all rules on delayed addition, by the steps between two updates."""
    found: dict[int, Any] = {window: {} for window in config.training_windows}
    for window, name in tqdm(list(itertools.product(found, config.rules)), desc="training", disable=None):
        runs = trained(config, parts, name, window)
        found[window][name] = {field: [each[field] for each in runs] for field in ("losses", "finite")}
    title = f"{model(config, H=config.hidden, B=config.batch)}, Adam {config.rate:g}"
    parts.write("training.png", functools.partial(rule_figures.plot_training, title, found, config.steps))
    return found


def grow(config: Config, name: str) -> dict[str, Any]:
    """How the strings of a rule grow, of each seed."""
    network = network_of(config.copying_cell, config.hidden)._replace(inputs=3)
    learner = rule_training.COPYING[name]
    window = config.chunk if learner.whole else config.copying_window
    optimiser = config.adam(config.rate)
    if learner.rmsprop:
        optimiser = optax.rmsprop(config.rate, config.rms_decay, config.eps)
    sizes = window, config.chunk, config.copying_batch, config.chunks, config.solved * math.log(2)
    program = rule_training.by_copying(learner.build(network), optimiser, *sizes)
    runs = [program(params, seed) for seed, params in enumerate(initial(config, network), config.seed)]
    fields = ("lengths", "steps", "finite")
    return dict(zip(fields, (np.asarray(part).tolist() for part in zip(*runs, strict=True)), strict=True))


def copying(config: Config, parts: experiment.Parts) -> dict[str, Any]:
    """How the strings grow."""
    found = {
        name: parts.result(f"copying, {name}", functools.partial(grow, config, name))
        for name in tqdm(some(config, rule_training.COPYING), desc="copying", disable=None)
    }
    name = figures.model(config.copying_cell.split("-")[0], H=config.hidden, B=config.copying_batch)
    title = f"{name}, windows of {config.copying_window}, Adam {config.rate:g}"
    parts.write("copying.png", functools.partial(rule_figures.plot_copying, title, found))
    return found


def tradeoff(config: Config, parts: experiment.Parts) -> list[dict[str, Any]]:
    """Time and error by the length of segments."""
    sizes = config.length, config.batch, config.keys
    families = some(config, rule_gradients.FAMILIES)
    of_network = config.hidden, config.segments, *sizes, weights(config, parts)
    rows = rule_gradients.tradeoff(families, config.cell, *of_network, parts.result)
    title = f"{model(config, H=config.hidden, B=config.batch, T=config.length)}"
    parts.write("tradeoff.png", functools.partial(rule_figures.plot_tradeoff, title, rows))
    return rows


PARTS = {"alignment": alignment, "table": table, "training": training, "copying": copying, "tradeoff": tradeoff}


def settings(config: Config) -> str:
    """What the training parts were run with."""
    updates = " and ".join(str(window) for window in config.training_windows)
    return (
        f"Adam at a learning rate of {config.rate:g}, in copying RMSprop for `immediate`; no rate is tuned for a rule. "
        f"Delayed addition: {config.steps:,} steps, an update every {updates} steps, B = {config.batch}, "
        f"H = {config.hidden}, {config.cell}. Copying: an update every {config.copying_window} steps, "
        f"{config.chunks:,} chunks of {config.chunk} steps, B = {config.copying_batch}, {config.copying_cell}. "
        f"Seeds: {config.seeds}. Draws of a rule: {config.keys}."
    )


def run(config: Config) -> None:
    """Measure what is asked for, plot it, print it, and write summary.json and tables.md after each part."""
    if config.quick:
        small = {"hidden": 8, "sizes": (8,), "length": 20, "batch": 2, "seeds": 1, "keys": 3}
        fewer = {"segments": (2, 5), "noise_segments": (2,), "chunks": 4, "copying_batch": 2, "copying_cell": "elman"}
        fewer |= {"training_windows": (config.window,), "steps": 5 * config.reports}
        few = tuple(name for name in config.rules if name in QUICK) if config.rules == RULES else config.rules
        config = dataclasses.replace(config, rules=few, **small, **fewer)
    check(config)
    if config.cache:
        experiment.keep_compiled()
    parts, origin = experiment.Parts("learning_rules", config, FILES), experiment.origin()
    found: dict[str, Any] = {}
    for part in config.parts:
        found[part] = PARTS[part](config, parts)
        print(f"\n{rule_tables.TABLES[part](found[part])}", flush=True)
        parts.write_json("summary.json", {"machine": origin["machine"], **found})
        tables = rule_tables.document(origin, settings(config), found)
        parts.write("tables.md", functools.partial(experiment.write_text, text=tables))
    parts.finish()
    print(f"run folder: {parts.folder}")


if __name__ == "__main__":
    experiment.main(Config, run)
