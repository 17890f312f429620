"""The gradient as users of JAX and of other libraries get it: what benchmark.py measures bptt against.

``by_jax_grad`` gives the ways to write a recurrent network for ``jax.grad``, each as an ``rnn_jax.Algorithm``, so that
``data_parallel`` splits it as it splits bptt.  ``builders`` gives other libraries, as their users run them: parameters
are drawn by each library's own rules, and the sizes agree, but for biases.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import optax
from digits import usual_cross_entropy, usual_gru, usual_lstm
from jax import lax
from timing import Candidate, Case, compiled, tokens

import rnn_jax as rj

STANDARD, READOUT_OUTSIDE, HOISTED = "jax.grad, standard scan", "jax.grad, readout outside", "jax.grad, hoisted"
AUTODIFF = "jax.grad, rj.autodiff"
JAX_GRAD = (STANDARD, READOUT_OUTSIDE, HOISTED, AUTODIFF)


def by_jax_grad(network: rj.Network) -> dict[str, rj.Algorithm]:
    """``jax.grad`` of the forward pass of a network of one layer, by name.

    The first three use the usual formulas of the cell and the loss, and plain products:

    - standard scan: input row, recurrent product, readout and loss in one step of the scan;
    - readout outside: the scan returns the states, and the readout is one product over all steps;
    - hoisted: besides, the input rows of all steps are looked up before the scan.

    The fourth, ``rj.autodiff``, is hoisted too, and has the formulas and products of this library's forward pass.
    """
    return {
        STANDARD: scanned(network, inputs_outside=False, readout_outside=False),
        READOUT_OUTSIDE: scanned(network, inputs_outside=False, readout_outside=True),
        HOISTED: scanned(network, inputs_outside=True, readout_outside=True),
        AUTODIFF: rj.autodiff(network),
    }


def scanned(network: rj.Network, inputs_outside: bool, readout_outside: bool) -> rj.Algorithm:
    """``jax.grad`` of a scan with the usual formulas, for token inputs and batches without mask, reset and weight.

    Args:
      network: one layer of ``elman()``, ``lstm()`` or ``gru()``.
      inputs_outside: look up the input rows of all steps before the scan, and not each in its step.
      readout_outside: compute logits and losses of all steps after the scan, and not each in its step.
    """
    (cell,) = network.cells
    usual_step = {"gru": usual_gru, "lstm": usual_lstm}.get(cell.name, cell.step)

    def advance(layer: rj.Layer, s: Any, u: jax.Array) -> Any:
        v = s[0] @ layer.W
        z = (u, v + layer.d) if cell.separate else (u + v,)
        return usual_step(s, *(tuple(jnp.split(each, len(cell.gates), -1)) for each in z))[0]

    def loss_of(params: rj.Params, state: Any, batch: rj.Batch) -> tuple[jax.Array, Any]:
        (layer,), (s0,) = params.layers, state

        def project(xs: jax.Array) -> jax.Array:
            return layer.U[xs] + layer.b

        def losses(hs: jax.Array, ys: jax.Array) -> jax.Array:
            return usual_cross_entropy(hs @ params.V + params.c, ys).sum()

        def step(s: Any, inputs: Any) -> Any:
            x, y = inputs
            s = advance(layer, s, x if inputs_outside else project(x))
            return s, s[0] if readout_outside else losses(s[0], y)

        s_T, outputs = lax.scan(step, s0, (project(batch.xs) if inputs_outside else batch.xs, batch.ys))
        return losses(outputs, batch.ys) if readout_outside else outputs.sum(), (s_T,)

    def init(params: rj.Params, batch_size: int, key: jax.Array | None = None) -> rj.Carry:
        return rj.Carry(rj.initial_state(network, params, batch_size))

    def update(params: rj.Params, carry: rj.Carry, batch: rj.Batch) -> tuple[rj.Carry, rj.Estimate]:
        (loss, state), grads = jax.value_and_grad(loss_of, has_aux=True)(params, carry.recurrent, batch)
        return rj.Carry(state), rj.Estimate(loss, grads, jnp.float32(batch.xs.size))

    return rj.Algorithm(init, update)


def flax_linen(case: Case) -> Candidate:
    """Batch-major; biases as in this library but in the GRU, which has a recurrent one for the candidate alone.

    The GRU's cell, unlike the LSTM's, makes a product for each gate.
    """
    from flax import linen as nn

    cell = {"elman": nn.SimpleCell, "lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[case.cell]
    model = nn.Sequential([nn.RNN(cell(case.hidden)), nn.Dense(case.vocabulary)])

    def loss(params: Any, xs: jax.Array, ys: jax.Array) -> jax.Array:
        return _summed(model.apply(params, xs), ys)

    xs, ys = _batch_major(case)
    return compiled(jax.value_and_grad(loss), model.init(jax.random.key(0), xs), xs, ys)


def flax_nnx(case: Case) -> Candidate:
    """Batch-major; biases as in this library but in the GRU, which has no recurrent one."""
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


def haiku(case: Case) -> Candidate:
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


def equinox(case: Case) -> Candidate:
    """Time-major; biases as in this library but in the GRU, which has a recurrent one for the candidate alone.

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


def torch(case: Case) -> Candidate:
    """Time-major, eager, on the CPU; every cell has a second bias, as this library's GRU has."""
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

    return Candidate(call, sum(p.numel() for p in model.parameters()))


def builders(cell: str) -> dict[str, Callable[[Case], Candidate]]:
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
