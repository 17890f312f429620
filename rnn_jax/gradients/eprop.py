"""e-prop: eligibility traces of each unit's own memory, and errors by feedback weights."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from rnn_jax import ops
from rnn_jax.checks import check_network, check_number, check_option, layer_sizes, require
from rnn_jax.gradients import traces
from rnn_jax.gradients.collectives import sum_over_batch
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.gradients.traces import Inside
from rnn_jax.losses import total_weight
from rnn_jax.trajectory import hidden_states
from rnn_jax.types import Algorithm, Array, Batch, Biased, Claim, Exact, Layer, Network, Params

Feedback = Literal["symmetric", "random", "adaptive"]


def eprop(
    network: Network,
    feedback: Feedback = "symmetric",
    inside: Inside = "own",
    segment: int | None = None,
    rate: float = 0.01,
    decay: float = 0.0,
) -> Algorithm:
    """e-prop: eligibility traces that pass through a unit's own memory, and not through W.  Biased.

    The Jacobian that it lets through is A, the unit's memory outside of its recurrent weights: a leak, a forget gate.
    A trace E for each parameter goes forward, and meets the error e_t of the step:

        E ← A_t E + ∂s_t/∂θ                  of a unit's parameters on its own state
        G += e_t E                           e_t = δo_t Vᵀ, or δo_t F

    The error reaches a layer through the readout's own weights (and the layers above, at the same step), or straight
    from δo_t by weights of the layer's own, F [K, H].  By segments the same numbers come from the hand-written reverse
    (``traces.py``).  Exact for one layer where W = 0 and the feedback is symmetric.  Adaptive feedback learns as a
    readout of its layer would, once a window, after use:

        F ← (1 − decay) F − rate · Σ_t δo_tᵀ h_t / (the sum of the weights)

    For the highest layer the sum is dVᵀ: where SGD trains V with this rate and decay, each step multiplies F − Vᵀ by 1
    − decay.

    With ``inside="full"`` the error walks back through the full Jacobian of a segment, W included, and the layers above
    where the feedback is symmetric; the trace crosses the segment's border.  Time is 0.8 to 1.8 times that of
    ``bptt``; memory is one number a parameter, example and state value of its unit that the next step sees other than
    through W.  A plain Elman unit has none, and there e-prop is ``immediate``; with ``inside="full"`` what W sees
    counts too.

    Choose it as a model of learning in brains, with feedback weights; and with ``inside="full"`` in place of truncation
    by windows.

    Args:
      network: what to differentiate.
      feedback: "symmetric", Vᵀ and the layers above, at the same step; "random", fixed normal weights of variance 1 /
        K; "adaptive", which start so and are learned.
      inside: "own", the rule's Jacobian everywhere; "full", the full one inside of a segment.
      segment: steps per segment, any length; with ``inside="own"`` it changes time and rounding alone; by default the
        whole window, as adaptive feedback needs it.
      rate: of adaptive feedback, that of V.
      decay: of adaptive feedback, that of V.

    Returns:
      An Algorithm whose carry's memory holds the traces of each layer and example, and whose ``shared`` holds F of each
      layer, if there are such weights.  They are drawn with the key.

    Raises:
      InputError: when built, an invalid network or option, or a segment with adaptive feedback; in ``update``, whatever
        does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.min_gru(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> _, grads = jax.jit(rj.value_and_grad(rj.eprop(network, segment=2)))(params, batch)
      >>> _, exact = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
      >>> rj.worst(rj.compare(grads, exact))[1] < 1e-5  # one layer without W
      True

    Source: Bellec et al., *A solution to the learning dilemma for recurrent networks of spiking neurons*, Nature
    Communications 11 (2020); adaptive feedback is Kolen & Pollack, *Backpropagation without weight transport*, ICNN
    (1994).
    """
    check_network(network)
    check_option(feedback, "feedback", ("symmetric", "random", "adaptive"))
    check_option(inside, "inside", ("own", "full"))
    require(segment is None or feedback != "adaptive", "segment", segment, "None, as feedback is learned once a window")
    check_number(rate, "rate", 0, math.inf, "a number, 0 or more")
    check_number(decay, "decay", 0, 1, "a number in [0, 1]")

    def init(params: Params, keys: Array) -> Any:
        return traces.init(network, params, keys, inside, traces.no_weight)

    def shared(params: Params, key: Array) -> Any:
        if feedback == "symmetric":
            return ()
        keys, K = jax.random.split(key, len(network.cells)), params.V.shape[1]
        sizes = zip(keys, layer_sizes(network), strict=True)
        weights = (jax.random.normal(each, (K, H)) / K**0.5 for each, (_, H) in sizes)
        return tuple(each.astype(params.V.dtype) for each in weights)

    def credit(segment: Segment, memory: Any, weights: Any) -> tuple[Any, Any, Any]:
        errors = None if feedback == "symmetric" else [segment.delta_os.astype(F.dtype) @ F for F in weights]
        given: Sequence[traces.Error]
        if inside == "full":
            given = traces.full_adjoints(segment, errors)
        else:
            given = traces.errors_at_the_same_step(segment) if errors is None else errors
        gradients, memory = traces.credit(segment, memory, given, traces.no_weight)
        return gradients, memory, learned(segment, weights, rate, decay) if feedback == "adaptive" else weights

    return by_segments(network, Rule(init, credit, shared), claim_of(network, feedback, inside), segment)


def learned(segment: Segment, weights: tuple[Array, ...], rate: float, decay: float) -> tuple[Array, ...]:
    """The feedback weights after a window; where no step counts, as they were."""
    hs = [hidden_states(each, 1, len(segment.delta_hs)) for each in segment.trajectories]
    sums = [ops.sum_outer_products(segment.delta_os, each) for each in hs]
    sums, weight = sum_over_batch((sums, total_weight(segment.steps)))
    seen = weight > 0

    def step(F: Array, dF: Array) -> Array:
        new = (1 - decay) * F.astype(dF.dtype) - rate * dF / jnp.where(seen, weight, 1).astype(dF.dtype)
        return jnp.where(seen, new.astype(F.dtype), F)

    return tuple(step(F, dF) for F, dF in zip(weights, sums, strict=True))


def claim_of(network: Network, feedback: Feedback, inside: Inside) -> Claim:
    """Exact for one layer without W, if the errors are."""
    symmetric = feedback == "symmetric"
    if len(network.cells) == 1 and network.cells[0].recurrence == "none" and symmetric:
        return Exact(across_windows=True)
    if inside == "full":
        return Biased(one_segment, "one segment, symmetric feedback", across_windows=True)
    if len(network.cells) > 1:
        return Biased(one_step, "one step, symmetric feedback")
    return Biased(without_w, "W = 0, symmetric feedback", across_windows=True)


def rflo(
    network: Network, feedback: Feedback = "random", inside: Inside = "own", segment: int | None = None
) -> Algorithm:
    """Random-feedback online learning: ``eprop`` with random feedback, published for leaky Elman cells.  Biased.

    For such a cell with the leak α, the features u_t = [h_{t−1}, x_t, 1] of [W; U; b], and feedback weights F [K, H]
    that are drawn once:

        E ← (1 − α) E + α u_tᵀ φ'(z_t)
        G += E (δo_t F)                        of each unit its own column of E and element of δo_t F

    Any other cell has the trace of ``eprop``.  Time is 0.8 to 1.5 times that of ``bptt``; memory is as for ``eprop``:
    one number a parameter and example for a leaky Elman cell, and none for a plain one.

    Choose it as a model of learning in brains, with feedback weights.

    Args:
      network: what to differentiate.
      feedback: "random", fixed normal weights of variance 1 / K; "symmetric" or "adaptive" as in ``eprop``.
      inside: "own", the rule's Jacobian everywhere; "full", the full one inside of a segment.
      segment: steps per segment, any length; with ``inside="own"`` it changes time and rounding alone; by default the
        whole window, as adaptive feedback needs it.

    Returns:
      An Algorithm whose carry's memory holds the traces E of each layer and example, and whose ``shared`` holds F of
      each layer.  They are drawn with the key.

    Raises:
      InputError: as ``eprop``.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> cells = (rj.elman(leak=0.5),)
      >>> network = rj.Network(cells, inputs=4, hidden=3, outputs=5, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> init, update, _ = rj.rflo(network)
      >>> carry = init(params, batch_size=2, key=jax.random.key(2))
      >>> after, _ = update(params, carry, rj.Batch(xs=tokens[:-1], ys=tokens[1:]))
      >>> (F,), (F_after,) = carry.shared, after.shared
      >>> F.shape, bool((F == F_after).all())  # random, and then fixed
      ((5, 3), True)

    Source: Murray, *Local online learning in recurrent networks with random feedback*, eLife 8 (2019).
    """
    return eprop(network, feedback, inside, segment)


def without_w(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """No unit reads the past but by its own memory."""

    def cut(layer: Layer) -> Layer:
        return layer._replace(W=None if layer.W is None else jnp.zeros_like(layer.W))

    return {"feedback": "symmetric"}, params._replace(layers=tuple(cut(layer) for layer in params.layers)), batch


def one_step(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """No credit through time."""
    return {"feedback": "symmetric"}, params, traces.first_step(batch)


def one_segment(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """The full Jacobian everywhere."""
    return {"feedback": "symmetric", "segment": None}, params, traces.one_segment(batch)
