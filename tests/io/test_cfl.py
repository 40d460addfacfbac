from __future__ import annotations

import os
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest

from recon.data import DataError
from recon.io.cfl import load, read, write
from tests.command import recon, refused
from tests.io.grid import grid, picture
from tests.tools import need


def noise(*shape: int) -> np.ndarray:
    rng = np.random.default_rng(4)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def raw(base: Path, dims: str, data: np.ndarray) -> Path:
    """A pair written byte by byte, not by the package."""
    base.with_suffix(".hdr").write_text(f"# Dimensions\n{dims}\n# Command\nsomething\n")
    base.with_suffix(".cfl").write_bytes(data.astype("<c8").tobytes("F"))
    return base


def run(folder: Path, *words: str) -> None:
    subprocess.run([need("bart"), *words], cwd=folder, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_the_first_dimension_is_the_readout_and_runs_fastest(tmp_path: Path) -> None:
    k = noise(6, 5, 4, 3)  # x, y, z, coil
    scan = read(raw(tmp_path / "k", "6 5 4 3 1 1 1 1 1 1 1 1 1 1 1 1", k), voxel=(1.0, 2.0, 3.0))
    data, mask = grid(scan)
    assert np.array_equal(data[0], k.transpose(3, 2, 1, 0))
    assert mask.all()
    assert scan.encodings[0].encoded_matrix == (6, 5, 4)
    assert scan.encodings[0].encoded_fov == pytest.approx((6, 10, 12))


def test_time_and_slice_become_repetition_and_slice(tmp_path: Path) -> None:
    k = noise(6, 5, 1, 2, 1, 1, 1, 1, 1, 1, 3, 1, 1, 4)
    scan = read(raw(tmp_path / "k", " ".join(map(str, k.shape)), k))
    assert sorted(set(scan.lines["repetition"].tolist())) == [0, 1, 2]
    assert sorted(set(scan.lines["slice"].tolist())) == [0, 1, 2, 3]
    row = 37
    line = scan.lines[row]
    expected = k[:, line["kspace_encode_step_1"], 0, :, 0, 0, 0, 0, 0, 0, line["repetition"], 0, 0, line["slice"]].T
    assert np.array_equal(scan.samples.read(np.array([row]))[0], expected)


@pytest.mark.parametrize("n", [64, 65])
def test_kspace_of_bart_gives_the_picture_of_bart(tmp_path: Path, n: int) -> None:
    run(tmp_path, "phantom", "-x", str(n), "-s", "3", "image")
    run(tmp_path, "fft", "-u", "3", "image", "kspace")
    scan = read(tmp_path / "kspace.cfl")
    data, _ = grid(scan)
    expected = np.sqrt((np.abs(load(tmp_path / "image")) ** 2).sum(axis=-4))
    assert np.abs(picture(data)[0] - expected.reshape(1, n, n)).max() < 1e-5 * expected.max()


def test_bart_reads_what_is_written(tmp_path: Path) -> None:
    array = noise(2, 3, 4, 5)  # coil, z, y, x
    write(tmp_path / "a.b", array)
    run(tmp_path, "transpose", "0", "3", "a.b", "swapped")
    assert np.array_equal(load(tmp_path / "swapped").reshape(5, 3, 4, 2), array.transpose(3, 1, 2, 0))


def test_poisson_masked_scans_of_bart_keep_their_two_phase_encodings(tmp_path: Path) -> None:
    run(tmp_path, "phantom", "-x", "32", "-s", "2", "-k", "full")
    run(tmp_path, "poisson", "-Y", "32", "-Z", "32", "-y", "2", "-z", "2", "pattern")
    run(tmp_path, "transpose", "0", "1", "full", "a")
    run(tmp_path, "transpose", "0", "2", "a", "turned")
    run(tmp_path, "fmac", "turned", "pattern", "masked")
    scan = read(tmp_path / "masked")
    pattern = load(tmp_path / "pattern").reshape(32, 32)  # z, y
    assert scan.encodings[0].encoded_matrix == (1, 32, 32)
    _, mask = grid(scan)
    assert np.array_equal(mask[0, :, :, 0], pattern != 0)


def test_axes_may_be_named_otherwise(tmp_path: Path) -> None:
    k = noise(6, 5, 4)
    scan = read(raw(tmp_path / "k", "6 5 4 1", k), axes=("y", "x", "slice"))
    assert np.array_equal(grid(scan)[0][:, 0, 0], k.transpose(2, 0, 1))
    with pytest.raises(DataError, match="names too few"):
        read(tmp_path / "k", axes=("y", "x"))


def test_the_file_is_not_loaded_whole(tmp_path: Path) -> None:
    assert isinstance(load(raw(tmp_path / "k", "6 5", noise(6, 5))), np.memmap)


@pytest.mark.parametrize("name", ["k", "k.cfl", "k.hdr"])
def test_either_name_opens_the_pair(tmp_path: Path, name: str) -> None:
    raw(tmp_path / "k", "8 8", noise(8, 8))
    assert len(read(tmp_path / name).lines) == 8


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", "states no dimensions"),
        ("# Dimensions\n", "states no dimensions"),
        ("# Dimensions\neight 8\n", "states no dimensions"),
        ("# Dimensions\n8 0\n", "states no dimensions"),
        ("# Dimensions\n8 -8\n", "states no dimensions"),
        ("# Dimensions\n8 9\n", "which take 576"),
        ("# Dimensions\n8 4\n", "which take 256"),
        ("# Dimensions\n8 1 1 1 8\n", r"dimension 4 \(MAPS\)"),
    ],
)
def test_headers_that_do_not_fit_are_refused_with_the_cure(tmp_path: Path, header: str, said: str) -> None:
    raw(tmp_path / "k", "8 8", noise(8, 8))
    (tmp_path / "k.hdr").write_text(header)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "k")


