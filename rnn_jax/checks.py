"""Validation of arguments in the public functions: an error is one line that says what is allowed.

Structure, shapes and dtypes are always checked, at no cost under ``jit``.  Numbers are checked only outside of ``jit``;
inside, a token or target out of range gives NaN.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, get_args

import jax
import jax.numpy as jnp
import numpy as np

from rnn_jax.types import Batch, Carry, Cell, Claim, Layer, Loss, Network, Parameter, Params, Recurrence

DTYPES = ("float64", "float32", "bfloat16")
LARGEST_INT = 2**31 - 1
LARGEST_NUMBER = sys.float_info.max


class InputError(ValueError):
    """An argument that is not accepted; the message gives its name, its value and what is allowed.

    Examples:
      >>> import rnn_jax as rj
      >>> rj.elman(leak=2.0)
      Traceback (most recent call last):
      ...
      rnn_jax.checks.InputError: leak is 2.0; it must be a number in (0, 1], or "learned"
    """


class Description(str):
    """A value already put into words, printed in an error without quotes."""


def refuse(argument: str, value: Any, wanted: str) -> NoReturn:
    """Raise ``InputError`` with one line, "argument is value; it must be wanted"."""
    text = " ".join((value if isinstance(value, Description) else _written(value)).split())
    short = text[:117] + "..." if len(text) > 120 else text
    raise InputError(" ".join(f"{argument} is {short}; it must be {wanted}".split()))


def require(condition: Any, argument: str, value: Any, wanted: str) -> None:
    """Refuse the value unless the condition holds."""
    if not condition:
        refuse(argument, value, wanted)


def describe(value: Any) -> Description:
    """``float32[3,4]`` for an array, else the value's type."""
    if is_array(value):
        return Description(f"{value.dtype}[{','.join(map(str, value.shape))}]")
    return Description(f"of type {type(value).__name__}")


def is_array(value: Any) -> bool:
    """A JAX or NumPy array, or a tracer of one."""
    return isinstance(value, jax.Array | np.ndarray)


