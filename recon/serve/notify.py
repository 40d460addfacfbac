"""Notifications to systemd for units with Type=notify: the server is listening, or it is stopping."""

from __future__ import annotations

import contextlib
import os
import socket

#: Seconds that a stop may take in addition to the site's limits: the sender to the PACS finishes its image.
_BESIDE_S = 20.0


def ready() -> None:
    """The server is listening."""
    _notify("READY=1")


def stopping(seconds: float) -> None:
    """The server is stopping, and may take this long, whatever TimeoutStopSec says."""
    _notify(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int((seconds + _BESIDE_S) * 1e6)}")


def _notify(words: str) -> None:
    """Send a datagram to systemd's socket (sd_notify(3)); does nothing if there is none."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if name:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(name.replace("@", "\0", 1) if name.startswith("@") else name)
            sock.sendall(words.encode())
