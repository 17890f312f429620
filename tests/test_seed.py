"""The character RNN in plain NumPy agrees with the library, and every classic mistake in writing it is caught.

``forward`` and ``backward`` are the whole method, one sequence and one step at a time.  ``MISTAKES`` rewrites one piece
of their text and names what the comparison then finds wrong, no more and no less.  With D = H = K every mistake of
shape runs, and only the numbers tell; with three different sizes NumPy refuses most of them.
"""

import inspect
from typing import NamedTuple

import jax
import numpy as np
import optax
import pytest
from fixtures import exact_algorithms

import rnn_jax as rj

T = 7
SIZES = {"square": (5, 5, 5), "oblong": (4, 5, 6)}


def forward(U, W, V, b, c, x):
    h, y_hat = np.zeros((len(x), len(b))), np.zeros((len(x), len(c)))
    for t in range(len(x)):
        z = U[x[t]] + b
        z = z + (h[t - 1] @ W if t > 0 else 0)
        h[t] = np.tanh(z)
        o = h[t] @ V + c
        e = np.exp(o - o.max())
        y_hat[t] = e / e.sum()
    return y_hat, h


def backward(U, W, V, b, c, x, y):
    y_hat, h = forward(U, W, V, b, c, x)
    steps = np.arange(len(x))
    loss = -np.log(y_hat[steps, y]).sum()
    delta_o = y_hat.copy()
    delta_o[steps, y] -= 1
    delta_h = np.zeros_like(h)
    dU, dW, dV, db, dc = (np.zeros_like(M) for M in (U, W, V, b, c))
    for t in reversed(steps):
        delta_h[t] = delta_o[t] @ V.T
        if t < len(x) - 1:
            delta_h[t] += (delta_h[t + 1] * (1 - h[t + 1] ** 2)) @ W.T
        delta_z = delta_h[t] * (1 - h[t] ** 2)
        dU += np.outer(np.eye(len(U))[x[t]], delta_z)
        if t > 0:
            dW += np.outer(h[t - 1], delta_z)
        db += delta_z
        dV += np.outer(h[t], delta_o[t])
        dc += delta_o[t]
    return {"loss": loss, "y_hat": y_hat, "h": h, "dU": dU, "dW": dW, "dV": dV, "db": db, "dc": dc}


class Mistake(NamedTuple):
    right: str
    wrong: str
    symptoms: str
    """What differs by more than 1e-3, or the error raised; everything else agrees to 1e-12."""
    oblong: str | None = None
    """The same where D, H and K differ, if it is something else."""


EVERYTHING = "loss y_hat h dU dW dV db dc"
MISTAKES = {
    "forward returns its step": Mistake("return y_hat, h", "return y_hat, t", "IndexError"),
    "second step forgets the first": Mistake("if t > 0 else", "if t > 1 else", EVERYTHING),
    "recurrence reads its own step": Mistake("h[t - 1] @ W if", "W @ z if", EVERYTHING),
    "recurrence adds the output bias": Mistake("h[t - 1] @ W if", "h[t - 1] @ W + c if", EVERYTHING, "ValueError"),
    "readout is transposed": Mistake("h[t] @ V", "V @ h[t]", "loss y_hat dU dW dV db dc", "ValueError"),
    "delta_o is an alias of y_hat": Mistake("y_hat.copy()", "y_hat", "y_hat"),
    "recurrent share overwrites delta_h": Mistake("delta_h[t] += (", "delta_h[t] = (", "dU dW db"),
    "dV is an inner product": Mistake("np.outer(h[t], delta_o[t])", "h[t] @ delta_o[t]", "dV", "ValueError"),
    "dW is an inner product": Mistake("np.outer(h[t - 1], delta_z)", "h[t - 1] @ delta_z", "dW"),
    "dU is an inner product": Mistake(
        "np.outer(np.eye(len(U))[x[t]], delta_z)", "np.eye(len(U))[x[t]] @ delta_z", "dU", "ValueError"
    ),
    "dU marks all tokens": Mistake("np.eye(len(U))[x[t]]", "np.eye(len(U))[x].max(axis=0)", "dU"),
    "loss has no logarithm": Mistake("-np.log(y_hat[steps, y])", "-y_hat[steps, y]", "loss"),
    # No mistake in the numbers, only in the cost: a product with a diagonal matrix is elementwise.
    "Jacobian is a matrix": Mistake(
        "(delta_h[t + 1] * (1 - h[t + 1] ** 2))", "(delta_h[t + 1] @ np.diag(1 - h[t + 1] ** 2))", ""
    ),
}


