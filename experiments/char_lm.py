"""Train a character language model with a hand-written gradient.

Without arguments: the vanilla recurrent network (H = 128) on Shakespeare, two minutes on two cores. It prints bits per
character on held-out plays beside simpler models, writes a sample, and leaves config.json, text.json, metrics.jsonl,
summary.json, learning_curve.png and a checkpoint in its run folder.

Examples:
  python experiments/char_lm.py --cell lstm --hidden 256 --steps 12000
  python experiments/char_lm.py --text my.txt --algorithm autodiff --seed 1
  python experiments/char_lm.py --out runs/a --resume auto
  python experiments/char_lm.py --seeds 3 --out runs/three
  python experiments/char_lm.py --resume runs/char_lm/20260101-120000
  python experiments/char_lm.py --generate runs/a --prime "To be" --sample 300
"""

import dataclasses
import hashlib
import math
import shlex
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import figures
import jax
import optax
from adam import check_adam

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
RUN = (
    r"lock|(text|summary|diverged)\.json|metrics\.jsonl|learning_curve\.png|tensorboard(/events\.out\.tfevents\.[^/]*)?"
    r"|checkpoint(/\d+(\.orbax-checkpoint-tmp[^/]*)?(/(_\w+|\w+\.txt|d|default|array_metadatas|manifest\.ocdbt"
    r"|(ocdbt\.)?process_\d+|[0-9a-f]{32})(\.orbax-checkpoint-tmp[^/]*|\.__lock)?)*)?"
)
"""What a run of one seed writes beside config.json."""
FILES = rf"{RUN}|seed-\d+(/(config\.json|{RUN})(\.partial)?)?"
"""What a run writes beside config.json."""
BEGUN = r"lock|text\.json|metrics\.jsonl|tensorboard"
"""What a run of one seed writes before its first checkpoint."""
FREE = ("steps", "devices", "text", "checkpoint_every", "cache", "quiet", "tensorboard")
"""The flags that may differ in a run that is resumed."""


@dataclass(frozen=True)
class Config:
    """What to train, on what, and for how long."""

    text: Path | None = None
    """UTF-8 text file, or - for the standard input; by default 38 plays of Shakespeare."""
    cell: Literal[*CELLS] = "elman"
    """The cell of every layer."""
    activation: Literal["tanh", "relu", "identity"] | None = None
    """(elman only) By default tanh."""
    leak: float | None = None
    """(elman only) In (0, 1]; by default 1, the plain cell."""
    hidden: int = 128
    """H, units per layer."""
    layers: int = 1
    """Recurrent layers, one upon the other."""
    recurrent: Literal["uniform", "orthogonal", "identity"] = "uniform"
    """Initialisation of W."""
    chrono: int | None = None
    """(cells with a gate that forgets) Draw the biases of the gates such that the units remember for up to so many
    characters; by default they are 0, and 1 for the forget gate of lstm."""
    algorithm: Literal[*ALGORITHMS] = "bptt"
    """Gradient algorithm: bptt is the hand-written reverse, autodiff is JAX's."""
    devices: int | None = None
    """Number of devices that share a batch; it must divide B. By default as many as possible, each core of the CPU
    being one. A run that is resumed uses as many as before, since sums over other parts of a batch are rounded
    differently. With --seeds they share the seeds, and not the batch: each seed is on one device, and by default all
    devices have some."""
    steps: int | None = None
    """Updates; by default 8000, with --quick 60. With --resume, those of the whole run: the cosine of --decay is then
    computed anew over that many, so the rate jumps from its end back to where the longer cosine is at this step."""
    batch: int = 32
    """B, streams of text read in parallel."""
    length: int | None = None
    """T, characters per window; the gradient does not reach beyond it, the state does. By default 100, with --quick
    50."""
    optimiser: Literal["adam", "sgd"] = "adam"
    """Adam, or plain gradient descent."""
    rate: float | None = None
    """Peak learning rate; by default 0.01, or for adam with a cell without gates 3e-3."""
    decay: bool = True
    """Let the rate fall along a cosine."""
    last_rate: float | None = None
    """Learning rate at the end, as a share of the peak; by default 0.1."""
    warm_up: int = 0
    """Updates in which the rate rises linearly to its peak, before it falls."""
    beta1: float | None = None
    """(adam only) Decay of the mean of gradients; by default 0.9."""
    beta2: float | None = None
    """(adam only) Decay of the mean of their squares; by default 0.999."""
    eps: float | None = None
    """(adam only) What is added to the root of that mean, by which Adam divides; by default 1e-8."""
    clip: Literal["norm", "value", "none"] = "norm"
    """Clip the gradient's global norm, or each element."""
    clip_at: float | None = None
    """By default 1."""
    seed: int = 0
    """Seed of all that is random, from 0 to 2**32 - 1."""
    seeds: int = 1
    """Train the runs of so many seeds at once, from --seed on. Each has a run folder of its own, seed-N in --out, and
    on a CPU the very numbers that it has alone on one device."""
    sample: int | None = None
    """Characters to write at the end, or with --generate; by default 500, with --quick 100."""
    temperature: float | None = None
    """Temperature of the sample; 0 takes the most likely character. By default 0.8."""
    prime: str | None = None
    """Text that the sample continues; by default a line break, or its lowest character where the text has none."""
    out: Path | None = None
    """Run folder; by default runs/char_lm/TIME."""
    overwrite: bool = False
    """Replace the earlier run that the folder given by --out holds."""
    resume: Path | None = None
    """Go on with the run in this folder, with its own flags; only --steps, --devices, --text (the same text in another
    place) and the flags below may differ. With auto, go on with the run in the folder given by --out, or start it."""
    generate: Path | None = None
    """Write a sample from the run in this folder, finished or not, and do not train."""
    checkpoint_every: int | None = None
    """Steps from one checkpoint to the next; by default a tenth of all."""
    quick: bool = False
    """A run of seconds that touches everything: a part of the text, and fewer steps unless --steps is given."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next start."""
    quiet: bool = False
    """Print nothing but warnings and errors."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too, to the folder tensorboard of the run; needs the package tensorboardX."""


