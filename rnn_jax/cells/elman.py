"""The Elman cell: the vanilla recurrent network, with an optional leak."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_number, check_option
from rnn_jax.types import Array, Cell, Units

ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (jnp.tanh, lambda a: (1 - a) * (1 + a)),
    "relu": (jax.nn.relu, lambda a: (a > 0).astype(a.dtype)),
    "identity": (lambda z: z, jnp.ones_like),
}
"""φ(z), and φ'(z) written in terms of a = φ(z)."""


def elman(activation: str = "tanh", leak: float = 1.0) -> Cell:
    """The Elman cell, G = S = 1.

    Step, derivation (D3), with leak α::

        z_t = u_t + v_t
        a_t = φ(z_t)
        h_t = (1 − α) h_{t−1} + α a_t

    Adjoint, derivation (18), with φ' written in terms of a_t (tanh: 1 − a², relu: 1 where a > 0, identity: 1)::

        δz_t     = α δh_t φ'(z_t)          δu_t = δv_t = δz_t
        δh_{t−1} = (1 − α) δh_t            (and δv_t Wᵀ, added by the recurrence)

    With α = 1, a_t is h_t itself, so the adjoint needs nothing but the hidden states.

    Args:
      activation: φ; at the kink of relu the derivative is taken as 0.
      leak: α in (0, 1]; 1 is the plain cell.

    Raises:
      InputError: an unknown activation or a leak outside (0, 1].

    Source: Elman, *Finding structure in time*, Cognitive Science 14 (1990); the leaky form is Jaeger et al.,
    *Optimization and applications of echo state networks with leaky-integrator neurons*, Neural Networks 20 (2007).
    """
    check_option(activation, "activation", tuple(ACTIVATIONS))
    check_number(leak, "leak", 1e-12, 1, "a number in (0, 1]")
    leak = float(leak)
    name = f"elman-{activation}" + (f"-leak{leak:g}" if leak < 1 else "")
    step, adjoint = Step(activation, leak), Adjoint(activation, leak)
    return Cell(name, states=("h",), gates=("z",), step=step, adjoint=adjoint, bias=(0.0,))


@dataclass(frozen=True)
class Step:
    """One step; the residual is a_t, where there is a leak."""

    activation: str
    leak: float

    def __call__(self, s_prev: Units, z: Units) -> tuple[Units, Units]:
        (h_prev,) = s_prev
        phi, _ = ACTIVATIONS[self.activation]
        a = phi(*z)
        return (((1 - self.leak) * h_prev + self.leak * a,), (a,)) if self.leak < 1 else ((a,), ())


@dataclass(frozen=True)
class Adjoint:
    """The transpose of the step's Jacobian, times ``delta_s``."""

    activation: str
    leak: float

    def __call__(self, s_prev: Units, s: Units, residual: Units, delta_s: Units) -> tuple[Units, Units]:
        (delta_h,), (a,) = delta_s, residual if self.leak < 1 else s
        _, slope = ACTIVATIONS[self.activation]
        delta_z = (self.leak * delta_h * slope(a),)
        return ((1 - self.leak) * delta_h if self.leak < 1 else jnp.zeros_like(delta_h),), delta_z
