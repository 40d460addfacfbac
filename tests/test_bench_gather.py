"""A benchmark over whatever lies in a folder: what can be compared is, the rest is named with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest

from recon.accuracy import results
from recon.accuracy.gather import gather
from recon.data import RawScan
from recon.simulation import preset, simulate_to
from tests.command import recon, refused

QUICK = ("--accel", 2, "--methods", "zero-filled", "--acs", 8)


def kspace(*shape: int) -> np.ndarray:
    """Centred k-space of discs of different sizes, one for each leading index."""
    y, x = (np.arange(n) - n // 2 for n in shape[-2:])
    discs = [np.hypot(y[:, None], x) < 6 + 2 * n for n in range(int(np.prod(shape[:-2])))]
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(np.stack(discs), axes=(1, 2))), axes=(1, 2))
    return k.reshape(shape).astype(np.complex64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as on a site: full scans of several kinds among other files."""
    here = tmp_path_factory.mktemp("scans")
    simulate_to(here / "full.h5", preset(coils=4, matrix=32))
    simulate_to(here / "half.h5", preset(coils=4, matrix=32, accel=2))
    np.save(here / "coils.npy", kspace(3, 32, 32))
    np.savez(here / "slices.npz", b=kspace(2, 32, 32), a=kspace(2, 32, 32), seen=np.ones((2, 32)))
    np.savez(here / "picture.npz", image=np.ones((32, 32), np.int16))
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 3), np.int16), np.eye(4)), here / "magnitude.nii.gz")
    (here / "README.txt").write_text("notes")
    (here / ".hidden").write_text("nothing")
    (here / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (here / "empty.h5").touch()
    return here


def test_a_folder_is_compared_as_far_as_it_can_be_and_the_rest_is_named(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = recon("bench", folder, "--axes", "slices*=slice,y,x", "--axes", "coil,y,x", "-o", out, *QUICK)
    assert done.code == 0, done.err
    records = json.loads((out / results.RECORDS).read_text())
    assert [(r["scan"], r["slices"], r["failed"]) for r in records] == [
        ("coils", 1, ""), ("full", 1, ""), ("slices_a", 2, ""), ("slices_b", 2, ""),
    ]  # fmt: skip
    left = [line for line in done.err.splitlines() if line.startswith("  left out: ")]
    for name, why in (
        ("README.txt", "of an unknown format"), ("empty.h5", "is empty"), ("half", "not fully sampled"),
        ("magnitude.nii.gz", "MR images are not accepted"), ("picture.npz", "real numbers"),
    ):  # fmt: skip
        told = [line for line in left if name in line]
        assert len(told) == 1, done.err
        assert why in told[0]
    assert len(left) == 5
    assert ".hidden" not in done.err


def test_files_that_cannot_be_compared_do_not_keep_the_others_from_it(folder: Path, tmp_path: Path) -> None:
    done = recon("bench", folder / "half.h5", folder / "full.h5", folder / "none.h5", "-o", tmp_path / "out", *QUICK)
    assert done.code == 0, done.err
    assert "half: the scan is not fully sampled" in done.err
    assert "there is no file" in done.err
    assert {r["scan"] for r in json.loads((tmp_path / "out" / results.RECORDS).read_text())} == {"full"}


def test_a_bench_of_nothing_ends_with_1_and_writes_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = refused(recon("bench", folder / "half.h5", folder / "README.txt", "-o", out, *QUICK), 1)
    assert "none of the scans can be compared" in said
    assert "of an unknown format" in refused(recon("bench", folder / "README.txt", "-o", out, *QUICK), 1)
    (tmp_path / "bare").mkdir()
    assert "none of the scans" in refused(recon("bench", tmp_path / "bare", "-o", out, *QUICK), 1)
    assert not out.exists()


def test_a_scan_that_turns_out_to_be_damaged_once_it_is_reconstructed_is_left_out(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "damaged.h5"
    simulate_to(bad, preset(coils=4, matrix=32))
    with h5py.File(bad, "r+") as file:
        row = file["dataset/data"][-5]
        row["data"] = np.full_like(row["data"], np.nan)
        file["dataset/data"][-5] = row
    done = recon("bench", bad, folder / "full.h5", "-o", tmp_path / "out", *QUICK)
    assert done.code == 0, done.err
    assert "left out: damaged" in done.err
    assert {r["scan"] for r in json.loads((tmp_path / "out" / results.RECORDS).read_text())} == {"full"}


def test_axes_are_those_of_the_pattern_that_fits_then_those_of_as_many_axes(folder: Path) -> None:
    axes = ("y,x", "coil,y,x", "sli*=slice,y,x")
    found = gather([folder / "coils.npy", folder / "slices.npz", folder / "full.h5"], axes)
    assert not found.left
    by = {f.name: s for f, s in zip(found.files, found.scans, strict=True)}
    coils = {name: int(s.lines["active_channels"].max()) for name, s in by.items()}
    assert coils == {"coils.npy": 3, "slices_a.npz": 1, "slices_b.npz": 1, "full.h5": 4}
    one = gather([folder / "slices.npz"], axes, key="b")
    assert [f.name for f in one.files] == ["slices.npz"]
    assert isinstance(one.scans[0], RawScan)
