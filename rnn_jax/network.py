"""The network whose gradient everything computes: stacked recurrent layers, a linear readout and a loss.

``h^l_t`` of layer l is the input of layer l+1; the readout is ``o_t = h_t V + c`` on the highest one; the loss is the
sum ``L = Σ_t Σ_b w_t ℓ(o_t)`` over the steps that count, with weights w_t of 1 unless the batch gives others.
"""

import math
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from rnn_jax import checks, stack
from rnn_jax.losses import weighted_losses
from rnn_jax.ops import affine
from rnn_jax.precision import accumulation_dtype
from rnn_jax.recurrence import zero_state
from rnn_jax.types import Array, Batch, Cell, Layer, Network, Params, State

Recurrent = Literal["uniform", "orthogonal", "identity"]


def init(
    network: Network, key: Array, recurrent: Recurrent = "uniform", dtype: jnp.dtype | type = jnp.float32
) -> Params:
    """Draw the parameters of a network.

    U is uniform in ±1/√D, V and W in ±1/√H; biases are zero, but for the cell's own values (an LSTM's forget gate
    starts at 1).

    Args:
      key: a PRNG key.
      recurrent: W uniform as above; or "orthogonal", each gate's block drawn from the orthogonal group (the norm of h
        is kept through time); or "identity", each block the identity (Le, Jaitly & Hinton 2015).
      dtype: float64, float32 or bfloat16.

    Raises:
      InputError: a network, an option or a dtype that cannot be served.
    """
    checks.check_network(network)
    checks.check_key(key, "key")
    checks.check_option(recurrent, "recurrent", get_args(Recurrent))
    checks.check_dtype(dtype, "dtype")
    *layer_keys, V_key = jax.random.split(key, len(network.cells) + 1)
    sizes = checks.layer_sizes(network)
    layers = tuple(
        _init_layer(cell, layer_key, D, H, recurrent, dtype)
        for cell, layer_key, (D, H) in zip(network.cells, layer_keys, sizes, strict=True)
    )
    _, H = sizes[-1]
    V = _uniform(V_key, (H, network.outputs), H, dtype)
    return Params(layers, V, jnp.zeros(network.outputs, dtype))


def init_layer(
    cell: Cell,
    key: Array,
    inputs: int,
    hidden: int,
    recurrent: Recurrent = "uniform",
    dtype: jnp.dtype | type = jnp.float32,
) -> Layer:
    """Draw the parameters of one layer, as ``init`` does, for ``unroll`` in a model of your own.

    Args:
      cell: ``elman()``, ``lstm()``, ``gru()`` or one of your own.
      key: a PRNG key.
      inputs: D, the width of x_t or the size of the vocabulary.
      hidden: H.
      recurrent, dtype: as in ``init``.

    Raises:
      InputError: a cell, a size, an option or a dtype that cannot be served.
    """
    checks.check_cell(cell, "cell")
    for name, size in (("inputs", inputs), ("hidden", hidden)):
        checks.check_int(size, name)
    checks.check_key(key, "key")
    checks.check_option(recurrent, "recurrent", get_args(Recurrent))
    checks.check_dtype(dtype, "dtype")
    return _init_layer(cell, key, inputs, hidden, recurrent, dtype)


def initial_state(network: Network, params: Params, batch_size: int) -> State:
    """The zero state: per layer, S arrays [B, H] of the parameters' dtype."""
    checks.check_network(network)
    checks.check_params(network, params)
    checks.check_int(batch_size, "batch_size")
    return zero_states(network, batch_size, params.V.dtype)


def zero_states(network: Network, batch_size: int, dtype: jnp.dtype) -> State:
    """The zero state of a valid network."""
    sizes = checks.layer_sizes(network)
    return tuple(zero_state(cell, batch_size, H, dtype) for cell, (_, H) in zip(network.cells, sizes, strict=True))


def apply(
    network: Network,
    params: Params,
    state: State,
    xs: Array,
    mask: Array | None = None,
    reset: Array | None = None,
) -> tuple[Array, State]:
    """Run the network over a window: the logits ``os`` [T, B, K] and the state after it.

    Plain JAX: ``jax.grad`` through it is autodiff, not the hand-written reverse.

    Args:
      state: as from ``initial_state`` or an earlier window.
      xs: int tokens [T, B] or floats [T, B, D].
      mask, reset: bool [T, B] or None.

    Raises:
      InputError: parameters, state or inputs that do not fit the network.
    """
    checks.check_network(network)
    checks.check_params(network, params)
    _, B = checks.check_inputs(xs, network.inputs, params.V.dtype)
    checks.check_flags(mask, reset, xs, network.inputs)
    checks.check_state(network, state, B, params.V.dtype)
    hs, state = stack.forward(network, params, state, xs, mask, reset)
    return affine(hs, params.V, params.c), state


def readout(params: Params, hs: Array) -> Array:
    """The logits o = h V + c of any leading axes."""
    checks.require(isinstance(params, Params), "params", checks.describe(params), "the Params of a network")
    checks.check_array(params.V, "params.V", ("H", "K"), "float")
    (H, K), dtype = params.V.shape, params.V.dtype
    checks.check_array(params.c, "params.c", (K,), dtype)
    checks.check_rows(hs, "hs", H, dtype)
    return affine(hs, params.V, params.c)


def loss(network: Network, params: Params, state: State, batch: Batch) -> tuple[Array, State]:
    """The loss of a window, the weighted sum over the steps that count and the batch, and the state after it.

    Plain JAX, so that ``jax.grad`` of it is the reference for every hand-written gradient.

    Raises:
      InputError: a batch, parameters or state that do not fit the network.
    """
    checks.check_network(network)
    checks.check_window(network, params, state, batch)
    return window_loss(network, params, state, batch)


