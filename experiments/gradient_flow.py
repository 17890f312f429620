"""Show how the error flows back through time: where it vanishes, where it explodes, and what training makes of it.

The task is the adding problem, where the loss of the last step alone depends on two inputs far before it.  Elman
networks have a W of Gaussian entries times a gain, g / √H, so that its spectral radius is about g.  Beside them stand
Elman, GRU and LSTM as this library draws them, with an orthogonal W, and with gates drawn for dependencies as long as
the sequence (chrono), before training and after it.  Measured, in float64, from the hand-written reverse:

  the norm of the error of the whole state, by the lag from the last step;
  the share of dW that each step adds;
  the error of the gradient of windows of k steps, which truncated BPTT takes for that of the whole;
  the singular values of ∂s_T/∂s_t by the lag, and the Lyapunov spectrum;
  how often the gradient is clipped in training.

Examples:
  python experiments/gradient_flow.py
  python experiments/gradient_flow.py --gains 0.8 1 1.2 --length 200 --windows 1 10 100 200
  python experiments/gradient_flow.py --out runs/flow --resume auto
  python experiments/gradient_flow.py --quick
"""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flow_figures
import jax
import jax.numpy as jnp
import numpy as np
from adam import Adam, check_adam
from flow_figures import CELLS
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import require
from rnn_jax.data import adding
from rnn_jax.diagnostics import gradient_flow, lyapunov_spectrum, singular_values
from rnn_jax.network import Recurrent

apply = jax.jit(rj.apply, static_argnames="network")
FILES = r"summary\.json|(gradient_flow|shares|truncation|singular_values|lyapunov|clipping)\.png"
"""What a run writes beside config.json."""


@dataclass(frozen=True)
class Config(Adam):
    """Which networks, how long the sequences are, and how they are trained."""

    hidden: int = 64
    """H."""
    length: int = 100
    """T of the adding problem, and T_max of the chrono initialisation."""
    gains: tuple[float, ...] = (0.5, 0.9, 1.0, 1.1, 1.5)
    """Gains g of the Gaussian W of Elman networks."""
    windows: tuple[int, ...] = (1, 2, 5, 10, 20, 25, 50, 100)
    """Steps of the windows of truncated BPTT; all divide the length."""
    batch: int = 32
    """Sequences on which everything is measured; the singular values and exponents are those of the first one."""
    driven: int = 10
    """Sequences, one after the other behind a first one, of which the Lyapunov exponents are those of the inputs."""
    steps: int = 1500
    """Training steps; 0 leaves out all that is measured after training."""
    training_batch: int = 32
    """Sequences of a training step."""
    rate: float = 2e-3
    """Learning rate of Adam."""
    clip: float = 1.0
    """The gradient is scaled down to this norm where it is larger."""
    every: int = 50
    """Steps of a report."""
    seed: int = 0
    """Of networks and sequences."""
    out: Path | None = None
    """Run folder; by default runs/gradient_flow/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next start."""
    quick: bool = False
    """A small network, short sequences and 20 training steps."""


def check(config: Config) -> None:
    """Refuse what does not fit together."""
    for name in ("hidden", "batch", "driven", "training_batch", "every"):
        require(getattr(config, name) > 0, name, getattr(config, name), "positive")
    require(config.length > 2, "length", config.length, "3 or more")
    require(config.gains and min(config.gains) > 0, "gains", config.gains, "positive numbers, one or more")
    bad = [k for k in config.windows if k < 1 or config.length % k]
    require(config.windows and not bad, "windows", bad or config.windows, f"divisors of the length, {config.length}")
    fits = config.steps >= 0 and config.steps % config.every == 0
    require(fits, "steps", config.steps, f"0 or more, and a multiple of every, {config.every}")
    require(config.rate > 0 and config.clip > 0, "rate or clip", (config.rate, config.clip), "positive")
    require(config.seed >= 0, "seed", config.seed, "0 or more")
    check_adam(config)


def network_of(config: Config, cell: str) -> rj.Network:
    """One layer of a cell for the adding problem."""
    return rj.Network((rj.CELLS[cell],), inputs=2, hidden=config.hidden, outputs=1, loss=rj.squared_error())


