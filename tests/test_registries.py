"""A learning rule is added in its own file and in the registry, a cell likewise; everything else finds them there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RULE = '''"""A rule that is bptt under another name."""

from rnn_jax.gradients.bptt import bptt
from rnn_jax.types import Algorithm, Network


def novelty(network: Network, depth: int = 3) -> Algorithm:
    """As bptt."""
    return bptt(network)
'''
FINDS = """
import char_lm, inspect, pathlib
import rnn_jax as rj
from rnn_jax.testing import matrix
assert rj.novelty is rj.ALGORITHMS["novelty"] and "novelty" in rj.__all__
assert rj.CELLS["invention"] == rj.elman("relu")
assert "novelty" in char_lm.ALGORITHMS and "invention" in char_lm.CELLS
assert set(matrix.pairs()) >= {("novelty", "invention"), ("novelty", "gru"), ("bptt", "invention")}
"""


def in_copy(folder, *command):
    paths = os.pathsep.join(str(folder / part) for part in (".", "tests", "experiments"))
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_rule_and_a_cell_are_found_everywhere(tmp_path):
    for name in ("rnn_jax", "tests", "experiments"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "rnn_jax/gradients/novelty.py").write_text(RULE)
    registry = tmp_path / "rnn_jax/gradients/__init__.py"
    text = registry.read_text()
    for old, new in (
        ("from rnn_jax.gradients.bptt", "from rnn_jax.gradients.novelty import novelty\nfrom rnn_jax.gradients.bptt"),
        ('"bptt": bptt,', '"bptt": bptt, "novelty": novelty,'),
        ('    "bptt",\n', '    "bptt",\n    "novelty",\n'),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    registry.write_text(text)
    cells = tmp_path / "rnn_jax/cells/__init__.py"
    cells.write_text(
        cells.read_text().replace('    "elman": elman(),', '    "elman": elman(),\n    "invention": elman("relu"),')
    )
    found = in_copy(tmp_path, "-c", FINDS)
    assert found.returncode == 0, found.stderr
    files = [f"tests/test_{name}.py" for name in ("fuzz", "bad_input", "weight", "conformance", "gradients")]
    listed = in_copy(tmp_path, "-m", "pytest", "--collect-only", "-q", "-n", "0", "-m", "", *files)
    for test in (
        "test_every_wrong_call_is_refused[novelty]",
        "test_every_wrong_call_is_refused[novelty.update]",
        "test_loss_and_gradient_are_the_weighted_sums[novelty]",
        "test_every_algorithm_conforms[novelty-invention]",
        "test_every_cell_conforms[invention]",
    ):
        assert test in listed.stdout, (test, listed.stdout[-2000:], listed.stderr)
