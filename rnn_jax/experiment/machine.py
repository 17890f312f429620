"""The machine that an experiment runs on: its cores, devices and versions, and where it keeps compiled programs."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax


def use_cores(count: int | None = None) -> None:
    """Make a CPU device for each core, so that ``data_parallel`` can share a batch among them.

    Call it before JAX's first computation.  It changes nothing after that, or where XLA_FLAGS gives the number.

    Args:
      count: the number of devices; the default is ``cores()``.

    Examples:
      >>> import jax
      >>> from rnn_jax import experiment
      >>> devices = jax.devices()  # the first computation fixes them
      >>> experiment.use_cores(len(devices) + 1)
      >>> jax.devices() == devices  # too late
      True
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count or cores())


def cores() -> int:
    """How many cores this process may use.

    Returns:
      A positive int.

    Examples:
      >>> from rnn_jax import experiment
      >>> experiment.cores() >= 1
      True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, Any]:
    """Where a figure was measured: processor, cores, devices and versions.

    Returns:
      A dict of plain values, to be written with the figure.

    Examples:
      >>> from rnn_jax import experiment
      >>> list(experiment.machine())[:4]
      ['processor', 'cores', 'devices', 'python']
    """
    packages = {}
    for name in ("rnn_jax", "jax", "jaxlib", "optax", "chex", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    return {
        "processor": processor(),
        "cores": cores(),
        "devices": [device.device_kind for device in jax.devices()],
        "python": platform.python_version(),
        **packages,
    }


def processor() -> str:
    """The name of the processor; that of its kind where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
