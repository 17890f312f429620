"""Where a run came from: its command line, the time, the commit of the code, and the machine."""

import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from rnn_jax.experiment.machine import machine


def origin() -> dict[str, Any]:
    """What started this process, for config.json.

    Returns:
      A dict of plain values: the command; the time; the commit, which ends in "-dirty" where files differ from it, and
      is None outside of a repository; and ``machine()``.

    Examples:
      >>> from rnn_jax import experiment
      >>> list(experiment.origin())
      ['command', 'time', 'commit', 'machine']
    """
    return {
        "command": shlex.join([sys.executable, *sys.argv]),
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
    }


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
