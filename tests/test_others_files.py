"""Raw data that other programs wrote and scanners recorded, through `recon run` to the files that others read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Picture

from recon.io.ismrmrd import write
from recon.io.read import read
from recon.io.samples import SomeRows
from tests.command import SMALL, recon, scan_file
from tests.io import mrd_files
from tests.io.mrd_files import digest, generate
from tests.io.validators import dcm2niix, differences, errors

Array = NDArray[np.float64]

#: Options of ismrmrd_generate_cartesian_shepp_logan, and the least correlation of each image with its phantom.
VARIANTS = {
    "1 coil": ("-c 1 -n 0.002", 0.99),
    "4 coils": ("-c 4", 0.97),
    "8 coils": ("-c 8", 0.98),
    "readout not oversampled": ("-c 8 -O 1", 0.98),
    "readout oversampled 4 times": ("-c 8 -O 4", 0.97),
    "noise scan": ("-c 8 -C", 0.98),
    "no noise": ("-c 4 -n 0", 0.99),
    "much noise": ("-c 8 -n 0.1 -C", 0.93),
    "repetitions": ("-c 8 -r 3", 0.98),
    "another group": ("-c 8 -d other", 0.98),
    "k-space coordinates": ("-c 8 -k", 0.98),
    "R = 2 with a noise scan": ("-c 6 -a 2 -w 24 -n 0.02 -C", 0.97),
    "R = 2, 2 repetitions": ("-c 8 -a 2 -w 16 -r 2 -n 0.02", 0.97),
    "R = 2, repetitions that interleave": ("-c 8 -a 2 -n 0.02", 0.97),
    "R = 4": ("-c 8 -a 4 -w 24 -n 0.001 -C", 0.93),
}


def loaded(path: Path) -> Array:
    """Image of a NIfTI file as (repetition, y, x)."""
    data = np.asarray(nibabel.load(path).dataobj, np.float64)
    return data.T.reshape(-1, data.shape[1], data.shape[0])


def likeness(a: Array, b: Array) -> float:
    """Correlation of two pictures."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def altered(x: Array) -> dict[str, Array]:
    """The picture turned, mirrored and shifted by one voxel."""
    out = {"y mirrored": x[::-1], "x mirrored": x[:, ::-1], "turned by 180°": x[::-1, ::-1]}
    if x.shape[0] == x.shape[1]:
        out |= {"transposed": x.T, "turned by 90°": np.rot90(x)}
    return out | {f"rolled {n} along {axis}": np.roll(x, n, axis) for n in (1, -1) for axis in (0, 1)}


def phantom(path: Path, group: str = "dataset") -> Array:
    """The phantom as the coils together see it, as the generator stored both."""
    with h5py.File(path) as file:
        x, maps = (file[group][name][0] for name in ("phantom", "csm"))
    seen = np.sqrt((maps["real"] ** 2 + maps["imag"] ** 2).sum(0))
    return np.asarray(np.hypot(x["real"], x["imag"]) * seen, np.float64)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_reference_generators_phantom_appears_the_right_way_round(name: str, tmp_path: Path) -> None:
    options, least = VARIANTS[name]
    path = generate(tmp_path / "scan.h5", "-m", "64", *options.split())
    before = digest(path)
    end = recon("run", path, "-o", tmp_path / "a.nii.gz", "-o", tmp_path / "a.png")
    assert end.code == 0, end.err
    assert "partial Fourier" not in end.err
    truth = phantom(path, "other" if "-d" in options else "dataset")
    images = loaded(tmp_path / "a.nii.gz")
    if "-O 1" in options:
        # The generator's header asks for the middle half of the readout, whatever its oversampling.
        truth = truth[:, 16:48]
    if "-O 4" in options:
        # … and for twice the phantom's field of view.
        images = images[:, :, 32:96]
    found = [likeness(image, truth) for image in images]
    assert min(found) > least, found
    for what, other in altered(truth).items():
        assert likeness(images[0], other) < found[0] - 0.05, what
    with Picture.open(tmp_path / "a.png") as sheet:
        tile = np.asarray(sheet.convert("L").resize(images.shape[:0:-1], Picture.Resampling.BOX), np.float64)
    shown = np.minimum(images[0], np.percentile(images[0], 99.5))
    if "-O 4" not in options:
        assert likeness(tile, shown) > 0.98
    assert digest(path) == before


