"""Compare the hand-written gradient with jax.grad, leaf by leaf.

The first part, agreement, compares bptt with autodiff of the same random network and batch, for every cell, depth,
dtype and length T, and plots error against T.  The second part, digits, compares bptt and jax.grad of the usual
formulas with float64, where gates saturate and predictions are confident, and plots both errors.  All figures are
written to summary.json.  The exit status is 1 if an error of bptt, norm-wise, exceeds the tolerance of its dtype:
float64 1e-12, float32 1e-5, bfloat16 1e-1.

Examples:
  python experiments/compare_gradients.py
  python experiments/compare_gradients.py --parts digits
  python experiments/compare_gradients.py --lengths 10 1000 --hidden 256
  python experiments/compare_gradients.py --precision default
"""

import dataclasses
import itertools
import math
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import digits
import figures
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.cells import CELLS
from rnn_jax.checks import require
from rnn_jax.diagnostics import worst
from rnn_jax.testing.fixtures import TOLERANCE

FILES = r"summary\.json|(error_against_T|digits)\.png"
"""What a run writes beside config.json."""


@dataclass(frozen=True)
class Config:
    """Which cases to compare.  The flags from --cells to --lengths are of the first part."""

    parts: tuple[Literal["agreement", "digits"], ...] = ("agreement", "digits")
    """agreement: with autodiff; digits: with float64, where gates saturate and predictions are confident."""
    cells: tuple[str, ...] | None = None
    """Names of cells; by default every one, with --quick elman lstm gru."""
    hidden: int = 64
    """H."""
    batch: int = 4
    """B."""
    vocabulary: int = 32
    """D = K."""
    depths: tuple[int, ...] | None = None
    """Numbers of layers; by default 1 3, with --quick 1."""
    lengths: tuple[int, ...] | None = None
    """T; by default 1 10 100 1000, with --quick 1 100."""
    precision: Literal["highest", "default"] = "highest"
    """Precision of matrix products: "default" is what an accelerator does unless told, TF32 or bfloat16."""
    seed: int = 0
    """Seed of weights and tokens."""
    out: Path | None = None
    """Run folder; by default runs/compare_gradients/TIME."""
    overwrite: bool = False
    """Replace what the run folder holds."""
    quick: bool = False
    """Three cells, fewer lengths, one depth; the first and the last bias."""


def compare(config: Config, name: str, depth: int, dtype: str, length: int) -> dict[str, Any]:
    """One case: every leaf's difference, and the worst."""
    K = config.vocabulary
    network = rj.Network((CELLS[name],) * depth, K, config.hidden, K, rj.softmax_cross_entropy())
    params = rj.init(network, jax.random.key(config.seed), dtype=jnp.dtype(dtype))
    tokens = np.random.default_rng(config.seed).integers(0, K, (length + 1, config.batch))
    batch = rj.Batch(jnp.asarray(tokens[:-1]), jnp.asarray(tokens[1:]))
    (loss, ours), (reference_loss, reference) = (
        jax.jit(rj.value_and_grad(algorithm(network)))(params, batch) for algorithm in (rj.bptt, rj.autodiff)
    )
    leaves = rj.compare(ours, reference)
    leaf, error = worst(leaves)
    return {
        "cell": name,
        "depth": depth,
        "dtype": dtype,
        "T": length,
        "worst_leaf": leaf,
        "error": error,
        "cosine": min(leaf.cosine for leaf in leaves.values()),
        "loss_error": abs(float(loss) - float(reference_loss)) / abs(float(reference_loss)),
        "leaves": {name: difference._asdict() for name, difference in leaves.items()},
        "passed": bool(error <= TOLERANCE[dtype]),
    }


def run(config: Config) -> int:
    """Compare every case and write the run folder; returns the exit status."""
    for name in ("hidden", "batch", "vocabulary"):
        require(getattr(config, name) > 0, name, getattr(config, name), "a positive int")
    depths, lengths = ((1,), (1, 100)) if config.quick else ((1, 3), (1, 10, 100, 1000))
    depths = depths if config.depths is None else config.depths
    lengths = lengths if config.lengths is None else config.lengths
    require(config.parts, "parts", config.parts, "one part or more")
    for name, counts in (("depths", depths), ("lengths", lengths)):
        require(counts and min(counts) > 0, name, counts, "positive ints")
    cells = (("elman", "lstm", "gru") if config.quick else tuple(CELLS)) if config.cells is None else config.cells
    unknown = [cell for cell in cells if cell not in CELLS]
    require(cells and not unknown, "cells", unknown or cells, f"one name or more of {', '.join(CELLS)}")
    config = dataclasses.replace(config, cells=cells, depths=depths, lengths=lengths)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_default_matmul_precision", config.precision)
    folder = experiment.new_folder("compare_gradients", config, FILES)
    machine = experiment.machine()
    print(
        f"{machine['devices'][0]} ({machine['processor']}), jax {machine['jax']}, matmul precision {config.precision}"
    )
    summary: dict[str, Any] = {"tolerances": TOLERANCE, "precision": config.precision, "machine": machine}
    failed = 0
    with ThreadPoolExecutor(experiment.cores()) as pool:  # compiling is most of the work, and leaves Python free
        if "agreement" in config.parts:
            cases = agreement(config, pool)
            plot(cases, config, folder / "error_against_T.png")
            summary |= {"largest": largest(cases), "cases": cases}
            failed += sum(not case["passed"] for case in cases)
        if "digits" in config.parts:
            cases = digits.compare(pool, config.seed, config.quick)
            digits.plot(cases, folder / "digits.png")
            summary["digits"] = cases
            failed += len(digits.failures(cases))
    experiment.write_json(folder / "summary.json", {"passed": not failed, **summary})
    print(f"{f'{failed} cases failed' if failed else 'all cases passed'}; run folder: {folder}")
    return 1 if failed else 0


