"""The scripts run for real, as a user starts them: quick, resumed, and with every kind of mistake."""

import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args
from unittest import mock

import benchmark
import char_lm
import chex
import compare_gradients
import digits
import held_out
import jax
import learning_rules
import numpy as np
import optax
import peers
import pictures
import pytest
import rule_figures
import rule_gradients
import rule_training
import rules_benchmark_goals
import timing
from char_runs import EXPERIMENTS, SMALL, TEXT, command, contents, environment_of_scripts, lines_of, saved, script
from fixtures import marked

import rnn_jax as rj
from rnn_jax import checkpoint, experiment, train

ROOT = Path(__file__).parents[1]
PNG = b"\x89PNG\r\n"


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("char_lm")
    result = script("char_lm.py", "--quick", "--out", folder / "run", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def test_char_lm_writes_its_run_folder(quick_run):
    folder, printed = quick_run
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert json.loads((folder / "config.json").read_text())["hidden"] == 128
    assert lines[-1]["step"] == summary["steps"] == 60
    assert lines[-1]["bits"] < lines[0]["bits"]
    assert len(summary["sample"]) == 100 and summary["sample"] in printed
    for name in ("unigram", "order-3 characters", "xz"):
        assert summary["baselines"][name] > 0 and name in printed
    assert (folder / "learning_curve.png").read_bytes().startswith(PNG)


def test_char_lm_resumes_where_it_stopped(quick_run):
    """Twenty more steps on the same folder go on from step 60, and the metrics of both parts stand in one file."""
    folder, _ = quick_run
    result = script("char_lm.py", "--resume", folder, "--steps", 80, cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 81))
    assert json.loads((folder / "config.json").read_text())["steps"] == 80


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A finished run of 230 steps with a line of metrics for every two, and the text beside it."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "text.txt").write_text(TEXT)
    assert command(*SMALL, "--text", folder / "text.txt", "--steps", 230, "--out", folder / "run") == 0
    return folder / "run"


class Killed(BaseException):
    """As SIGKILL: nothing is done on the way out."""


@pytest.mark.slow
def test_interruptions_change_nothing(small_run, tmp_path, monkeypatch, capsys):
    """Ctrl-C in a step, SIGTERM in an evaluation, Ctrl-C in a save, a kill between log and save, half a line."""
    text, folder = small_run.parent / "text.txt", tmp_path / "run"
    window, bits, save, write = char_lm.data.training_window, char_lm.bits, checkpoint.save, experiment.Run.write_lines

    def interrupted(name, of, function, when, how, *arguments):
        calls = []

        def instead(*given):
            result = function(*given)
            calls.append(None)
            if when(calls, *given):
                monkeypatch.setattr(of, name, function)
                how()
            return result

        monkeypatch.setattr(of, name, instead)
        status = command(*arguments)
        assert getattr(of, name) is function, "it was not reached"
        return status, capsys.readouterr().err

    def raise_killed():
        raise Killed

    # Window 0 is looked at before the run; the steps that an interruption divides are 7 and 8.
    first = ("--text", text, "--steps", 230, "--out", folder)
    sigint = lambda: signal.raise_signal(signal.SIGINT)  # noqa: E731
    status, error = interrupted(
        "training_window", char_lm.data, window, lambda calls, *g: g[-1] == 6, sigint, *SMALL, *first
    )
    assert status == 130 and int(saved(folder).step) == 7
    assert [line["step"] for line in lines_of(folder)] == [2, 4, 6]
    assert error.count("\n") == 1 and f"char_lm.py --resume {folder}\n" in error

    resume = ("--resume", folder)
    sigterm = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    status, error = interrupted("bits", char_lm, bits, lambda calls, *g: len(calls) == 2, sigterm, *resume)
    assert status == 143 and "--resume" in error and int(saved(folder).step) == 40

    status, error = interrupted("save", checkpoint, save, lambda calls, *g: len(calls) == 1, sigint, *resume)
    assert status == 130 and int(saved(folder).step) == 60

    with pytest.raises(Killed):
        killed = lambda calls, run: run.lines and run.lines[-1]["step"] == 80  # noqa: E731
        interrupted("write_lines", experiment.Run, write, killed, raise_killed, *resume)
    assert lines_of(folder)[-1]["step"] == 80 and int(saved(folder).step) == 60
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 82, "bi')

    assert command(*resume) == 0
    ours, whole = lines_of(folder), lines_of(small_run)
    assert [line.keys() for line in ours] == [line.keys() for line in whole]
    assert [line["step"] for line in ours] == list(range(2, 231, 2))
    assert [{**line, "seconds": 0} for line in ours] == [{**line, "seconds": 0} for line in whole]
    chex.assert_trees_all_equal(saved(folder), saved(small_run))
    mine, theirs = (json.loads((each / "summary.json").read_text()) for each in (folder, small_run))
    assert mine["test_bits"] == theirs["test_bits"] and mine["sample"] == theirs["sample"]
    seconds = [line["seconds"] for line in ours]
    assert seconds == sorted(seconds) and mine["training_seconds"] == seconds[-1]


