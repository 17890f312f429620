"""Learning rules as textbooks write them, one step at a time, on ``jacobian`` alone: references, and slow.

``online`` drives them: it steps the layers, reads out, and sees to masks, resets, weights and wide sums.  A rule says
what its memory is, and what one step does to it; ``DNI`` works on whole windows and is a function of its own.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

import rnn_jax as rj
from rnn_jax import jacobian, recurrence
from rnn_jax import network as net
from rnn_jax.checks import require
from rnn_jax.losses import total_weight, weighted_errors, weighted_losses
from rnn_jax.precision import accumulation_dtype


class Step(NamedTuple):
    """One step of all layers, for a rule: ``pull`` and ``push`` are its transpose and its tangent."""

    network: rj.Network
    params: rj.Params
    inputs: tuple
    """Per layer, what it read: tokens [B] or floats [B, D]."""
    s_prev: tuple
    s: tuple
    jacobians: tuple
    error: Any
    """∂ℓ_t/∂h_t of the highest layer, [B, H]."""
    delta_o: Any

    def layers(self):
        return list(zip(self.network.cells, self.params.layers, self.inputs, self.s_prev, self.jacobians, strict=True))

    def pull(self, delta_s):
        """(per-example gradients of the layers, δs_prev) from δs of all layers."""
        gradients, before = [], []
        share = jnp.zeros_like(delta_s[-1][0])
        for (cell, layer, x, s_prev, block), delta in reversed(list(zip(self.layers(), delta_s, strict=True))):
            adjoint = jacobian.pull(cell, layer, block, (delta[0] + share, *delta[1:]))
            gradients.insert(0, jacobian.layer_gradients(cell, layer, x, s_prev[0], adjoint))
            before.insert(0, adjoint.delta_s_prev)
            share = adjoint.deltas[0] @ layer.U.T
        return tuple(gradients), tuple(before)

    def push(self, ds_prev):
        """The tangent of all layers' states from that before the step."""
        after, du = [], None
        for (cell, layer, _, _, block), tangent in zip(self.layers(), ds_prev, strict=True):
            after.append(jacobian.push(cell, layer, block, tangent, du))
            du = after[-1][0] @ self.params.layers[len(after)].U if len(after) < len(ds_prev) else None
        return tuple(after)

    def flat_pull(self, delta):
        """From [B, N] to ([B, θ], [B, N])."""
        gradients, before = self.pull(unflatten(self.s, delta))
        return flatten(gradients), flatten(before)

    def flat_error(self):
        """∂ℓ_t/∂s_t, [B, N]."""
        zeros = jax.tree.map(jnp.zeros_like, self.s)
        return flatten((*zeros[:-1], (self.error, *zeros[-1][1:])))


def flatten(tree):
    """Leaves [B, …] side by side, [B, n]."""
    return jnp.concatenate([a.reshape(len(a), -1) for a in jax.tree.leaves(tree)], axis=1)


