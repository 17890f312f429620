"""The minimal gated recurrent unit, whose gates see only the input."""

from rnn_jax.cells.gates import complement, gate, sigma, slope
from rnn_jax.types import Cell, Units


def min_gru() -> Cell:
    """The minGRU cell, G = 2 (z, n), S = 1, without recurrent weights: v and W do not exist, and z_t = u_t.

    Step, with z = σ(z_z) and n = z_n, without a tanh::

        h_t = h_{t−1} + z (n − h_{t−1})

    Adjoint::

        δz_z     = δh_t (n − h_{t−1}) z (1 − z)     δz_n = δh_t z
        δh_{t−1} = δh_t (1 − z)

    A unit's state depends on its own past alone, so its memory is as long as its gate stays shut, and two units of one
    layer exchange nothing through time.  The gate z is stored signed (``cells/gates.py``).

    Source: Feng et al., *Were RNNs all we needed?*, arXiv:2410.01201 (2024).
    """
    return Cell(
        "min_gru", states=("h",), gates=("z", "n"), step=step, adjoint=adjoint, bias=(0.0, 0.0), recurrence="none"
    )


def step(s_prev: Units, z: Units) -> tuple[Units, Units]:
    """One step; the residual is the gate z, signed, and n."""
    (h_prev,), (z_z, n) = s_prev, z
    w = gate(z_z)
    return (h_prev + sigma(w) * (n - h_prev),), (w, n)


def adjoint(s_prev: Units, s: Units, residual: Units, delta_s: Units) -> tuple[Units, Units]:
    """The transpose of the step's Jacobian, times ``delta_s``."""
    (h_prev,), (w, n), (delta_h,) = s_prev, residual, delta_s
    return (delta_h * complement(w),), (delta_h * (n - h_prev) * slope(w), delta_h * sigma(w))
