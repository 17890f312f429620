"""What the README shows is true: its examples run, and print what it says."""

import re
from pathlib import Path

import jax
import pytest

import rnn_jax as rj

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


def test_the_cell_goes_from_wrong_to_right():
    with pytest.raises(rj.testing.ConformanceError) as caught:
        exec(EXAMPLES[1], {})
    claimed = re.search(r"fails (\d+) of its checks", README)[1]
    assert str(caught.value).startswith(f"cell mgu fails {claimed} of its checks\n  adjoint: ∂h/∂z_f at unit ")


def test_its_examples_are_as_short_as_it_says():
    lines = [line for line in EXAMPLES[0].splitlines() if line.strip()]
    assert len(lines) <= 12
