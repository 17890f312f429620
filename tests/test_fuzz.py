"""Thousands of calls, each wrong in one place: every one is refused in one line that names the place."""

import functools
import inspect
import math
import os
import re
import signal
from types import SimpleNamespace

import chex
import jax
import numpy as np
import optax
import pytest
from char_runs import script
from fixtures import make_batch, make_params, make_state, marked, update_of

import rnn_jax as rj
from rnn_jax import checkpoint, data, diagnostics, network, train

T, B, DRAWS, SECONDS = 4, 3, 250, 300
KEY = jax.random.key(0)
TOKENS = rj.Network((rj.gru(), rj.lstm()), 6, 5, 6, rj.softmax_cross_entropy())
FLOATS = rj.Network((rj.elman(leak=0.5),), 2, 5, 7, rj.squared_error())
TEXT = "To be, or not to be, that is the question — 🙂\n"

# What stands in for a valid argument, or for a part of one, of any type.
JUNK = {
    "nothing": None, "word": "x", "no word": "", "bytes": b"x", "true": True, "type": int, "ellipsis": ...,
    "zero": 0, "three": 3, "minus": -1, "fraction": 2.5, "float64": np.float64(1), "complex": 1j,
    "nan": math.nan, "infinity": math.inf, "huge": 10**30, "endless": 10**5000,
    "empty list": [], "list": [1], "no tuple": (), "tuple": (None,), "dict": {"a": 1}, "set": {1},
    "object": object(), "function": lambda *arguments: arguments,
    "scalar array": np.zeros(()), "empty array": np.zeros(0), "objects": np.array([object(), None]),
    "words": np.array(["x"]), "dates": np.zeros(3, "datetime64[s]"), "records": np.zeros(3, "i4,f8"),
    "no network": rj.Network((), 0, 0, 0, None), "no params": rj.Params((), None, None),
    "no layer": rj.Layer(None, None, None), "no batch": rj.Batch(None, None), "no loss": rj.Loss("", None, None, True),
    "no algorithm": rj.Algorithm(None, None), "no cell": rj.Cell("", (), (), None, None, ()),
}  # fmt: skip

# What else may become of a tuple, of a PRNG key, and of an array whose dtype is of one of these kinds.
TUPLES = {"listed": list, "short": lambda a: a[:-1], "long": lambda a: (*a, *a[:1])}
KEYS = {"raw": lambda key: np.zeros(3, np.uint32), "several": jax.random.split}
ARRAYS = {
    "short": ("iufb", lambda a, axis: np.delete(a, 0, axis)),
    "long": ("iufb", lambda a, axis: np.concatenate([a, a], axis)),
    "empty": ("iufb", lambda a, axis: a[:0]),
    "flat": ("iufb", lambda a, axis: a[0]),
    "deep": ("iufb", lambda a, axis: a[..., None]),
    "listed": ("iufb", lambda a, axis: a.tolist()),
    "boxed": ("iufb", lambda a, axis: a.astype(object)),
    "swapped": ("iuf", lambda a, axis: a.astype(a.dtype.newbyteorder())),
    "above": ("iu", lambda a, axis: a + 1000),
    "below": ("iu", lambda a, axis: a - 1000),
    "nowhere": ("b", lambda a, axis: np.zeros_like(a)),
    **{
        dtype: (kinds, lambda a, axis, dtype=dtype: a.astype(dtype))
        for kinds, dtypes in (("iuf", ["bool"]), ("fb", ["int32", "uint8"]), ("iufb", ["float16", "complex128"]))
        for dtype in dtypes
    },
    "float32": ("iub", lambda a, axis: a.astype("float32")),
}