def unflatten(like, flat):
    """Back to leaves like these, of any batch."""
    leaves, structure = jax.tree.flatten(like)
    sizes = [a[0].size for a in leaves]
    parts = jnp.split(flat, [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)], axis=1)
    shaped = [part.reshape(-1, *a.shape[1:]) for part, a in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def where_rows(condition, new, old):
    """Row by row; keys too."""

    def select(new, old):
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            data = where_rows(condition, jax.random.key_data(new), jax.random.key_data(old))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(old))
        return jnp.where(condition.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(select, new, old)


def forget(condition, memory):
    """Floats of these rows become zero; keys and integers go on."""

    def clear(a):
        floats = jnp.issubdtype(a.dtype, jnp.floating)
        return where_rows(condition, jnp.zeros_like(a), a) if floats else a

    return jax.tree.map(clear, memory)


def step_of(network, params, s_prev, x, y, mask, weight):
    """Run all layers one step, and read out."""
    inputs, s, jacobians = [], [], []
    inputs_of_layer = recurrence.zero_unless(mask[None], x[None])[0]
    for cell, layer, before in zip(network.cells, params.layers, s_prev, strict=True):
        u = recurrence.project(layer, inputs_of_layer[None])[0]
        after, residual = recurrence.step_forward(cell, layer, None, before, u)
        jacobians.append(jacobian.of_step(cell, layer, before, after, residual))
        inputs.append(inputs_of_layer)
        s.append(after)
        inputs_of_layer = after[0]
    o = rj.ops.affine(inputs_of_layer, params.V, params.c)
    losses = weighted_losses(network.loss, o, y, mask, weight)
    delta_o = weighted_errors(network.loss, o, y, mask, weight)
    step = Step(network, params, tuple(inputs), s_prev, tuple(s), tuple(jacobians), delta_o @ params.V.T, delta_o)
    return step, losses


def online(network, claim, memory_of, step_rule, shared_of=lambda params, key: (), wrong=""):
    """An algorithm from a rule: ``step_rule(step, memory, shared) -> (per-example gradients, memory)``.

    ``memory_of(params, B, keys)`` is the memory of B fresh rows.  ``wrong`` breaks the driver in one place.
    """

    def init(params, batch_size, key=None):
        key, shared_key = jax.random.split(jax.random.key(0) if key is None else key)
        memory = memory_of(params, batch_size, jax.random.split(key, batch_size))
        return rj.Carry(net.initial_state(network, params, batch_size), memory, shared_of(params, shared_key))

    def update(params, carry, batch):
        wide = params.V.dtype if wrong == "short sums" else accumulation_dtype(params.V.dtype)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, wide), params)

        def scanned(carried, inputs):
            s_prev, memory, total, grads = carried
            x, y, mask, reset, weight = inputs
            s_in = tuple(recurrence.zero_where(mask & reset, s) for s in s_prev)
            step, losses = step_of(network, params, s_in, x, y, mask, weight)
            cut = mask & reset & (wrong not in ("ignores resets", "ignores masks and resets"))
            gradients, new = step_rule(step, forget(cut, memory), carry.shared)
            gradients = where_rows(mask, gradients, jax.tree.map(jnp.zeros_like, gradients))
            summed = jax.tree.map(lambda a: a.sum(0, dtype=wide), gradients)
            h = step.s[-1][0]
            step_grads = rj.Params(summed, (h.T @ step.delta_o).astype(wide), step.delta_o.sum(0, dtype=wide))
            grads = jax.tree.map(jnp.add, grads, step_grads)
            held = new if wrong.startswith("ignores masks") else where_rows(mask, new, memory)
            return (where_rows(mask, step.s, s_prev), held, total + losses.sum(dtype=wide), grads), None

        T, B = batch.xs.shape[:2]
        flags = (
            jnp.ones((T, B), bool) if batch.mask is None else batch.mask,
            jnp.zeros((T, B), bool) if batch.reset is None else batch.reset,
            jnp.ones((T, B), wide) if batch.weight is None else batch.weight,
        )
        start = (carry.recurrent, carry.memory, jnp.zeros((), wide), zeros)
        (recurrent, memory, loss, grads), _ = lax.scan(scanned, start, (batch.xs, batch.ys, *flags))
        memory = carry.memory if wrong == "forgets its memory" else memory
        loss = loss.astype(accumulation_dtype(wide))
        grads = jax.tree.map(lambda g, leaf: g.astype(leaf.dtype), grads, params)
        return rj.Carry(recurrent, memory, carry.shared), rj.Estimate(loss, grads, total_weight(batch))

    return rj.Algorithm(init, update, claim)


def rtrl(network, wrong=""):
    """Real-time recurrent learning: M = ∂s/∂θ of all states, M ← J M + Θ.  Exact across windows.

    Source: Williams & Zipser, Neural Computation 1 (1989).
    """

    def memory_of(params, B, keys):
        state, layers = net.initial_state(network, params, B), ravel_pytree(params.layers)[0]
        return jnp.zeros((B, flatten(state).shape[1], layers.size), params.V.dtype)

    def step_rule(step, M, shared):
        N = M.shape[1]
        unit_vectors = jnp.broadcast_to(jnp.eye(N, dtype=M.dtype)[:, None], (N, len(M), N))
        theta, J = jax.vmap(step.flat_pull)(unit_vectors)  # rows n: ∂s_n/∂θ [N, B, θ] and ∂s_n/∂s_prev [N, B, N]
        M = jnp.einsum("nbm,bmp->bnp", J, M) + theta.swapaxes(0, 1)
        gradient = jnp.einsum("bn,bnp->bp", step.flat_error(), M)
        like = jax.tree.map(lambda a: a[None], step.params.layers)
        return unflatten(like, gradient), M

    return online(network, rj.Exact(across_windows=True), memory_of, step_rule, wrong=wrong)


