"""Make the pictures of the README and of the documentation again, each by the experiment that it belongs to.

About four and a half hours on two quiet cores; --only makes some of them.

Examples:
  python experiments/pictures.py
  python experiments/pictures.py --only digits.png error_against_T.png
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cell_diagram
from tqdm import tqdm

from rnn_jax import experiment
from rnn_jax.checks import require

MADE_BY = {
    ("error_against_T.png", "digits.png"): ("compare_gradients.py",),
    ("peers.png",): ("benchmark.py", "--parts", "grid", "--hidden", "256", "--shapes", "64", "256", "--rounds", "21"),
    ("length.png", "crossover.png"): ("benchmark.py", "--parts", "crossover", "long"),
    ("learning_curve.png",): ("char_lm.py",),
    ("held_out.png",): ("held_out.py",),
    ("torch_training.png",): ("torch_training.py",),
    ("alignment.png", "noise.png", "training.png", "copying.png", "tradeoff.png"): ("learning_rules.py",),
    ("online_learning.png",): ("online_learning.py",),
    ("adding.png", "copy_memory.png", "delayed_addition.png", "parity.png", "flip_flop.png"): (
        "memory_tasks.py",
        "--tasks",
        "adding",
        "copy_memory",
        "delayed_addition",
        "parity",
        "flip_flop",
    ),
    ("real_sequences.png",): ("real_sequences.py",),
    ("exact.png",): ("rules_benchmark.py", "--parts", "speed"),
    ("gradient_flow.png", "truncation.png", "singular_values.png", "lyapunov.png", "clipping.png"): (
        "gradient_flow.py",
    ),
    ("fixed_points_elman.png", "fixed_points_gru.png"): ("fixed_points.py",),
}
"""Pictures, and the command whose run folder holds them."""
PICTURES = ("cell.png", *(name for names in MADE_BY for name in names))


@dataclass(frozen=True)
class Config:
    """Which pictures to make, and where they go."""

    only: tuple[str, ...] = PICTURES
    """Names of pictures; by default all."""
    pictures: Path = Path("docs")
    """Folder of the pictures."""
    out: Path = Path("runs/pictures")
    """Folder of the run folders, which are replaced."""
    quick: bool = False
    """Small cases, in minutes; what the pictures show means nothing."""


def run(config: Config) -> None:
    """Run each experiment, and copy its pictures; those that could not be made are named at the end."""
    unknown = [name for name in config.only if name not in PICTURES]
    require(not unknown and config.only, "only", unknown or config.only, f"some of {', '.join(PICTURES)}")
    config.pictures.mkdir(parents=True, exist_ok=True)
    if "cell.png" in config.only:
        cell_diagram.draw(config.pictures / "cell.png")
    wanted = {names: command for names, command in MADE_BY.items() if set(names) & set(config.only)}
    missing = []
    for names, (script, *flags) in tqdm(wanted.items(), unit="experiment", disable=None):
        folder = config.out / names[0].removesuffix(".png")
        flags = ["--quick"] if config.quick else flags
        command = [sys.executable, str(Path(__file__).with_name(script)), *flags, "--out", str(folder), "--overwrite"]
        for name in names:
            (folder / name).unlink(missing_ok=True)  # of an earlier run: a refused script would leave it there
        print("+", *command[1:], flush=True)
        status = subprocess.run(command, check=False).returncode
        for name in set(names) & set(config.only):
            if (folder / name).is_file():
                shutil.copy(folder / name, config.pictures / name)
            else:
                missing.append(f"{name} ({script} ended with status {status})")
    require(not missing, "pictures", f"without {', '.join(missing)}", "all that were asked for")


if __name__ == "__main__":
    experiment.main(Config, run)
