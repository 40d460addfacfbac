"""PACSs to send to: Orthanc and dcmtk's, each in its own process, and one with given answers."""

from __future__ import annotations

import base64
import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, build_role, evt

from tests.pacs.network import Network
from tests.tools import need

PUSH = "1.2.840.10008.1.20.1"
#: CT, enhanced CT, MR, enhanced MR and secondary capture: more than anything here is, and quickly agreed upon.
CLASSES = [f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "2.1", "4", "4.1", "7")]
LOGIN = "tester:secret"
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


def wait_for(port: int, process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    """Wait until something listens at a port of this machine."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, "the server ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens at {port}")


@dataclass
class Orthanc:
    """Orthanc in a separate network, with the title ORTHANC; its folder survives a restart."""

    network: Network
    folder: Path
    dicom: int = 14242
    http: int = 18042
    report: int = 11119
    extra: dict[str, Any] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        settings = {
            "Name": "test", "DicomAet": "ORTHANC", "DicomPort": self.dicom, "HttpPort": self.http,
            "StorageDirectory": str(self.folder / "db"), "IndexDirectory": str(self.folder / "db"),
            "DicomCheckCalledAet": True, "DicomAlwaysAllowStore": False, "DicomAlwaysAllowEcho": False,
            "DicomCheckModalityHost": False, "DicomScpTimeout": 5, "DicomScuTimeout": 5, "OverwriteInstances": False,
            "RemoteAccessAllowed": True, "AuthenticationEnabled": True, "RegisteredUsers": dict([LOGIN.split(":")]),
            "DicomModalities": {"recon": {"AET": "RECON", "Host": "127.0.0.1", "Port": self.report,
                                          "AllowStorageCommitment": True, "AllowEcho": True, "AllowStore": True,
                                          "AllowFind": True}},
            "Plugins": [str(PLUGIN)] if PLUGIN.exists() else [], "ConcurrentJobs": 1, "HttpThreadsCount": 2,
            # A connection that is kept, of which nothing comes any more, would hold one of both threads for 5 s.
            "KeepAlive": False,
            **self.extra,
        }  # fmt: skip
        self.folder.mkdir(exist_ok=True)
        (self.folder / "orthanc.json").write_text(json.dumps(settings))
        with (self.folder / "log").open("ab") as log:
            command = [need("Orthanc"), str(self.folder / "orthanc.json")]
            self.process = self.network.call(lambda: subprocess.Popen(command, stdout=log, stderr=log))
        self.network.call(wait_for, self.dicom, self.process)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
            self.process.wait(20)
            self.process = None

    def ask(self, path: str, body: bytes | None = None) -> bytes:
        def get() -> bytes:
            request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", body)
            request.add_header("Authorization", "Basic " + base64.b64encode(LOGIN.encode()).decode())
            with urllib.request.urlopen(request, timeout=10) as answer:
                data: bytes = answer.read()
                return data

        return self.network.call(get)

    def found(self, uid: str) -> list[str]:
        """Orthanc's own names of the images with a SOPInstanceUID."""
        return [e["ID"] for e in json.loads(self.ask("/tools/lookup", uid.encode())) if e["Type"] == "Instance"]

    def image(self, uid: str) -> bytes:
        (name,) = self.found(uid)
        return self.ask(f"/instances/{name}/file")


@dataclass
class Told:
    """A PACS that answers as `store` and `commit` say, and keeps what came.

    `store` is a status for each image in turn, the last for all later ones; "abort" breaks off, "hang" waits. `commit`
    is the failure reason for all images, 0 for none, or "silent", "refuse" (the request) or "none" (no such service);
    it is told over an association of its own, or `within` the one that asked. `answers` are those to its reports.
    """

    store: list[int | str] = field(default_factory=lambda: [0])
    commit: int | str = 0
    report: int = 0
    aet: str = "TOLD"
    classes: list[str] = field(default_factory=list)
    came: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    port: int = 0
    within: bool = False
    answers: list[int | None] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[Told]:
        ae = AE(self.aet)
        for abstract in self.classes or CLASSES:
            ae.add_supported_context(abstract, ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context("1.2.840.10008.1.1")
        if self.commit != "none":
            ae.add_supported_context(PUSH)
        ae.require_called_aet = True
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)]
        server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            server.shutdown()

    def _store(self, event: Any) -> int | Dataset:
        status = self.store[min(len(self.came), len(self.store) - 1)]
        self.came.append(str(event.request.AffectedSOPInstanceUID))
        if status == "abort":
            event.assoc.abort()
            return 0xC000
        if status == "hang":
            time.sleep(2)
            return 0
        assert isinstance(status, int)
        return status

    def _action(self, event: Any) -> tuple[int, None]:
        information = event.action_information
        self.asked.append(str(information.TransactionUID))
        if self.commit == "refuse":
            return 0x0213, None
        if self.commit != "silent":
            over = event.assoc if self.within else None
            threading.Thread(target=self.tell, args=(information, self.commit, "", over), daemon=True).start()
        return 0, None

    def tell(self, information: Dataset, reason: Any, aet: str = "", over: Any = None) -> int | None:
        """Report on a storage commitment, over a separate association unless one is given; returns its status."""
        said = Dataset()
        said.TransactionUID = information.TransactionUID
        if reason:
            said.FailedSOPSequence = information.ReferencedSOPSequence
            for item in said.FailedSOPSequence:
                item.FailureReason = reason
        else:
            said.ReferencedSOPSequence = information.ReferencedSOPSequence
        ae = AE(aet or self.aet)
        ae.add_requested_context(PUSH)
        ae.acse_timeout = ae.dimse_timeout = 2
        association = over or ae.associate(
            "127.0.0.1", self.report, ae_title="RECON", ext_neg=[build_role(PUSH, scp_role=True)]
        )
        if over:
            time.sleep(0.05)  # after the answer to the request itself
        if not association.is_established:
            return None
        status, _ = association.send_n_event_report(said, 2 if reason else 1, PUSH, f"{PUSH}.1")
        if not over:
            association.release()
        self.answers.append(int(status.Status) if "Status" in status else None)
        return self.answers[-1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port: int = s.getsockname()[1]
        return port
