"""Images on their way to Debian's Orthanc, and what arrives there."""

from __future__ import annotations

from pathlib import Path

import pydicom

from tests.io import validators
from tests.pacs.conftest import Post
from tests.pacs.peers import Orthanc


def test_images_are_stored_and_committed(to_orthanc: Post, orthanc: Orthanc, brain: Path, tmp_path: Path) -> None:
    uids = to_orthanc.put(brain)
    orthanc.network.call(to_orthanc.once)
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
