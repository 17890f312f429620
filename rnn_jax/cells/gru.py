"""The gated recurrent unit, in the reset-after form."""

import jax.numpy as jnp
from jax.nn import sigmoid

from rnn_jax.types import Cell, Units


def gru() -> Cell:
    """The GRU cell whose reset gate acts after the recurrent product, G = 3 (r, z, n), S = 1.

    Step, derivation (D10), where v_t = h_{t−1} W + d carries a bias of its own::

        r = σ(u_r + v_r)   z = σ(u_z + v_z)   n = tanh(u_n + r v_n)
        h_t = (1 − z) n + z h_{t−1}

    Adjoint, derivation (20)::

        δu_n     = δh_t (1 − z)(1 − n²)       δv_n = δu_n r
        δu_r     = δu_n v_n r (1 − r)         δv_r = δu_r
        δu_z     = δh_t (h_{t−1} − n) z (1 − z)     δv_z = δu_z
        δh_{t−1} = δh_t z

    n is not kept, for (1 − z) n = h_t − z h_{t−1}: δu_z becomes δh_t (h_{t−1} − h_t) z, and the rounding of n so found,
    about ε / (1 − z) where |h| ≤ 1, is taken back by 1 − z in δu_n.

    This is the one cell here whose δu and δv differ, in their candidate block.  The blocks of U, W, b and d stand in
    the order r, z, n, and b and d are ``bias_ih`` and ``bias_hh`` of ``torch.nn.GRU`` and cuDNN.

    Source: Cho et al., *Learning phrase representations using RNN encoder–decoder*, EMNLP (2014), where the
    reset gate acts before the product; after it is the form of cuDNN and of every library that follows it.
    """

    def step(s_prev: Units, u: Units, v: Units) -> tuple[Units, Units]:
        (h_prev,), (u_r, u_z, u_n), (v_r, v_z, v_n) = s_prev, u, v
        r, z = sigmoid(u_r + v_r), sigmoid(u_z + v_z)
        n = jnp.tanh(u_n + r * v_n)
        return ((1 - z) * n + z * h_prev,), (r, z, v_n)

    def adjoint(s_prev: Units, s: Units, residual: Units, delta_s: Units) -> tuple[Units, Units, Units]:
        (h_prev,), (h,), (r, z, v_n), (delta_h,) = s_prev, s, residual, delta_s
        n = (h - z * h_prev) / jnp.maximum(1 - z, jnp.finfo(z.dtype).tiny)  # 0 where z = 1
        delta_n = delta_h * (1 - z) * (1 - n * n)
        delta_r = delta_n * v_n * r * (1 - r)
        delta_z = delta_h * (h_prev - h) * z
        return (delta_h * z,), (delta_r, delta_z, delta_n), (delta_r, delta_z, delta_n * r)

    return Cell(
        "gru", states=("h",), gates=("r", "z", "n"), step=step, adjoint=adjoint, bias=(0.0,) * 3, recurrent_bias=True
    )
