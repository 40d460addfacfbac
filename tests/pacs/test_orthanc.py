"""Images on their way to Debian's Orthanc, and what arrives there."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest

from recon.io.dicom import write_dicom
from recon.pacs import spool as spools
from recon.pacs import verify
from recon.pacs.settings import Tls, check
from tests.io import pictures, validators
from tests.pacs import certificates
from tests.pacs.conftest import QUICK, WAITS, Post, series
from tests.pacs.peers import PLUGIN, Orthanc, wait_for
from tests.tools import need


def in_network(orthanc: Orthanc, here: Post) -> None:
    time.sleep(0.1)  # what is to be tried again is due
    orthanc.network.call(here.once)


def copies(orthanc: Orthanc, uids: list[str]) -> list[int]:
    return [len(orthanc.found(uid)) for uid in uids]


def test_f36_images_are_stored_committed_and_arrive_as_they_were(
    to_orthanc: Post, orthanc: Orthanc, brain: Path, tmp_path: Path
) -> None:
    uids = to_orthanc.put(brain)
    in_network(orthanc, to_orthanc)
    assert to_orthanc.states(uids) == ["sent"] * 3, to_orthanc.lines
    arrived = tmp_path / "arrived"
    arrived.mkdir()
    for uid in uids:
        (arrived / f"{uid}.dcm").write_bytes(orthanc.image(uid))
    before = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, sorted(brain.iterdir()))}
    for path in arrived.iterdir():
        assert validators.errors(path) == []
        d = pydicom.dcmread(path)
        assert d == before[d.SOPInstanceUID]
    ours, theirs = (
        validators.dcm2niix(folder, tmp_path / name) for folder, name in ((brain, "ours"), (arrived, "theirs"))
    )
    assert ours.keys() == theirs.keys()
    assert ours
    for name in ours:
        assert validators.differences(ours[name], theirs[name]) == ""


def test_f35_the_same_job_after_all_is_forgotten_leaves_one_copy(
    to_orthanc: Post, orthanc: Orthanc, tmp_path: Path
) -> None:
    uids = to_orthanc.put(series(tmp_path / "first", seed=1))
    in_network(orthanc, to_orthanc)
    spools.forget(to_orthanc.folder, -1.0)
    assert to_orthanc.states(uids) == ["none"] * 3
    assert to_orthanc.put(series(tmp_path / "again", seed=1)) == uids
    in_network(orthanc, to_orthanc)
    assert to_orthanc.states(uids) == ["sent"] * 3
    assert copies(orthanc, uids) == [1, 1, 1]


@pytest.mark.parametrize("settings", [{"recipe_hash": "cd" * 32}, {"version": "0.1.1"}, {"seeds": [2]}])
def test_f35_other_settings_make_other_images(tmp_path: Path, settings: dict[str, object]) -> None:
    write_dicom(pictures.picture(), tmp_path / "a")
    write_dicom(pictures.picture(provenance={**pictures.RECIPE, "date": "2025-01-01T00:00:00+00:00"}), tmp_path / "b")
    write_dicom(pictures.picture(provenance={**pictures.RECIPE, **settings}), tmp_path / "c")
    a, b, c = ([verify.check(verify.read(p)) for p in sorted((tmp_path / n).iterdir())] for n in "abc")
    assert [f.uid for f in a] == [f.uid for f in b]  # the day of the run decides no pixel
    assert [f.pixels for f in a] == [f.pixels for f in c]
    assert not {f.uid for f in a} & {f.uid for f in c}


def test_f34_an_image_that_orthanc_does_not_have_is_sent_again(
    to_orthanc: Post, orthanc: Orthanc, tmp_path: Path
) -> None:
    (uid,) = to_orthanc.put(series(tmp_path / "one", 1, seed=2))
    spools.admit(to_orthanc.folder)
    (item,) = spools.items(to_orthanc.folder, "new")
    spools.move(to_orthanc.folder, item, "unconfirmed")  # as if it had said 0x0000
    in_network(orthanc, to_orthanc)
    assert to_orthanc.states([uid]) == ["new"]
    assert "0x0112, no such image" in to_orthanc.reasons("new").pop()
    in_network(orthanc, to_orthanc)
    assert to_orthanc.states([uid]) == ["sent"]
    assert copies(orthanc, [uid]) == [1]


def test_a_query_can_confirm_instead(to_orthanc: Post, orthanc: Orthanc, tmp_path: Path) -> None:
    to_orthanc.pacs = replace(to_orthanc.pacs, confirm="find")
    uids = to_orthanc.put(series(tmp_path / "find", seed=3))
    spools.admit(to_orthanc.folder)
    item = next(iter(spools.items(to_orthanc.folder, "new")))
    spools.move(to_orthanc.folder, item, "unconfirmed")  # one that was never stored
    in_network(orthanc, to_orthanc)
    assert sorted(to_orthanc.states(uids)) == ["new", "sent", "sent"]
    assert to_orthanc.reasons("new") == {"the PACS cannot find the image"}
    in_network(orthanc, to_orthanc)
    assert to_orthanc.states(uids) == ["sent"] * 3


def test_f33_a_title_that_orthanc_does_not_know_stores_nothing(
    to_orthanc: Post, orthanc: Orthanc, tmp_path: Path
) -> None:
    to_orthanc.pacs = replace(to_orthanc.pacs, aet="STRANGER")
    uids = to_orthanc.put(series(tmp_path / "one", 1, seed=4))
    in_network(orthanc, to_orthanc)
    assert to_orthanc.states(uids) == ["new"]
    assert copies(orthanc, uids) == [0]


def test_f33_orthanc_frozen_or_down_gets_its_images_later_once(
    to_orthanc: Post, orthanc: Orthanc, tmp_path: Path
) -> None:
    to_orthanc.pacs = replace(to_orthanc.pacs, waits=QUICK, tries=9)
    uids = to_orthanc.put(series(tmp_path / "one", 1, seed=5))
    assert orthanc.process is not None
    orthanc.process.send_signal(signal.SIGSTOP)
    in_network(orthanc, to_orthanc)
    assert to_orthanc.states(uids) == ["new"]
    assert "no answer to the request for an association within 1 s" in to_orthanc.reasons("new").pop()
    orthanc.stop(signal.SIGKILL)
    in_network(orthanc, to_orthanc)
    assert "Connection refused" in to_orthanc.reasons("new").pop()
    orthanc.start()
    to_orthanc.pacs = replace(to_orthanc.pacs, waits=WAITS)
    in_network(orthanc, to_orthanc)
    assert to_orthanc.states(uids) == ["sent"]
    assert copies(orthanc, uids) == [1]


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_f33_orthanc_lost_in_the_middle_of_an_image_gets_it_again_once(
    to_orthanc: Post, orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    to_orthanc.pacs = replace(to_orthanc.pacs, waits=QUICK)
    write_dicom(pictures.picture((1, 4096, 3000), seed=6 + how), tmp_path / "large")
    uids = to_orthanc.put(tmp_path / "large")
    process, read = orthanc.process, verify.read
    assert process is not None

    def stopping(path: Path) -> pydicom.Dataset:
        dataset = read(path)
        os.kill(process.pid, signal.SIGSTOP)  # 25 MB do not fit into what the system holds between the two
        if how is signal.SIGKILL:
            threading.Timer(0.3, process.kill).start()
        return dataset

    monkeypatch.setattr(verify, "read", stopping)
    in_network(orthanc, to_orthanc)
    monkeypatch.undo()
    assert to_orthanc.states(uids) == ["new"]
    assert to_orthanc.reasons("new") == {"the PACS gave no answer to the transfer, or broke it off"}
    if how is signal.SIGKILL:
        process.wait(5)
        orthanc.start()
    process.send_signal(signal.SIGCONT)
    assert copies(orthanc, uids) == [0]
    to_orthanc.pacs = replace(to_orthanc.pacs, waits=WAITS)
    in_network(orthanc, to_orthanc)
    assert to_orthanc.states(uids) == ["sent"], to_orthanc.lines
    assert copies(orthanc, uids) == [1]


def test_f33_tls_shows_both_sides_certificates_and_refuses_others(
    orthanc: Orthanc, post: Callable[..., Post], tmp_path: Path
) -> None:
    ca, other = certificates.authority(tmp_path, "ca"), certificates.authority(tmp_path, "other")
    theirs, ours = certificates.signed(tmp_path, "pacs", ca), certificates.signed(tmp_path, "recon", ca)
    foreign = certificates.signed(tmp_path, "foreign", other)
    modality = {"AET": "RECON", "Host": "127.0.0.1", "Port": 11120, "AllowStorageCommitment": True, "UseDicomTls": True}
    secure = Orthanc(orthanc.network, tmp_path / "orthanc", 14243, 18043, extra={
        "DicomTlsEnabled": True, "DicomTlsCertificate": str(theirs[0]), "DicomTlsPrivateKey": str(theirs[1]),
        "DicomTlsTrustedCertificates": str(ca), "DicomModalities": {"recon": modality}, "Plugins": [],
    })  # fmt: skip
    here = post("ORTHANC@127.0.0.1:14243", listen="127.0.0.1:11120", tries=9,
                waits=WAITS)  # fmt: skip
    uids = here.put(series(tmp_path / "one", 1, seed=9))
    good = Tls(str(ca), str(ours[0]), str(ours[1]))
    secure.start()
    try:
        for tls, to, word in (
            (Tls(), "127.0.0.1", "association"),  # no encryption
            (Tls(str(ca)), "127.0.0.1", ""),  # no certificate of ours
            (replace(good, ca=str(other)), "127.0.0.1", "its certificate is refused: self-signed|its certificate is"),
            (good, "localhost", "its certificate is refused: Hostname mismatch"),
            (Tls(str(ca), str(foreign[0]), str(foreign[1])), "127.0.0.1", ""),
        ):
            here.pacs = check(replace(here.pacs, tls=tls, to=f"ORTHANC@{to}:14243"))
            (here.folder / "pacs.json").unlink()  # the same PACS by another name
            in_network(orthanc, here)
            assert here.states(uids) == ["new"]
            assert any(w in here.reasons("new").pop() for w in word.split("|")), word
        assert secure.found(uids[0]) == []
        (here.folder / "pacs.json").unlink()
        here.pacs = replace(here.pacs, tls=good, to="ORTHANC@127.0.0.1:14243")
        in_network(orthanc, here)
        assert here.states(uids) == ["sent"], here.lines
        assert len(secure.found(uids[0])) == 1
    finally:
        secure.stop()


@pytest.fixture
def web(orthanc: Orthanc, post: Callable[..., Post], tmp_path: Path) -> Post:
    if not PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb is not installed; on Debian: apt-get install orthanc-dicomweb")
    login = tmp_path / "login"
    login.write_text("tester:secret\n")
    login.chmod(0o600)
    return post(f"http://127.0.0.1:{orthanc.http}/dicom-web", login=str(login), waits=WAITS)


@pytest.mark.parametrize("confirm", ["qido", "wado"])
def test_stow_rs_stores_and_the_pacs_shows_what_it_keeps(
    web: Post, orthanc: Orthanc, tmp_path: Path, confirm: str
) -> None:
    web.pacs = check(replace(web.pacs, confirm=confirm))
    uids = web.put(series(tmp_path / "one", 2, seed=len(confirm) + ord(confirm[0])))
    spools.admit(web.folder)
    item = next(iter(spools.items(web.folder, "new")))
    spools.move(web.folder, item, "unconfirmed")  # F34: one that was never stored
    in_network(orthanc, web)
    assert sorted(web.states(uids)) == ["new", "sent"], web.lines
    in_network(orthanc, web)
    assert web.states(uids) == ["sent"] * 2
    assert copies(orthanc, uids) == [1, 1]


def test_f35_wado_rs_finds_out_that_the_pacs_keeps_other_pixels(web: Post, orthanc: Orthanc, tmp_path: Path) -> None:
    (uid,) = web.put(series(tmp_path / "one", 1, seed=77))
    in_network(orthanc, web)
    spools.forget(web.folder, -1.0)
    other = pydicom.dcmread(tmp_path / "one" / "IM0001.dcm")
    other.PixelData = bytes(len(other.PixelData))
    (tmp_path / "other").mkdir()
    other.save_as(tmp_path / "other" / "IM0001.dcm")
    web.pacs = replace(web.pacs, confirm="wado")
    web.put(tmp_path / "other")
    in_network(orthanc, web)
    assert web.states([uid]) == ["failed"]
    assert web.reasons("failed") == {"the PACS holds an image with this UID but different pixels"}


def test_f33_a_wrong_password_is_reported_and_nothing_is_lost(web: Post, orthanc: Orthanc, tmp_path: Path) -> None:
    Path(web.pacs.login).write_text("tester:wrong\n")
    uids = web.put(series(tmp_path / "one", 1, seed=78))
    in_network(orthanc, web)
    assert web.states(uids) == ["new"]
    assert "HTTP 401" in web.reasons("new").pop()
    assert "wrong" not in "".join(web.lines)


def test_dcmtk_as_a_second_pacs_keeps_what_it_is_sent(
    orthanc: Orthanc, post: Callable[..., Post], brain: Path, tmp_path: Path
) -> None:
    """dcmtk's dcmqrscp answers queries, and does not support storage commitment."""
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "dcmqrscp.cfg").write_text(
        'NetworkTCPPort = 11113\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\nHostTable END\n'
        f'VendorTable BEGIN\nVendorTable END\nAETable BEGIN\nSECOND {store} RW (200, 1024mb) ANY\nAETable END\n'
    )  # fmt: skip
    command = [need("dcmqrscp"), "-c", str(tmp_path / "dcmqrscp.cfg")]
    with (tmp_path / "log").open("wb") as log:
        process = orthanc.network.call(lambda: subprocess.Popen(command, stdout=log, stderr=log))
    try:
        orthanc.network.call(wait_for, 11113, process)
        here = post("SECOND@127.0.0.1:11113", confirm="find", waits=WAITS)
        uids = here.put(brain)
        in_network(orthanc, here)
        assert here.states(uids) == ["sent"] * 3, here.lines
        here.pacs = replace(here.pacs, confirm="commitment")
        one = here.put(series(tmp_path / "one", 1, seed=12))
        in_network(orthanc, here)
        assert here.states(one) == ["unconfirmed"]
        assert "does not support storage commitment; set confirm to find" in here.reasons("unconfirmed").pop()
    finally:
        process.terminate()
        process.wait(10)
    kept = [pydicom.dcmread(p) for p in store.iterdir() if p.suffix == ".dcm" or "MR" in p.name]
    assert {d.SOPInstanceUID for d in kept} == {*uids, *one}
    before = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, sorted(brain.iterdir()))}
    assert all(d == before[d.SOPInstanceUID] for d in kept if d.SOPInstanceUID in before)
