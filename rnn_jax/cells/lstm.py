"""The long short-term memory cell."""

import math

import jax.numpy as jnp

from rnn_jax.cells.gates import gate, sigma, slope
from rnn_jax.checks import check_bool, check_number
from rnn_jax.types import Array, Cell, Parameter, Units

PEEPHOLES = tuple(Parameter(f"p_{gate}", -0.1, 0.1) for gate in "ifo")


def lstm(forget_bias: float = 1.0, peepholes: bool = False, diagonal: bool = False) -> Cell:
    """The LSTM cell with a forget gate (G = 4, S = 2).

    Step, derivation (D9), with z = u_t + v_t:

        i = σ(z_i)   f = σ(z_f)   g = tanh(z_g)   o = σ(z_o)
        c_t = f c_{t−1} + i g
        h_t = o tanh(c_t)

    Adjoint, derivation (19):

        δc_t    += δh_t o (1 − tanh²c_t)
        δz_i     = δc_t g i (1 − i)           δz_f = δc_t c_{t−1} f (1 − f)
        δz_g     = δc_t i (1 − g²)            δz_o = δh_t tanh(c_t) o (1 − o)
        δc_{t−1} = δc_t f                     δu_t = δv_t = δz_t

    With peepholes, each gate also sees the cell value through one weight a unit, p_i, p_f or p_o:

        i = σ(z_i + p_i c_{t−1})   f = σ(z_f + p_f c_{t−1})   o = σ(z_o + p_o c_t)
        δc_t += δz_o p_o           δc_{t−1} += δz_i p_i + δz_f p_f
        δp_i  = δz_i c_{t−1}       δp_f = δz_f c_{t−1}       δp_o = δz_o c_t

    The gates i, f and o are stored signed (``cells/gates.py``), so 1 − f keeps its digits where f is close to 1.  The
    adjoint computes tanh(c_t) again from c_t and divides by nothing, so it is accurate for every pre-activation.

    Choose it for long dependencies.  A step takes 4 H² multiplications an example, four times those of ``elman``.

    The blocks of U, W and b are in the order i, f, g, o, as in ``torch.nn.LSTM`` and cuDNN.

    Args:
      forget_bias: the initial value of b_f; with 1 a new cell remembers.
      peepholes: True: the gates see the cell value.
      diagonal: True: each unit reads only its own past, v = w ⊙ h_{t−1} for each gate.

    Returns:
      A Cell with the states h and c and the gates i, f, g and o.

    Raises:
      InputError: a forget bias that is not a finite number, or an option that is no bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> cell = rj.lstm()
      >>> cell.states, cell.gates
      (('h', 'c'), ('i', 'f', 'g', 'o'))
      >>> zero, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
      >>> (h, c), _ = cell.step((zero, one), (zero, zero, zero, zero))
      >>> c.tolist()  # f = 1/2 and g = 0
      [[0.5]]

    Source: Hochreiter & Schmidhuber, *Long short-term memory*, Neural Computation 9 (1997).  The forget gate is Gers,
    Schmidhuber & Cummins, *Learning to forget*, Neural Computation 12 (2000).  Peepholes are Gers & Schmidhuber,
    *Recurrent nets that time and count*, IJCNN (2000).
    """
    check_number(forget_bias, "forget_bias", -math.inf, math.inf, "a finite number")
    check_bool(peepholes, "peepholes")
    check_bool(diagonal, "diagonal")
    return Cell(
        "lstm" + ("-peepholes" if peepholes else "") + ("-diagonal" if diagonal else ""),
        states=("h", "c"),
        gates=("i", "f", "g", "o"),
        step=peephole_step if peepholes else step,
        adjoint=peephole_adjoint if peepholes else adjoint,
        bias=(0.0, float(forget_bias), 0.0, 0.0),
        chrono=(-1, 1, 0, 0),
        parameters=PEEPHOLES if peepholes else (),
        recurrence="diagonal" if diagonal else "dense",
    )


def step(s_prev: Units, z: Units) -> tuple[Units, Units]:
    """One step; the residual is the gates i, f and o, signed, and g."""
    (_, c_prev), (z_i, z_f, z_g, z_o) = s_prev, z
    i, f, g, o = gate(z_i), gate(z_f), jnp.tanh(z_g), gate(z_o)
    c = sigma(f) * c_prev + sigma(i) * g
    return (sigma(o) * jnp.tanh(c), c), (i, f, g, o)


def adjoint(s_prev: Units, s: Units, residual: Units, delta_s: Units) -> tuple[Units, Units]:
    """The transpose of the step's Jacobian, times ``delta_s``."""
    (_, c_prev), (_, c), (i, f, g, o), (delta_h, delta_c) = s_prev, s, residual, delta_s
    tanh_c = jnp.tanh(c)
    delta_c = delta_c + delta_h * sigma(o) * ((1 - tanh_c) * (1 + tanh_c))
    delta_z = (
        delta_c * g * slope(i),
        delta_c * c_prev * slope(f),
        delta_c * sigma(i) * ((1 - g) * (1 + g)),
        delta_h * tanh_c * slope(o),
    )
    return (jnp.zeros_like(delta_h), delta_c * sigma(f)), delta_z


def peephole_step(s_prev: Units, z: Units, p_i: Array, p_f: Array, p_o: Array) -> tuple[Units, Units]:
    """One step with peepholes; the residual is that of ``step``."""
    (_, c_prev), (z_i, z_f, z_g, z_o) = s_prev, z
    i, f, g = gate(z_i + p_i * c_prev), gate(z_f + p_f * c_prev), jnp.tanh(z_g)
    c = sigma(f) * c_prev + sigma(i) * g
    o = gate(z_o + p_o * c)
    return (sigma(o) * jnp.tanh(c), c), (i, f, g, o)


def peephole_adjoint(
    s_prev: Units, s: Units, residual: Units, delta_s: Units, p_i: Array, p_f: Array, p_o: Array
) -> tuple[Units, Units, Array, Array, Array]:
    """The transpose of that step's Jacobian, times ``delta_s``."""
    (_, c_prev), (_, c), (delta_h, delta_c) = s_prev, s, delta_s
    delta_c = delta_c + delta_h * jnp.tanh(c) * slope(residual[3]) * p_o
    (delta_h_prev, delta_c_prev), delta_z = adjoint(s_prev, s, residual, (delta_h, delta_c))
    delta_i, delta_f, _, delta_o = delta_z
    delta_c_prev = delta_c_prev + delta_i * p_i + delta_f * p_f
    return (delta_h_prev, delta_c_prev), delta_z, delta_i * c_prev, delta_f * c_prev, delta_o * c
