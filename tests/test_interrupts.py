"""A run that is interrupted: whatever ends it, the caller holds a live state of the last step made."""

import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import chex
import jax
import numpy as np
import optax
import pytest
from fixtures import make_batch, make_network, make_params

import rnn_jax as rj
from rnn_jax import interrupts, train
from rnn_jax.interrupts import SignalsWait

NETWORK, OPTIMISER = make_network(rj.elman()), optax.sgd(0.1)
ALGORITHM = rj.bptt(NETWORK)
STEP = train.make_step(ALGORITHM, OPTIMISER)
STOP = 7
"""The step at which something happens, of 12."""
EVERY = pytest.mark.parametrize("every", [1, 5, 100])


@pytest.fixture(autouse=True)
def _promotion():
    """Optax's own arithmetic promotes dtypes implicitly."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def later(monkeypatch):
    """Every two signals are more than a second apart."""
    monkeypatch.setattr(interrupts, "TOGETHER", 0.0)


@contextmanager
def handled(handler, number=signal.SIGINT):
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def start():
    return train.init_state(ALGORITHM, OPTIMISER, make_params(NETWORK), 3)


def batch_at(index):
    return make_batch(NETWORK, 4, 3, seed=index)


def hooked(function, hook, at=STOP):
    """The function, and the hook before its call number ``at``."""
    calls = iter(range(10**6))

    def wrapped(*arguments):
        if next(calls) == at:
            hook()
        return function(*arguments)

    return wrapped


def raising(error):
    def hook():
        raise error

    return hook


def interrupt(number=signal.SIGINT):
    signal.raise_signal(number)


def until(error, step, batch_at, every, chunk=1):
    """Run until this error; copies of the states that were yielded, each checked to be live and of its steps."""
    states, done = [], 0
    with pytest.raises(error):
        for state, metrics in train.run(step, start(), batch_at, 12, every, chunk):
            chex.assert_tree_all_finite(state.params)
            assert int(state.step) > done and np.isfinite(metrics.loss)
            done = int(state.step)
            states.append(jax.device_get(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    return states


def after(steps):
    state = start()
    for index in range(steps):
        state, _ = STEP(state, batch_at(index))
    return jax.device_get(state)


@EVERY
@pytest.mark.parametrize("place", ["batch_at", "step"])
@pytest.mark.parametrize("error", [OSError("no such window"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_an_error_comes_after_the_steps_before_it_are_reported(error, place, every):
    functions = {"step": STEP, "batch_at": batch_at}
    functions[place] = hooked(functions[place], raising(error))
    states = until(type(error), **functions, every=every)
    assert [int(state.step) for state in states] == [*range(every, STOP, every), STOP]
    chex.assert_trees_all_equal(states[-1], after(STOP))


@EVERY
@pytest.mark.parametrize("place", ["batch_at", "step"])
def test_a_signal_waits_until_the_step_is_made(place, every):
    """The step under way counts, wherever the signal comes."""
    functions = {"step": STEP, "batch_at": batch_at}
    functions[place] = hooked(functions[place], interrupt)
    with handled(signal.default_int_handler):
        states = until(KeyboardInterrupt, **functions, every=every)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [int(state.step) for state in states] == [*range(every, STOP + 1, every), STOP + 1]
    chex.assert_trees_all_equal(states[-1], after(STOP + 1))


def test_an_error_at_once_reports_nothing():
    with pytest.raises(OSError, match="no such window"):
        next(train.run(STEP, start(), raising_at_once, 12))


def raising_at_once(index):
    raise OSError("no such window")


@pytest.mark.parametrize("every", [1, 5])
def test_a_run_goes_on_after_a_handler_that_does_not_raise(every):
    """The report comes early, and all windows are seen once."""
    seen = []
    with handled(lambda number, frame: seen.append(number)):
        reports = train.run(STEP, start(), hooked(batch_at, interrupt), 12, every)
        states = [jax.device_get(state) for state, _ in reports]
    assert seen == [signal.SIGINT]
    assert [int(state.step) for state in states] == ([*range(1, 13)] if every == 1 else [5, 8, 12])
    chex.assert_trees_all_equal(states[-1], after(12))


@EVERY
def test_a_second_signal_is_delivered_at_once(every, later):
    """The step that it divides is not made, and those before it are reported."""

    def twice():
        interrupt()
        interrupt()
        raise AssertionError("not interrupted")

    with handled(signal.default_int_handler):
        states = until(KeyboardInterrupt, STEP, hooked(batch_at, twice), every)
    chex.assert_trees_all_equal(states[-1], after(STOP))


def test_two_signals_call_each_handler_once(later):
    seen = []

    def note(number, frame):
        seen.append(number)

    with handled(note), handled(note, signal.SIGTERM):
        with SignalsWait() as signals:
            interrupt()
            interrupt(signal.SIGTERM)
            assert seen == [signal.SIGTERM]
        signals.deliver()
        signals.deliver()
    assert seen == [signal.SIGTERM, signal.SIGINT]


def test_signals_within_a_second_are_one():
    """As where a wrapper forwards Ctrl-C, which the terminal has sent to the whole group."""
    seen = []

    def note(number, frame):
        seen.append(number)

    with handled(note), handled(note, signal.SIGTERM):
        with SignalsWait() as signals:
            for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
                interrupt(number)
        assert seen == []
        signals.deliver()
    assert seen == [signal.SIGINT]


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_a_signal_without_a_handler_waits_and_ends_the_process(apart):
    """SIGTERM in a program that sets no handler; the second one acts at once."""
    program = f"""
