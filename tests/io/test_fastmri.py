from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from recon.data import DataError
from recon.io.fastmri import read
from recon.prepare.oddities import oddities
from tests.io.grid import grid, picture

HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <acquisitionSystemInformation><systemVendor>SIEMENS</systemVendor>
    <systemFieldStrength_T>2.89</systemFieldStrength_T></acquisitionSystemInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>123200000</H1resonanceFrequency_Hz></experimentalConditions>
  <encoding>
    <encodedSpace><matrixSize><x>40</x><y>{ny}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>400</x><y>{fov}</y><z>4.5</z></fieldOfView_mm></encodedSpace>
    <reconSpace><matrixSize><x>20</x><y>20</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>200</x><y>200</y><z>4.5</z></fieldOfView_mm></reconSpace>
    <encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>{last}</maximum><center>{centre}</center>
    </kspace_encoding_step_1></encodingLimits>
    <trajectory>cartesian</trajectory>
  </encoding>
</ismrmrdHeader>"""


def kspace(slices: int = 3, coils: int | None = 2, rows: int = 40, columns: int = 24) -> np.ndarray:
    rng = np.random.default_rng(5)
    shape = (slices, rows, columns) if coils is None else (slices, coils, rows, columns)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def file(folder: Path, k: np.ndarray, *, header: str | None = "", mask: object = None, **more: object) -> Path:
    """A file laid out as the published ones: datasets and attributes at the root."""
    path = folder / "file1000000.h5"
    with h5py.File(path, "w") as f:
        f["kspace"] = k
        if header is not None:
            f["ismrmrd_header"] = header or HEADER.format(ny=24, fov=240, last=23, centre=12)
        if mask is not None:
            f["mask"] = mask
        f.attrs["patient_id"] = "secret-0815"
        f.attrs["acquisition"] = "AXT2"
        f.attrs["max"] = 0.0004
        for name, value in more.items():
            f[name] = value
    return path


def test_rows_are_the_readout_and_columns_the_phase_encoding(tmp_path: Path) -> None:
    k = kspace()
    scan = read(file(tmp_path, k))
    data, mask = grid(scan)
    assert data.shape == (3, 2, 1, 24, 40)
    assert np.array_equal(data[:, :, 0], k.swapaxes(-1, -2))
    assert mask.all()


def test_the_picture_is_the_transpose_of_the_published_reconstruction(tmp_path: Path) -> None:
    # The published target: centred unitary inverse FFT of both axes, root sum of squares, middle of the rows.
    k = kspace()
    x = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    target = np.sqrt((np.abs(x) ** 2).sum(1))[:, 10:30, 2:22]
    data, _ = grid(read(file(tmp_path, k, reconstruction_rss=target)))
    assert np.allclose(picture(data)[:, 0, 2:22, 10:30], target.swapaxes(-1, -2), atol=1e-5)


def test_one_emulated_coil_has_no_coil_axis(tmp_path: Path) -> None:
    k = kspace(coils=None)
    data, _ = grid(read(file(tmp_path, k)))
    assert np.array_equal(data[:, 0, 0], k.swapaxes(-1, -2))


def test_matrices_and_fields_of_view_come_from_the_header(tmp_path: Path) -> None:
    scan = read(file(tmp_path, kspace()))
    e = scan.encodings[0]
    assert e.encoded_matrix == (40, 24, 1)
    assert e.encoded_fov == pytest.approx((400, 240, 4.5))
    assert e.recon_matrix == (20, 20, 1)
    assert e.recon_fov == pytest.approx((200, 200, 4.5))
    assert scan.header.system.field_T == pytest.approx(2.89)
    assert scan.header.user["acquisition"] == "AXT2"
    assert scan.header.user["max"] == pytest.approx(0.0004)


def test_another_width_than_the_headers_keeps_the_voxel(tmp_path: Path) -> None:
    e = read(file(tmp_path, kspace(columns=30))).encodings[0]
    assert e.encoded_matrix == (40, 30, 1)
    assert e.encoded_fov[1] == pytest.approx(300)


def test_stored_columns_alone_are_placed_by_the_headers_centre(tmp_path: Path) -> None:
    # 24 of 32 columns stored, zero frequency at column 8: it must come to row 16 of the grid.
    k = kspace()
    scan = read(file(tmp_path, k, header=HEADER.format(ny=32, fov=320, last=23, centre=8)))
    data, mask = grid(scan)
    assert scan.encodings[0].encoded_matrix == (40, 32, 1)
    assert np.array_equal(data[:, :, 0, 8:], k.swapaxes(-1, -2))
    assert not mask[:, :, :8].any()


def test_masked_columns_were_not_measured(tmp_path: Path) -> None:
    k, mask = kspace(), np.zeros(24)
    mask[[0, 3, 11, 12, 13]] = 1
    scan = read(file(tmp_path, k * mask.astype(np.complex64), mask=mask))
    assert sorted(set(scan.lines["kspace_encode_step_1"].tolist())) == [0, 3, 11, 12, 13]
    assert len(scan.lines) == 15


def test_empty_columns_were_not_measured_whatever_the_mask_says(tmp_path: Path) -> None:
    k = kspace()
    k[..., 20:] = 0
    assert int(read(file(tmp_path, k, mask=np.ones(24, bool))).lines["kspace_encode_step_1"].max()) == 19
    k[1, ..., 0] = 0
    lines = read(file(tmp_path, k)).lines
    assert [int((lines["slice"] == s).sum()) for s in range(3)] == [20, 19, 20]


def test_a_column_that_one_coil_measured_is_kept(tmp_path: Path) -> None:
    k = kspace()
    k[:, 0, :, 5] = 0
    assert len(read(file(tmp_path, k)).lines) == 3 * 24


def test_samples_come_in_the_order_asked_for(tmp_path: Path) -> None:
    k = kspace()
    scan = read(file(tmp_path, k))
    rows = np.array([50, 3, 70, 0])
    got = scan.samples.read(rows)
    for line, data in zip(scan.lines[rows], got):
        assert np.array_equal(data, k[line["slice"], :, :, line["kspace_encode_step_1"]])


def test_reading_does_not_touch_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, kspace(rows=400))
    taken: list[int] = []
    plain = h5py.Dataset.__getitem__

    def counting(self: h5py.Dataset, *args: object, **kwargs: object) -> object:
        out = plain(self, *args, **kwargs)
        taken.append(getattr(out, "size", 0))
        return out

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    scan = read(path)
    assert sum(taken) < 0.02 * 3 * 2 * 400 * 24
    taken.clear()
    scan.samples.read(np.array([0, 1, 2]))
    assert sum(taken) == 2 * 400 * 24


def test_patient_data_stay_out_of_what_is_printed(tmp_path: Path) -> None:
    scan = read(file(tmp_path, kspace()))
    assert scan.header.patient.id == "secret-0815"
    assert "secret" not in repr(scan) + " ".join(scan.notes)


def test_a_file_without_header_needs_a_voxel(tmp_path: Path) -> None:
    path = file(tmp_path, kspace(), header=None, reconstruction_rss=np.zeros((3, 20, 20), np.float32))
    assert any("--voxel" in n for n in read(path).notes)
    e = read(path, voxel=(2.0, 3.0, 5.0)).encodings[0]
    assert e.encoded_fov == pytest.approx((80, 72, 5))
    assert e.recon_matrix == (20, 20, 1)
    assert e.recon_fov == pytest.approx((40, 60, 5))


@pytest.mark.parametrize("header", ["", None])
def test_slices_that_the_file_holds_are_not_missing_in_its_header(header: str | None, tmp_path: Path) -> None:
    assert not any("slice" in note for note in oddities(read(file(tmp_path, kspace(), header=header))))


@pytest.mark.parametrize(
    ("k", "mask", "said"),
    [
        (np.ones((3, 2, 8, 8), np.float32), None, "float32"),
        (np.ones((8, 8), np.complex64), None, "expected complex"),
        (np.ones((0, 2, 8, 8), np.complex64), None, "expected complex"),
        (np.zeros((3, 2, 8, 8), np.complex64), None, "no measured column"),
        (np.ones((3, 2, 8, 8), np.complex64), np.zeros(8), "no measured column"),
        (np.ones((3, 2, 8, 8), np.complex64), np.ones(9), "each of the 8 columns"),
    ],
)
def test_files_of_another_kind_are_refused_with_the_cure(
    tmp_path: Path, k: np.ndarray, mask: np.ndarray | None, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        read(file(tmp_path, k, mask=mask))


def test_samples_that_are_no_numbers_are_refused_when_read(tmp_path: Path) -> None:
    k = kspace()
    k[1, 0, 3, 4] = np.nan
    scan = read(file(tmp_path, k))
    with pytest.raises(DataError, match="NaN"):
        scan.samples.read(np.arange(len(scan.lines)))


def test_broken_files_are_refused_with_the_cure(tmp_path: Path) -> None:
    path = file(tmp_path, kspace())
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(DataError, match="truncated"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="HDF5"):
        read(path)
    with h5py.File(path, "w") as f:
        f["other"] = 1
    with pytest.raises(DataError, match="no dataset 'kspace'"):
        read(path)
    with pytest.raises(DataError, match="no file"):
        read(tmp_path / "absent.h5")
