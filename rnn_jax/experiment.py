"""What every experiment shares: its command line, its run folder, and the machine it ran on."""

import dataclasses
import json
import os
import platform
import re
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import jax

from rnn_jax.checks import InputError, require
from rnn_jax.train import NonFiniteError

Config = TypeVar("Config")
Parse = Callable[[Any], Any]
"""Reads the command line, with a configuration that gives the flags which are left out."""


def main(
    config: type[Config], run: Callable[[Config], int | None], flags: Callable[[Parse], Config] | None = None
) -> None:
    """Run an experiment from the command line: flags from the dataclass ``config``, errors as one line on stderr.

    A script ends with ``if __name__ == "__main__": experiment.main(Config, run)``, as ``experiments/minimal.py`` does.
    Its module docstring is the text of ``--help``.

    The exit status is what ``run`` returns, or

    - 1 for a number that is not finite, or a system error;
    - 2 for an ``InputError``;
    - 130 after SIGINT (Ctrl-C), and 143 after SIGTERM, which raises ``SystemExit``;
    - 141, without a message, where the reader of the output has gone.

    Characters that the output cannot encode are escaped.

    Args:
      config: a dataclass with a default for every field.
      run: the experiment, a function of the configuration; None is status 0.
      flags: ``flags(parse)`` gives the configuration, where the default of one flag depends on another.

    Raises:
      SystemExit: always, with the exit status.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_status(config, run, flags))


def use_cores(count: int | None = None) -> None:
    """Make a CPU device for each core, so that ``data_parallel`` can share a batch among them.

    Call it before JAX's first computation.  It changes nothing after that, or where XLA_FLAGS gives the number.

    Args:
      count: the number of devices; the default is ``cores()``.
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


def new_folder(experiment: str, config: Any, files: str, inputs: Sequence[Path] = ()) -> Path:
    """The folder of a new run, made and with its config.json.

    It is ``config.out``, or ``runs/EXPERIMENT/TIME`` where that is None.  With ``config.overwrite`` the files of an
    earlier run of the same experiment are deleted first.  No other file is ever deleted: a folder with a file that the
    experiment does not write is refused.  A link to a folder stays, and the folder's contents are replaced.

    Args:
      experiment: the name of the experiment.
      config: the dataclass of the run's configuration, with ``out`` and ``overwrite``.
      files: a regular expression for all that the experiment writes, as paths within the folder.
      inputs: what the run reads; a folder that contains one of them is not overwritten.

    Returns:
      The path of the folder.

    Raises:
      InputError: a folder that cannot be written, is not empty and may not be overwritten, or has files of another
        kind; or one that contains the working directory or the home.

    Examples:
      >>> import tempfile
      >>> from dataclasses import dataclass
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> @dataclass(frozen=True)
      ... class Config:
      ...     out: Path
      ...     overwrite: bool = False
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     folder = experiment.new_folder("example", Config(Path(parent) / "run"), files="metrics[.]csv")
      ...     [path.name for path in folder.iterdir()]
      ['config.json']
    """
    out: Path = config.out or Path("runs") / experiment / datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        if config.out is None:
            out = _exclusive(out)
        require(out.is_dir() or not os.path.lexists(out), "out", str(out), "a folder")
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            required = "a new or empty folder, or used with --overwrite (or --resume)"
            require(config.overwrite, "out", str(out), required)
            _check_earlier_run(out, experiment, files, inputs)
            for path in out.iterdir():
                if path.name != "config.json":  # it goes last, so that a deletion cut short can be repeated
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise InputError(f"out is {str(out)!r}: {error.strerror}; it must be a folder that can be written") from None
    write_config(out, experiment, config)
    return out


def write_config(folder: Path, experiment: str, config: Any) -> None:
    """Write config.json: the experiment's name and its configuration.

    Args:
      folder: an existing folder.
      experiment: the name of the experiment.
      config: the dataclass of the run's configuration.

    Raises:
      InputError: a file that cannot be written, or a full disk.

    The example of ``read_config`` shows both.
    """
    write_json(folder / "config.json", {"experiment": experiment, **dataclasses.asdict(config)})


def read_config(folder: Path, experiment: str, config: type[Config]) -> Config:
    """The configuration of an earlier run.

    Args:
      folder: the folder of the run.
      experiment: the name of the experiment.
      config: the dataclass of the configuration.

    Returns:
      A ``config`` with the values of config.json.

    Raises:
      InputError: no folder of a run, a run of another experiment, or a value that the configuration cannot have.

    Examples:
      >>> import tempfile
      >>> from dataclasses import dataclass
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> @dataclass(frozen=True)
      ... class Config:
      ...     steps: int = 100
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     experiment.write_config(Path(folder), "example", Config(steps=7))
      ...     experiment.read_config(Path(folder), "example", Config).steps
      7
    """
    file = folder / "config.json"
    require(file.is_file(), "resume", str(folder), "the folder of an earlier run")
    settings = _settings(file)
    wanted = f"the folder of a run of {experiment}"
    require(settings.pop("experiment", None) == experiment, "resume", str(folder), wanted)
    hints = get_type_hints(config)
    for name, value in settings.items():
        fits = name in hints and _fits(value, hints[name])
        require(fits, f"{name} in {file}", value, "as this script writes it" if name in hints else "a flag")
    paths = {name for name, hint in hints.items() if hint is Path or Path in get_args(hint)}
    return config(
        **{name: Path(value) if name in paths and value is not None else value for name, value in settings.items()}
    )


