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
    """Truncated BPTT(h; h′), rolling: after every h′ steps, their losses are propagated back over the last h steps.

    Each loss is credited once, at the next border; borders are after every h′ steps of a window, and at its end.  The
    walk goes back over the last h steps, the current one included, those of earlier windows too:

        δs_t = Σ_i (∂s_i/∂s_t)ᵀ e_i         i: the steps since the last border
        G += Σ_t (∂s_t/∂θ)ᵀ δs_t             t: the last h steps

    So a loss reaches h − h′ + 1 … h steps.  Biased; exact where h is the length of the sequence.  (1, 1) is
    ``immediate``, and h = h′ is BPTT by windows of h steps.  The reverse takes h / h′ times that of ``bptt``, O(H²) a
    step.  The memory is the states, residuals and inputs of h − 1 steps an example, whatever the length of the
    sequence; a token takes D numbers, as many as the vocabulary.  States from earlier windows are used as they were, by
    the weights of that time.

    Choose it if you know how far back credit must reach, for training online: an update every h′ steps, with credit
    over h steps, where windows are shorter than what must be remembered.

    Args:
      network: what to differentiate.
      history: h, the number of steps to walk back over.
      every: h′, after how many steps; h at most.

    Returns:
      An Algorithm whose carry's memory holds states, residuals and inputs of the last h − 1 steps of each example.

    Raises:
      InputError: when built, an invalid network, history or every; in ``update``, whatever does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> _, grads = jax.jit(rj.value_and_grad(rj.truncated(network, history=6, every=2)))(params, batch)
      >>> _, exact = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
      >>> rj.worst(rj.compare(grads, exact))[1] < 1e-5  # the history is as long as the sequence
      True

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