def uoro(network, draw=None, wrong=""):
    """Unbiased online recurrent optimisation: ∂s/∂θ ≈ s̃ θ̃, rank one by random signs.  Unbiased.

    Source: Tallec & Ollivier, *Unbiased online recurrent optimization*, ICLR (2018).

    ``draw(index) -> [N] signs`` replaces the keys, for enumeration; ``wrong`` breaks it in one place.
    """

    def memory_of(params, B, keys):
        state, layers = net.initial_state(network, params, B), ravel_pytree(params.layers)[0]
        keys = jax.random.split(keys[0])[jnp.zeros(B, int)] if wrong == "one key" else keys
        return {
            "s": jnp.zeros((B, flatten(state).shape[1]), params.V.dtype),
            "theta": jnp.zeros((B, layers.size), params.V.dtype),
            "key": keys,
            "index": jnp.zeros(B, int),
        }

    def signs(memory, N, dtype):
        if draw is not None:
            return draw(memory["index"][0])[None].astype(dtype)
        keys = jax.vmap(jax.random.fold_in)(memory["key"], memory["index"])
        if wrong == "first key":
            keys = keys[jnp.zeros(len(keys), int)]
        return jax.vmap(lambda key: jax.random.rademacher(key, (N,), dtype))(keys)

    def norm(a):
        return jnp.sqrt(jnp.square(a).sum(1, keepdims=True))

    def ratio(a, b):
        known = (a > 0) & (b > 0)
        return jnp.where(known, jnp.sqrt(jnp.where(known, a, 1) / jnp.where(known, b, 1)), 1)

    def step_rule(step, memory, shared):
        nu = signs(memory, memory["s"].shape[1], memory["s"].dtype)
        pushed = flatten(step.push(unflatten(step.s, memory["s"])))
        theta_nu, _ = step.flat_pull(nu)
        if wrong == "loses J":
            pushed = memory["s"]
        rho0, rho1 = ratio(norm(memory["theta"]), norm(pushed)), ratio(norm(theta_nu), norm(nu))
        s, theta = rho0 * pushed + rho1 * nu, memory["theta"] / rho0 + theta_nu / rho1
        gradient = (step.flat_error() * s).sum(1, keepdims=True) * theta
        like = jax.tree.map(lambda a: a[None], step.params.layers)
        after = {"s": s, "theta": theta, "key": memory["key"], "index": memory["index"] + 1}
        return unflatten(like, gradient), after

    def enumerate_outcomes(network, T, B):
        """All patterns of T steps of the rows of ± a Hadamard matrix, which has N columns of a power of two."""
        N = sum(len(cell.states) * 2 for cell in network.cells)
        H = jnp.ones((1, 1))
        while len(H) < N:
            H = jnp.block([[H, H], [H, -H]])
        rows = jnp.concatenate([H, -H])[:, :N]
        index = jnp.indices((len(rows),) * T).reshape(T, -1).T  # [outcomes, T]
        return lambda outcome: {"draw": lambda t: rows[outcome[t]]}, index

    N = sum(2 * len(cell.states) for cell in network.cells)  # where the suite enumerates, H = 2
    claim = rj.Unbiased(enumerate_outcomes, steps=12 // (1 + math.ceil(math.log2(N))))  # at most 4096 outcomes
    return online(network, claim, memory_of, step_rule, wrong=wrong)


def own_influence(cell, layer, x, s_prev, block):
    """∂s/∂θ of the unit's own parameters by this step alone, each leaf [S, B, …]."""

    def by_state(P, Q, R):
        flat = [jnp.concatenate(list(each), axis=-1) for each in (P, Q)]
        deltas = recurrence.StepAdjoint((), tuple(flat if cell.separate else flat[:1]), tuple(R))
        return jacobian.layer_gradients(cell, layer, x, s_prev[0], deltas)

    return jax.vmap(by_state)(block.P, block.Q, block.R)


def by_unit(trace, numbers):
    """[B, …, G·H] or [B, H] times numbers of each unit [B, H]."""
    units = jnp.tile(numbers, (1, trace.shape[-1] // numbers.shape[-1]))
    return trace * units.reshape(len(units), *(1,) * (trace.ndim - 2), -1)


def advance(traces, j, now):
    """E ← j E + Θ: the traces of a layer, each leaf [B, S, …], by a unit's own Jacobian j [S, S, B, H]."""
    S = len(j)

    def of_leaf(E, theta):
        kept = [sum(by_unit(E[:, i], j[k, i]) for i in range(S)) for k in range(S)]
        return jnp.stack(kept, axis=1) + theta.swapaxes(0, 1)

    return jax.tree.map(of_leaf, traces, now)


def zero_traces(network, params, B):
    """One trace for each parameter and state value of its unit, per layer, [B, S, …]."""
    zeros = jax.tree.map(lambda a: jnp.zeros((B, 1, *a.shape), a.dtype), params.layers)
    layers = zip(network.cells, zeros, strict=True)
    return tuple(jax.tree.map(lambda a, S=cell.states: jnp.repeat(a, len(S), axis=1), each) for cell, each in layers)


def unit_traces(network, own_weight=False, feedback=None):
    """e-prop, or with ``own_weight`` SnAp-1, of any depth: E ← j E + Θ and dθ += e_t E, in the row of h.

    j is A, or A + Q w_jj.  The error e_t is that of the loss of step t, by the layers above within that step; or δo_t
    times ``feedback``, B [K, H] of each layer.
    """

    def own_jacobian(cell, layer, block):
        if not own_weight:
            return block.A
        H = len(layer.W)
        w = jnp.stack([jnp.diagonal(layer.W[:, g * H : (g + 1) * H]) for g in range(len(cell.gates))])
        return block.A.at[:, 0].add((block.Q * w[None, :, None]).sum(axis=1))

    def errors(step):
        if feedback is not None:
            return [step.delta_o @ B for B in feedback]
        below = [step.error]
        for cell, layer, _, s_prev, block in reversed(step.layers()[1:]):
            delta_s = (below[0], *map(jnp.zeros_like, s_prev[1:]))
            below.insert(0, jacobian.pull(cell, layer, block, delta_s).deltas[0] @ layer.U.T)
        return below

    def step_rule(step, memory, shared):
        gradients, after = [], []
        for (cell, layer, x, s_prev, block), traces, error in zip(step.layers(), memory, errors(step), strict=True):
            now = own_influence(cell, layer, x, s_prev, block)
            after.append(advance(traces, own_jacobian(cell, layer, block), now))
            gradients.append(jax.tree.map(lambda E, error=error: by_unit(E[:, 0], error), after[-1]))
        return tuple(gradients), tuple(after)

    return online(network, rj.Biased(None), lambda params, B, keys: zero_traces(network, params, B), step_rule)


def rflo(network, feedback="random", wrong=""):
    """Random-feedback online learning: a trace per parameter of its own unit's memory, A alone; fixed feedback.

    Source: Murray, *Local online learning in recurrent networks with random feedback*, eLife 8 (2019).
    """
    require(len(network.cells) == 1, "network", f"of {len(network.cells)} layers", "of one layer")

    def shared_of(params, key):
        return 0.1 + jax.random.normal(key, params.V.T.shape, params.V.dtype) if feedback == "random" else params.V.T

    def memory_of(params, B, keys):
        return zero_traces(network, params, B)[0]

    def step_rule(step, traces, shared):
        ((cell, layer, x, s_prev, block),) = step.layers()
        j = jnp.zeros_like(block.A) if wrong == "no trace" else block.A
        traces = advance(traces, j, own_influence(cell, layer, x, s_prev, block))
        error = step.delta_o @ (step.params.V.T if feedback == "symmetric" else shared)
        return (jax.tree.map(lambda E: by_unit(E[:, 0], error), traces),), traces

    def limit(network, params, batch):
        layer = params.layers[0]
        layer = layer._replace(W=None if layer.W is None else jnp.zeros_like(layer.W))
        return {"feedback": "symmetric"}, params._replace(layers=(layer,)), batch

    claim = rj.Biased(limit, "W = 0, symmetric feedback", across_windows=True)
    return online(network, claim, memory_of, step_rule, shared_of, wrong)


class Features(NamedTuple):
    """What the predictor saw at the last border, and whether there was one."""

    features: Any
    known: Any


def dni(network, rate=0.1, wrong=""):
    """Decoupled neural interfaces: BPTT of a window, plus a learned linear prediction of δs at its end.

    The predictor A, in ``shared``, is fitted to δs at the start of the next window.  With A = 0 and rate 0 this is
    BPTT by windows.

    Source: Jaderberg et al., *Decoupled neural interfaces using synthetic gradients*, ICML (2017).
    """
    base = rj.bptt(network)

    def features_of(recurrent):
        s = flatten(recurrent)
        return jnp.concatenate([s, jnp.ones((len(s), 1), s.dtype)], axis=1)

    def init(params, batch_size, key=None):
        carry = base.init(params, batch_size)
        features = features_of(carry.recurrent)
        n = features.shape[1]
        memory = Features(jnp.zeros_like(features), jnp.zeros(batch_size, bool))
        return carry._replace(memory=memory, shared=jnp.zeros((n, n - 1), features.dtype))

    def update(params, carry, batch):
        wide = accumulation_dtype(params.V.dtype)
        T, B = batch.xs.shape[:2]
        mask = jnp.ones((T, B), bool) if batch.mask is None else batch.mask
        reset = jnp.zeros((T, B), bool) if batch.reset is None else batch.reset

        def forward(s_prev, inputs):
            x, y, m, r, w = inputs
            s_in = tuple(recurrence.zero_where(m & r, s) for s in s_prev)
            step, losses = step_of(network, params, s_in, x, y, m, w)
            return where_rows(m, step.s, s_prev), (step[2:], losses)

        weights = jnp.ones((T, B), wide) if batch.weight is None else batch.weight
        recurrent, (steps, losses) = lax.scan(forward, carry.recurrent, (batch.xs, batch.ys, mask, reset, weights))

        def backward(A):
            def back(delta_s, inputs):
                (fields, m, r) = inputs
                step = Step(network, params, *fields)
                top = (delta_s[-1][0] + step.error, *delta_s[-1][1:])
                gradients, before = step.pull((*delta_s[:-1], top))
                before = jax.tree.map(lambda a: jnp.where((m & r)[:, None], 0, a), before)
                gradients = where_rows(m, gradients, jax.tree.map(jnp.zeros_like, gradients))
                return where_rows(m, before, delta_s), jax.tree.map(lambda a: a.sum(0, dtype=wide), gradients)

            end = unflatten(recurrent, features_of(recurrent) @ A)
            start, gradients = lax.scan(back, end, (steps, mask, reset), reverse=True)
            return flatten(start), jax.tree.map(lambda a: a.sum(0), gradients)

        seen, known = carry.memory
        delta_start, _ = backward(carry.shared)
        first = jnp.argmax(mask, axis=0)
        cut = jnp.take_along_axis(reset, first[None], axis=0)[0] & mask.any(axis=0)
        fitted = (known & ~cut & mask.any(axis=0))[:, None]
        errors = jnp.where(fitted, seen @ carry.shared - delta_start, 0)
        sums = (jnp.where(fitted, seen, 0).T @ errors, fitted.sum(dtype=wide).astype(seen.dtype))
        total, count = sums if wrong == "forgets sum_over_batch" else rj.sum_over_batch(sums)
        A = carry.shared - rate * total / jnp.maximum(count, 1)
        _, gradients = backward(A)
        hs, delta_os = steps[2][-1][0], steps[-1]
        readout = jnp.einsum("tbh,tbk->hk", hs, delta_os), delta_os.sum((0, 1), dtype=wide)
        grads = jax.tree.map(lambda g, leaf: g.astype(leaf.dtype), rj.Params(gradients, *readout), params)
        memory = where_rows(mask.any(axis=0), Features(features_of(recurrent), jnp.ones(B, bool)), carry.memory)
        estimate = rj.Estimate(losses.sum(dtype=wide), grads, total_weight(batch))
        return rj.Carry(recurrent, memory, A), estimate

    def limit(network, params, batch):
        return {"rate": 0.0}, params, batch

    return rj.Algorithm(init, update, rj.Biased(limit, "a predictor that is never fitted: BPTT by windows"))