def with_gain(config: Config, gain: float) -> tuple[rj.Network, rj.Params]:
    """An Elman network whose W is Gaussian with standard deviation g / √H."""
    network, key = network_of(config, "elman"), jax.random.key(config.seed)
    params = rj.init(network, key)
    H = config.hidden
    W = gain * H**-0.5 * jax.random.normal(jax.random.fold_in(key, 1), (H, H), jnp.float32)
    return network, params._replace(layers=(params.layers[0]._replace(W=W),))


def initial(config: Config, name: str) -> tuple[rj.Network, rj.Params]:
    """A network of ``CELLS`` as it is drawn."""
    cell, *option = name.lower().split(", ")
    network = network_of(config, cell)
    recurrent: Recurrent = "orthogonal" if "orthogonal" in option else "uniform"
    chrono = config.length if "chrono" in option else None
    return network, rj.init(network, jax.random.key(config.seed), recurrent, chrono=chrono)


def wide(tree: Any) -> Any:
    """A tree with its floats in float64."""
    return jax.tree.map(lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree)


def geometric_mean(numbers: Any) -> np.ndarray:
    """Over the examples, the last axis; 0 where one is."""
    with np.errstate(divide="ignore"):
        mean: np.ndarray = np.exp(np.log(np.asarray(numbers)).mean(axis=-1))
    return mean


def measure(config: Config, network: rj.Network, params: rj.Params, spectra: bool) -> dict[str, Any]:
    """All that is known of a network, in float64: lists over the lag, over the windows, and over the exponents."""
    data = adding(jax.random.key(config.seed + 1), config.length, config.batch)
    with jax.enable_x64(True):
        params, data = wide(params), wide(data)
        flow = gradient_flow(network, params, rj.initial_state(network, params, config.batch), data)
        errors = np.sqrt(sum(np.square(np.asarray(each)) for each in flow.delta_s[0]))[:0:-1]  # by the lag
        shares = np.asarray(flow.contributions[0].W)[::-1]
        found = {
            "error by lag": geometric_mean(errors / errors[:1]).tolist(),
            "share by lag": geometric_mean(shares / shares.sum(axis=0)).tolist(),
            "truncation": [truncation(network, params, data, flow.grads, k) for k in config.windows],
            "largest error of a gradient": float(errors.max()),
        }
        one = jax.tree.map(lambda a: a[:, :1], data)
        state = rj.initial_state(network, params, 1)
        if spectra:
            logs = singular_values(network, params, state, one.xs)[:0:-1, 0]
            found["singular values"] = {
                "largest": logs[:, 0].tolist(),
                "median": np.median(logs[:, : config.hidden], axis=1).tolist(),  # of the H largest
            }
        driven = jnp.concatenate([jnp.moveaxis(data.xs, 1, 0).reshape(-1, 1, 2)] * (1 + config.driven))
        driven = driven[: (1 + config.driven) * config.length]
        _, state = apply(network, params, state, driven[: config.length])
        spectrum = lyapunov_spectrum(network, params, state, driven[config.length :], count=config.hidden)[0]
        found["lyapunov"] = np.sort(spectrum)[::-1].tolist()
    return found


def truncation(network: rj.Network, params: rj.Params, data: rj.Batch, whole: rj.Params, k: int) -> float:
    """‖g_k − g‖ / ‖g‖ over the recurrent parameters, with g_k the sum of the gradients of windows of k steps."""
    exact = ravel_pytree(whole.layers)[0]
    return float(jnp.linalg.norm(by_windows(network, params, data, k) - exact) / jnp.linalg.norm(exact))


@functools.partial(jax.jit, static_argnames=("network", "k"))
def by_windows(network: rj.Network, params: rj.Params, data: rj.Batch, k: int) -> jax.Array:
    """The recurrent gradient of truncated BPTT, summed over the windows of k steps, as one vector."""
    algorithm = rj.bptt(network)
    windows = jax.tree.map(lambda a: a.reshape(-1, k, *a.shape[1:]), data)
    carry = algorithm.init(params, data.xs.shape[1])
    _, estimates = jax.lax.scan(lambda carry, window: algorithm.update(params, carry, window), carry, windows)
    return ravel_pytree(jax.tree.map(lambda a: a.sum(axis=0), estimates.grads.layers))[0]


