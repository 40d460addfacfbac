"""A DICOMweb service with given answers."""

from __future__ import annotations

import contextlib
import email
import io
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest

from recon.pacs import web
from recon.pacs.settings import Tls, check
from tests.pacs import certificates
from tests.pacs.conftest import QUICK, WAITS, Post, series


@dataclass
class Service:
    """Answers to STOW-RS in turn, the last for all later ones: HTTP status, and what makes the JSON of a UID.

    `shows` is what queries find. What came is parsed by the standard library's reader of mail.
    """

    answers: list[tuple[int, Callable[[str], Any]]]
    shows: bool = True
    came: list[pydicom.Dataset] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    port: int = 0
    #: Seconds until each half MiB of an image is taken, and until each byte of an answer is sent.
    pause: float = 0.0
    drip: float = 0.0

    def handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                for byte in body:
                    time.sleep(service.drip)
                    self.wfile.write(bytes([byte]))

            def do_GET(self) -> None:
                service.asked.append(self.path)
                uid = self.path.rpartition("SOPInstanceUID=")[2]
                found = service.shows and "SOPInstanceUID" in self.path
                shown = [{"00080018": {"vr": "UI", "Value": [uid]}}] if found else []
                self.answer(200 if shown else 204, json.dumps(shown).encode() if shown else b"")

            def do_POST(self) -> None:
                assert self.path == "/dicom-web/studies"
                raw, length = bytearray(), int(self.headers["Content-Length"])
                while len(raw) < length:
                    time.sleep(service.pause)
                    raw += self.rfile.read(min(2**19, length - len(raw)))
                if service.pause:  # of what is large, the parser of mail would take long
                    self.take(bytes(raw).partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0])
                    return
                mail = email.message_from_bytes(f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode() + raw)
                assert mail.get_content_type() == "multipart/related"
                assert mail.get_param("type") == "application/dicom"
                (part,) = mail.get_payload()
                assert part.get_content_type() == "application/dicom"
                self.take(part.get_payload(decode=True))

            def take(self, image: bytes) -> None:
                d = pydicom.dcmread(io.BytesIO(image))
                status, body = service.answers[min(len(service.came), len(service.answers) - 1)]
                service.came.append(d)
                if status == 0:
                    time.sleep(1.5)
                    return
                self.answer(status, json.dumps(body(str(d.SOPInstanceUID))).encode())

        return Handler


def stored(uid: str, warning: int = 0) -> dict[str, Any]:
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    item |= {"00081196": {"vr": "US", "Value": [warning]}} if warning else {}
    return {"00081199": {"vr": "SQ", "Value": [item]}}


def refused(reason: int) -> Callable[[str], dict[str, Any]]:
    def body(uid: str) -> dict[str, Any]:
        item = {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
        return {"00081198": {"vr": "SQ", "Value": [item]}}

    return body


def nothing(uid: str) -> dict[str, Any]:
    return {}


@pytest.fixture
def service(post: Callable[..., Post]) -> Iterator[Callable[..., tuple[Service, Post]]]:
    servers = []

    def start(*answers: tuple[int, Callable[[str], Any]], shows: bool = True, tls: ssl.SSLContext | None = None,
              **settings: Any) -> tuple[Service, Post]:  # fmt: skip
        made = Service(list(answers), shows)
        server = ThreadingHTTPServer(("127.0.0.1", 0), made.handler())
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        made.port = server.server_address[1]
        scheme = "https" if tls else "http"
        return made, post(f"{scheme}://127.0.0.1:{made.port}/dicom-web", **settings)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


Start = Callable[..., tuple[Service, Post]]


def test_stow_rs_sends_the_files_and_asks_after_them(service: Start, brain: Path) -> None:
    made, here = service((200, stored))
    uids = here.put(brain)
    here.once()
    assert here.states(uids) == ["sent"] * 3, here.lines
    assert sorted(str(d.SOPInstanceUID) for d in made.came) == sorted(uids)
    before = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, sorted(brain.iterdir()))}
    assert all(d == before[d.SOPInstanceUID] for d in made.came)
    d = made.came[0]
    assert any(f"/studies/{d.StudyInstanceUID}/series/{d.SeriesInstanceUID}/instances?" in path for path in made.asked)


def test_a_large_image_over_a_slow_line_takes_longer_than_an_answer_may(
    service: Start, brain: Path, tmp_path: Path
) -> None:
    image = pydicom.dcmread(brain / "IM0001.dcm")
    image.Rows = image.Columns = 4096  # 32 MB, of which sockets hold a few
    image.PixelData = bytes(2 * 4096 * 4096)
    (tmp_path / "large").mkdir()
    image.save_as(tmp_path / "large" / "IM0001.dcm")
    made, here = service((200, stored), waits=replace(QUICK, answer_s=2))
    made.pause = 0.06
    uids = here.put(tmp_path / "large")
    here.once()
    assert here.states(uids) == ["sent"], here.lines
    assert len(made.came[0].PixelData) == 2 * 4096 * 4096


