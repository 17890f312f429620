"""Core data types: what a cell, a loss, a network, a batch and an algorithm are.

No logic lives here.  Symbols: T time steps, B batch, D inputs (or vocabulary), H hidden units, K outputs,
G pre-activations ("gates") per unit, S state values per unit.  Time comes first in every stacked array.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax

Array = jax.Array
Units = tuple[Array, ...]
"""One array per state value (S of them) or per gate (G of them), each of one common shape, usually [B, H]."""
State = tuple[Units, ...]
"""The recurrent state of a network: per layer, the cell's S state values, each [B, H]; the first one is h."""


Step = Callable[..., tuple[Units, Units]]
"""``(s_prev, z, *p) -> (s, residual)``: one time step of every unit, applied elementwise.

``s_prev`` is S arrays, ``z`` = u + v is G arrays, and ``p`` are the cell's own parameters, an array each, all of one
shape.  A cell with ``separate=True`` gets ``(s_prev, u, v, *p)``.  ``residual`` is what the adjoint needs beyond
``s_prev`` and ``s``, which are stored anyway: a tuple of arrays of the same shape, possibly empty.
"""

Adjoint = Callable[..., tuple[Any, ...]]
"""``(s_prev, s, residual, delta_s, *p) -> (delta_s_prev, delta_z, *delta_p)``: the transposed Jacobian of the step.

``s`` and ``residual`` are always what ``step`` returned for ``s_prev``.  ``delta_s_prev`` is the share that flows
through the unit itself; the share through ``v = h_prev W`` is added by ``recurrence``, which also sums each
``delta_p`` over the batch.  A cell with ``separate=True`` returns ``(delta_s_prev, delta_u, delta_v, *delta_p)``.
"""


class Parameter(NamedTuple):
    """A parameter of a cell's own: one number p a unit, drawn uniformly from [low, high].

    Examples:
      >>> import rnn_jax as rj
      >>> rj.lstm(peepholes=True).parameters[0]
      Parameter(name='p_i', low=-0.1, high=0.1)
    """

    name: str
    low: float
    high: float


Recurrence = Literal["dense", "diagonal", "none"]


class Cell(NamedTuple):
    """A recurrent cell, unit by unit: a step and its hand-written adjoint.

        s_t, residual = step(s_{t−1}, z_t)      z_t = u_t + v_t    u_t = x_t U + b    v_t = h_{t−1} W    h_t = s_t[0]

    The step has no matrix product: products, time, batch and masks are written once, for every cell.  Make one to add a
    cell of your own, and prove it with ``testing.check_cell``.

    Examples:
      >>> import rnn_jax as rj
      >>> cell = rj.gru()
      >>> cell.name, cell.states, cell.gates
      ('gru', ('h',), ('r', 'z', 'n'))
    """

    name: str
    states: tuple[str, ...]
    """Names of the S state values of a unit; the first one is the output h."""
    gates: tuple[str, ...]
    """Names of the G pre-activations of a unit, in the order of the column blocks of U, W, b and d."""
    step: Step
    adjoint: Adjoint
    bias: tuple[float, ...]
    """Initial value of b for each gate."""
    recurrent_bias: bool = False
    """Whether v has a bias d of its own (needed only where u and v do not enter as their sum)."""
    separate: bool = False
    """Whether step and adjoint get u and v apart, instead of their sum z."""
    parameters: tuple[Parameter, ...] = ()
    """The cell's own parameters, such as peephole weights or time constants."""
    recurrence: Recurrence = "dense"
    """What v is: "dense", h W with W [H, G·H]; "diagonal", w ⊙ h for each gate, with W [G·H]; "none", no v and no W."""
    chrono: tuple[int, ...] = ()
    """How chrono initialisation sets b of each gate: 1, an open gate keeps the state; −1, an open gate replaces it;
    0, neither, and b is that of ``bias``.  Empty: the cell has no such gate."""


