"""The gated recurrent unit, in the reset-after form."""

import jax.numpy as jnp

from rnn_jax.cells.gates import complement, gate, sigma, slope
from rnn_jax.checks import check_bool
from rnn_jax.types import Cell, Units


def gru(diagonal: bool = False) -> Cell:
    """The GRU cell in the reset-after form: the reset gate acts after the recurrent product (G = 3, S = 1).

    Step, derivation (D10), where v_t = h_{t−1} W + d has a bias d:

        r = σ(u_r + v_r)   z = σ(u_z + v_z)   n = tanh(u_n + r v_n)
        h_t = h_{t−1} + (1 − z)(n − h_{t−1})

    Adjoint, derivation (20):

        δu_n     = δh_t (1 − z)(1 − n²)             δv_n = δu_n r
        δu_r     = δu_n v_n r (1 − r)               δv_r = δu_r
        δu_z     = δh_t (h_{t−1} − n) z (1 − z)     δv_z = δu_z
        δh_{t−1} = δh_t z

    The gates r and z are stored signed (``cells/gates.py``), so 1 − z keeps its digits where z is close to 1.  The
    adjoint reads the stored n and v_n and divides by nothing, so it is accurate for every pre-activation.  Its δu_n and
    δv_n differ; in every other cell here, δu equals δv.

    Choose it for long dependencies at three quarters of the products of ``lstm``: 3 H² multiplications a step and
    example.

    The blocks of U, W, b and d are in the order r, z, n.  The biases b and d are ``bias_ih`` and ``bias_hh`` of
    ``torch.nn.GRU`` and cuDNN.

    Args:
      diagonal: True: each unit reads only its own past, v = w ⊙ h_{t−1} + d for each gate.

    Returns:
      A Cell with the state h and the gates r, z and n.

    Raises:
      InputError: a ``diagonal`` that is no bool.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> cell = rj.gru()
      >>> zero, one = jnp.zeros((1, 1)), jnp.ones((1, 1))
      >>> (h,), _ = cell.step((one,), (zero, zero, zero), (zero, zero, zero))
      >>> h.tolist()  # z = 1/2 and n = 0
      [[0.5]]

    Source: Cho et al., *Learning phrase representations using RNN encoder–decoder*, EMNLP (2014).  Their reset gate
    acts before the product; the form here is that of cuDNN and of the libraries that follow it.
    """
    check_bool(diagonal, "diagonal")
    return Cell(
        "gru-diagonal" if diagonal else "gru",
        states=("h",),
        gates=("r", "z", "n"),
        step=step,
        adjoint=adjoint,
        bias=(0.0,) * 3,
        chrono=(0, 1, 0),
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
