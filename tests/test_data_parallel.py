"""Several devices: in a process of its own, since the number of CPU devices is settled before JAX first computes."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from fixtures import make_network

import rnn_jax as rj

HERE = Path(__file__).parent


def with_devices(count, code):
    """Run lines of Python where there are so many CPU devices, in 64 bits."""
    lines = ["import jax", f"jax.config.update('jax_num_cpu_devices', {count})", "import conftest", code]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_equals_one_device():
    """Every cell, masks and resets, two windows with carried state, four devices: loss, gradients and state."""
    with_devices(
        4,
        """
import jax.numpy as jnp
import rnn_jax as rj
from fixtures import CELLS, EACH_KIND, assert_same, make_batch, make_network, make_params
for cell in (CELLS[name] for name in EACH_KIND):
    network = make_network(cell, 2)
    params, batch = make_params(network), make_batch(network, 18, 8, True, True)
    windows = [jax.tree.map(lambda a: a[:11], batch), jax.tree.map(lambda a: a[11:], batch)]
    alone, split = rj.bptt(network), rj.data_parallel(rj.bptt(network), rj.devices_for(8))
    carries = [algorithm.init(params, 8) for algorithm in (alone, split)]
    for window in windows:
        one, two = (jax.jit(a.update)(params, c, window) for a, c in zip((alone, split), carries, strict=True))
        assert_same(two[1][:2], one[1][:2], 1e-12)
        assert two[1].weight == one[1].weight
        assert len(jax.tree.leaves(two[0])[0].devices()) == len(two[1].loss.devices()) == 4
        carries = one[0], two[0]
        for a, b in zip(*map(jax.tree.leaves, carries), strict=True):
            assert jnp.allclose(a, jax.device_get(b), atol=1e-13)
""",
    )


def test_trains_as_on_one_device_without_a_second_compilation():
    with_devices(
        2,
        """
import chex
import optax
import rnn_jax as rj
from fixtures import assert_close, make_batch, make_network, make_params
from rnn_jax import train
jax.config.update("jax_numpy_dtype_promotion", "standard")
network = make_network(rj.gru())
batch, optimiser, ended = make_batch(network, 7, 4), optax.adam(0.01), []
for count in (1, 2):
    algorithm = rj.data_parallel(rj.bptt(network), jax.devices()[:count])
    traced = algorithm._replace(update=chex.assert_max_traces(algorithm.update, n=1))
    step = train.make_step(traced, optimiser, optax.clip_by_global_norm(1.0))
    state = train.init_state(algorithm, optimiser, make_params(network), 4)
    *_, (state, _) = train.run(step, state, lambda index: batch, 40)
    ended.append(jax.device_get(state.params))
assert_close(*ended, 1e-10)
""",
    )


@pytest.mark.slow
def test_chunks_are_bitwise_the_steps_made_one_by_one():
    """Over two devices, from windows on the host; the second chunk is not compiled anew."""
    with_devices(
        2,
        """
import chex
import optax
import rnn_jax as rj
from fixtures import make_batch, make_network, make_params
from rnn_jax import train
jax.config.update("jax_numpy_dtype_promotion", "standard")
conftest.compile_with(False, conftest.CACHE)  # as users do
network = make_network(rj.elman())
algorithm, optimiser = rj.data_parallel(rj.bptt(network), jax.devices()), optax.adam(0.01)
step, ended = train.make_step(algorithm, optimiser), []
batches = [jax.device_get(make_batch(network, 7, 4, seed=index)) for index in range(60)]
for chunk in (1, 6):
    state = train.init_state(algorithm, optimiser, make_params(network), 4)
    ended.append([jax.device_get(each) for each in train.run(step, state, batches.__getitem__, 60, 30, chunk)])
chex.assert_trees_all_equal(*ended)
assert train._scan(step)._cache_size() == 1
""",
    )


def test_devices_for_takes_the_most_that_divide_the_batch():
    printed = with_devices(4, "import rnn_jax as rj\nprint(*(len(rj.devices_for(B)) for B in (1, 2, 3, 4, 6, 32)))")
    assert printed.split() == ["1", "2", "3", "4", "3", "4"]


def test_a_batch_that_does_not_divide_is_refused():
    with_devices(
        2,
        """
