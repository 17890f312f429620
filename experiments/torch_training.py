"""Train the character model of char_lm.py by this library and by PyTorch, from the same weights on the same windows.

PyTorch trains ``torch.nn.RNN`` and ``torch.nn.Linear`` by its own autograd, clip, Adam and cosine.  All is float32, on
one device.  Rounding differs, and training makes the difference grow.  So it is compared with what another seed of the
initial weights changes.

Examples:
  python experiments/torch_training.py
  python experiments/torch_training.py --steps 4000 --seeds 5
  python experiments/torch_training.py --quick
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import char_lm
import figures
import jax
import numpy as np
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment, train
from rnn_jax.checks import InputError, check_int, require

EARLY, CLOSE = 100, 1e-4
"""In so many first steps the two losses differ by less than so many nats."""
OURS, THEIRS = "rnn_jax", "PyTorch"


@dataclass(frozen=True)
class Config:
    """Which model is trained, for how long, and how many seeds are its yardstick."""

    hidden: int = 128
    """H, units of the Elman cell with tanh."""
    batch: int = 32
    """B, lanes of text read side by side."""
    length: int = 100
    """T, characters per window; the gradient does not reach beyond it, the state does."""
    steps: int = 1000
    """Updates; the rate falls to a tenth over them, along a cosine."""
    rate: float = 3e-3
    """Peak learning rate of Adam."""
    seed: int = 0
    """Seed of the weights from which both start."""
    seeds: int = 3
    """Further seeds, trained by rnn_jax alone; their spread is that of the initial weights."""
    out: Path | None = None
    """Run folder; by default runs/torch_training/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    quick: bool = False
    """A small network, few steps and one further seed."""


Windows = Callable[[int], rj.Batch]


def by_rnn_jax(step: train.Step, state: train.TrainState, windows: Windows, steps: int) -> Iterator[float]:
    """The loss of each step in nats, before its update."""
    for _, metrics in train.run(step, state, windows, steps):
        yield metrics.loss


def by_torch(params: rj.Params, windows: Windows, model: char_lm.Config) -> Iterator[float]:
    """The loss of each step in nats, before its update, of PyTorch's layers with the same weights.

    A layer of PyTorch has a second bias, which is zero here and is not trained.
    """
    import torch
    from torch import nn

    torch.set_num_threads(1)
    (layer,) = params.layers
    H, K = params.V.shape
    recurrent, readout = nn.RNN(K, H), nn.Linear(H, K)
    ours = (layer.U, layer.W, layer.b, params.V, params.c)
    trained = [recurrent.weight_ih_l0, recurrent.weight_hh_l0, recurrent.bias_ih_l0, readout.weight, readout.bias]
    with torch.no_grad():
        recurrent.bias_hh_l0.zero_()
        for theirs, leaf in zip(trained, ours, strict=True):
            theirs.copy_(torch.tensor(np.asarray(leaf.T)))
    recurrent.bias_hh_l0.requires_grad_(False)
    optimiser = torch.optim.Adam(trained, lr=model.rate)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, model.steps, eta_min=model.rate / 10)
    state = torch.zeros(1, model.batch, H)
    for index in range(model.steps):
        xs, ys = (torch.tensor(tokens).long() for tokens in windows(index)[:2])
        hs, state = recurrent(nn.functional.one_hot(xs, K).float(), state.detach())
        loss = nn.functional.cross_entropy(readout(hs).flatten(0, 1), ys.flatten())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, model.clip_at)
        optimiser.step()
        cosine.step()
        yield loss.item()


def measure(config: Config) -> dict[str, list[float]]:
    """The loss of each step in nats: by rnn_jax and by PyTorch from one start, and by rnn_jax from further seeds."""
    names = ("hidden", "batch", "length", "steps", "rate", "quick")
    sizes = {name: getattr(config, name) for name in names}
    model = char_lm.resolve(char_lm.Config(**sizes, devices=1))
    corpus, _ = char_lm.load(model)
    network, algorithm, optimiser, clip = char_lm.build(model, len(corpus.alphabet))
    step = train.make_step(algorithm, optimiser, clip)

    def windows(index: int) -> rj.Batch:
        return rj.data.training_window(corpus.train, model.length, model.batch, index)

    def start(seed: int) -> rj.Params:
        return rj.init(network, jax.random.split(jax.random.key(seed))[0])

    def ours(seed: int) -> Iterator[float]:
        state = train.init_state(algorithm, optimiser, start(seed), model.batch)
        return by_rnn_jax(step, state, windows, model.steps)

    further = range(config.seed + 1, config.seed + 1 + config.seeds)
    runs = {
        OURS: ours(config.seed),
        THEIRS: by_torch(start(config.seed), windows, model),
        **{f"seed {seed}": ours(seed) for seed in further},
    }
    with tqdm(total=model.steps * len(runs), unit="step", disable=None) as bar:
        losses: dict[str, list[float]] = {}
        for name, run_of in runs.items():
            bar.set_postfix_str(name)
            losses[name] = []
            for loss in run_of:
                losses[name].append(loss)
                bar.update()
    return losses


