"""What the README shows is true: its examples run, and print what it says."""

import re
from pathlib import Path

import jax
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(autouse=True)
def _as_users_run_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
        yield


def test_the_first_example_agrees_with_autodiff(capsys):
    exec(EXAMPLES[0], {})
    norm = float(re.search(r"norm=([\d.e-]+)", capsys.readouterr().out)[1])
    assert norm < 1e-6


def test_it_is_as_short_as_it_says():
    assert README.count("\n") <= 130
    lines = [line for line in EXAMPLES[0].splitlines() if line.strip()]
    assert len(lines) <= 12
