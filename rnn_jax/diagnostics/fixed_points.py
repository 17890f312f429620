"""Where the state of a network comes to rest while its input is constant, and which of these points are stable."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax import stack
from rnn_jax.checks import (
    check_int,
    check_network,
    check_number,
    check_params,
    check_state,
    describe,
    is_array,
    require,
)
from rnn_jax.diagnostics.state_jacobian import check_step_input, state_jacobian, unflatten
from rnn_jax.gradients.segments import flatten_state
from rnn_jax.types import Array, Network, Params, State

HALVINGS = 8
"""The shortest step is 2⁻⁷ of Newton's."""


class FixedPoints(NamedTuple):
    """Fixed points, the most stable first, and how they were found.

    Examples:
      >>> import rnn_jax as rj
      >>> rj.diagnostics.FixedPoints._fields[:4]
      ('states', 'residuals', 'eigenvalues', 'stable')
    """

    states: np.ndarray
    """s* with all state values of all layers side by side, float64 [M, N]."""
    residuals: np.ndarray
    """‖f(s*, x) − s*‖ of each, float64 [M]."""
    eigenvalues: np.ndarray
    """Of ∂f/∂s at s*, complex128 [M, N], the largest in modulus first."""
    stable: np.ndarray
    """Whether all eigenvalues are inside of the unit circle, bool [M]."""
    reached_from: np.ndarray
    """How many starts ended at each, int [M]."""
    starts: int
    """Starts of the search."""
    converged: int
    """Starts that came to a residual within the tolerance."""
    tolerance: float
    """The largest residual of a fixed point."""
    distance: float
    """Ends nearer to each other than this are one fixed point."""


def fixed_points(
    network: Network,
    params: Params,
    starts: State,
    x: Array,
    tolerance: float = 1e-10,
    distance: float = 1e-3,
    iterations: int = 100,
) -> FixedPoints:
    """The fixed points of a network at a constant input, by Newton's method from many states, in float64.

        s* = f(s*, x)      s ← s − α (J − 1)⁻¹ (f(s, x) − s)      J = ∂f/∂s

    J comes from the cells' own adjoints.  α is that of 1, ½, ¼ … with the smallest residual ‖f(s, x) − s‖; where none
    of them makes it smaller, the network itself takes a step, s ← f(s, x).  So states go to fixed points near to them,
    stable or not, and are not thrown far away where J − 1 is nearly singular.  Give states that the network visits in
    its task.  Nothing says that what is found is all; more starts find more.

    A fixed point is stable if all eigenvalues of J are smaller than 1 in modulus.  A saddle has some that are larger:
    their number is that of its unstable directions.

    Ends within the tolerance are taken from the smallest residual on, each that is not near to one before it.  It costs
    N vector-Jacobian products and N³ operations an iteration and start, and does not run under ``jit``.

    Args:
      network: cells and sizes; its loss is not used.
      params: its parameters.
      starts: states, per layer S arrays [B, H].
      x: the constant input, an int token [] or floats [D].
      tolerance: the largest residual ‖f(s*, x) − s*‖ of a fixed point.
      distance: the smallest Euclidean distance between two fixed points.
      iterations: of Newton's method, at most.

    Returns:
      FixedPoints: M of them, M = 0 where there is none.

    Raises:
      InputError: parameters, states or an input that do not fit the network, or a setting that is not positive.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network((rj.elman(),), inputs=1, hidden=1, outputs=1, loss=rj.squared_error())
      >>> layer = rj.Layer(U=jnp.zeros((1, 1)), W=jnp.full((1, 1), 2.0), b=jnp.zeros(1))
      >>> params = rj.Params(layers=(layer,), V=jnp.zeros((1, 1)), c=jnp.zeros(1))
      >>> starts = ((jnp.linspace(-1, 1, 20)[:, None],),)
      >>> found = rj.diagnostics.fixed_points(network, params, starts, jnp.zeros(1))
      >>> sorted((found.states[:, 0].round(4) + 0).tolist()), found.stable.tolist()  # h = tanh(2 h)
      ([-0.9575, 0.0, 0.9575], [True, True, False])

    Source: Sussillo & Barak, *Opening the black box: low-dimensional dynamics in high-dimensional recurrent neural
    networks*, Neural Computation 25 (2013); Golub & Sussillo, *FixedPointFinder: a Tensorflow toolbox for identifying
    and characterizing fixed points in recurrent neural networks*, Journal of Open Source Software 3 (2018).  Both
    minimise ½ ‖f(s, x) − s‖² by gradient descent; Newton's method needs few iterations where J is at hand.
    """
    check_network(network)
    check_params(network, params)
    for name, value in (("tolerance", tolerance), ("distance", distance)):
        check_number(value, name, 1e-300, np.inf, "a positive number")
    check_int(iterations, "iterations")
    leaves = jax.tree.leaves(starts)
    rows = leaves and is_array(leaves[0]) and leaves[0].ndim == 2 and len(leaves[0]) > 0
    require(rows, "starts", describe(starts), "a state of one row or more, S arrays [B, H] a layer")
    check_state(network, starts, len(leaves[0]), params.V.dtype, "starts")
    require(is_array(x), "x", describe(x), "an array, int[] or float[D]")
    check_step_input(network, params, x)
    with jax.enable_x64(True):
        params, starts, x = jax.tree.map(_wide, (params, starts, x))
        ends, residuals = (np.asarray(each) for each in _newton(network, params, starts, x, tolerance, iterations))
        chosen, reached_from = _distinct(ends, residuals, tolerance, distance)
        N = ends.shape[1]
        J = np.zeros((0, N, N))
        if chosen.size:
            state = unflatten(jnp.asarray(ends[chosen]), starts)
            J = np.asarray(state_jacobian(network, params, state, _inputs(x, len(chosen))))
    eigenvalues = np.linalg.eigvals(J).astype(np.complex128)
    eigenvalues = np.take_along_axis(eigenvalues, np.argsort(-np.abs(eigenvalues), axis=1), axis=1)
    order = np.argsort(np.abs(eigenvalues[:, 0])) if chosen.size else np.zeros(0, int)
    chosen, reached_from, eigenvalues = chosen[order], reached_from[order], eigenvalues[order]
    return FixedPoints(
        states=ends[chosen],
        residuals=residuals[chosen],
        eigenvalues=eigenvalues,
        stable=np.asarray(np.abs(eigenvalues).max(axis=1, initial=0) < 1),
        reached_from=reached_from,
        starts=len(ends),
        converged=int((residuals <= tolerance).sum()),
        tolerance=float(tolerance),
        distance=float(distance),
    )


