from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
import torch

from recon.data import LINE, DataError, Flag, flag_bits
from recon.io import ismrmrd as mrd
from recon.prepare import place, sort
from tests.io import grid as plain
from tests.io import mrd_files as files

VARIANTS = {
    "plain": ("-m", "32", "-c", "2", "-O", "1", "-n", "0"),
    "oversampled": ("-m", "64", "-c", "4", "-O", "2", "-n", "0.01"),
    "noise scan": ("-m", "48", "-c", "3", "-O", "2", "-C", "-n", "0.02"),
    "repetitions": ("-m", "32", "-c", "2", "-r", "3", "-n", "0.01"),
    "accelerated": ("-m", "32", "-c", "4", "-a", "2", "-w", "8", "-n", "0.01"),
    "accelerated, noise scan": ("-m", "32", "-c", "4", "-a", "4", "-w", "8", "-C", "-n", "0.01"),
    "coordinates": ("-m", "32", "-c", "2", "-k", "-n", "0.01"),
    "odd": ("-m", "33", "-c", "1", "-O", "1", "-n", "0"),
}


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda name: name)
def generated(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.generate(tmp_path_factory.mktemp("mrd") / "scan.h5", *VARIANTS[request.param])


def test_every_line_is_the_one_that_the_ismrmrd_package_reads(generated: Path) -> None:
    before = files.digest(generated)
    scan = mrd.read(generated)
    with ismrmrd.Dataset(str(generated), mode="r") as file:
        assert len(scan.lines) == file.number_of_acquisitions()
        for row, line in enumerate(scan.lines):
            acquisition = file.read_acquisition(row)
            head = np.frombuffer(acquisition.getHead(), ismrmrd.hdf5.acquisition_header_dtype)[0]
            for name in LINE.names or ():
                source = head["idx"] if name in head["idx"].dtype.names else head
                np.testing.assert_array_equal(line[name], source[name], err_msg=name)
            np.testing.assert_array_equal(scan.samples.read(np.array([row]))[0], acquisition.data)
            np.testing.assert_array_equal(
                scan.samples.trajectory(np.array([row]))[0], acquisition.traj.reshape(acquisition.data.shape[1], -1)
            )
    assert files.digest(generated) == before


def test_the_picture_is_the_files_phantom_neither_turned_nor_shifted(generated: Path) -> None:
    scan = mrd.read(generated)
    encoding = scan.encodings[sort.choose_encoding(scan)]
    rows = sort.kinds(scan).imaging  # all repetitions together fill the grid
    read = torch.from_numpy(scan.samples.read(rows))
    columns, _ = place.readouts(read, scan.lines[rows], encoding.encoded_matrix[0])
    ky, kz, valid = sort.row_index(scan.lines[rows], encoding)
    assert valid.all()
    k, counts = place.grid([(np.arange(len(rows)), columns)], ky, kz, (1, encoding.encoded_matrix[1]))
    assert (counts > 0).all()
    image = plain.picture(k.numpy()[None])[0, 0]
    with h5py.File(generated) as file:
        stored, csm = file["dataset/phantom"][0], file["dataset/csm"][0]
    n, wide = stored.shape[1], encoding.encoded_matrix[0]
    image = image[:, wide // 2 - n // 2 :][:, :n]
    phantom = np.abs(stored["real"] + 1j * stored["imag"]) * np.sqrt((csm["real"] ** 2 + csm["imag"] ** 2).sum(0))
    scores = {
        (turn, flip, dy, dx): np.corrcoef(np.roll(candidate, (dy, dx), (0, 1)).ravel(), phantom.ravel())[0, 1]
        for turn in range(4)
        for flip in (False, True)
        for candidate in [np.rot90(image[:, ::-1] if flip else image, turn)]
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
    }
    # The generator shifts by n // 2 before its FFT as well as after it, which for odd n is one pixel short of a turn.
    expected = (0, False, n % 2, n % 2)
    assert max(scores, key=lambda k: scores[k]) == expected
    assert scores[expected] > 0.97


def test_a_written_scan_is_read_by_the_ismrmrd_package(generated: Path, tmp_path: Path) -> None:
    scan = mrd.read(generated)
    mrd.write(tmp_path / "copy.h5", scan)
    with (
        ismrmrd.Dataset(str(generated), mode="r") as old,
        ismrmrd.Dataset(str(tmp_path / "copy.h5"), mode="r") as new,
    ):
        header = ismrmrd.xsd.CreateFromDocument(new.read_xml_header())
        assert header.encoding[0].encodedSpace.matrixSize.x == scan.encodings[0].encoded_matrix[0]
        assert new.number_of_acquisitions() == old.number_of_acquisitions()
        for row in range(old.number_of_acquisitions()):
            a, b = old.read_acquisition(row), new.read_acquisition(row)
            np.testing.assert_array_equal(a.data, b.data)
            np.testing.assert_array_equal(a.traj, b.traj)
            assert b.available_channels == a.active_channels
            assert b.channel_mask[0] == 2**a.active_channels - 1
    again = mrd.read(tmp_path / "copy.h5")
    np.testing.assert_array_equal(again.lines, scan.lines)
    assert (again.header, again.encodings) == (scan.header, scan.encodings)


def test_a_failed_writing_leaves_nothing(tmp_path: Path) -> None:
    scan = mrd.read(files.scan_file(tmp_path / "scan.h5"))

    class Broken:
        def read(self, rows: np.ndarray) -> np.ndarray:
            raise DataError("no samples")

    with pytest.raises(DataError):
        mrd.write(tmp_path / "copy.h5", replace(scan, samples=Broken()))  # type: ignore[arg-type]
    assert [p.name for p in tmp_path.iterdir()] == ["scan.h5"]


def test_lines_are_had_in_any_order_and_twice(tmp_path: Path) -> None:
    scan = mrd.read(files.scan_file(tmp_path / "scan.h5"))
    rows = np.array([5, 3, 3, 23, 0, 11, 12, 13, 2])
    np.testing.assert_array_equal(scan.samples.read(rows), files.kspace().transpose(1, 0, 2)[rows])
    np.testing.assert_array_equal(scan.samples.read(rows[:0]).shape[0], 0)
    np.testing.assert_array_equal(scan.samples.read(np.arange(0, 24, 5)), files.kspace().transpose(1, 0, 2)[::5])


def test_lines_of_several_shapes_are_read_kind_by_kind(tmp_path: Path) -> None:
    k, noise = files.kspace(), files.kspace(channels=3)[:, :, :20]
    noise_line = files.line(noise, 0, center_sample=0)
    noise_line.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    scan = mrd.read(files.save(tmp_path / "scan.h5", [noise_line, *(files.line(k, y) for y in range(24))]))
    np.testing.assert_array_equal(scan.samples.read(np.array([0]))[0], noise[:, 0])
    np.testing.assert_array_equal(scan.samples.read(np.arange(1, 25)), k.transpose(1, 0, 2))
    with pytest.raises(DataError, match="read each kind by itself"):
        scan.samples.read(np.arange(3))
    mrd.write(tmp_path / "copy.h5", scan)
    np.testing.assert_array_equal(mrd.read(tmp_path / "copy.h5").samples.read(np.array([0]))[0], noise[:, 0])


def test_chunked_compressed_and_contiguous_files_are_read_alike(tmp_path: Path) -> None:
    first = mrd.read(files.scan_file(tmp_path / "scan.h5"))
    for number, layout in enumerate(({"chunks": (7,)}, {"chunks": (5,), "compression": "gzip"}, {})):
        path = tmp_path / f"{number}.h5"
        with h5py.File(tmp_path / "scan.h5") as old, h5py.File(path, "w") as new:
            new["dataset/xml"] = old["dataset/xml"][()]
            new.create_dataset("dataset/data", data=old["dataset/data"][()], dtype=old["dataset/data"].dtype, **layout)
        scan = mrd.read(path)
        np.testing.assert_array_equal(scan.lines, first.lines)
        np.testing.assert_array_equal(scan.samples.read(np.arange(24)), first.samples.read(np.arange(24)))


def test_headers_are_read_without_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    monkeypatch.setattr(mrd, "_records", lambda *_: pytest.fail("samples were read"))
    mrd.read(path)


def test_blocks_do_not_change_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = mrd.read(files.scan_file(tmp_path / "scan.h5"))
    rows = np.random.default_rng(0).permutation(24)
    expected = whole.samples.read(rows)
    monkeypatch.setattr(mrd, "_BLOCK", 3 * 400)
    again = mrd.read(tmp_path / "scan.h5")
    np.testing.assert_array_equal(again.lines, whole.lines)
    np.testing.assert_array_equal(again.samples.read(rows), expected)


def test_bulk_reading_is_many_times_faster_than_line_by_line(tmp_path: Path) -> None:
    k = files.kspace()
    path = files.save(tmp_path / "scan.h5", [files.line(k, y % 24) for y in range(96)])
    mrd.read(path)
    start = time.process_time()
    scan = mrd.read(path)
    scan.samples.read(np.arange(96))
    ours = time.process_time() - start
    start = time.process_time()
    with ismrmrd.Dataset(str(path), mode="r") as file:
        for row in range(96):
            file.read_acquisition(row)
    assert (time.process_time() - start) > 8 * ours


def test_the_group_is_chosen_by_name_where_there_are_several(tmp_path: Path) -> None:
    k = files.kspace()
    path = files.save(tmp_path / "scan.h5", [files.line(k, y) for y in range(24)], dataset="one")
    assert len(mrd.read(path).lines) == 24
    files.save(path, [files.line(k, y) for y in range(24)] * 2, dataset="two")
    with pytest.raises(DataError, match=r"several scans \(one, two\).*--key"):
        mrd.read(path)
    assert len(mrd.read(path, "two").lines) == 48
    with pytest.raises(DataError, match="no group three"):
        mrd.read(path, "three")
    files.save(path, [files.line(k, y) for y in range(24)], dataset="dataset")
    told = "the file also holds one, two; this scan is dataset, choose another with --key"
    assert told in mrd.read(path).notes
    assert told not in mrd.read(path, "dataset").notes


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _delete(path: Path, name: str) -> None:
    with h5py.File(path, "r+") as file:
        del file[name]


def _no_lines(path: Path) -> None:
    _delete(path, "dataset/data")
    with h5py.File(path, "r+") as file:
        file.create_dataset("dataset/data", (0,), ismrmrd.hdf5.acquisition_dtype, maxshape=(None,), chunks=(1,))


def _unwritten(path: Path, lines: int = 1000) -> None:
    _delete(path, "dataset/data")
    with h5py.File(path, "r+") as file:
        file.create_dataset("dataset/data", (lines,), ismrmrd.hdf5.acquisition_dtype, maxshape=(None,), chunks=(1,))


def _wrong_size(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        record = file["dataset/data"][5]
        record["head"]["number_of_samples"] = 31
        file["dataset/data"][5] = record


def _huge(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        record = file["dataset/data"][5]
        record["head"]["number_of_samples"] = record["head"]["active_channels"] = 65535
        file["dataset/data"][5] = record


BROKEN = {
    "empty": (lambda p: _cut(p, 0), "not an HDF5 file"),
    "cut in the header": (lambda p: _cut(p, 300), "truncated|damaged"),
    "cut in the middle": (lambda p: _cut(p, p.stat().st_size // 2), "truncated|damaged"),
    "cut at the end": (lambda p: _cut(p, p.stat().st_size - 10), "truncated|damaged"),
    "text": (lambda p: p.write_text("not a scan at all, but a letter" * 50), "not an HDF5 file"),
    "no xml": (lambda p: _delete(p, "dataset/xml"), "no XML header"),
    "no data": (lambda p: _delete(p, "dataset/data"), "no raw data"),
    "no group": (lambda p: _delete(p, "dataset"), "none of its groups"),
    "no lines": (_no_lines, "no lines"),
    "lines stated, none stored": (_unwritten, "stores none"),
    "more lines stated than fit": (lambda p: _unwritten(p, 10**9), "more than its .* bytes can hold"),
    "a different number of samples": (_wrong_size, "line 5 has 128 numbers in data, where 124 are expected"),
    "34 GB in one line": (_huge, "a different number of samples"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_file_is_refused_in_one_sentence_and_stays_as_it_is(fault: str, tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    damage, sentence = BROKEN[fault]
    damage(path)
    before = files.digest(path)
    with pytest.raises(DataError, match=sentence) as error:
        mrd.read(path)
    assert "\n" not in str(error.value)
    assert files.digest(path) == before


def test_a_wrong_size_is_found_in_compressed_files_when_samples_are_read(tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    _wrong_size(path)
    with h5py.File(path) as old, h5py.File(tmp_path / "z.h5", "w") as new:
        new["dataset/xml"] = old["dataset/xml"][()]
        new.create_dataset("dataset/data", data=old["dataset/data"][()], compression="gzip")
    with pytest.raises(DataError, match="line 5 holds 128 numbers in data, where its header states 124"):
        mrd.read(tmp_path / "z.h5").samples.read(np.array([5]))


def test_a_missing_file_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        mrd.read(tmp_path / "none.h5")


def test_a_file_that_changed_is_not_read_on(tmp_path: Path) -> None:
    scan = mrd.read(files.scan_file(tmp_path / "scan.h5"))
    files.save(tmp_path / "scan.h5", [files.line(files.kspace(), 0)])
    with pytest.raises(DataError, match="changed"):
        scan.samples.read(np.array([0]))


def test_a_file_being_written_is_refused(tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    code = f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        with pytest.raises(DataError, match="being written"):
            mrd.read(path)
        writer.communicate(b"\n")
    assert len(mrd.read(path).lines) == 24


def test_a_read_only_file_is_read(tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    path.chmod(0o400)
    assert len(mrd.read(path).lines) == 24
    assert len(list(tmp_path.iterdir())) == 1


def test_waveforms_are_passed_over(tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5")
    with ismrmrd.Dataset(str(path)) as file:
        for _ in range(3):
            file.append_waveform(ismrmrd.Waveform.from_array(np.zeros((4, 10), np.uint32)))
    scan = mrd.read(path)
    assert len(scan.lines) == 24
    assert any("3 waveforms" in note for note in scan.notes)


def test_every_flag_number_is_that_of_the_ismrmrd_package() -> None:
    package = {
        Flag.NOISE: ismrmrd.ACQ_IS_NOISE_MEASUREMENT,
        Flag.CALIBRATION: ismrmrd.ACQ_IS_PARALLEL_CALIBRATION,
        Flag.CALIBRATION_AND_IMAGING: ismrmrd.ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING,
        Flag.REVERSE: ismrmrd.ACQ_IS_REVERSE,
        Flag.PHASECORR: ismrmrd.ACQ_IS_PHASECORR_DATA,
        Flag.COMPRESSION1: ismrmrd.ACQ_COMPRESSION1,
    }
    for ours, theirs in package.items():
        acquisition = ismrmrd.Acquisition()
        acquisition.setFlag(theirs)
        assert acquisition.flags == flag_bits(ours)
