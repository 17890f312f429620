"""The command line of an experiment: flags, errors in one line, and exit statuses."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from rnn_jax.checks import InputError
from rnn_jax.experiment.progress import tell
from rnn_jax.experiment.training import UnsavedError
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

    - 1 for a number that is not finite, a run whose last save failed, or a system error;
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

    Examples:
      >>> import signal
      >>> from dataclasses import dataclass
      >>> from unittest import mock
      >>> from rnn_jax import experiment
      >>> @dataclass(frozen=True)
      ... class Config:
      ...     steps: int = 100
      >>> handler = signal.getsignal(signal.SIGTERM)
      >>> with mock.patch("sys.argv", ["example.py", "--steps", "7"]):
      ...     try:
      ...         experiment.main(Config, lambda config: print(config.steps, "steps"))
      ...     except SystemExit as end:
      ...         print("status", end.code or 0)
      7 steps
      status 0
      >>> _ = signal.signal(signal.SIGTERM, handler)  # this process goes on
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_status(config, run, flags))


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
    except (NonFiniteError, UnsavedError) as error:
        return _complain(error, 1)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        with suppress(OSError, ValueError):  # what is left in the buffer of the output goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141 if isinstance(error, BrokenPipeError) else _complain(error, 1)


def _complain(error: Exception, status: int) -> int:
    tell(f"error: {error}", error=True)
    return status