def test_acceleration_without_calibration_says_what_to_do(tmp_path: Path) -> None:
    whole = read(generate(tmp_path / "whole.h5", "-m", "64", "-c", "8", "-a", "2"))
    # The generator's repetitions interleave; one alone has nothing to calibrate with.
    first = np.nonzero(whole.lines["repetition"] == 0)[0]
    path = tmp_path / "scan.h5"
    write(path, replace(whole, lines=whole.lines[first].copy(), samples=SomeRows(whole.samples, first)))
    end = recon("run", path, "-o", tmp_path / "a.nii")
    assert end.code == 1
    assert "--method combine" in end.err
    assert recon("run", path, "-o", tmp_path / "a.nii", "--method", "combine").code == 0
    assert loaded(tmp_path / "a.nii").shape == (1, 64, 64)


def test_a_scan_that_the_ismrmrd_package_wrote_gives_the_picture_it_holds(tmp_path: Path) -> None:
    x = np.zeros((24, 32))
    x[5:17, 11:18], x[6, 12] = 1.0, 3.0  # neither axis symmetric, within the middle 16 columns
    axes = (-2, -1)
    k = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, axes), norm="ortho"), axes)[None].astype(np.complex64)
    lines = [mrd_files.line(np.concatenate([k, 0.5j * k]), ky) for ky in range(24)]
    path = mrd_files.save(tmp_path / "scan.h5", lines)
    assert recon("run", path, "-o", tmp_path / "a.nii").code == 0
    image = loaded(tmp_path / "a.nii")[0]
    assert likeness(image, x[:, 8:24]) > 0.999


REAL = {
    "gpunufft_brain_t2_4ch": ("coil,y,x", "0.9,0.9,5"),
    "sigpy_brain_8ch_prospectively_masked": ("coil,y,x", "1,1,5"),
    "larson_brain_sag_t1_1ch": ("y,x", "0.94,0.94,5"),
    "bispmri_ulf055_fisp50": ("slice,y,x", "1.6,1.6,8"),
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_scan_gives_the_picture_that_a_plain_transform_shows(name: str, data_dir: Path, tmp_path: Path) -> None:
    axes, voxel = REAL[name]
    path = data_dir / "public_test" / f"{name}.npz"
    with np.load(path) as archive:
        k = next(archive[n] for n in archive if archive[n].dtype.kind == "c")
    # Coarse maps and a few iterations show which way round it is.
    (tmp_path / "r.toml").write_text('[prepare]\nmaps = "walsh"\n[solve]\niterations = 12')
    options = ("--axes", axes, "--voxel", voxel, "--recipe", tmp_path / "r.toml")
    end = recon("run", path, *options, "-o", tmp_path / "a.nii.gz", "-o", tmp_path / "a.png")
    assert end.code == 0, end.err
    image = nibabel.load(tmp_path / "a.nii.gz")
    slices = k.shape[0] if axes.startswith("slice") else 1
    assert image.shape == (*k.shape[:-3:-1], slices)
    assert np.allclose(image.header.get_zooms(), [float(v) for v in voxel.split(",")])
    sides = (-2, -1)
    x = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, sides)), sides)).astype(np.float64)
    plain = x if slices > 1 else np.sqrt((x.reshape(-1, *x.shape[-2:]) ** 2).sum(0))[None]
    found = np.asarray(image.dataobj, np.float64).T
    assert np.isfinite(found).all()
    assert found.std() > 0.4 * found.mean()  # an object before a background
    masked = "masked" in name
    for mine, theirs in zip(found, plain, strict=True):
        # The aliases of the undersampled scan are incoherent: its zero-filled picture is a blurred, noisy one.
        assert likeness(mine, theirs) > (0.8 if masked else 0.93)
        assert all(likeness(mine, other) < likeness(mine, theirs) - 0.003 for other in altered(theirs).values())


