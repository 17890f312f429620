"""Several seeds at once: each is, to the bit, the run that it is alone, whatever becomes of the others."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import char_lm
import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from char_runs import SMALL, TEXT, command, contents, environment_of_scripts, lines_of
from fixtures import make_batch, make_network

import rnn_jax as rj
from rnn_jax import checkpoint, data, experiment, seeds, train

HERE = Path(__file__).parent
ALIKE = ("test_bits", "validation_bits", "sample", "steps", "devices", "parameters", "model", "baselines")
SEEDS = ("--seeds", "3", "--seed", "4")
BITWISE = """
import pathlib, sys
import char_lm, jax
from test_seeds import assert_alike
assert len(jax.devices()) == 2
text, out = map(pathlib.Path, sys.argv[1:])
flags = dict(text=text, quick=True, hidden=4, batch=4, length=10, sample=5, algorithm="uoro", steps=11, cache=False)
char_lm.run(char_lm.Config(**flags, seed=4, seeds=3, out=out / "together"))
for seed in (4, 5, 6):
    char_lm.run(char_lm.Config(**flags, seed=seed, devices=1, out=out / "alone" / f"seed-{seed}"))
    assert_alike(out / "together" / f"seed-{seed}", out / "alone" / f"seed-{seed}")
"""


def assert_alike(folder, other):
    """State, metrics without the time, and summary where there is one."""
    one, two = (checkpoint.read(each / "checkpoint") for each in (folder, other))
    chex.assert_trees_all_equal(one.arrays, two.arrays)
    drop = {"seconds"}
    mine, theirs = ([{k: v for k, v in line.items() if k not in drop} for line in lines_of(f)] for f in (folder, other))
    assert mine == theirs and one.notes["sums"] == two.notes["sums"]
    mine, theirs = (experiment.read_sealed(each / "summary.json") or {} for each in (folder, other))
    assert mine.keys() == theirs.keys()
    assert all(mine[name] == theirs[name] for name in ALIKE if mine)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.mark.slow
def test_each_seed_is_its_own_run_to_the_bit(text, tmp_path):
    """Three seeds on two devices, with all that a stochastic algorithm carries."""
    environment = environment_of_scripts() | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent / "experiments"), *sys.path]),
    }
    argv = [sys.executable, "-c", BITWISE, str(text), str(tmp_path)]
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = experiment.read_sealed(tmp_path / "together" / "summary.json")
    assert set(summary["seeds"]) == {"4", "5", "6"} and summary["devices"] == 2
    assert summary["test_bits"] == pytest.approx(np.mean(list(summary["seeds"].values())))
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        assert experiment.load_run(tmp_path / "together" / "seed-5").step == 11


class Killed(BaseException):
    """As SIGKILL: nothing is done on the way out."""


@pytest.mark.slow
def test_seeds_that_were_stopped_go_on_to_the_same_bits(text, tmp_path, monkeypatch, capsys):
    """After SIGTERM within a line, and after a kill that left the seeds at different steps."""
    flags = (*SMALL, "--text", text, *SEEDS, "--steps", "230", "--checkpoint-every", "20")
    assert command(*flags, "--out", tmp_path / "whole") == 0
    parts = (*flags, "--out", tmp_path / "parts", "--resume", "auto")
    window, save, calls = data.training_window, checkpoint.save, []

    def stopping(stream, length, batch_size, index):
        if index == 26:
            signal.raise_signal(signal.SIGTERM)
        return window(stream, length, batch_size, index)

    def killed(folder, state, notes=None):
        calls.append(int(state.step))
        if calls.count(40) == 2:
            raise Killed
        save(folder, state, notes)

    with monkeypatch.context() as patched:
        patched.setattr(data, "training_window", stopping)
        assert command(*parts) == 143
    assert f"--resume {tmp_path / 'parts'}" in capsys.readouterr().err
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(checkpoint, "save", killed)
        command(*parts)
    steps = [
        int(checkpoint.read(tmp_path / "parts" / f"seed-{seed}" / "checkpoint").arrays[".step"]) for seed in (4, 5)
    ]
    assert steps == [40, 27]
    assert command(*parts) == 0
    for seed in (4, 5, 6):
        assert_alike(tmp_path / "parts" / f"seed-{seed}", tmp_path / "whole" / f"seed-{seed}")
    before = {path: path.read_bytes() for path in (tmp_path / "parts").rglob("*") if path.is_file()}
    assert command("--resume", tmp_path / "parts", "--no-cache") == 0
    assert before == {path: path.read_bytes() for path in (tmp_path / "parts").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def three(text):
    """A run of the seeds 4, 5 and 6, stopped within a line; the first has gone farther."""
    flags = (*SMALL, "--text", text, *SEEDS, "--steps", "12", "--out", text.parent / "three")
    assert command(*flags) == 0
    assert command("--resume", text.parent / "three" / "seed-4", "--steps", "14") == 0
    return text.parent / "three"


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes([content[40] ^ 128]) + content[41:])


def deleted_checkpoint(path):
    shutil.rmtree(path.parent / "checkpoint")
    flip(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "harm", "says"),
    [
        ("config.json", flip, "with its config.json as it was written"),
        ("config.json", Path.unlink, "must be the folder of an earlier run"),
        ("config.json", deleted_checkpoint, "with its config.json as it was written"),
        ("text.json", flip, "was trained on, unchanged"),
        ("config.json", lambda path: path.write_text(path.read_text()), ""),
    ],
)
def test_a_damaged_seed_is_refused_before_anything_is_written(place, harm, says, three, tmp_path, capsys):
    """The last of three, of which the second is missing."""
    folder = tmp_path / "run"
    shutil.copytree(three, folder)
    shutil.rmtree(folder / "seed-5")
    harm(folder / "seed-6" / place)
    before = contents(folder)
    capsys.readouterr()
    assert command("--resume", folder, "--steps", "14") == (2 if says else 0)
    error = capsys.readouterr().err
    if says:
        assert says in error and error.count("\n") == 1 and "seed-6" in error
        assert contents(folder) == before and not (folder / "seed-5").exists()
    else:
        assert (folder / "seed-5" / "summary.json").exists()


@pytest.mark.slow
def test_a_seed_with_other_flags_is_refused(three, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(three, folder)
    settings = experiment.read_sealed(folder / "seed-6" / "config.json")
    experiment.write_sealed(folder / "seed-6" / "config.json", {**settings, "rate": 0.5})
    before = contents(folder)
    capsys.readouterr()
    assert command("--resume", folder, "--steps", "14") == 2
    assert "rate is 0.003; it must be 0.5, as in the run that is resumed" in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.slow
def test_a_deleted_folder_of_seeds_is_made_again(text, tmp_path, monkeypatch):
    """With its own config.json, so that the same command goes on after a kill."""
    folder, window = tmp_path / "run", data.training_window
    flags = (*SMALL, "--text", text, *SEEDS, "--steps", "12", "--checkpoint-every", "4", "--out", folder)

    def harmful(stream, length, batch_size, index):
        if index == 6:
            shutil.rmtree(folder)
        if index == 10:
            raise Killed
        return window(stream, length, batch_size, index)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(data, "training_window", harmful)
        command(*flags)
    assert command(*flags, "--resume", "auto") == 0
    assert experiment.read_sealed(folder / "config.json")["seeds"] == 3
    assert [line["step"] for line in lines_of(folder / "seed-5")] == [*range(1, 13)]


def bomb(build):
    """Optimisers whose sixth update is infinite where the second weight of V is above 0, as it is for some seeds."""

    def update(updates, count, params=None):
        bad = (count == 5) & (params.V[0, 1] > 0)
        return jax.tree.map(lambda u: jnp.where(bad, jnp.inf, u).astype(u.dtype), updates), count + 1

    def instead(config, vocabulary):
        network, algorithm, optimiser, clip = build(config, vocabulary)
        bad = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
        return network, algorithm, optax.chain(optimiser, bad), clip

    return instead


@pytest.mark.slow
def test_one_that_diverges_ends_alone(text, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(char_lm, "build", bomb(char_lm.build))
    flags = (*SMALL, "--text", text, "--steps", "20")
    assert command(*flags, *SEEDS, "--out", tmp_path / "together") == 0
    error = capsys.readouterr().err
    status = {}
    for seed in (4, 5, 6):
        status[seed] = command(*flags, "--seed", seed, "--out", tmp_path / f"{seed}")
        folder = tmp_path / "together" / f"seed-{seed}"
        assert_alike(folder, tmp_path / f"{seed}")
        assert f"seed {seed}:" in error if status[seed] else f"seed {seed}:" not in error
        assert (folder / "diverged.json").exists() == (tmp_path / f"{seed}" / "diverged.json").exists() == status[seed]
        if status[seed]:
            assert json.loads((folder / "diverged.json").read_text())["step"] == 5
    assert set(status.values()) == {0, 1} and error.count("\n") == sum(status.values())
    found = experiment.read_sealed(tmp_path / "together" / "summary.json")["seeds"]
    assert {int(seed): bits is None for seed, bits in found.items()} == status


@pytest.mark.slow
@pytest.mark.parametrize("one_by_one", [True, False])
@jax.numpy_dtype_promotion("standard")
def test_both_ways_agree_and_one_that_is_ahead_waits(one_by_one):
    """In 64 bits; the second seed has made two steps before, and the third is not finite."""
    network = make_network(rj.gru())
    algorithm, optimiser = rj.uoro(network), optax.adam(0.01)
    step, devices = train.make_step(algorithm, optimiser, train.clip_by_global_norm(1.0)), jax.devices()[:1]
    windows = [make_batch(network, 7, 4) for _ in range(5)]

    def alone(seed, first, last, state=None):
        params = rj.init(network, jax.random.key(seed), dtype=jnp.float64)
        state = state or train.init_state(algorithm, optimiser, params, 4, jax.random.key(seed))
        for window in windows[first:last]:
            state, metrics = step(state, window)
        return (state, metrics) if last else (state, None)

    def fresh(seed):
        return alone(seed, 0, 0)[0]

    ruined = fresh(2)._replace(finite=jnp.zeros((), bool))
    state = seeds.together([fresh(0), alone(1, 0, 2)[0], ruined], devices, one_by_one)
    lifted = seeds.make_step(step, devices)
    for index in range(5):
        assert int(state.step) == index
        state, metrics = lifted(state, windows[index])
        assert [bool(weight > 0) for weight in metrics.weight] == [True, index >= 2, False]
    for seed, own in enumerate(seeds.apart(state, 3)[:2]):
        whole, last = alone(seed, 0, 5)
        assert int(own.step) == 5 and bool(own.finite)
        assert float(metrics.loss[seed]) == pytest.approx(float(last.loss), rel=1e-12)
        for a, b in zip(jax.tree.leaves(own.params), jax.tree.leaves(whole.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=0 if one_by_one else 1e-12)
    chex.assert_trees_all_equal(seeds.apart(state, 3)[2].params, fresh(2).params)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--seeds", "0"), "seeds is 0"),
        (("--seeds", "2", "--devices", "3"), "devices is 3; it must be 1 … 2, as each seed is on one device"),
        (("--seeds", "2", "--seed", "4294967295"), "seed is 4294967295; it must be in 0 … 4294967294"),
        (("--seeds", "2", "--generate", "nowhere"), "seeds is 2; it must be left out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line(flags, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("--no-cache", *flags) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not any(tmp_path.iterdir())


def test_states_that_do_not_fit_are_refused():
    network = make_network(rj.elman())
    algorithm, optimiser = rj.bptt(network), optax.sgd(0.1)
    params = rj.init(network, jax.random.key(0), dtype=jnp.float64)
    two, four = (train.init_state(algorithm, optimiser, params, B) for B in (2, 4))
    devices = jax.devices()[:1]
    for states, says in (([], "states is"), ([two, four], "states is of several forms"), (two, "states is")):
        with pytest.raises(rj.InputError, match=says):
            seeds.together(states, devices)
    with pytest.raises(rj.InputError, match="devices is"):
        seeds.together([two], [])
    with pytest.raises(rj.InputError, match="state is"):
        seeds.apart(two, 1)
    with pytest.raises(rj.InputError, match="count is 2"):
        seeds.apart(seeds.together([two], devices), 2)