def test_f33_a_service_that_answers_byte_by_byte_does_not_hold_the_sender(service: Start, brain: Path) -> None:
    made, here = service((200, stored), waits=QUICK)
    made.drip = 0.3
    uids = here.put(brain)
    began = time.monotonic()
    here.once()
    assert time.monotonic() - began < 15
    assert here.states(uids) == ["new"] * 3
    assert all("no answer within 1 s" in reason for reason in here.reasons("new"))


def test_f33_a_service_whose_header_comes_byte_by_byte_does_not_block_the_sender(
    post: Callable[..., Post], brain: Path
) -> None:
    def drip(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 20)
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            for _ in range(40):
                time.sleep(0.3)
                connection.sendall(b"x")

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        here = post(f"http://127.0.0.1:{server.getsockname()[1]}/dicom-web", waits=QUICK)
        uids = here.put(brain)
        here.once()
        server.shutdown(socket.SHUT_RDWR)
    assert here.states(uids) == ["new"] * 3
    assert all("no answer within 1 s" in reason for reason in here.reasons("new"))


def test_f40_images_go_to_the_pacs_itself_whatever_proxy_the_environment_names(
    service: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        _, here = service((200, stored))
        uids = here.put(series(tmp_path / "one", 1))
        here.once()
        assert here.states(uids) == ["sent"], here.lines
        proxy.settimeout(0)
        with pytest.raises(BlockingIOError):
            proxy.accept()


@pytest.mark.parametrize(
    ("status", "body", "state"),
    [
        (503, nothing, "new"),
        (429, nothing, "new"),
        (401, nothing, "new"),
        (302, nothing, "new"),
        (0, nothing, "new"),  # no answer in time
        (200, nothing, "new"),  # success that does not name the image
        (409, refused(0xA700), "new"),
        (202, refused(0xC122), "failed"),
        (409, refused(0xA900), "failed"),
        (400, nothing, "failed"),
        (200, lambda uid: stored(uid, 0xB000), "sent"),
        (409, refused(0x0111), "sent"),  # it is there already, and a query finds it
    ],
)
def test_f33_every_answer_of_stow_rs_has_its_consequence(
    service: Start, tmp_path: Path, status: int, body: Callable[[str], Any], state: str
) -> None:
    made, here = service((status, body), (200, stored), waits=QUICK if status == 0 else WAITS)
    uids = here.put(series(tmp_path / "one", 1))
    here.once()
    assert here.states(uids) == [state], here.lines
    if state == "new":
        time.sleep(0.1)
        here.once()
        assert here.states(uids) == ["sent"]
        assert len(made.came) == 2


def test_f33_an_answer_nested_too_deep_to_be_read_is_no_success() -> None:
    assert web.of_stow(200, b"[" * 10**5, "1.2.3").meaning == "later"


def test_f34_success_that_no_query_confirms_is_not_trusted(service: Start, tmp_path: Path) -> None:
    made, here = service((200, stored), shows=False)
    uids = here.put(series(tmp_path / "one", 1))
    for _ in range(3):
        here.once()
        time.sleep(0.1)
    assert here.states(uids) == ["failed"]
    assert len(made.came) == 3
    assert here.reasons("failed").pop().startswith("the PACS cannot find the image; given up")


def test_f33_a_service_whose_certificate_has_expired_gets_nothing(service: Start, tmp_path: Path) -> None:
    ca = certificates.authority(tmp_path, "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.signed(tmp_path, "pacs", ca, days=-1))
    made, here = service((200, stored), tls=context)
    here.pacs = check(replace(here.pacs, tls=Tls(str(ca))))
    uids = here.put(series(tmp_path / "one", 1))
    here.once()
    assert (here.states(uids), made.came) == (["new"], [])
    assert "its certificate is refused: certificate has expired" in here.reasons("new").pop()


def test_f33_a_service_with_another_certificate_gets_nothing(service: Start, tmp_path: Path) -> None:
    ca, other = certificates.authority(tmp_path, "ca"), certificates.authority(tmp_path, "other")
    certificate, key = certificates.signed(tmp_path, "pacs", ca)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    made, here = service((200, stored), tls=context)
    uids = here.put(series(tmp_path / "one", 1))
    for tls, word in ((Tls(), "refused"), (Tls(str(other)), "refused")):
        here.pacs = check(replace(here.pacs, tls=tls, waits=WAITS, tries=9))
        here.once()
        time.sleep(0.1)
        assert here.states(uids) == ["new"]
        assert f"its certificate is {word}" in here.reasons("new").pop()
    assert made.came == []
    here.pacs = replace(here.pacs, tls=Tls(str(ca)))
    here.once()
    assert here.states(uids) == ["sent"]
