"""How a command is ended by a signal: by an exception, wherever in the program the signal arrives."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Seconds after which a signal is repeated if it arrived where Python swallows exceptions.
AGAIN = 0.02


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the process with SystemExit(143), SIGINT with KeyboardInterrupt, so that temporary work is undone.

    Python prints and drops an exception raised in the callback of a weak reference or in `__del__`. If a signal arrives
    there, it is sent again a moment later, until it takes effect.
    """

    again: threading.Timer | None = None

    def stop(*_: object) -> None:
        sys.exit(143)

    def dropped(lost: Any) -> None:
        number = signal.SIGINT if isinstance(lost.exc_value, KeyboardInterrupt) else signal.SIGTERM
        asked = isinstance(lost.exc_value, KeyboardInterrupt) or getattr(lost.exc_value, "code", None) == 143
        if not asked:
            usual(lost)
            return
        nonlocal again
        if again is None:  # one is enough: further signals would interrupt the clean-up
            again = threading.Timer(AGAIN, send, [number])
            again.daemon = True
            again.start()

    def send(number: int) -> None:
        nonlocal again
        again = None
        _send(number)

    try:
        before, usual = signal.signal(signal.SIGTERM, stop), sys.unraisablehook
    except ValueError:  # not the main thread
        yield
        return
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        if again is not None:
            again.cancel()
        sys.unraisablehook = usual
        signal.signal(signal.SIGTERM, before)


def _send(number: int) -> None:
    """A signal to the main thread; it also interrupts system calls."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)
    else:
        signal.raise_signal(number)
