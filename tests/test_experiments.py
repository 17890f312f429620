"""The scripts run for real, as a user starts them: quick, resumed, and with every kind of mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path

import compare_gradients
import jax
import pytest

import rnn_jax as rj

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
PNG = b"\x89PNG\r\n"


def script(name, *arguments, cwd):
    environment = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    command = [sys.executable, str(EXPERIMENTS / name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


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
    result = script("char_lm.py", "--resume", folder, "--steps", 80, "--out", "elsewhere", cwd=folder.parent)
    assert result.returncode == 0, result.stderr
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 81))
    assert not (folder.parent / "elsewhere").exists()


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
def test_char_lm_refuses_mistakes_in_one_line(tmp_path, flags, says):
    (tmp_path / "short.txt").write_text("too short to train on. " * 3)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.txt").write_text("do not lose this")
    result = script("char_lm.py", *flags, cwd=tmp_path)
    assert result.returncode == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert (tmp_path / "used" / "thesis.txt").read_text() == "do not lose this"
    assert not (tmp_path / "runs").exists()


def test_compare_gradients_agrees(tmp_path):
    result = script("compare_gradients.py", "--quick", "--out", tmp_path / "run", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["passed"] and all(case["passed"] for case in summary["cases"])
    assert summary["largest"]["float64"] <= 1e-12 and summary["largest"]["float32"] <= 1e-5
    assert (tmp_path / "run" / "error_against_T.png").read_bytes().startswith(PNG)


def test_compare_gradients_fails_on_a_wrong_gradient(tmp_path, monkeypatch, capsys):
    """One per mille too much in bptt, and the script says where and exits with status 1."""
    right = rj.bptt

    def bptt(network):
        def update(params, state, batch):
            (loss, grads), state = right(network).update(params, state, batch)
            return (loss, jax.tree.map(lambda g: g * 1.001, grads)), state

        return right(network)._replace(update=update)

    monkeypatch.setattr(rj, "bptt", bptt)
    monkeypatch.setattr(compare_gradients, "CELLS", {"elman": rj.elman()})
    config = compare_gradients.Config(depths=(1,), lengths=(5,), out=tmp_path / "run")
    with jax.numpy_dtype_promotion("standard"):
        assert compare_gradients.run(config) == 1
    assert "FAILED elman-tanh, 1 layers, float64, T = 5" in capsys.readouterr().out


def test_benchmark_measures_every_part(tmp_path):
    """For real, quick; then it goes on where it stopped, with nothing left to do."""
    folder = tmp_path / "run"
    result = script("benchmark.py", "--quick", "--cells", "elman", "--out", folder, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    assert {row["part"] for row in rows} == {"grid", "scaling", "crossover", "long", "programs"}
    timed = [row for row in rows if row["part"] != "programs" and "error" not in row]
    assert all(row["milliseconds"] > 0 for row in timed)
    grid = {row["program"]: row for row in rows if row["part"] == "grid"}
    assert {"bptt, one device", "bptt, recomputed", "jax.grad, usual scan", "products alone"} <= set(grid)
    assert [row["error"] < 1e-12 for row in rows if "error" in row] == [True]
    for name in ("peers.png", "length.png", "crossover.png"):
        assert (folder / name).read_bytes().startswith(PNG)
    before = (folder / "rows.jsonl").read_text()
    again = script("benchmark.py", "--quick", "--cells", "elman", "--resume", folder, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (folder / "rows.jsonl").read_text() == before and str(folder) in again.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--cells", "rnn"), "elman"),
        (("--hidden", "0"), "positive"),
        (("--rounds", "0"), "rounds is 0"),
        (("--resume", "nowhere"), "resume is 'nowhere'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_benchmark_refuses_mistakes_in_one_line(tmp_path, flags, says):
    result = script("benchmark.py", *flags, cwd=tmp_path)
    assert result.returncode == 2 and says in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_compiles_or_says_what_to_install(tmp_path, platform):
    file = tmp_path / "programs.json"
    small = ("--cell", "elman", "--hidden", "16", "--batch", "8", "--length", "32", "--platform", platform)
    result = script("accelerators.py", *small, "--out", file, cwd=tmp_path)
    if result.returncode == 0:
        by_hand, usual, _ = json.loads(file.read_text())["programs"]
        figure = "kernels_reverse" if platform == "cuda" else "cycles_per_step"
        assert 0 < by_hand[figure] < usual[figure]
    else:
        assert result.returncode == 2 and "pip install --no-deps" in result.stderr


def test_help_teaches(tmp_path):
    for name in ("char_lm.py", "compare_gradients.py", "benchmark.py", "accelerators.py"):
        result = script(name, "--help", cwd=tmp_path)
        assert result.returncode == 0 and "Examples:" in result.stdout
