"""Every optimiser and transformation of optax trains, is saved and is restored bitwise, or is refused in one line."""

import inspect
from functools import cache

import chex
import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest
from fixtures import make_batch, make_network, make_params, marked

import rnn_jax as rj
from rnn_jax import checkpoint, train

pytestmark = [  # of optax's older names
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Specifying a key will be required"),
]
NETWORK = make_network(rj.gru(), inputs=3, hidden=2, outputs=3)
BPTT = rj.bptt(NETWORK)
PARAMS = make_params(NETWORK, "float32")
RATE = 0.01
SGD, ADAM = optax.sgd(RATE), optax.adam(RATE)

HELPERS = {  # without an annotation of what they return, which is no transformation
    "optax": "bias_correction matrix_inverse_pth_root sigmoid_binary_cross_entropy "
    "update_infinity_moment update_moment update_moment_per_elem_norm",
    "optax.contrib": "schedule_free_eval_params",
}


def factories(module):
    """The public functions that return a transformation, or do not tell what they return; and MultiSteps."""
    for name, thing in vars(module).items():
        if name.startswith("_") or not callable(thing) or name in HELPERS[module.__name__].split():
            continue
        if name[0].isupper():
            returns = hasattr(thing, "gradient_transformation")
        else:
            returned = inspect.signature(thing).return_annotation
            returns = returned is inspect.Signature.empty or "GradientTransformation" in str(returned)
        if returns:
            yield name


def given(*args, **kwargs):
    """The optimiser, from these arguments."""
    return lambda factory: factory(*args, **kwargs)


def before(*args, **kwargs):
    """A chain of the transformation and sgd."""
    return lambda factory: optax.chain(factory(*args, **kwargs), SGD)


def after(*args, **kwargs):
    """A chain of sgd and the transformation."""
    return lambda factory: optax.chain(SGD, factory(*args, **kwargs))


def each(names, build):
    return dict.fromkeys(names.split(), build)


def by_rank(params):
    return jax.tree.map(lambda leaf: "matrix" if leaf.ndim > 1 else "vector", params)


def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def of_the_mean_loss(estimator):
    """An estimator of the Hessian's diagonal whose objective is the mean loss that a step gives it."""

    def update(updates, state, params, value_fn, **_):
        return estimator.update(updates, state, params, obj_fn=value_fn)

    return optax.GradientTransformationExtraArgs(estimator.init, update)


def sophia(factory):
    estimator = optax.contrib.hutchinson_estimator_diag_hessian(jax.random.key(3))
    return factory(RATE, update_interval=2, hessian_diagonal_fn=of_the_mean_loss(estimator))


def muon_of_matrices(factory):
    def numbers(updates):
        return jax.tree.map(lambda _: optax.contrib.MuonDimensionNumbers(), updates)

    return optax.chain(optax.masked(factory(weight_dimension_numbers=numbers), matrices), SGD)


def odd(step, *_, **__):
    return step % 2 == 1


