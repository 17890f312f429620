"""The recurrent trace unit: a complex number a unit that turns and shrinks, and recurs on nothing but itself."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rnn_jax.cells.elman import ACTIVATIONS
from rnn_jax.checks import check_option
from rnn_jax.types import Array, Cell, Parameter, Units

PARAMETERS = (
    Parameter("log_nu", -math.log(100), -math.log(2)),
    Parameter("log_theta", math.log(2 * math.pi / 200), math.log(math.pi)),
)
"""Time constants of 2 to 100 steps and periods of 2 to 200 steps, to begin with, both uniform in their logarithms."""


def rtu(activation: str = "relu") -> Cell:
    """The recurrent trace unit (RTU), G = 2 (re, im), S = 3 (h, a, b), without recurrent weights.

    A unit is one complex number a + ib, which each step turns by the angle θ and shrinks by the factor r.  Both are its
    own parameters, p = (log_nu, log_theta), and no value of these makes it unstable.  Step:

        ν = exp(log_nu)   θ = exp(log_theta)   r = exp(−ν)   γ = √(1 − r²)
        a_t = r cos θ a_{t−1} − r sin θ b_{t−1} + γ z_re
        b_t = r sin θ a_{t−1} + r cos θ b_{t−1} + γ z_im
        h_t = φ(a_t)

    Adjoint:

        δa_t      += δh_t φ'(h_t)
        δz_re      = γ δa_t                              δz_im    = γ δb_t
        δa_{t−1}   = r cos θ δa_t + r sin θ δb_t         δb_{t−1} = r cos θ δb_t − r sin θ δa_t
        δ_along    = δa_t a_{t−1} + δb_t b_{t−1}         δ_across = δb_t a_{t−1} − δa_t b_{t−1}
        δlog_nu    = γ ν (δa_t z_re + δb_t z_im) / (exp(2ν) − 1) − ν r (cos θ δ_along + sin θ δ_across)
        δlog_theta = θ r (cos θ δ_across − sin θ δ_along)

    With ``activation="identity"`` it is the real part of a linear recurrent unit (LRU).  γ is found from ν, so that it
    keeps its digits where r is close to 1.

    The paper reads out φ(b_t) too.  Here a unit has one output, and the real part loses nothing: any other share of a +
    ib is the real part of the same unit with its inputs turned.

    Choose it for exact gradients online: a unit's state depends on its own past alone, so ``snap`` is exact RTRL of a
    layer, at a cost of the order of ``bptt``, and a memory of two numbers a parameter and example.  Units of one layer
    exchange nothing through time.

    Args:
      activation: φ of the output, "relu" as in the paper's experiments, "tanh" or "identity".

    Returns:
      A Cell with the states h, a and b, the gates re and im, and the parameters log_nu and log_theta of each unit.

    Raises:
      InputError: an unknown activation.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> cell, zero, one = rj.rtu("identity"), jnp.zeros((1, 1)), jnp.ones((1, 1))
      >>> log_nu, log_theta = jnp.log(jnp.log(2 * one)), jnp.log(jnp.pi / 2 * one)  # r = 1/2, a quarter turn
      >>> (h, a, b), _ = cell.step((zero, one, zero), (zero, zero), log_nu, log_theta)
      >>> bool(abs(a[0, 0]) < 1e-6), round(float(b[0, 0]), 4)  # 1 has become i/2
      (True, 0.5)

    Source: Elelimy et al., *Real-time recurrent learning using trace units in reinforcement learning*, NeurIPS (2024),
    the form with a linear recurrence; the LRU is Orvieto et al., *Resurrecting recurrent neural networks for long
    sequences*, ICML (2023).
    """
    check_option(activation, "activation", tuple(ACTIVATIONS))
    return Cell(
        "rtu" if activation == "relu" else f"rtu-{activation}",
        states=("h", "a", "b"),
        gates=("re", "im"),
        step=Step(activation),
        adjoint=Adjoint(activation),
        bias=(0.0, 0.0),
        parameters=PARAMETERS,
        recurrence="none",
    )


LARGEST = 7.0
"""From here on r = exp(−exp(log_nu)) is 0 in every dtype, and exp(log_nu) may not grow to infinity."""


def shrinkage(log_nu: Array) -> Array:
    """ν, of which r is exp(−ν)."""
    return jnp.exp(jnp.minimum(log_nu, LARGEST))


@jax.custom_jvp
def gain(log_nu: Array) -> Array:
    """γ = √(1 − r²), with all its digits where r is close to 1; so is the derivative that autodiff sees."""
    return jnp.sqrt(-jnp.expm1(-2 * shrinkage(log_nu)))


@gain.defjvp
def _gain_tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return gain(*primals), gain_slope(*primals) * tangents[0]


def gain_slope(log_nu: Array) -> Array:
    """∂γ/∂log_nu = γ ν / (exp(2ν) − 1)."""
    nu = jnp.exp(jnp.clip(log_nu, -80.0, 3.5))  # from ν = 0 to 33, outside of which the quotient is ½ or nearly 0
    return gain(log_nu) * (nu / jnp.expm1(2 * nu))


@dataclass(frozen=True)
class Step:
    """One step; the residual is z."""

    activation: str

    def __call__(self, s_prev: Units, z: Units, log_nu: Array, log_theta: Array) -> tuple[Units, Units]:
        (_, a_prev, b_prev), (z_re, z_im) = s_prev, z
        phi, _ = ACTIVATIONS[self.activation]
        r, theta, gamma = jnp.exp(-shrinkage(log_nu)), jnp.exp(log_theta), gain(log_nu)
        along, across = r * jnp.cos(theta), r * jnp.sin(theta)
        a = along * a_prev - across * b_prev + gamma * z_re
        b = across * a_prev + along * b_prev + gamma * z_im
        return (phi(a), a, b), z


@dataclass(frozen=True)
class Adjoint:
    """The transpose of the step's Jacobian, times ``delta_s``."""

    activation: str

    def __call__(
        self, s_prev: Units, s: Units, residual: Units, delta_s: Units, log_nu: Array, log_theta: Array
    ) -> tuple[Units, Units, Array, Array]:
        (_, a_prev, b_prev), (h, _, _), (z_re, z_im), (delta_h, delta_a, delta_b) = s_prev, s, residual, delta_s
        _, slope = ACTIVATIONS[self.activation]
        nu, theta, gamma = shrinkage(log_nu), jnp.exp(log_theta), gain(log_nu)
        r, cos, sin = jnp.exp(-nu), jnp.cos(theta), jnp.sin(theta)
        delta_a = delta_a + delta_h * slope(h)
        delta_along, delta_across = delta_a * a_prev + delta_b * b_prev, delta_b * a_prev - delta_a * b_prev
        delta_gamma = delta_a * z_re + delta_b * z_im
        delta_log_nu = gain_slope(log_nu) * delta_gamma - nu * (r * (cos * delta_along + sin * delta_across))
        delta_log_theta = theta * (cos * (r * delta_across) - sin * (r * delta_along))
        delta_a_prev, delta_b_prev = r * cos * delta_a + r * sin * delta_b, r * cos * delta_b - r * sin * delta_a
        delta_s_prev = (jnp.zeros_like(delta_h), delta_a_prev, delta_b_prev)
        return delta_s_prev, (gamma * delta_a, gamma * delta_b), delta_log_nu, delta_log_theta
