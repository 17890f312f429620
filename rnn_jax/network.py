"""The network: stacked recurrent layers, a linear readout and a loss.

The hidden states of layer l are the inputs of layer l+1.  The readout is ``o_t = h_t V + c`` of the highest layer.
The loss is ``L = Σ_t Σ_b w_t ℓ(o_t)`` over the steps that count; the weights w_t are 1 unless the batch gives others.
"""

import math
from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from rnn_jax import checks, stack
from rnn_jax.losses import weighted_losses
from rnn_jax.ops import affine
from rnn_jax.precision import accumulation_dtype
from rnn_jax.recurrence import zero_state
from rnn_jax.types import Array, Batch, Cell, Layer, Network, Params, State

Recurrent = Literal["uniform", "orthogonal", "identity"]
IDENTITY_INPUTS = 0.01
"""Factor of U beside an identity W: h sums what comes in, step after step, and must not overflow."""


def init(
    network: Network,
    key: Array,
    recurrent: Recurrent = "uniform",
    dtype: DTypeLike = jnp.float32,
    chrono: int | None = None,
) -> Params:
    """Draw the parameters of a network.

    U is uniform in ±1/√D, V and W are uniform in ±1/√H.  Biases are zero, except those that the cell sets: the forget
    gate of an LSTM starts at 1.

    With ``chrono`` = T_max the units of a gated cell start with the time constants of a task whose dependencies are
    up to T_max steps long.  For each unit, with τ uniform in [1, T_max − 1], an open gate keeps a share τ / (1 + τ) of
    the state a step, where u + v is b::

        b_f = log τ,  b_i = −log τ     (LSTM)
        b_z = log τ                    (GRU, where z keeps the state)
        b_z = −log τ                   (minGRU, where z replaces it)

    Args:
      network: cells, sizes and loss.
      key: a PRNG key.
      recurrent: how W is drawn: "uniform" as above; "orthogonal", each gate's block [H, H] from the orthogonal group,
        which preserves the norm of h; "identity", each block the identity, with U uniform in ±0.01/√D: so a network of
        relu sums its inputs from the start and stays finite.  In a diagonal recurrence an orthogonal w is ±1, and the
        identity is 1.
      dtype: float64, float32 or bfloat16.
      chrono: T_max in steps, 3 or more, for a network whose cells all have a gate that forgets; None: biases as above.

    Returns:
      Params: per layer U [D, G·H], W [H, G·H] and b [G·H], and what else its cell has; V [H, K] and c [K].

    Raises:
      InputError: an invalid network, key, option or dtype, or ``chrono`` for a cell without such a gate.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.lstm(),), inputs=3, hidden=4, outputs=2, loss=rj.squared_error())
      >>> params = rj.init(network, jax.random.key(0))
      >>> params.layers[0].W.shape, params.V.shape
      ((4, 16), (4, 2))
      >>> params.layers[0].b.reshape(4, 4)[1].tolist()  # b_f
      [1.0, 1.0, 1.0, 1.0]
      >>> b_i, b_f, b_g, b_o = rj.init(network, jax.random.key(0), chrono=100).layers[0].b.reshape(4, 4)
      >>> bool((b_f > 0).all()), bool((b_i == -b_f).all())
      (True, True)

    Source: Le, Jaitly & Hinton, *A simple way to initialize recurrent networks of rectified linear units*,
    arXiv:1504.00941 (2015), whose weights beside W are Gaussian with a standard deviation of 0.001.  Chrono
    initialisation is Tallec & Ollivier, *Can recurrent neural networks warp time?*, ICLR (2018).
    """
    checks.check_network(network)
    checks.check_key(key, "key")
    checks.check_option(recurrent, "recurrent", get_args(Recurrent))
    checks.check_dtype(dtype, "dtype")
    checks.check_chrono(chrono, network.cells)
    *layer_keys, V_key = jax.random.split(key, len(network.cells) + 1)
    sizes = checks.layer_sizes(network)
    layers = tuple(
        _init_layer(cell, layer_key, D, H, recurrent, dtype, chrono)
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
    dtype: DTypeLike = jnp.float32,
    chrono: int | None = None,
) -> Layer:
    """Draw the parameters of one layer, as ``init`` does, for ``unroll`` in a model of your own.

    Args:
      cell: ``elman()``, ``lstm()``, ``gru()`` or one of your own.
      key: a PRNG key.
      inputs: D, the width of x_t or the size of the vocabulary.
      hidden: H.
      recurrent: how W is drawn, as in ``init``.
      dtype: float64, float32 or bfloat16.
      chrono: T_max in steps, as in ``init``, or None.

    Returns:
      Layer: U [D, G·H], W [H, G·H], b [G·H], and what else the cell has.

    Raises:
      InputError: an invalid cell, size, key, option or dtype.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> layer = rj.init_layer(rj.gru(), jax.random.key(0), inputs=3, hidden=4, recurrent="identity")
      >>> layer.U.shape, layer.W.shape, layer.d.shape
      ((3, 12), (4, 12), (12,))
    """
    checks.check_cell(cell, "cell")
    for name, size in (("inputs", inputs), ("hidden", hidden)):
        checks.check_int(size, name)
    checks.check_key(key, "key")
    checks.check_option(recurrent, "recurrent", get_args(Recurrent))
    checks.check_dtype(dtype, "dtype")
    checks.check_chrono(chrono, (cell,))
    return _init_layer(cell, key, inputs, hidden, recurrent, dtype, chrono)


