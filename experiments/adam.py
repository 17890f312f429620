"""The constants of Adam, as flags of the experiments that train by it."""

import math
from dataclasses import dataclass
from typing import Any

import optax

from rnn_jax.checks import LARGEST_NUMBER, check_number


@dataclass(frozen=True)
class Adam:
    """A configuration with Adam's constants; the learning rate is a flag of its own."""

    beta1: float = 0.9
    """Adam's decay of the mean of gradients."""
    beta2: float = 0.999
    """Adam's decay of the mean of their squares."""
    eps: float = 1e-8
    """What Adam adds to the root of that mean, by which it divides."""

    def adam(self, rate: float | optax.Schedule) -> optax.GradientTransformation:
        """The optimiser with these constants."""
        return optax.adam(rate, self.beta1, self.beta2, self.eps)


def check_adam(config: Any) -> None:
    """Refuse constants that Adam cannot have."""
    for name in ("beta1", "beta2"):
        check_number(getattr(config, name), name, 0, math.nextafter(1, 0), "0 or more and below 1")
    check_number(config.eps, "eps", math.nextafter(0, 1), LARGEST_NUMBER, "a positive number")