def with_mistake(mistake):
    source = inspect.getsource(forward) + inspect.getsource(backward)
    assert source.count(mistake.right) == 1
    functions = {"np": np}
    exec(source.replace(mistake.right, mistake.wrong), functions)
    return functions["backward"]


def problem(sizes):
    """U, W, V, b, c, tokens x and targets y, none of them special."""
    D, H, K = SIZES[sizes]
    rng = np.random.default_rng(0)
    U, W, V, b, c = (rng.normal(size=shape) / 2 for shape in ((D, H), (H, H), (H, K), (H,), (K,)))
    return U, W, V, b, c, rng.integers(D, size=T), rng.integers(K, size=T)


def library(U, W, V, b, c, x, y, algorithm=rj.bptt):
    network = rj.Network((rj.elman(),), *U.shape, len(c), rj.softmax_cross_entropy())
    params, batch = rj.Params((rj.Layer(U, W, b),), V, c), rj.Batch(x[:, None], y[:, None])

    @jax.jit
    def run(params, batch):
        state = rj.network.initial_state(network, params, 1)
        hs, _ = rj.unroll(network.cells[0], params.layers[0], batch.xs, state[0])
        y_hat = jax.nn.softmax(rj.network.readout(params, hs))
        return hs[:, 0], y_hat[:, 0], rj.value_and_grad(algorithm(network))(params, batch)

    h, y_hat, (loss, grads) = jax.tree.map(np.asarray, run(params, batch))
    (dU, dW, db, *_), dV, dc = grads.layers[0], grads.V, grads.c
    return {"loss": loss, "y_hat": y_hat, "h": h, "dU": dU, "dW": dW, "dV": dV, "db": db, "dc": dc}


def differences(ours, reference):
    return {name: np.linalg.norm(ours[name] - ref) / np.linalg.norm(ref) for name, ref in reference.items()}


@pytest.fixture(scope="module", params=SIZES)
def case(request):
    """The sizes' name, a problem of these sizes and what the library makes of it."""
    args = problem(request.param)
    return request.param, args, library(*args)


@pytest.mark.parametrize("sizes", SIZES)
@exact_algorithms
def test_library_is_the_plain_loop(algorithm, sizes):
    args = problem(sizes)
    errors = differences(library(*args, algorithm), backward(*args))
    assert max(errors.values()) <= 1e-12, errors


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_caught(name, case):
    (sizes, args, right), mistake = case, MISTAKES[name]
    symptoms = mistake.oblong if sizes == "oblong" and mistake.oblong is not None else mistake.symptoms
    try:
        errors = differences(with_mistake(mistake)(*args), right)
    except (IndexError, ValueError) as error:
        assert type(error).__name__ == symptoms
    else:
        assert {name for name, error in errors.items() if error > 1e-3} == set(symptoms.split()), errors
        assert all(error <= 1e-12 for name, error in errors.items() if name not in symptoms.split()), errors


def test_nothing_is_edited_in_place():
    """Neither the gradient nor the error of a loss writes into what it was given, NumPy arrays included."""
    args = problem("square")
    copies = [array.copy() for array in args]
    library(*args)
    os, loss = np.random.default_rng(1).normal(size=(T, 1, 5)), rj.softmax_cross_entropy()
    before = os.copy()
    loss.error(os, args[-1][:, None])
    for array, copy in zip((*args, os), (*copies, before), strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize(
    ("clip", "clipped"),
    [
        (optax.clip, lambda g, limit: np.clip(g, -limit, limit)),
        (optax.clip_by_global_norm, lambda g, limit: g * limit / np.linalg.norm(g)),
    ],
)
def test_clip_reaches_the_step(clip, clipped):
    """A limit chained before the optimizer is a limit on the step itself."""
    grads = library(*problem("oblong"))
    g = np.concatenate([grads[name].ravel() for name in ("dU", "dW", "dV", "db", "dc")])
    limit = np.median(np.abs(g))

    def error(optimizer):
        update, _ = optimizer.update(g, optimizer.init(g))
        wanted = -0.01 * clipped(g, limit)
        return np.linalg.norm(update - wanted) / np.linalg.norm(wanted)

    assert error(optax.chain(clip(limit), optax.sgd(0.01))) <= 1e-12
    assert error(optax.sgd(0.01)) > 1e-3
