"""Files of a run that come back where they are gone, and errors of the disk that do not end it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rnn_jax.checks import InputError
from rnn_jax.experiment.files import write_text, writing
from rnn_jax.experiment.progress import tell


class Kept:
    """Files that stand in a folder now, and are written again where they are gone, as with the folder.

    Args:
      folder: the folder.
      names: the names of the files.
    """

    def __init__(self, folder: Path, names: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self._texts = {name: (folder / name).read_text(encoding="utf-8") for name in names}
        self._unsaved = dict[str, InputError]()

    def keep(self) -> None:
        """Write those that are gone."""
        for name, text in self._texts.items():
            self.attempt(name, partial(self.write, name, text))

    def write(self, name: str, text: str, renew: bool = False) -> None:
        """Write a file that is absent, or with ``renew`` one that has another text.

        Raises:
          InputError: a file that cannot be written, or a full disk.
        """

        def renewed(path: Path) -> None:
            if not path.exists() or (renew and path.read_bytes() != text.encode()):
                write_text(path, text)

        self.make(name, renewed)

    def make(self, name: str, write: Callable[[Path], Any]) -> None:
        """Write a file by ``write(path)``, and its folder where that is gone.

        Raises:
          InputError: a file that cannot be written, or a full disk.
        """
        path = self.folder / name
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)

    def attempt(self, name: str, write: Callable[[], Any]) -> None:
        """Call a function that writes a file; an InputError is one line on stderr, and noted until it succeeds."""
        try:
            write()
        except InputError as error:
            self._unsaved[name] = error
            tell(f"warning: {error}; the run goes on, and tries again", error=True)
        else:
            self._unsaved.pop(name, None)

    def unsaved(self) -> list[InputError]:
        """Why files are not as they should be."""
        return list(self._unsaved.values())