def window_loss(network: Network, params: Params, state: State, batch: Batch) -> tuple[Array, State]:
    """``loss`` of arguments that are known to fit."""
    hs, state = stack.forward(network, params, state, batch.xs, batch.mask, batch.reset)
    os = affine(hs, params.V, params.c)
    return weighted_losses(network.loss, os, batch.ys, batch.mask, batch.weight).sum(), state


def per_step_losses(
    network: Network, os: Array, ys: Array, mask: Array | None = None, weight: Array | None = None
) -> Array:
    """The weighted loss w ℓ(o) of any leading axes, in float32 at least; zero where a step does not count.

    The target of such a step, or of one of weight 0, is never looked at, neither here nor by autodiff of this.

    Args:
      os: the logits […, K].
      ys: targets, int […] or floats […, K].
      mask: bool […] or None.
      weight: float […], 0 or more, or None.

    Raises:
      InputError: logits, targets, a mask or weights that do not fit the network and each other.
    """
    checks.check_network(network)
    axes = checks.check_rows(os, "os", network.outputs, "float")
    checks.check_targets(network, ys, axes, os.dtype)
    checks.check_weights(mask, weight, axes)
    return weighted_losses(network.loss, os, ys, mask, weight)


def sample(network: Network, params: Params, key: Array, prime: Array, length: int, temperature: float = 1.0) -> Array:
    """Draw tokens from a network of tokens, each fed back as the next input.

    Args:
      key: a PRNG key.
      prime: int [T], at least one token, read first and not returned.
      length: how many tokens to draw; each length is compiled once.
      temperature: logits are divided by it; 0 takes the likeliest token.

    Returns:
      int32 [length].

    Raises:
      InputError: an empty or foreign prime, a negative length or temperature, or a network whose inputs and outputs
        are not one vocabulary.
    """
    checks.check_network(network)
    checks.check_params(network, params)
    vocabulary = network.outputs
    checks.require(network.loss.integer_targets, "network.loss", network.loss.name, "a loss with integer targets")
    checks.require(network.inputs == vocabulary, "network.inputs", network.inputs, f"network.outputs, {vocabulary}")
    checks.check_key(key, "key")
    checks.check_array(prime, "prime", ("T",), "int")
    checks.check_indices(prime, "prime", vocabulary)
    checks.check_int(length, "length", least=0)
    checks.check_number(temperature, "temperature", 0, math.inf, "a number, 0 or more")
    likeliest = float(temperature) < float(jnp.finfo(accumulation_dtype(params.V.dtype)).tiny)
    tokens: Array = _sample(network, params, key, jnp.asarray(prime), float(temperature), int(length), likeliest)
    return tokens


@partial(jax.jit, static_argnames=("network", "length", "likeliest"))
def _sample(
    network: Network, params: Params, key: Array, prime: Array, temperature: Array, length: int, likeliest: bool
) -> Array:
    def draw(logits: Array, key: Array) -> Array:
        if likeliest:
            return logits.argmax(-1).astype(jnp.int32)
        # In float32 at least: the noise that is added has the dtype of the logits, and in bfloat16 it is too coarse.
        logits = logits.astype(accumulation_dtype(logits.dtype))
        return jax.random.categorical(key, (logits - logits.max()) / temperature).astype(jnp.int32)

    def step(carry: tuple[State, Array], key: Array) -> tuple[tuple[State, Array], Array]:
        state, logits = carry
        token = draw(logits, key)
        hs, state = stack.forward(network, params, state, token[None, None])
        return (state, affine(hs[0, 0], params.V, params.c)), token

    hs, state = stack.forward(network, params, zero_states(network, 1, params.V.dtype), prime[:, None])
    logits = affine(hs[-1, 0], params.V, params.c)
    return lax.scan(step, (state, logits), jax.random.split(key, length))[1]


def _init_layer(cell: Cell, key: Array, D: int, H: int, recurrent: Recurrent, dtype: jnp.dtype | type) -> Layer:
    G = len(cell.gates)
    U_key, W_key, *p_keys = jax.random.split(key, 2 + len(cell.parameters))
    return Layer(
        U=_uniform(U_key, (D, G * H), D, dtype),
        W=_recurrent_weights(cell, W_key, H, recurrent, dtype),
        b=jnp.repeat(jnp.asarray(cell.bias, dtype), H),
        d=jnp.zeros(G * H, dtype) if cell.recurrent_bias else None,
        p=tuple(
            jax.random.uniform(p_key, (H,), dtype, parameter.low, parameter.high)
            for p_key, parameter in zip(p_keys, cell.parameters, strict=True)
        ),
    )


def _recurrent_weights(cell: Cell, key: Array, H: int, recurrent: Recurrent, dtype: jnp.dtype | type) -> Array | None:
    """W [H, G·H]; of a diagonal recurrence [G·H], where an orthogonal one is of signs and the identity of ones."""
    G = len(cell.gates)
    if cell.recurrence == "none":
        return None
    if cell.recurrence == "diagonal":
        if recurrent == "orthogonal":
            return jax.random.rademacher(key, (G * H,), dtype)
        return jnp.ones(G * H, dtype) if recurrent == "identity" else _uniform(key, (G * H,), 1, dtype)
    if recurrent == "orthogonal":
        blocks = jax.random.orthogonal(key, H, (G,), accumulation_dtype(dtype))
        return jnp.concatenate(list(blocks), axis=-1).astype(dtype)
    return jnp.tile(jnp.eye(H, dtype=dtype), (1, G)) if recurrent == "identity" else _uniform(key, (H, G * H), H, dtype)


def _uniform(key: Array, shape: tuple[int, ...], fan_in: int, dtype: jnp.dtype | type) -> Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
