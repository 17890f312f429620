"""The folder of a run: made, overwritten only where nothing is lost, and its configuration."""

import dataclasses
import os
import re
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rnn_jax import checkpoint
from rnn_jax.checks import InputError, require
from rnn_jax.experiment.files import read_sealed, write_sealed
from rnn_jax.experiment.lock import LOCK

Config = TypeVar("Config")
AUTO = Path("auto")
"""The value of --resume that starts a run, or goes on with it."""
STARTS = "started by"
"""In config.json: the origin of each process that began or resumed the run; with a space, it is the name of no flag."""


def new_folder(
    experiment: str, config: Any, files: str, inputs: Sequence[Path] = (), origin: dict[str, Any] | None = None
) -> Path:
    """The folder of a new run, made and with its config.json.

    It is ``config.out``, or ``runs/EXPERIMENT/TIME`` where that is None.  With ``config.overwrite`` the files of an
    earlier run of the same experiment are deleted first.  No other file is ever deleted: a folder with a file that the
    experiment does not write is refused.  A link to a folder stays, and the folder's contents are replaced.

    Args:
      experiment: the name of the experiment.
      config: the dataclass of the run's configuration, with ``out`` and ``overwrite``.
      files: a regular expression for all that the experiment writes, as paths within the folder.
      inputs: what the run reads; a folder that contains one of them is not overwritten.
      origin: as from ``origin()``; it is written to config.json.

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
        if [path.name for path in out.iterdir()] == ["config.json.partial"]:  # a run that was killed as it began
            (out / "config.json.partial").unlink()
        if any(out.iterdir()):
            required = "a new or empty folder, or used with --overwrite (or --resume)"
            require(config.overwrite or getattr(config, "resume", None) == AUTO, "out", str(out), required)
            _check_earlier_run(out, experiment, files, inputs)
            for path in out.iterdir():
                # config.json goes last, so that a deletion cut short can be repeated; a lock may be held
                if path.name not in ("config.json", LOCK):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
    except OSError as error:
        raise InputError(f"out is {str(out)!r}: {error.strerror}; it must be a folder that can be written") from None
    write_config(out, experiment, dataclasses.replace(config, out=out.absolute()), origin)
    return out


def write_config(folder: Path, experiment: str, config: Any, origin: dict[str, Any] | None = None) -> None:
    """Write config.json: the experiment's name, its configuration, and what started it, sealed.

    Args:
      folder: an existing folder.
      experiment: the name of the experiment.
      config: the dataclass of the run's configuration; ``resume`` is left out.
      origin: as from ``origin()``; it follows those of earlier starts of the same run.

    Raises:
      InputError: a file that cannot be written, or a full disk.

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
      ...     experiment.read_sealed(Path(folder) / "config.json")
      {'experiment': 'example', 'steps': 7}
    """
    file = folder / "config.json"
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "resume"}
    starts = {STARTS: [*(read_sealed(file) or {}).get(STARTS, []), origin]} if origin else {}
    write_sealed(file, {"experiment": experiment, **settings, **starts})


def last_start(folder: Path) -> dict[str, Any] | None:
    """The origin of the last process that began or resumed a run.

    Args:
      folder: the folder of the run.

    Returns:
      A dict, as from ``origin()``; None where config.json has none.

    Examples:
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> experiment.last_start(Path("no such folder")) is None
      True
    """
    starts = (read_sealed(folder / "config.json") or {}).get(STARTS)
    return starts[-1] if starts else None


def read_config(folder: Path, experiment: str, config: type[Config], argument: str = "resume") -> Config:
    """The configuration of an earlier run.

    Args:
      folder: the folder of the run.
      experiment: the name of the experiment.
      config: the dataclass of the configuration.
      argument: the flag that gave the folder, for the error.

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
    require(file.is_file(), argument, str(folder), "the folder of an earlier run")
    settings = read_sealed(file) or {}
    wanted = f"the folder of a run of {experiment}, with its config.json as it was written"
    settings.pop(STARTS, None)
    require(settings.pop("experiment", None) == experiment, argument, str(folder), wanted)
    hints = get_type_hints(config)
    for name, value in settings.items():
        fits = name in hints and _fits(value, hints[name])
        require(fits, f"{name} in {file}", value, "as this script writes it" if name in hints else "a flag")
    paths = {name for name, hint in hints.items() if hint is Path or Path in get_args(hint)}
    return config(
        **{
            name: Path(value) if name in paths and value is not None else _tuples(value)
            for name, value in settings.items()
        }
    )