@functools.lru_cache
def trainer(config: Config, network: rj.Network) -> tuple[Any, Any, rj.train.Step]:
    """Algorithm, optimiser and step; the same for networks that differ in their initial values alone."""
    optimiser, algorithm = config.adam(config.rate), rj.bptt(network)
    clip = rj.train.clip_by_global_norm(config.clip)
    return algorithm, optimiser, rj.train.make_step(algorithm, optimiser, clip)


def train(config: Config, network: rj.Network, params: rj.Params) -> tuple[rj.Params, dict[str, list[float]]]:
    """Train on the adding problem: the parameters, and loss, norm of the gradient and share of clipped steps."""
    algorithm, optimiser, step = trainer(config, network)
    state = rj.train.init_state(algorithm, optimiser, params, config.training_batch)
    draw = jax.jit(lambda index: adding(jax.random.key(index), config.length, config.training_batch))
    batch_at = lambda index: draw(index + 10**6 * (config.seed + 1))  # noqa: E731
    curve: dict[str, list[float]] = {"step": [], "loss": [], "norm": [], "clipped": []}
    for after, metrics in rj.train.run(step, state, batch_at, config.steps, config.every, config.every):
        state = after
        reported = (int(state.step), metrics.loss, metrics.grad_norm, metrics.clipped)
        for name, value in zip(curve, reported, strict=True):
            curve[name].append(value if name == "step" else float(value))
    return state.params, curve


def before_and_after(config: Config, name: str) -> dict[str, Any]:
    """What is measured of a network of ``CELLS`` before training and after it, and how training went."""
    network, params = initial(config, name)
    spectra = name in flow_figures.SPECTRA
    found: dict[str, Any] = {"before training": measure(config, network, params, spectra)}
    if config.steps:
        params, found["training"] = train(config, network, params)
        found["after training"] = measure(config, network, params, spectra)
    return found


def run(config: Config) -> None:
    """Measure, train, measure again, plot, and write summary.json."""
    if config.quick:
        short = {"length": 20, "windows": (1, 20), "gains": (0.5, 1.5), "steps": 20, "every": 10}
        config = dataclasses.replace(config, hidden=8, batch=4, training_batch=4, **short)
    check(config)
    if config.cache:
        experiment.keep_compiled()
    parts = experiment.Parts("gradient_flow", config, FILES)
    summary: dict[str, Any] = {"gain": {}, "before training": {}, "after training": {}, "training": {}}
    with tqdm(total=len(config.gains) + len(CELLS), unit="network", disable=None) as bar:
        for gain in config.gains:
            measured = functools.partial(measure, config, *with_gain(config, gain), spectra=False)
            summary["gain"][str(gain)] = parts.result(f"g = {gain}", measured)
            bar.update()
        for name in CELLS:
            found = parts.result(name, functools.partial(before_and_after, config, name))
            for when, each in found.items():
                summary[when][name] = each
            bar.update()
    for line in table_lines(config, summary):
        print(line)
    parts.write_json("summary.json", {"machine": experiment.machine(), **summary})
    flow_figures.plot(config, summary, parts.folder)
    parts.finish()
    print(f"run folder: {parts.folder}")


def table_lines(config: Config, summary: dict[str, Any]) -> list[str]:
    """Of each network, the error that is left at the first step, the largest exponent, and the error of truncation."""
    k = config.windows[len(config.windows) // 2]
    head = f"windows of {k}: error"
    lines = [f"{'network':<32}{'|δs_1| / |δs_T|':>18}{'λ_1 a step':>12}{head:>24}"]
    rows = [(f"Elman, g = {gain}", found) for gain, found in summary["gain"].items()]
    rows += [(f"{name}, {when[:-9]}", found) for when in ("before training", "after training")
             for name, found in summary[when].items()]  # fmt: skip
    for name, found in rows:
        error = found["truncation"][config.windows.index(k)]
        lines.append(f"{name:<32}{found['error by lag'][-1]:>18.1e}{found['lyapunov'][0]:>12.3f}{error:>24.3f}")
    for name, curve in summary["training"].items():
        clipped = float(np.mean(curve["clipped"]))
        lines.append(f"{name}: loss {curve['loss'][-1]:.4f} after training, {clipped:.0%} of the steps clipped")
    return lines


if __name__ == "__main__":
    experiment.main(Config, run)
