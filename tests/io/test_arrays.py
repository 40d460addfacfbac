from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.data import DataError, Header, Image, RawScan
from recon.geometry import Geometry, affine_lps
from recon.io.arrays import plane, read, scan_from_array
from recon.prepare.oddities import oddities
from tests.io.grid import grid, picture


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def saved(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "scan.npy", array)
    return folder / "scan.npy"


def test_every_sample_comes_to_its_place(tmp_path: Path) -> None:
    k = noise(3, 2, 5, 6)  # slice, coil, y, x
    scan = read(saved(tmp_path, k), axes=("slice", "coil", "y", "x"), voxel=(1.5, 2.0, 4.0))
    data, mask = grid(scan)
    assert np.array_equal(data, k[:, :, None])
    assert mask.all()
    assert scan.encodings[0].encoded_matrix == scan.encodings[0].recon_matrix == (6, 5, 1)
    assert scan.encodings[0].encoded_fov == pytest.approx((9.0, 10.0, 4.0))
    assert not scan.lines["read_dir"].any()


def test_axes_may_come_in_any_order(tmp_path: Path) -> None:
    k = noise(6, 2, 5, 3, 4)
    data, _ = grid(read(saved(tmp_path, k), axes="x, coil,y,slice,z"))
    assert np.array_equal(data, k.transpose(3, 1, 4, 2, 0))


def test_frames_become_counters(tmp_path: Path) -> None:
    k = noise(2, 3, 2, 4, 8)
    scan = read(saved(tmp_path, k), axes=("repetition", "contrast", "coil", "y", "x"))
    assert len(scan.lines) == 2 * 3 * 4
    for row in (0, 7, 23):
        line = scan.lines[row]
        expected = k[line["repetition"], line["contrast"], :, line["kspace_encode_step_1"]]
        assert np.array_equal(scan.samples.read(np.array([row]))[0], expected)


def test_rows_of_zeros_were_not_measured(tmp_path: Path) -> None:
    k = noise(2, 8, 6)
    k[:, 1::2] = 0
    scan = read(saved(tmp_path, k), axes=("coil", "y", "x"))
    assert scan.lines["kspace_encode_step_1"].tolist() == [0, 2, 4, 6]
    assert scan.encodings[0].encoded_matrix == (6, 8, 1)


def test_a_row_that_one_coil_measured_is_kept(tmp_path: Path) -> None:
    k = noise(2, 8, 6)
    k[0, 3] = 0
    assert len(read(saved(tmp_path, k), axes=("coil", "y", "x")).lines) == 8


def test_empty_columns_at_the_ends_are_discarded_samples(tmp_path: Path) -> None:
    k = noise(2, 8, 20)
    k[..., :3] = 0
    k[..., 15:] = 0
    scan = read(saved(tmp_path, k), axes=("coil", "y", "x"))
    assert set(scan.lines["discard_pre"].tolist()) == {3}
    assert set(scan.lines["discard_post"].tolist()) == {5}
    data, mask = grid(scan)
    assert np.array_equal(data[0, :, 0], k)
    assert np.array_equal(mask[0, 0], k[0] != 0)


def test_a_stray_zero_is_a_measured_sample(tmp_path: Path) -> None:
    k = noise(32, 32)
    k[5, 7] = 0
    scan = read(saved(tmp_path, k))
    assert scan.encodings[0].encoded_matrix == (32, 32, 1)
    assert any("exactly zero" in n for n in scan.notes)


def image_of(scan: RawScan) -> Image:
    """The zero-filled picture as the pipeline hands it on: volume, unknown geometry."""
    data, _ = grid(scan)
    x = picture(data, (-3, -2, -1))[0]
    e = scan.encodings[0]
    voxel = tuple(f / n for f, n in zip(e.recon_fov, e.recon_matrix))
    g = Geometry((1.0, 2.0, 3.0), (1, 0, 0), (0, 1, 0), (0, 0, 1), voxel, x.shape, voxel[2], known=False)  # type: ignore[arg-type]
    return Image(x, g, header=Header())