def flags(parse: experiment.Parse) -> Config:
    """The command line; with --resume the flags that are left out are those of the run."""
    config = started(parse(Config()))
    if config.generate or config.resume in (None, experiment.AUTO):
        return config
    saved = dataclasses.replace(experiment.read_config(config.resume, "char_lm", Config), resume=config.resume)
    given = parse(saved)
    if given.resume == experiment.AUTO:
        given = dataclasses.replace(given, resume=config.resume, out=saved.out)
    return experiment.resumed(given, "char_lm", saved, FREE)


def started(config: Config) -> Config:
    """With --resume auto, the folder of the run to resume where there is one."""
    if config.resume != experiment.AUTO:
        return config
    require(config.out is not None, "resume", "auto", "used with --out")
    require(not config.overwrite, "overwrite", True, "left out with --resume")
    several = any(experiment.goes_on(folder, BEGUN) for folder in config.out.glob("seed-*"))
    if not several and not experiment.goes_on(config.out, rf"{BEGUN}|seed-\d+"):
        return config
    return dataclasses.replace(config, resume=config.out, out=None)


def resolve(config: Config) -> Config:
    """The configuration with its defaults filled in; flags that would change nothing are refused."""
    for name, idle, needed in (
        ("activation", config.cell != "elman", "--cell elman"),
        ("leak", config.cell != "elman", "--cell elman"),
        ("clip_at", config.clip == "none", "--clip norm or value"),
        ("temperature", config.sample == 0, "--sample above 0"),
        ("prime", config.sample == 0, "--sample above 0"),
        ("overwrite", config.out is None, "--out"),
        ("last_rate", not config.decay, "--decay"),
        ("beta1", config.optimiser != "adam", "--optimiser adam"),
        ("beta2", config.optimiser != "adam", "--optimiser adam"),
        ("eps", config.optimiser != "adam", "--optimiser adam"),
    ):
        value = getattr(config, name)
        given = value is not None and value is not False  # 0 is
        require(not (idle and given), name, value, f"left out: it changes nothing without {needed}")
    usual = {
        "activation": "tanh" if config.cell == "elman" else None,
        "leak": 1.0 if config.cell == "elman" else None,
        "steps": 60 if config.quick else 8000,
        "length": 50 if config.quick else 100,
        "rate": 3e-3 if config.optimiser == "adam" and len(CELLS[config.cell].gates) == 1 else 1e-2,
        "last_rate": 0.1 if config.decay else None,
        "beta1": 0.9 if config.optimiser == "adam" else None,
        "beta2": 0.999 if config.optimiser == "adam" else None,
        "eps": 1e-8 if config.optimiser == "adam" else None,
        "clip_at": None if config.clip == "none" else 1.0,
        "sample": 100 if config.quick else 500,
        "temperature": None if config.sample == 0 else 0.8,
    }
    usual["checkpoint_every"] = 10 * interval(config.steps or usual["steps"])
    left_out = {name: value for name, value in usual.items() if getattr(config, name) is None}
    config = dataclasses.replace(config, **left_out)
    for name in ("layers", "steps", "batch", "length", "checkpoint_every", "seeds"):
        check_int(getattr(config, name), name if name != "batch" else "batch_size")
    check_int(config.sample, "sample", least=0)
    require(0 <= config.seed <= 2**32 - config.seeds, "seed", config.seed, f"in 0 … {2**32 - config.seeds}")
    if config.seeds > 1 and config.devices is not None:
        fits = 0 < config.devices <= config.seeds
        require(fits, "devices", config.devices, f"1 … {config.seeds}, as each seed is on one device")
    if config.temperature is not None:
        check_number(config.temperature, "temperature", 0, LARGEST_NUMBER, "a finite number, 0 or more")
    require(0 <= config.warm_up < config.steps, "warm_up", config.warm_up, f"in 0 … {config.steps - 1}")
    if config.last_rate is not None:
        check_number(config.last_rate, "last_rate", 0, 1, "in 0 … 1")
    if config.optimiser == "adam":
        check_adam(config)
    for name in ("rate", "clip_at"):
        value = getattr(config, name)
        require(value is None or 0 < value < math.inf, name, value, "a positive number")
    return config


