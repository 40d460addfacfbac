"""Scans on the command line: stacks, axes of arrays, trajectories."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from recon.io import ismrmrd
from recon.simulation import simulate
from tests.command import SMALL, localiser, recon, refused


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


# Stacks


@pytest.fixture(scope="module")
def three_planes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return localiser(tmp_path_factory.mktemp("localiser") / "scan.h5")


def test_each_stack_of_a_localiser_has_separate_files(three_planes: Path, tmp_path: Path) -> None:
    end = recon("run", three_planes, "-o", f"{tmp_path}/all.d/", "-o", f"{tmp_path}/a.b.nii.gz")
    assert end.code == 0, end.err
    for n in (1, 2, 3):
        assert (tmp_path / f"a.b_stack-{n}.nii.gz").is_file()
    series = [pydicom.dcmread(tmp_path / f"all.d_stack-{n}" / "IM0001.dcm") for n in (1, 2, 3)]
    normals = [np.abs(np.cross(*np.reshape(d.ImageOrientationPatient, (2, 3)))).argmax() for d in series]
    assert normals == [2, 0, 1]
    assert len({d.SeriesInstanceUID for d in series}) == 3
    assert [d.SeriesNumber for d in series] == [1, 2, 3]
    assert len({d.StudyInstanceUID for d in series}) == 1
    assert len({d.FrameOfReferenceUID for d in series}) == 1


def test_one_stack_can_be_chosen_and_keeps_its_picture_and_series(three_planes: Path, tmp_path: Path) -> None:
    assert recon("run", three_planes, "-o", tmp_path / "a.nii").code == 0
    assert recon("run", three_planes, "-o", tmp_path / "b.nii", "-o", tmp_path / "b.dcm", "--stack", "2").code == 0
    assert np.array_equal(voxels(tmp_path / "a_stack-2.nii"), voxels(tmp_path / "b.nii"))
    assert pydicom.dcmread(tmp_path / "b.dcm").SeriesNumber == 2


def test_outputs_of_all_stacks_are_checked_before_the_first_is_made(three_planes: Path, tmp_path: Path) -> None:
    (tmp_path / "d_stack-3").mkdir()
    (tmp_path / "d_stack-3" / "old.dcm").write_text("old")
    sentence = refused(recon("run", three_planes, "-o", tmp_path / "d"), code=1)
    assert "d_stack-3 holds 1 file already" in sentence
    assert [p.name for p in tmp_path.iterdir()] == ["d_stack-3"]


def test_stacks_without_a_study_of_their_own_share_a_new_one(three_planes: Path, tmp_path: Path) -> None:
    raw = ismrmrd.read(three_planes)
    bare = replace(raw, header=replace(raw.header, study=replace(raw.header.study, uid="", frame_of_reference_uid="")))
    other = replace(bare, header=replace(bare.header, patient=replace(bare.header.patient, id="another")))
    for name, raw in (("bare", bare), ("other", other)):
        ismrmrd.write(tmp_path / f"{name}.h5", raw)
        assert recon("run", tmp_path / f"{name}.h5", "-o", tmp_path / name).code == 0
    found = {
        name: [pydicom.dcmread(tmp_path / f"{name}_stack-{n}" / "IM0001.dcm") for n in (1, 2, 3)]
        for name in ("bare", "other")
    }
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        shared = [{d[keyword].value for d in series} for series in found.values()]
        assert [len(s) for s in shared] == [1, 1]
        assert shared[0] != shared[1], keyword


# Options that reach the readers


def test_axes_voxel_and_key_reach_the_readers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    k = (rng.standard_normal((2, 20, 24)) + 1j * rng.standard_normal((2, 20, 24))).astype(np.complex64)
    np.savez(tmp_path / "k.npz", first=k, second=2 * k)
    options = ("--axes", "slice, y, x", "--voxel", "1,2,3.5", "--key", "second")
    assert recon("run", tmp_path / "k.npz", *options, "-o", tmp_path / "a.nii").code == 0
    image = nibabel.load(tmp_path / "a.nii")
    assert image.shape == (24, 20, 2)
    assert np.allclose(image.header.get_zooms(), (1, 2, 3.5))
    assert "24×20×2 voxels of 1×2×3.5 mm" in recon("info", tmp_path / "k.npz", *options).out
    for wrong in (("--axes", "coil,q,x"), ("--axes", "y,x"), ()):
        refused(recon("run", tmp_path / "k.npz", *wrong, "--key", "first", "-o", tmp_path / "b.png"), code=1)
    refused(recon("run", tmp_path / "k.npz", "--axes", "slice,y,x", "-o", tmp_path / "b.png"), code=1)
    assert "choose with --key" in recon("run", tmp_path / "k.npz", "-o", tmp_path / "b.png").err


# Trajectories


@pytest.fixture(scope="module")
def radial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A radial scan with its k-space positions, `bare.h5` without them, and the positions in `k.npy`."""
    folder = tmp_path_factory.mktemp("radial")
    raw = simulate(replace(SMALL, trajectory="radial", slices=2, gap=1.0))
    ismrmrd.write(folder / "stored.h5", raw)
    imaging = np.nonzero(raw.lines["trajectory_dimensions"] > 0)[0]
    first = imaging[raw.lines["slice"][imaging] == 0]
    np.save(folder / "k.npy", raw.samples.trajectory(first))
    lines = raw.lines.copy()
    lines["trajectory_dimensions"] = 0
    ismrmrd.write(folder / "bare.h5", replace(raw, lines=lines))
    return folder


