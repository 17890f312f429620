"""The whole library in one small example: an LSTM learns to use inputs of 6 and 10 steps ago.

The input x_t is 0 or 1 at random, and the target y_t is 1 with probability 1/2 + x_{t−6}/2 − x_{t−10}/4. The lowest
cross-entropy is 0.66 nats for a model that remembers neither input, 0.52 with x_{t−6} alone, and 0.45 with both.

Examples:
  python experiments/minimal.py
  python experiments/minimal.py --steps 500 --seed 1 --out curve.png
"""

from dataclasses import dataclass
from pathlib import Path

import figures
import jax
import numpy as np
import optax

import rnn_jax as rj
from rnn_jax import experiment
from rnn_jax.checks import check_int

T, B, H = 20, 16, 32


@dataclass(frozen=True)
class Config:
    """How long to train, on which numbers, and where the learning curve goes."""

    steps: int = 2000
    """Updates, of one window each."""
    seed: int = 0
    """Of weights and numbers."""
    out: Path = Path("minimal.png")
    """The file of the plot."""


def main(config: Config) -> None:
    """Compare two gradients, train, and plot the learning curve."""
    check_int(config.steps, "steps")
    check_int(config.seed, "seed", 0)
    rng = np.random.default_rng(config.seed)
    x = rng.integers(0, 2, (10 + T * config.steps, B), dtype=np.int32)  # time first
    y = (rng.random(x[10:].shape) < 0.5 + x[4:-6] / 2 - x[:-10] / 4).astype(np.int32)

    def batch_at(index: int) -> rj.Batch:
        return rj.Batch(x[10:][T * index :][:T], y[T * index :][:T])

    # A network, and its gradient by two algorithms: by hand, and by jax.grad.
    network = rj.Network(cells=(rj.lstm(),), inputs=2, hidden=H, outputs=2, loss=rj.softmax_cross_entropy())
    params = rj.init(network, jax.random.key(config.seed))
    _, grads = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch_at(0))
    _, reference = jax.jit(rj.value_and_grad(rj.autodiff(network)))(params, batch_at(0))
    for leaf, difference in rj.compare(grads, reference).items():
        print(f"{leaf:<12} bptt and jax.grad differ by {difference.norm:.0e} of the norm")

    # Truncated BPTT: each training step sees one window, and the state goes from window to window.
    algorithm, optimiser = rj.bptt(network), optax.adam(1e-2)
    start = rj.train.init_state(algorithm, optimiser, params, B)
    step, curve = rj.train.make_step(algorithm, optimiser), []
    for state, metrics in rj.train.run(step, start, batch_at, config.steps, every=100, chunk=100):
        curve.append((int(state.step), metrics.loss))
        print(f"step {state.step:>5}: {metrics.loss:.3f} nats")

    figure, (axes,) = figures.panels(1, f"{figures.model('lstm', H=H, B=B, T=T)}: inputs of 6 and 10 steps ago")
    axes.plot(*zip(*curve, strict=True), "o-", color=figures.BLUE)
    for known, nats in (("neither", 0.66), ("the input of 6 steps ago", 0.52), ("both", 0.45)):
        figures.level(axes, nats, f"lowest loss, knowing {known}")
    axes.set(xlabel="training step", ylabel="cross-entropy, nats")
    figures.save(figure, config.out)
    print(f"learning curve: {config.out}")


if __name__ == "__main__":
    experiment.main(Config, main)
