"""A PACS reached by DICOMweb (PS3.18): STOW-RS, and QIDO-RS or WADO-RS to check what it stores."""

from __future__ import annotations

import base64
import contextlib
import email.parser
import email.policy
import http.client
import io
import json
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any
from urllib.parse import urlsplit

from recon.errors import ReconError
from recon.pacs import answers, tls, verify
from recon.pacs.answers import Answer, Unreachable, Verdict
from recon.pacs.settings import Pacs
from recon.pacs.spool import Item, Record

#: Bytes of an answer that are read: valid answers are shorter.
_MOST = 2**26
#: Bytes of a body with a time limit of their own.
_PIECE = 2**16


class Web:
    """The PACS of `pacs` by DICOMweb. Methods raise Unreachable if the PACS does not answer."""

    def __init__(self, pacs: Pacs) -> None:
        self._pacs, url = pacs, urlsplit(pacs.to)
        self._host, self._base = url.hostname or "", url.path.rstrip("/")
        self._port = url.port or (443 if url.scheme == "https" else 80)
        secure = url.scheme == "https"
        self._certificates = tls.Certificates(pacs.tls) if secure else None
        self._login = _login(pacs.login)

    @property
    def name(self) -> str:
        """The address of the service."""
        return self._pacs.to

    def echo(self) -> None:
        """Ask whether the service is there and grants access, by a query for one study; raises Unreachable if not."""
        status, _, _ = self._ask("GET", "/studies?limit=1", accept="application/dicom+json")
        if status not in (200, 204):
            raise Unreachable(f"it answers a query with HTTP {status}")

    @contextmanager
    def session(self, kinds: Collection[tuple[str, str]]) -> Iterator[Callable[[Item], Answer]]:
        """A function that stores one image."""
        yield self._store

    def _store(self, item: Item) -> Answer:
        boundary = secrets.token_hex(16)
        ends = (
            f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(),
            f"\r\n--{boundary}--\r\n".encode(),
        )
        headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(item.image.stat().st_size + sum(map(len, ends))),
        }
        try:
            with item.image.open("rb") as file:
                body = _pieces(file, *ends)
                status, _, answer = self._ask("POST", "/studies", body, headers, accept="application/dicom+json")
        except Unreachable as e:
            return Answer("later", f"the PACS cannot be reached: {e}", broken=True)
        return of_stow(status, answer, item.record.uid)

    def confirm(self, items: Sequence[Item]) -> dict[str, Verdict]:
        """What the PACS returns for images, by UID."""
        ask = self._retrieved if self._pacs.confirmed_by == "wado" else self._found
        return {i.record.uid: ask(i.record) for i in items}

    def late(self) -> list[tuple[str, dict[str, Verdict]]]:
        """Empty: all answers come at once."""
        return []

    def transaction(self) -> str:
        """Empty: there are no transactions."""
        return ""

    def _found(self, r: Record) -> Verdict:
        path = f"/studies/{r.study}/series/{r.series}/instances?SOPInstanceUID={r.uid}"
        status, _, body = self._ask("GET", path, accept="application/dicom+json")
        if status not in (200, 204, 404):
            return Verdict(None, f"the PACS answers a query for the image with HTTP {status}")
        try:
            uids = [entry["00080018"]["Value"][0] for entry in json.loads(body)] if status == 200 else []
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            return Verdict(None, "the PACS answers a query for the image with something other than DICOM JSON")
        return Verdict(r.uid in uids, "" if r.uid in uids else "the PACS cannot find the image")

    def _retrieved(self, r: Record) -> Verdict:
        path = f"/studies/{r.study}/series/{r.series}/instances/{r.uid}"
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        status, kind, body = self._ask("GET", path, accept=accept)
        if status in (404, 410):
            return Verdict(False, "the PACS does not have the image")
        if status != 200:
            return Verdict(None, f"the PACS answers a request for the image with HTTP {status}")
        try:
            facts = verify.check(verify.read(io.BytesIO(_part(kind, body))))
        except ReconError as e:
            return Verdict(None, f"what the PACS returns as the image cannot be read: {e}")
        if facts.uid == r.uid and facts.pixels == r.pixels:
            return Verdict(True)
        if facts.syntax != r.syntax:
            return Verdict(None, "the PACS returns the image in another transfer syntax; set confirm to qido")
        return Verdict(False, "the PACS holds an image with this UID but different pixels", final=True)

    def _ask(
        self,
        method: str,
        path: str,
        body: Iterator[bytes] | None = None,
        more: Mapping[str, str] = MappingProxyType({}),
        accept: str = "",
    ) -> tuple[int, str, bytes]:
        """Status, content type and content of an answer; redirections are not followed.

        Each piece of a `body` has the time limit of an answer, as have the whole header and each piece of the answer.
        """
        waits = self._pacs.waits
        connection: http.client.HTTPConnection
        if self._certificates is None:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=waits.connect_s)
        else:
            self._certificates.look()
            context = self._certificates.client or ssl.create_default_context()
            connection = http.client.HTTPSConnection(self._host, self._port, timeout=waits.connect_s, context=context)
        headers = {"Accept": accept, **more, **self._login}
        try:
            with contextlib.closing(connection):
                connection.connect()
                connection.sock.settimeout(waits.answer_s)
                connection.request(method, self._base + path, body, headers)
                connection.response_class = _Timed
                answer = connection.getresponse()
                assert isinstance(answer, _Timed)
                content = _content(answer, waits.answer_s)
                return answer.status, answer.headers.get("Content-Type", ""), content
        except ssl.SSLCertVerificationError as e:
            raise Unreachable(f"its certificate is refused: {e.verify_message}") from None
        except ssl.SSLError as e:
            raise Unreachable(f"TLS negotiation failed ({e.reason or 'unknown reason'})") from None
        except TimeoutError:
            raise Unreachable(f"no answer within {waits.answer_s:g} s") from None
        except (OSError, http.client.HTTPException) as e:
            raise Unreachable(f"no connection ({getattr(e, 'strerror', None) or type(e).__name__})") from None


