"""The status page: read-only, only for browsers on this machine, also as JSON and for Prometheus."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from recon.errors import ReconError
from recon.serve.board import Board
from recon.serve.metrics import metrics
from recon.serve.page import STYLE, page

#: Simultaneous requests, and seconds that one may take.
_AT_ONCE, _PATIENCE_S = 8, 5
#: Names of this machine; a page elsewhere whose name resolves to this machine would send another one.
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?")
_THUMBNAIL = re.compile(r"/thumbnails/(\d{1,12})\.png", re.ASCII)

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; img-src 'self'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _PATIENCE_S
    server_version, sys_version = "recon", ""

    def do_GET(self) -> None:
        if not _HOST.fullmatch(self.headers.get("Host", "")):
            self._answer(421, "text/plain", b"this page is for localhost alone\n")
            return
        board = self.server.board
        if self.path == "/":
            self._answer(200, "text/html; charset=utf-8", page(board.snapshot()).encode())
        elif self.path == "/metrics":
            self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics(board.snapshot()).encode())
        elif self.path == "/status.json":
            self._answer(200, "application/json", json.dumps(board.snapshot()).encode())
        elif (found := _THUMBNAIL.fullmatch(self.path)) and (png := board.thumbnail(int(found[1]))):
            self._answer(200, "image/png", png)
        else:
            self._answer(404, "text/plain", b"there is no such page\n")

    def _answer(self, code: int, kind: str, body: bytes, **more: str) -> None:
        self.send_response(code)
        for name, value in {**_HEADERS, **more, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Any method other than GET ends here; nothing that the peer sent is repeated."""
        if code == 501:
            self._answer(405, "text/plain", b"this page can only be read\n", Allow="GET")
        else:
            self._answer(code, "text/plain", b"no such request\n")

    def log_message(self, *_: Any) -> None:
        """No output: the log is about scans."""


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = _AT_ONCE

    def __init__(self, port: int, board: Board) -> None:
        self.board, self._free = board, threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(("127.0.0.1", port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads can be started
            self._free.release()
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that disconnected is not reported."""


@contextmanager
def showing(board: Board, port: int) -> Iterator[int]:
    """Serve a board's page on 127.0.0.1 in a thread; returns the port, and raises ReconError if it is not available."""
    try:
        server = _Server(port, board)
    except OSError as e:
        raise ReconError(
            f"cannot show the status page on 127.0.0.1:{port} ({e.strerror}); choose another --status-port"
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(1)