def initial_state(network: Network, params: Params, batch_size: int) -> State:
    """The zero state of a network.

    Args:
      network: cells, sizes and loss.
      params: its parameters, whose dtype the state has.
      batch_size: B.

    Returns:
      Per layer, S arrays [B, H]; the first one is h.

    Raises:
      InputError: an invalid network or batch size, or parameters that do not fit the network.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.lstm(),), inputs=3, hidden=4, outputs=2, loss=rj.squared_error())
      >>> state = rj.initial_state(network, rj.init(network, jax.random.key(0)), batch_size=5)
      >>> h, c = state[0]
      >>> h.shape, c.shape
      ((5, 4), (5, 4))
    """
    checks.check_network(network)
    checks.check_params(network, params)
    checks.check_int(batch_size, "batch_size")
    return zero_states(network, batch_size, params.V.dtype)


def zero_states(network: Network, batch_size: int, dtype: jnp.dtype) -> State:
    """The zero state of a valid network: per layer, S arrays [B, H]."""
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
    """Run the network over a window.

        h^l_t = cell(h^{l−1}_t, h^l_{t−1})     o_t = h_t V + c

    It is plain JAX: ``jax.grad`` of it is autodiff, not the hand-written reverse.  For the gradient of the loss choose
    ``value_and_grad(bptt(network))``; for the hand-written reverse in another model choose ``unroll``.

    Args:
      network: cells, sizes and loss.
      params: its parameters.
      state: as from ``initial_state`` or from an earlier window.
      xs: int tokens [T, B] or floats [T, B, D].
      mask: bool [T, B] or None; a step that is False leaves the state as it is.
      reset: bool [T, B] or None; the state is zero before a step that is True, if the step counts.

    Returns:
      The logits ``os`` [T, B, K], and the state after the window.

    Raises:
      InputError: parameters, state or inputs that do not fit the network.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=3, hidden=4, outputs=2, loss=rj.squared_error())
      >>> params = rj.init(network, jax.random.key(0))
      >>> xs = jnp.ones((7, 5, 3), jnp.float32)  # [T, B, D]
      >>> state = rj.initial_state(network, params, batch_size=5)
      >>> os, state = jax.jit(rj.apply, static_argnums=0)(network, params, state, xs)
      >>> os.shape
      (7, 5, 2)
    """
    checks.check_network(network)
    checks.check_params(network, params)
    _, B = checks.check_inputs(xs, network.inputs, params.V.dtype)
    checks.check_flags(mask, reset, xs, network.inputs)
    checks.check_state(network, state, B, params.V.dtype)
    hs, state = stack.forward(network, params, state, xs, mask, reset)
    return affine(hs, params.V, params.c), state


def readout(params: Params, hs: Array) -> Array:
    """The logits o = h V + c, over any leading axes.

    Args:
      params: the parameters of a network.
      hs: hidden states of the highest layer, […, H].

    Returns:
      Logits […, K].

    Raises:
      InputError: no Params, or hidden states of another width or dtype.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> params = rj.Params(layers=(), V=jnp.ones((3, 2)), c=jnp.ones(2))
      >>> rj.network.readout(params, jnp.ones((1, 3))).tolist()
      [[4.0, 4.0]]
    """
    checks.require(isinstance(params, Params), "params", checks.describe(params), "the Params of a network")
    checks.check_array(params.V, "params.V", ("H", "K"), "float")
    (H, K), dtype = params.V.shape, params.V.dtype
    checks.check_array(params.c, "params.c", (K,), dtype)
    checks.check_rows(hs, "hs", H, dtype)
    return affine(hs, params.V, params.c)


def loss(network: Network, params: Params, state: State, batch: Batch) -> tuple[Array, State]:
    """The loss of a window, and the state after it.

        L = Σ_t Σ_b w_t ℓ(o_t, y_t)      over the steps that count

    It is plain JAX: ``jax.grad`` of it is the reference for every hand-written gradient.

    Args:
      network: cells, sizes and loss.
      params: its parameters.
      state: as from ``initial_state`` or from an earlier window.
      batch: inputs and targets, with mask, resets and weights or None.

    Returns:
      The loss, a sum and not a mean, in float32 at least; and the state after the window.

    Raises:
      InputError: a batch, parameters or state that do not fit the network.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = jax.tree.map(jnp.zeros_like, rj.init(network, jax.random.key(0)))
      >>> tokens = jnp.array([[0], [1], [2]])  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> state = rj.initial_state(network, params, batch_size=1)
      >>> loss, state = jax.jit(rj.loss, static_argnums=0)(network, params, state, batch)
      >>> round(float(loss), 4)  # 2 log 4
      2.7726
    """
    checks.check_network(network)
    checks.check_window(network, params, state, batch)
    return window_loss(network, params, state, batch)


