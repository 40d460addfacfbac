"""A separate network with only a loopback device: servers that listen everywhere listen only there."""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _IFF_UP = 0x8913, 0x8914, 0x8916, 1


class Network:
    """A thread in a network namespace; what `call` runs, and all threads and processes that it starts, are in it too.

    Raises PermissionError where this user may not make one.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self.call(_enter)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        return self._thread.submit(function, *arguments).result()

    @staticmethod
    def give(address: str) -> None:
        """Give the loopback device one more address; to be called within the network."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        raw = socket.inet_pton(family, address)
        with socket.socket(family, socket.SOCK_DGRAM) as s:
            if family == socket.AF_INET6:
                request = raw + struct.pack("Ii", 128, socket.if_nametoindex("lo"))
            else:
                label = f"lo:{int.from_bytes(raw[2:], 'big')}".encode()
                request = struct.pack("16sH2x4s16x", label, family, raw)
            fcntl.ioctl(s, _SIOCSIFADDR, request)

    def close(self) -> None:
        self._thread.shutdown()


def _enter() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise PermissionError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = fcntl.ioctl(s, _SIOCGIFFLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", request)[1]
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