# Changes, written "call: path change", that make no mistake, or one that only numbers under jit would tell.
VALID = re.compile(
    r"""
    .*\.name\ (word|no\ word) | encode:\ argument\ (word|no\ word) | encode:\ text\ no\ word
  | .*(states|gates)\[\d\]\ (word|no\ word) | .*network.*(states|gates|bias|cells)\ (short|long)
  | .*(parameters|\.p)\ (short|long) | init_layer:\ cell\.states\ (short|long)
  | .*chrono\[\d\]\ (zero|minus) | .*chrono\ (three|no\ tuple)
  | .*bias\[\d\]\ (huge|zero|three|minus|fraction|float64) | lstm:.*\ (huge|zero|three|minus|fraction|float64)
  | elman:\ leak\ float64 | sample:\ temperature\ (huge|zero|three|fraction|float64) | init:\ dtype\ float64
  | .*(mask|reset|weight|key|clip|segment|shortest|s0)\ nothing | .*(signs|oracle)\ (function|type|no\ \w+|nothing)
  | .*(integer_targets|recurrent_bias|separate|recompute|diagonal|peepholes|online)\ true
  | .*(step|adjoint|value|error|init|update|batch_at)\ (function|type)
  | .*(inputs|hidden|outputs|length|batch_size|segment|steps|every|index|count|warm_up|n|directions|history|rank)\ three
  | .*(T|B|lag|shortest)\ three
  | (eprop|dni):\ (rate|decay).*\ (zero|three|fraction|float64|huge)
  | .*(length|index|warm_up)\ zero | clip_by_global_norm:.*(huge|three|fraction|float64)
  | .*(prime|stream|tokens|hs)\ (short|long) | (decode|readout):.*\ empty | readout:\ hs\ flat
  | readout:\ params\.layers.*
  | (training|evaluation)_windows?:\ stream\ (above|below) | .*\breset\ nowhere
  | .*(mask)\ nowhere | .*weight\ (above|float32) | per_step_losses:.*(above|below|nowhere)
  | lyapunov_spectrum:\ count\ nothing | fixed_points:\ iterations\ three | fixed_points:\ starts.*\ (short|long)
  | fixed_points:\ (tolerance|distance)\ (three|fraction|float64|huge)
  | alignment:\ gradients\.\w+\..* | bias_and_variance:\ (draws|exact)\..*
  | compare:.*\ (float16|swapped) | run:.*(xs|ys|step)\ (above|below) | run:.*(mask|finite)\ nowhere
  | save:\ folder\ word | save:\ state\.(params|optimiser|carry|finite).*
  | exists:\ folder\ word
  | (restore|state_of|params_of):\ template\..*\ empty\ array
  | (restore|state_of|params_of):\ template\..*\ (nothing|listed|tuple|long|short|empty\ list|no\ \w+|nowhere)
    """,
    re.VERBOSE,
)


def start():
    return train.init_state(rj.bptt(TOKENS), optax.adam(0.1), make_params(TOKENS), B)


def run(step, state, batch, steps, every):
    return list(train.run(step, state, lambda index: batch, steps, every))


def settings(algorithm):
    """What an algorithm is built with beside the network, by default."""
    return {name: each.default for name, each in list(inspect.signature(algorithm).parameters.items())[1:]}


def update(algorithm):
    return lambda network, **rest: update_of(algorithm(network))(**rest)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """What valid calls are made of."""
    params, batch = make_params(TOKENS), make_batch(TOKENS, T, B, mask=True, reset=True)
    flags = {"mask": batch.mask, "reset": batch.reset}
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "text.txt").write_text(9 * TEXT)
    checkpoint.save(folder / "saved", start())
    window, method = {"state": make_state(TOKENS, B), "batch": batch}, {"algorithm": rj.bptt(TOKENS)}
    float_batch = make_batch(FLOATS, T, B, mask=True, reset=True, dtype="float64")
    return SimpleNamespace(
        folder=folder, params=params, batch=batch, flags=flags, xs={"xs": batch.xs, **flags},
        tokens={"network": TOKENS, "params": params}, window={"network": TOKENS, "params": params, **window},
        floats={"network": FLOATS, "params": make_params(FLOATS), "state": make_state(FLOATS, B), "batch": float_batch},
        state=window["state"], compared={"grads": params, "reference": params},
        method={**method, "optimiser": optax.adam(0.1)}, sizes={"length": 7, "batch_size": 2},
    )  # fmt: skip