TRAINED = {
    "optax": {
        **each(
            "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam "
            "nadamw novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd "
            "signum sm3 yogi",
            given(RATE),
        ),
        **each(
            "add_decayed_weights apply_every centralize identity normalize_by_update_norm "
            "scale_by_adadelta scale_by_adam scale_by_adamax scale_by_adan scale_by_amsgrad scale_by_belief "
            "scale_by_distance_over_gradients scale_by_factored_rms scale_by_lbfgs scale_by_lion scale_by_novograd "
            "scale_by_optimistic_gradient scale_by_param_block_norm scale_by_param_block_rms scale_by_radam "
            "scale_by_rms scale_by_rss scale_by_sign scale_by_sm3 scale_by_stddev scale_by_trust_ratio scale_by_yogi "
            "set_to_zero zero_nans",
            before(),
        ),
        "adaptive_grad_clip": before(0.1),
        "add_noise": before(0.1, 0.5, jax.random.key(3)),
        "apply_if_finite": given(ADAM, 3),
        "chain": given(optax.clip(0.1), ADAM),
        "clip": before(0.1),
        "clip_by_block_rms": before(0.1),
        "clip_by_global_norm": before(0.1),
        "conditionally_mask": given(ADAM, odd),
        "conditionally_transform": given(ADAM, odd),
        "ema": before(0.9),
        "flatten": given(ADAM),
        "freeze": before(matrices(PARAMS)),
        "inject_hyperparams": lambda factory: factory(optax.adam)(optax.linear_schedule(RATE, 0.0, 9)),
        "inject_stateful_hyperparams": lambda factory: factory(optax.adam)(optax.linear_schedule(RATE, 0.0, 9)),
        "keep_params_nonnegative": after(),
        "lbfgs": given(),
        "masked": given(ADAM, matrices),
        "MultiSteps": given(ADAM, 2),
        "multi_transform": given({"matrix": ADAM, "vector": SGD}, by_rank),
        "named_chain": given(("first", optax.clip(0.1)), ("second", ADAM)),
        "noisy_sgd": given(RATE, key=jax.random.key(3)),
        "optimistic_adam": given(RATE, 1.0),
        "partition": given({"matrix": ADAM, "vector": SGD}, by_rank),
        "polyak_sgd": given(),
        "scale": before(0.5),
        "scale_by_backtracking_linesearch": lambda factory: optax.chain(optax.sgd(1.0), factory(10)),
        "scale_by_learning_rate": given(RATE),
        "scale_by_polyak": after(),
        "scale_by_rprop": before(RATE),
        "scale_by_schedule": before(optax.linear_schedule(1.0, 0.0, 9)),
        "scale_by_zoom_linesearch": lambda factory: optax.chain(optax.sgd(1.0), factory(10)),
        "selective_transform": given(ADAM, freeze_mask=matrices(PARAMS)),
        "snapshot": after("norm", optax.tree.norm),
        "stateless": before(lambda updates, params: jax.tree.map(jnp.add, updates, params)),
        "stateless_with_tree_map": before(jnp.add),
        "trace": before(0.9),
        "with_extra_args_support": given(ADAM),
    },
    "optax.contrib": {
        **each(
            "acprop ademamix adopt cocob dadapt_adamw dog dowg galore madgrad momo_adam muon prodigy "
            "schedule_free_adamw schedule_free_sgd simplified_ademamix",
            given(RATE),
        ),
        **each(
            "normalize scale_by_acprop scale_by_ademamix scale_by_adopt "
            "scale_by_cocob scale_by_galore scale_by_simplified_ademamix",
            before(),
        ),
        "hutchinson_estimator_diag_hessian": lambda factory: optax.chain(
            of_the_mean_loss(factory(jax.random.key(3))), SGD
        ),
        "scale_by_muon": muon_of_matrices,
        "sophia": sophia,
        "momo": given(1.0),
        "mechanize": given(ADAM),
        "reduce_on_plateau": lambda factory: optax.chain(optax.sgd(1.0), factory()),
        "sam": given(SGD, optax.chain(optax.contrib.normalize(), optax.sgd(0.05))),
        "scale_by_madgrad": given(RATE),
        "schedule_free": given(SGD, RATE),
        "split_real_and_imaginary": given(ADAM),
    },
}
REFUSED = {  # and the reason that the refusal gives
    "optax": {
        "lookahead": (given(ADAM, 2, 0.5), "no attribute 'fast'"),  # it wants LookaheadParams for parameters
        "measure_with_ema": (after(optax.tree.norm, 0.9), "updates of another form"),  # a part of a monitor
        "monitor": (after({"norm": optax.tree.norm}), "a state of another form"),  # empty until the first update
        "multi_transform": (given({"matrix": ADAM}, by_rank), "init fails .*labels"),
        "partition": (given({"matrix": ADAM}, by_rank), "init fails .*labels"),
    },
    "optax.contrib": {
        "differentially_private_aggregate": (before(1.0, 0.1, key=jax.random.key(3)), "per_example"),
        "dpsgd": (given(RATE, 1.0, 0.1, seed=0), "per_example"),
        "hutchinson_estimator_diag_hessian": (before(), "obj_fn"),
        "sam": (given(SGD, SGD, opaque_mode=True), "grad_fn"),
        "scale_by_muon": (before(), "update fails .*pytree"),  # it wants matrices alone
        "sophia": (given(RATE), "obj_fn"),
    },
}
MODULES = {"optax": optax, "optax.contrib": optax.contrib}
TRAINS = [f"{module}.{name}" for module, names in TRAINED.items() for name in names]
KINDS_OF_STATE = (
    *("optax.sgd", "optax.adam", "optax.add_noise", "optax.inject_hyperparams", "optax.MultiSteps"),
    *("optax.named_chain", "optax.partition", "optax.snapshot", "optax.contrib.galore", "optax.contrib.sam"),
)
READ_THE_LOSS = (
    *("optax.lbfgs", "optax.polyak_sgd"),
    *("optax.scale_by_backtracking_linesearch", "optax.scale_by_zoom_linesearch"),
    *("optax.contrib.momo", "optax.contrib.reduce_on_plateau", "optax.contrib.sophia"),
)
COMPILED = {*READ_THE_LOSS, "optax.scale_by_lbfgs", "optax.contrib.hutchinson_estimator_diag_hessian"}
"""Their searches, histories and second derivatives are slow where each operation runs on its own."""