def agreement(config: Config, pool: Executor) -> list[dict[str, Any]]:
    """Every case of bptt against autodiff; prints the worst leaf of each."""
    grid = list(itertools.product(config.cells, config.depths, TOLERANCE, config.lengths))
    cases = list(tqdm(pool.map(lambda case: compare(config, *case), grid), total=len(grid), unit="case", disable=None))
    print("bptt against jax.grad, norm-wise, the worst leaf of each case")
    print(f"{'cell':<20}{'layers':>7}{'T':>7}" + "".join(f"{dtype:>12}" for dtype in TOLERANCE))
    for cell, depth, length in itertools.product(config.cells, config.depths, config.lengths):
        row = [case for case in cases if (case["cell"], case["depth"], case["T"]) == (cell, depth, length)]
        shown = "".join(f"{case['error']:>11.1e}{' ' if case['passed'] else '!'}" for case in row)
        print(f"{cell:<20}{depth:>7}{length:>7}{shown}")
    errors = (f"{dtype} {error:.1e} (tolerance {TOLERANCE[dtype]:.0e})" for dtype, error in largest(cases).items())
    print("largest: " + ", ".join(errors))
    for case in cases:
        if not case["passed"]:
            print(
                f"FAILED {case['cell']}, {case['depth']} layers, {case['dtype']}, T = {case['T']}: "
                f"{case['worst_leaf']} is off by {case['error']:.1e}"
            )
    return cases


def largest(cases: list[dict[str, Any]]) -> dict[str, float]:
    """The largest error of each dtype; NaN counts as infinite."""
    errors = {dtype: [case["error"] for case in cases if case["dtype"] == dtype] for dtype in TOLERANCE}
    return {dtype: max(math.inf if math.isnan(error) else error for error in errors[dtype]) for dtype in errors}


def plot(cases: list[dict[str, Any]], config: Config, path: Path) -> None:
    """The worst leaf's error against T, one line a cell and dtype, with the tolerances."""
    depth = max(case["depth"] for case in cases)
    layers = f"{depth} layer{'s' if depth > 1 else ''}"
    figure, (axes,) = figures.panels(
        1, f"bptt against jax.grad, H = {config.hidden}, B = {config.batch}, {layers}", 4.6
    )
    palette = (figures.BLUE, figures.ORANGE, figures.GREEN, figures.VERMILLION, figures.PURPLE, figures.SKY)
    looks = [{"color": colour, "ls": line} for line in ("-", ":", "--") for colour in palette]
    styles = dict(zip(dict.fromkeys(case["cell"] for case in cases), itertools.cycle(looks), strict=False))
    markers = {"bfloat16": "^", "float32": "s", "float64": "o"}
    for dtype, marker in markers.items():
        for cell, style in styles.items():
            chosen = [case for case in cases if (case["cell"], case["dtype"], case["depth"]) == (cell, dtype, depth)]
            errors = [case["error"] or math.nan for case in chosen]  # a bitwise equal gradient has no place on the axis
            axes.loglog([case["T"] for case in chosen], errors, marker=marker, **style)
        figures.level(axes, TOLERANCE[dtype], f"{dtype}: tolerance {TOLERANCE[dtype]:.0e}")
    axes.set(xlabel="T, time steps", ylabel="‖bptt − jax.grad‖ / ‖jax.grad‖, worst leaf", ylim=(1e-17, 10))
    dtypes = [figures.entry(dtype, color="#333333", marker=marker) for dtype, marker in markers.items()]
    figures.legend_below(figure, [figures.entry(cell, **style) for cell, style in styles.items()] + dtypes, 4)
    figures.save(figure, path)


if __name__ == "__main__":
    experiment.main(Config, run)
