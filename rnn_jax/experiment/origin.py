"""Where a run came from: its command line, the time, the commit of the code, and the machine."""

import shlex
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from rnn_jax.experiment.machine import machine

MATTERS = ("commit", "processor", "cores", "rnn_jax", "jax", "jaxlib", "optax")
"""Of an origin, what may change the last bits of a run: XLA splits sums among the cores, for one."""


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


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What changed from one start of a run to the next, of that on which the last bits of its sums depend.

    Args:
      before: as from ``origin()``.
      now: as from ``origin()``.

    Returns:
      A text such as "cores 2 (4 before)"; empty where nothing changed.

    Examples:
      >>> from rnn_jax import experiment
      >>> now = experiment.origin()
      >>> experiment.changes(now, now)
      ''
      >>> experiment.changes({**now, "commit": "1234567"}, {**now, "commit": "89abcde"})
      'commit 89abcde (1234567 before)'
    """
    one, other = ({"commit": start.get("commit"), **start.get("machine", {})} for start in (before, now))
    differ = [name for name in MATTERS if name in one and name in other and one[name] != other[name]]
    return ", ".join(f"{name} {other[name]} ({one[name]} before)" for name in differ)


def _commit() -> str | None:
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
