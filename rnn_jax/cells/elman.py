"""The Elman cell: the vanilla recurrent network, with an optional leak."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from rnn_jax.cells import gates
from rnn_jax.checks import check_bool, check_number, check_option
from rnn_jax.types import Array, Cell, Parameter, Units

ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "tanh": (jnp.tanh, lambda a: (1 - a) * (1 + a)),
    "relu": (jax.nn.relu, lambda a: (a > 0).astype(a.dtype)),
    "identity": (lambda z: z, jnp.ones_like),
}
"""φ(z), and φ'(z) written in terms of a = φ(z)."""


LEAK = Parameter("leak", -3.0, 0.0)
"""A learned leak is σ of this: time constants of 2 to 21 steps, to begin with."""


def elman(activation: str = "tanh", leak: float | Literal["learned"] = 1.0, diagonal: bool = False) -> Cell:
    """The Elman cell: the vanilla recurrent network, with an optional leak (G = S = 1).

    Step, derivation (D3), with leak α:

        z_t = u_t + v_t
        a_t = φ(z_t)
        h_t = (1 − α) h_{t−1} + α a_t

    Adjoint, derivation (18), with φ' written in terms of a_t (tanh: 1 − a², relu: 1 where a > 0, identity: 1):

        δz_t     = α δh_t φ'(a_t)
        δh_{t−1} = (1 − α) δh_t            (and δv_t Wᵀ, added by the recurrence)

    With α = 1, a_t equals h_t, so the adjoint reads only the hidden states.  A learned leak is one parameter p a unit,
    with α = σ(p), stored as a signed gate (``cells/gates.py``):

        δp = δh_t (a_t − h_{t−1}) α (1 − α)

    Choose it for short dependencies and for the lowest cost: a step takes H² multiplications an example.  A leak
    lengthens the memory of a unit to about 1/α steps.

    Args:
      activation: φ, one of "tanh", "relu" and "identity".  The derivative of relu at 0 is 0.
      leak: α in (0, 1]; 1 is the plain cell.  "learned" gives each unit a time constant of its own.
      diagonal: True: each unit reads only its own past, v = w ⊙ h_{t−1}, in H multiplications.  With relu this is
        ``indrnn``.

    Returns:
      A Cell with the state h and the gate z.

    Raises:
      InputError: an unknown activation, a leak outside (0, 1], or a ``diagonal`` that is no bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> cell = rj.elman("relu", leak=0.5)
      >>> (h,), _ = cell.step((jnp.ones((1, 2)),), (jnp.array([[4.0, -4.0]]),))
      >>> h.tolist()
      [[2.5, 0.5]]

    Source: Elman, *Finding structure in time*, Cognitive Science 14 (1990).  The leaky form is Jaeger et al.,
    *Optimization and applications of echo state networks with leaky-integrator neurons*, Neural Networks 20 (2007).
    Time constants per unit are Mozer, *Induction of multiscale temporal structure*, NIPS (1992).
    """
    check_option(activation, "activation", tuple(ACTIVATIONS))
    check_bool(diagonal, "diagonal")
    learned = isinstance(leak, str) and leak == "learned"
    if not learned:
        check_number(leak, "leak", 1e-12, 1, 'a number in (0, 1], or "learned"')
    alpha = 1.0 if learned else float(leak)
    name = f"elman-{activation}" + ("-leak" if learned else f"-leak{alpha:g}" if alpha < 1 else "")
    return Cell(
        name + ("-diagonal" if diagonal else ""),
        states=("h",),
        gates=("z",),
        step=LearnedLeakStep(activation) if learned else Step(activation, alpha),
        adjoint=LearnedLeakAdjoint(activation) if learned else Adjoint(activation, alpha),
        bias=(0.0,),
        parameters=(LEAK,) if learned else (),
        recurrence="diagonal" if diagonal else "dense",
    )


def indrnn() -> Cell:
    """The independently recurrent network (IndRNN): ``elman("relu", diagonal=True)``.

        h_t = relu(u_t + w ⊙ h_{t−1})

    Choose it for many layers and long sequences: a step takes H multiplications an example, where a dense W takes H².
    Units of one layer exchange nothing through time.

    Returns:
      A Cell with a diagonal recurrence.

    Examples:
      >>> import rnn_jax as rj
      >>> rj.indrnn().recurrence
      'diagonal'
      >>> rj.indrnn() == rj.elman("relu", diagonal=True)
      True

    Source: Li et al., *Independently recurrent neural network (IndRNN)*, CVPR (2018).
    """
    return elman("relu", diagonal=True)


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


@dataclass(frozen=True)
class LearnedLeakStep:
    """One step with the leak σ(p); the residual is a_t and the leak, signed."""

    activation: str

    def __call__(self, s_prev: Units, z: Units, p: Array) -> tuple[Units, Units]:
        (h_prev,) = s_prev
        phi, _ = ACTIVATIONS[self.activation]
        a, w = phi(*z), gates.gate(p)
        return (h_prev + gates.sigma(w) * (a - h_prev),), (a, w)


@dataclass(frozen=True)
class LearnedLeakAdjoint:
    """The transpose of that step's Jacobian, times ``delta_s``."""

    activation: str

    def __call__(
        self, s_prev: Units, s: Units, residual: Units, delta_s: Units, p: Array
    ) -> tuple[Units, Units, Array]:
        (h_prev,), (a, w), (delta_h,) = s_prev, residual, delta_s
        _, slope = ACTIVATIONS[self.activation]
        delta_z = (gates.sigma(w) * delta_h * slope(a),)
        return (gates.complement(w) * delta_h,), delta_z, delta_h * (a - h_prev) * gates.slope(w)
