"""What every experiment shares: its command line, its run folder, and the machine it ran on."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import jax

from rnn_jax.checks import InputError, require
from rnn_jax.train import NonFiniteError

Config = TypeVar("Config")


def main(config: type[Config], run: Callable[[Config], Any]) -> None:
    """Run an experiment from the command line: flags from the dataclass ``config``, refusals as one line on stderr.

    The exit status is what ``run`` returns, 2 for a refused input, 1 for a run that met a non-finite number.
    """
    import tyro

    description = (sys.modules[config.__module__].__doc__ or "").strip()
    try:
        status = run(tyro.cli(config, description=description))
    except InputError as error:
        sys.exit(_complain(error, 2))
    except NonFiniteError as error:
        sys.exit(_complain(error, 1))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(status)


def new_folder(experiment: str, out: Path | None, overwrite: bool) -> Path:
    """The folder of a new run, made: ``runs/EXPERIMENT/TIME`` where ``out`` is None.

    Raises:
      InputError: ``out`` cannot be written, or holds something already and ``overwrite`` is not asked for.
    """
    out = out or Path("runs") / experiment / datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        require(not out.exists() or out.is_dir(), "out", str(out), "a folder")
        if out.exists() and any(out.iterdir()):
            require(overwrite, "out", str(out), "a new or empty folder, or used with --overwrite (or --resume)")
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"out is {str(out)!r}: {error.strerror}; it must be a folder that can be written") from None
    return out


def write_json(path: Path, content: Any) -> None:
    """Write a dataclass or a tree of plain values, readable, at once or not at all."""
    plain = asdict(content) if hasattr(content, "__dataclass_fields__") else content
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(plain, indent=2, default=str) + "\n")
    partial.replace(path)


def machine() -> dict[str, Any]:
    """Where a figure was measured: processor, cores, device, versions."""
    packages = {}
    for name in ("jax", "jaxlib", "optax", "chex", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "python": platform.python_version(),
        **packages,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _complain(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status
