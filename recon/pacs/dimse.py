"""A PACS reached by DICOM associations: C-ECHO, C-STORE, storage commitment, C-FIND."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from recon.errors import ReconError
from recon.io.dicom_values import uid as legal
from recon.pacs import answers, tls, verify
from recon.pacs.answers import Answer, Unreachable, Verdict
from recon.pacs.settings import Pacs, address, listening
from recon.pacs.spool import Item, Record

#: The well-known instance for storage commitment requests (PS3.4, J.3).
_PUSH, _PUSH_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
_ECHO, _FIND = "1.2.840.10008.1.1", "1.2.840.10008.5.1.4.1.2.2.1"
_UNCOMPRESSED = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]


class Dimse:
    """The PACS of `pacs`, through the DICOM upper layer.

    Every association belongs to the thread that opened it and is dropped after the first time-out. Methods raise
    Unreachable if the PACS does not answer.
    """

    def __init__(self, pacs: Pacs) -> None:
        try:
            import pynetdicom
        except ModuleNotFoundError:
            raise ReconError("sending to a PACS needs pynetdicom; run pip install pynetdicom") from None
        # Its own messages may contain values of the images.
        logger = logging.getLogger("pynetdicom")
        logger.propagate = False
        pynetdicom._config.LOG_HANDLER_LEVEL = "none"
        self._library, self._pacs, self._at = pynetdicom, pacs, address(pacs)
        self._certificates = tls.Certificates(pacs.tls)
        self._reports: queue.Queue[tuple[str, dict[str, Verdict]]] = queue.Queue()

    @property
    def name(self) -> str:
        """Title, host and port."""
        return f"{self._at.aet}@{self._at.host}:{self._at.port}"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive reports of storage commitments inside this context, if they are the method of confirmation.

        Raises ReconError if the port is in use or the address is not one of this machine.
        """
        if self._pacs.confirmed_by != "commitment":
            yield
            return
        from pynetdicom import evt

        from recon.pacs.patience import Listener

        ae, at = self._entity(), listening(self._pacs)
        ae.add_supported_context(_PUSH, _UNCOMPRESSED, scu_role=True, scp_role=True)
        ae.add_supported_context(_ECHO)
        ae.require_called_aet, ae.require_calling_aet = True, [self._at.aet]
        ae.maximum_associations = 4
        try:
            handlers = [(evt.EVT_CONN_OPEN, self._bound), (evt.EVT_N_EVENT_REPORT, self._report)]
            server = Listener(ae, at, self._certificates, self._pacs.waits.answer_s, handlers)
        except OSError as e:
            raise ReconError(
                f"cannot listen on {self._pacs.listen} for the PACS's reports ({e.strerror}); set listen to "
                "another port of this machine, or stop the program that uses it"
            ) from None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()

    def echo(self) -> None:
        """Ask whether the PACS is there and knows recon's title; raises Unreachable if it does not confirm."""
        with self._association([(_ECHO, _UNCOMPRESSED)]) as association:
            status = _status(association.send_c_echo())
            if status != 0:
                raise Unreachable("it does not answer C-ECHO with success")

    @contextmanager
    def session(self, kinds: Collection[tuple[str, str]]) -> Iterator[Callable[[Item], Answer]]:
        """One association for images of these pairs of SOP class and transfer syntax: a function that sends one."""
        try:
            with self._association([(c, [s]) for c, s in sorted(kinds)]) as association:
                taken = {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}
                yield lambda item: self._send(association, item) if _kind(item) in taken else _CONTEXT
        except _NothingAccepted:
            yield lambda item: _CONTEXT

    def _send(self, association: Any, item: Item) -> Answer:
        try:
            dataset = verify.read(item.image)
            answer = answers.of_store(_status(association.send_c_store(dataset)))
        except (RuntimeError, OSError):  # the association broke before this image
            answer = answers.of_store(None)
        if answer.broken:
            association.abort()
        return answer

    def confirm(self, items: Sequence[Item]) -> dict[str, Verdict]:
        """What the PACS says about images by UID; those it says nothing about are missing."""
        if self._pacs.confirmed_by == "find":
            return self._find([i.record for i in items])
        return self._commitment([i.record for i in items])

    def late(self) -> list[tuple[str, dict[str, Verdict]]]:
        """Reports that arrived since the last call: transaction, and verdicts by UID."""
        self._certificates.look()
        out = []
        with contextlib.suppress(queue.Empty):
            while True:
                out.append(self._reports.get_nowait())
        return out

    def transaction(self) -> str:
        """A new UID for a storage commitment."""
        from pydicom.uid import generate_uid

        return str(generate_uid(prefix=None))

    def _commitment(self, records: Sequence[Record]) -> dict[str, Verdict]:
        from pydicom import Dataset

        wanted = Dataset()
        wanted.TransactionUID = records[0].transaction
        wanted.ReferencedSOPSequence = []
        for r in records:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = r.sop_class, r.uid
            wanted.ReferencedSOPSequence.append(item)
        try:
            with self._association([(_PUSH, _UNCOMPRESSED)]) as association:
                status, _ = association.send_n_action(wanted, 1, _PUSH, _PUSH_INSTANCE)
                number = _status(status)
                if number == 0:  # some report over this association while it is open, others over one of their own
                    return self._reported(records[0].transaction)
        except _NothingAccepted:
            raise Unreachable(
                "it does not support storage commitment; set confirm to find, or have it enabled"
            ) from None
        words = "no answer" if number is None else answers.name(number)
        raise Unreachable(f"it refuses the request for storage commitment ({words})")

    def _reported(self, transaction: str) -> dict[str, Verdict]:
        """The PACS's report on a transaction, empty if it does not arrive in time."""
        until = time.monotonic() + self._pacs.waits.commitment_s
        others = []
        try:
            while (left := until - time.monotonic()) > 0:
                found = self._reports.get(timeout=left)
                if found[0] == transaction:
                    return found[1]
                others.append(found)
        except queue.Empty:
            pass
        finally:
            for other in others:
                self._reports.put(other)
        return {}

    def _find(self, records: Sequence[Record]) -> dict[str, Verdict]:
        from pydicom import Dataset

        out: dict[str, Verdict] = {}
        try:
            with self._association([(_FIND, _UNCOMPRESSED)]) as association:
                for r in records:
                    query = Dataset()
                    query.QueryRetrieveLevel = "IMAGE"
                    query.StudyInstanceUID, query.SeriesInstanceUID, query.SOPInstanceUID = r.study, r.series, r.uid
                    found, ended, until = 0, False, time.monotonic() + self._pacs.waits.answer_s
                    for status, match in association.send_c_find(query, _FIND):
                        number = _status(status)
                        found += match is not None and str(match.get("SOPInstanceUID", "")) == r.uid
                        ended = ended or number == 0
                        # Each answer may be in time, without ever ending.
                        if not ended and time.monotonic() > until:
                            association.abort()
                            break
                    if not ended:
                        break
                    out[r.uid] = Verdict(found > 0, "" if found else "the PACS cannot find the image")
        except _NothingAccepted:
            raise Unreachable("it answers no queries (C-FIND); set confirm to commitment") from None
        return out

    @contextmanager
    def _association(self, contexts: Sequence[tuple[str, list[str]]]) -> Iterator[Any]:
        from pynetdicom import evt

        ae = self._entity()
        for abstract, transfer in contexts:
            ae.add_requested_context(abstract, transfer)
        self._certificates.look()
        secure = (self._certificates.client, self._at.host) if self._certificates.client else None
        began, answered = time.monotonic(), threading.Event()
        answered.set()
        try:
            association = ae.associate(
                self._at.host, self._at.port, ae_title=self._at.aet, tls_args=secure,
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, self._bound), (evt.EVT_PDU_SENT, _sent, [answered]),
                    (evt.EVT_N_EVENT_REPORT, self._report, [answered]),
                ],
            )  # fmt: skip
        except OSError as e:
            raise Unreachable(f"no connection ({e.strerror or 'unknown host'})") from None
        if not association.is_established:
            raise self._why(association, time.monotonic() - began)
        try:
            yield association
        except RuntimeError:  # from pynetdicom, before a request
            raise Unreachable("it aborted the association") from None
        finally:
            if association.is_established:
                # A report is taken before it is answered: if the association were released in between, the PACS would
                # get no answer.
                answered.wait(self._pacs.waits.answer_s)
                association.release()

    def _bound(self, event: Any) -> None:
        """A peer that stops reading, or sends byte by byte, must not block an association forever."""
        from recon.pacs.patience import bound

        bound(event.assoc.dul.socket, self._pacs.waits.answer_s)

    def _why(self, association: Any, seconds: float) -> Exception:
        if association.rejected_contexts:
            return _NothingAccepted()
        if association.is_rejected:
            primitive = association.acceptor.primitive
            number = getattr(primitive, "diagnostic", None) if getattr(primitive, "result_source", 0) == 1 else None
            words = {3: "it does not accept the sender's AE title", 7: "its own AE title is a different one"}.get(
                number or 0, "it is set up so"
            )
            return Unreachable(f"it rejects the association: {words}")
        waits = self._pacs.waits
        found = tls.why(self._at.host, self._at.port, self._certificates.client, waits.connect_s)
        if not found and seconds < waits.answer_s:
            return Unreachable(
                "it aborted the association; check that a PACS listens there, and whether it requires TLS"
            )
        return Unreachable(found or f"no answer to the request for an association within {waits.answer_s:g} s")

    def _entity(self) -> Any:
        ae, waits = self._library.AE(ae_title=self._pacs.aet), self._pacs.waits
        ae.connection_timeout, ae.network_timeout = waits.connect_s, waits.idle_s
        ae.acse_timeout = ae.dimse_timeout = waits.answer_s
        return ae

    def _report(self, event: Any, answered: threading.Event | None = None) -> tuple[int, None]:
        """Take a report from the PACS; the returned status is then sent, and after that `answered` is set."""
        if answered is not None:
            answered.clear()
        information = event.event_information
        verdicts: dict[str, Verdict] = {}
        for item in information.get("FailedSOPSequence") or []:
            reason = int(item.get("FailureReason") or 0x0110)
            verdicts[legal(str(item.get("ReferencedSOPInstanceUID", "")))] = answers.of_commitment(reason)
        for item in information.get("ReferencedSOPSequence") or []:
            verdicts.setdefault(legal(str(item.get("ReferencedSOPInstanceUID", ""))), Verdict(True))
        self._reports.put((legal(str(information.get("TransactionUID", ""))), verdicts))
        return 0x0000, None


def _sent(event: Any, answered: threading.Event) -> None:
    """Data was sent to the PACS: its report is answered, if there was one."""
    from pynetdicom.pdu import P_DATA_TF

    if isinstance(event.pdu, P_DATA_TF):
        answered.set()


def _kind(item: Item) -> tuple[str, str]:
    return item.record.sop_class, item.record.syntax


_CONTEXT = Answer(
    "never", "the PACS does not accept images of this class in this transfer syntax; ask its administrators"
)


class _NothingAccepted(Exception):
    """The PACS accepts none of the presentation contexts."""


def _status(found: Any) -> int | None:
    """The status of an answer; None if the PACS gave none."""
    return int(found.Status) if found and "Status" in found else None