# Every public function, once: a valid call, and what its errors may name beside the argument.
CALLS = {
    "elman": lambda g: (rj.elman, {"activation": "relu", "leak": 0.5, "diagonal": False}),
    "gru": lambda g: (rj.gru, {"diagonal": False}),
    "indrnn": lambda g: (rj.indrnn, {}),
    "lstm": lambda g: (rj.lstm, {"forget_bias": 1.0, "peepholes": False, "diagonal": False}),
    "min_gru": lambda g: (rj.min_gru, {}),
    "rtu": lambda g: (rj.rtu, {"activation": "tanh"}),
    "softmax_cross_entropy": lambda g: (rj.softmax_cross_entropy, {}),
    "squared_error": lambda g: (rj.squared_error, {}),
    "init": lambda g: (
        rj.init, {"network": TOKENS, "key": KEY, "recurrent": "identity", "dtype": np.dtype("float32"),
                  "chrono": None}),
    "initial_state": lambda g: (network.initial_state, {**g.tokens, "batch_size": B}),
    "apply": lambda g: (network.apply, {**g.tokens, "state": g.state, **g.xs}),
    "readout": lambda g: (network.readout, {"params": g.params, "hs": np.ones((T, B, 5))}),
    "loss": lambda g: (network.loss, g.window),
    "init_layer": lambda g: (
        rj.init_layer, {"cell": rj.gru(), "key": KEY, "inputs": 3, "hidden": 3, "recurrent": "uniform",
                        "dtype": np.dtype("float32"), "chrono": None}),
    "zero_state": lambda g: (lambda **right: rj.zero_state(rj.gru(), 3, 3), {}),
    "micro_batches": lambda g: (rj.micro_batches, {"algorithm": rj.bptt(TOKENS), "count": 3}),
    "delayed_addition": lambda g: (lambda key: data.delayed_addition(key, 5, 2), {"key": KEY}),
    "copying": lambda g: (lambda key, length: data.copying(key, 8, 2, length), {"key": KEY, "length": 2}),
    "adding": lambda g: (data.adding, {"key": KEY, "T": 5, "B": 2}),
    "copy_memory": lambda g: (data.copy_memory, {"key": KEY, "lag": 5, "B": 2}),
    "parity": lambda g: (data.parity, {"key": KEY, "T": 5, "B": 2, "shortest": 2}),
    "flip_flop": lambda g: (data.flip_flop, {"key": KEY, "T": 5, "B": 2}),
    "sum_over_batch": lambda g: (lambda: rj.sum_over_batch(g.params), {}),
    "global_norm": lambda g: (lambda: train.global_norm(g.params), {}),
    "clip_by_global_norm": lambda g: (train.clip_by_global_norm, {"max_norm": 1.0}),
    "per_step_losses": lambda g: (
        network.per_step_losses, {"network": TOKENS, "os": np.ones((T, B, 6)), "ys": g.batch.ys, "mask": g.batch.mask,
                                  "weight": np.ones((T, B))}),
    "sample": lambda g: (
        rj.sample, {**g.tokens, "key": KEY, "prime": np.array([1, 2, 3]), "length": 2, "temperature": 0.5}),
    "unroll": lambda g: (rj.unroll, {"cell": rj.gru(), "layer": g.params.layers[0], "s0": g.state[0], **g.xs}),
    **{name: lambda g, algorithm=algorithm: (algorithm, {"network": TOKENS, **settings(algorithm)})
       for name, algorithm in rj.ALGORITHMS.items()},
    **{f"{name}.init": lambda g, algorithm=algorithm: (
        algorithm(TOKENS).init, {"params": g.params, "batch_size": B}) for name, algorithm in rj.ALGORITHMS.items()},
    **{f"{name}.update": lambda g, algorithm=algorithm: (
        update(algorithm), g.window, "carry.recurrent") for name, algorithm in rj.ALGORITHMS.items()},
    "data_parallel": lambda g: (rj.data_parallel, {"algorithm": rj.bptt(TOKENS), "devices": jax.devices()}),
    "devices_for": lambda g: (rj.devices_for, {"batch_size": B}),
    "bptt.update of floats": lambda g: (update(rj.bptt), g.floats, "carry.recurrent"),
    "value_and_grad": lambda g: (rj.value_and_grad, {"algorithm": rj.bptt(TOKENS)}),
    "value_and_grad()": lambda g: (
        rj.value_and_grad(rj.bptt(TOKENS)), {"params": g.params, "batch": g.batch, "key": KEY}),
    "compare": lambda g: (rj.compare, g.compared, "grads"),
    "worst": lambda g: (diagnostics.worst, {"differences": rj.compare(**g.compared)}),
    "alignment": lambda g: (diagnostics.alignment, {"gradients": {"one": g.params, "other": g.params}}),
    "bias_and_variance": lambda g: (
        diagnostics.bias_and_variance,
        {"draws": jax.tree.map(lambda leaf: np.stack([leaf, leaf]), g.params), "exact": g.params}, "draws|exact"),
    "gradient_flow": lambda g: (diagnostics.gradient_flow, g.window),
    "last_step": lambda g: (lambda: diagnostics.last_step(g.batch), {}),
    "singular_values": lambda g: (diagnostics.singular_values, {**g.tokens, "state": g.state, **g.xs}),
    "lyapunov_spectrum": lambda g: (
        diagnostics.lyapunov_spectrum, {**g.tokens, "state": g.state, **g.xs, "count": 2}),
    "state_jacobian": lambda g: (
        diagnostics.state_jacobian, {**g.tokens, "state": g.state, "x": g.batch.xs[0]}),
    "fixed_points": lambda g: (
        diagnostics.fixed_points, {"network": FLOATS, "params": g.floats["params"], "starts": g.floats["state"],
                                   "x": np.ones(2), "tolerance": 0.1, "distance": 0.1, "iterations": 2}),
    "init_state": lambda g: (train.init_state, {**g.method, "params": g.params, "batch_size": B, "key": KEY}),
    "make_step": lambda g: (train.make_step, {**g.method, "clip": optax.clip(1.0)}),
    "run": lambda g: (
        run, {"step": train.make_step(**g.method), "state": start(), "batch": g.batch, "steps": 2, "every": 1},
        "params|batch_at|carry"),
    "evaluate": lambda g: (train.evaluate, {**g.tokens, "batches": [g.batch, g.batch]}, "batch|state"),
    "save": lambda g: (checkpoint.save, {"folder": str(g.folder / "new"), "state": start()}),
    "restore": lambda g: (checkpoint.restore, {"folder": str(g.folder / "saved"), "template": start()}, "state"),
    "exists": lambda g: (checkpoint.exists, {"folder": str(g.folder / "saved")}),
    "read": lambda g: (checkpoint.read, {"folder": str(g.folder / "saved")}),
    "state_of": lambda g: (
        functools.partial(checkpoint.state_of, checkpoint.read(g.folder / "saved")), {"template": start()}, "state"),
    "params_of": lambda g: (
        functools.partial(checkpoint.params_of, checkpoint.read(g.folder / "saved")), {"template": g.params}, "state"),
    "read_text": lambda g: (data.read_text, {"path": g.folder / "text.txt"}, "text"),
    "shakespeare": lambda g: (data.shakespeare, {}),
    "encode": lambda g: (data.encode, {"text": "abba", "alphabet": "ab", "argument": "text"}, "text"),
    "decode": lambda g: (data.decode, {"tokens": np.array([0, 1, 1]), "alphabet": "ab"}, "tokens"),
    "training_window": lambda g: (data.training_window, {"stream": np.arange(40), **g.sizes, "index": 2}),
    "evaluation_windows": lambda g: (lambda **wrong: list(data.evaluation_windows(**wrong)), {
        "stream": np.arange(40), **g.sizes, "warm_up": 3}),
}  # fmt: skip


