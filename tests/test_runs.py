"""Runs that are stopped at any moment: resumed they are the same to the bit, and a mishap is one line."""

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
import numpy as np
import pytest
import report
from char_runs import CACHE, SMALL, TEXT, command, contents, lines_of, saved

import rnn_jax as rj
from rnn_jax import checkpoint, data, experiment, train
from rnn_jax.gradients import ALGORITHMS

IN_CI = ("bptt", "rtrl", "uoro", "eprop")
STEPS = ("--steps", "20", "--checkpoint-every", "5")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def whole(text):
    """A run of 20 steps that was never stopped."""
    folder = text.parent / "whole"
    assert command(*SMALL, "--text", text, *STEPS, "--out", folder) == 0
    return folder


@pytest.fixture(scope="module")
def three(text):
    """A run of the seeds 0, 1 and 2."""
    folder = text.parent / "three"
    assert command(*SMALL, "--text", text, *STEPS, "--seeds", "3", "--out", folder) == 0
    return folder


def numbers(folder):
    """The lines of metrics, without the time."""
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines_of(folder)]


def assert_same(folder, other):
    chex.assert_trees_all_equal(saved(folder), saved(other))
    assert numbers(folder) == numbers(other)
    mine, theirs = (experiment.read_sealed(each / "summary.json") for each in (folder, other))
    for name in ("test_bits", "validation_bits", "sample", "steps"):
        assert mine[name] == theirs[name], name


def stopped(monkeypatch, of, name, at, *arguments, number=signal.SIGINT):
    """The command, with a signal after call ``at`` of a function; returns its exit status."""
    function, calls = getattr(of, name), []

    def instead(*given, **options):
        result = function(*given, **options)
        calls.append(None)
        if len(calls) == at:
            signal.raise_signal(number)
        return result

    with monkeypatch.context() as patched:
        patched.setattr(of, name, instead)
        status = command(*arguments)
    assert len(calls) >= at, "it was not reached"
    return status


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(name, marks=pytest.mark.slow if name in IN_CI else pytest.mark.exhaustive) for name in ALGORITHMS],
)
def test_a_resumed_run_is_the_same_to_the_bit(algorithm, text, tmp_path, monkeypatch):
    """With all that the algorithm carries: influence matrices, traces and keys; within a line of metrics of 2 steps."""
    flags = (*SMALL, "--text", text, "--algorithm", algorithm, "--steps", "200", "--seed", "3")
    assert command(*flags, "--out", tmp_path / "whole") == 0
    parts = (*flags, "--out", tmp_path / "parts", "--resume", "auto")
    for at in (8, 31):  # windows are also looked at before the run
        assert stopped(monkeypatch, data, "training_window", at, *parts) == 130
        assert int(saved(tmp_path / "parts").step) % 2 == 1
    assert command(*parts) == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")


