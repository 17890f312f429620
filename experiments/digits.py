"""How many digits the gradient keeps at shut gates and confident predictions: by hand, and by jax.grad as usual.

Both run in float32 and in bfloat16; the reference is float64, on the very same rounded parameters.  It is computed with
the library's cells and loss, whose formulas lose nothing to cancellation.
"""

import itertools
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import figures
import jax
import jax.numpy as jnp
import numpy as np
from jax.nn import log_softmax, sigmoid
from tqdm import tqdm

import rnn_jax as rj
from rnn_jax.diagnostics import worst
from rnn_jax.precision import accumulation_dtype
from rnn_jax.testing.fixtures import TOLERANCE
from rnn_jax.types import Array, Step, Units

H, T, B, K = 32, 40, 8, 20
TOLERANCES = {dtype: TOLERANCE[dtype] for dtype in ("float32", "bfloat16")}
METHODS = ("bptt", "usual")


def usual_gru(s_prev: Units, u: Units, v: Units) -> tuple[Units, Units]:
    """The step of a GRU as it is usually written."""
    (h_prev,), (u_r, u_z, u_n), (v_r, v_z, v_n) = s_prev, u, v
    r, z = sigmoid(u_r + v_r), sigmoid(u_z + v_z)
    n = jnp.tanh(u_n + r * v_n)
    return ((1 - z) * n + z * h_prev,), ()


def usual_lstm(s_prev: Units, z: Units) -> tuple[Units, Units]:
    """The step of an LSTM as it is usually written."""
    (_, c_prev), (z_i, z_f, z_g, z_o) = s_prev, z
    c = sigmoid(z_f) * c_prev + sigmoid(z_i) * jnp.tanh(z_g)
    return (sigmoid(z_o) * jnp.tanh(c), c), ()


def usual_cross_entropy(o: Array, y: Array) -> Array:
    """−log ŷ_y as it is usually written, in float32 at least."""
    log_y_hat = log_softmax(o.astype(accumulation_dtype(o.dtype)))
    return -jnp.take_along_axis(log_y_hat, y[..., None], axis=-1)[..., 0]


class Problem(NamedTuple):
    """A cell, and a bias that is raised step by step."""

    cell: rj.Cell
    usual: Step
    """The cell's step as it is usually written."""
    bias: str
    gate: int | None
    """The gate whose bias is raised; None: it is that of the logit of class 0, every step's target."""
    raised: tuple[float, ...]
    """By how much."""


PROBLEMS = (
    Problem(rj.gru(), usual_gru, "b_z", 1, (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0)),
    Problem(rj.lstm(), usual_lstm, "b_f", 1, (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0)),
    Problem(rj.elman(), rj.elman().step, "c", None, (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0, 18.0, 20.0, 22.0)),
)


def measure(problem: Problem, dtype: str, seed: int = 0, quick: bool = False) -> list[dict[str, Any]]:
    """The errors of both gradients in one dtype, for every bias; ``quick``: for the first and the last."""
    cell, gate = problem.cell, problem.gate
    network = rj.Network((cell,), K, H, K, rj.softmax_cross_entropy())
    usual = network._replace(
        cells=(cell._replace(step=problem.usual),), loss=network.loss._replace(value=usual_cross_entropy)
    )
    reference, *gradients = (
        jax.jit(rj.value_and_grad(algorithm))
        for algorithm in (rj.autodiff(network), rj.bptt(network), rj.autodiff(usual))
    )
    initial = rj.init(network, jax.random.key(seed), dtype=jnp.float64)
    tokens = np.random.default_rng(seed).integers(0, K, (T + 1, B))
    ys = np.zeros_like(tokens[1:]) if gate is None else tokens[1:]
    batch = rj.Batch(jnp.asarray(tokens[:-1]), jnp.asarray(ys))
    cases = []
    for raised in problem.raised[:: len(problem.raised) - 1] if quick else problem.raised:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), raise_bias(initial, gate, raised))
        exact_loss, exact = reference(jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params), batch)
        for method, gradient in zip(METHODS, gradients, strict=True):
            loss, grads = gradient(params, batch)
            leaf, error = worst(rj.compare(grads, exact))
            errors = {"loss_error": abs(float(loss) / float(exact_loss) - 1), "error": error}
            if gate is not None:
                errors["gate_error"] = gate_error(grads, exact, gate)
            cases.append(
                {
                    "cell": cell.name,
                    "bias": problem.bias,
                    "raised": raised,
                    "dtype": dtype,
                    "method": method,
                    "mean_loss": float(exact_loss) / (T * B),
                    "worst_leaf": leaf,
                    **errors,
                    "passed": all(each <= TOLERANCES[dtype] for each in errors.values()),
                }
            )
    return cases


