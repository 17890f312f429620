"""Train the character model of char_lm.py by this library and by PyTorch, from the same weights on the same windows.

PyTorch trains ``torch.nn.RNN`` and ``torch.nn.Linear`` by its own autograd, clip, Adam and cosine.  Rounding differs,
and training makes the difference grow.  Three yardsticks tell rounding from a difference of the equations:

  float64: both train in 64 bits too, where rounding starts from 1e-16;
  jax.grad: this library trains by its reference gradient, which differs from bptt by rounding alone;
  seeds: this library trains from other initial weights.

Examples:
  python experiments/torch_training.py
  python experiments/torch_training.py --steps 4000 --seeds 5
  python experiments/torch_training.py --out runs/torch --resume auto
  python experiments/torch_training.py --quick
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import char_lm
import figures
import jax
import numpy as np
from adam import Adam, check_adam
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment, train
from rnn_jax.checks import InputError, check_int, check_number, require

OURS, THEIRS, BY_GRAD = "rnn_jax", "PyTorch", "rnn_jax, jax.grad"
OURS_64, THEIRS_64 = "rnn_jax, float64", "PyTorch, float64"
LOOKS = {
    BY_GRAD: {"color": figures.GREEN},
    THEIRS: {"color": figures.VERMILLION, "ls": "--"},
    THEIRS_64: {"color": figures.PURPLE},
}


@dataclass(frozen=True)
class Config(Adam):
    """Which model is trained, for how long, and how many seeds are its yardstick."""

    hidden: int = 128
    """H, units of the Elman cell with tanh."""
    batch: int = 32
    """B, streams of text read in parallel."""
    length: int = 100
    """T, characters per window; the gradient does not reach beyond it, the state does."""
    steps: int = 1000
    """Updates."""
    rate: float = 1e-3
    """Peak learning rate of Adam; at a larger one, training is less stable, and rounding grows sooner."""
    last_rate: float = 0.1
    """The share of it that is left at the end, along a cosine."""
    clip: float = 1.0
    """The gradient is scaled down to this norm where it is larger."""
    seed: int = 0
    """Seed of the weights from which both start."""
    seeds: int = 3
    """Further seeds, trained by rnn_jax alone; their spread is that of the initial weights."""
    early: int = 100
    """How many first steps are looked at alone."""
    close: float = 1e-4
    """The difference of two losses that counts as close, in nats."""
    out: Path | None = None
    """Run folder; by default runs/torch_training/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next start."""
    quick: bool = False
    """A small network, few steps and one further seed."""


Windows = Callable[[int], rj.Batch]


def by_rnn_jax(step: train.Step, state: train.TrainState, windows: Windows, steps: int) -> Iterator[float]:
    """The loss of each step in nats, before its update."""
    for _, metrics in train.run(step, state, windows, steps):
        yield metrics.loss


def by_torch(params: rj.Params, windows: Windows, model: char_lm.Config) -> Iterator[float]:
    """The loss of each step in nats, before its update, of PyTorch's layers with the same weights.

    A layer of PyTorch has a second bias, which is zero here and is not trained.  ``clip_grad_norm_`` divides by the
    norm plus 1e-6; the two functions of which it is made are called here without that, since 64 bits would show it.
    """
    import torch
    from torch import nn

    torch.set_num_threads(1)
    (layer,) = params.layers
    H, K = params.V.shape
    dtype = getattr(torch, params.V.dtype.name)
    recurrent, readout = nn.RNN(K, H, dtype=dtype), nn.Linear(H, K, dtype=dtype)
    ours = (layer.U, layer.W, layer.b, params.V, params.c)
    trained = [recurrent.weight_ih_l0, recurrent.weight_hh_l0, recurrent.bias_ih_l0, readout.weight, readout.bias]
    with torch.no_grad():
        recurrent.bias_hh_l0.zero_()
        for theirs, leaf in zip(trained, ours, strict=True):
            theirs.copy_(torch.tensor(np.asarray(leaf.T)))
    recurrent.bias_hh_l0.requires_grad_(False)
    optimiser = torch.optim.Adam(trained, model.rate, (model.beta1, model.beta2), model.eps)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, model.steps, eta_min=model.rate * model.last_rate)
    state = torch.zeros(1, model.batch, H, dtype=dtype)
    for index in range(model.steps):
        xs, ys = (torch.tensor(tokens).long() for tokens in windows(index)[:2])
        hs, state = recurrent(nn.functional.one_hot(xs, K).to(dtype), state.detach())
        loss = nn.functional.cross_entropy(readout(hs).flatten(0, 1), ys.flatten())
        optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.get_total_norm([weight.grad for weight in trained])
        nn.utils.clip_grads_with_norm_(trained, model.clip_at, norm - 1e-6)
        optimiser.step()
        cosine.step()
        yield loss.item()


def measure(config: Config, parts: experiment.Parts) -> dict[str, list[float]]:
    """The loss of each step in nats, of each run by its name."""
    sizes = {name: getattr(config, name) for name in ("hidden", "batch", "length", "steps", "quick")}
    of_adam = {name: getattr(config, name) for name in ("rate", "last_rate", "beta1", "beta2", "eps")}
    same = {**sizes, **of_adam, "clip_at": config.clip, "devices": 1}
    models = {
        algorithm: char_lm.resolve(char_lm.Config(algorithm=algorithm, **same)) for algorithm in ("bptt", "autodiff")
    }
    corpus, _ = char_lm.load(models["bptt"])

    def windows(index: int) -> rj.Batch:
        return rj.data.training_window(corpus.train, config.length, config.batch, index)

    def trainer(algorithm: str) -> Callable[[rj.Params], Iterator[float]]:
        _, gradient, optimiser, clip = char_lm.build(models[algorithm], len(corpus.alphabet))
        step = train.make_step(gradient, optimiser, clip)

        def losses_from(params: rj.Params) -> Iterator[float]:
            return by_rnn_jax(step, train.init_state(gradient, optimiser, params, config.batch), windows, config.steps)

        return losses_from

    def start(seed: int, dtype: str = "float32") -> rj.Params:
        params = rj.init(network, jax.random.split(jax.random.key(seed))[0])
        return jax.tree.map(lambda leaf: leaf.astype(dtype), params)

    network = char_lm.build(models["bptt"], len(corpus.alphabet))[0]
    by_bptt, by_autodiff = trainer("bptt"), trainer("autodiff")
    by_peer = functools.partial(by_torch, windows=windows, model=models["bptt"])
    further = range(config.seed + 1, config.seed + 1 + config.seeds)
    runs: dict[str, tuple[Callable[[rj.Params], Iterator[float]], int, str]] = {
        OURS: (by_bptt, config.seed, "float32"),
        THEIRS: (by_peer, config.seed, "float32"),
        BY_GRAD: (by_autodiff, config.seed, "float32"),
        OURS_64: (by_bptt, config.seed, "float64"),
        THEIRS_64: (by_peer, config.seed, "float64"),
        **{f"seed {seed}": (by_bptt, seed, "float32") for seed in further},
    }

    def losses_of(name: str) -> list[float]:
        losses_from, seed, dtype = runs[name]
        with jax.enable_x64(dtype == "float64"):
            losses = losses_from(start(seed, dtype))
            return [float(loss) for loss in tqdm(losses, name, config.steps, unit="step", disable=None, leave=False)]

    bar = tqdm(runs, unit="run", disable=None)
    return {name: parts.result(name, functools.partial(losses_of, name)) for name in bar}


def differences(losses: dict[str, list[float]]) -> dict[str, np.ndarray]:
    """|difference| of each step's loss from that of rnn_jax in the same precision, in nats, for all other runs."""
    references = {name: OURS_64 if name == THEIRS_64 else OURS for name in losses}
    return {
        name: np.abs(np.subtract(losses[name], losses[reference]))
        for name, reference in references.items()
        if name not in (OURS, OURS_64)
    }


