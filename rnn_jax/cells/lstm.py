"""The long short-term memory cell."""

import math

import jax.numpy as jnp

from rnn_jax.cells.gates import gate, sigma, slope
from rnn_jax.checks import check_number
from rnn_jax.types import Cell, Units


def lstm(forget_bias: float = 1.0) -> Cell:
    """The LSTM cell with a forget gate, G = 4 (i, f, g, o), S = 2 (h, c).

    Step, derivation (D9), with z = u_t + v_t::

        i = σ(z_i)   f = σ(z_f)   g = tanh(z_g)   o = σ(z_o)
        c_t = f c_{t−1} + i g
        h_t = o tanh(c_t)

    Adjoint, derivation (19)::

        δc_t    += δh_t o (1 − tanh²c_t)
        δz_i     = δc_t g i (1 − i)           δz_f = δc_t c_{t−1} f (1 − f)
        δz_g     = δc_t i (1 − g²)            δz_o = δh_t tanh(c_t) o (1 − o)
        δc_{t−1} = δc_t f                     δu_t = δv_t = δz_t

    The gates i, f and o are stored signed (``cells/gates.py``), so that 1 − f keeps its digits where a unit remembers;
    tanh(c_t) is computed again from c_t, and nothing is found by division: the adjoint is accurate for every
    pre-activation.  The blocks of U, W and b stand in the order i, f, g, o of ``torch.nn.LSTM`` and cuDNN.

    Args:
      forget_bias: initial value of b_f; 1 lets a new cell remember.

    Raises:
      InputError: a forget bias that is not a finite number.

    Source: Hochreiter & Schmidhuber, *Long short-term memory*, Neural Computation 9 (1997); the forget gate is Gers,
    Schmidhuber & Cummins, *Learning to forget*, Neural Computation 12 (2000).
    """
    check_number(forget_bias, "forget_bias", -math.inf, math.inf, "a finite number")
    bias = (0.0, float(forget_bias), 0.0, 0.0)
    return Cell("lstm", states=("h", "c"), gates=("i", "f", "g", "o"), step=step, adjoint=adjoint, bias=bias)


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
