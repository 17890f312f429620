"""Run folders and command lines: nothing is deleted but an earlier run, and every mishap is one line."""

import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from fixtures import marked

import rnn_jax as rj
from rnn_jax import experiment

FILES = r"log\.txt|parts(/\d+)*"


@dataclass(frozen=True)
class Config:
    """Of a run that does nothing."""

    out: Path | None = None
    overwrite: bool = False
    size: int = 3
    rate: float | None = None
    kind: Literal["a", "b"] | None = None


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A folder with all that an experiment writes, in a working directory of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = experiment.new_folder("test", Config(out=tmp_path / "run"), FILES)
    (folder / "log.txt").write_text("old")
    (folder / "log.txt.partial").write_text("cut short")
    (folder / "parts" / "1").mkdir(parents=True)
    (folder / "parts" / "1" / "2").write_text("old")
    return folder


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def replace(folder, name="test", inputs=()):
    return experiment.new_folder(name, Config(out=folder, overwrite=True, size=4), FILES, inputs)


def test_an_earlier_run_is_replaced(earlier):
    with pytest.raises(rj.InputError, match="used with --overwrite"):
        experiment.new_folder("test", Config(out=earlier), FILES)
    assert replace(earlier) == earlier
    assert set(contents(earlier)) == {"config.json"}
    assert experiment.read_config(earlier, "test", Config).size == 4


def test_a_link_to_a_run_stays(earlier):
    link = earlier.with_name("link")
    link.symlink_to(earlier)
    assert replace(link) == link
    assert link.is_symlink() and set(contents(earlier)) == {"config.json"}


@pytest.mark.parametrize("foreign", ["thesis.txt", "parts/notes.md", "parts/1/2.txt", "config.json.bak", "link", "dir"])
def test_a_folder_with_any_other_file_is_refused(earlier, foreign):
    path = earlier / foreign
    if foreign == "link":
        path.symlink_to(earlier / "log.txt")
    elif foreign == "dir":
        path.mkdir()
    else:
        path.write_text("do not lose this")
    before = contents(earlier)
    with pytest.raises(rj.InputError, match=f"and this holds {foreign}"):
        replace(earlier)
    assert contents(earlier) == before


@pytest.mark.parametrize("marker", [None, "", "[]", '{"model": "resnet"}', '{"experiment": "another"}'])
def test_what_is_no_run_of_the_experiment_is_refused(earlier, marker):
    (earlier / "config.json").unlink()
    if marker is not None:
        (earlier / "config.json").write_text(marker)
    before = contents(earlier)
    with pytest.raises(rj.InputError, match="earlier run of test, and this is none"):
        replace(earlier)
    link = earlier.with_name("link")
    link.symlink_to(earlier)
    with pytest.raises(rj.InputError, match="earlier run of test, and this is none"):
        replace(link)
    assert contents(earlier) == before


def test_places_that_are_in_use_are_refused(earlier, monkeypatch):
    """The working directory, the home, a folder that contains them, and one that holds the text."""
    before = contents(earlier)
    for out in (Path("."), Path.cwd().parent, Path.cwd().parent / "here"):
        (Path.cwd() / "log.txt").write_text("not empty")
        with pytest.raises(rj.InputError, match="the working directory"):
            replace(out)
    monkeypatch.setenv("HOME", str(earlier / "parts"))
    with pytest.raises(rj.InputError, match="the home"):
        replace(earlier)
    monkeypatch.undo()
    with pytest.raises(rj.InputError, match=r"without what the run reads, .*log\.txt"):
        replace(earlier, inputs=[earlier / "log.txt"])
    assert contents(earlier) == before


def test_a_file_or_a_link_to_nothing_is_refused(tmp_path):
    (tmp_path / "file").write_text("do not lose this")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for name in ("file", "link"):
        with pytest.raises(rj.InputError, match="it must be a folder"):
            replace(tmp_path / name)
    assert (tmp_path / "file").read_text() == "do not lose this"


def test_runs_of_the_same_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {experiment.new_folder("test", Config(), FILES) for _ in range(5)}
    assert len(folders) == 5 and all(folder.parent == Path("runs/test") for folder in folders)


@pytest.mark.parametrize("wrong", ['{"size": "x"}', '{"size": true}', '{"rate": []}', '{"kind": "c"}', '{"new": 1}'])
def test_a_configuration_of_other_types_is_refused(tmp_path, wrong):
    (tmp_path / "config.json").write_text('{"experiment": "test", ' + wrong[1:])
    with pytest.raises(rj.InputError, match=r"^\w+ in .*config\.json is .*; it must be"):
        experiment.read_config(tmp_path, "test", Config)


def test_a_configuration_is_read_as_it_was_written(tmp_path):
    config = Config(Path("there"), True, 5, 1, "b")
    experiment.write_config(tmp_path, "test", config)
    assert experiment.read_config(tmp_path, "test", Config) == config


def test_a_full_disk_leaves_the_file_before_and_is_one_line(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    experiment.write_text(tmp_path / "log.txt", "old")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(rj.InputError, match=r"log\.txt', which cannot be written \(No space left on device\)"):
        experiment.write_text(tmp_path / "log.txt", "new")
    assert (tmp_path / "log.txt").read_text() == "old"


PROGRAM = """
import os, signal, sys
from dataclasses import dataclass
from rnn_jax import experiment

@dataclass
class Config:
    way: str = ""

def run(config):
    if config.way == "print":
        print("snow ☃ man", flush=True)
    elif config.way == "lines":
        for _ in range(100_000):
            print("a line")
    elif config.way == "devices":
        import jax
        experiment.use_cores(3)
        print(len(jax.devices()), flush=True)
        experiment.use_cores(2)
        print(len(jax.devices()))
    else:
        os.kill(os.getpid(), getattr(signal, config.way))

experiment.main(Config, run)
"""


WAYS = [
    ("print", 0, "snow \\u2603 man\n"),
    ("SIGINT", 130, ""),
    ("SIGTERM", 143, ""),
    ("devices", 0, "3\n3\n"),
    ("devices of XLA_FLAGS", 0, "4\n4\n"),
    ("full", 1, None),
    ("lines", 141, None),
]


@pytest.mark.parametrize(("way", "status", "printed"), marked(WAYS, [("SIGINT", 130, ""), ("full", 1, None)]))
def test_how_a_command_ends(way, status, printed):
    """ASCII output, signals, devices that are there already, a full disk, a reader that has gone: never a traceback."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    if "XLA" in way:
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    command = [sys.executable, "-c", PROGRAM, "--way", {"full": "print"}.get(way, way.split()[0])]
    if way == "full":
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, env=environment, stdout=full, stderr=-1, text=True, timeout=300, check=False)
    elif way == "lines":
        with subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) as process:
            process.stdout.readline()
            process.stdout.close()
            error = process.stderr.read()
        done = subprocess.CompletedProcess(command, process.returncode, None, error)
    else:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (status, printed), done.stderr
    assert done.stderr == ("error: [Errno 28] No space left on device\n" if way == "full" else "")


def test_cores_are_those_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert experiment.cores() == experiment.machine()["cores"] == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    assert experiment.cores() == 64
