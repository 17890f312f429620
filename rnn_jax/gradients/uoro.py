"""Unbiased online recurrent optimisation: the influence as one outer product, kept unbiased by random signs."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.checks import check_function, check_network, layer_sizes
from rnn_jax.gradients import segments
from rnn_jax.gradients.kronecker import balance, choices, hadamard, norm
from rnn_jax.gradients.segments import Rule, Segment, by_segments
from rnn_jax.network import zero_states
from rnn_jax.types import Algorithm, Array, Layer, Network, Params, Unbiased


class Memory(NamedTuple):
    """What an example carries: ∂s/∂θ ≈ s̃ ⊗ θ̃."""

    s: Array
    """s̃, [B, N]."""
    theta: Any
    """θ̃, blocks [B, …]."""
    key: Array
    border: Array
    """How many borders it has crossed, int [B]."""


def uoro(network: Network, segment: int | None = None, signs: Callable[[Array], Array] | None = None) -> Algorithm:
    """Unbiased online recurrent optimisation (UORO) by segments.  Unbiased, for every cell and depth.

    The influence ∂s/∂θ of all N state values is estimated by one outer product s̃ ⊗ θ̃.  At the border of a segment,
    with its J = ∂s_end/∂s_start and Θ = ∂s_end/∂θ, and ν one random sign a state value:

        G += (BPTT of the segment)  +  (δs_start · s̃) θ̃
        s̃ ← ρ0 J s̃ + ρ1 ν          ρ0² = ‖θ̃‖ / ‖J s̃‖
        θ̃ ← θ̃ / ρ0 + νᵀ Θ / ρ1     ρ1² = ‖νᵀ Θ‖ / ‖ν‖

    J s̃ is the segment's tangent, and νᵀ Θ its reverse: 1.8 to 2.4 times the time of ``bptt`` in the benchmark.
    The memory is N + θ numbers an example.  Loss and gradient of the readout are exact; the variance of the others
    falls with the length of the segments.

    Choose it, with long segments, if the mean must be right, noise does no harm and memory is short.

    Args:
      network: what to differentiate.
      segment: steps per segment, any length; by default the whole window, so that credit crosses windows.
      signs: ``border -> ν [N]`` in place of random signs, for enumerating them.

    Returns:
      An Algorithm that draws random numbers.  Its carry's memory holds s̃ [B, N], θ̃ in blocks [B, …], and a key for
      each example.

    Raises:
      InputError: when built, an invalid network or segment, or ``signs`` that is no function; in ``update``, whatever
        does not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> tokens = jax.random.randint(jax.random.key(1), (7, 2), 0, 4)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> loss, grads = jax.jit(rj.value_and_grad(rj.uoro(network, segment=1)))(params, batch, key=jax.random.key(2))
      >>> exact_loss, exact = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
      >>> bool(abs(loss - exact_loss) < 1e-5)
      True
      >>> errors = rj.compare(grads, exact)
      >>> errors["V"].norm < 1e-5, errors["layers[0].W"].norm < 1e-5  # the readout is exact, W is noisy
      (True, False)

    Source: Tallec & Ollivier, *Unbiased online recurrent optimization*, ICLR (2018), whose segments are one step; with
    memory, as in their section on it, they are longer.
    """
    check_network(network)
    check_function(signs, "signs")

    def init(params: Params, keys: Array) -> Memory:
        B = len(keys)
        s = segments.flatten_state(zero_states(network, B, params.V.dtype))
        return Memory(s, segments.zero_blocks(network, params, (B,)), keys, jnp.zeros(B, jnp.int32))

    def credit(segment: Segment, memory: Memory, shared: Any) -> tuple[tuple[Layer, ...], Memory, Any]:
        gradients, delta_start = segments.reverse(segment)
        share = (segments.flatten_state(delta_start) * memory.s).sum(axis=1)
        credited = jax.tree.map(
            lambda theta: (share @ theta.reshape(len(share), -1)).reshape(theta.shape[1:]), memory.theta
        )
        gradients = jax.tree.map(lambda g, c: g + c.astype(g.dtype), gradients, segments.as_layers(segment, credited))

        keys = jax.vmap(jax.random.split)(memory.key)
        N = memory.s.shape[1]
        nu = (
            jax.vmap(lambda key: jax.random.rademacher(key, (N,), memory.s.dtype))(keys[:, 1])
            if signs is None
            else jax.vmap(signs)(memory.border).astype(memory.s.dtype)
        )
        pushed = segments.flatten_state(segments.push(segment, segments.unflatten_state(segment, memory.s)))
        theta_nu = segments.blocks(segment, segments.pull(segment, segments.unflatten_state(segment, nu))[0])
        rho0, kept = balance(norms(pushed), norms(memory.theta))
        rho1, added = balance(norms(nu), norms(theta_nu))
        s = weighted((rho0, pushed), (rho1, nu))
        theta = jax.tree.map(lambda old, new: weighted((kept, old), (added, new)), memory.theta, theta_nu)
        return gradients, Memory(s, theta, keys[:, 0], memory.border + 1), shared

    claim = Unbiased(enumerate_signs, steps=12 // (1 + math.ceil(math.log2(count_states(network, 2)))))
    return by_segments(network, Rule(init, credit), claim, segment)


def norms(tree: Any) -> Array:
    """The norm of each row of a tree, over all its leaves, in float32 at least."""
    leaves = [norm(a.reshape(len(a), -1), (1,)) for a in jax.tree.leaves(tree)]
    return norm(jnp.stack(leaves), (0,))


def weighted(*terms: tuple[Array, Array]) -> Array:
    """The sum of arrays [B, …], each times a number a row, added up in the numbers' dtype."""
    total = sum(numbers.reshape(-1, *(1,) * (a.ndim - 1)) * a.astype(numbers.dtype) for numbers, a in terms)
    return jnp.asarray(total, terms[0][1].dtype)


def count_states(network: Network, H: int | None = None) -> int:
    """N, the state values of all layers; of layers of H units, if it is given."""
    sizes = [H or size for _, size in layer_sizes(network)]
    return sum(len(cell.states) * size for cell, size in zip(network.cells, sizes, strict=True))


def enumerate_signs(network: Network, T: int, B: int) -> tuple[Callable[[Array], dict[str, Any]], Array]:
    """All choices, at T borders, among the rows of ± a Hadamard matrix: their mean is that over all signs."""
    rows = hadamard(count_states(network))
    table = jnp.asarray(np.concatenate([rows, -rows]))
    return lambda outcome: {"segment": 1, "signs": lambda border: table[outcome[border]]}, choices(len(table), T)
