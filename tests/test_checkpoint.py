"""Checkpoints: at every moment a whole one, keys bitwise, and errors that say their cause."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import rnn_jax as rj
from rnn_jax import checkpoint, train

pytestmark = pytest.mark.usefixtures("as_users_compile")

NETWORK = rj.Network((rj.elman(),), 3, 2, 3, rj.softmax_cross_entropy())
ADAM = optax.adam(0.01)


def start(optimiser=ADAM, algorithm=None, step=0, key=5):
    params = rj.init(NETWORK, jax.random.key(0))
    state = train.init_state(algorithm or rj.bptt(NETWORK), optimiser, params, 2, jax.random.key(key))
    return state._replace(step=state.step + step, params=jax.tree.map(lambda leaf: leaf + step, state.params))


@pytest.fixture
def moments(tmp_path):
    """A function that calls another and copies a folder at each of its file operations, as a kill would leave it."""
    watched, copies = [], tmp_path / "moments"

    def look(event, arguments):
        if watched and event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            folder = watched.pop()
            if any(str(folder) in str(argument) for argument in arguments):
                with suppress(shutil.Error):  # of a file that another thread has just renamed
                    shutil.copytree(folder, copies / str(len(list(copies.iterdir()))))
            watched.append(folder)

    def during(call, folder):
        copies.mkdir()
        watched.append(folder)
        try:
            call()
        finally:
            watched.clear()
        return sorted(copies.iterdir(), key=lambda copy: int(copy.name))

    sys.addaudithook(look)
    return during


@pytest.mark.parametrize(
    "step",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in (3, 2)), 4],
    ids=["same step", "earlier step", "next step"],
)
def test_every_moment_has_a_whole_checkpoint(tmp_path, moments, step):
    """Until the new state is complete the old one is restored, afterwards the new one; and the next save works."""
    folder, old, new = tmp_path / "checkpoints", start(step=3), start(step=step, optimiser=optax.adam(0.01))
    checkpoint.save(folder, start(step=1))
    new = new._replace(params=jax.tree.map(lambda leaf: leaf + 100, new.params))
    checkpoint.save(folder, old)
    copies = moments(lambda: checkpoint.save(folder, new), folder)
    assert len(copies) > 10
    assert all(checkpoint.read(copy).passed_over is None for copy in copies)
    restored = [checkpoint.restore(copy, start()) for copy in copies]
    are_new = [bool((state.params.c == new.params.c).all()) for state in restored]
    assert are_new == sorted(are_new) and not are_new[0]
    for state, is_new in zip(restored, are_new, strict=True):
        chex.assert_trees_all_equal(state, new if is_new else old)
    for copy in copies[:: len(copies) // 3]:
        checkpoint.save(copy, start(step=9))
        chex.assert_trees_all_equal(checkpoint.restore(copy, start()), start(step=9))
        assert len(list(copy.iterdir())) == 2
    chex.assert_trees_all_equal(checkpoint.restore(folder, start()), new)
    assert len(list(folder.iterdir())) == 2


def test_an_exception_in_a_save_leaves_the_one_before(tmp_path, monkeypatch):
    import orbax.checkpoint as ocp

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    checkpoint.save(tmp_path, start(step=3))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(ocp.CheckpointManager, "save", interrupted)
        checkpoint.save(tmp_path, start(step=3))
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path, start()), start(step=3))


@pytest.mark.slow
def test_a_kill_in_a_save_leaves_the_one_before(tmp_path):
    """SIGKILL in a process of its own, as the new checkpoint of the same step is about to get its name."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_checkpoint import checkpoint, start
checkpoint.save({str(tmp_path)!r}, start(step=3))
def look(event, arguments):
    if event == "os.rename" and str(arguments[1]).startswith({str(tmp_path)!r}):
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(look)
checkpoint.save({str(tmp_path)!r}, start(step=3)._replace(finite=start().finite & False))
"""
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path, start()), start(step=3))


def noisy():
    """An algorithm that carries a typed PRNG key beside the state of bptt."""
    base = rj.bptt(NETWORK)

    def update(params, carry, batch):
        after, estimate = base.update(params, carry._replace(shared=()), batch)
        return after._replace(shared=jax.random.split(carry.shared)[0]), estimate

    return base._replace(init=lambda params, B, key=None: base.init(params, B)._replace(shared=key), update=update)


def with_keys(state, keys):
    return state._replace(carry=state.carry._replace(shared=keys))


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_keys_are_restored_bitwise(tmp_path, implementation):
    """In the state of the optimiser and in the carry, one and several, and a run goes on from them as before."""
    keys = jax.random.split(jax.random.key(7, impl=implementation), 3)
    optimiser = optax.chain(optax.add_noise(0.1, 0.5, keys[0]), ADAM)
    state = with_keys(start(optimiser, noisy()), keys)
    checkpoint.save(tmp_path, state)
    restored = checkpoint.restore(tmp_path, with_keys(start(optimiser, noisy()), jnp.roll(keys, 1)))
    chex.assert_trees_all_equal(restored, state)
    assert restored.carry.shared.dtype == keys.dtype


def test_a_key_of_another_kind_is_refused(tmp_path):
    template = start(algorithm=noisy())
    checkpoint.save(tmp_path, with_keys(template, jax.random.key(7, impl="unsafe_rbg")))
    with pytest.raises(rj.InputError, match=r"state\.carry\.shared \(key<"):
        checkpoint.restore(tmp_path, template)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ValueError("Failed to write 3 bytes to file 7: No space left on device [os_error_code='28']"),
    ],
    ids=["orbax", "tensorstore"],
)
def test_an_error_names_its_cause(tmp_path, monkeypatch, error):
    import orbax.checkpoint as ocp

    def full(*arguments, **options):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(rj.InputError, match=r"no checkpoint can be written \(No space left on device\)"):
        checkpoint.save(tmp_path, start())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="of Linux' limits")
def test_a_disk_without_room_is_one_error_and_nothing_else(tmp_path):
    """A real error in the threads that write; they print nothing of their own, and the checkpoint before is whole."""
    program = f"""
