"""The gated recurrent unit, in the reset-after form."""

import jax.numpy as jnp

from rnn_jax.cells.gates import complement, gate, sigma, slope
from rnn_jax.checks import check_bool
from rnn_jax.types import Cell, Units


def gru(diagonal: bool = False) -> Cell:
    """The GRU cell whose reset gate acts after the recurrent product, G = 3 (r, z, n), S = 1.

    Step, derivation (D10), where v_t = h_{t−1} W + d carries a bias of its own::

        r = σ(u_r + v_r)   z = σ(u_z + v_z)   n = tanh(u_n + r v_n)
        h_t = h_{t−1} + (1 − z)(n − h_{t−1})

    Adjoint, derivation (20)::

        δu_n     = δh_t (1 − z)(1 − n²)             δv_n = δu_n r
        δu_r     = δu_n v_n r (1 − r)               δv_r = δu_r
        δu_z     = δh_t (h_{t−1} − n) z (1 − z)     δv_z = δu_z
        δh_{t−1} = δh_t z

    The gates r and z are stored signed (``cells/gates.py``), so that 1 − z keeps its digits where a unit remembers; n
    and v_n are stored as they are, and nothing is found by division: the adjoint is accurate for every pre-activation.

    This is the one cell here whose δu and δv differ, in their candidate block.  The blocks of U, W, b and d stand in
    the order r, z, n, and b and d are ``bias_ih`` and ``bias_hh`` of ``torch.nn.GRU`` and cuDNN.

    Args:
      diagonal: each unit reads only its own past, v = w ⊙ h_{t−1} + d for each gate.

    Raises:
      InputError: a ``diagonal`` that is no bool.

    Source: Cho et al., *Learning phrase representations using RNN encoder–decoder*, EMNLP (2014), where the
    reset gate acts before the product; after it is the form of cuDNN and of every library that follows it.
    """
    check_bool(diagonal, "diagonal")
    return Cell(
        "gru-diagonal" if diagonal else "gru",
        states=("h",),
        gates=("r", "z", "n"),
        step=step,
        adjoint=adjoint,
        bias=(0.0,) * 3,
        recurrent_bias=True,
        separate=True,
        recurrence="diagonal" if diagonal else "dense",
    )


def step(s_prev: Units, u: Units, v: Units) -> tuple[Units, Units]:
    """One step; the residual is r and z, signed, n and v_n."""
    (h_prev,), (u_r, u_z, u_n), (v_r, v_z, v_n) = s_prev, u, v
    r, z = gate(u_r + v_r), gate(u_z + v_z)
    n = jnp.tanh(u_n + sigma(r) * v_n)
    return (h_prev + complement(z) * (n - h_prev),), (r, z, n, v_n)


def adjoint(s_prev: Units, s: Units, residual: Units, delta_s: Units) -> tuple[Units, Units, Units]:
    """The transpose of the step's Jacobian, times ``delta_s``."""
    (h_prev,), (r, z, n, v_n), (delta_h,) = s_prev, residual, delta_s
    delta_n = delta_h * complement(z) * ((1 - n) * (1 + n))
    delta_r = delta_n * v_n * slope(r)
    delta_z = delta_h * (h_prev - n) * slope(z)
    return (delta_h * sigma(z),), (delta_r, delta_z, delta_n), (delta_r, delta_z, delta_n * sigma(r))
