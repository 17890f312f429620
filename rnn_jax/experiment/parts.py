"""The parts of an experiment, each kept as soon as it is measured, so that a run that was stopped goes on."""

import copy
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rnn_jax.checks import require
from rnn_jax.experiment.files import read_sealed, write_json, write_sealed
from rnn_jax.experiment.folder import new_folder, read_config, resumed, write_config
from rnn_jax.experiment.kept import Kept
from rnn_jax.experiment.lock import LOCK, Lock
from rnn_jax.experiment.origin import origin
from rnn_jax.experiment.progress import tell
from rnn_jax.experiment.training import UnsavedError

HELD = Lock()
"""The folders that this process holds; a second ``Parts`` in one of them, as in a notebook, is no other process."""


class Parts:
    """The folder of a run that is measured part by part.

    The folder is made, or found again with ``--resume auto``.  It and the command that goes on with it are printed.  No
    other process can run in it until ``finish``, or until this process ends.

    Args:
      experiment: the name of the experiment.
      config: the dataclass of the run's configuration, with ``out``, ``overwrite`` and ``resume``, which is "auto" or
        None.  A field ``cache`` may differ in a run that is resumed.
      files: a regular expression for all that the experiment writes beside the parts, as for ``new_folder``.

    Raises:
      InputError: a folder that ``new_folder`` refuses, or in which another process runs; or to resume, one of another
        run, or a flag that differs from the run's.

    Examples:
      >>> import tempfile
      >>> from dataclasses import dataclass
      >>> from pathlib import Path
      >>> from typing import Literal
      >>> from rnn_jax import experiment
      >>> @dataclass(frozen=True)
      ... class Config:
      ...     out: Path
      ...     overwrite: bool = False
      ...     resume: Literal["auto"] | None = None
      >>> with tempfile.TemporaryDirectory() as parent:
      ...     config = Config(Path(parent) / "run", resume="auto")
      ...     for _ in range(2):  # doctest: +ELLIPSIS
      ...         parts = experiment.Parts("example", config, files="summary[.]json")
      ...         print(parts.result("sum", lambda: print("it is measured") or 1 + 2))
      run folder: ...
      to go on with it: ... --resume auto
      it is measured
      3
      run folder: ...
      to go on with it: ... --resume auto
      3
    """

    folder: Path
    """The folder of the run."""

    def __init__(self, experiment: str, config: Any, files: str) -> None:
        out = config.out
        if config.resume:
            require(out is not None, "resume", config.resume, "used with --out")
            require(not config.overwrite, "overwrite", True, "left out with --resume")
        if config.resume and (out / "config.json").is_file():
            saved = read_config(out, experiment, type(config))
            free = [name for name in ("out", "overwrite", "cache") if hasattr(config, name)]
            resumed(dataclasses.replace(config, resume=out), experiment, left_out=saved, free=free)
            HELD.take(out)
            write_config(out, experiment, config, origin())
            self.folder = out
        else:
            if out:
                HELD.take(out, make=False)
            known = rf"{files}|{LOCK}|parts(/[^/]+\.json)?"
            self.folder = new_folder(experiment, config, known, origin=origin())
            HELD.take(self.folder)
        self._files, self._found = Kept(self.folder, ("config.json",)), dict[str, dict[str, Any]]()
        tell(f"run folder: {self.folder}\nto go on with it: {self._command(config)}")

    def result(self, name: str, measure: Callable[[], Any]) -> Any:
        """What a part has measured: as it is kept in the folder, or measured now, and kept.

        A file that is damaged counts as none, so that the part is measured again.  A result that cannot be written, as
        on a full disk, is said in a line on stderr, and tried again at the next part; so are all files where the folder
        was deleted.

        Args:
          name: the name of the part, which is that of its file.
          measure: gives the result, of plain values: dicts, lists, tuples, strings, numbers, bools and None.

        Returns:
          The result as it is read from JSON, with lists for tuples, whether it was measured now or before.

        Raises:
          Whatever ``measure`` raises.
        """
        if name not in self._found:
            kept = read_sealed(self.folder / _file(name))
            fresh = kept is None
            self._found[name] = json.loads(json.dumps({"result": measure()})) if kept is None else kept
            self._write_parts(name if fresh else None)
        result: Any = self._found[name]["result"]
        return copy.deepcopy(result)

    def write(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file beside the parts; where it cannot be written, say so in a line on stderr and go on.

        Args:
          name: the name of the file.
          write: ``write(path)`` writes it.
        """
        self._files.keep()
        self._files.attempt(name, partial(self._files.make, name, write))

    def write_json(self, name: str, content: Any) -> None:
        """As ``write``, of plain values as indented JSON.

        Args:
          name: the name of the file.
          content: as for ``experiment.write_json``.
        """
        self.write(name, partial(write_json, content=content))

    def finish(self) -> None:
        """Try again to write the parts that could not be written, and hold the folder no longer; call it last.

        Raises:
          UnsavedError: a part, or a file by ``write``, could not be written.
        """
        self._write_parts()
        HELD.release(self.folder)
        if self._files.unsaved():
            raise UnsavedError(str(self._files.unsaved()[0]))

    def _write_parts(self, fresh: str | None = None) -> None:
        """Write the parts that are not in the folder, and one that takes the place of a damaged file."""
        self._files.keep()
        for name, kept in self._found.items():
            file = _file(name)
            if name == fresh or not (self.folder / file).exists():
                write = partial(write_sealed, content=kept)
                self._files.attempt(f"part {name}", partial(self._files.make, file, write))

    def _command(self, config: Any) -> str:
        """The command line of a configuration: the flags that are not at their defaults, and where the run is."""
        script = getattr(sys.modules.get(type(config).__module__), "__file__", None) or sys.argv[0]
        words = [sys.executable, str(Path(script).absolute())]
        for field in dataclasses.fields(config):
            name, value = field.name.replace("_", "-"), getattr(config, field.name)
            if value != field.default and field.name not in ("out", "overwrite", "resume"):
                words += (
                    [f"--{'' if value else 'no-'}{name}"] if isinstance(value, bool) else [f"--{name}", *_words(value)]
                )
        return shlex.join([*words, "--out", str(self.folder.absolute()), "--resume", "auto"])


def _file(name: str) -> str:
    return f"parts/{name}.json"


def _words(value: Any) -> list[str]:
    return [word for each in value for word in _words(each)] if isinstance(value, tuple) else [str(value)]