import resource, signal, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_checkpoint import checkpoint, rj, start
checkpoint.save({str(tmp_path)!r}, start(step=3))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))
try:
    checkpoint.save({str(tmp_path)!r}, start(step=4))
except rj.InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=False)
    assert "no checkpoint can be written (File too large); it must be" in done.stdout and done.stderr == ""
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path, start()), start(step=3))


def test_notes_are_kept_with_the_state(tmp_path):
    notes = {"lines": [{"step": 1, "bits": 0.1 + 0.2}], "text": "ä☃"}
    checkpoint.save(tmp_path, start(step=3), notes)
    saved = checkpoint.read(tmp_path)
    assert saved.notes == notes
    chex.assert_trees_all_equal(checkpoint.state_of(saved, start()), start(step=3))
    with pytest.raises(rj.InputError, match=r"notes is .*; it must be dicts, lists, strings and numbers"):
        checkpoint.save(tmp_path, start(step=4), {"array": jnp.ones(3)})
    assert checkpoint.read(tmp_path).notes == notes


def test_parameters_are_read_whatever_trained_them(tmp_path):
    checkpoint.save(tmp_path, start(step=3, algorithm=rj.uoro(NETWORK)))
    chex.assert_trees_all_equal(checkpoint.params_of(checkpoint.read(tmp_path), start().params), start(step=3).params)
    other = rj.init(rj.Network((rj.elman(),), 3, 5, 3, rj.softmax_cross_entropy()), jax.random.key(0))
    with pytest.raises(rj.InputError, match=r"state\.params\.V in .* is float32\[2, 3\]; it must be float32\[5, 3\]"):
        checkpoint.params_of(checkpoint.read(tmp_path), other)


@pytest.mark.slow
def test_a_changed_bit_is_found_or_without_effect(tmp_path, capfd):
    """In each file; it is one error, and nothing else is printed."""
    whole, found = tmp_path / "whole", 0
    checkpoint.save(whole, start(step=3))
    for file in sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file()):
        content = (whole / file).read_bytes()
        for at in {0, len(content) // 2, len(content) - 1} if content else ():
            folder = tmp_path / "changed"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(whole, folder)
            (folder / file).write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
            try:
                chex.assert_trees_all_equal(checkpoint.restore(folder, start()), start(step=3))
            except rj.InputError as error:
                assert "\n" not in str(error)
                found += 1
    assert found > 3 and capfd.readouterr() == ("", "")


def ruin(checkpoint_folder):
    """Every file of one checkpoint is cut."""
    for path in checkpoint_folder.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])


def test_where_the_newest_is_damaged_the_one_before_it_is_read(tmp_path, capfd):
    """And a save comes after both."""
    for step in (3, 4, 5):
        checkpoint.save(tmp_path, start(step=step), notes=step)
    assert checkpoint.read(tmp_path)[2:] == (5, None)
    ruin(tmp_path / "2")
    saved = checkpoint.read(tmp_path)
    assert saved.notes == 4 and "is damaged" in saved.passed_over and "\n" not in saved.passed_over
    chex.assert_trees_all_equal(checkpoint.restore(tmp_path, start()), start(step=4))
    checkpoint.save(tmp_path, start(step=6), notes=6)
    assert checkpoint.read(tmp_path)[2:] == (6, None)
    for path in tmp_path.iterdir():
        ruin(path)
    with pytest.raises(rj.InputError, match="no checkpoint can be read"):
        checkpoint.read(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_checkpoint_exists_once_it_is_whole(tmp_path):
    assert not checkpoint.exists(tmp_path / "none") and not checkpoint.exists(tmp_path)
    (tmp_path / "0.orbax-checkpoint-tmp-1").mkdir()
    assert not checkpoint.exists(tmp_path)
    checkpoint.save(tmp_path, start())
    assert checkpoint.exists(tmp_path)
