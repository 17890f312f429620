"""What the pages show is true: each block of code runs, from top to bottom of a page, in one namespace."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import char_runs
import jax
import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md"))
PEERS = {"flax", "equinox", "haiku", "torch"}


def blocks(page, language):
    """The blocks of one language, and the line on which each starts."""
    text = page.read_text()
    found = re.finditer(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [(match[1], text[: match.start()].count("\n") + 2) for match in found]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("default")  # of other libraries
def test_the_python_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace, absent = {"__name__": "__main__"}, set()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        for code, line in blocks(page, "python"):
            try:
                exec(compile("\n" * (line - 1) + code, page, "exec"), namespace)
            except ModuleNotFoundError as error:
                if error.name not in PEERS:
                    raise
                absent.add(error.name)
    if absent:
        pytest.skip(f"the blocks that need {', '.join(sorted(absent))} were left out")


IN_BLOCKS = [(page, line) for page in PAGES for code, _ in blocks(page, "sh") for line in code.splitlines()]
TABLE = ROOT / "experiments" / "README.md"
IN_TABLE = [(TABLE, code) for code in re.findall(r"`([^`]+)`", TABLE.read_text())]
COMMANDS = [
    pytest.param(command, id=f"{page.stem}-{command}")
    for page, command in IN_BLOCKS + IN_TABLE
    if command.startswith(("python ", "pytest "))
]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_a_page_knows_its_flags(command, capsys):
    """Commands run for minutes: of a script the flags are looked up in its help, of pytest the tests are collected."""
    program, *arguments = shlex.split(command, comments=True)
    if program == "pytest":
        argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-n", "0", *arguments]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)
        return
    if arguments[0] == "-m":
        argv = [sys.executable, *arguments[:2], "--help"]
        known = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    else:
        assert char_runs.command("--help", script=importlib.import_module(Path(arguments[0]).stem)) == 0
        known = capsys.readouterr().out
    for flag in arguments:
        assert not flag.startswith("--") or flag in known, f"{flag} is no flag of {arguments[0]}"