def test_a_mask_over_both_axes_gives_two_phase_encodings_and_the_picture_of_the_array(tmp_path: Path) -> None:
    k = noise(2, 7, 10)
    k *= np.random.default_rng(2).random((7, 10)) < 0.4
    scan = read(saved(tmp_path, k), axes=("coil", "y", "x"), voxel=(1.0, 2.0, 5.0))
    assert scan.encodings[0].encoded_matrix == (1, 10, 7)
    assert scan.encodings[0].encoded_fov == pytest.approx((5.0, 10.0, 14.0))
    assert len(scan.lines) == (k[0] != 0).sum()
    assert set(scan.lines["number_of_samples"].tolist()) == {1}
    shown = plane(image_of(scan))
    assert shown.data.shape == (1, 7, 10)
    assert np.allclose(shown.data[0], picture(k[None, :, None])[0, 0], atol=1e-5)
    assert shown.geometry.shape == (1, 7, 10)
    assert shown.geometry.voxel == pytest.approx((1.0, 2.0, 5.0))
    assert shown.geometry.read_dir == (1, 0, 0)
    assert shown.geometry.position == (2.0, 3.0, 1.0)
    assert shown.geometry.thickness == pytest.approx(5.0)
    assert any("phase encoded" in n for n in scan.notes)


def test_turning_the_plane_leaves_every_voxel_where_it_is_in_the_patient() -> None:
    # An oblique right-handed frame: rotation about (1, 1, 0) and z.
    a, b = 0.3, 0.7
    rz = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    rx = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    r, c, s = (tuple(v) for v in (rz @ rx).T)
    data = noise(4, 6, 1)
    before = Image(data, Geometry((5.0, -3.0, 2.0), r, c, s, (4.0, 1.0, 2.0), (4, 6, 1), 2.0))  # type: ignore[arg-type]
    after = plane(before)
    for k, j in ((0, 0), (3, 5), (2, 1)):
        assert after.data[0, k, j] == before.data[k, j, 0]
        there = affine_lps(before.geometry) @ (0, j, k, 1)
        assert affine_lps(after.geometry) @ (j, k, 0, 1) == pytest.approx(there)
    assert plane(after) is after


def test_a_prospectively_masked_scan_reads_as_it_was_acquired(data_dir: Path) -> None:
    path = data_dir / "public_test" / "sigpy_brain_8ch_prospectively_masked.npz"
    scan = read(path, axes=("coil", "y", "x"))
    k = np.load(path)["kspace"]
    assert scan.encodings[0].encoded_matrix == (1, 180, 230)
    assert len(scan.lines) == (k != 0).any(axis=0).sum()
    assert np.allclose(plane(image_of(scan)).data[0], picture(k[None, :, None])[0, 0], rtol=1e-3, atol=1e-4)


def test_two_axes_need_no_names(data_dir: Path) -> None:
    scan = read(data_dir / "public_test" / "larson_brain_sag_t1_1ch.npz")
    data, mask = grid(scan)
    assert data.shape == (1, 1, 1, 256, 256)
    assert mask.all()
    assert any("y, x" in n for n in scan.notes)


def test_three_axes_are_never_guessed(data_dir: Path) -> None:
    for name in ("gpunufft_brain_t2_4ch.npz", "bispmri_ulf055_fisp50.npz"):
        with pytest.raises(DataError, match="--axes coil,y,x"):
            read(data_dir / "public_test" / name)


def test_several_arrays_need_a_key(data_dir: Path) -> None:
    path = data_dir / "public_test" / "bispmri_ulf055_patient5.npz"
    with pytest.raises(DataError, match=r"FLAIR, FSE, GRE; choose with --key"):
        read(path, axes=("slice", "y", "x"))
    with pytest.raises(DataError, match="no array 'T2'"):
        read(path, axes=("slice", "y", "x"), key="T2")
    scan = read(path, axes=("slice", "y", "x"), key="FSE")
    assert scan.encodings[0].encoded_matrix == (126, 128, 1)
    assert int(scan.lines["slice"].max()) == 3