def resumed(config: Config, experiment: str, left_out: Config, free: Sequence[str] = ()) -> Config:
    """The configuration of the run to resume, with the values of ``config`` for the flags that may differ.

    Anything else that differs from the run is refused, unless it is as in ``left_out``: then it was not given.

    Args:
      config: a dataclass with ``resume``, the folder of the run.
      experiment: the name of the experiment.
      left_out: the values of the flags that were not given.
      free: the flags that may differ from the run's, where they are not None.

    Returns:
      A dataclass of the same class.

    Raises:
      InputError: no folder of a run, or a flag that differs from the run's.

    Examples:
      >>> import tempfile
      >>> from dataclasses import dataclass
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> @dataclass(frozen=True)
      ... class Config:
      ...     steps: int | None = None
      ...     rate: float = 0.1
      ...     resume: Path | None = None
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     experiment.write_config(Path(folder), "example", Config(steps=7, rate=0.2))
      ...     given = Config(steps=9, resume=Path(folder))
      ...     config = experiment.resumed(given, "example", left_out=Config(), free=["steps"])
      >>> config.steps, config.rate
      (9, 0.2)
    """
    given: Any = config
    saved: Any = read_config(given.resume, experiment, type(config))
    taken = {name: getattr(given, name) for name in free if getattr(given, name) is not None}
    for field in dataclasses.fields(saved):
        name, value, own = field.name, getattr(given, field.name), getattr(saved, field.name)
        if name not in free and name != "resume" and value != getattr(left_out, name):
            shown = str(value) if isinstance(value, Path) else value
            same = value == own or (isinstance(own, Path) and value.absolute() == own)
            require(same, name, shown, f"{own}, as in the run that is resumed")
    changed: Config = dataclasses.replace(saved, resume=given.resume, **taken)
    return changed


def goes_on(folder: Path, files: str) -> bool:
    """Whether ``--resume auto`` finds a run in the folder; else it starts one there.

    A run without a whole checkpoint, as one that was killed before its first, or that never found room on the disk, is
    begun anew, unless it has other files than those of a run that is not finished.

    Args:
      folder: as given by ``--out``; it need not exist.
      files: a regular expression for what the experiment writes before a run is finished.

    Returns:
      A bool.

    Examples:
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> experiment.goes_on(Path("no such folder"), "text[.]json")
      False
    """
    if not folder.is_dir() or checkpoint.exists(folder / "checkpoint"):
        return folder.is_dir()
    begun = re.compile(rf"(config\.json|checkpoint|{files})(\.partial)?")
    return not all(begun.fullmatch(path.name) for path in folder.iterdir())


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
    marked = (read_sealed(within / "config.json") or {}).get("experiment") == experiment
    require(marked, "out", str(out), f"{wanted}, and this is none")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value read from JSON is of an annotated type."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is tuple:
        items = get_args(hint)
        if not isinstance(value, list):
            return False
        items = items[:1] * len(value) if items[1:] == (...,) else items
        return len(items) == len(value) and all(map(_fits, value, items))
    kinds = {float: (int, float), Path: (str,)}.get(hint, (hint,))
    return isinstance(value, kinds) and (hint is bool or not isinstance(value, bool))


def _tuples(value: Any) -> Any:
    """A value as the dataclass of a configuration has it: what JSON has as lists are tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
