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
import hashlib
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import figures
import jax
import optax
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import checkpoint, data, experiment, train
from rnn_jax.cells import CELLS
from rnn_jax.checks import LARGEST_NUMBER, Description, check_int, check_number, require
from rnn_jax.data import text_baselines
from rnn_jax.gradients import ALGORITHMS
from rnn_jax.interrupts import SignalsWait

NATS = math.log(2)
REPORTS = 100
"""How many lines of metrics a run writes."""
LANES, LANE, WARM_UP = 64, 1000, 100
"""Held-out text is read in at most this many lanes, each at least so long, after so many characters before it."""
FILES = (
    r"(text|summary|interrupted)\.json|metrics\.jsonl|learning_curve\.png"
    r"|checkpoint(/\d+(\.orbax-checkpoint-tmp[^/]*)?(/(_\w+|\w+\.txt|d|default|array_metadatas|manifest\.ocdbt"
    r"|(ocdbt\.)?process_\d+|[0-9a-f]{32})(\.orbax-checkpoint-tmp[^/]*|\.__lock)?)*)?"
)
"""What a run writes beside config.json."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """What to train, on what, and for how long."""

    text: Path | None = None
    """UTF-8 text file, or - for the standard input; by default 38 plays of Shakespeare."""
    cell: Literal[*CELLS] = "elman"
    activation: Literal["tanh", "relu", "identity"] | None = None
    """(elman only) By default tanh."""
    leak: float | None = None
    """(elman only) In (0, 1]; by default 1, the plain cell."""
    hidden: int = 128
    """H, units per layer."""
    layers: int = 1
    recurrent: Literal["uniform", "orthogonal", "identity"] = "uniform"
    """Initialisation of W."""
    algorithm: Literal[*ALGORITHMS] = "bptt"
    """Gradient algorithm: bptt is the hand-written reverse, autodiff is JAX's."""
    devices: int | None = None
    """How many share a batch, which they must divide; by default the most that do, a core of the CPU being one."""
    steps: int | None = None
    """Updates; by default 8000, with --quick 60. With --resume, those of the whole run: the cosine of --decay is then
    computed anew over that many, so the rate jumps from its end back to where the longer cosine is at this step."""
    batch: int = 32
    """B, lanes of text read side by side."""
    length: int | None = None
    """T, characters per window; the gradient does not reach beyond it, the state does. By default 100, with --quick
    50."""
    optimiser: Literal["adam", "sgd"] = "adam"
    rate: float | None = None
    """Peak learning rate; by default 0.01, or for adam with a cell without gates 3e-3."""
    decay: bool = True
    """Let the rate fall to a tenth along a cosine."""
    clip: Literal["norm", "value", "none"] = "norm"
    """Clip the gradient's global norm, or each element."""
    clip_at: float | None = None
    """By default 1."""
    seed: int = 0
    """In 0 … 2**32 - 1."""
    sample: int | None = None
    """Characters to write at the end; by default 500, with --quick 100."""
    temperature: float | None = None
    """Of the sample; 0 takes the likeliest character. By default 0.8."""
    prime: str | None = None
    """Text that the sample continues; by default a line break, or its lowest character where the text has none."""
    out: Path | None = None
    """Run folder; by default runs/char_lm/TIME."""
    overwrite: bool = False
    """Replace the earlier run that the folder given by --out holds."""
    resume: Path | None = None
    """Go on with the run in this folder, with its own flags; only --steps, --devices and --text (the same text in
    another place) may differ."""
    quick: bool = False
    """A run of seconds that touches everything: a part of the text, and fewer steps unless --steps is given."""


def flags(parse: experiment.Parse) -> Config:
    """The command line; with --resume the flags that are left out are those of the run."""
    config = parse(Config())
    if config.resume is None:
        return config
    saved = dataclasses.replace(experiment.read_config(config.resume, "char_lm", Config), resume=config.resume)
    return resumed(parse(saved), left_out=saved)


