"""What a product of Jacobians does to a cotangent: singular values over every lag, and Lyapunov exponents.

N cotangents go back together.  After each step a QR decomposition makes them orthonormal again, so that nothing
overflows or underflows, however many steps there are::

    Q_{t−1} R_t = J_tᵀ Q_t        (J_T ⋯ J_{t+1})ᵀ Q_T = Q_t R_{t+1} ⋯ R_T        J_t = ∂s_t/∂s_{t−1}

The state s is all state values of all layers, N numbers, as in ``state_jacobian``.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import stack
from rnn_jax.checks import check_flags, check_inputs, check_int, check_network, check_params, check_state, require
from rnn_jax.diagnostics.graded_svd import log_singular_values, normalised
from rnn_jax.diagnostics.state_jacobian import rows_at
from rnn_jax.precision import accumulation_dtype
from rnn_jax.types import Array, Batch, Network, Params, State

Flags = Array | None


def singular_values(
    network: Network, params: Params, state: State, xs: Array, mask: Flags = None, reset: Flags = None
) -> np.ndarray:
    """The logarithms of all singular values of ∂s_T/∂s_t, for every t of a window.

        ∂s_T/∂s_t = J_T J_{T−1} ⋯ J_{t+1}      J_t = ∂s_t/∂s_{t−1}

    The largest one bounds ‖δs_t‖ / ‖δs_T‖ from above, and the smallest from below: a gradient must vanish where the
    largest falls with the lag T − t, and can explode only where it grows.  The others tell how many directions of the
    state are remembered.

    The product is kept as triangular factors, whose rows have a logarithm as their scale, and the singular values come
    from it by rotations: those of 10^−1000 have as many digits as those near 1, within what J_t itself allows.  A
    singular value that rounding cannot tell from 0 is 0.  It costs N vector-Jacobian products and N³ operations a step,
    and T·N² numbers for each example.  It does not run under ``jit``.

    Args:
      network: cells and sizes; its loss is not used.
      params: its parameters; the Jacobians have their dtype, and float64 is best.
      state: s_0, as from ``initial_state`` or from an earlier window, S arrays [B, H] a layer.
      xs: int tokens [T, B] or floats [T, B, D].
      mask: bool [T, B] or None; a masked step has the identity as its Jacobian.
      reset: bool [T, B] or None; a reset has the Jacobian 0.

    Returns:
      float64 [T + 1, B, N], natural logarithms, the largest first; −inf for 0, and 0 at t = T.

    Raises:
      InputError: parameters, a state or inputs that do not fit the network.

    Examples:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> import rnn_jax as rj
      >>> network = rj.Network((rj.elman("identity"),), inputs=1, hidden=2, outputs=1, loss=rj.squared_error())
      >>> layer = rj.Layer(U=jnp.zeros((1, 2)), W=jnp.diag(jnp.array([0.5, 1e-20])), b=jnp.zeros(2))
      >>> params = rj.Params(layers=(layer,), V=jnp.zeros((2, 1)), c=jnp.zeros(1))
      >>> state = rj.initial_state(network, params, batch_size=1)
      >>> logs = rj.diagnostics.singular_values(network, params, state, jnp.zeros((100, 1, 1)))
      >>> (logs[0, 0] / np.log(10)).round(1).tolist()  # ½ and 1e-20, each to the power of 100
      [-30.1, -2000.0]

    Source: Pascanu, Mikolov & Bengio, *On the difficulty of training recurrent neural networks*, ICML (2013), (5) and
    section 2.1; the triangular factors are those of Geist, Parlitz & Lauterborn, *Comparison of different methods for
    computing Lyapunov exponents*, Progress of Theoretical Physics 83 (1990).
    """
    _check(network, params, state, xs, mask, reset)
    N, wide = _size(state), accumulation_dtype(params.V.dtype)
    factors = _factors(network, params, state, xs, mask, reset, jnp.eye(N, dtype=wide), diagonal=False)
    logs, rows = np.zeros((len(xs[0]), N)), np.broadcast_to(np.eye(N), (len(xs[0]), N, N))
    products = [(logs, rows)]
    for R in np.asarray(factors, np.float64)[::-1]:
        products.insert(0, _times(R, *products[0]))
    every_log, every_row = (np.stack(parts) for parts in zip(*products, strict=True))
    found = log_singular_values(every_log.reshape(-1, N), every_row.reshape(-1, N, N))
    return found.reshape(every_log.shape)


def lyapunov_spectrum(
    network: Network,
    params: Params,
    state: State,
    xs: Array,
    mask: Flags = None,
    reset: Flags = None,
    count: int | None = None,
) -> np.ndarray:
    """The Lyapunov exponents along a trajectory: the mean rates, a step, at which directions of the state grow.

        λ_i = 1/T Σ_t log |R_t[i, i]|      Q_{t−1} R_t = J_tᵀ Q_t      J_t = ∂s_t/∂s_{t−1}

    Their sum is the mean of log |det J_t|.  The largest one is positive where the dynamics is chaotic, and gradients
    explode; where it is negative, they vanish with a time constant of −1/λ_1 steps.

    The cotangents start from random orthonormal ones, which need some steps to turn to their directions, so that the
    exponents of a window are off by O(1/T).  The spectrum is that of the transposed product, the same as that of the
    product in the limit of long windows.  It costs ``count`` vector-Jacobian products and N·count² operations a step.

    Args:
      network: cells and sizes; its loss is not used.
      params: its parameters; the Jacobians have their dtype.
      state: s_0, behind the transient of the dynamics, S arrays [B, H] a layer.
      xs: int tokens [T, B] or floats [T, B, D].
      mask: bool [T, B] or None; a masked step does not count in T.
      reset: bool [T, B] or None; behind a reset nothing is left of the state before, and all exponents are −inf.
      count: how many exponents, the largest ones; None: all N.

    Returns:
      float64 [B, count], natural logarithms a step, nearly in descending order; NaN for an example without a step.

    Raises:
      InputError: parameters, a state or inputs that do not fit the network, or more exponents than N.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network((rj.elman("identity"),), inputs=1, hidden=1, outputs=1, loss=rj.squared_error())
      >>> layer = rj.Layer(U=jnp.zeros((1, 1)), W=jnp.full((1, 1), 0.5), b=jnp.zeros(1))
      >>> params = rj.Params(layers=(layer,), V=jnp.zeros((1, 1)), c=jnp.zeros(1))
      >>> state = rj.initial_state(network, params, batch_size=1)
      >>> rj.diagnostics.lyapunov_spectrum(network, params, state, jnp.zeros((2000, 1, 1))).round(3).tolist()  # log ½
      [[-0.693]]

    Source: Engelken, Wolf & Abbott, *Lyapunov spectra of chaotic recurrent neural networks*, Physical Review Research 5
    (2023); the method is Benettin et al., *Lyapunov characteristic exponents for smooth dynamical systems*, Meccanica
    15 (1980).
    """
    _check(network, params, state, xs, mask, reset)
    N = _size(state)
    count = N if count is None else count
    check_int(count, "count")
    require(count <= N, "count", count, f"{N} at most, the number of state values")
    start = jax.random.orthogonal(jax.random.key(0), N, dtype=accumulation_dtype(params.V.dtype))[:, :count]
    on = np.asarray(_factors(network, params, state, xs, mask, reset, start, diagonal=True), np.float64)
    steps = np.full(xs.shape[1], len(xs)) if mask is None else np.asarray(mask).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponents: np.ndarray = np.log(np.abs(on)).sum(axis=0) / steps[:, None]
    return exponents


def _size(state: State) -> int:
    return sum(int(value.shape[-1]) for units in state for value in units)


def _check(network: Network, params: Params, state: State, xs: Array, mask: Flags, reset: Flags) -> None:
    check_network(network)
    check_params(network, params)
    _, B = check_inputs(xs, network.inputs, params.V.dtype)
    check_flags(mask, reset, xs, network.inputs)
    check_state(network, state, B, params.V.dtype)


@partial(jax.jit, static_argnames=("network", "diagonal"))
def _factors(
    network: Network,
    params: Params,
    state: State,
    xs: Array,
    mask: Flags,
    reset: Flags,
    start: Array,
    diagonal: bool,
) -> Array:
    """R_1 … R_T from Q_T = ``start`` [N, count]: whole [T, B, count, count], or the diagonals [T, B, count].

    An element of the diagonal that rounding cannot tell from 0 is 0.
    """
    layers, (T, B), dtype = stack.prepare(network, params), xs.shape[:2], params.V.dtype
    trajectories = stack.forward_in_place(layers, stack.allocate(layers, T, state), 0, Batch(xs, xs, mask, reset))

    def back(Q: Array, inputs: Any) -> tuple[Array, Array]:
        rows = rows_at(layers, trajectories, jnp.moveaxis(Q, 2, 0).astype(dtype), *inputs)  # Q_tᵀ J_t, [count, B, N]
        Q, R = jnp.linalg.qr(jnp.moveaxis(rows, 0, 2).astype(Q.dtype))
        on = jnp.diagonal(R, axis1=1, axis2=2)
        least = len(start) * jnp.finfo(R.dtype).eps * jnp.linalg.norm(R, axis=1)
        on = jnp.where(jnp.abs(on) > least, on, 0)
        if diagonal:
            return Q, on
        places = jnp.eye(len(on[0]), dtype=bool)[None]
        return Q, jnp.where(places, on[:, None], R)

    Q = jnp.broadcast_to(start[None], (B, *start.shape))
    factors: Array = lax.scan(back, Q, (jnp.arange(T), mask, reset), reverse=True)[1]
    return factors


def _times(R: np.ndarray, logs: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R · diag(exp(logs)) · rows of each example, again as logarithms [B, N] and rows [B, N, N] of norm 1."""
    with np.errstate(divide="ignore"):
        sizes = np.log(np.abs(R)) + logs[:, None]
    largest = sizes.max(axis=-1)
    scale = np.where(np.isneginf(largest), 0.0, largest)
    return normalised(largest, np.sign(R) * np.exp(sizes - scale[..., None]) @ rows)