def check_int(value: Any, argument: str, least: int = 1) -> None:
    """Refuse anything but an int that is large enough, and no larger than an array can be long."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    fits = integer and least <= value <= LARGEST_INT
    require(fits, argument, value, f"{'a positive int' if least else 'an int, 0 or more'}, and below 2**31")


def check_number(value: Any, argument: str, low: float, high: float, wanted: str) -> None:
    """Refuse anything but a finite number with low ≤ value ≤ high."""
    require(_is_number(value) and low <= value <= high, argument, value, wanted)


def check_bool(value: Any, argument: str) -> None:
    """Refuse anything but True or False."""
    require(isinstance(value, bool), argument, value, "True or False")


def check_option(value: Any, argument: str, options: Sequence[str]) -> None:
    """Refuse anything but one of these words."""
    require(isinstance(value, str) and value in options, argument, value, f"one of {', '.join(options)}")


def check_dtype(value: Any, argument: str) -> None:
    """Refuse any dtype but the three that are supported, and float64 where JAX would narrow it."""
    try:
        dtype = jnp.dtype(bool if value is None else value)
    except Exception:  # NumPy reads dtypes from almost anything, and fails in as many ways
        dtype = jnp.dtype(bool)
    if dtype.name not in DTYPES:
        refuse(argument, value, f"one of {', '.join(DTYPES)}")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        refuse(argument, value, 'float32 or bfloat16, unless jax.config has "jax_enable_x64" set')


def check_function(value: Any, argument: str) -> None:
    """Refuse anything but a function or None."""
    require(value is None or callable(value), argument, describe(value), "a function, or None")


def check_key(value: Any, argument: str) -> None:
    """Refuse anything but one PRNG key, typed or raw."""
    typed = is_array(value) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key) and value.shape == ()
    raw = is_array(value) and value.dtype == jnp.uint32 and value.shape == jax.eval_shape(jax.random.PRNGKey, 0).shape
    require(typed or raw, argument, describe(value), "a PRNG key, like jax.random.key(0)")


KINDS = {"int": jnp.integer, "float": jnp.floating}


def check_array(value: Any, argument: str, shape: tuple[int | str, ...], dtype: Any) -> None:
    """Refuse anything but an array of this shape and dtype; a string stands for any length but 0, and for a kind."""
    known = isinstance(value, jax.Array | np.ndarray)
    if not known or not _fits(value, shape, dtype):
        wanted = f"{dtype}[{','.join(map(str, shape))}]"
        refuse(argument, describe(value), wanted if known else f"an array {wanted}")
    if isinstance(dtype, str) and dtype == "float":  # a dtype of 64 bits also equals the word
        check_dtype(value.dtype, argument)


def _fits(value: Any, shape: tuple[int | str, ...], dtype: Any) -> bool:
    if len(value.shape) != len(shape) or not getattr(value.dtype, "isnative", True):
        return False
    for n, m in zip(value.shape, shape, strict=True):
        if n == 0 if isinstance(m, str) else n != m:
            return False
    return bool(
        jnp.issubdtype(value.dtype, KINDS[dtype]) if isinstance(dtype, str) and dtype in KINDS else value.dtype == dtype
    )


def check_rows(value: Any, argument: str, width: int, dtype: Any) -> tuple[int, ...]:
    """Refuse anything but an array […, width] of this dtype; returns its leading axes."""
    require(is_array(value) and value.ndim > 0, argument, describe(value), f"{dtype}[…,{width}]")
    axes: tuple[int, ...] = value.shape[:-1]
    check_array(value, argument, (*axes, width), dtype)
    return axes


def check_arrays(tree: Any, argument: str) -> None:
    """Refuse a tree with a leaf that no jitted function accepts: anything but an array of numbers, bools or PRNG keys.

    An integer that is too large for the dtype that ``jit`` gives it is refused too, since it would wrap around.
    """
    for path, leaf in jax.tree.leaves_with_path(tree):
        known, name = isinstance(leaf, jax.Array), f"{argument}{jax.tree_util.keystr(path)}"
        if isinstance(leaf, np.ndarray):
            known = leaf.dtype.isnative and (leaf.dtype == bool or jnp.issubdtype(leaf.dtype, jnp.number))
        require(known, name, describe(leaf), "an array of numbers")
        narrow = jax.dtypes.canonicalize_dtype(leaf.dtype) if isinstance(leaf, np.ndarray) else leaf.dtype
        if jnp.issubdtype(narrow, jnp.integer) and narrow != leaf.dtype and leaf.size:
            bound = jnp.iinfo(narrow)
            for bad in (leaf.min(), leaf.max()):
                fits = bound.min <= bad <= bound.max
                require(fits, name, Description(f"an array holding {bad}"), f"of numbers that fit {narrow}")


def check_indices(value: Any, argument: str, size: int, mask: Any = None, weight: Any = None) -> None:
    """Refuse indices outside 0 … size−1 at the steps that count and have weight, where numbers can be read."""
    if all(map(_is_concrete, (value, mask, weight))):
        numbers = np.asarray(value)
        for counts in (mask, None if weight is None else np.asarray(weight, float) > 0):
            numbers = numbers if counts is None else np.where(counts, numbers, 0)
        for bad in (numbers.min(), numbers.max()):
            require(0 <= bad < size, argument, Description(f"an array holding {bad}"), f"indices in 0 … {size - 1}")


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and -LARGEST_NUMBER <= value <= LARGEST_NUMBER


def _all(part: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(part, tuple) and len(part) > 0 and all(map(fits, part))


def _is_parameter(value: Any) -> bool:
    if not isinstance(value, Parameter) or not _is_name(value.name):
        return False
    return _is_number(value.low) and _is_number(value.high) and value.low <= value.high


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


PARTS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_name, "a name"),
    **{part: (lambda part: _all(part, _is_name), "a tuple of names, one or more") for part in ("states", "gates")},
    "bias": (lambda part: _all(part, _is_number), "a tuple of numbers, one a gate"),
    **{part: (callable, "a function") for part in ("step", "adjoint", "value", "error", "init", "update")},
    **{part: (lambda part: type(part) is bool, "a bool") for part in ("recurrent_bias", "separate", "integer_targets")},
    "parameters": (
        lambda part: isinstance(part, tuple) and all(map(_is_parameter, part)),
        "a tuple of Parameter, each with a name and low ≤ high",
    ),
    "recurrence": (
        lambda part: _is_name(part) and part in get_args(Recurrence),
        f"one of {', '.join(get_args(Recurrence))}",
    ),
    "chrono": (
        lambda part: isinstance(part, tuple) and all(type(sign) is int and abs(sign) <= 1 for sign in part),
        "a tuple of −1, 0 or 1, one a gate, or an empty one",
    ),
    "claim": (lambda part: isinstance(part, Claim), "an Exact, an Unbiased or a Biased"),
}
"""What the parts of cells, losses, algorithms and optimisers may be, by their names."""


def check_parts(value: Any, argument: str, kind: type[Any], wanted: str) -> None:
    """Refuse anything but a named tuple of this kind, such as a Cell, with parts as they may be."""
    if not isinstance(value, kind):
        refuse(argument, describe(value), wanted)
    for name, part in value._asdict().items():
        if name in PARTS and not PARTS[name][0](part):
            refuse(f"{argument}.{name}", part, PARTS[name][1])


def check_cell(value: Any, argument: str) -> None:
    """Refuse anything but a Cell, with a bias for each gate, and a recurrent bias or two inputs only where v is."""
    check_parts(value, argument, Cell, "a Cell, like elman()")
    require(len(value.bias) == len(value.gates), f"{argument}.bias", value.bias, PARTS["bias"][1])
    require(len(value.chrono) in (0, len(value.gates)), f"{argument}.chrono", value.chrono, PARTS["chrono"][1])
    for name in ("recurrent_bias", "separate"):
        fits = not getattr(value, name) or value.recurrence != "none"
        require(fits, f"{argument}.{name}", True, 'False, as there is no v where the recurrence is "none"')


def check_chrono(chrono: Any, cells: Sequence[Cell]) -> None:
    """Refuse anything but None and a number of steps above 2, for cells that each have a gate that forgets."""
    if chrono is not None:
        check_int(chrono, "chrono")
        require(chrono > 2, "chrono", chrono, "3 steps or more, or None")
        for cell in cells:
            require(any(cell.chrono), "chrono", chrono, f"None, as the cell {cell.name} has no gate that forgets")


def check_network(network: Any) -> None:
    """Refuse a network with no layer, with parts of other types, or of sizes that are not positive."""
    require(isinstance(network, Network), "network", describe(network), "a Network")
    cells = network.cells
    listed = isinstance(cells, tuple) and cells and all(isinstance(cell, Cell) for cell in cells)
    shown = describe(cells) if isinstance(cells, Cell) else cells
    require(listed, "network.cells", shown, "a tuple of cells, like (elman(),)")
    for index, cell in enumerate(cells):
        if not any(cell is earlier for earlier in cells[:index]):
            check_cell(cell, f"network.cells[{index}]")
    for name in ("inputs", "outputs"):
        check_int(getattr(network, name), f"network.{name}")
    hidden = network.hidden
    if isinstance(hidden, tuple):
        was = Description(f"a tuple of {len(hidden)}")
        require(len(hidden) == len(cells), "network.hidden", was, f"one number, or one for each of {len(cells)} layers")
    for size in hidden if isinstance(hidden, tuple) else (hidden,):
        check_int(size, "network.hidden")
    check_parts(network.loss, "network.loss", Loss, "a Loss, like squared_error()")


def check_params(network: Network, params: Any) -> None:
    """Refuse parameters whose structure, shapes or dtypes are not those of the network, which is a valid one."""
    if not isinstance(params, Params):
        refuse("params", describe(params), "the Params of this network")
    sizes, K, count = layer_sizes(network), network.outputs, len(network.cells)
    check_array(params.V, "params.V", (sizes[-1][1], K), "float")
    dtype = params.V.dtype
    check_array(params.c, "params.c", (K,), dtype)
    layers = params.layers
    if not isinstance(layers, tuple) or len(layers) != count:
        was = Description(f"a tuple of {len(layers)}") if isinstance(layers, tuple) else describe(layers)
        refuse("params.layers", was, f"a tuple of {count} Layer")
    for index, (cell, layer, (D, H)) in enumerate(zip(network.cells, layers, sizes, strict=True)):
        check_layer(cell, layer, f"params.layers[{index}]", D, H, dtype)


def layer_sizes(network: Network) -> tuple[tuple[int, int], ...]:
    """(D, H) of each layer, the lowest first; D of the layers above the first one is H of the layer below."""
    hidden = network.hidden if isinstance(network.hidden, tuple) else (network.hidden,) * len(network.cells)
    return tuple(zip((network.inputs, *hidden[:-1]), hidden, strict=True))


def check_layer(cell: Cell, layer: Any, argument: str, D: int, H: int, dtype: Any) -> None:
    """Refuse a layer whose shapes or dtypes are not those of the cell."""
    if not isinstance(layer, Layer):
        refuse(argument, describe(layer), "a Layer")
    width = len(cell.gates) * H
    check_array(layer.U, f"{argument}.U", (D, width), dtype)
    if cell.recurrence == "none":
        if layer.W is not None:
            refuse(f"{argument}.W", describe(layer.W), f"None: {cell.name} has no recurrent weights")
    else:
        check_array(layer.W, f"{argument}.W", (H, width) if cell.recurrence == "dense" else (width,), dtype)
    check_array(layer.b, f"{argument}.b", (width,), dtype)
    if cell.recurrent_bias:
        check_array(layer.d, f"{argument}.d", (width,), dtype)
    elif layer.d is not None:
        refuse(f"{argument}.d", describe(layer.d), f"None: {cell.name} has no recurrent bias")
    count = len(cell.parameters)
    if not isinstance(layer.p, tuple) or len(layer.p) != count:
        was = Description(f"a tuple of {len(layer.p)}") if isinstance(layer.p, tuple) else describe(layer.p)
        refuse(f"{argument}.p", was, f"a tuple of {count} arrays")
    for parameter, p in zip(cell.parameters, layer.p, strict=True):
        check_array(p, f"{argument}.p ({parameter.name})", (H,), dtype)


def check_layer_window(cell: Any, layer: Any, xs: Any, s0: Any, mask: Any, reset: Any) -> tuple[int, int, Any]:
    """Refuse whatever of one layer and a window does not fit the cell or each other; returns B, H and the dtype."""
    check_cell(cell, "cell")
    require(isinstance(layer, Layer), "layer", describe(layer), "a Layer, as from init_layer")
    G = len(cell.gates)
    check_array(layer.b, "layer.b", (f"{G}·H",), "float")
    H, dtype = layer.b.shape[0] // G, layer.b.dtype
    check_array(layer.U, "layer.U", ("D", G * H), dtype)
    if cell.recurrence == "dense" and is_array(layer.W) and layer.W.ndim == 2 and layer.W.shape[0] != H:
        was = Description(f"one with W {describe(layer.W)}")
        refuse("layer", was, f"one made for {cell.name}, which has {G} gate{'s' * (G > 1)}, as by init_layer")
    D = layer.U.shape[0]
    check_layer(cell, layer, "layer", D, H, dtype)
    _, B = check_inputs(xs, D, dtype)
    check_flags(mask, reset, xs, D)
    if s0 is not None:
        check_units(cell, s0, "s0", B, H, dtype)
    return B, H, dtype


def check_units(cell: Cell, s: Any, argument: str, B: int, H: int, dtype: Any) -> None:
    """Refuse the state of a layer unless it is S arrays [B, H]."""
    count = len(cell.states)
    if not isinstance(s, tuple) or len(s) != count:
        names = ", ".join(cell.states) + "," * (count == 1)
        given = Description(f"a tuple of {len(s)}") if isinstance(s, tuple) else describe(s)
        refuse(argument, given, f"a tuple ({names}) of the states of {cell.name}, each an array")
    for name, value in zip(cell.states, s, strict=True):
        check_array(value, f"{argument} ({name})", (B, H), dtype)


def check_state(network: Network, state: Any, B: int, dtype: Any, argument: str = "state") -> None:
    """Refuse a recurrent state that does not fit the network and the batch."""
    count = len(network.cells)
    if not isinstance(state, tuple) or len(state) != count:
        refuse(argument, describe(state), f"that of {count} layers")
    for index, (cell, s, (_, H)) in enumerate(zip(network.cells, state, layer_sizes(network), strict=True)):
        check_units(cell, s, f"{argument}[{index}]", B, H, dtype)


def check_inputs(xs: Any, D: int, dtype: Any, within: str = "") -> tuple[int, int]:
    """Refuse inputs of another shape or dtype than tokens [T, B] or floats [T, B, D]; returns (T, B)."""
    if not is_array(xs):
        refuse(f"{within}xs", describe(xs), "an array int[T,B] or float[T,B,D]")
    tokens = jnp.issubdtype(xs.dtype, jnp.integer)
    check_array(xs, f"{within}xs", ("T", "B") if tokens else ("T", "B", D), "int" if tokens else dtype)
    return xs.shape[:2]  # type: ignore[no-any-return]


def check_targets(network: Network, ys: Any, axes: tuple[int, ...], dtype: Any, within: str = "") -> None:
    """Refuse targets of another shape or dtype than the loss takes; ``axes`` are those of the steps."""
    integers = network.loss.integer_targets
    check_array(ys, f"{within}ys", axes if integers else (*axes, network.outputs), "int" if integers else dtype)


def check_flags(mask: Any, reset: Any, xs: Any, D: int, within: str = "") -> None:
    """Refuse flags of other shapes than the inputs', and a token out of range at a step that counts."""
    for name, flags in (("mask", mask), ("reset", reset)):
        if flags is not None:
            check_array(flags, f"{within}{name}", xs.shape[:2], "bool")
    if jnp.issubdtype(xs.dtype, jnp.integer):
        check_indices(xs, f"{within}xs", D, mask)


