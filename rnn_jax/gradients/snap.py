"""The sparse n-step approximation of RTRL: each parameter's influence on what its unit reaches in n steps."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_array, check_int, check_network, check_option, describe, layer_sizes, require
from rnn_jax.gradients import reach, segments, traces
from rnn_jax.gradients.reach import Reach
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.gradients.traces import Inside
from rnn_jax.recurrence import StepAdjoint
from rnn_jax.types import Algorithm, Array, Batch, Biased, Claim, Exact, Layer, Network, Params


def snap(
    network: Network,
    n: int = 1,
    pattern: np.ndarray | None = None,
    inside: Inside = "own",
    segment: int | None = None,
) -> Algorithm:
    """SnAp-n: each parameter keeps its influence only on the units that its own unit reaches in fewer than n steps.

    With n = 1 that is its own unit, and the influence is a trace E.  The Jacobian that the rule lets through is that of
    the unit alone, A_t + Q_t w_jj, with the unit's own weight w_jj of each gate:

        E ← (A_t + Q_t w_jj) E + ∂s_t/∂θ        of a unit's parameters on its own state
        G += e_t E                              e_t = ∂ℓ_t/∂s_t, what reaches the unit at the same step

    With n ≥ 2 unit j reaches the units R_j, on paths of fewer than n weights that the pattern allows.  With J_j =
    ∂s_t/∂s_{t−1} among the state values of R_j alone, and e_t those of R_j:

        M_j ← J_j M_j + ∂s_t/∂θ_j        G_j += e_t M_j

    By segments the same numbers come from the hand-written reverse (``traces.py`` and ``reach.py``).  Biased; Exact for
    one layer without weights between units, and for one layer with n ≥ 2 and all weights.  On a sparse pattern the
    error falls to 0 as n grows.

    The error of a layer is what reaches it at the same step.  With ``inside="full"`` the gradient within a segment is
    that of ``bptt``, layers above included, and the rule decides on what crosses a border alone.

    Time with n = 1 is 1 to 2.6 times that of ``bptt``, and memory one number a parameter, example and state value of
    its unit that the next step sees.  With n ≥ 2, where r units are within reach, it is O(H r³ + r θ) a step, and
    memory r times as much; where all are, ``rtrl`` gives the same numbers in less time.

    Choose it for one layer of a cell such as ``indrnn``, ``min_gru`` or ``rtu``, where it is exact; else as a cheap
    approximation.  Choose n ≥ 2 if W is sparse, and ``inside="full"`` in place of truncation by windows: at segments of
    1, 4 and 16 steps that was closer to the exact gradient than truncation, and than ``inside="own"``.

    Args:
      network: what to differentiate.
      n: the order, 1 or more.
      pattern: bool [H, H] on the host, ``pattern[i, j]`` is True where unit j reads unit i, of each layer that has a
        matrix W.  The gradient of W is zero elsewhere, and so should W be.  None: all weights.
      inside: "own", the rule's Jacobian everywhere; "full", the full one inside of a segment.
      segment: steps per segment, any length; with ``inside="own"`` it changes time and rounding alone.  By default the
        whole window, and with n ≥ 2 as many steps as units are within reach.

    Returns:
      An Algorithm whose carry's memory holds the traces, or the influences within reach, of each layer and example.

    Raises:
      InputError: when built, an invalid network or option, or a pattern that does not fit the network; in ``update``,
        whatever does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.indrnn(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> _, grads = jax.jit(rj.value_and_grad(rj.snap(network, segment=2)))(params, batch)
      >>> _, reference = jax.jit(rj.value_and_grad(rj.autodiff(network)))(params, batch)
      >>> rj.worst(rj.compare(grads, reference))[1] < 1e-5  # a unit of this cell reaches itself alone
      True

    Source: Menick et al., *A practical sparse approximation for real time recurrent learning*, ICLR (2021).
    """
    check_network(network)
    check_int(n, "n")
    check_option(inside, "inside", ("own", "full"))
    check_pattern(network, pattern)
    reaches = reaches_of(network, n, pattern)

    def init(params: Params, keys: Array) -> Any:
        zeros = segments.zero_blocks(network, params, (len(keys),))
        return tuple(
            trace if each is None else reach.init(cell, zero, each)
            for cell, trace, zero, each in zip(
                network.cells,
                traces.init(network, params, keys, inside, traces.own_weight),
                zeros,
                reaches,
                strict=True,
            )
        )

    def credit(segment: Segment, memory: Any, shared: Any) -> tuple[Any, Any, Any]:
        full = inside == "full"
        given: Sequence[traces.Error]
        given = traces.full_adjoints(segment) if full else traces.errors_at_the_same_step(segment)
        results = []
        for level, each in enumerate(reaches):
            error = given[level]
            if each is None:
                results.append(traces.credit_layer(segment, level, memory[level], error, traces.own_weight))
                continue
            if not isinstance(error, StepAdjoint):
                gradient, influence = reach.credit(segment, level, memory[level], error, None, each)
            else:
                start = jnp.stack(error.delta_s_prev, axis=1)
                gradient, influence = reach.credit(segment, level, memory[level], None, start, each)
                inner = traces.gradient(segment, level, error)
                gradient = jax.tree.map(jnp.add, inner, gradient)
            results.append((masked(gradient, pattern), influence))
        return tuple(gradient for gradient, _ in results), tuple(after for _, after in results), shared

    longest = max((each.units.shape[1] for each in reaches if each is not None), default=None)
    return by_segments(
        network, Rule(init, credit), claim_of(network, n, pattern, inside), longest if segment is None else segment
    )


def check_pattern(network: Network, pattern: Any) -> None:
    """Refuse a pattern that is not that of every layer with a matrix W."""
    if pattern is None:
        return
    dense = [H for cell, (_, H) in zip(network.cells, layer_sizes(network), strict=True) if cell.recurrence == "dense"]
    require(dense, "pattern", describe(pattern), "None, as there are no weights between units")
    require(isinstance(pattern, np.ndarray), "pattern", describe(pattern), "a NumPy array bool[H,H], or None")
    for H in dense:
        check_array(pattern, "pattern", (H, H), np.dtype(bool))


def reaches_of(network: Network, n: int, pattern: np.ndarray | None) -> tuple[Reach | None, ...]:
    """What each unit reaches, per layer; None where a trace of its own unit is all there is."""

    def of_layer(recurrence: str, H: int) -> Reach | None:
        if recurrence != "dense" or (n == 1 and pattern is None):
            return None
        return reach.reach_of(np.ones((H, H), bool) if pattern is None else pattern, n)

    sizes = layer_sizes(network)
    return tuple(of_layer(cell.recurrence, H) for cell, (_, H) in zip(network.cells, sizes, strict=True))


def masked(layer: Layer, pattern: np.ndarray | None) -> Layer:
    """The gradient of W where the pattern allows a weight, and zero elsewhere."""
    if pattern is None or layer.W is None:
        return layer
    H = len(pattern)
    kept = jnp.where(pattern[:, None], layer.W.reshape(H, -1, H), 0)
    return layer._replace(W=kept.reshape(layer.W.shape))


def claim_of(network: Network, n: int, pattern: np.ndarray | None, inside: Inside) -> Claim:
    """Exact for one layer of which nothing is left out."""
    if len(network.cells) > 1:
        return (
            Biased(one_segment, "one segment", across_windows=True)
            if inside == "full"
            else Biased(one_step, "one step")
        )
    if network.cells[0].recurrence != "dense" or (n > 1 and pattern is None):
        return Exact(across_windows=True)
    if pattern is not None:
        return Biased(all_weights, "all weights, n = 2", across_windows=True)
    if inside == "full":
        return Biased(one_segment, "one segment", across_windows=True)
    return Biased(without_other_units, "W without weights between units", across_windows=True)


def one_step(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """No credit through time."""
    return {"pattern": None}, params, traces.first_step(batch)


def one_segment(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """The full Jacobian everywhere."""
    return {"pattern": None, "segment": len(batch.xs)}, params, traces.one_segment(batch)


def all_weights(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """Every unit within reach."""
    return {"pattern": None, "n": 2}, params, batch


def without_other_units(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """Of W the weights of each unit to itself."""

    def own(layer: Layer) -> Layer:
        assert layer.W is not None
        H = len(layer.W)
        kept = layer.W.reshape(H, -1, H) * jnp.eye(H, dtype=layer.W.dtype)[:, None]
        return layer._replace(W=kept.reshape(layer.W.shape))

    return {}, params._replace(layers=tuple(own(layer) for layer in params.layers)), batch