def raise_bias(params: rj.Params, gate: int | None, raised: float) -> rj.Params:
    """The parameters with the bias of one gate, or of the logit of class 0, raised."""
    if gate is None:
        return params._replace(c=params.c.at[0].add(raised))
    layer = params.layers[0]
    return params._replace(layers=(layer._replace(b=layer.b.at[gate * H : (gate + 1) * H].add(raised)),))


def gate_error(grads: rj.Params, exact: rj.Params, gate: int) -> float:
    """‖g − ref‖ / ‖ref‖ of one gate's block of db."""
    g, ref = (np.asarray(each.layers[0].b, np.float64)[gate * H : (gate + 1) * H] for each in (grads, exact))
    return float(np.linalg.norm(g - ref) / np.linalg.norm(ref))


def compare(pool: Executor, seed: int, quick: bool) -> list[dict[str, Any]]:
    """Every case; prints a table, and each case in which bptt is beyond its dtype's tolerance."""
    grid = [(problem, dtype) for problem in PROBLEMS for dtype in TOLERANCES]
    parts = pool.map(lambda part: measure(*part, seed, quick), grid)
    cases = [case for part in tqdm(parts, total=len(grid), unit="part", disable=None) for case in part]
    print(
        "\nAgainst float64: bptt, and jax.grad of the usual formulas; the raised gate's block of db, or the worst leaf"
    )
    columns = [(dtype, method) for dtype in TOLERANCES for method in METHODS]
    print(f"{'cell':<12}{'bias':<10}{'mean loss':>10}" + "".join(f"{f'{d}, {m}':>18}" for d, m in columns))
    for problem in PROBLEMS:
        for raised in problem.raised[::2]:
            row = [case for case in cases if (case["cell"], case["raised"]) == (problem.cell.name, raised)]
            if row:
                name = f"{problem.bias} + {raised:g}"
                shown = "".join(f"{case.get('gate_error', case['error']):>18.1e}" for case in row)
                print(f"{problem.cell.name:<12}{name:<10}{row[0]['mean_loss']:>10.1e}" + shown)
    for case in failures(cases):
        errors = ", ".join(f"{name} {case[name]:.1e}" for name in ("loss_error", "error", "gate_error") if name in case)
        print(f"FAILED {case['cell']}, {case['bias']} + {case['raised']:g}, {case['dtype']}: {errors}")
    return cases


def failures(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cases in which bptt is beyond its dtype's tolerance; the usual formulas may exceed it."""
    return [case for case in cases if case["method"] == "bptt" and not case["passed"]]


def plot(cases: list[dict[str, Any]], path: Path) -> None:
    """Error against the raised gate's bias, and against the mean loss."""
    colours = {"bptt": figures.PROGRAMS["bptt"], "usual": figures.PROGRAMS["jax.grad"]}
    lines, markers = {"float32": "-", "bfloat16": "--"}, {"gru": "o", "lstm": "s"}
    title = f"Gradient error against float64, H = {H}, B = {B}, T = {T}"
    figure, (left, right) = figures.panels(2, title, 4.4, sharey=True)
    for problem, (method, colour), (dtype, line) in itertools.product(PROBLEMS, colours.items(), lines.items()):
        axes, x, y = (right, "mean_loss", "error") if problem.gate is None else (left, "raised", "gate_error")
        wanted, marker = (problem.cell.name, dtype, method), markers.get(problem.cell.name, "D")
        chosen = [case for case in cases if (case["cell"], case["dtype"], case["method"]) == wanted]
        xs, ys = ([case[name] for case in chosen] for name in (x, y))
        axes.plot(xs, ys, line + marker, color=colour, mfc=colour if dtype == "float32" else "white")
    for dtype, tolerance in TOLERANCES.items():
        figures.level(left, tolerance)
        figures.level(right, tolerance, f"tolerance of {dtype}")
    left.set(
        title="Gates that saturate: GRU and LSTM",
        xlabel="added to the bias of z (GRU) or f (LSTM)",
        ylabel="‖g − float64‖ / ‖float64‖, db of that gate",
        yscale="log",
        ylim=(3e-8, 5),
    )
    right.set(
        title="Confident predictions: Elman",
        xlabel="mean loss, nats per step",
        ylabel="‖g − float64‖ / ‖float64‖, worst leaf",
        xscale="log",
    )
    right.invert_xaxis()
    right.minorticks_off()
    black = {"color": "#333333"}
    entries = [
        figures.entry("bptt", color=colours["bptt"], lw=2),
        figures.entry("jax.grad, usual formulas", color=colours["usual"], lw=2),
        figures.entry("float32", ls="-", marker="D", **black),
        figures.entry("bfloat16", ls="--", marker="D", mfc="white", **black),
        figures.entry("GRU", ls="", marker="o", **black),
        figures.entry("LSTM", ls="", marker="s", **black),
    ]
    figures.legend_below(figure, entries)
    figures.save(figure, path)
