"""Files that are written whole or not at all, and errors of the disk in one line."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rnn_jax.checks import InputError


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


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """As ``write_json``, with the SHA-256 of the content beside it, so that ``read_sealed`` finds any damage.

    Args:
      path: the file.
      content: a dict without the name "seal".

    Raises:
      InputError: a file that cannot be written, or a full disk.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     file = Path(folder) / "summary.json"
      ...     experiment.write_sealed(file, {"bits": 2.5})
      ...     print(experiment.read_sealed(file))
      ...     file.write_text(file.read_text().replace("2.5", "1.5")) > 0
      ...     print(experiment.read_sealed(file))
      {'bits': 2.5}
      True
      None
    """
    write_json(path, {**content, "seal": _seal(content)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where it is absent, no object, or not as it was written.

    A file without a seal, as one written by hand, is taken as it is.

    Args:
      path: the file.

    Returns:
      A dict, or None.

    Examples:
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> print(experiment.read_sealed(Path("no such file.json")))
      None
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict):
        return None
    seal = content.pop("seal", None)
    return content if seal in (None, _seal(content)) else None


def _seal(content: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(content, default=str))  # as it is read again
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
