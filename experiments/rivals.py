"""The learning rules of other libraries: what rules_benchmark.py measures this project's rules against.

Each runs as its users run it, on the network, the weights and the data that it is given: one Elman layer with tanh, a
linear readout and half the squared error, summed over the steps and the batch.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import rnn_jax as rj

BRAINTRACE, VANILLA = "braintrace", "vanilla-rtrl"
FIND = {
    BRAINTRACE: ("braintrace", "pip install braintrace"),
    VANILLA: ("learning_algorithms", "not on PyPI; clone github.com/omarschall/vanilla-rtrl into PYTHONPATH"),
}
"""The module of each library, and how to get it."""


class Gradient(NamedTuple):
    """∂L/∂[U; W] of a run, [D + H, H]."""

    U: Any
    W: Any


class Rival(NamedTuple):
    """A rule of another library."""

    library: str
    rule: str
    """The rule of this project that it stands beside."""
    exact: bool
    build: Callable[[rj.Params, rj.Batch], Callable[[], Gradient]]
    """``(params, batch) -> call``: a call starts from the zero state, and waits for the gradient of the whole batch."""
    batches: tuple[bool, ...] = (False, True)
    """Whether it runs on one example, on several ones, or on both."""


def missing(library: str) -> str | None:
    """How to get a library that is not installed; None where it is."""
    module, how = FIND[library]
    return None if find_spec(module) else f"{library} is not installed ({how})"


def braintrace(
    algorithm: str, chunk: int | None = None, vmap: bool = False, **settings: Any
) -> Callable[..., Callable[[], Gradient]]:
    """A rule of braintrace, one step after another, or ``chunk`` steps at a time; ``vmap``: mapped over examples."""

    def build(params: rj.Params, batch: rj.Batch) -> Callable[[], Gradient]:
        import brainstate
        import braintrace

        (layer,), (D, H), B = params.layers, params.layers[0].U.shape, batch.xs.shape[1]

        class Model(brainstate.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.recurrent = braintrace.nn.ValinaRNNCell(D, H, activation="tanh")
                self.readout = braintrace.nn.Linear(H, params.V.shape[1])

            def update(self, x: jax.Array) -> jax.Array:
                return self.readout(self.recurrent(x))

        model = Model()
        method = {} if algorithm == "UORO" else {"vjp_method": "single-step" if chunk is None else "multi-step"}
        rule = getattr(braintrace, algorithm)
        learner = braintrace.compile(model, rule, batch.xs[0], batch_size=B, vmap=vmap, **method, **settings)
        recurrent = jnp.concatenate([layer.U, layer.W]), layer.b
        for name, state in model.states(brainstate.ParamState).items():
            weight, bias = recurrent if "recurrent" in str(name) else (params.V, params.c)
            state.value = {key: weight if "weight" in key else bias for key in state.value}
        states = [state for state in learner.states().values() if not isinstance(state, brainstate.ParamState)]
        starts = [state.value for state in states]  # its own reset of a mapped learner leaves a part of the influence

        def loss(x: jax.Array, y: jax.Array) -> jax.Array:
            if chunk is None:
                return 0.5 * jnp.square(learner(x) - y).sum()
            return 0.5 * jnp.square(learner(braintrace.MultiStepData(x)) - y).sum(axis=(1, 2))

        @brainstate.transform.jit
        def gradient(xs: jax.Array, ys: jax.Array) -> Any:
            for state, start in zip(states, starts, strict=True):
                state.value = start
            return learner.etrace_grad(xs, ys, step_fn=loss, chunk_size=chunk, reduction="sum")

        def call() -> Gradient:
            grads = jax.block_until_ready(gradient(batch.xs, batch.ys))
            weight = next(each["weight"] for name, each in grads.items() if "recurrent" in str(name))
            return Gradient(weight[:D], weight[D:])

        return call

    return build


def vanilla(algorithm: str) -> Callable[..., Callable[[], Gradient]]:
    """A rule of vanilla-rtrl, which is NumPy in float64, for one example."""

    def build(params: rj.Params, batch: rj.Batch) -> Callable[[], Gradient]:
        import core
        import functions
        import learning_algorithms

        (layer,), D = params.layers, params.layers[0].U.shape[0]
        weights = (np.asarray(each.T, np.float64) for each in (layer.U, layer.W, params.V, layer.b, params.c))
        model = core.RNN(*weights, functions.tanh, 1, functions.identity, functions.mean_squared_error)
        xs, ys = (np.asarray(each[:, 0], np.float64) for each in (batch.xs, batch.ys))

        def call() -> Gradient:
            model.reset_network(h=np.zeros(model.n_h))
            rule, total = getattr(learning_algorithms, algorithm)(model), 0
            for x, y in zip(xs, ys, strict=True):
                model.next_state(x)
                model.z_out()
                model.error = model.loss.f_prime(model.z, y)
                rule.update_learning_vars()
                dW, dU, *_ = rule()
                total = total + np.concatenate([dU, dW], axis=1).T
            return Gradient(total[:D], total[D:])

        return call

    return build


ONE, SEVERAL = (False,), (True,)
RIVALS = {
    "braintrace SnAp(2)": Rival(BRAINTRACE, "rtrl", True, braintrace("SnAp", n=2), ONE),
    "braintrace SnAp(2), vmap": Rival(BRAINTRACE, "rtrl", True, braintrace("SnAp", n=2, vmap=True), SEVERAL),
    "braintrace OSTLRecurrent": Rival(BRAINTRACE, "snap", False, braintrace("OSTLRecurrent"), ONE),
    "braintrace OSTLRecurrent, vmap": Rival(BRAINTRACE, "snap", False, braintrace("OSTLRecurrent", vmap=True), SEVERAL),
    "braintrace D_RTRL": Rival(BRAINTRACE, "eprop", False, braintrace("D_RTRL")),
    "braintrace D_RTRL, vmap": Rival(BRAINTRACE, "eprop", False, braintrace("D_RTRL", vmap=True), SEVERAL),
    "braintrace EProp": Rival(BRAINTRACE, "eprop", False, braintrace("EProp")),
    "braintrace UORO, 10 steps": Rival(BRAINTRACE, "uoro", False, braintrace("UORO", 10)),
    "braintrace UORO, 50 steps": Rival(BRAINTRACE, "uoro", False, braintrace("UORO", 50)),
    "vanilla-rtrl RTRL": Rival(VANILLA, "rtrl", True, vanilla("RTRL"), ONE),
    "vanilla-rtrl UORO": Rival(VANILLA, "uoro", False, vanilla("UORO"), ONE),
    "vanilla-rtrl KF_RTRL": Rival(VANILLA, "kf_rtrl", False, vanilla("KF_RTRL"), ONE),
}
"""Every rival by its name.  braintrace's exact RTRL is its SnAp of order 2, which takes several examples only mapped;
its OSTLRecurrent is SnAp-1, several times faster mapped; its D_RTRL and EProp are e-prop with symmetric feedback.  One
step after another, its rules leave the readout's gradient out."""
