"""Train a character language model with a hand-written gradient.

Without arguments: the vanilla recurrent network (H = 128) on Shakespeare, two minutes on two cores. It prints bits per
character on held-out plays beside simpler models, writes a sample, and leaves config.json, metrics.jsonl, summary.json,
learning_curve.png and a checkpoint in its run folder.

Examples:
  python experiments/char_lm.py --cell lstm --hidden 256 --steps 12000
  python experiments/char_lm.py --text my.txt --algorithm autodiff --seed 1
  python experiments/char_lm.py --resume runs/char_lm/20260101-120000
"""

import dataclasses
import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import optax
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import checkpoint, data, runs, train
from rnn_jax.checks import InputError, require
from rnn_jax.data import baselines

NATS = math.log(2)
REPORTS = 100
"""How many lines of metrics a run writes."""


@dataclass(frozen=True)
class Config:
    """What to train, on what, and for how long."""

    text: Path | None = None
    """UTF-8 text file; by default 38 plays of Shakespeare."""
    cell: Literal["elman", "lstm", "gru"] = "elman"
    activation: Literal["tanh", "relu", "identity"] = "tanh"
    """Of an elman cell."""
    leak: float = 1.0
    """Of an elman cell, in (0, 1]; 1 is the plain cell."""
    hidden: int = 128
    """H, units per layer."""
    layers: int = 1
    recurrent: Literal["uniform", "orthogonal", "identity"] = "uniform"
    """How W is drawn."""
    algorithm: Literal["bptt", "autodiff"] = "bptt"
    """Who computes the gradient: the hand-written reverse, or JAX."""
    devices: int | None = None
    """How many share a batch, which they must divide; by default the most that do, a core of the CPU being one."""
    steps: int = 8000
    batch: int = 32
    """B, lanes of text read side by side."""
    length: int = 100
    """T, characters per window; the gradient does not reach beyond it, the state does."""
    optimiser: Literal["adam", "sgd"] = "adam"
    rate: float | None = None
    """Peak learning rate: for adam 3e-3 (elman) or 1e-2 (lstm, gru), for sgd 0.01, unless given."""
    decay: bool = True
    """Let the rate fall to a tenth along a cosine."""
    clip: Literal["norm", "value", "none"] = "norm"
    """Clip the gradient's global norm, or each element."""
    clip_at: float = 1.0
    seed: int = 0
    sample: int = 500
    """Characters to write at the end."""
    temperature: float = 0.8
    """Of the sample; 0 takes the likeliest character."""
    prime: str | None = None
    """Text that the sample continues; by default a line break, or its lowest character where the text has none."""
    out: Path | None = None
    """Run folder; by default runs/char_lm/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Path | None = None
    """Go on with the run in this folder, with its own settings; only --steps may be given again."""
    quick: bool = False
    """A run of seconds that touches everything: 60 steps on a part of the text."""


def build(config: Config, vocabulary: int) -> tuple[rj.Network, rj.Algorithm, optax.GradientTransformation, Any]:
    """The network, its algorithm, the optimiser and the clip that a configuration asks for."""
    cells = {"elman": lambda: rj.elman(config.activation, config.leak), "lstm": rj.lstm, "gru": rj.gru}
    require(config.layers > 0, "layers", config.layers, "a positive int")
    for name in ("rate", "clip_at"):
        value = getattr(config, name)
        require(value is None or 0 < value < math.inf, name, value, "a positive number")
    network = rj.Network(
        (cells[config.cell](),) * config.layers, vocabulary, config.hidden, vocabulary, rj.softmax_cross_entropy()
    )
    algorithm = {"bptt": rj.bptt, "autodiff": rj.autodiff}[config.algorithm](network)
    available = jax.local_devices()
    count = len(rj.devices_for(config.batch)) if config.devices is None else config.devices
    require(0 < count <= len(available), "devices", count, f"1 … {len(available)}, as many as there are")
    algorithm = rj.data_parallel(algorithm, available[:count])
    usual = 3e-3 if (config.optimiser, config.cell) == ("adam", "elman") else 1e-2
    rate = usual if config.rate is None else config.rate
    schedule = optax.cosine_decay_schedule(rate, config.steps, alpha=0.1) if config.decay else rate
    optimiser = {"adam": optax.adam, "sgd": optax.sgd}[config.optimiser](schedule)
    clips = {"norm": optax.clip_by_global_norm, "value": optax.clip}
    return network, algorithm, optimiser, clips[config.clip](config.clip_at) if config.clip != "none" else None


def run(config: Config) -> dict[str, Any]:
    """Train, evaluate, sample, and write the run folder; returns the summary."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
    if config.resume:
        folder, steps = config.resume, config.steps
        require((folder / "config.json").is_file(), "resume", str(folder), "the folder of an earlier run")
        config = _load(folder / "config.json")
        if steps != Config.steps:
            config = dataclasses.replace(config, steps=steps)
    elif config.quick:
        config = dataclasses.replace(config, steps=min(config.steps, 60), length=min(config.length, 50), sample=100)
    require(config.steps > 0, "steps", config.steps, "a positive int")

    corpus = data.read_text(config.text) if config.text else data.shakespeare()
    if config.quick:
        corpus = corpus._replace(**{part: getattr(corpus, part)[:20_000] for part in ("train", "validation", "test")})
    prime = config.prime if config.prime is not None else "\n" if "\n" in corpus.alphabet else corpus.alphabet[0]
    require(prime, "prime", prime, "one character or more")
    prime_tokens = data.encode(prime, corpus.alphabet, "prime")
    require(config.sample >= 0, "sample", config.sample, "0 or more")
    require(config.temperature >= 0, "temperature", config.temperature, "0 or more")
    network, algorithm, optimiser, clip = build(config, len(corpus.alphabet))
    init_key, sample_key = jax.random.split(jax.random.key(config.seed))
    params = rj.init(network, init_key, config.recurrent)
    data.window(corpus.train, config.length, config.batch, 0)
    lanes = min(64, len(corpus.validation) // 2)
    state = train.start(algorithm, optimiser, params, config.batch)
    if config.resume:
        state = checkpoint.restore(folder / "checkpoint", state)
    else:
        folder = runs.new_folder("char_lm", config.out, config.overwrite)
        runs.write_json(folder / "config.json", config)

    def at_home(params: rj.Params) -> rj.Params:
        return jax.device_put(params, jax.local_devices()[0])

    def bits(part: data.Stream) -> float:
        length, rows = min(100, len(part) - 1), min(lanes, len(part) - 1)
        return train.evaluate(network, at_home(state.params), data.windows(part, length, rows)) / NATS

    step = train.make_step(algorithm, optimiser, clip)
    every = max(1, config.steps // REPORTS)
    first = int(state.step)
    began = time.perf_counter()
    metrics_file = folder / "metrics.jsonl"
    lines = [line for line in _read_lines(metrics_file) if line["step"] <= first]
    metrics_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    reports = train.run(
        step, state, lambda i: data.window(corpus.train, config.length, config.batch, i), config.steps, every
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    shared = len(state.step.devices())
    print(f"{count:,} parameters, gradient by {config.algorithm} on {shared} device{'s' if shared > 1 else ''}")
    with tqdm(total=config.steps, initial=first, unit="step", disable=None) as bar, metrics_file.open("a") as log:
        try:
            for index, (state, metrics) in enumerate(reports, 1):
                done = int(state.step)
                line = {
                    "step": done,
                    "bits": metrics.loss / NATS,
                    "grad_norm": metrics.grad_norm,
                    "clipped": metrics.clipped,
                    "seconds": time.perf_counter() - began,
                }
                if index % 10 == 0 or done == config.steps:
                    line["validation_bits"] = bits(corpus.validation)
                    checkpoint.save(folder / "checkpoint", state)
                    bar.write(
                        f"step {done:>6}: {line['bits']:.3f} bits per character, "
                        f"{line['validation_bits']:.3f} on validation text"
                    )
                log.write(json.dumps(line) + "\n")
                log.flush()
                lines.append(line)
                bar.set_postfix_str(f"{line['bits']:.3f} bits per character")
                bar.update(done - bar.n)
        except train.NonFiniteError as error:
            checkpoint.save(folder / "checkpoint", error.state)
            raise
    trained = time.perf_counter() - began

    test = bits(corpus.test)
    size = len(corpus.alphabet)
    summary = {
        "test_bits": test,
        "validation_bits": bits(corpus.validation),
        "baselines": {
            "unigram": baselines.markov(corpus.train, corpus.test, size, 0),
            "order-3 characters": baselines.markov(corpus.train, corpus.test, size, 3),
            "xz": baselines.xz(corpus.train, corpus.test, corpus.alphabet),
        },
        "steps": int(state.step),
        "parameters": count,
        "devices": shared,
        "training_seconds": trained,
        "milliseconds_per_step": 1e3 * trained / max(1, int(state.step) - first),
        "machine": runs.machine(),
    }
    tokens = rj.sample(network, at_home(state.params), sample_key, prime_tokens, config.sample, config.temperature)
    summary["sample"] = data.decode(tokens, corpus.alphabet)
    runs.write_json(folder / "summary.json", summary)
    plot(lines, summary, folder / "learning_curve.png")

    print(f"\n{prime}{summary['sample']}\n")
    print("bits per character on held-out text:")
    for name, value in [(f"this {config.cell}", test), *summary["baselines"].items()]:
        print(f"  {name:<20}{value:6.3f}")
    print(f"run folder: {folder}")
    return summary


def plot(lines: list[dict[str, float]], summary: dict[str, Any], path: Path) -> None:
    """Bits per character against steps, with the baselines as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(
        [line["step"] for line in lines], [line["bits"] for line in lines], color="#9db8d2", label="training text"
    )
    held_out = [line for line in lines if "validation_bits" in line]
    validation = [line["validation_bits"] for line in held_out]
    axes.plot([line["step"] for line in held_out], validation, "o-", color="#1f4e79", label="validation text", ms=4)
    axes.plot([lines[-1]["step"]], [summary["test_bits"]], "*", color="#b03a2e", label="test text", ms=11)
    for (name, value), style in zip(summary["baselines"].items(), ("-", "--", ":"), strict=True):
        axes.axhline(value, color="#777777", lw=1, ls=style, label=f"{name}, {value:.2f}, test text")
    axes.set(
        xlabel="step", ylabel="bits per character", title=f"test text: {summary['test_bits']:.2f} bits per character"
    )
    bottom = min([*validation, *summary["baselines"].values()])
    axes.set_ylim(bottom - 0.2, max(summary["baselines"].values()) + 0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _load(path: Path) -> Config:
    try:
        settings = json.loads(path.read_text())
        paths = {name: Path(settings[name]) for name in ("text", "out") if settings.get(name)}
        return Config(**{**settings, **paths, "resume": path.parent})
    except (ValueError, TypeError) as error:
        raise InputError(
            f"resume is {str(path.parent)!r}, whose config.json cannot be read; it must be of this script"
        ) from error


def _read_lines(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    runs.main(Config, lambda config: run(config) and None)
