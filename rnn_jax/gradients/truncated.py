"""Rolling truncated BPTT: every few steps, the newest losses walk back over a history of fixed length."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rnn_jax.checks import check_int, check_network, require
from rnn_jax.gradients import segments
from rnn_jax.gradients.history import append, before, empty
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.types import Algorithm, Array, Batch, Biased, Layer, Network, Params


def truncated(network: Network, history: int = 16, every: int = 8) -> Algorithm:
    """Truncated BPTT(h; h′), rolling: after every h′ steps the losses of these walk back over the last h.  Biased.

    Each loss is credited once, at the next border; borders are after every h′ steps of a window, and at its end.  The
    walk goes back over the last h steps, the current one included, those of earlier windows too::

        δs_t = Σ_i (∂s_i/∂s_t)ᵀ e_i         i: the steps since the last border
        G += Σ_t (∂s_t/∂θ)ᵀ δs_t             t: the last h steps

    So a loss reaches h − h′ + 1 … h steps.  Exact where h is the length of the sequence; (1, 1) is ``immediate``, and
    h = h′ is BPTT by windows of h steps.  Choose it for training online, where windows are shorter than what must be
    remembered.  The reverse takes h / h′ times that of ``bptt``, O(H²) a step.  The memory is the states and inputs of
    h − 1 steps an example, whatever the length of the sequence; a token takes D numbers, as many as the vocabulary.
    States from earlier windows are used as they were, by the weights of that time.

    Args:
      network: what to differentiate.
      history: h, the number of steps to walk back over.
      every: h′, after how many steps; h at most.

    Raises:
      InputError: when built, a network or numbers that cannot be served; in ``update``, whatever does not fit it.

    Source: Williams & Peng, *An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories*, Neural Computation 2 (1990).
    """
    check_network(network)
    check_int(history, "history")
    check_int(every, "every")
    require(every <= history, "every", every, f"history, {history}, at most")

    def init(params: Params, keys: Array) -> Any:
        return empty(network, params, len(keys), history - 1) if history > 1 else ()

    def credit(segment: Segment, memory: Any, shared: Any) -> tuple[tuple[Layer, ...], Any, Any]:
        gradients, delta_start = segments.reverse(segment)
        if not memory:
            return gradients, memory, shared
        n = len(segment.delta_hs)
        if n < history:
            earlier, _ = segments.reverse(before(segment, memory, history - n), delta_start)
            gradients = jax.tree.map(jnp.add, gradients, earlier)
        return gradients, append(memory, segment), shared

    claim = Biased(partial(whole_history, every=every), "a history as long as the sequence", across_windows=True)
    return by_segments(network, Rule(init, credit), claim, every)


def whole_history(network: Network, params: Params, batch: Batch, every: int) -> tuple[dict[str, Any], Params, Batch]:
    """All steps."""
    return {"history": max(len(batch.xs), every), "every": every}, params, batch