@pytest.mark.parametrize("kind", ["gre", "epi"])
def test_a_siemens_raw_file_becomes_dicom_in_its_place(kind: str, data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "formats" / f"siemens_twix_{kind}_phantom.dat"
    end = recon("run", path, "-o", tmp_path / "a.nii", "-o", f"{tmp_path}/d/")
    assert end.code == 0, end.err
    image = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj, np.float64)[:, :, 0].T
    assert image.std() > 0.3 * image.mean()
    # A disc that fills most of the picture: bright inside, dark in the corners.
    n = image.shape[0] // 8
    corners = np.concatenate([c.ravel() for c in (image[:n, :n], image[:n, -n:])])
    assert corners.mean() < 0.2 * np.median(image)
    converted = dcm2niix(tmp_path / "d", tmp_path / "n")
    (theirs,) = converted.values()
    assert not _place_and_look(theirs, nibabel.load(tmp_path / "a.nii"))
    for dataset in (tmp_path / "d").glob("*.dcm"):
        assert not errors(dataset)


@pytest.mark.parametrize("slices", [1, 4])
def test_dicom_of_a_run_is_valid_and_dcm2niix_makes_our_nifti_of_it(slices: int, tmp_path: Path) -> None:
    turned = np.linalg.qr(np.array([[1.0, 0.25, -0.15], [-0.1, 1.0, 0.3], [0.2, -0.2, 1.0]]))[0].T * [[-1], [-1], [1]]
    settings = replace(
        SMALL, slices=slices, gap=1.5, read_dir=tuple(turned[0]), phase_dir=tuple(turned[1]),
        slice_dir=tuple(turned[2]), position=(5, -12, 20), repetitions=2,
    )  # fmt: skip
    end = recon("run", scan_file(tmp_path / "s.h5", settings), "-o", tmp_path / "a.nii", "-o", f"{tmp_path}/d/")
    assert end.code == 0, end.err
    (theirs,) = dcm2niix(tmp_path / "d", tmp_path / "n").values()
    assert not _place_and_look(theirs, nibabel.load(tmp_path / "a.nii"))
    files = sorted((tmp_path / "d").glob("*.dcm"))
    assert len(files) == 2 * slices
    assert not [e for path in files[:2] for e in errors(path)]
    assert json.loads((tmp_path / "a.json").read_text())["recon"]["provenance"]["method"] == "combine"


def _place_and_look(theirs: nibabel.Nifti1Image, ours: nibabel.Nifti1Image) -> str:
    """How two NIfTI images differ, one of them rounded to 16 bits by DICOM."""
    values = np.asarray(ours.dataobj, np.float64)
    step = values.max() / 30000
    a, b = nibabel.as_closest_canonical(theirs), nibabel.as_closest_canonical(ours)
    x, y = (np.asarray(i.dataobj, np.float64) * s for i, s in ((a, 1.0), (b, 1.0)))
    if x.shape != y.shape:
        return f"shapes {x.shape} and {y.shape}"
    scale = (x * y).sum() / (x * x).sum()  # a power of ten for small values
    if abs(scale - 10 ** round(np.log10(scale))) > 1e-4 * scale or np.abs(x * scale - y).max() > step:
        return f"voxels, by {np.abs(x * scale - y).max() / step:.2f} steps"
    zero = [nibabel.Nifti1Image(np.zeros(x.shape, np.float32), i.affine) for i in (a, b)]
    return differences(*zero)