def differences(losses: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """|difference| of each step's loss from that of rnn_jax, in nats, for all other runs."""
    return {name: np.abs(np.subtract(losses[name], losses[OURS])) for name in losses if name != OURS}


def smoothed(losses: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The last steps of the windows of a running mean, a twentieth of the run each, and its bits per character."""
    span = max(1, len(losses) // 20)
    means = np.convolve(losses, np.full(span, 1 / span), "valid")
    return np.arange(span, len(losses) + 1), means / math.log(2)


def summarise(losses: dict[str, list[float]]) -> dict[str, Any]:
    """How far PyTorch and the seeds are from rnn_jax, early and later, and where each run ends."""
    gaps = differences(losses)
    torch, seeds = gaps[THEIRS], [gap for name, gap in gaps.items() if name != THEIRS]
    wide = np.flatnonzero(torch >= CLOSE)
    early, later = slice(EARLY), slice(EARLY, None)
    found: dict[str, Any] = {
        "largest difference, first steps": float(torch[early].max()),
        "first step beyond the line": int(wide[0]) + 1 if wide.size else None,
        "smoothed bits at the end": {name: float(smoothed(values)[1][-1]) for name, values in losses.items()},
    }
    if torch[later].size:
        found["mean difference, later"] = float(torch[later].mean())
        found["largest difference, later"] = float(torch[later].max())
        found["mean difference of the seeds, later"] = [float(gap[later].mean()) for gap in seeds]
    return found


def run(config: Config) -> None:
    """Train all, print, plot, and write summary.json.

    Raises:
      InputError: PyTorch is not installed, or a flag that cannot be served; nothing is written then.
    """
    if find_spec("torch") is None:
        raise InputError("torch is not installed; pip install 'rnn-jax[peers]'")
    for name in ("hidden", "batch", "length", "steps", "seeds"):
        check_int(getattr(config, name), name)
    last = 2**32 - 1 - config.seeds
    require(0 <= config.seed <= last, "seed", config.seed, f"in 0 … {last}")
    require(0 < config.rate < math.inf, "rate", config.rate, "a positive number")
    if config.quick:
        config = dataclasses.replace(config, hidden=32, batch=8, length=50, steps=60, seeds=1)
    folder = experiment.new_folder("torch_training", config, r"summary\.json|torch_training\.png")
    losses = measure(config)
    found = summarise(losses)

    plot(config, losses, folder / "torch_training.png")
    experiment.write_json(folder / "summary.json", {"machine": experiment.machine(), **found, "losses": losses})
    for name, value in found.items():
        print(f"{name}: {value}")
    print(f"run folder: {folder}")


def plot(config: Config, losses: dict[str, list[float]], path: Path) -> None:
    """Differences of the losses against the step, and smoothed bits per character."""
    sizes = figures.model("elman", H=config.hidden, B=config.batch, T=config.length)
    figure, (left, right) = figures.panels(2, f"{OURS} and {THEIRS} from the same weights on Shakespeare: {sizes}", 4.2)
    further = [name for name in losses if name not in (OURS, THEIRS)]
    every = np.arange(1, len(losses[OURS]) + 1)
    gaps = differences(losses)
    for name in (*further, THEIRS):
        color = figures.VERMILLION if name == THEIRS else figures.GREY
        left.plot(every, np.where(gaps[name] > 0, gaps[name], np.nan), color=color, lw=0.8)
    figures.level(left, CLOSE, "1e-4")
    left.set(yscale="log", xlabel="step", ylabel="|loss − loss of rnn_jax| / nats")
    steps = smoothed(losses[OURS])[0]
    band = np.array([smoothed(losses[name])[1] for name in further])
    right.fill_between(steps, band.min(0), band.max(0), color=figures.GREY, lw=0)
    right.plot(steps, smoothed(losses[OURS])[1], color=figures.BLUE, lw=3)
    right.plot(steps, smoothed(losses[THEIRS])[1], color=figures.VERMILLION, ls="--")
    right.set(xlabel="step", ylabel="training loss / bits per character")
    handles = [
        figures.entry(OURS, color=figures.BLUE, lw=3),
        figures.entry(THEIRS, color=figures.VERMILLION),
        figures.entry(f"{OURS}, {len(further)} other seeds", color=figures.GREY, lw=4),
    ]
    figures.legend_below(figure, handles)
    figures.save(figure, path)


if __name__ == "__main__":
    experiment.main(Config, run)