class Loss(NamedTuple):
    """A loss of one time step and its hand-written error, both over any leading axes.

    ``value(o, y)`` is ℓ(o_t) […], and ``error(o, y)`` is ∂ℓ/∂o_t […, K], for logits ``o`` […, K].  Make one to add a
    loss of your own, and prove it with ``testing.check_loss``.

    Examples:
      >>> import rnn_jax as rj
      >>> rj.squared_error().integer_targets
      False
    """

    name: str
    value: Callable[[Array, Array], Array]
    error: Callable[[Array, Array], Array]
    integer_targets: bool
    """True: ``ys`` are class indices, int [T, B]; False: ``ys`` are float [T, B, K]."""


class Network(NamedTuple):
    """What is differentiated: stacked cells, a linear readout and a loss.

    It is static and hashable; the parameters are a separate pytree.

    Examples:
      >>> import rnn_jax as rj
      >>> network = rj.Network(
      ...     cells=(rj.lstm(), rj.gru()), inputs=10, hidden=(8, 4), outputs=10, loss=rj.softmax_cross_entropy()
      ... )
      >>> [cell.name for cell in network.cells]
      ['lstm', 'gru']
    """

    cells: tuple[Cell, ...]
    """One cell a layer, the lowest first."""
    inputs: int
    """D: the size of the vocabulary for integer inputs, else the width of x_t."""
    hidden: int | tuple[int, ...]
    """H, one number for all layers, or one for each."""
    outputs: int
    """K: the number of classes, or the width of the target."""
    loss: Loss


class Layer(NamedTuple):
    """The parameters of one recurrent layer."""

    U: Array
    """Input weights [D, G·H]; above the first layer D is the H of the layer below."""
    W: Array | None
    """Recurrent weights [H, G·H]; [G·H] of a diagonal recurrence; None where there is none."""
    b: Array
    """Bias [G·H]."""
    d: Array | None = None
    """Recurrent bias [G·H], for cells that have one."""
    p: tuple[Array, ...] = ()
    """The cell's own parameters, each [H]."""


class Params(NamedTuple):
    """The parameters of a network, and the shape of every gradient."""

    layers: tuple[Layer, ...]
    V: Array
    """Readout weights [H, K]."""
    c: Array
    """Readout bias [K]."""


class Batch(NamedTuple):
    """A window of a sequence, time first.

    Examples:
      >>> import jax.numpy as jnp
      >>> import rnn_jax as rj
      >>> tokens = jnp.zeros((6, 2), jnp.int32)  # [T + 1, B]
      >>> batch = rj.Batch(xs=tokens[:-1], ys=tokens[1:])
      >>> batch.xs.shape, batch.mask is None
      ((5, 2), True)
    """

    xs: Array
    """Inputs: int tokens [T, B] or floats [T, B, D]."""
    ys: Array
    """Targets: int classes [T, B] or floats [T, B, K]."""
    mask: Array | None = None
    """bool [T, B]: whether the step counts.  A masked step changes neither state, loss nor gradient.  None: all do."""
    reset: Array | None = None
    """bool [T, B]: the state is set to zero before the step, if the step counts.  None: never."""
    weight: Array | None = None
    """float [T, B] ≥ 0: the share of the step's loss in the sum.  At 0 the state advances and the target is never
    read: it may be −100 or NaN.  None: 1 everywhere."""


class Exact(NamedTuple):
    """The claim that the gradient equals autodiff's, up to rounding.

    Examples:
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=3, hidden=4, outputs=2, loss=rj.squared_error())
      >>> isinstance(rj.bptt(network).claim, rj.Exact)
      True
    """

    across_windows: bool = False
    """True: windows of any lengths add up to the gradient of the whole sequence.  False: each window's gradient is
    that with its initial state held constant."""


