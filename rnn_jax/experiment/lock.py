"""One process in the folder of a run, so that two do not write over each other's checkpoints."""

import os
from pathlib import Path

from rnn_jax.checks import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
"""The name of the file; it is empty, and stays when the run has ended."""


class Lock:
    """A context that holds the folders of a run until it ends, or the process does, even by SIGKILL.

    Where the system or the disk has no locks, as NFS may have none, nothing is held, and nothing is refused.  To read
    from the folder needs no lock.

    Examples:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from rnn_jax import experiment
      >>> with tempfile.TemporaryDirectory() as folder, experiment.Lock() as lock:
      ...     lock.take(Path(folder))
      ...     [path.name for path in Path(folder).iterdir()]
      ['lock']
    """

    def __init__(self) -> None:
        self._files: dict[Path, int] = {}

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def take(self, folder: Path, make: bool = True) -> None:
        """Hold a folder from now on; it may be held by this lock already.

        Args:
          folder: the folder of a run.
          make: make the file where there is none; else such a folder is free, as no run has begun there.

        Raises:
          InputError: another process holds it.
        """
        path = (folder / LOCK).absolute()
        if fcntl is None or path in self._files or not (make or path.is_file()):
            return
        try:
            file = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError:  # the run itself will tell
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise InputError(
                f"out is {str(folder)!r}, where another process runs; it must be a folder that no other process uses"
            ) from None
        except OSError:  # the disk has no locks
            pass
        self._files[path] = file

    def release(self, folder: Path) -> None:
        """Hold a folder no longer; it may be one that is not held.

        Args:
          folder: as in ``take``.
        """
        file = self._files.pop((folder / LOCK).absolute(), None)
        if file is not None:
            os.close(file)