def parts(value):
    """The parts of a container by key; nothing for anything else."""
    if isinstance(value, dict):
        return value
    keys = getattr(value, "_fields", range(len(value))) if isinstance(value, tuple | list) else ()
    return {key: value[index] for index, key in enumerate(keys)}


def places(value, path=()):
    """Every path into the arguments, and what stands there."""
    if path:
        yield path, value
    if path[-1:] not in (("differences",), ("claim",)):
        for key, part in parts(value).items():
            yield from places(part, (*path, key))


def replaced(value, path, new):
    """The container with ``new`` at the path."""
    if not path:
        return new
    changed = {**parts(value), path[0]: replaced(parts(value)[path[0]], path[1:], new)}
    if isinstance(value, dict):
        return changed
    return type(value)(**changed) if hasattr(value, "_fields") else type(value)(changed.values())


def changes(value, rng):
    """What may be put for a value, by name; True where the error must name it, not what it has to fit."""
    yield from ((name, junk, True) for name, junk in JUNK.items() if junk is not value)
    if isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        yield from ((name, change(value), True) for name, change in KEYS.items())
    elif isinstance(value, jax.Array | np.ndarray):
        a, axis = np.asarray(value), int(rng.integers(max(value.ndim, 1)))
        for name, (kinds, change) in ARRAYS.items():
            if a.dtype.kind in kinds and (a.ndim or name not in ("short", "long", "empty", "flat")):
                yield name, change(a, axis), False
    elif isinstance(value, tuple):
        yield from ((name, change(value), False) for name, change in TUPLES.items())


@pytest.fixture
def _never_hangs():
    def give_up(*_):
        raise TimeoutError(f"more than {SECONDS} seconds")

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic promotes
        yield
    signal.alarm(0)