import signal
from rnn_jax import interrupts
interrupts.TOGETHER = {apart}
with interrupts.SignalsWait() as signals:
    signal.raise_signal(signal.SIGTERM)
    print("waits", flush=True)
    signal.raise_signal(signal.SIGTERM)
    print("saved", flush=True)
assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
signals.deliver()
print("not ended", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGTERM and done.stdout.split() == (["waits", "saved"] if apart else ["waits"])


@EVERY
def test_the_error_is_told_where_the_state_went_with_it(every):
    """A step that fails after it has taken the state leaves nothing to report."""
    calls = []

    def step(state, batch):
        calls.append(STEP(state, batch))
        if len(calls) > STOP:
            raise OSError("after the step")
        return calls[-1]

    with pytest.raises(OSError, match="after the step"):
        list(train.run(step, start(), batch_at, 12, every))


def test_the_outermost_of_two_waits_holds_the_signal():
    with handled(signal.default_int_handler):
        with SignalsWait() as outer, SignalsWait() as inner:
            interrupt()
            assert inner.pending is None and outer.pending == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            outer.deliver()


def test_an_ignored_signal_is_ignored():
    with handled(signal.SIG_IGN):
        *_, (state, _) = train.run(STEP, start(), hooked(batch_at, interrupt), 12, every=5)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert int(state.step) == 12


def test_between_two_reports_a_signal_is_the_callers():
    """Where the caller has the state, its own handler is in place."""
    with handled(signal.default_int_handler):
        reports = train.run(STEP, start(), batch_at, 12, every=5)
        state, _ = next(reports)
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    chex.assert_trees_all_equal(jax.device_get(state), after(5))


def test_a_run_in_another_thread():
    """Which cannot set handlers."""
    states = []

    def target():
        with jax.numpy_dtype_promotion("standard"):
            states.extend(jax.device_get(state) for state, _ in train.run(STEP, start(), batch_at, 12, every=5))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    assert [int(state.step) for state in states] == [5, 10, 12]
    chex.assert_trees_all_equal(states[-1], after(12))


@pytest.mark.parametrize("every", [5, 100])
def test_an_error_within_a_chunk_comes_after_the_steps_before_it(every):
    """Of a chunk of 3, which 7 does not end."""
    states = until(OSError, STEP, hooked(batch_at, raising(OSError("no such window"))), every, chunk=3)
    assert [int(state.step) for state in states] == [*range(every, STOP, every), STOP]
    chex.assert_trees_all_equal(states[-1], after(STOP))


@pytest.mark.parametrize("every", [5, 100])
def test_a_signal_within_a_chunk_ends_it_there(every):
    with handled(signal.default_int_handler):
        states = until(KeyboardInterrupt, STEP, hooked(batch_at, interrupt), every, chunk=3)
    assert [int(state.step) for state in states] == [*range(every, STOP + 1, every), STOP + 1]
    chex.assert_trees_all_equal(states[-1], after(STOP + 1))


@pytest.mark.parametrize(("every", "made"), [(5, [5]), (100, [6])])
def test_a_second_signal_within_a_chunk_is_delivered_at_once(every, made, later):
    """The steps whose windows wait are not made, and those of the chunks before are reported."""

    def twice():
        interrupt()
        interrupt()

    with handled(signal.default_int_handler):
        states = until(KeyboardInterrupt, STEP, hooked(batch_at, twice), every, chunk=3)
    assert [int(state.step) for state in states] == made
    chex.assert_trees_all_equal(states[-1], after(made[-1]))
