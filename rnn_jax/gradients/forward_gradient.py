"""Forward gradients: the derivative along one random direction, carried forward in time."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnn_jax.checks import check_function, check_int, check_network, check_option
from rnn_jax.gradients import segments
from rnn_jax.gradients.kronecker import hadamard
from rnn_jax.gradients.segments import Blocks, Rule, Segment, by_segments
from rnn_jax.network import init as init_params
from rnn_jax.network import zero_states
from rnn_jax.precision import accumulation_dtype
from rnn_jax.types import Algorithm, Array, Layer, Network, Params, Unbiased

Noise = Literal["normal", "rademacher"]


class Memory(NamedTuple):
    """What an example carries: the derivative of its state along each of R directions."""

    ds: Array
    """ṡ, [B, R, N]."""
    v: tuple[Blocks, ...]
    """The directions, blocks [B, R, …]."""
    key: Array
    draw: Array
    """How many times its directions were drawn again, int [B]."""


def forward_gradient(
    network: Network,
    directions: int = 1,
    noise: Noise = "normal",
    segment: int | None = None,
    signs: Callable[[Array], Array] | None = None,
) -> Algorithm:
    """Forward gradient: the derivative of the loss along random directions v, times v.  Unbiased, any cell and depth.

    Each example has directions v of its own, with independent elements of mean 0 and variance 1, so that E[v vᵀ] = I.
    The tangent ṡ of the state goes forward, and nothing walks back (e_t is ∂ℓ_t/∂s_t):

        ṡ_t = (∂s_t/∂s_{t−1}) ṡ_{t−1} + (∂s_t/∂θ) v
        G += (Σ_t e_t · ṡ_t) v                           the mean over the R directions

    An example's directions stay the same from window to window, and are drawn anew at its resets alone.  New ones in
    every window would estimate truncated BPTT.  The readout needs no direction: its gradient is exact.

    For θ parameters of the layers the relative variance is (θ + 1) / R, with Rademacher signs (θ − 1) / R.  A step
    takes O(R θ) for each example, since v is its own: with one direction 1.1 to 1.4 times ``bptt`` in the benchmark.
    The memory is R (θ + N) numbers an example, whatever the length of the sequence.  A segment runs once more for each
    reset of the example that has most of them.

    Choose it as a baseline, for few parameters or many examples: its noise grows with θ.

    Args:
      network: what to differentiate.
      directions: R, one or more.
      noise: "normal"; or "rademacher", random signs, whose variance is a little smaller.
      segment: steps per segment, any length; it changes time and rounding alone; by default the whole window.
      signs: ``draw -> v [θ]`` in place of random numbers, for enumerating them.

    Returns:
      An Algorithm that draws random numbers.  Its carry's memory holds ṡ [B, R, N], v in blocks [B, R, …], and a key
      for each example.

    Raises:
      InputError: when built, an invalid network, number of directions, noise or segment, or ``signs`` that is no
        function; in ``update``, whatever does not fit the network.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 1), 0, 4)  # [T + 1, B], one example
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> algorithm = rj.forward_gradient(network, noise="rademacher")
      >>> _, grads = jax.jit(rj.value_and_grad(algorithm))(params, batch)
      >>> sizes = jnp.abs(jnp.concatenate([grads.layers[0].W, grads.layers[0].U]))
      >>> bool(jnp.ptp(sizes) < 1e-6)  # one slope, times a sign for each parameter
      True

    Source: Baydin et al., *Gradients without backpropagation*, arXiv:2202.08587 (2022); through time: Silver et al.,
    *Learning by directional gradient descent*, ICLR (2022).
    """
    check_network(network)
    check_function(signs, "signs")
    check_int(directions, "directions")
    check_option(noise, "noise", get_args(Noise))

    def drawn(like: Any, key: Array, draw: Array) -> Any:
        """The directions of one example, [R, …]."""
        leaves, structure = jax.tree.flatten(like)
        sizes = [leaf[0].size for leaf in leaves]
        shape, dtype = (directions, sum(sizes)), leaves[0].dtype
        sample = jax.random.normal if noise == "normal" else jax.random.rademacher
        flat = sample(key, shape, dtype) if signs is None else jnp.repeat(signs(draw)[None], directions, axis=0)
        parts = jnp.split(flat.astype(dtype), [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)], axis=1)
        shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)

    def init(params: Params, keys: Array) -> Memory:
        B = len(keys)
        ds = segments.flatten_state(zero_states(network, B, params.V.dtype))
        like, draw = segments.zero_blocks(network, params, (directions,)), jnp.zeros(B, jnp.int32)
        keys = jax.vmap(jax.random.split)(keys)
        v = jax.vmap(lambda key, draw: drawn(like, key, draw))(keys[:, 1], draw)
        return Memory(jnp.repeat(ds[:, None], directions, axis=1), v, keys[:, 0], draw)

    def draw_again(memory: Memory, rows: Array) -> Memory:
        def of_example(again: Array, v: Any, key: Array, draw: Array) -> Any:
            def new() -> Any:
                kept, used = jax.random.split(key)
                return drawn(v, used, draw + 1), kept, draw + 1

            return lax.cond(again, new, lambda: (v, key, draw))

        # On a CPU example by example, since drawing takes longer than a step, and few examples have a reset at once.
        v, key, draw = lax.platform_dependent(
            rows, memory.v, memory.key, memory.draw,
            cpu=lambda *batch: lax.map(lambda one: of_example(*one), batch),
            default=jax.vmap(of_example),
        )  # fmt: skip
        return Memory(memory.ds, v, key, draw)

    def credit(segment: Segment, memory: Memory, shared: Any) -> tuple[tuple[Layer, ...], Memory, Any]:
        # Between two resets an example has one direction: in each stretch its steps are run along that one.
        stretch, start = segments.stretches(segment.steps), memory.ds

        def along(number: Array | int, memory: Memory) -> tuple[Any, Memory]:
            """The share of the steps in this stretch of each example, and ṡ at the end of the segment."""
            ds, slopes = jax.vmap(lambda ds, v: tangent(segment, ds, v), 1, (1, 2))(start, memory.v)
            slopes = jnp.where((stretch == number)[..., None], slopes, 0).sum(axis=0) / directions
            return jax.tree.map(lambda v: weighted_sum(slopes, v), memory.v), memory._replace(ds=ds)

        total, after = along(0, memory)
        if segment.steps.reset is not None:

            def step(number: Array, carried: Any) -> Any:
                total, before = carried
                share, after = along(number, draw_again(before, stretch[-1] >= number))
                return jax.tree.map(jnp.add, total, share), after

            total, after = lax.fori_loop(1, stretch.max() + 1, step, (total, after))
        return segments.as_layers(segment, total), after, shared

    return by_segments(network, Rule(init, credit), Unbiased(enumerate_signs), segment)


def tangent(segment: Segment, ds: Array, v: tuple[Blocks, ...]) -> tuple[Array, Array]:
    """``(ṡ at the end [B, N], e_t · ṡ_t of every step [n, B])`` along one direction an example."""
    ds_end, dhs = segments.tangents(segment, segments.unflatten_state(segment, ds), v)
    sums = accumulation_dtype(dhs.dtype)
    return segments.flatten_state(ds_end), (segment.delta_hs.astype(sums) * dhs.astype(sums)).sum(axis=-1)


def weighted_sum(slopes: Array, v: Array) -> Array:
    """Σ of slope times direction, [B, R] and [B, R, …], over both axes."""
    rows = v.reshape(slopes.size, -1).astype(slopes.dtype)
    return (slopes.reshape(-1) @ rows).reshape(v.shape[2:])


def enumerate_signs(network: Network, T: int, B: int) -> tuple[Callable[[Array], dict[str, Any]], Array]:
    """The rows of a Hadamard matrix, another one for each draw: the mean of v vᵀ is I, as over all signs."""
    params = jax.eval_shape(lambda key: init_params(network, key), jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params.layers))
    table = jnp.asarray(hadamard(count))
    rows = jnp.asarray(np.arange(len(table), dtype=np.int32))
    return lambda outcome: {"signs": lambda draw: table[(outcome + draw) % len(table)]}, rows
