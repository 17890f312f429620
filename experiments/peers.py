"""The same gradient as other libraries' users get it: what benchmark.py measures ours against.

Each builder takes a case and returns a contender: one call computes the summed loss of a character model and its
gradient by every parameter, and waits for both.  Parameters are drawn by each library's own rules; the
sizes agree, but for biases.
"""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from digits import usual_gru, usual_lstm
from jax import lax

import rnn_jax as rj

CELLS = {"elman": rj.elman, "lstm": rj.lstm, "gru": rj.gru}


class Case(NamedTuple):
    """One shape of the benchmark: one layer, K tokens in and out."""

    cell: str
    hidden: int
    batch: int
    length: int
    vocabulary: int = 65


class Contender(NamedTuple):
    """A compiled loss and gradient."""

    call: Callable[[], float]
    """Compute both once, wait, and return the loss, summed over T and B, in nats."""
    parameters: int
    compile_seconds: float | None = None
    temporaries: int | None = None
    """Bytes beside arguments and results, as XLA plans them, on one device."""


def tokens(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets [T, B], int32."""
    drawn = np.random.default_rng(0).integers(0, case.vocabulary, (case.length + 1, case.batch), np.int32)
    return drawn[:-1], drawn[1:]


def network_of(case: Case) -> rj.Network:
    """The case as a network of ours."""
    K = case.vocabulary
    return rj.Network((CELLS[case.cell](),), K, case.hidden, K, rj.softmax_cross_entropy())


def usual(network: rj.Network) -> Callable[[rj.Params, rj.Batch], tuple[jax.Array, rj.Params]]:
    """``jax.grad`` of the scan as people write it: input row, recurrent product, readout and loss in one step."""
    (cell,) = network.cells
    usual_step = {"gru": usual_gru, "lstm": usual_lstm}.get(cell.name, cell.step)

    def loss(params: rj.Params, batch: rj.Batch) -> jax.Array:
        (layer,) = params.layers

        def step(s: Any, inputs: Any) -> Any:
            x, y = inputs
            u, v = layer.U[x] + layer.b, s[0] @ layer.W
            z = (u, v + layer.d) if cell.separate else (u + v,)
            s, _ = usual_step(s, *(tuple(jnp.split(each, len(cell.gates), -1)) for each in z))
            o = s[0] @ params.V + params.c
            return s, -jnp.take_along_axis(jax.nn.log_softmax(o), y[:, None], -1).sum()

        s0 = tuple(jnp.zeros((batch.xs.shape[1], network.hidden)) for _ in cell.states)
        return lax.scan(step, s0, (batch.xs, batch.ys))[1].sum()

    return jax.value_and_grad(loss)


def compiled(function: Callable[..., tuple[jax.Array, Any]], params: Any, *inputs: Any) -> Contender:
    """A contender from a JAX function ``(params, *inputs) -> (loss, grads)``."""
    began = time.perf_counter()
    program = jax.jit(function).lower(params, *inputs).compile()
    seconds = time.perf_counter() - began
    arguments = jax.device_put((params, *inputs), program.input_shardings[0])

    def call() -> float:
        return float(jax.block_until_ready(program(*arguments))[0])

    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return Contender(call, count, seconds, program.memory_analysis().temp_size_in_bytes)


def flax_linen(case: Case) -> Contender:
    """Batch-major; biases as ours but in the GRU, which has a recurrent one for the candidate alone.

    The GRU's cell, unlike the LSTM's, makes a product for each gate.
    """
    from flax import linen as nn

    cell = {"elman": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[case.cell]
    model = nn.Sequential([nn.RNN(cell(case.hidden)), nn.Dense(case.vocabulary)])

    def loss(params: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
        return _summed(model.apply(params, xs), ys)

    xs, ys = _batch_major(case)
    return compiled(jax.value_and_grad(loss), model.init(jax.random.key(0), xs), xs, ys)


def flax_nnx(case: Case) -> Contender:
    """Batch-major; biases as ours but in the GRU, which has no recurrent one."""
    from flax import nnx

    rngs = nnx.Rngs(0)
    cell = {"elman": nnx.SimpleCell, "lstm": nnx.OptimizedLSTMCell, "gru": nnx.GRUCell}[case.cell]
    model = nnx.Sequential(
        nnx.RNN(cell(case.vocabulary, case.hidden, rngs=rngs)), nnx.Linear(case.hidden, case.vocabulary, rngs=rngs)
    )
    definition, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
        return _summed(nnx.merge(definition, params, rest, copy=True)(xs), ys)

    return compiled(jax.value_and_grad(loss), params, *_batch_major(case))


def haiku(case: Case) -> Contender:
    """Time-major; the Elman cell has a second bias and relu for tanh, and the GRU resets before the product.

    The LSTM joins input and state for one product and adds 1 to its forget gate; the GRU has no recurrent bias.
    """
    import haiku as hk

    cell = {"elman": hk.VanillaRNN, "lstm": hk.LSTM, "gru": hk.GRU}[case.cell]

    def forward(xs: jax.Array) -> jax.Array:
        core = cell(case.hidden)
        hs, _ = hk.dynamic_unroll(core, xs, core.initial_state(case.batch))
        return hk.Linear(case.vocabulary)(hs)

    model = hk.without_apply_rng(hk.transform(forward))

    def loss(params: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
        return _summed(model.apply(params, xs), ys)

    xs, ys = _time_major(case)
    return compiled(jax.value_and_grad(loss), model.init(jax.random.key(0), xs), xs, ys)


def equinox(case: Case) -> Contender:
    """Time-major; biases as ours but in the GRU, which has a recurrent one for the candidate alone.

    There is no Elman cell, and no layer over time: cells of one sequence are mapped over B within a scan.
    """
    import equinox as eqx

    cell = {"lstm": eqx.nn.LSTMCell, "gru": eqx.nn.GRUCell}[case.cell]
    cell_key, readout_key = jax.random.split(jax.random.key(0))
    model = (
        cell(case.vocabulary, case.hidden, key=cell_key),
        eqx.nn.Linear(case.hidden, case.vocabulary, key=readout_key),
    )

    def loss(model: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
        cell, readout = model

        def step(state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
            state = jax.vmap(cell)(x, state)
            return state, state[0] if case.cell == "lstm" else state

        zeros = jnp.zeros((case.batch, case.hidden))
        _, hs = lax.scan(step, (zeros, zeros) if case.cell == "lstm" else zeros, xs)
        return _summed(jax.vmap(jax.vmap(readout))(hs), ys)

    # The leaves of these modules are arrays, all of them, so that JAX's own transformations take the model as it is.
    return compiled(jax.value_and_grad(loss), model, *_time_major(case))


def torch(case: Case) -> Contender:
    """Time-major, eager, on the CPU; every cell has a second bias, as our GRU has."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layer = {"elman": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[case.cell]
    recurrent, readout = model = nn.ModuleList(
        (layer(case.vocabulary, case.hidden), nn.Linear(case.hidden, case.vocabulary))
    )
    xs, ys = (torch.from_numpy(a).long() for a in tokens(case))
    xs = nn.functional.one_hot(xs, case.vocabulary).float()

    def call() -> float:
        model.zero_grad(set_to_none=True)
        hs, _ = recurrent(xs)
        loss = nn.functional.cross_entropy(readout(hs).flatten(0, 1), ys.flatten(), reduction="sum")
        loss.backward()
        return loss.item()

    return Contender(call, sum(p.numel() for p in model.parameters()))


def builders(cell: str) -> dict[str, Callable[[Case], Contender]]:
    """The peers, by name, that are installed and have the cell."""
    peers = (
        ("flax linen", "flax", flax_linen, ("elman", "lstm", "gru")),
        ("flax nnx", "flax", flax_nnx, ("elman", "lstm", "gru")),
        ("haiku", "haiku", haiku, ("elman", "lstm", "gru")),
        ("equinox", "equinox", equinox, ("lstm", "gru")),
        ("torch", "torch", torch, ("elman", "lstm", "gru")),
    )
    return {name: build for name, package, build, cells in peers if cell in cells and find_spec(package)}


def _time_major(case: Case) -> tuple[jax.Array, jax.Array]:
    """One-hot inputs [T, B, K] and targets [T, B]."""
    xs, ys = tokens(case)
    return jax.nn.one_hot(xs, case.vocabulary), jnp.asarray(ys)


def _batch_major(case: Case) -> tuple[jax.Array, jax.Array]:
    """One-hot inputs [B, T, K] and targets [B, T]."""
    xs, ys = tokens(case)
    return jax.nn.one_hot(xs.T, case.vocabulary), jnp.asarray(ys.T)


def _summed(os: jax.Array, ys: jax.Array) -> jax.Array:
    """The loss summed over T and B."""
    return optax.softmax_cross_entropy_with_integer_labels(os, ys).sum()
