"""What `recon info` says of CT: a line for each subject, in words."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

import recon
from recon.ct import report
from recon.simulation import ct_scan
from tests.io import ct_files, ct_pd_files

#: Where slices lie along the table, in mm.
Z = (0, 2.5, 5, 9)


def lines(scan: object) -> list[str]:
    text = report.text(report.describe(scan))  # type: ignore[arg-type]
    assert "_" not in text, "a key is no word"
    return [line for line in text.splitlines() if not line.startswith("·")]


def test_a_series_of_images_is_described_in_words(tmp_path: Path) -> None:
    def tilted(d: pydicom.Dataset, k: int) -> None:
        d.ImagePositionPatient = ["0", f"{0.2 * Z[k]:g}", f"{Z[k]:g}"]

    ct_files.write(tmp_path / "in", ct_files.body(), change=tilted)
    assert lines(recon.read(tmp_path / "in")) == [
        "format       CT DICOM",
        "images       one series, ACME Ring 64",
        "geometry     axial, 48×40×4 voxels of 0.7×0.8×2.5 mm, thickness 2.5 mm, slices 2.5 to 4 mm apart, each slice "
        "0 and 0.5 mm aside of the last",
    ]


def test_a_volume_without_a_place_says_so(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((8, 6, 4), -1000, np.int16), None), tmp_path / "v.nii")
    said = lines(recon.read(tmp_path / "v.nii"))
    assert said[1] == "images       one series, scanner not stated"
    assert said[2].startswith("geometry     position in the patient unknown, 8×6×4 voxels of 1×1×1 mm")


@pytest.mark.parametrize(("beam", "told"), [
    ("parallel", ["projections  counts, 2 slices of 30 views over 180°", "beam         parallel rays"]),
    ("flat", ["beam         fan, flat detector", "axis         595 mm from the source, 490 mm from the detector"]),
    ("curved", ["beam         fan, curved detector", "image        32×32 pixels of 11.875 mm"]),
    ("cone", ["beam         cone, flat detector", "image        32×32 pixels of 6.875 mm in 32 slices"]),
])  # fmt: skip
def test_projections_are_described_in_words(beam: str, told: list[str]) -> None:
    scan, _ = ct_scan.of_phantom(32, ct_scan.Scan(beam=beam, views=30), 2)  # type: ignore[arg-type]
    said = lines(scan)
    assert [line for line in told if line not in said] == []
    detector = next(line for line in said if line.startswith("detector "))
    assert f"{scan.values.shape[-1]} elements of {scan.spacing:g}" in detector
    if beam == "cone":
        assert f"projections  counts, {len(scan.values)} rows of 30 views over 360°" in said
        assert f"{len(scan.values)} rows of" in detector


def test_a_helix_is_described_with_the_slices_that_it_gives(tmp_path: Path) -> None:
    ct_pd_files.write(tmp_path / "in", (), ct_pd_files.Scanner(columns=24, rows=8, views=24), (-20.0, 20.0))
    said = lines(recon.read(tmp_path / "in"))
    assert "beam         helical, curved detector" in said
    assert "axis         595 mm from the source, 490.6 mm from the detector" in said
    assert any(line.startswith("image        ") and "slices, " in line for line in said)
    assert any(line.startswith("projections  ") and " turns of 24, table -20 to " in line for line in said)