@pytest.mark.usefixtures("_never_hangs")
@pytest.mark.parametrize("name", marked(CALLS, ["bptt.update", "loss", "unroll"]))
def test_every_wrong_call_is_refused(name, good):
    function, arguments, *also = CALLS[name](good)
    rng = np.random.default_rng(0)
    wrong = []
    for path, value in places(arguments):
        at = f"{name}: {path[0]}" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path[1:])
        wrong += [(f"{at} {change}", path, *rest) for change, *rest in changes(value, rng)]
    wrong = [each for each in wrong if not VALID.fullmatch(each[0])]
    rng.shuffle(wrong)
    bad = []
    for label, path, new, own in wrong[:DRAWS]:
        try:
            outcome = f"returned {type(function(**replaced(arguments, path, new))).__name__}"
        except Exception as error:
            names = "|".join([path[0]] if own else arguments)
            if isinstance(error, rj.InputError) and re.fullmatch(rf"({'|'.join([names, *also])})\b.*", str(error)):
                continue
            outcome = f"{type(error).__name__}: {error}"
        bad.append(f"{label}: {outcome[:200]}")
    assert not bad, "\n".join(bad)
    function(**arguments)


KNOWN_TO_FIT = {"zero_states", "window_loss", "nan_largest"}
"""Functions for other modules, whose arguments are validated already."""


def test_every_public_function_is_called():
    listed = [getattr(room, name) for room in (rj, data) for name in room.__all__]
    for room in (network, train, checkpoint, diagnostics):
        listed += [part for part in vars(room).values() if getattr(part, "__module__", "").startswith(room.__name__)]
    functions = {part.__name__ for part in listed if inspect.isfunction(part)}
    missing = {name for name in functions if not name.startswith("_")} - KNOWN_TO_FIT - set(CALLS)
    assert not missing, f"give each of {missing} a line in CALLS, with the arguments of a valid call"


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:99]), lambda file: file.unlink()])
def test_a_damaged_checkpoint_is_refused(damage, tmp_path):
    """The same step may be saved again; with all lists of arrays cut short or gone, nothing is restored."""
    state = start()
    for _ in range(2):
        checkpoint.save(tmp_path, state)
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path, state), state)
    for file in list(tmp_path.rglob("_METADATA")):
        damage(file)
    with pytest.raises(rj.InputError, match=r"^folder is .* no checkpoint can be read") as caught:
        checkpoint.restore(tmp_path, state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "40 characters"), (b"x", "40 characters"), (bytes(range(256)), "byte 128 is not UTF-8"),
        (TEXT.encode("utf-16"), "byte 0 is not UTF-8"), (TEXT.encode() + b"\xf0\x9f", "is not UTF-8"),
        (TEXT.encode() + b"\0", "NUL"), ("folder", "existing file"), ("missing", "existing file"),
        ("text/below", "existing file"), ("n" * 300, "text is"), ("\0", "existing file"), ("secret", "text is"),
    ],
)  # fmt: skip
def test_bad_text_is_refused(content, says, tmp_path):
    path = tmp_path / (content if isinstance(content, str) else "text")
    if content == "folder":
        path.mkdir()
    if content == "secret":
        path.touch(mode=0)
        if os.access(path, os.R_OK):
            pytest.skip("root reads everything")
    (tmp_path / "text").write_bytes(content if isinstance(content, bytes) else b"x")
    with pytest.raises(rj.InputError, match=re.escape(says)) as caught:
        data.read_text(path)
    assert str(caught.value).startswith("text is") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["empty", "binary", *(pytest.param(text, marks=pytest.mark.slow) for text in ("one character", "100 MB"))],
)
def test_text_of_the_command_line(content, tmp_path):
    """Refused in one line, or read and trained on."""
    text = {"empty": "", "binary": "\0", "one character": "x" * 4000, "100 MB": TEXT * (10**8 // len(TEXT.encode()))}
    (tmp_path / "text").write_text(text[content], encoding="utf-8")
    result = script("char_lm.py", "--quick", "--hidden", "8", "--text", "text", "--out", "run", cwd=tmp_path)
    if content in ("empty", "binary"):
        assert result.returncode == 2 and result.stderr.startswith("error: text is 'text'"), result.stderr
        assert len(result.stderr.splitlines()) == 1
    else:
        assert result.returncode == 0, result.stderr
