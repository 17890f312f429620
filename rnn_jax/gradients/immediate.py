"""The immediate derivative alone: no credit through time, and no memory."""

from typing import Any

from rnn_jax.gradients import traces
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.types import Algorithm, Array, Batch, Biased, Network, Params


def immediate(network: Network) -> Algorithm:
    """The gradient with h_{t−1} held constant: the cheapest baseline, with no memory at all.  Biased.

    δh_t is the error of step t alone, so that nothing walks back in time:

        G += Σ_t u_tᵀ (e_t ∂h_t/∂z_t)          u_t = [h_{t−1}, x_t, 1], the features of [W; U; b]

    Exact where there is one step.  Less time than ``bptt``, and no state but the recurrent one.

    Choose it as the baseline.  A rule that does not beat it does not use what it carries.

    Args:
      network: what to differentiate.

    Returns:
      An Algorithm whose carry is the recurrent state alone.

    Raises:
      InputError: when built, an invalid network; in ``update``, whatever does not fit it.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.gru(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> _, grads = jax.jit(rj.value_and_grad(rj.immediate(network)))(params, batch)
      >>> _, others = jax.jit(rj.value_and_grad(rj.truncated(network, history=1, every=1)))(params, batch)
      >>> rj.worst(rj.compare(grads, others))[1] < 1e-5
      True

    Source: the baseline of Marschall, Cho & Savin, *A unified framework of online learning algorithms for training
    recurrent neural networks*, Journal of Machine Learning Research 21 (2020).
    """

    def credit(segment: Segment, memory: Any, shared: Any) -> tuple[Any, Any, Any]:
        errors = traces.errors_at_the_same_step(segment)
        adjoints = [traces.adjoint_at_the_same_step(segment, level, error) for level, error in enumerate(errors)]
        return tuple(traces.gradient(segment, level, each) for level, each in enumerate(adjoints)), memory, shared

    return by_segments(network, Rule(no_memory, credit), Biased(one_step, "one step"))


def no_memory(params: Params, keys: Array) -> tuple[()]:
    """Nothing."""
    return ()


def one_step(network: Network, params: Params, batch: Batch) -> tuple[dict[str, Any], Params, Batch]:
    """No credit through time."""
    return {}, params, traces.first_step(batch)