def resumed(config: Config, left_out: Config) -> Config:
    """The configuration of the run to resume, with the steps, devices and text of ``config`` where it gives them.

    Anything else that differs from the run is refused, unless it is as in ``left_out``: then it was not given.
    """
    saved = experiment.read_config(config.resume, "char_lm", Config)
    free = {name: getattr(config, name) for name in ("steps", "devices", "text") if getattr(config, name) is not None}
    for field in dataclasses.fields(Config):
        name, given, own = field.name, getattr(config, field.name), getattr(saved, field.name)
        if name not in free and name != "resume" and given != getattr(left_out, name):
            shown = str(given) if isinstance(given, Path) else given
            require(given == own, name, shown, f"{own}, as in the run that is resumed")
    return dataclasses.replace(saved, resume=config.resume, **free)


def resolve(config: Config) -> Config:
    """The configuration with its defaults filled in; flags that would change nothing are refused."""
    for name, idle, needed in (
        ("activation", config.cell != "elman", "--cell elman"),
        ("leak", config.cell != "elman", "--cell elman"),
        ("clip_at", config.clip == "none", "--clip norm or value"),
        ("temperature", config.sample == 0, "--sample above 0"),
        ("prime", config.sample == 0, "--sample above 0"),
        ("overwrite", config.out is None, "--out"),
    ):
        value = getattr(config, name)
        require(not (idle and value), name, value, f"left out: it changes nothing without {needed}")
    usual = {
        "activation": "tanh" if config.cell == "elman" else None,
        "leak": 1.0 if config.cell == "elman" else None,
        "steps": 60 if config.quick else 8000,
        "length": 50 if config.quick else 100,
        "rate": 3e-3 if config.optimiser == "adam" and len(CELLS[config.cell].gates) == 1 else 1e-2,
        "clip_at": None if config.clip == "none" else 1.0,
        "sample": 100 if config.quick else 500,
        "temperature": None if config.sample == 0 else 0.8,
    }
    left_out = {name: value for name, value in usual.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **left_out)
    for name in ("layers", "steps", "batch", "length"):
        check_int(getattr(config, name), name if name != "batch" else "batch_size")
    check_int(config.sample, "sample", least=0)
    require(0 <= config.seed < 2**32, "seed", config.seed, "in 0 … 2**32 - 1")
    if config.temperature is not None:
        check_number(config.temperature, "temperature", 0, LARGEST_NUMBER, "a finite number, 0 or more")
    for name in ("rate", "clip_at"):
        value = getattr(config, name)
        require(value is None or 0 < value < math.inf, name, value, "a positive number")
    return config


def load(config: Config) -> tuple[data.Corpus, str]:
    """The text, and what the sample continues."""
    corpus = data.read_text(config.text) if config.text else data.shakespeare()
    if config.quick:
        corpus = corpus._replace(**{part: getattr(corpus, part)[:20_000] for part in ("train", "validation", "test")})
    prime = config.prime if config.prime is not None else "\n" if "\n" in corpus.alphabet else corpus.alphabet[0]
    require(prime, "prime", prime, "one character or more")
    data.encode(prime, corpus.alphabet, "prime")
    data.training_window(corpus.train, config.length, config.batch, 0)
    return corpus, prime


def identity(corpus: data.Corpus) -> dict[str, Any]:
    """The alphabet, and a SHA-256 of it and of all parts: equal texts have equal ones, whatever file they are from."""
    sha = hashlib.sha256(corpus.alphabet.encode("utf-32-le", "surrogatepass"))
    for part in corpus[1:]:
        sha.update(f"{len(part)};".encode())
        sha.update(part.astype("<i4").tobytes())
    return {"sha256": sha.hexdigest(), "characters": sum(map(len, corpus[1:])), "alphabet": corpus.alphabet}