def test_one_complex_array_beside_others_is_chosen(tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", mask=np.ones(8), k=noise(8, 8))
    assert len(read(tmp_path / "s.npz").lines) == 8


@pytest.mark.parametrize(
    ("array", "axes", "said"),
    [
        (np.ones((8, 8), np.float32), None, "real numbers"),
        (np.ones((8, 8), np.int16), None, "real numbers"),
        (np.zeros((8, 8), np.complex64), None, "only zeros"),
        (np.zeros((0, 8), np.complex64), None, "empty"),
        (np.full((8, 8), np.nan + 0j), None, "NaN"),
        (np.full((8, 8), np.inf + 0j), None, "NaN or infinite"),
        (noise(8), ("x",), "at least two"),
        (noise(8, 8), ("y", "y"), "repeated"),
        (noise(8, 8), ("row", "x"), "unknown"),
        (noise(8, 8), ("coil", "y", "x"), "names 3"),
        (noise(2, 2, 8, 8), None, "name them"),
        (np.array([[{}]], object), None, "Python objects"),
        (noise(4, 8, 8) * (noise(8, 8).real > 0), ("z", "y", "x"), "name the fully sampled axis x"),
        (noise(4, 8, 8) * (noise(8, 8).real > 0), ("slice", "y", "x"), "each slice by itself"),
    ],
)
def test_arrays_that_are_no_kspace_are_refused_with_the_cure(
    tmp_path: Path, array: np.ndarray, axes: tuple[str, ...] | None, said: str
) -> None:
    np.save(tmp_path / "scan.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "scan.npy", axes=axes)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"hello", b"PK\x03\x04broken"])
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_broken_files_are_refused_with_the_cure(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as a NumPy array"):
        read(path)


@pytest.mark.parametrize("writer", [np.save, np.savez])
def test_a_file_cut_short_is_refused(tmp_path: Path, writer: object) -> None:
    path = tmp_path / ("scan.npy" if writer is np.save else "scan.npz")
    writer(path, noise(32, 32))  # type: ignore[operator]
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match="truncated"):
        read(path)


def _changed(raw: bytearray) -> None:
    middle = len(raw) // 2
    raw[middle : middle + 64] = bytes(b ^ 0xFF for b in raw[middle : middle + 64])


def _locked(raw: bytearray) -> None:
    for at in (6, raw.find(b"PK\x01\x02") + 8):
        raw[at] |= 1


def _packed_in_its_own_way(raw: bytearray) -> None:
    for at in (8, raw.find(b"PK\x01\x02") + 10):
        raw[at] = 99


@pytest.mark.parametrize("damage", [_changed, _locked, _packed_in_its_own_way])
def test_an_archive_that_does_not_unpack_is_refused_with_the_cure(
    tmp_path: Path, damage: Callable[[bytearray], None]
) -> None:
    np.savez_compressed(tmp_path / "scan.npz", k=noise(32, 32))
    raw = bytearray((tmp_path / "scan.npz").read_bytes())
    damage(raw)
    (tmp_path / "scan.npz").write_bytes(raw)
    with pytest.raises(DataError, match=r"cannot be read as a NumPy array .*damaged, locked"):
        read(tmp_path / "scan.npz")


def test_of_an_archive_no_other_array_is_read_than_the_one_that_is_chosen(tmp_path: Path) -> None:
    k = noise(8, 8)
    np.savez(tmp_path / "scan.npz", image=np.full((64, 64), 7.0), k=k)
    raw = (tmp_path / "scan.npz").read_bytes()
    (tmp_path / "scan.npz").write_bytes(raw.replace(np.full(64, 7.0).tobytes(), np.full(64, 8.0).tobytes()))
    assert np.array_equal(grid(read(tmp_path / "scan.npz"))[0][0, 0, 0], k)
    with pytest.raises(DataError, match="cannot be read as a NumPy array"):
        read(tmp_path / "scan.npz", key="image")


def test_a_real_array_requested_by_name_is_refused_as_real(tmp_path: Path) -> None:
    np.savez(tmp_path / "scan.npz", a=noise(8, 8), b=np.ones((8, 8)))
    with pytest.raises(DataError, match="holds real numbers"):
        read(tmp_path / "scan.npz", key="b")


def test_a_voxel_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--voxel"):
        read(saved(tmp_path, noise(4, 4)), voxel=(1.0, 0.0, 1.0))
    with pytest.raises(DataError, match="no file"):
        read(tmp_path / "absent.npy")


@pytest.mark.parametrize("mask", ["every third line", "lines from the sixth on", "points", "slices"])
def test_an_array_has_no_header_that_could_say_otherwise(mask: str) -> None:
    k = np.random.default_rng(0).standard_normal((2, 40, 32)).astype(np.complex64)
    if mask == "slices":
        scan = scan_from_array(k, "slice,y,x")
        assert not any("encoding[0]" in note for note in oddities(scan))
        return
    if mask == "every third line":
        k[:, np.arange(40) % 3 > 0] = 0
    elif mask == "points":
        k[:, np.random.default_rng(1).random((40, 32)) > 0.2] = 0
        k[:, :2], k[..., :2] = 0, 0
    else:
        k[:, :5] = 0
    scan = scan_from_array(k, "coil,y,x")
    assert not any("encoding[0]" in note for note in oddities(scan))
    assert any("encoding[0]" in note for note in oddities(replace(scan, source="ismrmrd")))