def smoothed(losses: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """The last steps of the windows of a running mean, a twentieth of the run each, and its bits per character."""
    span = max(1, len(losses) // 20)
    means = np.convolve(losses, np.full(span, 1 / span), "valid")
    return np.arange(span, len(losses) + 1), means / math.log(2)


def summarise(config: Config, losses: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """How far each run is from rnn_jax, early and later, and where it ends."""
    found: dict[str, dict[str, Any]] = {name: {} for name in losses}
    for name, gap in differences(losses).items():
        far = np.flatnonzero(gap >= config.close)
        found[name] = {
            "first step that is not close": int(far[0]) + 1 if far.size else None,
            "largest difference, early": float(gap[: config.early].max()),
            "largest difference, later": float(gap[config.early :].max()) if len(gap) > config.early else None,
            "mean difference, later": float(gap[config.early :].mean()) if len(gap) > config.early else None,
        }
    for name, values in losses.items():
        found[name]["smoothed bits at the end"] = float(smoothed(values)[1][-1])
    return found


def run(config: Config) -> None:
    """Train all, print, plot, and write summary.json.

    Raises:
      InputError: PyTorch is not installed, or an invalid flag; nothing is written then.
    """
    if find_spec("torch") is None:
        raise InputError("torch is not installed; pip install 'rnn-jax[peers]'")
    for name in ("hidden", "batch", "length", "steps", "seeds", "early"):
        check_int(getattr(config, name), name)
    last = 2**32 - 1 - config.seeds
    require(0 <= config.seed <= last, "seed", config.seed, f"in 0 … {last}")
    for name in ("rate", "clip", "close"):
        require(0 < getattr(config, name) < math.inf, name, getattr(config, name), "a positive number")
    check_number(config.last_rate, "last_rate", 0, 1, "in 0 … 1")
    check_adam(config)
    if config.quick:
        config = dataclasses.replace(config, hidden=32, batch=8, length=50, steps=40, seeds=1)
    if config.cache:
        experiment.keep_compiled()
    parts = experiment.Parts("torch_training", config, r"summary\.json|torch_training\.png")
    losses = measure(config, parts)
    found = summarise(config, losses)
    parts.write("torch_training.png", functools.partial(plot, config, losses))
    parts.write_json("summary.json", {"machine": experiment.machine(), "runs": found, "losses": losses})
    for name, row in found.items():
        print(f"{name:<18}", ", ".join(f"{what}: {value}" for what, value in row.items()))
    parts.finish()
    print(f"run folder: {parts.folder}")


def plot(config: Config, losses: dict[str, list[float]], path: Path) -> None:
    """Differences of the losses, and smoothed bits per character, against the step."""
    sizes = figures.model("elman", H=config.hidden, B=config.batch, T=config.length)
    figure, (left, right) = figures.panels(2, f"{OURS} and {THEIRS} from the same weights on Shakespeare: {sizes}", 4.6)
    further = [name for name in losses if name.startswith("seed ")]
    gaps = differences(losses)
    span = max(1, config.steps // 200)
    first = np.arange(0, config.steps, span)
    for name in (*further, *LOOKS):
        look = LOOKS.get(name, {"color": figures.GREY, "lw": 1})
        peaks = np.maximum.reduceat(gaps[name], first)
        left.plot(first + 1, np.where(peaks > 0, peaks, np.nan), **look)
    figures.level(left, config.close, f"{config.close:g} nats")
    left.set(xscale="log", yscale="log", xlabel="step", ylabel="|loss − loss of rnn_jax| / nats")
    left.set(title=f"the largest difference of {span} step{'s' if span > 1 else ''}")
    steps, ours = smoothed(losses[OURS])
    band = np.array([smoothed(losses[name])[1] for name in further])
    right.fill_between(steps, band.min(0), band.max(0), color=figures.GREY, lw=0)
    right.plot(steps, ours, color=figures.BLUE, lw=3)
    right.plot(steps, smoothed(losses[THEIRS])[1], **LOOKS[THEIRS])
    right.set(xlabel="step", ylabel="training loss / bits per character", title=f"the mean of {int(steps[0])} steps")
    handles = [
        figures.entry(OURS, color=figures.BLUE, lw=3),
        *(figures.entry(name, **look) for name, look in LOOKS.items()),
        figures.entry(f"{OURS}, {len(further)} other seeds", color=figures.GREY, lw=4),
    ]
    figures.legend_below(figure, handles, 3)
    figures.save(figure, path)


if __name__ == "__main__":
    experiment.main(Config, run)