def test_one_dimension_is_one_line(tmp_path: Path) -> None:
    assert len(read(raw(tmp_path / "k", "64", noise(64))).lines) == 1


def test_a_missing_half_is_named(tmp_path: Path) -> None:
    base = raw(tmp_path / "k", "8 8", noise(8, 8))
    base.with_suffix(".hdr").unlink()
    with pytest.raises(DataError, match=r"no k\.hdr"):
        read(base)
    raw(base, "8 8", noise(8, 8))
    base.with_suffix(".cfl").unlink()
    with pytest.raises(DataError, match=r"no k\.cfl"):
        read(base)


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NaN"):
        read(raw(tmp_path / "k", "8 8", np.full((8, 8), np.nan + 0j)))
    with pytest.raises(DataError, match="only zeros"):
        read(raw(tmp_path / "k", "8 8", np.zeros((8, 8), complex)))


def test_nothing_is_written_for_an_empty_array(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a BART array"):
        write(tmp_path / "k", np.zeros((0, 3)))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def spokes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom that BART sampled along spokes, its trajectory, and what BART's own gridding makes of them."""
    folder = tmp_path_factory.mktemp("spokes")
    run(folder, "traj", "-r", "-x", "128", "-y", "150", "wide")
    run(folder, "scale", "0.5", "wide", "traj")
    run(folder, "phantom", "-t", "traj", "-k", "-s", "4", "lines")
    run(folder, "rss", "1", "traj", "density")
    run(folder, "fmac", "lines", "density", "weighted")
    run(folder, "nufft", "-a", "-d", "64:64:1", "traj", "weighted", "coils")
    run(folder, "rss", "8", "coils", "image")
    return folder


@pytest.mark.parametrize("name", ["traj", "traj.cfl"])
def test_samples_along_a_trajectory_of_bart_give_the_picture_of_bart(name: str, spokes: Path, tmp_path: Path) -> None:
    end = recon("run", spokes / "lines", "--trajectory", spokes / name, "-o", tmp_path / "a.nii", "--method", "sense")
    assert end.code == 0, end.err
    assert "(150, 128, 2) were given by --trajectory, for 150 imaging lines" in end.err
    found = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)[:, :, 0]
    expected = np.abs(load(spokes / "image")).reshape(64, 64).T
    likeness = [np.corrcoef(found.ravel(), other.ravel())[0, 1] for other in (expected, expected.T, expected[::-1])]
    assert likeness[0] > 0.9 > max(likeness[1:]) + 0.1


def test_samples_off_the_grid_without_a_trajectory_are_doubted(spokes: Path) -> None:
    assert any("use --trajectory" in note for note in read(spokes / "lines").notes)
    assert not any("--trajectory" in note for note in read(spokes / "image").notes)


def test_a_trajectory_of_another_shape_or_with_an_imaginary_part_is_refused(spokes: Path, tmp_path: Path) -> None:
    write(tmp_path / "complex", 1j * load(spokes / "traj"))
    for path in (spokes / "lines", tmp_path / "complex"):
        end = recon("run", spokes / "lines", "--trajectory", path, "-o", tmp_path / "a.nii")
        assert "3 × samples × lines of real numbers" in refused(end, code=1)


def test_a_dimension_of_length_one_may_be_named_by_nothing(tmp_path: Path) -> None:
    k = noise(6, 5, 1, 3, 1, 2)
    named = read(raw(tmp_path / "k", "6 5 1 3 1 2", k), axes="x,y,,coil,,repetition")
    assert sorted(set(named.lines["repetition"].tolist())) == [0, 1]
    with pytest.raises(DataError, match="unknown or repeated name"):
        read(tmp_path / "k", axes="x,,z,coil,,repetition")
