"""What is counted once is said in the singular."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import recon
from recon import info, simulation
from recon.errors import counted
from recon.serve import audit
from recon.simulation import preset

#: A one before a word that ends as a plural does: "1 slices".
SLIP = r"(?<![\d.,×])1 (?:[a-z-]+ )?(?!series)[a-z]+[^s\W]s\b(?! of)"


@pytest.mark.parametrize(("n", "said"), [(0, "0 slices"), (1, "1 slice"), (2, "2 slices")])
def test_a_number_selects_singular_or_plural(n: int, said: str) -> None:
    assert counted(n, "slice") == said


def test_a_plural_may_be_given() -> None:
    assert [counted(n, "copy is", "copies are") for n in (1, 2)] == ["1 copy is", "2 copies are"]


def test_a_scan_of_one_of_everything_is_described_in_the_singular(tmp_path: Path) -> None:
    """One channel, one slice, one image: what the report, a prompt, notes and errors say."""
    path = tmp_path / "scan.h5"
    simulation.simulate_to(path, preset(matrix=32, coils=1, accel=2))
    scan = recon.read(path)
    image = recon.reconstruct(scan, recon.Recipe())
    recon.write(image, [tmp_path / "series"])
    with pytest.raises(recon.ReconError) as full:
        recon.write(image, [tmp_path / "series"])
    with pytest.raises(recon.ReconError) as beyond:
        recon.reconstruct(scan, stack=1)
    said = [info.text(info.describe(scan)), repr(scan), repr(image), *image.notes, str(full.value), str(beyond.value)]
    assert "1 slice," in said[0]
    assert [s for s in said if re.search(SLIP, s)] == []


@pytest.mark.parametrize(("images", "said"), [(1, "done (1 image, 1 line)"), (2, "done (2 images, 1 line)")])
def test_the_server_counts_what_a_session_gave(images: int, said: str) -> None:
    assert audit.outcome({"state": "done", "images": [{}] * images, "lines": 1}) == said


def test_the_pattern_of_a_slip_finds_one() -> None:
    for text in ("axial, 1 slices", "holds 1 files already", "1 imaging lines", "from 1 channels"):
        assert re.search(SLIP, text), text
    for text in ("21 slices", "1 slice", "0.1 volts", "256×1 voxels", "1 series", "1 of 4 coils"):
        assert not re.search(SLIP, text), text