class Unbiased(NamedTuple):
    """The claim that the gradient is right in the mean over the algorithm's own randomness.

        E[dθ] = the gradient of the whole sequence

    ``testing.check_algorithm`` enumerates all outcomes, or tests the mean statistically.
    """

    enumerate: Callable[[Network, int, int], tuple[Callable[[Any], dict[str, Any]], Any]] | None = None
    """``(network, T, B) -> (settings, noise)``: all outcomes of the randomness of T steps, equally likely, stacked on
    axis 0 of ``noise``; the same factory, ``factory(network, **settings(outcome))``, is the algorithm with that outcome
    instead of keys.  None: they cannot be listed, and the claim is tested statistically, over keys."""
    steps: int = 6
    """The largest T whose outcomes ``enumerate`` can list."""
    exact_readout: bool = True
    """Whether the gradients of V and c are exact in every draw, and not only in the mean."""


class Biased(NamedTuple):
    """The claim that the gradient is an approximation, and where it becomes exact."""

    limit: Callable[[Network, Params, Batch], tuple[dict[str, Any], Params, Batch]]
    """``(network, params, batch) -> (settings, params, batch)`` in the limit: there the gradient of the same factory,
    ``factory(network, **settings)``, equals autodiff's."""
    description: str = ""
    """The limit in words."""
    across_windows: bool = False
    """As in ``Exact``, of the gradient in the limit."""
    exact_readout: bool = True
    """Whether the gradients of V and c are exact outside of the limit too."""


Claim = Exact | Unbiased | Biased


class Carry(NamedTuple):
    """What an algorithm carries from window to window, in three parts by what each belongs to.

    A step does the same to each part, whatever the algorithm.  A masked step leaves everything as it is, and its reset
    is ignored.  A reset sets ``recurrent``, influences and traces to zero before the step; keys go on.  A step of
    weight 0 advances everything, but has no error of its own.
    """

    recurrent: State
    """Per layer, S arrays [B, H]."""
    memory: Any = ()
    """What belongs to one example, the batch first: influence matrices, traces, PRNG keys [B]."""
    shared: Any = ()
    """One for all examples: feedback weights, a learned predictor, the key of noise that all rows share."""


class Estimate(NamedTuple):
    """What an update returns: sums over the steps that count and the batch, never means."""

    loss: Array
    """In float32 at least."""
    grads: Params
    weight: Array
    """The sum of the weights of the steps that count: a training step divides by it."""
    info: dict[str, Array] = {}  # noqa: RUF012
    """Diagnostics by name, each [B], such as norms or residuals; nothing that training needs."""


class Init(Protocol):
    """``(params, batch_size, key) -> carry``: the start of a sequence, from the zero state.

    ``key`` is a PRNG key, used only by stochastic algorithms; the others ignore it.
    """

    def __call__(self, params: Params, batch_size: int, key: Array | None = None) -> Carry: ...


class Update(Protocol):
    """``(params, carry, batch) -> (carry, estimate)``: one window, in the order of ``lax.scan``."""

    def __call__(self, params: Params, carry: Carry, batch: Batch) -> tuple[Carry, Estimate]: ...


class Algorithm(NamedTuple):
    """A way to compute the gradient of a network's loss, window by window, as two pure functions.

        init(params, batch_size, key) -> carry
        update(params, carry, batch) -> (carry, estimate)

    Loss and gradients are weighted sums over the valid steps and the batch, so those of windows, devices and
    micro-batches add up.  ``lax.scan(partial(update, params), carry, windows)`` runs it over stacked windows.

    Examples:
      >>> import jax
      >>> import rnn_jax as rj
      >>> network = rj.Network(cells=(rj.elman(),), inputs=4, hidden=3, outputs=4, loss=rj.softmax_cross_entropy())
      >>> params = rj.init(network, jax.random.key(0))
      >>> init, update, claim = rj.bptt(network)
      >>> carry = init(params, batch_size=2)
      >>> carry.recurrent[0][0].shape  # h of the first layer
      (2, 3)
    """

    init: Init
    update: Update
    claim: Claim = Exact()
    """What its gradient is; ``testing.check_algorithm`` tests exactly this."""