def made(folder: Path, scan: str, *options: object) -> np.ndarray:
    end = recon("run", folder / scan, "-o", folder / "x.nii", *options)
    assert end.code == 0, end.err
    return voxels(folder / "x.nii")


def test_positions_in_a_file_of_their_own_give_the_picture_of_stored_ones(radial: Path) -> None:
    assert np.array_equal(
        made(radial, "bare.h5", "--trajectory", radial / "k.npy"), made(radial, "stored.h5")
    )  # of one slice for both


def test_a_standard_trajectory_gives_the_picture_of_stored_positions(radial: Path) -> None:
    x, y = made(radial, "bare.h5", "--trajectory", "radial"), made(radial, "stored.h5")
    assert np.linalg.norm(x - y) < 0.02 * np.linalg.norm(y)
    z = made(radial, "bare.h5", "--trajectory", "golden")
    assert np.linalg.norm(z - y) > 0.2 * np.linalg.norm(y)


def test_a_scan_without_positions_names_the_cures(radial: Path, tmp_path: Path) -> None:
    sentence = refused(recon("run", radial / "bare.h5", "-o", tmp_path / "a.png"), code=1)
    assert "--trajectory positions.npy" in sentence
    assert "--trajectory golden" in sentence


@pytest.mark.parametrize("layout", ["file", "radial", "fractions"])
def test_an_array_of_spokes_gives_the_picture_of_its_scan(layout: str, radial: Path, tmp_path: Path) -> None:
    raw = ismrmrd.read(radial / "stored.h5")
    rows = np.nonzero((raw.lines["trajectory_dimensions"] > 0) & (raw.lines["slice"] == 0))[0]
    np.save(tmp_path / "k.npy", raw.samples.read(rows).transpose(1, 0, 2))
    k = np.load(radial / "k.npy")
    n = k.shape[1]
    unit = k * (0.5 / np.abs(k).max())
    np.save(tmp_path / "t.npy", unit if layout == "fractions" else unit * n)
    x = made(
        tmp_path, "k.npy", "--axes", "coil,y,x", "--voxel", "2.5,2.5,5",
        "--trajectory", "radial" if layout == "radial" else tmp_path / "t.npy",
    )  # fmt: skip
    assert x.shape == (n, n, 1)  # the whole oversampled field of view
    y = made(radial, "stored.h5")[:, :, :1]
    x = x[n // 4 : n - n // 4, n // 4 : n - n // 4]
    assert x.shape == y.shape
    assert np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.99


SHAPES = {
    "transposed": ((2, 96, 76), "transpose the array"),
    "two axes": ((76, 2), "expected is"),
    "one line too many": ((77, 96, 2), "expected is"),
    "one sample short": ((76, 95, 2), "expected is"),
    "four dimensions": ((76, 96, 4), "2 or 3"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_positions_of_another_shape_are_refused_with_both_shapes(case: str, radial: Path, tmp_path: Path) -> None:
    shape, hint = SHAPES[case]
    np.save(tmp_path / "k.npy", np.ones(shape, np.float32))
    sentence = refused(
        recon("run", radial / "bare.h5", "-o", tmp_path / "a.png", "--trajectory", tmp_path / "k.npy"), code=1
    )
    assert str(shape) in sentence
    assert "2 or 3)" in sentence
    assert hint in sentence


BAD = {
    "NaN": np.full((76, 96, 2), np.nan),
    "zeros": np.zeros((76, 96, 2)),
    "complex": np.ones((76, 96, 2), complex),
    "objects": np.array([{}], object),
    "text": np.array(["Secret"]),
}


@pytest.mark.parametrize("case", [*BAD, "no array", "npz", "npz cut short"])
def test_positions_that_are_no_numbers_are_refused(case: str, radial: Path, tmp_path: Path) -> None:
    path = tmp_path / "k.npy"
    if case in BAD:
        np.save(path, BAD[case], allow_pickle=True)
    elif case.startswith("npz"):
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(3))
            file.truncate(file.tell() - 30 * (case == "npz cut short"))
    else:
        path.write_text("no array")
    refused(recon("run", radial / "bare.h5", "-o", tmp_path / "a.png", "--trajectory", path), code=1)


def test_positions_cannot_be_overwritten_by_an_output(radial: Path, tmp_path: Path) -> None:
    path = tmp_path / "k.nii"
    path.write_bytes((radial / "k.npy").read_bytes())
    assert "would overwrite" in refused(recon("run", radial / "bare.h5", "-o", path, "--trajectory", path))
