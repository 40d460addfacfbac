"""The listening process: it passes each connection to a worker, watches it, and ends hanging ones."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from recon.errors import ReconError, counted
from recon.recipe import Recipe
from recon.serve import memory, notify, words
from recon.serve.audit import Audit, outcome
from recon.serve.board import Board, worst
from recon.serve.door import Arriving, Leaving, Waiting
from recon.serve.outbox import Outbox
from recon.serve.process import Session, Starting, Worker
from recon.serve.settings import MiB, Site, networks

if TYPE_CHECKING:
    from recon.serve.tls import Front

#: Workers in a row that may fail to start.
_FAILURES = 3
_STOPPED = "the server is shutting down; send the scan again when it is back"

Log = Callable[[str], None]


class Server:
    """A listening socket, its workers, and the loop that serves them until `stop`."""

    def __init__(
        self, sock: socket.socket, site: Site, recipes: Mapping[str, Recipe], audit: Audit, board: Board, log: Log
    ) -> None:
        self._site, self._audit, self._board, self._log = site, audit, board, log
        self._allowed = networks(site)
        setup = json.dumps({"site": asdict(site), "recipes": {n: asdict(r) for n, r in recipes.items()}}).encode()
        self._starting = Starting(setup, log)
        self._workers: list[Worker] = []
        self._failures = 0
        self._stopping = 0.0
        self._most, self._looks_at = memory.limit(site), 0.0
        self._selector = selectors.DefaultSelector()
        self._waiting = Waiting(self._selector, site.limits.first_s, lambda: board.refused("no word"), self._silent)
        self._leaving = Leaving(self._selector)
        self._outboxes: list[Outbox] = []
        self._wake, self._wakened = socket.socketpair()
        for s in (self._wake, self._wakened):
            s.setblocking(False)
        self._arriving = Arriving(self._selector, sock, self._accept, log)
        self._selector.register(self._wakened, selectors.EVENT_READ, self._signalled)
        self._front: Front | None = None
        if site.tls.certificate:
            from recon.serve import tls

            self._front = tls.Front(tls.server_context(**asdict(site.tls)), site.limits.first_s)
            self._selector.register(self._front.ready, selectors.EVENT_READ, self._agreed)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; peers of open sessions are then told that the server stops.

        SIGHUP reopens the audit file and rereads the certificates; in a terminal, it ends the server.
        """
        fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)  # before any signal is handled
        before = {n: signal.signal(n, lambda *_: None) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        try:
            while not self._stopping or any(w.session for w in self._workers) or self._outboxes:
                self._keep_warm()
                idle = [w for w in self._workers if not w.session]
                ready = sum(w.ready for w in idle)
                self._board.workers(ready, len(idle) - ready, sum(w.held for w in idle))
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._watch()
        finally:
            signal.set_wakeup_fd(fd)
            for n, handler in before.items():
                signal.signal(n, handler)
            self._end()

    def _active(self) -> list[Worker]:
        return [w for w in self._workers if w.session]

    def _keep_warm(self) -> None:
        self._starting.look()
        idle = sum(not w.session for w in self._workers)
        wanted = 0 if self._stopping else min(self._site.warm, self._site.max_sessions - len(self._active()))
        for _ in range(wanted - idle):
            self._start()

    def _start(self) -> Worker | None:
        worker = self._starting.worker()
        if worker is not None:
            self._workers.append(worker)
            self._selector.register(worker.control.socket, selectors.EVENT_READ, lambda: self._hear(worker))
        return worker

    def _accept(self, connection: socket.socket, address: tuple[str, int]) -> None:
        peer = address[0].partition("%")[0].removeprefix("::ffff:")
        if not any(ipaddress.ip_address(peer) in network for network in self._allowed):
            self._log(f"{peer} is not in the allow-list; refused")
            self._board.refused("not allowed")
            connection.close()
        elif self._front is not None:
            self._waiting.put(connection, peer, self._front.begin)
        else:
            self._receive(connection, peer)

    def _agreed(self) -> None:
        assert self._front is not None
        for connection, peer, reason in self._front.take():
            if connection is None:
                self._log(f"{peer} was not served: {reason}")
                self._board.refused("no TLS")
            elif self._stopping:
                connection.close()
            else:
                self._receive(connection, peer)

    def _receive(self, connection: socket.socket, peer: str) -> None:
        """Wait for the first message of a peer's session, or answer that all are busy."""
        if not self._busy(connection, peer):
            self._waiting.put(connection, peer, self._begin, whole=True)

    def _busy(self, connection: socket.socket, peer: str) -> bool:
        most = self._site.max_sessions
        if len(self._active()) < most:
            return False
        self._log(f"{peer} was refused: {counted(most, 'session is', 'sessions are')} running")
        self._board.refused("busy")
        self._leaving.put(
            connection, _last(f"ERR busy: {counted(most, 'session is', 'sessions are')} running; try again later")
        )
        return True

    def _silent(self, connection: socket.socket, peer: str) -> None:
        reason = f"no message came within {self._site.limits.first_s:g} s; send the configuration at once"
        self._log(f"{peer} was not served: {reason}")
        self._board.refused("silent")
        # Outside TLS nothing is sent to peers that must use it.
        plain = self._front is None or connection.family == socket.AF_UNIX
        self._leaving.put(connection, _last(f"ERR {reason}") if plain else b"")

    def _begin(self, connection: socket.socket, peer: str) -> None:
        """Pass a connection to a worker, unless all are busy."""
        if self._busy(connection, peer):
            return
        now = time.monotonic()
        worker = next((w for w in self._workers if not w.session), None) or self._start()
        if worker is None:
            self._board.refused("busy")
            self._leaving.put(connection, _last("ERR busy: no process could be started; try again later"))
            return
        outbox = Outbox(self._selector, connection, self._site.limits.send_s, worker.control.tell)
        session = Session(secrets.token_hex(4), peer, outbox, now + self._site.limits.wall_s, now)
        self._outboxes.append(outbox)
        worker.session = session
        self._record("started", job=session.name, peer=peer)
        self._board.began(session.name, peer)
        self._log(f"job {session.name} from {peer} started")
        with contextlib.suppress(OSError):  # a worker that has just died is noticed when its control socket closes
            told = json.dumps({"job": session.name}).encode()
            socket.send_fds(worker.control.socket, [told + b"\n"], [connection.fileno()])

    def _record(self, event: str, **what: Any) -> None:
        """Write the audit; if this fails, scans continue, and the log contains what is missing."""
        try:
            self._audit.write(event, **what)
        except OSError as e:
            self._log(
                f"job {what['job']} {event}, and the audit file could not be written ({e.strerror}); make room "
                "on its disk"
            )

    def _hear(self, worker: Worker) -> None:
        said, alive = worker.control.take()
        for what in said:
            self._note(worker, what)
        if not alive:
            self._ended(worker)

    def _note(self, worker: Worker, what: dict[str, Any]) -> None:
        if "message" in what:
            assert worker.session is not None
            if what["file"] >= 0:
                worker.session.outbox.put(what["file"], what["message"])
            elif not worker.session.reason:
                few = "the server could not open another file for its images; raise LimitNOFILE of the service"
                worker.end(few, time.monotonic() + 60)
            return
        if "unfit" in what:
            raise ReconError(what["unfit"])
        worker.held = what.pop("held", worker.held)
        if what.pop("ready", False):
            worker.ready, self._failures = True, 0
        if worker.session is None:
            return
        record = worker.session.record
        self._board.reported(worker.session.name, what)
        for many, one in (("images", "image"), ("notes", "note")):
            if one in what:
                record.setdefault(many, []).append(what.pop(one))
        if "trust" in what:
            record["trust"] = worst(record.get("trust"), what.pop("trust"))
        if "last_line_to_image_s" in what:
            self._log(f"job {worker.session.name}: {what['last_line_to_image_s']:.2f} s from last line to first image")
        record.update(what)

    def _ended(self, worker: Worker) -> None:
        """A worker has ended: its peer receives the reason unless it already has, and the audit records the outcome."""
        self._selector.unregister(worker.control.socket)
        worker.control.close()
        worker.kill()
        worker.process.wait()
        self._workers.remove(worker)
        session = worker.session
        ended_by_us = self._stopping or (session and session.reason)
        if not worker.ready and not ended_by_us:
            self._failures += 1
            if self._failures >= _FAILURES:
                raise ReconError("the session processes do not start; see recon doctor")
        if session is None:
            return
        said = ""
        if "state" not in session.record:
            reason = session.reason or "the process of the session ended unexpectedly; the scan was not reconstructed"
            session.record |= {"state": "failed", "reason": reason}
            said = "" if session.outbox.closed else f"ERR {session.name}: {reason}"
        seconds = round(time.monotonic() - session.began, 3)
        self._record("ended", job=session.name, peer=session.peer, seconds=seconds, **session.record)
        self._board.ended(session.name, seconds, session.record)
        self._log(f"job {session.name} ended after {seconds:.1f} s: {outcome(session.record)}")
        # Messages already handed over are sent first, so that no text is ever read as pixels.
        session.outbox.end(_last(said) if said else b"", self._leaving.put)

    def _timeout(self) -> float | None:
        times = [w.session.ends_at for w in self._active() if w.session]
        times += [self._looks_at] if times else []
        times += [o.due() for o in self._outboxes] + ([self._most_until()] if self._stopping else [])
        first = min([*times, *(of.due() for of in (self._arriving, self._starting, self._waiting, self._leaving))])
        return max(0.0, first - time.monotonic()) if first < math.inf else None

    def _watch(self) -> None:
        now = time.monotonic()
        for worker in self._active():
            session = worker.session
            assert session is not None
            if now >= session.ends_at and not session.reason:
                wall = f"the session took more than {self._site.limits.wall_s:g} s and was ended"
                worker.end(_STOPPED if self._stopping else wall, now + 60)
        if now >= self._looks_at:
            self._looks_at = now + memory.pause(self._weigh(now))
        self._arriving.look()
        self._waiting.look()
        self._leaving.look()
        for outbox in self._outboxes:
            outbox.look()
            if self._stopping and now >= self._most_until():
                outbox.drop()
        self._outboxes = [o for o in self._outboxes if not o.ended]

    def _most_until(self) -> float:
        """The time until which a stopping server waits for peers to accept what was handed over."""
        return self._stopping + self._site.limits.drain_s + self._site.limits.grace_s

    def _weigh(self, now: float) -> int:
        """End the sessions whose processes hold more memory than allowed, to protect the others.

        Returns the smallest remaining allowance of the other sessions, in bytes.
        """
        room = self._most
        for worker in self._active():
            session = worker.session
            assert session is not None
            if session.reason:
                continue
            held = memory.held(worker.process.pid) + session.outbox.held
            session.record["memory_MiB"] = max(-(-held // MiB), session.record.get("memory_MiB", 0))
            self._board.reported(session.name, {"memory_MiB": session.record["memory_MiB"]})
            if held > self._most:
                worker.end(memory.exceeded(self._site, held), now + 60)
            else:
                room = min(room, self._most - held)
        return room

    def _signalled(self) -> None:
        numbers = b""
        with contextlib.suppress(BlockingIOError):
            numbers = self._wakened.recv(1 << 10)
        # For a server started in a terminal, this means that the terminal is closed.
        closed = signal.SIGHUP in numbers and os.isatty(0)
        if signal.SIGHUP in numbers and not closed:
            self._reload()
        if (closed or {signal.SIGTERM, signal.SIGINT} & set(numbers)) and not self._stopping:
            self._stop()

    def _reload(self) -> None:
        try:
            context = None
            if self._front is not None:
                from recon.serve import tls

                context = tls.server_context(**asdict(self._site.tls))
            self._audit.reopen()
            if self._front is not None and context is not None:
                self._front.renew(context)
            self._log("reloaded: the audit file was reopened and certificates were read again")
        except ReconError as e:
            self._log(f"not reloaded, nothing has changed: {e}")

    def _stop(self) -> None:
        self._stopping = time.monotonic()
        notify.stopping(self._site.limits.drain_s + self._site.limits.grace_s)
        self._arriving.close()
        for connection in self._waiting.end():
            self._leaving.put(connection, _last(f"ERR {_STOPPED}") if self._front is None else b"")
        for worker in self._active():
            assert worker.session is not None
            worker.session.ends_at = min(worker.session.ends_at, self._stopping + self._site.limits.drain_s)
        if self._active() and self._site.limits.drain_s:
            self._log(
                f"stopping: {counted(len(self._active()), 'session')} may continue for {self._site.limits.drain_s:g} s"
            )

    def _end(self) -> None:
        """End the waiting workers, each by its own id, and give the last peers a moment to read."""
        for worker in self._workers:
            worker.control.close()
            worker.kill()
            worker.process.wait()
        self._leaving.end(1.0)
        self._arriving.close()
        self._selector.close()
        if self._front is not None:
            self._front.close()


def _last(said: str) -> bytes:
    """The last message to a peer."""
    return words.text(said) + words.close()
