"""Every test runs in 64 bits unless it asks for less, with silent broadcasts and dtype promotions forbidden.

Nearly all of a test's time is compiling, and ``compiling`` says how a third of it is enough.  Programs of a module are
dropped when it ends.  The matrices of the tests are small, and products take the form that is meant for large ones.
"""

import importlib.metadata
import signal

import jax
import pytest
from compiling import UNOPTIMISED, XLA_OPTIONS
from jax._src import compiler

import rnn_jax
from rnn_jax import ops

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_default_matmul_precision", "highest")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs in the background with it ignored
CACHE = ops.CACHE
FOR_USERS = compiler.get_compile_options


def quick_options(*arguments, **settings):
    """Beside this, only XLA_FLAGS gives an option to all programs; but it is for good, and some tests do without."""
    options = FOR_USERS(*arguments, **settings)
    options.env_option_overrides = [*options.env_option_overrides, *XLA_OPTIONS.items()]
    return options


def compile_with(fewer_optimisations, cache):
    jax.config.update("jax_disable_most_optimizations", fewer_optimisations)
    compiler.get_compile_options = quick_options if fewer_optimisations else FOR_USERS
    ops.CACHE = cache


compile_with(UNOPTIMISED, 0)


def _as_users_compile():
    """For tests of equal bits in two programs or processes, and of long sums in float32.

    Unoptimised programs take such sums one term after another, with larger errors.
    """
    compile_with(False, CACHE)
    yield
    compile_with(UNOPTIMISED, 0)


as_users_compile = pytest.fixture(_as_users_compile, scope="module", name="as_users_compile")
this_as_users_compile = pytest.fixture(_as_users_compile, name="this_as_users_compile")
"""A module's programs, and those of one test."""


REAL = ("scikit-learn", "sktime", "reservoirpy")
RULES = {f"{rule.__module__}.{name}" for name, rule in rnn_jax.ALGORITHMS.items()}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What is exhaustive in one parameter is not slow by another.

    The examples in the docstrings of real sequences are skipped where a package with a set is not installed.  Those of
    the learning rules are slow, since they compile.
    """
    absent = [name for name in REAL if not any(importlib.metadata.distributions(name=name))]
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.own_markers = [mark for mark in item.own_markers if mark.name != "slow"]
        if item.name in RULES:
            item.add_marker(pytest.mark.slow)
        if absent and item.name.startswith("rnn_jax.data.real."):
            item.add_marker(pytest.mark.skip(reason=f"{', '.join(absent)}: not installed"))


@pytest.fixture(autouse=True)
def _keep_the_compilation_cache_of_this_process():
    """The scripts turn a cache on for their process; a test that runs one leaves none to the tests after it."""
    names = [name for name in jax.config.values if "_cache_dir" in name or "persistent_cache_min" in name]
    before = {name: jax.config.values[name] for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module", autouse=True)
def _drop_compiled_programs():
    yield
    jax.clear_caches()