import pytest
import rnn_jax as rj
from fixtures import make_batch, make_network, make_params
network = make_network(rj.elman())
params, algorithm = make_params(network), rj.data_parallel(rj.bptt(network), jax.devices())
with pytest.raises(rj.InputError, match="batch_size is 3; it must be a multiple of 2, the number of devices"):
    algorithm.init(params, 3)
with pytest.raises(rj.InputError, match="batch.xs is int.* with 3 columns; it must be a multiple of 2"):
    algorithm.update(params, algorithm.init(params, 4), make_batch(network, 5, 3))
with pytest.raises(rj.InputError, match="carry.memory\\\\[0\\\\] is .*; it must be an array with 4 rows"):
    wrong = algorithm._replace(init=lambda *_: rj.Carry((), (jax.numpy.zeros(3),)))
    rj.data_parallel(wrong, jax.devices()).init(params, 4)
""",
    )


@pytest.mark.parametrize("devices", [(), [None], "cpu", jax.devices()[:1] * 2], ids=str)
def test_devices_are_refused(devices):
    with pytest.raises(rj.InputError, match=r"devices is .*; it must be different devices"):
        rj.data_parallel(rj.bptt(make_network(rj.elman())), devices)


def test_one_device_is_the_algorithm_itself():
    algorithm = rj.bptt(make_network(rj.elman()))
    assert rj.data_parallel(algorithm, jax.devices()[:1]) is algorithm


@pytest.mark.slow
def test_a_loop_of_the_users_own_ends():
    """It waits for nothing; without the step's own wait, XLA's sum over CPU devices deadlocks or is aborted."""
    printed = with_devices(
        2,
        """
import optax
import rnn_jax as rj
from fixtures import make_batch, make_network, make_params
from rnn_jax import train
jax.config.update("jax_numpy_dtype_promotion", "standard")
network = make_network(rj.elman(), inputs=30, hidden=64, outputs=30)
algorithm, optimiser = rj.data_parallel(rj.bptt(network), jax.devices()), optax.adam(1e-3)
step, batch = train.make_step(algorithm, optimiser), jax.device_get(make_batch(network, 20, 8))
state = train.init_state(algorithm, optimiser, make_params(network, "float32"), 8)
for _ in range(300):
    state, metrics = step(state, batch)
print(int(state.step), bool(state.finite))
""",
    )
    assert printed.split() == ["300", "True"]


RULES = {
    "textbook": "textbook.rflo, textbook.uoro, textbook.dni, textbook.rtrl",
    "uoro, rtrl": "rj.uoro, rj.rtrl",
    "dni, adaptive": "partial(rj.dni, rate=0.1, segment=2), partial(rj.eprop, feedback='adaptive', rate=0.1)",
}


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_rules_with_feedback_keys_and_a_learned_predictor_may_be_split(rules):
    """H = B, where feedback weights [H, K] have as many rows as the batch: on two devices, and in two parts."""
    with_devices(
        2,
        f"from functools import partial\nimport rnn_jax as rj\nimport textbook\nrules = [{rules}]"
        """
from fixtures import assert_close, assert_same, make_batch, make_network, make_params
network = make_network(rj.elman(leak=0.4), hidden=4)
params, batch = make_params(network), make_batch(network, 12, 4, True, True, weight=True)
windows = [jax.tree.map(lambda a: a[i : i + 6], batch) for i in (0, 6)]
for rule in rules:
    results, one = [], rule(network)
    for algorithm in (one, rj.data_parallel(one, jax.devices()), rj.micro_batches(one, 2)):
        carry, update = algorithm.init(params, 4, jax.random.key(0)), jax.jit(algorithm.update)
        for window in windows:
            carry, estimate = jax.block_until_ready(update(params, carry, window))
        results.append((carry, estimate))
    learned = [a for a in jax.tree.leaves(results[0][0].shared) if a.dtype == "float64"]
    assert all(a.any() for a in learned)
    (whole, expected), *others = results
    for carry, estimate in others:
        assert_same(estimate[:2], expected[:2], 1e-12)
        data = [
            jax.tree.map(lambda a: jax.random.key_data(a) if a.dtype.name.startswith("key") else a, each)
            for each in (carry, whole)
        ]
        floats = [[a for a in jax.tree.leaves(each) if a.dtype == "float64"] for each in data]
        assert_close(*floats, 1e-12)
        exact = [[a for a in jax.tree.leaves(each) if a.dtype != "float64"] for each in data]
        assert all((a == b).all() for a, b in zip(*exact))
""",
    )
