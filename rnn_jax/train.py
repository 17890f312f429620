"""Training: one jitted optax step for any algorithm, and the loop that runs it over a stream of windows."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from rnn_jax import network as net
from rnn_jax.checks import (
    Description,
    check_array,
    check_arrays,
    check_batch,
    check_int,
    check_key,
    check_network,
    check_number,
    check_params,
    check_parts,
    check_state,
    describe,
    is_array,
    require,
)
from rnn_jax.interrupts import SignalsWait
from rnn_jax.losses import total_weight
from rnn_jax.precision import accumulation_dtype
from rnn_jax.types import Algorithm, Array, Batch, Carry, Network, Params, State


class TrainState(NamedTuple):
    """All that a run carries from one step to the next, and all that a checkpoint contains."""

    params: Params
    optimiser: optax.OptState
    carry: Carry
    """What the algorithm carries from window to window: the recurrent state, and whatever else."""
    step: Array
    """How many updates were made, int32."""
    finite: Array
    """False from the first step on that met a number that is not finite; nothing has changed since then."""


class Metrics(NamedTuple):
    """What one step reports, as scalars; or the means over several steps, as floats."""

    loss: Array | float
    """Mean over the steps that count, by their weights, before the update, in the loss's own unit (nats for
    cross-entropy)."""
    grad_norm: Array | float
    """Global norm of the mean gradient, before clipping."""
    clipped: Array | float
    """Whether clipping changed it: 0 or 1, or a share when averaged over steps."""
    weight: Array | float
    """The sum of the weights of the steps that count; 0 for a window of padding only, which no mean includes."""


class NonFiniteError(FloatingPointError):
    """Training met a number that is not finite; ``state`` is the last good state."""

    def __init__(self, state: TrainState) -> None:
        self.state = state
        self.step = int(state.step)
        super().__init__(
            f"the loss, its gradient or the update made of them is not finite at step {self.step}; "
            "the parameters before it are kept"
        )


Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
Optimiser: TypeAlias = "optax.GradientTransformation | optax.MultiSteps"


def init_state(
    algorithm: Algorithm, optimiser: Optimiser, params: Params, batch_size: int, key: Array | None = None
) -> TrainState:
    """The state of a run before its first step.

    The arrays are copies, because a step donates its state.  ``params`` and the arrays inside of the optimiser stay
    alive and may start another run.

    Args:
      algorithm: ``bptt(network)`` or another.
      optimiser: any of optax that works on mean gradients, ``MultiSteps`` included.
      params: as from ``init``.
      batch_size: B of every window.
      key: a PRNG key for a stochastic algorithm; the default is ``jax.random.key(0)``.

    Returns:
      TrainState at step 0, on the devices on which the algorithm puts its carry.

    Raises:
      InputError: no algorithm or optimiser, parameters that do not fit, or an invalid batch size or key.

    Examples:
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> state = rj.train.init_state(rj.bptt(network), optax.sgd(0.1), params, batch_size=2)
      >>> int(state.step), bool(state.finite)
      (0, True)
    """
    transformation = _check_method(algorithm, optimiser)
    key = jax.random.key(0) if key is None else key
    check_key(key, "key")
    carry = algorithm.init(params, batch_size, key)
    places = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(carry)]
    mesh = next((place.mesh for place in places if isinstance(place, NamedSharding)), None)
    state: TrainState = jax.tree.map(
        _copy,
        TrainState(params, _init(transformation, params), carry, jnp.zeros((), jnp.int32), jnp.ones((), bool)),
    )
    if mesh is not None:  # the rest goes where the algorithm has put its state: whole, on each of its devices
        params, opt_state, _, step, finite = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        state = TrainState(params, opt_state, state.carry, step, finite)
    return state


def make_step(algorithm: Algorithm, optimiser: Optimiser, clip: optax.GradientTransformation | None = None) -> Step:
    """One training step, jitted: gradient, weighted mean, clip, optimiser.

        g = Σ w ∂ℓ/∂θ / Σ w      θ ← θ + optimiser(clip(g))

    The state passed in is donated: use the one returned.

    A step is accepted only if loss and gradient are finite, and no finite number of the state becomes one that is not.
    Otherwise this step and all later ones leave the state as it was, and ``run`` raises.  A window of padding only
    leaves parameters and optimiser as they were, and counts as a step.

    On several CPU devices the step waits until it is done.  Otherwise XLA's sum over them can deadlock when the next
    step begins.  Inside of ``jit`` or ``lax.scan`` it is traced like any other function.

    Args:
      algorithm: ``bptt(network)`` or another.
      optimiser: any of optax that works on mean gradients, ``MultiSteps`` included.  Line searches and ``polyak_sgd``
        work too: ``update`` also gets ``value`` and ``grad``, the mean loss and gradient, and ``value_fn``.  That is
        the mean loss of other parameters on this window; its gradient is the algorithm's.
      clip: a stateless transformation, such as ``optax.clip`` (elementwise) or ``clip_by_global_norm``.  It is apart
        from the optimiser so that ``Metrics.clipped`` can report it.

    Returns:
      A function ``(state, batch) -> (state, metrics)``.

    Raises:
      InputError: no optimiser or clip of optax; when called, a state or batch that does not fit, or an optimiser whose
        update fails.

    Examples:
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> algorithm, optimiser = rj.bptt(network), optax.sgd(0.1)
      >>> state = rj.train.init_state(algorithm, optimiser, params, batch_size=2)
      >>> tokens = jax.random.randint(jax.random.key(1), (6, 2), 0, 4)  # [T + 1, B]
      >>> step = rj.train.make_step(algorithm, optimiser, clip=rj.train.clip_by_global_norm(1.0))
      >>> state, metrics = step(state, rj.Batch(xs=tokens[:-1], ys=tokens[1:]))
      >>> int(state.step), float(metrics.weight)  # 5 steps of 2 examples
      (1, 10.0)
    """
    transformation = _check_method(algorithm, optimiser)
    if clip is not None:
        check_parts(clip, "clip", optax.GradientTransformation, "one of optax, like optax.clip(1.0)")

    @partial(jax.jit, donate_argnums=0)
    def jitted(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:

        def mean(params: Params) -> tuple[tuple[Array, Params], Carry, Array]:
            carry, estimate = algorithm.update(params, state.carry, batch)
            divisor = jnp.where(estimate.weight != 0, estimate.weight, 1)
            means = jax.tree.map(lambda a: _divide(a, divisor), (estimate.loss, estimate.grads))
            return means, carry, estimate.weight

        (loss, grads), carry, weight = mean(state.params)
        fresh = jax.eval_shape(partial(_init, transformation), state.params)
        fits = _form(state.optimiser) == _form(fresh)
        require(fits, "state.optimiser", describe(state.optimiser), "of this optimiser, for these parameters")
        clipped = grads if clip is None else clip.update(grads, clip.init(state.params), state.params)[0]
        extra = {"value": loss, "grad": grads, "value_fn": _value_fn(lambda params: mean(params)[0], state.params)}
        try:
            taken = {name: extra[name] for name in extra if _takes(transformation.update, name)}
            updates, optimiser_state = transformation.update(clipped, state.optimiser, state.params, **taken)
        except Exception as error:
            reason = Description(f"one whose update fails ({type(error).__name__}: {error})")
            require(False, "optimiser", reason, "one that works on mean gradients alone")
        for name, new, old in (("updates", updates, state.params), ("a state", optimiser_state, state.optimiser)):
            reason = Description(f"one whose update gives {name} of another form")
            require(_shapes(new) == _shapes(old), "optimiser", reason, "one that works on mean gradients alone")
        changed = jnp.array(
            [(a != b).any() for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(clipped), strict=True)]
        )
        params = optax.apply_updates(state.params, updates)
        params, optimiser_state = _select(weight != 0, (params, optimiser_state), state[:2])
        after = TrainState(params, optimiser_state, carry, state.step + 1, jnp.ones((), bool))
        finite = state.finite & _finite((loss, grads, weight)) & _stays_finite(state[:3], after[:3])
        metrics = Metrics(loss, global_norm(grads), changed.any(), weight)
        return _select(finite, after, state._replace(finite=finite)), metrics

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        _check_state(state)
        require(isinstance(batch, Batch), "batch", describe(batch), "a Batch")
        check_arrays(batch, "batch")
        return _waited(*jitted(state, batch))

    return step


def run(
    step: Step, state: TrainState, batch_at: Callable[[int], Batch], steps: int, every: int = 1, chunk: int = 1
) -> Iterator[tuple[TrainState, Metrics]]:
    """Train until ``state.step`` is ``steps``, and report.

    After every end the caller has a live state.  Where ``batch_at`` or a step raises, or a signal such as Ctrl-C
    arrives, the step under way is finished.  The steps since the last report are reported; then the error is raised or
    the signal delivered.  A second signal is delivered at once.  Only a step that fails after it has donated the state
    leaves none.

    Choose ``chunk`` above 1 for small steps, since Python is then entered once a chunk.  The windows of a chunk are
    stacked, and one compiled ``lax.scan`` makes the steps; they are the same steps.  The steps under way are then those
    of the chunk.  Where ``batch_at`` raises or a signal arrives between its windows, the steps before it are made as a
    shorter chunk.  After a second signal they are not made.

    Args:
      step: from ``make_step``, or a function around it, which JAX traces where ``chunk`` is above 1.
      state: as from ``init_state`` or ``checkpoint.restore``.
      batch_at: the window of each step, a pure function of the step's number, so a resumed run sees the same windows.
      steps: the number of the last step, counted from the start of training.
      every: how many steps a report spans.
      chunk: the most steps made at once.  Each length of a chunk is compiled once, and a chunk ends where a report
        does, so ``every`` is best a multiple of it.  All windows of a chunk have the same shapes.

    Yields:
      ``(state, metrics)``, with the metrics averaged over the steps since the last report.  The average leaves out
      windows of padding only, and is NaN if there is nothing else.  The next step donates the state: save or copy it
      before asking for the next report.

    Raises:
      NonFiniteError: a number that is not finite; it has the step and the last good state.
      InputError: an invalid argument, or two windows of a chunk that differ in structure, shape or dtype.

    Examples:
      >>> import jax
      >>> import optax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=2, hidden=4, outputs=2, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> algorithm, optimiser = rj.bptt(network), optax.sgd(0.1)
      >>> state = rj.train.init_state(algorithm, optimiser, params, batch_size=2)
      >>> step = rj.train.make_step(algorithm, optimiser)
      >>> ones, losses = jax.numpy.ones((5, 2), int), []
      >>> for state, metrics in rj.train.run(step, state, lambda index: rj.Batch(ones, ones), steps=20, every=10):
      ...     losses.append(metrics.loss)
      >>> int(state.step), losses[1] < losses[0]
      (20, True)
    """
    for name, function in (("step", step), ("batch_at", batch_at)):
        require(callable(function), name, describe(function), "a function")
    _check_state(state)
    check_arrays(state, "state")
    for name, count in (("steps", steps), ("every", every), ("chunk", chunk)):
        check_int(count, name)
    done = int(state.step)
    while done < steps:
        reported: list[Metrics] = []
        stopped: BaseException | None = None
        until = min(done + every, steps)
        with SignalsWait() as signals:
            try:
                while done < until and stopped is None and signals.pending is None:
                    batches, stopped = _windows(batch_at, range(done, min(done + chunk, until)), signals)
                    if batches:
                        state, metrics = _advance(step, state, batches)
                        reported.append(metrics)
                        done += len(batches)
            except BaseException as error:
                if any(isinstance(leaf, Array) and leaf.is_deleted() for leaf in jax.tree.leaves(state)):
                    raise  # it came after the state was donated: there is none to report
                stopped = error
            if reported and (finite := bool(state.finite)):
                mean = _average(reported)
        if reported and not finite:
            raise NonFiniteError(state)
        if reported:
            yield state, mean
        signals.deliver()
        if stopped is not None:
            raise stopped


def _windows(
    batch_at: Callable[[int], Batch], indices: Sequence[int], signals: SignalsWait
) -> tuple[list[Batch], Exception | None]:
    """The windows of a chunk: up to a signal, or to an error, which is returned with those before it."""
    batches: list[Batch] = []
    try:
        for index in indices:
            batch = batch_at(index)
            require(isinstance(batch, Batch), f"batch_at({index})", describe(batch), "a Batch")
            if len(indices) > 1:
                _check_stackable(batch, (batches or [batch])[0], f"batch_at({index})")
            batches.append(batch)
            if signals.pending is not None:
                break
    except Exception as error:
        return batches, error
    return batches, None


def _check_stackable(batch: Batch, first: Batch, argument: str) -> None:
    """Refuse a window unlike the first one of its chunk, or with a number that ``jit`` would wrap.

    ``check_arrays`` takes as long as a small step, and of a window like the first one it can tell nothing but the last.
    """
    alike = _outline(batch) == _outline(first)
    long = any(isinstance(part, np.ndarray) and part.dtype in (np.int64, np.uint64) for part in batch)
    if batch is first or long or not alike:
        check_arrays(batch, "batch")
    if not alike:
        for name, part, like in zip(Batch._fields, batch, first, strict=True):
            wanted = f"{describe(like)}, as in the window with which its chunk of steps begins"
            require(_outline([part]) == _outline([like]), f"{argument}.{name}", describe(part), wanted)


def _outline(parts: Iterable[Any]) -> list[Any]:
    return [part if part is None else (getattr(part, "shape", None), getattr(part, "dtype", None)) for part in parts]


def _advance(step: Step, state: TrainState, batches: list[Batch]) -> tuple[TrainState, Metrics]:
    """The steps of a chunk, and the metrics of each, stacked where there are several."""
    if len(batches) == 1:
        return step(state, batches[0])
    following = jax.tree.map(_stack, *batches[1:], batches[0])
    return _waited(*_scan(step)(state, batches[0], following))


@lru_cache(maxsize=16)
def _scan(step: Step) -> Callable[[TrainState, Batch, Batch], tuple[TrainState, Metrics]]:
    """Many steps as one: ``(state, first, following)``, the first window, and for each step the one after it, stacked.

    The same step always gives the same function, which is compiled once.  A step finds its window in the carry, and
    leaves its metrics there until the next step puts them on their stack.  Otherwise XLA fuses slices and stacks with
    the step's own products and sums, which are then rounded differently from the step alone.
    """

    def advance(carry: Any, following: Batch) -> Any:
        state, metrics, batch = carry
        return (*step(state, batch), following), metrics

    @partial(jax.jit, donate_argnums=0)
    def scan(state: TrainState, first: Batch, following: Batch) -> tuple[TrainState, Metrics]:
        empty = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(step, state, first)[1])
        (state, last, _), before = lax.scan(advance, (state, empty, first), following)
        return state, jax.tree.map(lambda a, b: jnp.concatenate([a[1:], b[None]]), before, last)

    return scan


def _stack(*leaves: Any) -> Any:
    """On the host where all leaves are there, which spares moving each."""
    return np.stack(leaves) if all(isinstance(leaf, np.ndarray) for leaf in leaves) else _stack_on_device(*leaves)


@jax.jit
def _stack_on_device(*leaves: Array) -> Array:
    return jnp.stack(leaves)


def _waited(state: TrainState, metrics: Metrics) -> tuple[TrainState, Metrics]:
    """Both as they are; on several CPU devices, outside of a trace, when they are done."""
    if not isinstance(metrics.loss, jax.core.Tracer):
        devices = jnp.asarray(metrics.loss).devices()
        if len(devices) > 1 and all(device.platform == "cpu" for device in devices):
            jax.block_until_ready(metrics)
    return state, metrics


def evaluate(network: Network, params: Params, batches: Iterable[Batch]) -> float:
    """The mean loss over the steps that count, by their weights, with state carried from batch to batch.

        Σ w ℓ(o) / Σ w      in nats for cross-entropy; bits are nats / log 2

    Args:
      network: cells, sizes and loss.
      params: its parameters.
      batches: windows in order, such as ``data.evaluation_windows``.

    Returns:
      The mean, a float.

    Raises:
      InputError: parameters or a batch that do not fit the network, or no step that counts.

    Examples:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = jax.tree.map(jnp.zeros_like, rj.init(network, jax.random.key(0)))
      >>> tokens = jnp.zeros((6, 2), int)
      >>> round(rj.train.evaluate(network, params, [rj.Batch(tokens, tokens)]), 4)  # log 4
      1.3863
    """
    check_network(network)
    check_params(network, params)
    several = isinstance(batches, Iterable) and not is_array(batches)
    require(several, "batches", describe(batches), "batches one after another, as in a list")
    state, total, weight = None, 0.0, 0.0
    for batch in batches:
        check_batch(network, batch, params.V.dtype)
        if state is None:
            state = net.zero_states(network, batch.xs.shape[1], params.V.dtype)
        check_state(network, state, batch.xs.shape[1], params.V.dtype)
        loss, state, share = _evaluate_window(network, params, state, batch)
        total += float(loss)
        weight += float(share)
    require(weight > 0, "batches", Description(f"of weight {weight:g}"), "of one step that counts, at least")
    return total / weight


def global_norm(tree: Any) -> Array:
    """The Euclidean norm of all leaves.

        ‖g‖ = m ‖g / m‖      m = max |g|

    So computed, it overflows only where the norm itself does.

    Args:
      tree: float arrays.

    Returns:
      A scalar, in float32 at least.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> norm = rj.train.global_norm({"U": jnp.array([3e30]), "W": jnp.array([-4e30])})
      >>> round(float(norm) / 1e30, 4)
      5.0
    """
    largest, norm = _largest_and_norm(tree)
    return largest * norm


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Clip the norm of a whole gradient, as ``optax.clip_by_global_norm`` does, without overflow.

        g ← max_norm (g / m) / ‖g / m‖      where ‖g‖ > max_norm,  m = max |g|

    It is right also for finite gradients whose sum of squares overflows.

    Args:
      max_norm: the largest norm, in the unit of the gradient.

    Returns:
      A stateless transformation of optax.

    Raises:
      InputError: a norm that is not a positive number.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> clip = rj.train.clip_by_global_norm(1.0)
      >>> clipped, _ = clip.update(jnp.array([3.0, -4.0]), clip.init(None))
      >>> [round(float(g), 4) for g in clipped]
      [0.6, -0.8]
    """
    check_number(max_norm, "max_norm", 1e-30, np.inf, "a positive number")

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        largest, norm = _largest_and_norm(updates)

        def clipped(g: Array) -> Array:
            scaled = g.astype(norm.dtype) / jnp.where(largest > 0, largest, 1)
            return jnp.where(largest * norm > max_norm, (scaled * (max_norm / norm)).astype(g.dtype), g)

        return jax.tree.map(clipped, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _largest_and_norm(tree: Any) -> tuple[Array, Array]:
    """The largest size m = max |g| over all leaves, and ‖g / m‖, in float32 at least."""
    leaves = [leaf.astype(accumulation_dtype(leaf.dtype)) for leaf in jax.tree.leaves(tree)]
    largest = jnp.stack([jnp.abs(leaf).max(initial=0) for leaf in leaves]).max()
    scale = jnp.where(largest > 0, largest, 1)
    return largest, jnp.sqrt(jnp.stack([jnp.square(leaf / scale).sum() for leaf in leaves]).sum())


def _value_fn(mean: Callable[[Params], tuple[Array, Params]], like: Params) -> Callable[[Params], Array]:
    """The mean loss as a function whose derivative is the algorithm's own gradient; a search may widen its argument."""

    @jax.custom_vjp
    def value(params: Params) -> Array:
        return mean(params)[0]

    def reverse(grads: Params, delta: Array) -> tuple[Params]:
        return (jax.tree.map(lambda g: g * delta.astype(g.dtype), grads),)

    value.defvjp(mean, reverse)
    return lambda params: value(jax.tree.map(lambda a, p: jnp.asarray(a, p.dtype), params, like))


@partial(jax.jit, static_argnums=0)
def _evaluate_window(network: Network, params: Params, state: State, batch: Batch) -> tuple[Array, State, Array]:
    loss, state = net.window_loss(network, params, state, batch)
    return loss, state, total_weight(batch)


def _average(reported: list[Metrics]) -> Metrics:
    """Over the windows that have weight: the loss by weight, the rest evenly; NaN where none has."""
    columns = zip(*jax.device_get(reported), strict=True)
    loss, norm, clipped, weight = (np.hstack(values).astype(float) for values in columns)
    seen = weight != 0
    if not seen.any():
        return Metrics(np.nan, np.nan, np.nan, 0.0)
    total = weight[seen].sum()
    return Metrics(
        float((loss[seen] * (weight[seen] / total)).sum()), norm[seen].mean(), clipped[seen].mean(), float(total)
    )


def _check_method(algorithm: Algorithm, optimiser: Any) -> optax.GradientTransformationExtraArgs:
    """Refuse what is no algorithm or no optimiser; returns the optimiser as one that takes extra arguments."""
    check_parts(algorithm, "algorithm", Algorithm, "an Algorithm, like bptt(network)")
    if isinstance(optimiser, optax.MultiSteps):
        optimiser = optimiser.gradient_transformation()
    check_parts(optimiser, "optimiser", optax.GradientTransformation, "one of optax, like optax.adam(1e-3)")
    return optax.with_extra_args_support(optimiser)


def _copy(leaf: Any) -> Array:
    """With a dtype as strong as a step leaves it, so that the second step is not compiled anew."""
    copied = jnp.copy(leaf)
    return copied.astype(copied.dtype) if getattr(copied, "weak_type", False) else copied


def _init(transformation: optax.GradientTransformation, params: Params) -> optax.OptState:
    try:
        return transformation.init(params)
    except Exception as error:
        reason = Description(f"one whose init fails ({type(error).__name__}: {error})")
        require(False, "optimiser", reason, "one for parameters like these")


def _takes(function: Callable[..., Any], name: str) -> bool:
    """Whether the function has a keyword argument of this name, or takes any."""
    parameters = inspect.signature(function).parameters
    return name in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


def _check_state(state: Any) -> None:
    require(isinstance(state, TrainState), "state", describe(state), "a TrainState, as from train.init_state")
    for name, dtype in (("step", "int"), ("finite", "bool")):
        check_array(getattr(state, name), f"state.{name}", (), dtype)


def _form(tree: Any) -> tuple[Any, ...]:
    """Structure, shapes and dtypes, whatever the numbers."""
    return jax.tree.structure(tree), *((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree))


def _shapes(tree: Any) -> tuple[Any, ...]:
    return jax.tree.structure(tree), *map(jnp.shape, jax.tree.leaves(tree))


def _divide(a: Array, divisor: Array) -> Array:
    """Short floats are divided in float32: the divisor, a number of steps, has more digits than they have."""
    precise = a.astype(accumulation_dtype(a.dtype))
    return (precise / divisor.astype(precise.dtype)).astype(a.dtype)


def _select(condition: Array, new: Any, old: Any) -> Any:
    """The one tree or the other; leaves keep the dtypes of the old one."""

    def select(new: Array, old: Array) -> Any:
        if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
            data = jnp.where(condition, jax.random.key_data(new), jax.random.key_data(old))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(old))
        return jnp.where(condition, jnp.asarray(new, old.dtype), old)

    return jax.tree.map(select, new, old)


def _floats(tree: Any) -> list[Array]:
    return [leaf for leaf in map(jnp.asarray, jax.tree.leaves(tree)) if jnp.issubdtype(leaf.dtype, jnp.inexact)]


def _finite(tree: Any) -> Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in _floats(tree)]).all()


def _stays_finite(before: Any, after: Any) -> Array:
    """No number that was finite has become one that is not; some optimisers start with inf."""
    pairs = zip(_floats(before), _floats(after), strict=True)
    return jnp.stack([(jnp.isfinite(new) | ~jnp.isfinite(old)).all() for old, new in pairs]).all()
