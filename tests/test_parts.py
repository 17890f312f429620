"""A run that is measured part by part goes on with the first part that is missing, and in its own folder alone."""

import dataclasses
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro

import rnn_jax as rj
from rnn_jax import experiment


@dataclass(frozen=True)
class Config:
    """Of a run with flags of every kind."""

    sizes: tuple[int, ...] = (3, 4)
    shapes: tuple[tuple[int, float], ...] = ((1, 0.5),)
    models: tuple[str, ...] | None = None
    kind: Literal["a", "b"] = "a"
    test_length: int | None = None
    decay: bool = True
    cache: bool = True
    starts: int = 5
    out: Path | None = None
    overwrite: bool = False
    resume: Literal["auto"] | None = None
    quick: bool = False


def parts_of(config):
    return experiment.Parts("test", config, r"summary\.json")


def never():
    raise AssertionError("the part was measured again")


@pytest.fixture
def config(tmp_path):
    return Config(out=tmp_path / "run", resume="auto", models=("a b", "c"), shapes=((2, 0.25), (4, 1e-5)), quick=True)


def test_a_part_is_measured_once_and_is_the_same_when_read(config):
    """Floats to the bit, NaN too; tuples are lists from the start."""
    result = {"curve": [(1, 0.1 + 0.2), (2, 1e-310)], "none": None, "loss": float("nan")}
    first = parts_of(config).result("a, H = 3", lambda: result)
    again = parts_of(config).result("a, H = 3", never)
    assert repr(first) == repr(again) and first["curve"] == [[1, 0.1 + 0.2], [2, 1e-310]]
    assert len(experiment.read_sealed(config.out / "config.json")["started by"]) == 2


def test_a_part_that_was_stopped_or_damaged_is_measured_again(config):
    def stopped():
        raise KeyboardInterrupt

    parts = parts_of(config)
    assert parts.result("one", lambda: 1) == 1
    with pytest.raises(KeyboardInterrupt):
        parts.result("two", stopped)
    file = config.out / "parts" / "one.json"
    file.write_text(file.read_text().replace(": 1", ": 7"))
    (config.out / "parts" / "two.json.partial").write_text("{")
    parts = parts_of(config)
    assert parts.result("one", lambda: 1) == 1 and parts.result("two", lambda: 2) == 2
    assert {path.name for path in (config.out / "parts").iterdir()} == {"one.json", "two.json"}


def test_a_part_that_cannot_be_written_is_kept_and_tried_again(config, monkeypatch, capsys):
    """A disk that is full for a while; what is measured meanwhile is in the folder in the end."""
    from rnn_jax.experiment import files

    parts, write_text, full = parts_of(config), Path.write_text, [True]

    def filled(path, *arguments, **options):
        if full:
            raise OSError(28, "No space left on device")
        return write_text(path, *arguments, **options)

    monkeypatch.setattr(files.Path, "write_text", filled)
    capsys.readouterr()
    assert parts.result("one", lambda: 1) == 1
    parts.write_json("summary.json", [1])
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 2 and all(line.startswith("warning: out is ") and "No space" in line for line in error)
    with pytest.raises(experiment.UnsavedError, match="No space"):
        parts.finish()
    full.clear()
    assert parts.result("one", never) == 1 and parts.result("two", lambda: [2, 3]) == [2, 3]
    parts.write_json("summary.json", [1])
    parts.finish()
    again = parts_of(config)
    assert again.result("one", never) == 1 and again.result("two", never) == [2, 3]


def test_a_deleted_folder_is_made_again_with_its_parts(config):
    parts_of(config).result("one", lambda: {"a": [1]})
    parts = parts_of(config)
    parts.result("one", never)["a"].append(2)
    shutil.rmtree(config.out)
    parts.result("two", lambda: 2)
    parts.finish()
    again = parts_of(config)
    assert again.result("one", never) == {"a": [1]} and again.result("two", never) == 2


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"sizes": (3, 5)}, "sizes is (3, 5); it must be (3, 4), as in the run that is resumed"),
        ({"models": None}, "models is None; it must be ('a b', 'c')"),
        ({"decay": False}, "decay is False"),
        ({"overwrite": True}, "overwrite is True; it must be left out with --resume"),
        ({"out": None}, "resume is 'auto'; it must be used with --out"),
        ({"resume": None}, "it must be a new or empty folder"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_run_is_refused_in_one_line(config, changed, says):
    parts_of(config).result("one", lambda: 1)
    before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
    with pytest.raises(rj.InputError) as refused:
        parts_of(dataclasses.replace(config, **changed))
    assert says in str(refused.value) and "\n" not in str(refused.value)
    assert {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(sys.platform == "win32", reason="of the locks of POSIX")
@pytest.mark.parametrize("changed", [{}, {"resume": None, "overwrite": True}], ids=["resume", "overwrite"])
def test_no_other_process_runs_in_the_folder(config, changed):
    """Until ``finish``; in this process another may, as in a notebook.  Another ``Lock`` is as another process."""
    again = dataclasses.replace(config, **changed)
    for each in config, again:
        parts = parts_of(each)
        with experiment.Lock() as other, pytest.raises(rj.InputError, match="where another process runs"):
            other.take(config.out)
        parts.finish()
        with experiment.Lock() as other:
            other.take(config.out)
            before = {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()}
            for _ in range(2):
                with pytest.raises(rj.InputError, match="where another process runs") as refused:
                    parts_of(again)
            assert "\n" not in str(refused.value)
            assert {path: path.read_bytes() for path in config.out.rglob("*") if path.is_file()} == before


def test_a_folder_of_another_experiment_is_refused(config):
    experiment.write_config((config.out.mkdir(), config.out)[1], "another", config)
    with pytest.raises(rj.InputError, match="it must be the folder of a run of test"):
        parts_of(config)


def test_a_run_is_replaced_with_its_parts(config):
    parts_of(config).result("one", lambda: 1)
    assert parts_of(dataclasses.replace(config, resume=None, overwrite=True)).result("one", lambda: 2) == 2
    assert parts_of(config).result("one", never) == 2  # it began with --overwrite, and goes on without


def test_a_run_goes_on_with_or_without_a_cache(config):
    """It changes no number."""
    parts_of(config).result("one", lambda: 1)
    assert parts_of(dataclasses.replace(config, cache=False)).result("one", never) == 1


@pytest.mark.parametrize(
    "changed",
    [{}, {"models": None, "decay": False, "quick": False}, {"test_length": 5, "starts": 7}, {"cache": False}],
)
def test_the_printed_command_goes_on_from_any_folder(config, changed, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = dataclasses.replace(config, out=Path("run"), resume=None, **changed)
    parts_of(config).result("one", lambda: 1)
    place, command = (line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    python, script, *flags = shlex.split(command[1])
    assert place == ["run folder", "run"] and (python, script) == (sys.executable, __file__)
    monkeypatch.chdir("/")
    given = tyro.cli(Config, args=flags)
    assert given == dataclasses.replace(config, out=tmp_path / "run", resume="auto")
    assert parts_of(given).result("one", never) == 1
