"""Find where a trained network comes to rest: the fixed points of the 3-bit flip-flop, and which of them are stable.

Networks are trained to show the sign of the last pulse of each of three inputs.  Then the input is held at zero, and
Newton's method looks for h = f(h, 0) from states that the network visits, and from states between two of them.  The
eight answers should be eight stable fixed points, the corners of a cube; a saddle should stand on each of its edges and
faces, and one in its middle.  The plots show the visited states on their first three principal components with the
fixed points among them, and the eigenvalues of the Jacobian at each in the complex plane.

Examples:
  python experiments/fixed_points.py
  python experiments/fixed_points.py --cells lstm --starts 5000
  python experiments/fixed_points.py --out runs/fixed --resume auto
  python experiments/fixed_points.py --quick
"""

import dataclasses
import functools
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import figures
import jax
import jax.numpy as jnp
import numpy as np
from adam import Adam, check_adam
from jax.flatten_util import ravel_pytree
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import require
from rnn_jax.data import flip_flop
from rnn_jax.data.tasks import flip_flop_chance
from rnn_jax.diagnostics import FixedPoints
from rnn_jax.network import Recurrent

FILES = r"summary\.json|fixed_points_[a-z_-]+\.png"
"""What a run writes beside config.json."""
LOOKS = (
    ("stable", {"color": figures.BLUE, "marker": "o"}),
    ("one unstable direction", {"color": figures.ORANGE, "marker": "X"}),
    ("two", {"color": figures.VERMILLION, "marker": "s"}),
    ("three and more", {"color": figures.PURPLE, "marker": "^"}),
)
"""Fixed points by the number of their unstable directions."""


@dataclass(frozen=True)
class Config(Adam):
    """Which networks, how they are trained, and how fixed points are looked for."""

    cells: tuple[str, ...] = ("elman", "gru")
    """Names of the registry of cells."""
    hidden: int = 64
    """H."""
    recurrent: Recurrent = "orthogonal"
    """Initialisation of W."""
    length: int = 100
    """T of the sequences."""
    batch: int = 64
    """Sequences of a training step, and those whose states are visited."""
    steps: int = 1500
    """Training steps."""
    every: int = 50
    """Steps of a report; it divides the training steps."""
    rate: float = 3e-3
    """Learning rate of Adam."""
    clip: float = 1.0
    """The gradient is scaled down to this norm where it is larger."""
    starts: int = 2000
    """Visited states from which Newton's method starts."""
    between: int = 2000
    """States on the lines between two visited ones, from which it starts too: saddles are rarely visited."""
    tolerance: float = 1e-10
    """The largest residual ‖f(h, 0) − h‖ of a fixed point."""
    distance: float = 1e-3
    """Ends nearer to each other than this are one fixed point."""
    iterations: int = 30
    """Of Newton's method, at most."""
    seed: int = 0
    """Of networks, sequences and starts."""
    out: Path | None = None
    """Run folder; by default runs/fixed_points/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    resume: Literal["auto"] | None = None
    """With auto, go on with the run in the folder given by --out, by the same command, or start it."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, for the next start."""
    quick: bool = False
    """One small network, short training and few starts."""


def check(config: Config) -> None:
    """Refuse what does not fit together."""
    unknown = [cell for cell in config.cells if cell not in rj.CELLS]
    require(config.cells and not unknown, "cells", unknown or config.cells, f"some of {', '.join(rj.CELLS)}")
    for name in ("hidden", "length", "batch", "steps", "every", "rate", "clip", "starts"):
        require(getattr(config, name) > 0, name, getattr(config, name), "positive")
    require(config.steps % config.every == 0, "steps", config.steps, f"a multiple of every, {config.every}")
    visited = config.length * config.batch
    require(config.starts <= visited, "starts", config.starts, f"length · batch, {visited}, at most")
    require(config.between >= 0, "between", config.between, "0 or more")
    require(config.seed >= 0, "seed", config.seed, "0 or more")
    check_adam(config)


def initial(config: Config, cell: str) -> tuple[rj.Network, rj.Params]:
    """A network for the flip-flop as it is drawn."""
    network = rj.Network((rj.CELLS[cell],), inputs=3, hidden=config.hidden, outputs=3, loss=rj.squared_error())
    return network, rj.init(network, jax.random.key(config.seed), config.recurrent)


