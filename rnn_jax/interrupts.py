"""Signals that wait until a training step, or other work that must not be cut in two, has ended."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], Any]


class SignalsWait:
    """A context in which the first SIGINT or SIGTERM waits, and a second one is delivered at once.

    ``pending`` is the signal that waits, or None.  ``deliver()``, to be called after the context has ended, calls the
    handler that the signal had before: Python's own for SIGINT raises ``KeyboardInterrupt``.  A signal without a Python
    handler acts as ever; in a thread other than the main one, which gets no signals, nothing is done.  Of contexts
    inside of each other, the outermost one waits.

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
        self._before: dict[int, Handler] = {}

    def __enter__(self) -> "SignalsWait":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler) and not isinstance(getattr(handler, "__self__", None), SignalsWait):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def deliver(self) -> None:
        """Call the handler of the signal that waits, if there is one."""
        number, self.pending = self.pending, None
        if number is not None:
            self._before[number](number, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending is None:
            self.pending = number
        else:
            self._before[number](number, frame)