def build(config: Config, vocabulary: int) -> tuple[rj.Network, rj.Algorithm, optax.GradientTransformation, Any]:
    """The network, its algorithm, the optimiser and the clip that a configuration asks for."""
    cell = rj.elman(config.activation, config.leak) if config.cell == "elman" else CELLS[config.cell]
    cells = (cell,) * config.layers
    network = rj.Network(cells, vocabulary, config.hidden, vocabulary, rj.softmax_cross_entropy())
    algorithm = ALGORITHMS[config.algorithm](network)
    available = jax.local_devices()
    count = len(rj.devices_for(config.batch)) if config.devices is None else config.devices
    require(0 < count <= len(available), "devices", count, f"1 … {len(available)}, as many as there are")
    algorithm = rj.data_parallel(algorithm, available[:count])
    schedule = optax.cosine_decay_schedule(config.rate, config.steps, alpha=0.1) if config.decay else config.rate
    optimiser = {"adam": optax.adam, "sgd": optax.sgd}[config.optimiser](schedule)
    clips = {"norm": train.clip_by_global_norm, "value": optax.clip}
    return network, algorithm, optimiser, clips[config.clip](config.clip_at) if config.clip != "none" else None


def run(config: Config) -> dict[str, Any]:
    """Train, evaluate, sample, and write the run folder; returns the summary.

    SIGINT (Ctrl-C) and SIGTERM end it after the step, evaluation or save under way, with the state saved and the
    command that resumes the run printed; a second one ends it at once, and the last checkpoint is resumed.  A resumed
    run takes the same steps, bitwise, as one that was never interrupted, and its metrics.jsonl has the same lines.

    Where ``config.resume`` is a folder, its configuration is used; of ``config`` only steps, devices and text may
    differ from it, and what is at its default counts as not given.  A run that is finished is left as it is.

    Raises:
      InputError: a flag or a text that cannot be served, or not those of the run to resume; nothing is written then.
    """
    experiment.use_cores()
    config = resolve(resumed(config, left_out=Config()) if config.resume else config)
    corpus, prime = load(config)
    if config.text and str(config.text) != "-":
        config = dataclasses.replace(config, text=config.text.absolute())  # it may be resumed from another folder
    network, algorithm, optimiser, clip = build(config, len(corpus.alphabet))
    key = jax.random.split(jax.random.key(config.seed))[0]
    state = train.init_state(algorithm, optimiser, rj.init(network, key, config.recurrent), config.batch)
    step = train.make_step(algorithm, optimiser, clip)
    folder = None
    try:
        with SignalsWait() as signals:
            folder, state, summary = resume(config, corpus, state) if config.resume else begin(config, corpus, state)
            if summary is None:
                state, lines = fit(config, corpus, folder, network, step, state, signals)
        signals.deliver()
        if summary is None:
            summary = evaluate(config, corpus, prime, network, state, lines)
            plot(lines, summary, folder / "learning_curve.png")
            experiment.write_json(folder / "summary.json", summary)
    except (KeyboardInterrupt, SystemExit):
        if folder:
            text = ["--text", "-"] if str(config.text) == "-" else []
            command = shlex.join([sys.executable, __file__, "--resume", str(folder.absolute()), *text])
            print(f"interrupted; to go on with it: {command}", file=sys.stderr)
        raise
    report(config, prime, summary, folder)
    return summary


def begin(config: Config, corpus: data.Corpus, state: train.TrainState) -> tuple[Path, train.TrainState, None]:
    """The folder of a new run, which can be resumed from here on."""
    inputs = [config.text] if config.text and str(config.text) != "-" else []
    folder = experiment.new_folder("char_lm", config, FILES, inputs)
    experiment.write_json(folder / "text.json", identity(corpus))
    checkpoint.save(folder / "checkpoint", state)
    return folder, state, None


def resume(
    config: Config, corpus: data.Corpus, like: train.TrainState
) -> tuple[Path, train.TrainState, dict[str, Any] | None]:
    """The folder and the state of the run to resume, and its summary if it is finished; then nothing is written."""
    folder = config.resume
    text = _read_json(folder / "text.json")
    same = text is not None and text.get("sha256") == identity(corpus)["sha256"]
    shown = Description("the plays" if config.text is None else repr(str(config.text)))
    require(same, "text", shown, f"the text that {folder} was trained on, unchanged")
    state = checkpoint.restore(folder / "checkpoint", like)
    done = int(state.step)
    require(done <= config.steps, "steps", config.steps, f"{done} or more, as the run has made {done}")
    summary = _read_json(folder / "summary.json")
    if done == config.steps and summary is not None and summary.get("steps") == done:
        return folder, state, summary
    experiment.write_config(folder, "char_lm", dataclasses.replace(config, resume=None))
    return folder, state, None