def train(config: Config, cell: str) -> dict[str, list[float]]:
    """Train a network on the flip-flop; returns the loss of each report, and the parameters one after another."""
    network, params = initial(config, cell)
    algorithm, optimiser = rj.bptt(network), config.adam(config.rate)
    clip = rj.train.clip_by_global_norm(config.clip)
    step = rj.train.make_step(algorithm, optimiser, clip)
    state = rj.train.init_state(algorithm, optimiser, params, config.batch)
    draw = jax.jit(lambda index: flip_flop(jax.random.key(index), config.length, config.batch))
    batch_at = lambda index: draw(index + 10**6 * (config.seed + 1))  # noqa: E731
    losses = []
    reports = rj.train.run(step, state, batch_at, config.steps, config.every, config.every)
    for after, metrics in tqdm(reports, total=config.steps // config.every, desc=cell, unit="report", disable=None):
        state = after
        losses.append(float(metrics.loss))
    return {"losses": losses, "params": np.asarray(ravel_pytree(state.params)[0]).tolist()}


def visited_states(config: Config, network: rj.Network, params: rj.Params) -> tuple[Any, rj.Batch]:
    """All states s_1 … s_T of fresh sequences, S arrays [T·B, H], and the sequences."""
    data = flip_flop(jax.random.key(config.seed), config.length, config.batch)
    state = rj.initial_state(network, params, config.batch)
    _, ss, _ = rj.recurrence.forward(network.cells[0], params.layers[0], data.xs, state[0], reset=data.reset)
    return tuple(values.reshape(-1, config.hidden) for values in ss), data


def starts_of(config: Config, states: Any) -> Any:
    """Visited states, and states between two visited ones, S arrays [starts + between, H]."""
    keys = jax.random.split(jax.random.key(config.seed), 3)
    chosen = jax.random.permutation(keys[0], len(states[0]))[: config.starts]
    pairs = jax.random.randint(keys[1], (2, config.between), 0, len(states[0]))
    share = jax.random.uniform(keys[2], (config.between, 1))
    return tuple(
        jnp.concatenate([values[chosen], share * values[pairs[0]] + (1 - share) * values[pairs[1]]])
        for values in states
    )


def analyse(
    config: Config, cell: str, trained: dict[str, list[float]]
) -> tuple[dict[str, Any], FixedPoints, np.ndarray]:
    """What is written of a trained cell; its fixed points; and the visited states, [T·B, N]."""
    network, params = initial(config, cell)
    params, losses = ravel_pytree(params)[1](jnp.array(trained["params"], jnp.float32)), trained["losses"]
    states, _ = visited_states(config, network, params)
    starts = (starts_of(config, states),)
    began = time.perf_counter()
    found = rj.diagnostics.fixed_points(
        network,
        params,
        starts,
        jnp.zeros(3, jnp.float32),
        tolerance=config.tolerance,
        distance=config.distance,
        iterations=config.iterations,
    )
    seconds = time.perf_counter() - began
    outputs = found.states[:, : config.hidden] @ np.asarray(params.V, np.float64) + np.asarray(params.c, np.float64)
    points = [
        {
            "stable": bool(stable),
            "output": output.tolist(),
            "residual": float(residual),
            "starts that ended here": int(count),
            "unstable directions": int((np.abs(values) >= 1).sum()),
            "eigenvalues": [[float(value.real), float(value.imag)] for value in values],
        }
        for stable, output, residual, count, values in zip(
            found.stable, outputs, found.residuals, found.reached_from, found.eigenvalues, strict=True
        )
    ]
    row = {
        "cell": cell,
        "loss": losses[-1],
        "losses": losses,
        "loss without memory": flip_flop_chance(config.length),
        "starts": found.starts,
        "converged": found.converged,
        "tolerance": found.tolerance,
        "distance": found.distance,
        "stable": int(found.stable.sum()),
        "saddles": int((~found.stable).sum()),
        "seconds": seconds,
        "points": points,
    }
    return row, found, np.concatenate([np.asarray(values, np.float64) for values in states], axis=1)


def run(config: Config) -> None:
    """Train, look for fixed points, plot, and write summary.json."""
    if config.quick:
        small = {"cells": config.cells[:1], "hidden": 16, "length": 30, "batch": 16, "steps": 300}
        config = dataclasses.replace(config, **small, rate=1e-2, starts=100, between=100)
    check(config)
    if config.cache:
        experiment.keep_compiled()
    parts = experiment.Parts("fixed_points", config, FILES)
    rows = []
    for cell in config.cells:
        trained = parts.result(cell, functools.partial(train, config, cell))
        row, found, states = analyse(config, cell, trained)
        rows.append(row)
        parts.write(f"fixed_points_{cell}.png", functools.partial(plot, config, cell, row, found, states))
        print(
            f"{cell}: loss {row['loss']:.4f}; {row['stable']} stable fixed points and {row['saddles']} saddles, from "
            f"{row['converged']} of {row['starts']} starts with a residual of {row['tolerance']:.0e} or less, in "
            f"{row['seconds']:.1f} s"
        )
        for point in row["points"]:
            kind = "stable" if point["stable"] else f"saddle of {point['unstable directions']}"
            output = ", ".join(f"{value:+.2f}" for value in point["output"])
            largest = abs(complex(*point["eigenvalues"][0]))
            print(f"  {kind:<12} output ({output})  |λ| up to {largest:.3f}, {point['starts that ended here']} starts")
    parts.write_json("summary.json", {"machine": experiment.machine(), "rows": rows})
    parts.finish()
    print(f"run folder: {parts.folder}")


def plot(config: Config, cell: str, row: dict[str, Any], found: FixedPoints, states: np.ndarray, path: Path) -> None:
    """The visited states and the fixed points on three principal components, and the eigenvalues."""
    title = f"Fixed points of the 3-bit flip-flop at input 0: {figures.model(cell.split('-')[0], H=config.hidden)}"
    figure, (left, right) = figures.panels(2, title, 5.0)
    figure.get_layout_engine().set(wspace=0.06)
    place = left.get_subplotspec()
    left.remove()
    left = figure.add_subplot(place, projection="3d")
    mean = states.mean(axis=0)
    _, sizes, axes = np.linalg.svd(states - mean, full_matrices=False)
    chosen = np.random.default_rng(config.seed).permutation(len(states))[:2500]
    left.scatter(*((states[chosen] - mean) @ axes[:3].T).T, s=5, color=figures.GREY, alpha=0.5, lw=0)
    points, unstable = (found.states - mean) @ axes[:3].T, (np.abs(found.eigenvalues) >= 1).sum(axis=1)
    for ends in edges(row["points"]):
        left.plot(*points[list(ends)].T, color=figures.BLUE, lw=0.8, alpha=0.7)
    handles = [figures.entry("visited state", color=figures.GREY, marker="o", ms=4, ls="")]
    for count, (kind, look) in enumerate(LOOKS):
        which = unstable == count if count + 1 < len(LOOKS) else unstable >= count
        left.plot(*points[which].T, ls="", mec="white", mew=0.8, ms=9, zorder=5, **look)
        values = found.eigenvalues[which].ravel()
        right.plot(values.real, values.imag, ls="", ms=4, alpha=0.6, mew=0, **look)
        handles.append(figures.entry(f"{kind}: {which.sum()}", ls="", mec="white", mew=0.8, ms=9, **look))
    for axis, share, number in zip("xyz", sizes**2 / (sizes**2).sum(), (1, 2, 3), strict=False):
        getattr(left, f"set_{axis}label")(f"PC {number} ({share:.0%})", labelpad=-8)
        getattr(left, f"set_{axis}ticklabels")([])
    left.view_init(elev=18, azim=-55)
    left.set_box_aspect(None, zoom=1.05)
    angle = np.linspace(0, 2 * np.pi, 400)
    right.plot(np.cos(angle), np.sin(angle), color=figures.DARK_GREY, lw=1, ls="--")
    handles.append(figures.entry("|λ| = 1", color=figures.DARK_GREY, lw=1, ls="--"))
    right.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
    right.set_title(r"eigenvalues $\lambda$ of the Jacobian, of all points")
    right.grid(alpha=0.25, lw=0.6)
    figures.legend_below(figure, handles)
    figures.save(figure, path)


def edges(points: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """Pairs of stable points whose outputs differ in the sign of one bit."""
    signs = [np.sign(point["output"]) if point["stable"] else np.full(3, np.nan) for point in points]
    pairs = itertools.combinations(range(len(points)), 2)
    return [(i, j) for i, j in pairs if (signs[i] == signs[j]).sum() == 2 and (signs[i] == -signs[j]).sum() == 1]


if __name__ == "__main__":
    experiment.main(Config, run)