def _pieces(file: IO[bytes], first: bytes, last: bytes) -> Iterator[bytes]:
    """A file between two bounds: the socket gives each piece its time limit, however large the whole is."""
    yield first
    while piece := file.read(_PIECE):
        yield piece
    yield last


class _Clock(io.RawIOBase):
    """What a socket receives until `ends` of the monotonic clock; after that, reading raises TimeoutError."""

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, seconds: float) -> None:
        self._raw, self._sock, self.ends = raw, sock, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Timed(http.client.HTTPResponse):
    """An answer whose header, as a whole, has the time limit of one receive."""

    def __init__(self, sock: socket.socket, *given: Any, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self.clock = _Clock(self.fp.detach(), sock, sock.gettimeout() or 0.0)
        self.fp = io.BufferedReader(self.clock)


def _content(answer: _Timed, seconds: float) -> bytes:
    """The content of an answer; raises TimeoutError if a piece of it does not arrive in time."""
    began, out = time.monotonic(), bytearray()
    while len(out) < _MOST and not answer.isclosed():
        answer.clock.ends = began + seconds * (1 + len(out) // _PIECE)
        part = answer.read1(_PIECE)
        if not part:
            break
        out += part
    return bytes(out)


def of_stow(status: int, body: bytes, uid: str) -> Answer:
    """The meaning of an answer to STOW-RS (PS3.18, 10.5.3) for the image `uid`.

    A success must list the image among those stored. Errors of the server or of the site's configuration can be
    temporary: HTTP 5xx, 401, 403, 404, 408, 429 and redirections; other refusals concern the image.
    """
    refused, stored = _listed(body, "00081198"), _listed(body, "00081199")
    if uid in refused:
        answer = answers.of_store(refused[uid] or 0xC000)
        return answer if answer.meaning != "stored" or refused[uid] == 0x0111 else answers.of_store(0xC000)
    if status in (200, 202) and uid in stored:
        return Answer("stored", coerced=bool(stored[uid]))
    if status in (200, 202):
        return Answer("later", "the PACS reports success but does not confirm that it stored the image")
    soft = status >= 500 or status in (401, 403, 404, 408, 429) or 300 <= status < 400
    return Answer("later" if soft else "never", f"the PACS refused the image (HTTP {status})")


def _listed(body: bytes, sequence: str) -> dict[str, int]:
    """UIDs in a sequence of an answer, with the reason of failure or warning, 0 if there is none."""
    out: dict[str, int] = {}
    try:
        for entry in json.loads(body).get(sequence, {}).get("Value", []):
            reason = entry.get("00081197") or entry.get("00081196") or {}
            out[entry["00081155"]["Value"][0]] = int((reason.get("Value") or [0])[0])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return out
    return out


def _part(kind: str, body: bytes) -> bytes:
    """The first part of a multipart body, or the body itself if it has no parts."""
    if not kind.lower().startswith("multipart/"):
        return body
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message: Any = parser.parsebytes(b"Content-Type: " + kind.encode("latin-1", "replace") + b"\r\n\r\n" + body)
    parts = list(message.iter_parts()) if message.is_multipart() else []
    return bytes(parts[0].get_payload(decode=True) or b"") if parts else b""


def _login(file: str) -> dict[str, str]:
    if not file:
        return {}
    words = Path(file).read_text(encoding="utf-8").strip()
    if ":" not in words or "\n" in words:
        raise ReconError(f"{file} holds no login; write user:password in one line")
    return {"Authorization": "Basic " + base64.b64encode(words.encode()).decode()}
