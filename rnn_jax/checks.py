"""Checks at the edge: what a user passes in is looked at once, and a refusal is one line that says what is wanted."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.types import Batch, Cell, Layer, Loss, Network, Params, State


class InputError(ValueError):
    """An argument that cannot be served; the message names it, says what it was and what it may be."""


def require(condition: Any, argument: str, value: Any, wanted: str) -> None:
    """Raise ``InputError`` with one line, "argument is value; it must be wanted", unless the condition holds."""
    if not condition:
        text = value if isinstance(value, Description) else repr(value)
        text = " ".join(str(text).split())
        raise InputError(f"{argument} is {text[:117] + '...' if len(text) > 120 else text}; it must be {wanted}")


class Description(str):
    """A value already put into words, printed in an error without quotes."""


def describe(value: Any) -> Description:
    """``float32[3,4]`` for an array, else the value's type."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return Description(f"{value.dtype}[{','.join(map(str, value.shape))}]")
    return Description(f"of type {type(value).__name__}")


def is_concrete(value: Any) -> bool:
    """Whether the numbers can be looked at: not while tracing."""
    return not isinstance(value, jax.core.Tracer)


def check_array(value: Any, argument: str, shape: tuple[int | str, ...], kind: str) -> None:
    """Refuse anything but an array of this shape (a string stands for any length, 0 excepted) and kind of dtype."""
    kinds = {"int": jnp.integer, "float": jnp.floating, "bool": jnp.bool_}
    wanted = f"{kind}[{','.join(map(str, shape))}]"
    require(hasattr(value, "dtype") and hasattr(value, "shape"), argument, value, f"an array {wanted}")
    fits = len(value.shape) == len(shape) and all(
        n == m if isinstance(m, int) else n > 0 for n, m in zip(value.shape, shape, strict=True)
    )
    require(fits and jnp.issubdtype(value.dtype, kinds[kind]), argument, describe(value), wanted)


def check_indices(value: Any, argument: str, size: int, counts: Any = None) -> None:
    """Refuse indices outside 0 … size−1 at the steps that count, where the numbers can be looked at."""
    if is_concrete(value) and (counts is None or is_concrete(counts)):
        numbers = np.asarray(value) if counts is None else np.asarray(value)[np.asarray(counts)]
        for bad in (numbers.min(), numbers.max()):
            require(0 <= bad < size, argument, Description(f"an array holding {bad}"), f"indices in 0 … {size - 1}")


def check_batch(network: Network, batch: Batch, sizes: tuple[int, int] | None = None) -> None:
    """Refuse a batch whose shapes, dtypes, tokens or targets do not fit the network, or in which no step counts.

    Numbers are looked at only outside ``jit``; inside, a token or target out of range turns into NaN.

    Args:
      sizes: (T, B), where already known.
    """
    require(isinstance(batch, Batch), "batch", describe(batch), "a Batch")
    xs, ys, mask, reset = batch
    require(hasattr(xs, "dtype") and hasattr(xs, "shape"), "batch.xs", xs, "an array int[T,B] or float[T,B,D]")
    tokens = jnp.issubdtype(xs.dtype, jnp.integer)
    check_array(
        xs, "batch.xs", ("T", "B") if tokens else ("T", "B", network.inputs), "int" if tokens else "float"
    )
    T, B = xs.shape[:2]
    if network.loss.integer_targets:
        check_array(ys, "batch.ys", (T, B), "int")
    else:
        check_array(ys, "batch.ys", (T, B, network.outputs), "float")
    for name, flags in (("mask", mask), ("reset", reset)):
        if flags is not None:
            check_array(flags, f"batch.{name}", (T, B), "bool")
    if mask is not None and is_concrete(mask):
        require(np.asarray(mask).any(), "batch.mask", Description("False everywhere"), "True at one step at least")
    if tokens:
        check_indices(xs, "batch.xs", network.inputs, mask)
    if network.loss.integer_targets:
        check_indices(ys, "batch.ys", network.outputs, mask)


def check_network(network: Network) -> None:
    """Refuse a network with no layer, or of sizes that are not positive integers."""
    require(isinstance(network, Network), "network", describe(network), "a Network")
    require(isinstance(network.cells, tuple) and network.cells, "network.cells", network.cells, "a tuple of cells")
    for cell in network.cells:
        require(isinstance(cell, Cell), "network.cells", describe(cell), "a tuple of cells, like (elman(),)")
    for name in ("inputs", "hidden", "outputs"):
        size = getattr(network, name)
        require(type(size) is int and size > 0, f"network.{name}", size, "a positive int")
    require(isinstance(network.loss, Loss), "network.loss", describe(network.loss), "a Loss")


def check_params(network: Network, params: Params) -> None:
    """Refuse parameters whose structure, shapes or dtypes are not those of the network."""
    check_network(network)
    require(isinstance(params, Params), "params", describe(params), "the Params of this network")
    count = len(network.cells)
    require(len(params.layers) == count, "params.layers", params.layers, f"a tuple of {count} Layer")
    H = network.hidden
    for index, (cell, layer) in enumerate(zip(network.cells, params.layers, strict=True)):
        require(isinstance(layer, Layer), f"params.layers[{index}]", describe(layer), "a Layer")
        where, D, GH = f"params.layers[{index}]", H if index else network.inputs, len(cell.gates) * H
        check_array(layer.U, f"{where}.U", (D, GH), "float")
        check_array(layer.W, f"{where}.W", (H, GH), "float")
        check_array(layer.b, f"{where}.b", (GH,), "float")
        if cell.recurrent_bias:
            check_array(layer.d, f"{where}.d", (GH,), "float")
        else:
            require(layer.d is None, f"{where}.d", describe(layer.d), f"None: a {cell.name} has no recurrent bias")
    check_array(params.V, "params.V", (H, network.outputs), "float")
    check_array(params.c, "params.c", (network.outputs,), "float")
    dtypes = sorted({str(leaf.dtype) for leaf in jax.tree.leaves(params)})
    require(len(dtypes) == 1, "params", Description("of dtypes " + ", ".join(dtypes)), "of one dtype")


def check_state(network: Network, params: Params, state: State, batch_size: int) -> None:
    """Refuse a recurrent state that is not S arrays [B, H] for each layer, of the parameters' dtype."""
    wanted = f"the state of {len(network.cells)} layers"
    require(isinstance(state, tuple) and len(state) == len(network.cells), "state", describe(state), wanted)
    for index, (cell, units) in enumerate(zip(network.cells, state, strict=True)):
        count = len(cell.states)
        require(
            isinstance(units, tuple) and len(units) == count, f"state[{index}]", describe(units), f"{count} arrays"
        )
        for name, values in zip(cell.states, units, strict=True):
            check_array(values, f"state[{index}] ({name})", (batch_size, network.hidden), "float")
            require(
                values.dtype == params.V.dtype, f"state[{index}] ({name})", describe(values), f"of {params.V.dtype}"
            )
