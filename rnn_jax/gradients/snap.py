"""The sparse n-step approximation of RTRL with n = 1: each parameter's influence on its own unit alone."""

from typing import Any

import jax.numpy as jnp

from rnn_jax.gradients import traces
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.types import Algorithm, Array, Batch, Biased, Claim, Exact, Layer, Network, Params


def snap(network: Network, segment: int | None = None) -> Algorithm:
    """SnAp-1: of the influence ∂s/∂θ each parameter keeps that on its own unit.  Biased; exact without W between units.

    The Jacobian that it lets through is a unit's own, A + Q w_jj, with the unit's own weight w_jj of each gate
    (``traces.py`` has the equations).  For one layer whose recurrence is diagonal or none this is RTRL at the cost of
    BPTT: then the claim is Exact, across windows of any lengths.  Time is that of ``bptt``, 1 to 2 times; memory is one
    number a parameter, state value of its unit and example.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; it changes time and rounding alone; by default the whole window.

    Raises:
      InputError: when built, a network or a segment that cannot be served; in ``update``, whatever does not fit it.

    Source: Menick et al., *A practical sparse approximation for real time recurrent learning*, ICLR (2021).
    """

    def init(params: Params, keys: Array) -> Any:
        return traces.init(network, params, keys)

    def credit(segment: Segment, memory: Any, shared: Any) -> tuple[Any, Any, Any]:
        return *traces.credit(segment, memory, traces.errors_at_the_same_step(segment), traces.own_weight), shared

    return by_segments(network, Rule(init, credit), claim_of(network), segment)


def claim_of(network: Network) -> Claim:
    """Exact for one layer without weights between units."""
    if len(network.cells) > 1:
        return Biased(one_step, "one step")
    if network.cells[0].recurrence != "dense":
        return Exact(across_windows=True)
    return Biased(without_other_units, "W without weights between units", across_windows=True)


def one_step(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """No credit through time."""
    return {}, params, traces.first_step(batch)


def without_other_units(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """Of W the weights of each unit to itself."""

    def own(layer: Layer) -> Layer:
        assert layer.W is not None
        H = len(layer.W)
        kept = layer.W.reshape(H, -1, H) * jnp.eye(H, dtype=layer.W.dtype)[:, None]
        return layer._replace(W=kept.reshape(layer.W.shape))

    return {}, params._replace(layers=tuple(own(layer) for layer in params.layers)), batch