class Interrupted(Exception):  # noqa: N818
    """A signal waits: no further step is to be made."""


def fit(
    config: Config,
    corpus: data.Corpus,
    folder: Path,
    network: rj.Network,
    step: train.Step,
    state: train.TrainState,
    signals: SignalsWait,
) -> tuple[train.TrainState, list[Line]]:
    """Train to the last step, or until a signal comes; returns the state and the lines of metrics.jsonl.

    A line is written before the checkpoint of its step, and a resumed run drops the lines after its checkpoint and
    writes them again.  What is measured between the last line and an interruption goes to interrupted.json, and from
    there into the next line.
    """
    every, first = max(1, config.steps // REPORTS), int(state.step)
    lines = _read_lines(folder / "metrics.jsonl", first)
    part = _read_json(folder / "interrupted.json") or {}
    part = part if part.get("step") == first else {}
    since = part.get("since", first)
    earlier = (part or (lines[-1] if lines else {"seconds": 0.0}))["seconds"]
    began = time.perf_counter() - earlier
    _write_lines(folder / "metrics.jsonl", lines)

    def batch_at(index: int) -> rj.Batch:
        if signals.pending is not None:
            raise Interrupted
        return data.training_window(corpus.train, config.length, config.batch, index)

    def reports(start: train.TrainState) -> Iterator[tuple[train.TrainState, train.Metrics]]:
        for until in (min((first // every + 1) * every, config.steps), config.steps):  # from a multiple of every on
            for report in train.run(step, start, batch_at, until, every):
                start = report[0]
                yield report

    shared = len(state.step.devices())
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{count:,} parameters, gradient by {config.algorithm} on {shared} device{'s' if shared > 1 else ''}")
    with tqdm(total=config.steps, initial=first, unit="step", disable=None) as bar:
        try:
            for report in reports(state):
                state, metrics = report
                done = int(state.step)
                line = {
                    "step": done,
                    "bits": metrics.loss / NATS,
                    "grad_norm": metrics.grad_norm,
                    "clipped": metrics.clipped,
                    "seconds": time.perf_counter() - began,
                }
                line, part = _joined(part, line), {}
                if done % every and done < config.steps:
                    experiment.write_json(folder / "interrupted.json", {**line, "since": since})
                    continue
                checked = done % (10 * every) == 0 or done == config.steps
                if checked:
                    line["validation_bits"] = bits(network, state, corpus.validation)
                since = done
                lines.append(line)
                _write_lines(folder / "metrics.jsonl", lines)
                if checked:
                    checkpoint.save(folder / "checkpoint", state)
                    bar.write(
                        f"step {done:>6}: {line['bits']:.3f} bits per character, "
                        f"{line['validation_bits']:.3f} on validation text"
                    )
                bar.set_postfix_str(f"{line['bits']:.3f} bits per character")
                bar.update(done - bar.n)
        except Interrupted:
            checkpoint.save(folder / "checkpoint", state)
        except train.NonFiniteError as error:
            checkpoint.save(folder / "checkpoint", error.state)
            raise
    return state, lines


def bits(network: rj.Network, state: train.TrainState, part: data.Stream) -> float:
    """Bits per character on held-out text."""
    lanes, length = max(1, min(LANES, (len(part) - 1) // LANE)), min(100, len(part) - 1)
    return train.evaluate(network, _at_home(state.params), data.evaluation_windows(part, length, lanes, WARM_UP)) / NATS


def evaluate(
    config: Config,
    corpus: data.Corpus,
    prime: str,
    network: rj.Network,
    state: train.TrainState,
    lines: list[Line],
) -> dict[str, Any]:
    """The summary of a finished run: held-out bits beside simpler models, its cost, and a sample."""
    size, seconds = len(corpus.alphabet), lines[-1]["seconds"] if lines else 0.0
    key = jax.random.split(jax.random.key(config.seed))[1]
    tokens = rj.sample(
        network,
        _at_home(state.params),
        key,
        data.encode(prime, corpus.alphabet, "prime"),
        config.sample,
        config.temperature or 0.0,
    )
    sizes = {"H": config.hidden, "B": config.batch, "T": config.length}
    return {
        "model": figures.model(config.cell, **({"layers": config.layers} if config.layers > 1 else {}), **sizes),
        "test_bits": bits(network, state, corpus.test),
        "validation_bits": bits(network, state, corpus.validation),
        "baselines": {
            "unigram": text_baselines.markov(corpus.train, corpus.test, size, 0),
            "order-3 characters": text_baselines.markov(corpus.train, corpus.test, size, 3),
            "xz": text_baselines.xz(corpus.train, corpus.test, corpus.alphabet),
        },
        "steps": int(state.step),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "devices": len(state.step.devices()),
        "training_seconds": seconds,
        "milliseconds_per_step": 1e3 * seconds / int(state.step),
        "machine": experiment.machine(),
        "sample": data.decode(tokens, corpus.alphabet),
    }


def report(config: Config, prime: str, summary: dict[str, Any], folder: Path) -> None:
    """The summary, printed."""
    print(f"\n{prime}{summary['sample']}\n")
    print("bits per character on held-out text:")
    for name, value in [(f"this {config.cell}", summary["test_bits"]), *summary["baselines"].items()]:
        print(f"  {name:<20}{value:6.3f}")
    print(f"run folder: {folder}")


def plot(lines: list[dict[str, float]], summary: dict[str, Any], path: Path) -> None:
    """Bits per character against steps, with the baselines as lines."""
    title = f"{summary['model']}: {summary['test_bits']:.2f} bits per character of test text"
    figure, (axes,) = figures.panels(1, title, 4.2)
    held_out = [line for line in lines if "validation_bits" in line]
    for label, shown, name, style in (
        ("training text", lines, "bits", {"color": figures.SKY}),
        ("validation text", held_out, "validation_bits", {"color": figures.BLUE, "marker": "o"}),
    ):
        axes.plot([line["step"] for line in shown], [line[name] for line in shown], label=label, **style)
    axes.plot([summary["steps"]], [summary["test_bits"]], "*", color=figures.VERMILLION, label="test text", ms=11)
    for (name, value), style in zip(summary["baselines"].items(), ("-", "--", ":"), strict=True):
        axes.axhline(value, color=figures.DARK_GREY, lw=1, ls=style, label=f"{name}, {value:.2f}, test text")
    axes.set(xlabel="training step", ylabel="bits per character")
    axes.legend()
    figures.save(figure, path)


def _at_home(params: rj.Params) -> rj.Params:
    return jax.device_put(params, jax.local_devices()[0])


def _joined(part: Line, line: Line) -> Line:
    """A line with the part of its steps that an interrupted run has measured."""
    if not part:
        return line
    first, second = part["step"] - part["since"], line["step"] - part["step"]
    names = ("bits", "grad_norm", "clipped")
    return line | {name: (first * part[name] + second * line[name]) / (first + second) for name in names}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _read_lines(path: Path, last: int) -> list[Line]:
    """The lines up to step ``last``; the end of a file that was cut in the middle of a line is left out."""
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else [""]
    lines = []
    for number, text in enumerate(texts[:-1], 1):
        try:
            line = json.loads(text)
            if line["step"] <= last:
                lines.append({**line, "seconds": float(line["seconds"]), "bits": float(line["bits"])})
        except (ValueError, TypeError, KeyError):
            require(False, f"line {number} of {path}", text, "as this script writes it")
    return lines


def _write_lines(path: Path, lines: list[Line]) -> None:
    experiment.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))


def main(config: Config) -> None:
    """Run it; the exit status is 0."""
    run(config)


if __name__ == "__main__":
    experiment.main(Config, main, flags)
