"""The Jacobian ∂s_t/∂s_{t−1} of the whole state of a network, from rows of cotangents that the adjoints take back.

The state s is all state values of all layers side by side, N numbers.  Rows C times the Jacobian are a step back::

    C J_t = [δs_{t−1} of each row δs_t of C]      J_t = ∂s_t/∂s_{t−1}

so the unit vectors give J_t itself.  Within a step δh of a layer has the share δu Uᵀ of the layer above it.
"""

import jax
import jax.numpy as jnp

from rnn_jax import jacobian, recurrence, stack, trajectory
from rnn_jax.checks import (
    check_array,
    check_indices,
    check_network,
    check_params,
    check_state,
    describe,
    is_array,
    require,
)
from rnn_jax.gradients.segments import flatten_state
from rnn_jax.stack import Stack, Trajectories
from rnn_jax.types import Array, Batch, Network, Params, State

Flags = Array | None


def state_jacobian(network: Network, params: Params, state: State, x: Array) -> Array:
    """The Jacobian of one step of the whole network, at a state and an input, without autodiff.

        J = ∂s_t/∂s_{t−1}      s_t = f(s_{t−1}, x_t)

    The state s is all state values of all layers side by side, the lowest layer first, as ``network.cells`` has them:
    N = Σ S·H numbers.  Its eigenvalues tell whether a fixed point is stable.  It costs N vector-Jacobian products.

    Args:
      network: cells and sizes; its loss is not used.
      params: its parameters.
      state: s_{t−1}, per layer S arrays [B, H].
      x: x_t, int tokens [B] or floats [B, D].

    Returns:
      float [B, N, N]; row k is the derivative of the k-th number of s_t.

    Raises:
      InputError: parameters, a state or inputs that do not fit the network.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network((rj.elman("identity"),), inputs=1, hidden=2, outputs=1, loss=rj.squared_error())
      >>> W = jnp.array([[0.0, 2.0], [3.0, 0.0]])
      >>> layer = rj.Layer(U=jnp.zeros((1, 2)), W=W, b=jnp.zeros(2))
      >>> params = rj.Params(layers=(layer,), V=jnp.zeros((2, 1)), c=jnp.zeros(1))
      >>> state = rj.initial_state(network, params, batch_size=1)
      >>> rj.diagnostics.state_jacobian(network, params, state, jnp.zeros((1, 1)))[0].tolist()  # Wᵀ
      [[0.0, 3.0], [2.0, 0.0]]
    """
    check_network(network)
    check_params(network, params)
    require(is_array(x) and x.ndim in (1, 2), "x", describe(x), "int[B] or float[B,D]")
    check_step_input(network, params, x, ("B",))
    check_state(network, state, len(x), params.V.dtype)
    layers = stack.prepare(network, params)
    return jnp.moveaxis(rows_at(layers, one_step(layers, state, x), unit_vectors(state)), 0, 1)


def check_step_input(network: Network, params: Params, x: Array, rows: tuple[str, ...] = ()) -> None:
    """Refuse an input of one step of another shape or dtype than the network's, or a token out of range."""
    if jnp.issubdtype(x.dtype, jnp.integer):
        check_array(x, "x", rows, "int")
        check_indices(x, "x", network.inputs)
    else:
        check_array(x, "x", (*rows, network.inputs), params.V.dtype)


def one_step(layers: Stack, state: State, x: Array) -> Trajectories:
    """States before and after one step, and its residuals."""
    return stack.forward_in_place(layers, stack.allocate(layers, 1, state), 0, Batch(x[None], x))


def unit_vectors(state: State) -> Array:
    """All N rows of the identity, for each example of the state, [N, B, N]."""
    flat = flatten_state(state)
    B, N = flat.shape
    return jnp.broadcast_to(jnp.eye(N, dtype=flat.dtype)[:, None], (N, B, N))


def rows_at(
    layers: Stack,
    trajectories: Trajectories,
    rows: Array,
    t: Array | int = 0,
    mask: Flags = None,
    reset: Flags = None,
) -> Array:
    """Rows of cotangents of s_{t+1} times the Jacobian of the step from s_t, [R, B, N].

    Args:
      layers: as from ``stack.prepare``.
      trajectories: states and residuals of the steps.
      rows: R cotangents of each example, [R, B, N].
      t: the step.
      mask: of this step, bool [B] or None; a masked step has the identity.
      reset: likewise; a reset has zero.
    """
    s_prev = tuple(recurrence.zero_where(reset, each) for each in stack.state_at(trajectories, t))
    blocks = [
        jacobian.of_step(cell, layer, before, trajectory.state_at(each, t + 1), trajectory.residual_at(each, t))
        for (cell, layer, _), each, before in zip(layers, trajectories, s_prev, strict=True)
    ]

    def pull(row: Array) -> Array:
        above: Array | None = None
        back: list[tuple[Array, ...]] = []
        for (cell, layer, _), block, delta_s in reversed(
            list(zip(layers, blocks, unflatten(row, s_prev), strict=True))
        ):
            if above is not None:
                delta_s = (delta_s[0] + above, *delta_s[1:])
            adjoint = jacobian.pull(cell, layer, block, delta_s)
            delta_s_prev, above = recurrence.zero_where(reset, adjoint.delta_s_prev), adjoint.deltas[0] @ layer.U.T
            if mask is not None:
                counts = mask[:, None]
                delta_s_prev = tuple(
                    jnp.where(counts, new, old) for new, old in zip(delta_s_prev, delta_s, strict=True)
                )
                above = jnp.where(counts, above, 0)
            back.insert(0, delta_s_prev)
        return flatten_state(tuple(back))

    return jax.vmap(pull)(rows)


def unflatten(flat: Array, like: State) -> State:
    """[…, N] as a state whose layers are as wide as those of another one."""
    widths = [units[0].shape[-1] for units in like for _ in units]
    ends = [sum(widths[: index + 1]) for index in range(len(widths))]
    values = iter(jnp.split(flat, ends[:-1], axis=-1))
    return tuple(tuple(next(values) for _ in units) for units in like)
