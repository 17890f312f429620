"""Signals that wait until a training step, or other work that must not be cut in two, has ended."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], Any] | int
TOGETHER = 1.0
"""Seconds within which signals are one: ``timeout`` sends one to a process and again to its group."""


class SignalsWait:
    """A context in which the first SIGINT or SIGTERM waits, and a second one is delivered at once.

    What comes within a second of the first is the same signal, sent twice.  ``pending`` is the signal that waits, or
    None.  ``deliver()``, to be called after the context has ended, does what the signal did before: Python's own
    handler of SIGINT raises ``KeyboardInterrupt``, and the system's default ends the process.  An ignored signal stays
    ignored; in a thread other than the main one, which gets no signals, nothing is done.  Of contexts inside of each
    other, the outermost one waits.

    Examples:
      >>> import signal
      >>> from rnn_jax.interrupts import SignalsWait
      >>> with SignalsWait() as signals:
      ...     signal.raise_signal(signal.SIGINT)  # as Ctrl-C does
      ...     print("the step is finished")
      the step is finished
      >>> try:
      ...     signals.deliver()
      ... except KeyboardInterrupt:
      ...     print("interrupted")
      interrupted
    """

    def __init__(self) -> None:
        self.pending: int | None = None
        self._came = 0.0
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> "SignalsWait":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                held = isinstance(getattr(handler, "__self__", None), SignalsWait)
                if handler not in (None, signal.SIG_IGN) and not held:
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """Do what the signal that waits did before, if there is one."""
        number, self.pending = self.pending, None
        if number is not None:
            self._act(number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending, self._came = number, time.monotonic()
        elif time.monotonic() - self._came >= TOGETHER:
            self._act(number, frame)

    def _act(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, handler)
            signal.raise_signal(number)
