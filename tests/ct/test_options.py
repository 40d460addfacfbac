"""Options of the CT commands that make no sense are refused in one sentence, before anything is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon import pipeline
from recon.io import ct_projections
from recon.simulation import ct_scan
from tests import command
from tests.io import ct_pd_files


@pytest.mark.parametrize(("options", "says"), [
    (("--strength", 0.5), "--strength belongs to networks"), (("--denoise", 0.5), "--denoise is for raw MRI scans"),
    (("--removed", "d.nii.gz"), "--removed shows what was removed from CT images"),
])  # fmt: skip
def test_an_option_that_projections_know_nothing_of_is_refused(
    options: tuple[object, ...], says: str, tmp_path: Path
) -> None:
    scan, _ = ct_scan.of_phantom(32, ct_scan.Scan(views=40))
    ct_projections.write(scan, tmp_path / "scan.h5")
    ended = command.recon("run", tmp_path / "scan.h5", "-o", tmp_path / "out.nii.gz", *options)
    assert ended.code == 1
    assert says in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]


@pytest.mark.parametrize("beam", ["curved", "cone", "helix"])
def test_projections_of_several_slices_are_refused_for_one_dicom_file_before_the_work(
    beam: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if beam == "helix":
        ct_pd_files.write(tmp_path / "scan", (), ct_pd_files.Scanner(columns=24, rows=8, views=24), (-20.0, 20.0))
    else:
        scan, _ = ct_scan.of_phantom(16, ct_scan.Scan(beam=beam, views=12), 3)  # type: ignore[arg-type]
        ct_projections.write(scan, tmp_path / "scan")
    monkeypatch.setattr(pipeline, "reconstruct", lambda *_, **__: pytest.fail("the work began"))
    said = command.refused(command.recon("run", tmp_path / "scan", "-o", tmp_path / "one.dcm"), 1)
    assert "one.dcm can hold one slice" in said
    assert "--output one/" in said
    assert [p.name for p in tmp_path.iterdir()] == ["scan"]


@pytest.mark.parametrize(("options", "says"), [
    (("--device", "foo"), "there is no device 'foo'"), (("--weights", "nosuch"), "there are no weights"),
    (("--weights", "mri-small"), "network for MRI scans"),
])  # fmt: skip
def test_a_benchmark_that_cannot_begin_leaves_no_folder(options: tuple[object, ...], says: str, tmp_path: Path) -> None:
    ended = command.recon("bench", "ct", "-o", tmp_path / "out", *options)
    assert ended.code == 1
    assert says in ended.err
    assert not (tmp_path / "out").exists()


def test_more_noise_of_the_electronics_than_photons_can_be_is_refused(tmp_path: Path) -> None:
    ended = command.recon("simulate-ct", "phantom", "-o", tmp_path / "a.h5", "--electronic", "1e30", "--matrix", 32)
    assert (ended.code, list(tmp_path.iterdir())) == (2, [])
    assert "electronic noise cannot be 1e+30 photons; give 0 to 1e12" in ended.err