@pytest.mark.slow
def test_auto_starts_goes_on_and_rests(text, whole, tmp_path, monkeypatch, capsys):
    """One command, whatever has become of the run; and a start that was cut short is repeated."""
    folder = tmp_path / "run"
    same = (*SMALL, "--text", text, *STEPS, "--out", folder, "--resume", "auto")
    folder.mkdir()
    (folder / "config.json.partial").write_text('{"exp')
    assert stopped(monkeypatch, data, "training_window", 9, *same, number=signal.SIGTERM) == 143
    printed, error = capsys.readouterr()
    first, second, *_ = printed.splitlines()
    assert first == f"run folder: {folder}" and second.endswith(f"char_lm.py --resume {folder}")
    assert error == f"interrupted; {second}\n"
    shutil.rmtree(folder / "checkpoint")
    assert command(*same) == 0
    assert_same(folder, whole)
    capsys.readouterr()
    before = contents(folder)
    assert command(*same) == 0
    assert contents(folder) == before
    assert command(*same, "--hidden", "5") == 2
    assert "hidden is 5; it must be 4, as in the run" in capsys.readouterr().err
    assert contents(folder) == before
    shutil.rmtree(folder / "checkpoint")
    before = contents(folder)
    assert command(*same) == 2  # a finished run is not begun anew
    assert "a folder of checkpoints" in capsys.readouterr().err and contents(folder) == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--resume", "auto"), "resume is 'auto'; it must be used with --out"),
        (("--resume", "auto", "--out", "run", "--overwrite"), "overwrite is True"),
        (("--checkpoint-every", "0"), "checkpoint_every is 0"),
        (("--generate", "nowhere"), "folder is 'nowhere'; it must be the folder of a run on text"),
        (("--generate", "nowhere", "--steps", "3"), "steps is 3; it must be left out: it changes nothing with --gen"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_are_one_line(flags, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command("--no-cache", *flags) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_signal_within_an_evaluation_is_honoured_there(text, whole, tmp_path, monkeypatch):
    """Between two windows; the evaluation comes first when the run goes on."""
    folder = tmp_path / "run"
    flags = (*SMALL, "--text", text, *STEPS, "--out", folder, "--resume", "auto")
    function = train._evaluate_window
    assert stopped(monkeypatch, train, "_evaluate_window", 1, *flags) == 130
    assert train._evaluate_window is function
    assert int(saved(folder).step) == 10 and [line["step"] for line in lines_of(folder)] == list(range(1, 10))
    assert command(*flags) == 0
    assert_same(folder, whole)


@pytest.mark.slow
def test_a_failed_save_is_tried_again(text, whole, tmp_path, monkeypatch, capsys):
    """Also after Ctrl-C, where the status tells that nothing was saved."""
    folder, save, calls = tmp_path / "run", checkpoint.save, []

    def failing(place, state, notes=None):
        calls.append(int(state.step))
        if calls[-1] in (5, 10):
            raise rj.InputError("folder is full")
        save(place, state, notes)

    monkeypatch.setattr(checkpoint, "save", failing)
    flags = (*SMALL, "--text", text, *STEPS, "--out", folder)
    assert command(*flags) == 0
    error = capsys.readouterr().err.splitlines()
    assert error == ["warning: folder is full; the run goes on, and tries again"] * 2
    assert calls == [0, 5, 10, 15, 20]
    assert_same(folder, whole)
    again = (*SMALL, "--text", text, *STEPS, "--out", tmp_path / "again")
    assert stopped(monkeypatch, data, "training_window", 11, *again) == 1  # the window of step 10 is the eleventh
    assert capsys.readouterr().err.splitlines()[-1] == "error: folder is full"


@pytest.mark.slow
def test_a_deleted_folder_is_made_again(text, whole, tmp_path, monkeypatch):
    """With all that a run needs to go on."""
    folder, window = tmp_path / "run", data.training_window

    def deleting(stream, length, batch_size, index):
        if index == 12:
            shutil.rmtree(folder)
        return window(stream, length, batch_size, index)

    monkeypatch.setattr(data, "training_window", deleting)
    assert command(*SMALL, "--text", text, *STEPS, "--out", folder) == 0
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()} - {"lock"}
    assert_same(folder, whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="of the locks of POSIX")
def test_a_second_process_is_refused(text, whole, three, tmp_path, monkeypatch, capsys):
    """Whatever it asks for; to read is allowed, and after SIGKILL the run goes on."""
    import fcntl

    one, several = tmp_path / "one", tmp_path / "several"
    shutil.copytree(whole, one)
    shutil.copytree(three, several)
    (one / "summary.json").unlink()
    program = f"""
import pathlib, signal
from rnn_jax import experiment
with experiment.Lock() as lock:
    for folder in {[str(one), str(several / "seed-1")]}:
        lock.take(pathlib.Path(folder))
        lock.take(pathlib.Path(folder))
    print("held", flush=True)
    signal.pause()
"""
    before = contents(tmp_path)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        same = (*SMALL, "--text", text, *STEPS, "--out", one)
        for flags in (("--resume", one), (*same, "--resume", "auto"), (*same, "--overwrite"), ("--resume", several)):
            capsys.readouterr()
            assert command(*flags) == 2
            error = capsys.readouterr().err
            assert "', where another process runs; it must be" in error and error.count("\n") == 1
            assert str(several / "seed-1" if several in flags else one) in error
        assert generated(capsys, "--generate", one, "--sample", "5")
        assert contents(tmp_path) == before
        other.kill()
    assert command("--resume", one) == 0 and command("--resume", several) == 0
    assert_same(one, whole)

    def without(*arguments):
        raise OSError(37, "No locks available")

    (one / "summary.json").unlink()
    monkeypatch.setattr(fcntl, "flock", without)
    assert command("--resume", one) == 0


@pytest.mark.slow
def test_where_a_run_came_from(whole, text):
    settings = experiment.read_sealed(whole / "config.json")
    (start,) = settings["started by"]
    assert settings["rate"] == 3e-3 and settings["text"] == str(text) and settings["devices"] == 1
    assert "char_lm.py" in start["command"] and start["machine"]["jax"] == jax.__version__
    assert start["text_sha256"] == experiment.read_sealed(whole / "text.json")["sha256"]


@pytest.mark.slow
def test_a_run_that_goes_on_with_other_cores_says_so(whole, tmp_path, capsys):
    """Once, as the next start is like the last one."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    settings = experiment.read_sealed(folder / "config.json")
    start = settings["started by"][0]
    start["machine"] |= {"cores": 99, "jax": "0.1"}
    experiment.write_sealed(folder / "config.json", settings)
    (folder / "summary.json").unlink()
    capsys.readouterr()
    cores = experiment.cores()
    said = f"warning: cores {cores} (99 before), jax {jax.__version__} (0.1 before); the run goes on, but may not be "
    for expected in (said + "the same to the bit\n", ""):
        assert command("--resume", folder) == 0
        assert capsys.readouterr().err == expected
        assert experiment.last_start(folder)["machine"]["cores"] == cores
        (folder / "summary.json").unlink()


@pytest.mark.slow
@pytest.mark.parametrize("finished", [True, False])
def test_where_the_newest_checkpoint_is_damaged_the_run_goes_on_from_the_one_before(
    finished, text, whole, tmp_path, monkeypatch, capsys
):
    """In one line, with the metrics of that step, to the same bits."""
    folder = tmp_path / "run"
    if finished:
        shutil.copytree(whole, folder)
    else:
        assert stopped(monkeypatch, data, "training_window", 14, *SMALL, "--text", text, *STEPS, "--out", folder) == 130
    newest = max((folder / "checkpoint").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(newest / "default")
    capsys.readouterr()
    assert generated(capsys, "--generate", folder, "--sample", "5")
    assert command("--resume", folder) == 0
    said = capsys.readouterr()
    assert f"going on from step {15 if finished else 10}" in said.out.splitlines()
    assert said.err.startswith("warning: the newest checkpoint in ") and said.err.endswith(
        "; the one before it is read\n"
    )
    assert said.err.count("\n") == 1
    assert_same(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["config.json", "text.json", "summary.json"])
def test_a_changed_number_is_found(whole, tmp_path, place, capsys):
    """The run is refused, or the summary is made again."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    path = folder / place
    digits = path.read_text()
    at = digits.index("3", 30)
    path.write_text(digits[:at] + "4" + digits[at + 1 :])
    assert command("--resume", folder) == (0 if place == "summary.json" else 2)
    if place == "summary.json":
        assert_same(folder, whole)
    else:
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_picture_that_is_gone_is_drawn_again(whole, tmp_path):
    """And no other file of the finished run is written."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    picture, before = folder / "learning_curve.png", contents(folder)
    drawn = picture.read_bytes()
    picture.unlink()
    assert command("--resume", folder) == 0
    assert picture.read_bytes() == drawn
    assert contents(folder) | {picture: before[picture]} == before


def generated(capsys, *arguments):
    capsys.readouterr()
    assert command("--no-cache", *arguments) == 0
    return capsys.readouterr().out


@pytest.mark.slow
def test_text_is_written_from_a_run(whole, tmp_path, capsys):
    """The sample of the run itself, and others; nothing is written to the folder."""
    before = contents(whole)
    summary = experiment.read_sealed(whole / "summary.json")
    likely = generated(capsys, "--generate", whole, "--sample", "5")
    assert likely[1:-1] == summary["sample"] or likely[:-1].endswith(summary["sample"])
    other = generated(capsys, "--generate", whole, "--sample", "30", "--seed", "2", "--prime", "jack")
    assert other.startswith("jack") and len(other) == 4 + 30 + 1
    assert other == generated(capsys, "--generate", whole, "--sample", "30", "--seed", "2", "--prime", "jack")
    assert contents(whole) == before


@pytest.mark.slow
def test_text_is_written_from_one_of_several_seeds(three, capsys):
    says = f"folder is '{three}'; it must be that of one run: it holds several seeds; give {three}/seed-0"
    assert command("--no-cache", "--generate", three) == 2
    assert capsys.readouterr().err == f"error: {says}\n"
    with pytest.raises(rj.InputError) as refused:
        experiment.load_run(three)
    assert str(refused.value) == says
    assert generated(capsys, "--generate", three / "seed-0", "--sample", "5")


def going_on(capsys, *arguments):
    """What is said below the folder and the command, where the run goes on."""
    capsys.readouterr()
    assert command(*arguments) == 0
    return capsys.readouterr().out.splitlines()[2]


@pytest.mark.slow
def test_a_resumed_run_says_where_it_goes_on(text, whole, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    flags = (*SMALL, "--text", text, *STEPS, "--out", folder, "--resume", "auto")
    assert stopped(monkeypatch, data, "training_window", 8, *flags) == 130
    assert "parameters, gradient by" in capsys.readouterr().out.splitlines()[2]  # new
    step = int(saved(folder).step)
    assert going_on(capsys, *flags) == f"going on from step {step}"
    assert going_on(capsys, *flags) == "finished at step 20"
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "config.json.partial").write_text('{"exp')
    assert going_on(capsys, *flags) == "no checkpoint yet: begun anew"
    capsys.readouterr()
    assert command("--resume", folder, "--steps", "21", "--quiet") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_several_seeds_say_where_each_goes_on(text, three, tmp_path, capsys):
    """In one line."""
    folder = tmp_path / "run"
    shutil.copytree(three, folder)
    assert going_on(capsys, "--resume", folder) == "finished at step 20"
    shutil.rmtree(folder / "seed-1")
    (folder / "seed-2" / "summary.json").unlink()
    shown = going_on(capsys, "--resume", folder, "--steps", "20")
    parts = ("finished at step 20 (seed 0)", "no checkpoint yet: begun anew (seed 1)", "going on from step 20 (seed 2)")
    assert shown == "; ".join(parts)


@pytest.mark.slow
def test_programs_that_tests_compile_are_not_kept_in_the_users_home(whole):
    jax.config.update("jax_compilation_cache_dir", None)
    assert command("--resume", whole, "--cache") == 0
    assert Path(jax.config.jax_compilation_cache_dir).is_relative_to(CACHE)


FOUR = """
import pathlib, sys
import char_lm, jax
from rnn_jax import checkpoint
assert len(jax.devices()) == 4
whole, parts = map(pathlib.Path, sys.argv[1:])
flags = dict(quick=True, hidden=4, batch=4, sample=0, algorithm="uoro", decay=False, cache=False)
char_lm.run(char_lm.Config(**flags, steps=4, out=whole))
char_lm.run(char_lm.Config(**flags, steps=2, out=parts))
char_lm.run(char_lm.Config(resume=parts, steps=4, cache=False))
one, other = (checkpoint.read(each / "checkpoint").arrays for each in (whole, parts))
assert len(one) > 10 and all((one[name] == other[name]).all() for name in one)
"""


@pytest.mark.slow
def test_a_run_on_four_devices_goes_on_there_and_is_loaded_on_one(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(char_lm.__file__).parent)
    argv = [sys.executable, "-c", FOUR, str(tmp_path / "run"), str(tmp_path / "parts")]
    done = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert experiment.read_sealed(tmp_path / "run" / "config.json")["devices"] == 4
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        network, params, alphabet, step = experiment.load_run(tmp_path / "run")
        assert step == 4 and len(alphabet) == network.inputs
        assert params.V.devices() == {jax.local_devices()[0]}
        tokens = np.zeros((3, 1), np.int32)
        assert train.evaluate(network, params, [rj.Batch(tokens, tokens)]) > 0


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_uses_its_devices(whole, tmp_path, capsys):
    """Where there are too few, it says so; the number may be given."""
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    settings = json.loads((folder / "config.json").read_text())
    del settings["seal"]
    experiment.write_sealed(folder / "config.json", {**settings, "devices": 4, "steps": 22})
    assert command("--resume", folder) == 2
    assert "devices is 4; it must be 1 …" in capsys.readouterr().err
    assert command("--resume", folder, "--devices", "1") == 0
    assert lines_of(folder)[-1]["step"] == 22


@pytest.mark.slow
def test_others_may_watch(text, tmp_path, capsys):
    seen = []
    config = char_lm.Config(
        text=text, quick=True, hidden=4, batch=4, length=10, steps=3, devices=1, out=tmp_path / "run", quiet=True,
        cache=False,
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        char_lm.run(config, watch=seen.append)
    assert seen == lines_of(tmp_path / "run") and len(seen) == 3
    assert capsys.readouterr() == ("", "")


class Full:
    """A log on a full disk."""

    def __init__(self, terminal):
        self.isatty = lambda: terminal

    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        self.write("")


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_output_that_cannot_be_printed_ends_no_run(terminal, text, whole, tmp_path, monkeypatch):
    """Nor does a pipe without a reader, a bar, or a warning."""
    from rnn_jax.experiment import progress

    monkeypatch.setattr(progress, "SECONDS", 0.0)
    config = char_lm.Config(
        text=text, quick=True, hidden=4, batch=4, length=10, sample=5, steps=20, devices=1, out=tmp_path / "run",
        cache=False,
    )  # fmt: skip
    with (
        jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False),
        monkeypatch.context() as patched, pytest.raises(OSError, match="No space"),  # of the summary, printed last
    ):  # fmt: skip
        patched.setattr(sys, "stdout", Full(terminal))
        patched.setattr(sys, "stderr", Full(terminal))
        char_lm.run(config, watch=lambda line: 1 / 0)
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_watch_that_fails_is_one_line(text, whole, tmp_path, capsys):
    def hiccup(line):
        if line["step"] == 3:
            raise ConnectionError("no route\nto host")

    config = char_lm.Config(
        text=text, quick=True, hidden=4, batch=4, length=10, sample=5, steps=20, devices=1, out=tmp_path / "run",
        cache=False, quiet=True,
    )  # fmt: skip
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        char_lm.run(config, watch=hiccup)
    said = "warning: watch failed at step 3 (ConnectionError: no route to host); the run goes on\n"
    assert capsys.readouterr() == ("", said)
    assert_same(tmp_path / "run", whole)


@pytest.mark.slow
def test_an_error_comes_after_the_steps_before_it_are_saved(text, whole, tmp_path, monkeypatch):
    def failing(*arguments):
        raise MemoryError

    flags = (*SMALL, "--text", text, "--steps", "20", "--out", tmp_path / "run")
    with monkeypatch.context() as patched, pytest.raises(MemoryError):
        patched.setattr(train, "_evaluate_window", failing)
        command(*flags)
    assert int(saved(tmp_path / "run").step) == 10
    assert command("--resume", tmp_path / "run") == 0
    assert_same(tmp_path / "run", whole)


def test_off_a_terminal_a_line_comes_every_so_often(monkeypatch, capsys):
    from rnn_jax.experiment import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    with experiment.Progress(20, 10, 50, "characters", lambda line: f"{line['bits']:.1f} bits") as shown:
        shown.line({"step": 10, "bits": 2.0, "grad_norm": 0.25, "clipped": 0.5})
        for _ in range(8):
            now[0] += 10
            shown.step()
    first, second = capsys.readouterr().out.splitlines()
    state = "2.0 bits, gradient norm 0.25, 50% clipped, 5 characters/s"
    assert first == f"step 13 of 20, {state}, 1:10 min left"
    assert second == f"step 16 of 20, {state}, 0:40 min left"


def test_tensorboard_is_written_or_named(text, tmp_path, capsys):
    flags = (*SMALL, "--text", text, "--steps", "3", "--out", tmp_path / "run", "--tensorboard")
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        assert command(*flags) == 2
        error = capsys.readouterr().err
        assert "pip install tensorboardX" in error and error.count("\n") == 1 and not (tmp_path / "run").exists()
    else:
        assert command(*flags) == 0
        (events,) = (tmp_path / "run" / "tensorboard").iterdir()
        assert events.stat().st_size > 100


@pytest.mark.slow
def test_compiled_programs_are_kept_in_the_users_cache(tmp_path):
    """And not where JAX has a cache already."""
    program = "from rnn_jax import experiment; print(experiment.keep_compiled())"
    for name, value in (("XDG_CACHE_HOME", tmp_path / "cache"), ("JAX_COMPILATION_CACHE_DIR", tmp_path / "mine")):
        environment = {**os.environ, name: str(value)}
        shown = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()
        assert Path(shown).is_relative_to(value)


@pytest.mark.slow
def test_several_runs_are_reported(text, whole, tmp_path, capsys):
    """Seeds are one row, and a run that is not finished is counted."""
    other, part = tmp_path / "other", tmp_path / "part"
    assert command(*SMALL, "--text", text, *STEPS, "--seed", "1", "--out", other) == 0
    shutil.copytree(whole, part)
    (part / "summary.json").unlink()
    capsys.readouterr()
    with jax.numpy_dtype_promotion("standard"):
        report.run(report.Config(folders=(whole, other, part), out=tmp_path / "report"))
    (row,) = json.loads((tmp_path / "report" / "report.json").read_text())
    bits = [experiment.read_sealed(each / "summary.json")["test_bits"] for each in (whole, other)]
    assert row["test_bits"] == pytest.approx(np.mean(bits)) and row["count"] == 3 and row["finished"] == 2
    assert row["standard_deviation"] == pytest.approx(np.std(bits, ddof=1)) and row["expected"] is None
    printed = capsys.readouterr().out
    assert "| elman | 0, 0, 1; 1 not finished | " in printed and "char_lm.py --quick" in printed
    assert (tmp_path / "report" / "report.png").read_bytes().startswith(b"\x89PNG")


def reported(out, *folders):
    """The rows of the report of these runs."""
    with jax.numpy_dtype_promotion("standard"):
        report.run(report.Config(folders=folders, out=out))
    return json.loads((out / "report.json").read_text())


@pytest.mark.slow
def test_the_folder_of_several_seeds_is_reported_as_its_runs(whole, three, tmp_path, capsys):
    """Each once, however often it is given."""
    bits = [experiment.read_sealed(three / f"seed-{seed}" / "summary.json")["test_bits"] for seed in range(3)]
    one, several = reported(tmp_path / "one", three)[0], reported(tmp_path / "several", three, three / "seed-1", three)
    assert one["seeds"] == [0, 1, 2] and one["test_bits"] == pytest.approx(np.mean(bits))
    assert one["standard_deviation"] == pytest.approx(np.std(bits, ddof=1)) and several == [one]
    (row,) = reported(tmp_path / "two", whole, three)
    assert row["seeds"] == [0, 0, 1, 2] and row["count"] == 4
    shown = capsys.readouterr().out
    assert "| elman | 0, 1, 2 | " in shown and "Expected is the value" in shown


@pytest.mark.slow
def test_a_folder_of_several_seeds_without_a_run_is_refused(three, tmp_path):
    folder = tmp_path / "begun"
    folder.mkdir()
    shutil.copy(three / "config.json", folder)
    with pytest.raises(rj.InputError, match=r"begun'; it must be a folder with a run, and none of"):
        report.run(report.Config(folders=(folder,), out=tmp_path / "report"))
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_report_of_runs_without_validation_has_no_plot(text, whole, tmp_path, monkeypatch, capsys):
    """They were stopped before their first; beside another run they have a row without points."""
    early = tmp_path / "early"
    assert stopped(monkeypatch, data, "training_window", 8, *SMALL, "--text", text, *STEPS, "--out", early) == 130
    capsys.readouterr()
    (row,) = reported(tmp_path / "alone", early)
    assert row["test_bits"] is None and row["count"] == 1
    assert "no plot: no run has bits per character of validation text yet" in capsys.readouterr().out.splitlines()
    assert {path.name for path in (tmp_path / "alone").iterdir()} == {"config.json", "report.md", "report.json"}
    reported(tmp_path / "both", early, whole)
    assert (tmp_path / "both" / "report.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("line", ['{"st', "[1]", '{"validation_bits": 2.0}'])
def test_damaged_metrics_are_no_half_report(whole, tmp_path, line):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(rj.InputError, match="a file as it was written"):
        report.run(report.Config(folders=(whole, folder), out=tmp_path / "report"))
    assert not (tmp_path / "report").exists()


def test_a_report_knows_the_value_of_the_pages():
    expected = report.expected_settings(char_lm.Config(seed=3))
    run = report.OneRun(char_lm.dataclasses.asdict(char_lm.resolve(char_lm.Config(seed=3))), "", {}, None)
    assert report.settings_of(run) == expected
    assert report.rows_of([run])[0].expected == 2.34


@pytest.mark.parametrize(("folders", "says"), [((), "folders is []"), ((Path("none"),), "folders is 'none'")])
def test_a_report_needs_runs(folders, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(rj.InputError) as refused:
        report.run(report.Config(folders=folders))
    assert says in str(refused.value) and not any(tmp_path.iterdir())
