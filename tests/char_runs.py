"""Small runs of char_lm in this process, what they leave in their folders, and scripts in processes of their own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import char_lm
import compiling
import jax
import pytest

import rnn_jax as rj
from rnn_jax import checkpoint, experiment, train

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
TEXT = "all work and no play makes jack a dull boy. " * 60
SMALL = ("--quick", "--hidden", "4", "--batch", "4", "--length", "10", "--sample", "5", "--devices", "1", "--no-cache")
CACHE = Path(tempfile.gettempdir()) / "rnn_jax-tests"
"""XDG_CACHE_HOME of the scripts: programs that they compile are kept here, and not in the user's home."""


def command(*arguments, script=char_lm):
    """The command line of a script, in this process; returns its exit status."""
    handler, flags = signal.getsignal(signal.SIGTERM), getattr(script, "flags", None)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as ended:
        patched.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
        patched.setenv("XDG_CACHE_HOME", str(CACHE))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), jax.enable_x64(False):
            try:
                experiment.main(script.Config, script.main if hasattr(script, "main") else script.run, flags)
            finally:
                signal.signal(signal.SIGTERM, handler)
    return ended.value.code or 0


def script(name, *arguments, cwd, quick_to_compile=True):
    """A script in a process of its own."""
    command = [sys.executable, str(EXPERIMENTS / name), *map(str, arguments)]
    environment = environment_of_scripts(quick_to_compile)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


def environment_of_scripts(quick_to_compile=True):
    """In 32 bits, as users start them."""
    ours = {key: value for key, value in os.environ.items() if key != "JAX_ENABLE_X64"}
    return {**ours, "XDG_CACHE_HOME": str(CACHE), **(compiling.ENVIRONMENT if quick_to_compile else {})}


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def saved(folder):
    config = experiment.read_config(folder, "char_lm", char_lm.Config)
    with jax.enable_x64(False):
        corpus, _ = char_lm.load(config)
        network, algorithm, optimiser, _ = char_lm.build(config, len(corpus.alphabet))
        like = train.init_state(algorithm, optimiser, rj.init(network, jax.random.key(1)), config.batch)
        return checkpoint.restore(folder / "checkpoint", like)