def _wide(a: Array) -> Array:
    return jnp.asarray(a, jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else jnp.asarray(a)


def _inputs(x: Array, rows: int) -> Array:
    return jnp.broadcast_to(x[None], (rows, *x.shape))


@partial(jax.jit, static_argnames="network")
def _newton(
    network: Network, params: Params, starts: State, x: Array, tolerance: float, iterations: int
) -> tuple[Array, Array]:
    """The ends [B, N] and their residuals [B]; the last iteration comes when all are within the tolerance."""

    def change(flat: Array) -> Array:
        """f(s, x) − s, [B, N]."""
        _, after = stack.forward(network, params, unflatten(flat, starts), _inputs(x, len(flat))[None])
        return flatten_state(after) - flat

    def iterate(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, _, s = carry
        J = state_jacobian(network, params, unflatten(s, starts), _inputs(x, len(s)))
        here = change(s)
        step = jnp.linalg.solve(J - jnp.eye(s.shape[1])[None], here[..., None])[..., 0]
        tried = jnp.stack([s - 0.5**halvings * step for halvings in range(HALVINGS)])
        sizes = jnp.stack([jnp.linalg.norm(change(each), axis=1) for each in tried])
        sizes = jnp.where(jnp.isfinite(sizes), sizes, jnp.inf)
        best = jnp.take_along_axis(tried, jnp.argmin(sizes, axis=0)[None, :, None], axis=0)[0]
        size = jnp.linalg.norm(here, axis=1)
        s = jnp.where((sizes.min(axis=0) < size)[:, None], best, s + here)
        return count + 1, (size > tolerance).any(), s

    def goes_on(carry: tuple[Array, Array, Array]) -> Array:
        count, far, _ = carry
        return (count < iterations) & far

    _, _, s = lax.while_loop(goes_on, iterate, (jnp.zeros((), int), jnp.ones((), bool), flatten_state(starts)))
    return s, jnp.linalg.norm(change(s), axis=1)


def _distinct(
    ends: np.ndarray, residuals: np.ndarray, tolerance: float, distance: float
) -> tuple[np.ndarray, np.ndarray]:
    """The indices of ends that are fixed points and apart from each other, and how many ends each one stands for."""
    chosen: list[int] = []
    counts: list[int] = []
    for index in np.argsort(residuals):
        if not residuals[index] <= tolerance:
            break
        apart = np.linalg.norm(ends[chosen] - ends[index], axis=1)
        if chosen and apart.min() < distance:
            counts[int(apart.argmin())] += 1
        else:
            chosen.append(int(index))
            counts.append(1)
    return np.array(chosen, int), np.array(counts, int)
