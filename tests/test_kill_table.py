"""Runs that are killed, starved and damaged, in processes of their own: `kill_table.py` makes the whole table."""

import json
import random
import subprocess
import sys

import kill_table
import pytest
from char_runs import script
from fixtures import marked

import rnn_jax as rj


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux' limits on files")
@pytest.mark.parametrize("algorithm", marked(["bptt", "uoro"], [], ["bptt"]))
def test_six_kills_and_some_damage_change_no_bit(algorithm, tmp_path):
    """Status 1 tells of any run that went on otherwise, or was refused in more than one line."""
    result = script("kill_table.py", "--quick", "--algorithms", algorithm, "--out", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "run" / "table.md").read_text() in result.stdout
    trials = json.loads((tmp_path / "run" / "summary.json").read_text())["trials"]
    kills = [trial for trial in trials if trial["what"] in kill_table.MOMENTS]
    assert len(kills) == 6 and {trial["outcome"] for trial in kills} == {"equal"}
    assert {trial["outcome"] for trial in trials} == {"equal", "refused"}


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (kill_table.Config(algorithms=("backprop",)), "algorithms is ['backprop']; it must be names of learning rules"),
        (kill_table.Config(algorithms=()), "algorithms is []"),
        (kill_table.Config(times=0), "times is 0"),
        (kill_table.Config(flips=0), "flips is 0"),
    ],
)
def test_mistakes_are_refused(config, says):
    with pytest.raises(rj.InputError) as refused:
        kill_table.run(config)
    assert says in str(refused.value)


def test_a_table_that_was_stopped_goes_on_with_the_same_draws(tmp_path, monkeypatch, capsys):
    """Of moments, files and bits, whatever was measured before; no run is made for what is measured already."""

    class Unharmed:
        stop = None

        def __init__(self, work):
            pass

    def drawn(kind):
        def trials(*arguments):
            *which, unharmed, rng = arguments
            which = [each for each in which if not isinstance(each, kill_table.Config)]
            if unharmed.stop == which:
                raise KeyboardInterrupt
            measured.append(which)
            outcome = kill_table.REFUSED if kind == "damage" else kill_table.EQUAL
            return [kill_table.Trial(kind, str(which[0]), outcome, f"{which} {rng.random()}")]

        return trials

    measured = []
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kill_table, "Unharmed", Unharmed)
    for kind in ("kill", "damage"):
        monkeypatch.setattr(kill_table, kind, drawn(kind))
    assert kill_table.run(kill_table.Config(out=tmp_path / "whole")) == 0
    expected, plan = json.loads((tmp_path / "whole" / "summary.json").read_text()), measured[:]
    assert len(plan) == 50 + 3 * 6
    measured.clear()
    config = kill_table.Config(out=tmp_path / "run", resume="auto")
    for Unharmed.stop in plan[7], plan[60]:
        with pytest.raises(KeyboardInterrupt):
            kill_table.run(config)
    Unharmed.stop = None
    capsys.readouterr()
    assert kill_table.run(config) == 0 and measured == plan
    found = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert found["trials"] == expected["trials"] and found["table"] == expected["table"]
    assert len({trial["detail"].split()[-1] for trial in found["trials"]}) == len(plan)
    assert kill_table.run(config) == 0 and measured == plan


@pytest.mark.parametrize(("changed", "outcome"), [(False, "refused"), (True, "WRONG")])
def test_a_refusal_leaves_every_file_as_it_was(changed, outcome, tmp_path, monkeypatch):
    class Unharmed:
        work = text = tmp_path
        result, whole = staticmethod(lambda algorithm: {}), staticmethod(lambda algorithm: (tmp_path, 1.0))

    def again(argv, **settings):
        if changed:
            (tmp_path / "killed" / "lock").touch()
        return subprocess.CompletedProcess(argv, 2, "", "error: refused\n")

    monkeypatch.setattr(kill_table, "harm", lambda what, number, algorithm, folder, *others: folder.mkdir() or "harmed")
    monkeypatch.setattr(subprocess, "run", again)
    (trial,) = kill_table.kill("folder deleted", 0, "bptt", Unharmed, random.Random(0))
    assert trial.outcome == outcome


def test_every_kind_of_damage_is_damage(tmp_path):
    path, rng = tmp_path / "file", random.Random(0)
    for how in kill_table.DAMAGES:
        path.write_bytes(b"some content")
        kill_table.damaged(path, how, rng)
        assert not path.exists() or path.read_bytes() != b"some content"
    path.write_bytes(b"")
    assert kill_table.damaged(path, "a bit flipped", rng) == "an empty file"


def test_the_table_counts_outcomes():
    trials = [kill_table.Trial("killed", "bptt", outcome, "") for outcome in ("equal", "equal", "WRONG")]
    assert kill_table.table(trials).splitlines()[-1] == "| killed | 2 | 0 | 1 |"