@pytest.mark.parametrize(("characters", "lanes"), [(2, 1), (1999, 1), (4000, 3), (64_001, 64), (200_000, 64)])
def test_held_out_text_is_read_in_long_lanes(characters, lanes, monkeypatch):
    """1,000 characters each at least, after a warm-up."""
    seen = []
    monkeypatch.setattr(train, "evaluate", lambda network, params, batches: seen.extend(batches) or 0.0)
    params = rj.init(rj.Network((rj.elman(),), 2, 2, 2, rj.softmax_cross_entropy()), jax.random.key(0))
    state = train.TrainState(params, None, None, np.int32(0), np.bool_(True))
    char_lm.bits(None, state, np.zeros(characters, np.int32))
    weight = sum(batch.mask.sum() if batch.weight is None else (batch.mask * batch.weight).sum() for batch in seen)
    assert seen[0].xs.shape[1] == lanes and weight == characters - 1
    warm_up = sum(0 if batch.weight is None else (batch.mask & (batch.weight == 0)).sum() for batch in seen)
    assert warm_up == 100 * (lanes - 1)


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(small_run, capsys):
    before = contents(small_run)
    assert command("--resume", small_run, "--hidden", "4") == 0
    assert f"run folder: {small_run}" in capsys.readouterr().out
    assert contents(small_run) == before


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--hidden", "128"), "hidden is 128; it must be 4, as in the run"),
        (("--out", "elsewhere"), "out is 'elsewhere'; it must be "),
        (("--overwrite",), "overwrite is True"),
        (("--no-decay",), "decay is False"),
        (("--steps", "229"), "steps is 229; it must be 230 or more"),
        (("--text", "other.txt"), "it must be the text that"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_run_is_resumed_as_it_was(small_run, flags, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("other.txt").write_text(TEXT.replace("jack", "jill"))
    before = contents(small_run)
    assert command("--resume", small_run, *flags) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert contents(small_run) == before


def test_a_text_that_has_changed_is_refused(small_run, tmp_path, capsys, monkeypatch):
    """Also with the same characters; the same text elsewhere is taken, and its place is written down."""
    folder, text = tmp_path / "run", tmp_path / "text.txt"
    shutil.copytree(small_run, folder)
    text.write_text(TEXT[1:] + TEXT[0])
    before = contents(folder)
    assert command("--resume", folder, "--steps", "240", "--text", text) == 2
    assert "it must be the text that" in capsys.readouterr().err and contents(folder) == before
    monkeypatch.chdir(tmp_path)
    Path("moved.txt").write_text("\ufeff" + TEXT, encoding="utf-8")
    assert command("--resume", "run", "--steps", "240", "--text", "moved.txt") == 0
    assert json.loads((folder / "config.json").read_text())["text"] == str(tmp_path / "moved.txt")
    assert lines_of(folder)[-1]["step"] == 240


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("config.json", "[]", "it must be the folder of a run of char_lm"),
        ("config.json", "{", "it must be the folder of a run of char_lm"),
        ("config.json", '{"experiment": "char_lm", "cell": "rnn"}', "cell in "),
        ("config.json", '{"experiment": "char_lm", "hidden": 4.5}', "hidden in "),
        ("config.json", '{"experiment": "char_lm", "hidden": -4}', "hidden is -4"),
        ("text.json", "[]", "it must be the text that"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(small_run, tmp_path, file, content, says, capsys):
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    (folder / file).write_text(content)
    assert command("--resume", folder) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_damaged_metrics_are_written_again(small_run, tmp_path):
    """From the checkpoint, which has them all."""
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    (folder / "metrics.jsonl").write_text('{"step": 2, "bits": 1, "seconds": 1}\n{"st\n{}\n')
    assert command("--resume", folder) == 0
    assert lines_of(folder) == lines_of(small_run)


@pytest.mark.parametrize("when", marked(["once", "to the end"], ["to the end"]))
def test_a_disk_that_fills_up_is_one_line(small_run, tmp_path, capsys, monkeypatch, when):
    """While the log is written: the run goes on, and fails only where the last line cannot be written."""
    folder, write = tmp_path / "run", Path.write_text

    def full(path, text, **options):
        if path.name.startswith("metrics") and '"step": 40' in text and (when != "once" or '"step": 41' not in text):
            raise OSError(28, "No space left on device")
        return write(path, text, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        status = command(*SMALL, "--text", small_run.parent / "text.txt", "--steps", 60, "--out", folder)
    error = capsys.readouterr().err.splitlines()
    assert "warning: out is" in error[0] and "metrics.jsonl', which cannot be written (No space left" in error[0]
    if when == "once":
        assert status == 0 and len(error) == 2  # the line, and the save after it
    else:
        assert status == 1 and error[-1].startswith("error: ") and not (folder / "summary.json").exists()
        assert command("--resume", folder) == 0
    assert [line["step"] for line in lines_of(folder)] == list(range(1, 61))


@pytest.mark.slow
def test_it_runs_where_jax_was_used(tmp_path):
    """Called from Python, with its defaults for a quick run, on a text of one character; flags that are given win."""
    jax.numpy.zeros(1).block_until_ready()
    text = tmp_path / "text.txt"
    text.write_text("a" * 3000)
    config = char_lm.Config(text=text, quick=True, hidden=4, batch=4, sample=7, out=tmp_path / "run")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        summary = char_lm.run(config)
        assert char_lm.run(char_lm.Config(resume=tmp_path / "run"))["steps"] == 60
    assert summary["steps"] == 60 and summary["sample"] == "a" * 7 and summary["test_bits"] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["length"] == 50


def test_a_learning_curve_shows_all_its_data(small_run, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    limits = []
    monkeypatch.setattr(plt, "close", lambda figure: limits.append(figure.axes[0].get_ylim()))
    summary = json.loads((small_run / "summary.json").read_text())
    lines = [{"step": 1, "bits": 30.0}, {"step": 2, "bits": 9.0, "validation_bits": 20.0}]
    char_lm.plot(lines, {**summary, "test_bits": 0.01}, tmp_path / "curve.png")
    monkeypatch.undo()
    plt.close("all")
    assert limits[0][0] < 0.01 and limits[0][1] > 30


@pytest.mark.slow
def test_ctrl_c_in_the_first_compile(tmp_path):
    """The printed command goes on with the run, from any folder, to the lines that were to come."""
    (tmp_path / "text.txt").write_text(TEXT)
    arguments = [
        sys.executable,
        EXPERIMENTS / "char_lm.py",
        *SMALL,
        "--text",
        "text.txt",
        "--steps",
        "7",
        "--out",
        "run",
    ]
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=-1, stderr=-1, text=True) as process:
        while not (tmp_path / "run" / "checkpoint" / "0").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=300)
    assert process.returncode == 130 and error.count("\n") == 1 and "Traceback" not in error
    resumed = subprocess.run(shlex.split(error.split(": ", 1)[1]), cwd="/", capture_output=True, text=True, check=False)
    assert resumed.returncode == 0, resumed.stderr
    assert [line["step"] for line in lines_of(tmp_path / "run")] == list(range(1, 8))


@pytest.mark.parametrize(
    "flags",
    [
        ("--cell", "lstm", "--layers", "2", "--hidden", "16", "--algorithm", "autodiff", "--recurrent", "orthogonal"),
        (
            "--cell",
            "gru",
            "--hidden",
            "16",
            "--optimiser",
            "sgd",
            "--clip",
            "value",
            "--no-decay",
            "--temperature",
            "0",
        ),
        ("--activation", "relu", "--leak", "0.5", "--recurrent", "identity", "--clip", "none", "--hidden", "16"),
    ],
    ids=["lstm", "gru", "relu"],
)
@pytest.mark.slow
def test_char_lm_takes_every_option(tmp_path, flags):
    text = tmp_path / "text.txt"
    text.write_text("all work and no play makes jack a dull boy. " * 100)
    result = script("char_lm.py", "--quick", "--text", text, "--out", tmp_path / "run", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--hiden", "3"), "--hidden"),
        (("--cell", "rnn"), "elman"),
        (("--hidden", "0"), "hidden is 0; it must be a positive int"),
        (("--layers", "0"), "layers is 0"),
        (("--leak", "2"), "leak is 2.0"),
        (("--rate", "-1"), "rate is -1.0"),
        (("--steps", "0"), "steps is 0"),
        (("--length", "0"), "length is 0"),
        (("--batch", "0"), "batch_size is 0"),
        (("--seed", "-1"), "seed is -1"),
        (("--seed", str(2**70)), "seed is 118"),
        (("--eps", "0"), "eps is 0.0; it must be a positive number"),
        (("--beta2", "1"), "beta2 is 1.0; it must be 0 or more and below 1"),
        (("--temperature", "inf"), "temperature is inf"),
        (("--sample", "3000000000"), "sample is 3000000000"),
        (
            ("--cell", "lstm", "--leak", "1"),
            "leak is 1.0; it must be left out: it changes nothing without --cell elman",
        ),
        (("--cell", "gru", "--activation", "tanh"), "activation is 'tanh'; it must be left out"),
        (("--optimiser", "sgd", "--eps", "1e-8"), "eps is 1e-08; it must be left out"),
        (("--optimiser", "sgd", "--beta1", "0"), "beta1 is 0.0; it must be left out"),
        (("--clip", "none", "--clip-at", "1"), "clip_at is 1.0; it must be left out"),
        (("--sample", "0", "--temperature", "1"), "temperature is 1.0; it must be left out"),
        (("--sample", "0", "--prime", "a"), "prime is 'a'; it must be left out"),
        (("--overwrite",), "overwrite is True; it must be left out"),
        (("--text", "used/thesis.txt", "--out", "used", "--overwrite", "--quick"), "used'; it must be"),
        (("--prime", "☃"), "prime is a text with '☃'"),
        (("--temperature", "-1"), "temperature is -1.0"),
        (("--text", "none.txt"), "text is 'none.txt'; it must be an existing file"),
        (("--text", "short.txt"), "it must be 101 long or more"),
        (("--devices", "0"), "devices is 0"),
        (("--devices", "999"), "devices is 999; it must be 1 …"),
        (("--out", "used"), "or used with --overwrite"),
        (("--resume", "nowhere"), "resume is 'nowhere'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_char_lm_refuses_mistakes_in_one_line(tmp_path, flags, says, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short.txt").write_text("too short to train on. " * 3)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("do not lose this. " * 200)
    assert command(*flags) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert (tmp_path / "used" / "thesis.txt").read_text() == "do not lose this. " * 200
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_compare_gradients_agrees(tmp_path):
    result = script("compare_gradients.py", "--quick", "--out", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["passed"] and all(case["passed"] for case in summary["cases"])
    assert summary["largest"]["float64"] <= 1e-12 and summary["largest"]["float32"] <= 1e-5
    kept, lost = ([case for case in summary["digits"] if case["method"] == each] for each in ("bptt", "usual"))
    assert len(kept) == len(lost) == 12 and all(case["passed"] for case in kept)
    assert sum(not case["passed"] for case in lost) == 6  # where gates saturate and predictions are confident
    for name in ("error_against_T.png", "digits.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(PNG)


@pytest.mark.slow
def test_compare_gradients_fails_on_a_wrong_gradient(tmp_path, monkeypatch, capsys):
    """One per mille too much in bptt, and the script says where and exits with status 1."""
    right = rj.bptt

    def bptt(network):
        def update(params, carry, batch):
            carry, estimate = right(network).update(params, carry, batch)
            return carry, estimate._replace(grads=jax.tree.map(lambda g: g * 1.001, estimate.grads))

        return right(network)._replace(update=update)

    monkeypatch.setattr(rj, "bptt", bptt)
    monkeypatch.setattr(digits, "PROBLEMS", digits.PROBLEMS[-1:])
    config = compare_gradients.Config(cells=("elman",), depths=(1,), lengths=(5,), quick=True, out=tmp_path / "run")
    with jax.numpy_dtype_promotion("standard"):
        assert compare_gradients.run(config) == 1
    printed = capsys.readouterr().out
    assert "FAILED elman, 1 layers, float64, T = 5" in printed
    assert "FAILED elman-tanh, c + 22, float32: loss_error" in printed


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["elman", "lstm", "gru"])
def test_the_variants_of_jax_grad_are_one_gradient(cell):
    """However the scan is written: the benchmark compares programs that compute the same."""
    case = timing.Case(cell, 4, 2, 3, 5)
    network, batch = timing.network_of(case), timing.batch_of(case)
    params = rj.init(network, jax.random.key(0))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        _, reference = jax.jit(rj.value_and_grad(rj.bptt(network)))(params, batch)
        for name, algorithm in peers.by_jax_grad(network).items():
            _, grads = jax.jit(rj.value_and_grad(algorithm))(params, batch)
            leaf, error = rj.worst(rj.compare(grads, reference))
            assert error < 1e-5, (name, leaf)


@pytest.mark.slow
def test_benchmark_measures_every_part(tmp_path):
    """For real, quick; then it goes on where it stopped, with nothing left to do."""
    folder = tmp_path / "run"
    result = script("benchmark.py", "--quick", "--cells", "elman", "--out", folder, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads((folder / "summary.json").read_text())
    rows = summary["rows"]
    assert {row["part"] for row in rows} == set(get_args(benchmark.Part))
    timed = [row for row in rows if row["part"] != "programs" and "error" not in row]
    assert all(row["milliseconds"] > 0 for row in timed)
    grid = {(row["program"], row["devices"]): row["milliseconds"] for row in rows if row["part"] == "grid"}
    devices = max(used for _, used in grid)
    assert {("bptt, with recomputation", 1), ("matmuls only", devices)} <= set(grid)
    assert {(name, used) for name in ("bptt", *peers.JAX_GRAD) for used in (1, devices)} <= set(grid)
    (ratios,) = (each for each in summary["ratios"] if each["part"] == "grid")
    for pair in ratios["like_for_like"]:
        rivals = {name: grid[name, pair["devices"]] for name in peers.JAX_GRAD}
        assert pair["runner_up"] == min(rivals, key=rivals.get)
        assert pair["ratio"] == min(rivals.values()) / grid["bptt", pair["devices"]]
    assert [row["error"] < 1e-12 for row in rows if "error" in row] == [True]
    for name in ("peers.png", "length.png", "crossover.png"):
        assert (folder / name).read_bytes().startswith(PNG)
    again = script("benchmark.py", "--quick", "--cells", "elman", "--out", folder, "--resume", "auto", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "summary.json").read_text())["rows"] == rows and str(folder) in again.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_compiles_or_says_what_to_install(tmp_path, platform):
    file = tmp_path / "programs.json"
    small = ("--cell", "elman", "--hidden", "16", "--batch", "8", "--length", "32", "--platform", platform)
    result = script("accelerators.py", *small, "--out", file, cwd=tmp_path, quick_to_compile=False)
    if result.returncode == 0:
        rows = {row["program"]: row for row in json.loads(file.read_text())["programs"]}
        figure = "kernels_reverse" if platform == "cuda" else "cycles_per_step"
        assert list(rows) == ["bptt", *peers.JAX_GRAD]
        assert 0 < rows["bptt"][figure] < rows[peers.STANDARD][figure]
    else:
        assert result.returncode == 2 and "pip install --no-deps" in result.stderr


@pytest.mark.slow
def test_rules_benchmark_measures_every_part(tmp_path):
    """For real, quick, without rivals; then the two parts whose files are lost are measured again, and no other."""
    folder, flags = tmp_path / "run", ("--quick", "--no-rivals", "--resume", "auto")
    result = script("rules_benchmark.py", *flags, "--out", folder, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads((folder / "summary.json").read_text())
    assert {row["part"] for row in summary["rows"]} == {"speed", "scaling", "profile"} and not summary["missing"]
    assert all(row["microseconds"] > 0 for row in summary["rows"])
    assert {each["axis"] for each in summary["slopes"]} == {"n"}  # one B
    assert {each["verdict"] for each in summary["goals"]} <= {"met", "not met", "not measured"}
    tables = (folder / "tables.md").read_text()
    for text in ("## Goals", "## What the time", "## Times", "## Powers", "rate of the floors", "the rest", "commit"):
        assert text in tables and text in result.stdout
    times = {path: path.stat().st_mtime_ns for path in (folder / "parts").iterdir()}
    lost = {folder / "parts" / name for name in ("scaling, 4, 1.json", "profile, kf_rtrl, segments of 16, 8, 2.json")}
    for path in lost:
        path.unlink()
    (folder / "summary.json").unlink()
    again = script("rules_benchmark.py", *flags, "--out", folder, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {path for path in times if path.stat().st_mtime_ns != times[path]} == lost
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    names = [(row["part"], row["program"], row["n"], row["B"]) for row in summary["rows"]]
    assert [(row["part"], row["program"], row["n"], row["B"]) for row in rows] == names
    assert not (tmp_path / "runs").exists()


@pytest.mark.exhaustive
def test_every_rule_that_misses_a_goal_has_a_profile(tmp_path):
    flags = ("--quick", "--no-rivals", "--parts", "profile", "--rules", "rtrl", "snap", "--out", tmp_path / "run")
    result = script("rules_benchmark.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "run" / "summary.json").read_text())["rows"]
    assert {row["of"] for row in rows} == {"rtrl, step by step", "snap, indrnn", "snap, rtu"}
    assert all(row["microseconds"] > 0 for row in rows)


def test_goals_are_met_or_not_or_not_measured():
    """By the worst size; a goal whose program was not measured is left out, and one without a rival says so."""

    def row(program, n, B, microseconds, floor=None, **more):
        return {"program": program, "n": n, "B": B, "microseconds": microseconds, "floor": floor, **more}

    rows = [
        row("rtrl, step by step", 64, 1, 12, 10),
        row("rtrl, step by step", 128, 1, 13, 10),
        row("rtrl, step by step", 16, 1, 99, 10),
        row("rtrl, segments of 50", 64, 16, 15, 10, temporaries=10, memory=100),
        row("snap", 64, 1, 3),
        row("bptt", 64, 1, 2),
        row("braintrace OSTLRecurrent", 64, 1, 15),
        {"program": "vanilla-rtrl", "missing": "not installed"},
    ]
    found = {(each.goal.program, each.goal.words()): each for each in rules_benchmark_goals.outcomes(rows)}
    assert {program for program, _ in found} == {"rtrl, step by step", "rtrl, segments of 50", "snap"}
    steps = found["rtrl, step by step", "≤ 1.25 × its floor (n = 64, 128; B = 1)"]
    assert steps.verdict == "not met" and steps.distance == 1.3 / 1.25
    assert steps.ratios == {(64, 1): 1.2, (128, 1): 1.3}
    assert found["rtrl, step by step", "≥ 1.5 × faster than every rival (B = 1)"].verdict == "not measured"
    assert found["rtrl, segments of 50", "≤ 1.3 × M of temporaries (n = 64, 128; B = 16)"].verdict == "met"
    assert found["snap", "≤ 2 × bptt"].ratios == {(64, 1): 1.5} and found["snap", "≤ 2 × bptt"].verdict == "met"
    rival = found["snap", "≥ 3.5 × faster than braintrace"]
    assert rival.ratios == {(64, 1): 5} and rival.verdict == "met"


@pytest.mark.slow
def test_learning_rules_are_compared(tmp_path):
    """All five parts; exact RTRL has no error, and truncation has one."""
    result = script("learning_rules.py", "--quick", "--out", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    rows = {row["rule"]: row for row in summary["table"]["rules"]}
    assert set(rows) == set(summary["training"]["5"]) == {"rtrl", "uoro", "dni", "bptt"}
    assert rows["rtrl"]["bias"] < 1e-5 < 0.1 < rows["bptt"]["bias"]
    assert rows["uoro"]["interval"][0] == 0 < rows["uoro"]["variance"]
    assert {row["segment"] for row in summary["tradeoff"]} == {2, 5}
    assert len(summary["copying"]) == 2 and np.shape(summary["alignment"]["after training"]) == (5, 5)
    for name in ("alignment", "sizes", "noise", "training", "copying", "tradeoff"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)
    tables = (tmp_path / "tables.md").read_text()
    assert f"jax {jax.__version__}" in tables.splitlines()[0] and "Adam at a learning rate of 0.003" in tables
    assert re.findall("^## (.+)", tables, re.MULTILINE) == ["alignment", "table", "training", "copying", "tradeoff"]
    assert tables.count("\n| `rtrl` | Exact | ") == 2, "by size, and at the one size"


def test_each_learning_rule_has_its_own_colour_and_marker():
    colours, markers = zip(*rule_figures.MARKS.values(), strict=True)
    assert set(rule_figures.MARKS) == set(rule_gradients.RULES)
    assert len(set(colours)) == len(set(markers)) == len(rule_figures.MARKS)
    for names in (rule_gradients.FAMILIES, rule_training.COPYING, rule_gradients.noisy_rules((1, 2, 4))):
        looks = rule_figures.looks(names)
        assert list(looks) == list(names) and len({str(look) for look in looks.values()}) == len(names)


@pytest.mark.slow
def test_online_learning_costs_little_at_small_rates(tmp_path):
    """The buffered RTRL keeps to the textbook's weights, and truncation does not."""
    result = script("online_learning.py", "--quick", "--out", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "summary.json").read_text())["rows"]
    distance = {row["rule"]: row["distance"][0] for row in rows if row["rate"] == 1e-4}
    assert distance["rtrl, online"] < 0.01 < distance["truncated, h = 16"] < distance["immediate"]
    error = {row["rate"]: row["error"][0] for row in rows if row["rule"] == "rtrl, online"}
    assert error[1e-4] < 0.1 * error[1e-2]
    assert (tmp_path / "online_learning.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_memory_tasks_are_learnt_and_plotted(tmp_path):
    """Every task runs, and a flip-flop is soon shown better than without memory."""
    result = script("memory_tasks.py", "--quick", "--out", tmp_path / "quick", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "quick" / "summary.json").read_text())["tasks"]
    assert set(found) == {"adding", "copy_memory", "delayed_addition", "parity", "flip_flop"}
    for task in found:
        assert (tmp_path / "quick" / f"{task}.png").read_bytes().startswith(PNG)
    assert {row["model"] for row in found["parity"]["models"]} == {"elman", "gru", "min_gru"}
    assert all(len(row["accuracy"]) == 48 for row in found["parity"]["models"])
    flags = ("--tasks", "flip_flop", "--models", "elman", "--length", "20", "--hidden", "32", "--steps", "600")
    result = script("memory_tasks.py", *flags, "--solved", "0.2", "--out", tmp_path / "one", cwd=tmp_path)
    assert result.returncode == 0 and "solved at step" in result.stdout, result.stderr


@pytest.mark.slow
def test_held_out_compares_cells_and_goes_on(tmp_path):
    """A second time it computes nothing."""
    for _ in range(2):
        result = script("held_out.py", "--quick", "--out", tmp_path / "out", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [(row["cell"], row["hidden"]) for row in summary["models"]] == [
        ("elman", 8), ("gru", 8), ("elman", 16), ("gru", 16)
    ]  # fmt: skip
    assert all(len(row["test_bits"]) == row["finished"] == 2 for row in summary["models"])
    assert (tmp_path / "out" / "table.md").read_text().count("±") == 4
    assert (tmp_path / "out" / "held_out.png").read_bytes().startswith(PNG)
    starts = json.loads((tmp_path / "out" / "gru-16" / "config.json").read_text())["started by"]
    assert len(starts) == 1


@pytest.mark.slow
def test_real_sequences_are_learnt_or_say_what_to_install(tmp_path):
    result = script("real_sequences.py", "--quick", "--out", tmp_path, cwd=tmp_path)
    if all(any(importlib.metadata.distributions(name=name)) for name in ("scikit-learn", "sktime", "reservoirpy")):
        assert result.returncode == 0, result.stderr
        found = json.loads((tmp_path / "summary.json").read_text())["sets"]
        assert set(found) == {"digits", "vowels", "laser"}
        assert all(row["held out"] < found["laser"]["by guessing"] for row in found["laser"]["models"])
        assert (tmp_path / "real_sequences.png").read_bytes().startswith(PNG)
    else:
        assert result.returncode == 2 and "pip install 'rnn-jax[real]'" in result.stderr
        assert "Traceback" not in result.stderr and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_torch_trains_the_same_network(tmp_path):
    """By the same equations: in 64 bits nothing but rounding is between the losses of 40 steps."""
    constants = ("--beta1", 0.8, "--beta2", 0.99, "--eps", 1e-4, "--last-rate", 0.5)
    result = script("torch_training.py", "--quick", *constants, "--out", tmp_path, cwd=tmp_path)
    if importlib.util.find_spec("torch"):
        assert result.returncode == 0, result.stderr
        runs = json.loads((tmp_path / "summary.json").read_text())["runs"]
        apart = {name: row.get("largest difference, early") for name, row in runs.items()}
        assert apart["PyTorch, float64"] < 1e-12
        assert max(apart["PyTorch"], apart["rnn_jax, jax.grad"]) < 1e-4 < 1e-2 < apart["seed 1"]
        assert (tmp_path / "torch_training.png").read_bytes().startswith(PNG)
    else:
        assert result.returncode == 2 and "pip install 'rnn-jax[peers]'" in result.stderr
        assert "Traceback" not in result.stderr and not any(tmp_path.iterdir())


def untimed(content):
    """What JSON holds but for times."""
    if isinstance(content, dict):
        return {name: untimed(value) for name, value in content.items() if name not in ("seconds", "microseconds")}
    return [untimed(value) for value in content] if isinstance(content, list) else repr(content)


OF_PARTS = {
    "memory_tasks.py": "--tasks adding parity --models elman gru --steps 50 --length 8 --hidden 4",
    "real_sequences.py": "--quick --sets vowels",
    "fixed_points.py": "--hidden 8 --steps 50 --length 20 --batch 8 --starts 20 --between 20",
    "gradient_flow.py": "--hidden 4 --length 8 --windows 2 8 --gains 0.5 1.5 --steps 0 --batch 2",
    "online_learning.py": "--quick",
    "torch_training.py": "--quick",
    "learning_rules.py": "--quick --parts training copying",
}
"""Experiments that go on part by part, and short runs of them."""
NEEDS = {"real_sequences.py": "sktime", "torch_training.py": "torch"}


@pytest.mark.parametrize("name", marked(OF_PARTS, [], set(OF_PARTS) - {"memory_tasks.py", "online_learning.py"}))
def test_a_killed_run_goes_on_part_by_part(tmp_path, name):
    """To the same summary and the same plots; the finished part stays as it is."""
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    (whole, killed), flags = (tmp_path / "whole", tmp_path / "killed"), [*OF_PARTS[name].split(), "--no-cache"]
    result = script(name, *flags, "--out", whole, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    command = [sys.executable, str(EXPERIMENTS / name), *flags, "--out", str(killed), "--resume", "auto"]
    environment = environment_of_scripts()
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=-1, stderr=-1, text=True) as process:
        while not list(killed.glob("parts/*.json")) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
        printed, _ = process.communicate()
    (part,) = killed.glob("parts/*.json")
    assert not (killed / "summary.json").exists()
    before = part.stat().st_mtime_ns
    lines = dict(line.split(": ", 1) for line in printed.splitlines() if line.startswith(("run folder", "to go on")))
    resumed = subprocess.run(
        shlex.split(lines["to go on with it"]), cwd="/", env=environment, capture_output=True, text=True, check=False
    )
    assert resumed.returncode == 0, resumed.stderr
    assert part.stat().st_mtime_ns == before
    assert {path.name for path in killed.iterdir()} == {path.name for path in whole.iterdir()}
    ours, theirs = (untimed(json.loads((folder / "summary.json").read_text())) for folder in (killed, whole))
    assert ours == theirs
    for plot in whole.glob("*.png"):
        assert plot.read_bytes() == (killed / plot.name).read_bytes(), plot.name
    other = script(name, *flags, "--seed", "1", "--out", killed, "--resume", "auto", cwd=tmp_path)
    assert other.returncode == 2 and "seed is 1; it must be 0, as in the run that is resumed" in other.stderr


@pytest.mark.parametrize("name", OF_PARTS)
def test_compiled_programs_are_kept_before_anything_is_measured(tmp_path, name, monkeypatch):
    """And before the folder is made; real sequences and PyTorch need not be installed for it."""
    module = importlib.import_module(name.removesuffix(".py"))
    monkeypatch.setattr(experiment, "keep_compiled", mock.Mock(side_effect=Killed))
    if name == "torch_training.py":
        monkeypatch.setattr(module, "find_spec", mock.Mock(return_value=True))
    with pytest.raises(Killed):
        module.run(module.Config(out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


BY_ADAM = {
    "memory_tasks": lambda m, c: m.learn(c, "adding", m.TASKS["adding"], "elman"),
    "real_sequences": lambda m, c: m.learn(c, m.Problem(lambda *_: ONE, rj.Batch(ZEROS, ZEROS), None, 0, ""), "elman"),
    "fixed_points": lambda m, c: m.train(dataclasses.replace(c, recurrent="uniform"), "elman"),
    "gradient_flow": lambda m, c: m.trainer(c, m.network_of(c, "elman")),
    "learning_rules": lambda m, c: m.train(c, "bptt", 5),
    "torch_training": lambda m, c: m.measure(c, None),
}
"""What makes the optimiser of an experiment that trains by Adam, of its module and its configuration."""
ONE, ZEROS = rj.Network((rj.elman(),), 1, 2, 1, rj.squared_error()), np.zeros((5, 4, 1), np.float32)


def test_the_folder_is_held_until_all_is_written():
    """After ``finish`` a script only says where the run is."""
    ends = [
        path.read_text().split("parts.finish()")[1].split("\n\n\n")[0]
        for path in sorted(EXPERIMENTS.glob("*.py"))
        if "parts.finish()" in path.read_text()
    ]
    assert len(ends) == 10
    assert not any("parts." in end.replace('print(f"run folder: {parts.folder}")', "") for end in ends)


@pytest.mark.parametrize("name", BY_ADAM)
def test_the_constants_of_adam_are_flags(name, monkeypatch):
    module, adam = importlib.import_module(name), mock.Mock(side_effect=Killed)
    monkeypatch.setattr(optax, "adam", adam)
    with pytest.raises(Killed):
        BY_ADAM[name](module, module.Config(hidden=4, beta1=0.8, beta2=0.95, eps=1e-3))
    assert adam.call_args.args[1:] == (0.8, 0.95, 1e-3)


def test_the_constants_of_rmsprop_are_flags(monkeypatch):
    rmsprop = mock.Mock(side_effect=Killed)
    monkeypatch.setattr(optax, "rmsprop", rmsprop)
    with pytest.raises(Killed):
        learning_rules.grow(learning_rules.Config(rate=0.1, rms_decay=0.8, eps=1e-3), "immediate, RMSprop")
    assert rmsprop.call_args.args == (0.1, 0.8, 1e-3)


def test_the_flags_of_held_out_are_those_of_its_runs(tmp_path):
    given = {"batch": 7, "length": 9, "rate": 0.5, "last_rate": 0.3, "warm_up": 2, "clip_at": 2.0, "cache": False}
    given |= {"beta1": 0.8, "beta2": 0.95, "eps": 1e-3, "steps": 11, "seeds": 2}
    settings = char_lm.resolve(held_out.settings(held_out.Config(out=tmp_path, **given), "gru", 8))
    assert {name: getattr(settings, name) for name in given} == given
    assert (settings.cell, settings.hidden, settings.out) == ("gru", 8, tmp_path / "gru-8")
    usual = char_lm.Config(cell="gru", hidden=8, seeds=3, steps=5000, out=tmp_path / "gru-8", resume=experiment.AUTO)
    ours = held_out.settings(held_out.Config(out=tmp_path), "gru", 8)
    assert char_lm.resolve(ours) == dataclasses.replace(char_lm.resolve(usual), quiet=True)


@pytest.mark.slow
def test_gradient_flow_is_measured_before_and_after_training(tmp_path):
    """The error is 1 at the lag 0, and the gradient of one whole window is exact."""
    result = script("gradient_flow.py", "--quick", "--out", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["gain"]) == {"0.5", "1.5"} and len(summary["training"]) == 6
    for when in ("gain", "before training", "after training"):
        for found in summary[when].values():
            assert len(found["error by lag"]) == 20 and found["error by lag"][0] == 1
            assert found["truncation"][-1] < 1e-12 < found["truncation"][0]
            assert found["lyapunov"] == sorted(found["lyapunov"], reverse=True)
    for name in ("gradient_flow", "shares", "truncation", "singular_values", "lyapunov", "clipping"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_the_flip_flop_rests_at_fixed_points(tmp_path):
    result = script("fixed_points.py", "--quick", "--out", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (row,) = json.loads((tmp_path / "summary.json").read_text())["rows"]
    assert row["loss"] < 0.2 * row["loss without memory"]
    assert row["stable"] + row["saddles"] == len(row["points"]) > 0 and row["converged"] > 50
    assert all(point["residual"] <= row["tolerance"] for point in row["points"])
    assert (tmp_path / "fixed_points_elman.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_minimal_compares_trains_and_plots(tmp_path):
    """600 steps are enough to learn that the input of six steps ago counts: 0.66 nats do without it."""
    result = script("minimal.py", "--steps", "600", "--out", tmp_path / "curve.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    errors = [float(line.split()[-4]) for line in result.stdout.splitlines() if "differ by" in line]
    assert len(errors) == 5 and max(errors) < 1e-5
    losses = [float(line.split()[2]) for line in result.stdout.splitlines() if line.startswith("step")]
    assert len(losses) == 6 and 0.44 < losses[-1] < 0.6
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        ("benchmark", ("--cells", "rnn"), "elman"),
        ("benchmark", ("--hidden", "0"), "positive"),
        ("benchmark", ("--rounds", "0"), "rounds is 0"),
        ("benchmark", ("--resume", "auto"), "resume is 'auto'; it must be used with --out"),
        ("rules_benchmark", ("--rules", "backprop"), "rules is ['backprop']"),
        ("rules_benchmark", ("--sizes", "0", "1"), "positive numbers"),
        ("rules_benchmark", ("--resume", "auto"), "used with --out"),
        ("learning_rules", ("--rules", "backprop"), "rules is ['backprop']"),
        ("learning_rules", ("--segments", "3"), "divisors of the length, 100"),
        ("learning_rules", ("--steps", "41"), "steps is 41; it must be a multiple of 40 windows of 5"),
        ("learning_rules", ("--training-windows", "0"), "training_windows is (0,); it must be positive numbers"),
        ("learning_rules", ("--copying-window", "5"), "copying_window is 5; it must be a divisor of the chunk, 64"),
        ("memory_tasks", ("--models", "transformer"), "models is ['transformer']"),
        ("memory_tasks", ("--length", "2"), "length is 2; it must be 3 steps or more"),
        ("memory_tasks", ("--rates", "rnn", "1e-3"), "rates is 'rnn'; it must be some of elman"),
        ("memory_tasks", ("--rates", "irnn", "0"), "rates is 0.0; it must be a positive number after each name"),
        ("memory_tasks", ("--resume", "auto"), "resume is 'auto'; it must be used with --out"),
        ("memory_tasks", ("--rate", "0"), "rate is 0.0; it must be a positive number"),
        ("memory_tasks", ("--beta1", "1"), "beta1 is 1.0; it must be 0 or more and below 1"),
        ("held_out", ("--cells", "transformer"), "cells is ['transformer']"),
        ("held_out", ("--seeds", "0"), "seeds is 0"),
        ("torch_training", ("--steps", "0"), "steps is 0; it must be a positive int"),
        ("torch_training", ("--rate", "0"), "rate is 0.0; it must be a positive number"),
        ("torch_training", ("--seed", "-1"), "seed is -1; it must be in 0 …"),
        ("gradient_flow", ("--windows", "3"), "windows is [3]; it must be divisors of the length, 100"),
        ("gradient_flow", ("--steps", "7"), "a multiple of every, 50"),
        ("fixed_points", ("--cells", "rnn"), "cells is ['rnn']"),
        ("fixed_points", ("--starts", "7000"), "length · batch, 6400, at most"),
        ("minimal", ("--steps", "0"), "steps is 0"),
        ("minimal", ("--seed", "-1"), "seed is -1"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value if value.isidentifier() else "",
)
def test_mistakes_are_refused_in_one_line(tmp_path, monkeypatch, capsys, name, flags, says):
    """In this process; nothing is written."""
    if name == "torch_training" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    monkeypatch.chdir(tmp_path)
    assert command(*flags, script=importlib.import_module(name)) == 2
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
    assert not any(tmp_path.iterdir())


SCRIPTS = sorted(path.stem for path in EXPERIMENTS.glob("*.py") if "experiment.main(Config" in path.read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_teaches(name, capsys):
    assert command("--help", script=importlib.import_module(name)) == 0
    assert "Examples:" in capsys.readouterr().out


@pytest.mark.slow
def test_pictures_are_made_by_their_experiments(tmp_path):
    flags = ("--only", "cell.png", "learning_curve.png", "--pictures", tmp_path / "docs", "--quick")
    result = script("pictures.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"cell.png", "learning_curve.png"}
    wrong = script("pictures.py", "--only", "mona_lisa.png", cwd=tmp_path)
    assert wrong.returncode == 2 and "only is" in wrong.stderr


def test_a_picture_that_cannot_be_made_stops_no_other(tmp_path, monkeypatch):
    """It is named at the end, and a picture of an earlier run does not stand in for it."""
    (tmp_path / "runs" / "learning_curve").mkdir(parents=True)
    (tmp_path / "runs" / "learning_curve" / "learning_curve.png").touch()

    def start(command, check):
        made = "char_lm.py" not in command[1]
        if made:
            folder = Path(command[command.index("--out") + 1])
            folder.mkdir(parents=True)
            (folder / "real_sequences.png").touch()
        return subprocess.CompletedProcess(command, 0 if made else 2)

    monkeypatch.setattr(pictures.subprocess, "run", start)
    only = ("learning_curve.png", "real_sequences.png")
    with pytest.raises(rj.InputError, match=r"learning_curve\.png \(char_lm\.py ended with status 2\)"):
        pictures.run(pictures.Config(only, tmp_path / "docs", tmp_path / "runs"))
    assert [path.name for path in (tmp_path / "docs").iterdir()] == ["real_sequences.png"]


@pytest.mark.slow
def test_every_picture_of_the_pages_is_made_by_a_command(tmp_path):
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    shown = {Path(name).name for page in pages for name in re.findall(r"!\[.*?\]\((\S+\.png)\)", page.read_text())}
    assert shown == set(pictures.PICTURES) == {path.name for path in (ROOT / "docs").glob("*.png")}
