"""Whatever does not fit is refused in one line that names it; where numbers cannot be looked at, they turn into NaN."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fixtures import algorithms, make_batch, make_params, make_state, update_of

import rnn_jax as rj
from rnn_jax.checks import check_window

T, B = 4, 3
KEY = jax.random.key(0)


class Window(NamedTuple):
    """All that an update is given; its fields are the first words of the paths below."""

    network: rj.Network
    params: rj.Params
    state: tuple
    batch: rj.Batch


def window(network, dtype=None):
    params = jax.jit(make_params, static_argnums=0)(network)
    return Window(
        network, params, make_state(network, B), make_batch(network, T, B, mask=True, reset=True, dtype=dtype)
    )


@pytest.fixture(scope="module")
def good():
    return {
        "tokens": window(rj.Network((rj.gru(), rj.lstm()), 6, 5, 7, rj.softmax_cross_entropy())),
        "floats": window(rj.Network((rj.elman(),), 6, 5, 7, rj.squared_error()), "float64"),
    }


def refused(argument, call):
    with pytest.raises(rj.InputError) as error:
        call()
    message = str(error.value)
    assert argument in message and "\n" not in message and len(message) < 400, message


def edit(value, path, change):
    """The same nested tuples, with what stands at the path, like ``params.layers[0].U``, changed."""
    match = re.match(r"\.?(?P<name>\w+)|\[(?P<index>\d+)\]", path)
    if match is None:
        return change(value)
    rest = path[match.end() :]
    if match["name"]:
        return value._replace(**{match["name"]: edit(getattr(value, match["name"]), rest, change)})
    index = int(match["index"])
    return (*value[:index], edit(value[index], rest, change), *value[index + 1 :])


CHANGES = {
    "absent": lambda value: None,
    "empty tuple": lambda value: (),
    "too many": lambda value: (value,) * 3,
    "zero": lambda value: 0,
    "negative": lambda value: value - 7,
    "too large": lambda value: value + 7,
    "tuple": tuple,
    "list": list,
    "numbers": lambda value: np.asarray(value).tolist(),
    "string": lambda value: "7",
    "empty": lambda value: value[:0],
    "short": lambda value: value[:-1],
    "narrow": lambda value: value[..., :-1],
    "flat": lambda value: value[..., 0],
    "deep": lambda value: value[..., None],
    "transposed": lambda value: value.T,
    "no steps": lambda value: jax.tree.map(lambda a: a[:0], value),
    "no examples": lambda value: jax.tree.map(lambda a: a[:, :0], value),
    **{
        dtype: lambda value, dtype=dtype: value.astype(dtype)
        for dtype in ("int32", "bool", "float32", "float64", "complex128")
    },
}

# In a window of such inputs, what stands at the path is changed in each of these ways; the message names the path, or
# what the last column says.
WINDOWS = [
    ("tokens", "network", ["absent", "tuple"], None),
    ("tokens", "network.cells", ["absent", "empty", "list", "string"], None),
    *[("tokens", f"network.{size}", ["zero", "negative", "absent", "string"], None) for size in ("inputs", "hidden")],
    ("tokens", "network.outputs", ["zero", "absent"], None),
    ("tokens", "network.loss", ["absent", "tuple"], None),
    ("tokens", "network.hidden", ["empty tuple", "too many"], None),
    ("tokens", "params", ["absent", "tuple"], None),
    ("tokens", "params.layers", ["absent", "list", "empty", "short"], None),
    ("tokens", "params.layers[0]", ["absent", "tuple"], None),
    ("tokens", "params.layers[0].U", ["absent", "numbers", "int32", "transposed", "short", "narrow"], None),
    ("tokens", "params.layers[1].W", ["absent", "complex128", "flat"], None),
    ("tokens", "params.layers[0].b", ["deep", "short"], None),
    ("tokens", "params.layers[0].d", ["absent", "short"], None),
    ("floats", "params.layers[0].d", ["zero"], None),
    ("tokens", "params.V", ["absent", "transposed", "int32"], None),
    ("tokens", "params.c", ["deep", "short"], None),
    ("tokens", "params.c", ["float32"], "params"),
    ("tokens", "state", ["absent", "list", "short"], None),
    ("tokens", "state[1]", ["absent", "list", "short"], None),
    ("tokens", "state[0][0]", ["absent", "numbers", "short", "narrow", "int32", "float32"], "state[0] (h)"),
    ("tokens", "state[1][1]", ["flat", "float32"], "state[1] (c)"),
    ("tokens", "batch", ["absent", "tuple"], None),
    ("tokens", "batch", ["no steps", "no examples"], "batch.xs"),
    ("tokens", "batch.xs", ["absent", "numbers", "flat", "deep", "float64", "bool", "negative", "too large"], None),
    ("tokens", "batch.xs", ["short", "narrow"], "batch.ys"),
    ("floats", "batch.xs", ["flat", "deep", "narrow", "float32", "complex128"], None),
    ("floats", "batch.xs", ["short"], "batch.ys"),
    ("tokens", "batch.ys", ["absent", "short", "narrow", "deep", "float64", "negative", "too large"], None),
    ("floats", "batch.ys", ["absent", "short", "narrow", "flat", "int32", "float32"], None),
    ("tokens", "batch.mask", ["short", "narrow", "flat", "int32", "numbers"], None),
    ("tokens", "batch.reset", ["short", "narrow", "flat", "float64", "numbers"], None),
]
ROWS = [
    (inputs, path, change, (named or path).replace("state", "carry.recurrent"))
    for inputs, path, changes, named in WINDOWS
    for change in changes
]


@algorithms
@pytest.mark.parametrize(("inputs", "path", "change", "named"), ROWS, ids=["-".join(row[:3]) for row in ROWS])
def test_window_is_refused(inputs, path, change, named, algorithm, good):
    bad = edit(good[inputs], path, CHANGES[change])
    refused(named, lambda: update_of(algorithm(bad.network))(*bad[1:]))


@algorithms
@pytest.mark.parametrize("path", ["params.layers[1].W", "batch.mask", "batch.ys"])
def test_shape_is_refused_under_jit(path, algorithm, good):
    bad = edit(good["tokens"], path, CHANGES["narrow"])
    refused(path, lambda: jax.jit(update_of(algorithm(bad.network)))(*bad[1:]))


def sample(good, prime=(1, 2), length=3, temperature=1.0):
    letters = good["tokens"].network._replace(outputs=6)
    params = edit(good["tokens"].params, "V", CHANGES["narrow"])._replace(c=jnp.zeros(6))
    return rj.sample(letters, params, KEY, np.asarray(prime), length, temperature)


NAN = float("nan")
GATED = rj.Network((rj.lstm(),), 3, 4, 2, rj.squared_error())
OPTIONS = [
    ("activation", ["swish", None, ["tanh"]], lambda good, value: rj.elman(value)),
    ("leak", [0, 2, -0.5, NAN, "0.5", None], lambda good, value: rj.elman(leak=value)),
    ("forget_bias", [NAN, "one", None], lambda good, value: rj.lstm(value)),
    ("recurrent", ["xavier", None], lambda good, value: rj.init(good["tokens"].network, KEY, recurrent=value)),
    ("chrono", [2, -1, 30.0, "30", True], lambda good, value: rj.init(GATED, KEY, chrono=value)),
    ("dtype", [int, bool, complex, "float65"], lambda good, value: rj.init(good["tokens"].network, KEY, dtype=value)),
    ("network.hidden", [0, -1, 2.5], lambda good, value: rj.init(good["tokens"].network._replace(hidden=value), KEY)),
    ("segment", [0, -1, 2.5, "3", True], lambda good, value: rj.bptt(good["tokens"].network, value)),
    ("recompute", [1, None, "yes"], lambda good, value: rj.bptt(good["tokens"].network, recompute=value)),
    (
        "batch_size",
        [0, -1, 2.5, None, True],
        lambda good, value: rj.bptt(good["tokens"].network).init(good["tokens"].params, value),
    ),
    ("algorithm", [None, "bptt"], lambda good, value: rj.value_and_grad(value)),
    (
        "batch",
        [None, ()],
        lambda good, value: rj.value_and_grad(rj.bptt(good["tokens"].network))(good["tokens"].params, value),
    ),
    ("grads", [None, ()], lambda good, value: rj.compare(value, good["tokens"].params)),
    ("prime", [np.zeros(0, int), [[1]], [1.0], [1, 6], [-1]], lambda good, value: sample(good, prime=value)),
    ("length", [-1, 2.5, None], lambda good, value: sample(good, length=value)),
    ("temperature", [-1.0, NAN, "hot", None], lambda good, value: sample(good, temperature=value)),
    ("network.inputs", [(1, 2)], lambda good, value: rj.sample(*good["tokens"][:2], KEY, np.asarray(value), 3)),
]
CALLS = [(argument, value, call) for argument, values, call in OPTIONS for value in values]


@pytest.mark.parametrize(("argument", "value", "call"), CALLS, ids=[f"{call[0]}={call[1]}" for call in CALLS])
def test_option_is_refused(argument, value, call, good):
    refused(argument, lambda: call(good, value))


@algorithms
@pytest.mark.parametrize("leaf", ["xs", "ys"])
def test_index_out_of_range_under_jit(leaf, algorithm, good):
    """It gives NaN, never the value of a neighbour; in a step that does not count, it changes nothing at all."""
    network, params, state, batch = good["tokens"]
    update = jax.jit(update_of(algorithm(network)))
    counts = jnp.ones((T, B), bool)
    masked = counts.at[1, 2].set(False)
    wanted = update(params, state, batch._replace(mask=masked))
    for index in (-1, 7, 1000):
        bad = batch._replace(**{leaf: getattr(batch, leaf).at[1, 2].set(index)})
        (loss, _), _ = update(params, state, bad._replace(mask=counts))
        assert jnp.isnan(loss)
        check_window(network, params, state, bad._replace(mask=masked))
        jax.tree.map(np.testing.assert_array_equal, update(params, state, bad._replace(mask=masked)), wanted)