def write_json(path: Path, content: Any) -> None:
    """Write a dataclass or a tree of plain values as indented JSON, whole or not at all.

    Args:
      path: the file.
      content: a dataclass, or dicts, lists, strings and numbers; anything else is written as its ``str``.

    Raises:
      InputError: a file that cannot be written, or a full disk.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     experiment.write_json(Path(folder) / "result.json", [1, 2])
      ...     (Path(folder) / "result.json").read_text().split()
      ['[', '1,', '2', ']']
    """
    plain = dataclasses.asdict(content) if dataclasses.is_dataclass(content) else content  # type: ignore[arg-type]
    write_text(path, json.dumps(plain, indent=2, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all.

    The text goes to a file beside it first, which then replaces it.

    Args:
      path: the file.
      text: its new content.

    Raises:
      InputError: a file that cannot be written, or a full disk.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     experiment.write_text(Path(folder) / "sample.txt", "to be")
      ...     [path.name for path in Path(folder).iterdir()]
      ['sample.txt']
    """
    partial = path.with_name(path.name + ".partial")
    with writing(path):
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A context in which an ``OSError`` becomes an InputError with the file and the cause.

    A full disk is the usual case.

    Args:
      path: the file that is written in the context.

    Raises:
      InputError: instead of the ``OSError``.

    Examples:
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> with experiment.writing(Path("plot.png")):  # doctest: +ELLIPSIS
      ...     raise OSError(28, "No space left on device")
      Traceback (most recent call last):
      ...
      rnn_jax.checks.InputError: out is 'plot.png', which cannot be written (No space left on device); ...
    """
    try:
        yield
    except OSError as error:
        cause = f"{str(path)!r}, which cannot be written ({error.strerror})"
        raise InputError(f"out is {cause}; it must be in a folder that can be written, on a disk with room") from None


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
    for name in ("jax", "jaxlib", "optax", "chex", "numpy"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "absent"
    return {
        "processor": _processor(),
        "cores": cores(),
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


def _status(
    config: type[Config], run: Callable[[Config], int | None], flags: Callable[[Parse], Config] | None
) -> int | None:
    import tyro

    description = (sys.modules[config.__module__].__doc__ or "").strip()

    def parse(default: Any) -> Any:
        return tyro.cli(config, description=description, default=default)

    try:
        try:
            return run(flags(parse) if flags else parse(config()))
        finally:
            sys.stdout.flush()
    except InputError as error:
        return _complain(error, 2)
    except NonFiniteError as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left in the buffer of the output goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141 if isinstance(error, BrokenPipeError) else _complain(error, 1)


def _complain(error: Exception, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def _exclusive(path: Path) -> Path:
    """Make a folder that no other run has made: the path, or the path with a number."""
    number, made = 1, path
    while True:
        try:
            made.mkdir(parents=True)
            return made
        except FileExistsError:
            number += 1
            made = path.with_name(f"{path.name}-{number}")


def _check_earlier_run(out: Path, experiment: str, files: str, inputs: Sequence[Path]) -> None:
    """Refuse to overwrite anything but a run of this experiment that nothing else depends on."""
    within = out.resolve()
    for what, used in (("the working directory", Path.cwd()), ("the home", Path(os.path.expanduser("~")))):
        apart = not used.resolve().is_relative_to(within)
        require(apart, "out", str(out), f"a folder that neither is nor contains {what}")
    for path in inputs:
        apart = not path.resolve().is_relative_to(within)
        require(apart, "out", str(out), f"a folder without what the run reads, {path}")
    known = re.compile(rf"(config\.json|{files})(\.partial)?")
    wanted = f"a new or empty folder, or that of an earlier run of {experiment}"
    for place, folders, names in os.walk(within):
        for name in names + folders:
            path = Path(place) / name
            inside = path.relative_to(within).as_posix()
            written = known.fullmatch(inside) and not path.is_symlink()
            require(written, "out", str(out), f"{wanted}, without other files, and this holds {inside}")
    marked = _settings(within / "config.json").get("experiment") == experiment
    require(marked, "out", str(out), f"{wanted}, and this is none")


def _settings(file: Path) -> dict[str, Any]:
    """What a config.json says; empty where it cannot be read."""
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = None
    return settings if isinstance(settings, dict) else {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of an annotated type."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    kinds = {float: (int, float), Path: (str,)}.get(hint, (hint,))
    return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))