def window_loss(network: Network, params: Params, state: State, batch: Batch) -> tuple[Array, State]:
    """``loss`` without checks of its arguments."""
    hs, state = stack.forward(network, params, state, batch.xs, batch.mask, batch.reset)
    os = affine(hs, params.V, params.c)
    return weighted_losses(network.loss, os, batch.ys, batch.mask, batch.weight).sum(), state


def per_step_losses(
    network: Network, os: Array, ys: Array, mask: Array | None = None, weight: Array | None = None
) -> Array:
    """The weighted loss w ℓ(o) of each step, over any leading axes; zero where a step does not count.

    The target of a masked step, or of a step of weight 0, is never read, neither here nor by autodiff of this function.

    Args:
      network: cells, sizes and loss.
      os: the logits […, K].
      ys: targets, int […] or floats […, K].
      mask: bool […] or None.
      weight: float […], 0 or more, or None.

    Returns:
      The losses […], in float32 at least.

    Raises:
      InputError: logits, targets, a mask or weights that do not fit the network and each other.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=1, hidden=1, outputs=1, loss=rj.squared_error())
      >>> os, ys = jnp.array([[2.0], [2.0]]), jnp.array([[0.0], [jnp.nan]])
      >>> rj.network.per_step_losses(network, os, ys, mask=jnp.array([True, False])).tolist()
      [2.0, 0.0]
    """
    checks.check_network(network)
    axes = checks.check_rows(os, "os", network.outputs, "float")
    checks.check_targets(network, ys, axes, os.dtype)
    checks.check_weights(mask, weight, axes)
    return weighted_losses(network.loss, os, ys, mask, weight)


def sample(network: Network, params: Params, key: Array, prime: Array, length: int, temperature: float = 1.0) -> Array:
    """Draw tokens from a network of tokens; each one is the next input.

        token ~ softmax(o_t / temperature)

    The prime is read in one pass.  Then each token takes one step of the network.

    Args:
      network: a network whose inputs and outputs are one vocabulary.
      params: its parameters.
      key: a PRNG key.
      prime: int [T], at least one token, which is read first and not returned.
      length: how many tokens to draw; each length is compiled once.
      temperature: divides the logits; 0 takes the likeliest token.

    Returns:
      int32 [length].

    Raises:
      InputError: an empty prime, a token outside the vocabulary, a negative length or temperature, or a network whose
        inputs and outputs are not one vocabulary.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=5, hidden=4, outputs=5, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))._replace(c=jnp.array([0, 0, 0, 9, 0], jnp.float32))
      >>> rj.sample(network, params, jax.random.key(1), prime=jnp.array([0]), length=4, temperature=0).tolist()
      [3, 3, 3, 3]
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


def _init_layer(
    cell: Cell, key: Array, D: int, H: int, recurrent: Recurrent, dtype: DTypeLike, chrono: int | None
) -> Layer:
    G = len(cell.gates)
    U_key, W_key, *p_keys, b_key = jax.random.split(key, 3 + len(cell.parameters))
    U = _uniform(U_key, (D, G * H), D, dtype)
    summing = recurrent == "identity" and cell.recurrence != "none"
    return Layer(
        U=IDENTITY_INPUTS * U if summing else U,
        W=_recurrent_weights(cell, W_key, H, recurrent, dtype),
        b=jnp.repeat(jnp.asarray(cell.bias, dtype), H) if chrono is None else _chrono(cell, b_key, H, chrono, dtype),
        d=jnp.zeros(G * H, dtype) if cell.recurrent_bias else None,
        p=tuple(
            jax.random.uniform(p_key, (H,), dtype, parameter.low, parameter.high)
            for p_key, parameter in zip(p_keys, cell.parameters, strict=True)
        ),
    )


def _chrono(cell: Cell, key: Array, H: int, T_max: int, dtype: DTypeLike) -> Array:
    """The bias b [G·H], ± log τ for the gates that keep or replace the state, one τ a unit."""
    log_tau = jnp.log(jax.random.uniform(key, (H,), accumulation_dtype(dtype), 1, T_max - 1)).astype(dtype)
    gates = zip(cell.bias, cell.chrono, strict=True)
    return jnp.concatenate([sign * log_tau if sign else jnp.full(H, bias, dtype) for bias, sign in gates])


def _recurrent_weights(cell: Cell, key: Array, H: int, recurrent: Recurrent, dtype: DTypeLike) -> Array | None:
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


def _uniform(key: Array, shape: tuple[int, ...], fan_in: int, dtype: DTypeLike) -> Array:
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)