def check_weights(mask: Any, weight: Any, axes: tuple[int, ...], within: str = "") -> None:
    """Refuse a mask or weights of another shape or dtype than the steps', and a weight below 0 at one that counts."""
    if mask is not None:
        check_array(mask, f"{within}mask", axes, "bool")
    if weight is not None:
        check_array(weight, f"{within}weight", axes, "float")
        if _is_concrete(weight) and _is_concrete(mask):
            numbers = np.asarray(weight if mask is None else np.where(mask, weight, 0), float)
            bad = numbers[~(numbers >= 0) | ~np.isfinite(numbers)]
            require(bad.size == 0, f"{within}weight", Description(f"an array holding {bad[:1]}"), "finite, 0 or more")


def check_init(network: Network, params: Any, batch_size: Any) -> None:
    """Refuse what the init of an algorithm for a valid network is given, where it does not fit."""
    check_params(network, params)
    check_int(batch_size, "batch_size")


def check_update(network: Network, params: Any, carry: Any, batch: Any, fresh: Any = None) -> None:
    """Refuse what the update of an algorithm is given, where it does not fit the network.

    ``fresh(params, batch_size)`` is the carry of a new sequence, whose memory and shared part are compared by shape and
    dtype; None: of an algorithm that carries the recurrent state alone.
    """
    if not isinstance(carry, Carry):
        refuse("carry", describe(carry), "a Carry, as from the algorithm's init")
    check_window(network, params, carry.recurrent, batch, "carry.recurrent")
    if fresh is None:
        for name in ("memory", "shared"):
            part = getattr(carry, name)
            if not isinstance(part, tuple) or len(part) != 0:
                refuse(f"carry.{name}", describe(part), "(), as this algorithm carries the recurrent state alone")
        return
    wanted = jax.eval_shape(lambda params: fresh(params, batch.xs.shape[1]), params)
    for name in ("memory", "shared"):
        ours, theirs = (
            jax.tree.map(lambda a: (jnp.shape(a), getattr(a, "dtype", None)), getattr(each, name))
            for each in (carry, wanted)
        )
        if ours != theirs:
            refuse(f"carry.{name}", describe(getattr(carry, name)), "as from the algorithm's init for this batch size")


def check_window(network: Network, params: Any, state: Any, batch: Any, argument: str = "state") -> None:
    """Refuse whatever does not fit together in one window of a sequence, of a valid network."""
    check_params(network, params)
    check_batch(network, batch, params.V.dtype)
    check_state(network, state, batch.xs.shape[1], params.V.dtype, argument)


def check_batch(network: Network, batch: Any, dtype: Any) -> None:
    """Refuse a batch that does not fit a valid network, with parameters of this dtype."""
    if not isinstance(batch, Batch):
        refuse("batch", describe(batch), "a Batch")
    xs, ys, mask, reset, weight = batch
    axes = check_inputs(xs, network.inputs, dtype, "batch.")
    check_targets(network, ys, axes, dtype, "batch.")
    check_flags(mask, reset, xs, network.inputs, "batch.")
    check_weights(mask, weight, axes, "batch.")
    if network.loss.integer_targets:
        check_indices(ys, "batch.ys", network.outputs, mask, weight)


def _written(value: Any) -> str:
    """As Python writes it; its type where Python will not, as with an int of many thousand digits."""
    try:
        return repr(value)
    except Exception:
        return describe(value)


def _is_concrete(value: Any) -> bool:
    return not isinstance(value, jax.core.Tracer)
