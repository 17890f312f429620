"""The minimal gated recurrent unit, whose gates see only the input."""

from rnn_jax.cells.gates import complement, gate, sigma, slope
from rnn_jax.types import Cell, Units


def min_gru() -> Cell:
    """The minGRU cell, whose gates see only the input (G = 2, S = 1).

    Step, with z = σ(u_z) and n = u_n.  There is no v and no W, and n has no tanh:

        h_t = h_{t−1} + z (n − h_{t−1})

    Adjoint:

        δu_z     = δh_t (n − h_{t−1}) z (1 − z)     δu_n = δh_t z
        δh_{t−1} = δh_t (1 − z)

    The gate z is stored signed (``cells/gates.py``).

    Choose it for speed: a step has no recurrent product.  A unit remembers as long as its gate z is small.  Units of
    one layer exchange nothing through time, so a task that needs this needs several layers.

    Returns:
      A Cell with the state h, the gates z and n, and no recurrent weights.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> layer = rj.init_layer(rj.min_gru(), jax.random.key(0), inputs=3, hidden=4)
      >>> layer.U.shape, layer.W is None
      ((3, 8), True)

    Source: Feng et al., *Were RNNs all we needed?*, arXiv:2410.01201 (2024).
    """
    return Cell(
        "min_gru",
        states=("h",),
        gates=("z", "n"),
        step=step,
        adjoint=adjoint,
        bias=(0.0, 0.0),
        chrono=(-1, 0),
        recurrence="none",
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