def interval(steps: int) -> int:
    """How many steps a line of metrics spans."""
    return max(1, steps // REPORTS)


def load(config: Config) -> tuple[data.Corpus, str]:
    """The text, and what the sample continues."""
    corpus = data.read_text(config.text) if config.text else data.shakespeare()
    if config.quick:
        corpus = corpus._replace(**{part: getattr(corpus, part)[:20_000] for part in ("train", "validation", "test")})
    prime = beginning(config.prime, corpus.alphabet)
    data.training_window(corpus.train, config.length, config.batch, 0)
    return corpus, prime


def beginning(prime: str | None, alphabet: str) -> str:
    """What a sample continues."""
    prime = prime if prime is not None else "\n" if "\n" in alphabet else alphabet[0]
    require(prime, "prime", prime, "one character or more")
    data.encode(prime, alphabet, "prime")
    return prime


def identity(corpus: data.Corpus) -> dict[str, Any]:
    """The alphabet, and a SHA-256 of it and of all parts: equal texts have equal ones, whatever file they are from."""
    sha = hashlib.sha256(corpus.alphabet.encode("utf-32-le", "surrogatepass"))
    for part in corpus[1:]:
        sha.update(f"{len(part)};".encode())
        sha.update(part.astype("<i4").tobytes())
    return {"sha256": sha.hexdigest(), "characters": sum(map(len, corpus[1:])), "alphabet": corpus.alphabet}


def build(config: Config, vocabulary: int) -> tuple[rj.Network, rj.Algorithm, optax.GradientTransformation, Any]:
    """The network, its algorithm, the optimiser and the clip that a configuration asks for."""
    network = experiment.character_network(dataclasses.asdict(config), vocabulary)
    algorithm = ALGORITHMS[config.algorithm](network)
    available = jax.local_devices()
    require(
        0 < config.devices <= len(available), "devices", config.devices, f"1 … {len(available)}, as many as there are"
    )
    if config.seeds == 1:
        algorithm = rj.data_parallel(algorithm, available[: config.devices])
    constants = (config.beta1, config.beta2, config.eps)
    optimiser = optax.adam(rates(config), *constants) if config.optimiser == "adam" else optax.sgd(rates(config))
    clips = {"norm": train.clip_by_global_norm, "value": optax.clip}
    return network, algorithm, optimiser, clips[config.clip](config.clip_at) if config.clip != "none" else None


def rates(config: Config) -> float | optax.Schedule:
    """The learning rate, or how it goes from update to update."""
    falls = optax.constant_schedule(config.rate) if config.warm_up else config.rate
    if config.decay:
        falls = optax.cosine_decay_schedule(config.rate, config.steps - config.warm_up, alpha=config.last_rate)
    if not config.warm_up:
        return falls
    rises = optax.linear_schedule(config.rate / config.warm_up, config.rate, max(1, config.warm_up - 1))
    return optax.join_schedules([rises, falls], [config.warm_up])


def run(config: Config, watch: experiment.Watch | None = None) -> dict[str, Any]:
    """Train, evaluate, sample, and write the run folder; returns the summary.

    SIGINT (Ctrl-C) and SIGTERM end it after the step, the window of an evaluation, or the save under way, with the
    state saved and the command that resumes the run printed; a second one ends it at once, and the last checkpoint is
    resumed.  A resumed run takes the same steps, bitwise, as one that was never interrupted, and its metrics.jsonl has
    the same lines, but for "seconds".

    Where ``config.resume`` is a folder, its configuration is used; of ``config`` only the flags in ``FREE`` may differ
    from it, and what is at its default counts as not given.  A run that is finished is left as it is; a file that is
    gone is made again, or the run is refused.

    ``watch`` is called with each line of metrics.jsonl, a dict of "step" and numbers by name, for a tracker of your
    own.  What it raises is said in a line on stderr, and the run goes on.

    Raises:
      InputError: an invalid flag or text, or not those of the run to resume; nothing is written then.
      UnsavedError: the last save failed.
    """
    experiment.use_cores()
    config = started(config)
    resumes = config.resume not in (None, experiment.AUTO)
    config = resolve(experiment.resumed(config, "char_lm", Config(), FREE) if resumes else config)
    if config.tensorboard:
        experiment.require_tensorboard()
    if config.cache:
        experiment.keep_compiled()
    corpus, prime = load(config)
    config = dataclasses.replace(
        config,
        text=config.text.absolute() if config.text and str(config.text) != "-" else config.text,
        out=config.out.absolute() if config.out else None,  # it may be resumed from another folder
        devices=usual_devices(config) if config.devices is None else config.devices,
    )
    network, algorithm, optimiser, clip = build(config, len(corpus.alphabet))

    def fresh(seed: int) -> train.TrainState:
        key = jax.random.key(seed)
        params = rj.init(network, jax.random.split(key)[0], config.recurrent, chrono=config.chrono)
        return train.init_state(algorithm, optimiser, params, config.batch, jax.random.fold_in(key, 2))

    step = train.make_step(algorithm, optimiser, clip)
    anew = config.resume == experiment.AUTO and config.out.is_dir() and any(config.out.iterdir())
    folder = None
    try:
        with experiment.Lock() as lock:
            with SignalsWait() as signals:
                before = experiment.last_start(config.resume) if resumes else None
                folder, members = open_runs(config, corpus, fresh, lock)
                say(config, f"run folder: {folder}\nto go on with it: {command(config, folder)}")
                if before and (changed := experiment.changes(before, experiment.last_start(folder))):
                    experiment.tell(
                        f"warning: {changed}; the run goes on, but may not be the same to the bit", error=True
                    )
                if resumes or anew:
                    say(config, start(members))
                members = fit(config, corpus, members, network, step, signals, watch)
            signals.deliver()
            summaries = [finished(member, corpus, prime, network) for member in members]
            summary = summaries[0] if config.seeds == 1 else together(config, members, summaries, folder)
    except (KeyboardInterrupt, SystemExit):
        if folder:
            experiment.tell(f"interrupted; to go on with it: {command(config, folder)}", error=True)
        raise
    report(config, prime, members, summaries, folder)
    return summary


class Member(NamedTuple):
    """The run of one seed."""

    config: Config
    files: experiment.Run
    state: train.TrainState
    summary: dict[str, Any] | None
    """None until it is finished."""


def usual_devices(config: Config) -> int:
    """As many as divide the batch, or as have seeds."""
    return len(rj.devices_for(config.batch)) if config.seeds == 1 else min(config.seeds, len(jax.local_devices()))


def open_runs(
    config: Config, corpus: data.Corpus, fresh: Callable[[int], train.TrainState], lock: experiment.Lock
) -> tuple[Path, list[Member]]:
    """The folder, and the run of each seed: new, or that which is resumed."""
    resumes = config.resume not in (None, experiment.AUTO)
    if config.seeds == 1:
        state = fresh(config.seed)
        member = resume(found(config, corpus, state, lock), corpus) if resumes else begin(config, corpus, state, lock)
        return member.files.folder, [member]
    if resumes:
        lock.take(config.resume)
    folder = config.resume if resumes else new_folder(config, corpus, lock)
    places: list[Found | Config] = []
    for seed in range(config.seed, config.seed + config.seeds):
        out = folder / f"seed-{seed}"
        own = dataclasses.replace(config, seed=seed, seeds=1, devices=1, out=out, overwrite=False, resume=out)
        goes_on = experiment.goes_on(out, BEGUN)
        if goes_on or any(path.name != "config.json.partial" for path in out.glob("*")):
            saved = experiment.read_config(out, "char_lm", Config)
            experiment.resumed(own, "char_lm", saved, (*FREE, "out", "overwrite"))
        places.append(
            found(own, corpus, fresh(seed), lock) if goes_on else dataclasses.replace(own, resume=experiment.AUTO)
        )
    # nothing is written before all have been read
    members = [
        resume(place, corpus) if isinstance(place, Found) else begin(place, corpus, fresh(place.seed), lock)
        for place in places
    ]
    if resumes and any(member.summary is None for member in members):
        experiment.write_config(folder, "char_lm", config, origin(corpus))
    return folder, members


def command(config: Config, folder: Path) -> str:
    """The command that goes on with a run."""
    text = ["--text", "-"] if str(config.text) == "-" else []
    return shlex.join([sys.executable, str(Path(__file__).absolute()), "--resume", str(folder.absolute()), *text])


def start(members: list[Member]) -> str:
    """From where runs go on, in one line."""
    places: dict[str, list[int]] = {}
    for member in members:
        step = int(member.state.step)
        if member.summary is not None:
            place = f"finished at step {step}"
        elif member.config.resume == experiment.AUTO:
            place = "no checkpoint yet: begun anew"
        elif not member.state.finite:
            place = f"not finite at step {step}"
        else:
            place = f"going on from step {step}"
        places.setdefault(place, []).append(member.config.seed)
    if len(places) == 1:
        return next(iter(places))
    return "; ".join(
        f"{place} (seed{'s' if seeds[1:] else ''} {', '.join(map(str, seeds))})" for place, seeds in places.items()
    )


def say(config: Config, text: str) -> None:
    """Print a text at once, without --quiet."""
    if not config.quiet:
        experiment.tell(text)


def origin(corpus: data.Corpus) -> dict[str, Any]:
    """What starts a run, and on which text."""
    return {**experiment.origin(), "text_sha256": identity(corpus)["sha256"]}


def new_folder(config: Config, corpus: data.Corpus, lock: experiment.Lock) -> Path:
    """The folder of a new run, held by the lock."""
    if config.out:
        lock.take(config.out, make=False)
    inputs = [config.text] if config.text and str(config.text) != "-" else []
    folder = experiment.new_folder("char_lm", config, FILES, inputs, origin(corpus))
    lock.take(folder)
    return folder


def begin(config: Config, corpus: data.Corpus, state: train.TrainState, lock: experiment.Lock) -> Member:
    """A new run, which can be resumed from here on."""
    folder = new_folder(config, corpus, lock)
    experiment.write_sealed(folder / "text.json", identity(corpus))
    files = experiment.Run(folder, ("config.json", "text.json"))
    files.save(state)
    return Member(config, files, state, None)


class Found(NamedTuple):
    """The run of one seed that was begun, as it is read; nothing is written yet."""

    config: Config
    saved: checkpoint.Saved
    state: train.TrainState
    summary: dict[str, Any] | None
    """None unless it is finished."""


def found(config: Config, corpus: data.Corpus, like: train.TrainState, lock: experiment.Lock) -> Found:
    """The run to resume, read and checked."""
    folder = config.resume
    text = experiment.read_sealed(folder / "text.json")
    same = text is not None and text.get("sha256") == identity(corpus)["sha256"]
    shown = Description("the plays" if config.text is None else repr(str(config.text)))
    require(same, "text", shown, f"the text that {folder} was trained on, unchanged")
    lock.take(folder)
    saved = checkpoint.read(folder / "checkpoint")
    if saved.passed_over:
        experiment.tell(f"warning: {saved.passed_over}", error=True)
    state = checkpoint.state_of(saved, like)
    done = int(state.step)
    require(done <= config.steps, "steps", config.steps, f"{done} or more, as the run has made {done}")
    experiment.Run(folder, saved=saved)  # refuses what is no checkpoint of such a run
    summary = experiment.read_sealed(folder / "summary.json")
    ended = done == config.steps and summary is not None and summary.get("steps") == done
    return Found(config, saved, state, summary if ended else None)


def resume(run: Found, corpus: data.Corpus) -> Member:
    """Go on with a run."""
    folder = run.config.resume
    if run.summary is None:
        experiment.write_config(folder, "char_lm", run.config, origin(corpus))
    files = experiment.Run(folder, ("config.json", "text.json"), run.saved)
    files.write_lines()
    return Member(run.config, files, run.state, run.summary)


def fit(
    config: Config,
    corpus: data.Corpus,
    members: list[Member],
    network: rj.Network,
    step: train.Step,
    signals: SignalsWait,
    watch: experiment.Watch | None,
) -> list[Member]:
    """Train those that are not finished to the last step, or until a signal comes."""
    going = [member for member in members if member.summary is None and (config.seeds == 1 or member.state.finite)]
    if not going:
        return members
    count = sum(leaf.size for leaf in jax.tree.leaves(going[0].state.params))
    files: experiment.Run | experiment.SeveralRuns = going[0].files
    state, shared = going[0].state, len(going[0].state.step.devices())
    if config.seeds > 1:
        devices = jax.local_devices()[: config.devices]
        runs = {member.config.seed: member.files for member in going}
        files = experiment.SeveralRuns(runs, going[0].files.folder.parent, ("config.json",))
        state, step = rj.seeds.together([member.state for member in going], devices), rj.seeds.make_step(step, devices)
        shared = min(len(devices), len(going))
    first = int(state.step)
    writers = {}
    if config.tensorboard:
        for member in going:
            folder = member.files.folder / "tensorboard"
            writers[member.config.seed] = experiment.tensorboard(folder, int(member.state.step))
    who = f"{len(going)} seeds, " if config.seeds > 1 else ""
    say(
        config,
        f"{who}{count:,} parameters, gradient by {config.algorithm} on {shared} device{'s' if shared > 1 else ''}",
    )

    def see(line: experiment.Line) -> None:
        if watch:
            experiment.inform(watch, line)
        if writers:
            writer = writers[line.get("seed", config.seed)]
            experiment.inform(writer, {name: line[name] for name in line if name != "seed"})
        if "validation_bits" in line:
            seed = f"seed {line['seed']}, " if "seed" in line else ""
            held_out = f"{line['validation_bits']:.3f} on validation text"
            progress.say(f"{seed}step {line['step']:>6}: {line['bits']:.3f} bits per character, {held_out}")

    def line_of(metrics: train.Metrics) -> experiment.Line:
        return {"bits": metrics.loss / NATS, "grad_norm": metrics.grad_norm, "clipped": metrics.clipped}

    def measure(state: train.TrainState, check: Callable[[], None]) -> experiment.Line:
        return {"validation_bits": bits(network, state, corpus.validation, check)}

    def describe(line: experiment.Line) -> str:
        return f"{line['bits']:.3f} bits per character" + (", mean over seeds" if config.seeds > 1 else "")

    work = config.batch * config.length * len(going)
    with experiment.Progress(config.steps, first, work, "characters", describe, config.quiet) as progress:
        state = files.fit(
            step,
            state,
            partial(data.training_window, corpus.train, config.length, config.batch),
            config.steps,
            interval(config.steps),
            signals,
            config.checkpoint_every,
            line_of,
            measure,
            progress,
            see,
        )
    states = [state] if config.seeds == 1 else rj.seeds.apart(state, len(going))
    after = {member.config.seed: state for member, state in zip(going, states, strict=True)}
    return [member._replace(state=after.get(member.config.seed, member.state)) for member in members]


def bits(
    network: rj.Network, state: train.TrainState, part: data.Stream, check: Callable[[], None] = lambda: None
) -> float:
    """Bits per character on held-out text; ``check`` is called before each window, and may raise."""
    lanes, length = max(1, min(LANES, (len(part) - 1) // LANE)), min(100, len(part) - 1)
    windows = data.evaluation_windows(part, length, lanes, WARM_UP)
    checked = (window for window in windows if check() is None)
    return train.evaluate(network, _on_first_device(state.params), checked) / NATS


def generate(config: Config) -> str:
    """Text by the newest parameters of a run; it goes on from ``config.prime``.

    Raises:
      InputError: no folder of a run, a damaged one, or a flag that is invalid or changes nothing.
    """
    used = ("generate", "sample", "temperature", "prime", "seed", "cache", "quiet")
    for field in dataclasses.fields(Config):
        value, usual = getattr(config, field.name), getattr(Config(), field.name)
        shown = str(value) if isinstance(value, Path) else value
        idle = field.name not in used and value != usual
        require(not idle, field.name, shown, "left out: it changes nothing with --generate")
    config = resolve(config)
    if config.cache:
        experiment.keep_compiled()
    network, params, alphabet, _ = experiment.load_run(config.generate)
    prime = beginning(config.prime, alphabet)
    return prime + written(config, network, params, alphabet, prime)


def written(config: Config, network: rj.Network, params: rj.Params, alphabet: str, prime: str) -> str:
    """What a network writes after ``prime``."""
    key = jax.random.split(jax.random.key(config.seed))[1]
    tokens = data.encode(prime, alphabet, "prime")
    sampled = rj.sample(network, params, key, tokens, config.sample, config.temperature or 0.0)
    return data.decode(sampled, alphabet)


def evaluate(
    config: Config,
    corpus: data.Corpus,
    prime: str,
    network: rj.Network,
    state: train.TrainState,
    lines: list[experiment.Line],
) -> dict[str, Any]:
    """The summary of a finished run: held-out bits beside simpler models, its cost, and a sample."""
    size, seconds = len(corpus.alphabet), lines[-1]["seconds"] if lines else 0.0
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
        "sample": written(config, network, _on_first_device(state.params), corpus.alphabet, prime),
    }


def finished(member: Member, corpus: data.Corpus, prime: str, network: rj.Network) -> dict[str, Any] | None:
    """The summary of a run after its last step, and its plot; None where it met a number that is not finite."""
    lines, summary = member.files.lines, member.summary
    if summary is None and not member.state.finite:
        return None
    made = summary or evaluate(member.config, corpus, prime, network, member.state, lines)
    picture = member.files.folder / "learning_curve.png"
    if summary is None or not picture.exists():
        plot(lines, made, picture)
    if summary is None:
        experiment.write_sealed(member.files.folder / "summary.json", made)
    return made


def together(
    config: Config, members: list[Member], summaries: list[dict[str, Any] | None], folder: Path
) -> dict[str, Any]:
    """The summary of several seeds; a seed whose run met a number that is not finite has None."""
    found = [summary for summary in summaries if summary]
    if not found:
        raise train.NonFiniteError(members[0].state)
    bits = [summary["test_bits"] for summary in found]
    each = {str(member.config.seed): summary for member, summary in zip(members, summaries, strict=True)}
    summary = {
        "test_bits": statistics.mean(bits),
        "standard_deviation": statistics.stdev(bits) if len(bits) > 1 else None,
        "steps": config.steps,
        "devices": config.devices,
        "training_seconds": max(summary["training_seconds"] for summary in found),
        "seeds": {seed: summary and summary["test_bits"] for seed, summary in each.items()},
    }
    if experiment.read_sealed(folder / "summary.json") != summary:
        experiment.write_sealed(folder / "summary.json", summary)
    return summary


def report(
    config: Config, prime: str, members: list[Member], summaries: list[dict[str, Any] | None], folder: Path
) -> None:
    """The summary, printed."""
    if config.quiet:
        return
    found = [summary for summary in summaries if summary]
    print(f"\n{prime}{found[0]['sample']}\n")
    print("bits per character on held-out text:")
    for member, summary in zip(members, summaries, strict=True):
        name = f"this {config.cell}" + (f", seed {member.config.seed}" if config.seeds > 1 else "")
        print(f"  {name:<20}" + (f"{summary['test_bits']:6.3f}" if summary else "not finite"))
    for name, value in found[0]["baselines"].items():
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


def _on_first_device(params: rj.Params) -> rj.Params:
    return jax.device_put(params, jax.local_devices()[0])


def main(config: Config) -> None:
    """Run it; the exit status is 0."""
    if config.generate:
        print(generate(config))
    else:
        run(config)


if __name__ == "__main__":
    experiment.main(Config, main, flags)