@pytest.fixture(autouse=True)
def _promotion():
    """Optax's own arithmetic promotes dtypes and ranks implicitly."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def copy(tree):
    return jax.tree.map(jnp.copy, tree)


def factory(name):
    module, _, attribute = name.rpartition(".")
    return module, attribute, getattr(MODULES[module], attribute)


def batch_at(index):
    """The same form at every step: sequences that all begin in the window."""
    batch = make_batch(NETWORK, 4, 2, seed=index)
    return batch._replace(reset=jnp.zeros((4, 2), bool).at[0].set(True))


def start(optimiser):
    return train.init_state(BPTT, optimiser, PARAMS, 2)


@cache
def parts(name):
    """The optimiser of the table, a compiled step of it, and one whose every operation runs on its own.

    The second takes a gradient compiled once for all, and takes a tenth of the time.
    """
    module, attribute, make = factory(name)
    optimiser = TRAINED[module][attribute](make)
    step, gradient = train.make_step(BPTT, optimiser), compiled_gradient()

    def update(*args):
        with jax.disable_jit(False):
            return gradient(*args)

    single = train.make_step(BPTT._replace(update=update), optimiser)

    def eager(state, batch):
        with jax.disable_jit():
            return single(state, batch)

    return optimiser, step, eager


@cache
def compiled_gradient():
    return jax.jit(BPTT.update)


@cache
def trained(name, compiled=False):
    """The state after three steps."""
    optimiser, step, eager = parts(name)
    state = start(optimiser)
    for index in range(3):
        state, metrics = (step if compiled or name in COMPILED else eager)(state, batch_at(index))
        assert jnp.isfinite(metrics.loss)
    return state


def assert_restored(folder, states):
    """All of them at once, since orbax takes its time for each checkpoint."""
    templates = {name: start(parts(name)[0]) for name in states}
    state, template = (
        next(iter(tree.values()))._replace(optimiser={name: each[:2] for name, each in tree.items()})
        for tree in (states, templates)
    )
    checkpoint.save(folder, state)
    restored = checkpoint.restore(folder, template)
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, state)
    chex.assert_trees_all_equal(restored, state)
    return {name: states[name]._replace(params=p, optimiser=o) for name, (p, o) in restored.optimiser.items()}


@pytest.mark.slow  # which a newer optax with a new optimiser does not pass, and need not in everyone's hands
@pytest.mark.parametrize("module", MODULES)
def test_all_of_optax_is_in_the_tables(module):
    """Of optax 0.2.8, for which they were written."""
    assert set(factories(MODULES[module])) == TRAINED[module].keys() | REFUSED[module].keys()


@pytest.mark.parametrize(
    "name", marked(TRAINS, ["optax.sgd", "optax.MultiSteps"], {*TRAINS} - {*KINDS_OF_STATE, *READ_THE_LOSS})
)
def test_trains(name):
    """Three finite steps, also as ``jit`` traces them, that change the parameters and not the form of the state."""
    optimiser, step, _ = parts(name)
    fresh, state = start(optimiser), trained(name)
    assert bool(state.finite)
    assert int(state.step) == 3
    for after_it in (state, jax.eval_shape(step, fresh, batch_at(0))[0]):
        chex.assert_trees_all_equal_structs(after_it, fresh)
        chex.assert_trees_all_equal_shapes_and_dtypes(after_it, fresh)
        for one, other in zip(jax.tree.leaves(fresh), jax.tree.leaves(after_it), strict=True):
            if not jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
                assert one.weak_type == other.weak_type  # else the second step is compiled anew
    moved = [bool((old != new).any()) for old, new in zip(*map(jax.tree.leaves, (PARAMS, state.params)), strict=True)]
    assert any(moved) is (name != "optax.set_to_zero")


@pytest.mark.parametrize("name", [f"{module}.{name}" for module, names in REFUSED.items() for name in names])
def test_is_refused_in_one_line(name):
    module, attribute, make = factory(name)
    build, reason = REFUSED[module][attribute]
    optimiser = build(make)
    with pytest.raises(rj.InputError, match=f"^optimiser is .*{reason}") as caught:
        train.make_step(BPTT, optimiser)(start(optimiser), batch_at(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", marked(READ_THE_LOSS, ["optax.polyak_sgd"]))
def test_what_reads_the_loss_lowers_it(name):
    optimiser, step, _ = parts(name)
    state, losses = start(optimiser), []
    for _ in range(20):
        state, metrics = step(state, batch_at(0))
        losses.append(float(metrics.loss))
    assert bool(state.finite)
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.slow
def test_each_kind_of_state_is_restored_bitwise(tmp_path):
    assert_restored(tmp_path, {name: trained(name) for name in KINDS_OF_STATE})


@pytest.mark.exhaustive
@pytest.mark.parametrize("part", range(6))
def test_every_compiled_state_is_restored_bitwise_and_goes_on(tmp_path, part):
    states = {name: trained(name, compiled=True) for name in TRAINS[part::6]}
    for name, restored in assert_restored(tmp_path, states).items():
        step = parts(name)[1]
        chex.assert_trees_all_equal(step(copy(restored), batch_at(3)), step(copy(states[name]), batch_at(3)))
