"""e-prop: eligibility traces of each unit's own memory, and errors by feedback weights."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from rnn_jax.checks import layer_sizes, require
from rnn_jax.gradients import traces
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.types import Algorithm, Array, Batch, Biased, Claim, Exact, Layer, Network, Params

Feedback = Literal["symmetric", "random"]


def eprop(network: Network, feedback: Feedback = "symmetric", segment: int | None = None) -> Algorithm:
    """e-prop: eligibility traces that pass through a unit's own memory, and not through W.  Biased.

    The Jacobian that it lets through is A, the unit's memory outside of its recurrent weights: a leak, a forget gate
    (``traces.py`` has the equations).  The error reaches a layer through the readout's own weights, or straight from
    δo_t by fixed random ones, one B [K, H] a layer.  Exact for one layer where W = 0 and the feedback is symmetric.
    Time is that of ``bptt``, 1 to 2 times; memory is one number a parameter, state value of its unit and example.

    Args:
      network: what to differentiate.
      feedback: "symmetric", Vᵀ and the layers above, at the same step; "random", normal weights of variance 1 / K.
      segment: steps per segment, any length; it changes time and rounding alone; by default the whole window.

    Raises:
      InputError: when built, a network, a segment or a feedback that cannot be served; in ``update``, whatever does
        not fit it.

    Source: Bellec et al., *A solution to the learning dilemma for recurrent networks of spiking neurons*, Nature
    Communications 11 (2020).
    """
    require(feedback in ("symmetric", "random"), "feedback", repr(feedback), '"symmetric" or "random"')

    def init(params: Params, keys: Array) -> Any:
        return traces.init(network, params, keys)

    def shared(params: Params, key: Array) -> Any:
        if feedback == "symmetric":
            return ()
        keys, K = jax.random.split(key, len(network.cells)), params.V.shape[1]
        weights = (
            jax.random.normal(each, (K, H)) / K**0.5 for each, (_, H) in zip(keys, layer_sizes(network), strict=True)
        )
        return tuple(each.astype(params.V.dtype) for each in weights)

    def credit(segment: Segment, memory: Any, weights: Any) -> tuple[Any, Any, Any]:
        errors = (
            traces.errors_at_the_same_step(segment)
            if feedback == "symmetric"
            else [segment.delta_os.astype(B.dtype) @ B for B in weights]
        )
        return *traces.credit(segment, memory, errors, traces.no_weight), weights

    return by_segments(network, Rule(init, credit, shared), claim_of(network, feedback), segment)


def claim_of(network: Network, feedback: Feedback) -> Claim:
    """Exact for one layer without W, if the errors are."""
    if len(network.cells) > 1:
        return Biased(one_step, "one step, symmetric feedback")
    if network.cells[0].recurrence == "none" and feedback == "symmetric":
        return Exact(across_windows=True)
    return Biased(without_w, "W = 0, symmetric feedback", across_windows=True)


def rflo(network: Network, segment: int | None = None) -> Algorithm:
    """Random-feedback online learning: ``eprop`` with random feedback, of leaky Elman cells.  Biased.

    Raises:
      InputError: as ``eprop``; a cell that has no leak.

    Source: Murray, *Local online learning in recurrent networks with random feedback*, eLife 8 (2019).
    """
    return eprop(network, "random", segment)


def without_w(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """No unit reads the past but by its own memory."""

    def cut(layer: Layer) -> Layer:
        return layer._replace(W=None if layer.W is None else jnp.zeros_like(layer.W))

    return {"feedback": "symmetric"}, params._replace(layers=tuple(cut(layer) for layer in params.layers)), batch


def one_step(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """No credit through time."""
    return {"feedback": "symmetric"}, params, traces.first_step(batch)
