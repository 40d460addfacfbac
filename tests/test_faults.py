"""Broken scans, evil headers and full disks through `recon run`: it ends well, and says what to do."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest

from recon.data import Patient, RawScan
from recon.io import ismrmrd as mrd
from recon.io.provenance import read_back
from recon.io.samples import in_memory, join
from recon.simulation import simulate
from tests.command import SMALL, Ended, chosen, recon, refused, scan_file
from tests.io import mrd_files as files
from tests.io.test_ismrmrd import BROKEN
from tests.io.test_mrd_header import ACCEPTED, REFUSED
from tests.io.validators import errors

#: One output of every format.
OUTPUTS = ("a.nii.gz", "a.png", "a.h5", "d/")


def run(scan: Path, folder: Path, *options: object) -> Ended:
    """`recon run` to all formats; whatever comes of it, the scan stays as it is and no temporary file is left."""
    before = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in scan.parent.iterdir() if p.is_file()}
    folder.mkdir(exist_ok=True)
    end = recon("run", scan, *(a for name in OUTPUTS for a in ("-o", f"{folder}/{name}")), *options)
    assert before == {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in scan.parent.iterdir() if p.is_file()}
    left = [p for p in folder.rglob("*") if p.is_file()]
    assert not [p for p in left if p.name.startswith(".")]
    assert {p.relative_to(folder) for p in left} == {p.relative_to(folder) for p in end.wrote}
    return end


def refuses(scan: Path, folder: Path, *options: object) -> str:
    """The sentence of a run that fails as it should and leaves nothing behind."""
    sentence = refused(run(scan, folder, *options))
    assert not list(folder.iterdir())
    assert len(sentence) > 40  # what was found, and the cure
    return sentence


def picture(end: Ended, folder: Path) -> np.ndarray:
    assert end.code == 0, end.err
    return np.asarray(nibabel.load(folder / "a.nii.gz").dataobj, np.float64)


def scene(path: Path) -> Path:
    """A file in a folder of its own."""
    path.parent.mkdir()
    return path


# F18, F19: the header


@pytest.mark.parametrize("case", [c for c in REFUSED if c != "zeros"])  # h5py writes no header of zeros
def test_F18_F19_a_broken_header_ends_the_run_with_its_element(case: str, tmp_path: Path) -> None:
    path = files.scan_file(scene(tmp_path / "in" / "scan.h5"), xml=REFUSED[case][0] or " ")
    sentence = refuses(path, tmp_path / "out")
    assert "header" in sentence or "encoding[0]" in sentence


@pytest.mark.parametrize("case", ACCEPTED)
def test_F18_F19_an_odd_header_gives_a_picture_and_a_note(case: str, tmp_path: Path) -> None:
    xml, sentence = ACCEPTED[case]
    path = files.scan_file(scene(tmp_path / "in" / "scan.h5"), xml=xml)
    end = run(path, tmp_path / "out")
    if case in ("trajectory", "limit without centre", "centre outside"):
        assert end.code in (0, 1)
        return
    assert end.code == 0, end.err
    assert sentence in end.err


@pytest.mark.parametrize("lxml", [True, False], ids=["with lxml", "without lxml"])
def test_F18_the_verdict_is_the_same_with_and_without_lxml(lxml: bool, tmp_path: Path) -> None:
    good = files.scan_file(tmp_path / "good.h5")
    bad = files.scan_file(tmp_path / "bad.h5", xml=REFUSED["entity bomb"][0])
    code = f"""
import sys
if {lxml}:
    import lxml.etree
else:
    sys.modules["lxml"] = sys.modules["lxml.etree"] = None
from recon import cli
for name in sys.argv[1:]:
    try:
        cli.main(["run", name, "-q", "-o", name + ".nii"])
    except SystemExit as end:
        print(end.code)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, good, bad],
        capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout.split() == ["0", "1"]
    assert done.stderr.startswith("recon: the header declares a document type")
    assert len(done.stderr.splitlines()) == 1


HUGE = {
    "a matrix that nobody has memory for": ("<x>16</x><y>24</y><z>1</z>", "<x>30000</x><y>30000</y><z>1</z>"),
    "an encoded matrix that nobody has memory for": ("<x>32</x><y>24</y><z>1</z>", "<x>40000</x><y>40000</y><z>1</z>"),
}


@pytest.mark.parametrize("case", HUGE)
def test_F19_absurd_sizes_are_refused_before_they_are_allocated(case: str, tmp_path: Path) -> None:
    path = files.scan_file(scene(tmp_path / "in" / "scan.h5"), xml=files.XML.replace(*HUGE[case]))
    refuses(path, tmp_path / "out", "--memory", "2GiB")


# F20: counters


@pytest.mark.parametrize("stray", [1, 12])
@pytest.mark.parametrize("field", ["encoding_space_ref", "kspace_encode_step_1", "kspace_encode_step_2", "slice"])
def test_F20_stray_lines_are_left_out_and_said_and_many_end_the_run(field: str, stray: int, tmp_path: Path) -> None:
    def change(line: ismrmrd.Acquisition, n: int) -> None:
        target = line.idx if hasattr(line.idx, field) else line
        if 0 < n <= stray:
            setattr(target, field, 700)

    path = files.scan_file(scene(tmp_path / "in" / "scan.h5"), change)
    if stray == 1:
        end = run(path, tmp_path / "out")
        assert end.code == 0
        assert "of 24 lines, 1" in end.err
        assert any("of 24 lines, 1" in note for note in read_back(tmp_path / "out" / "a.png")["notes"])
    else:
        refuses(path, tmp_path / "out")


# F21: samples


def spoilt(path: Path, change: Callable[[np.ndarray], Any], settings: Any = SMALL, noise: bool = False) -> Path:
    """A simulated scan whose imaging samples (line, coil, sample) are changed, with or without its noise scan."""
    raw = simulate(settings)
    imaging = raw.lines["number_of_samples"] == raw.lines["number_of_samples"][-1]
    rows = np.nonzero(imaging)[0]
    data = raw.samples.read(rows).copy()
    changed = change(data)
    data = data if changed is None else changed
    lines = raw.lines[rows].copy()
    lines["active_channels"] = data.shape[1]
    parts = [(lines, in_memory(data))]
    if noise:
        rows = np.nonzero(~imaging)[0]
        parts.insert(0, (raw.lines[rows], in_memory(raw.samples.read(rows))))
    lines, samples = join(*parts)
    mrd.write(scene(path), replace(raw, lines=lines, samples=samples))
    return path


def _nan(data: np.ndarray) -> None:
    data[20, 1, 30] = np.nan


def _infinite(data: np.ndarray) -> None:
    data[:, 2] = np.inf


def _everything(data: np.ndarray) -> None:
    data[:] = np.nan


def _overflow(data: np.ndarray) -> None:
    data[:] *= np.float32(1e38) / np.abs(data).max()


@pytest.mark.parametrize("noise", [True, False], ids=["noise scan", "no noise scan"])
@pytest.mark.parametrize("change", [_nan, _infinite, _everything])
def test_F21_samples_that_are_no_numbers_never_reach_an_image(
    change: Callable[[np.ndarray], None], noise: bool, tmp_path: Path
) -> None:
    path = spoilt(tmp_path / "in" / "scan.h5", change, noise=noise)
    end = run(path, tmp_path / "out")
    if change is _everything or noise:
        # The noise scan says that all coils are alive: which lines or channels to leave out is the user's choice.
        assert "NaN or infinite" in refused(end) or "not finite" in refused(end)
    else:
        assert "not finite" in end.err
        x = picture(end, tmp_path / "out")
        assert np.isfinite(x).all()
        assert x.std() > 0.5 * x.mean()
    assert "NaN or infinite" in recon("info", path).out


@pytest.mark.parametrize("noise", [True, False], ids=["noise scan", "no noise scan"])
@pytest.mark.parametrize("method", ["combine", "sense", "grappa"])
def test_F21_a_dead_coil_is_as_good_as_none(method: str, noise: bool, tmp_path: Path) -> None:
    def dead(data: np.ndarray) -> None:
        data[:, 2] = 0

    def removed(data: np.ndarray) -> np.ndarray:
        return data[:, [0, 1, 3, 4, 5]]

    settings = replace(SMALL, coils=6)
    if method != "combine":
        settings = replace(settings, acceleration=(2, 1), acs=16)
    a = spoilt(tmp_path / "a" / "s.h5", dead, settings, noise)
    b = spoilt(tmp_path / "b" / "s.h5", removed, settings)
    x, y = (
        picture(run(p, tmp_path / p.parent.name / "o", "--method", method), tmp_path / p.parent.name / "o")
        for p in (a, b)
    )
    assert np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.99
    assert "channels 2 hold nothing but zeros" in recon("info", a).out


def test_F21_F37_values_near_the_end_of_float32_give_a_picture_or_a_sentence(tmp_path: Path) -> None:
    end = run(spoilt(tmp_path / "in" / "scan.h5", _overflow), tmp_path / "out")
    if end.code:
        refused(end)
        return
    x = picture(end, tmp_path / "out")
    y = picture(run(spoilt(tmp_path / "b" / "s.h5", lambda data: None), tmp_path / "b" / "o"), tmp_path / "b" / "o")
    assert np.corrcoef(x.ravel(), y.ravel())[0, 1] > 0.97


def test_F21_a_radial_scan_with_nan_is_refused_and_discarded_samples_may_be_anything(tmp_path: Path) -> None:
    raw = simulate(replace(SMALL, matrix=(32, 32, 1), trajectory="radial"))
    spokes = raw.lines["trajectory_dimensions"] > 0
    k = raw.samples.trajectory(np.nonzero(spokes)[0])

    def saved(name: str, change: Callable[[np.ndarray], Any], discard: int = 0) -> Path:
        data = raw.samples.read(np.nonzero(spokes)[0]).copy()
        change(data)
        lines = raw.lines[spokes].copy()
        lines["discard_pre"] = discard
        noise = raw.lines[~spokes], in_memory(raw.samples.read(np.nonzero(~spokes)[0]))
        lines, samples = join(noise, (lines, in_memory(data, trajectories=[k])))
        mrd.write(scene(tmp_path / name / "s.h5"), replace(raw, lines=lines, samples=samples))
        return tmp_path / name / "s.h5"

    def spoil(data: np.ndarray) -> None:
        data[:, :, :5] = np.nan

    plain = picture(run(saved("a", lambda data: None), tmp_path / "x"), tmp_path / "x")
    found = picture(run(saved("b", spoil, discard=5), tmp_path / "y"), tmp_path / "y")
    assert np.corrcoef(plain.ravel(), found.ravel())[0, 1] > 0.98
    assert "NaN or infinite" in refuses(saved("c", spoil), tmp_path / "z")


# F22: channels and noise


def _other_channels(raw: RawScan, path: Path, which: np.ndarray) -> None:
    """The scan with two channels less in the rows of `which`."""

    class Fewer:
        def read(self, wanted: np.ndarray) -> np.ndarray:
            data = raw.samples.read(wanted)
            return data[:, :-2] if which[wanted].all() else data

        def trajectory(self, wanted: np.ndarray) -> np.ndarray:
            return raw.samples.trajectory(wanted)

    lines = raw.lines.copy()
    lines["active_channels"][which] -= 2
    mrd.write(scene(path), replace(raw, lines=lines, samples=Fewer()))


@pytest.mark.parametrize("kind", ["noise", "calibration", "some imaging"])
def test_F22_lines_with_other_channels_are_left_out_and_said(kind: str, tmp_path: Path) -> None:
    settings = replace(SMALL, coils=6, acceleration=(2, 1), acs=16, calibration="separate")
    raw = simulate(settings)
    flags = raw.lines["flags"]
    noise, calibration = (flags & np.uint64(1 << 18)) != 0, (flags & np.uint64(1 << 19)) != 0
    which = {
        "noise": noise,
        "calibration": calibration & ~noise,
        "some imaging": np.arange(len(flags)) == len(flags) - 2,
    }[kind]
    assert which.any()
    _other_channels(raw, tmp_path / "in" / "scan.h5", which)
    end = run(tmp_path / "in" / "scan.h5", tmp_path / "out")
    assert "have 4 channels where the image has 6" in end.err or "--method combine" in refused(end)
    if kind == "noise":
        assert end.code == 0
        assert read_back(tmp_path / "out" / "a.png")["provenance"]["noise"] != "scan"


@pytest.mark.parametrize("case", ["missing", "singular", "one sample", "zeros"])
def test_F22_the_noise_that_was_used_is_said(case: str, tmp_path: Path) -> None:
    raw = simulate(SMALL)
    noise = (raw.lines["flags"] & np.uint64(1 << 18)) != 0

    class Changed:
        def read(self, wanted: np.ndarray) -> np.ndarray:
            data = raw.samples.read(wanted).copy()
            if noise[wanted].all():
                data[:] = {"singular": data[:, :1], "zeros": 0 * data}.get(case, data)
                return data[:, :, :1] if case == "one sample" else data
            return data

        def trajectory(self, wanted: np.ndarray) -> np.ndarray:
            return raw.samples.trajectory(wanted)

    changed = replace(raw, samples=Changed(), lines=raw.lines.copy())
    if case == "one sample":
        changed.lines["number_of_samples"][noise] = 1
    if case == "missing":
        changed = chosen(raw, np.nonzero(~noise)[0])
    mrd.write(scene(tmp_path / "in" / "scan.h5"), changed)
    end = run(tmp_path / "in" / "scan.h5", tmp_path / "out")
    x = picture(end, tmp_path / "out")
    assert np.isfinite(x).all()
    assert x.std() > 0
    said = {"zeros": "zero or not finite", "missing": "no noise lines", "singular": "singular"}
    assert said.get(case, "noise from the noise scan") in end.err
    good = picture(run(scan_file(scene(tmp_path / "ok" / "s.h5")), tmp_path / "good"), tmp_path / "good")
    assert np.corrcoef(x.ravel(), good.ravel())[0, 1] > 0.97


# F23: flags and order


def test_F23_order_flags_and_repeats_of_lines_do_not_change_the_picture(tmp_path: Path) -> None:
    raw = simulate(replace(SMALL, slices=2, gap=1.0))
    mrd.write(scene(tmp_path / "in" / "plain.h5"), raw)
    expected = picture(run(tmp_path / "in" / "plain.h5", tmp_path / "plain"), tmp_path / "plain")
    n = len(raw.lines)
    unflagged = replace(raw, lines=raw.lines.copy())
    unflagged.lines["flags"] &= ~np.uint64(0b1111 << 4 | 1 << 24 | 0xFF)
    cases = {
        "reversed": chosen(raw, np.arange(n)[::-1]),
        "permuted": chosen(raw, np.random.default_rng(0).permutation(n)),
        "without first and last": unflagged,
        "twice": chosen(raw, np.repeat(np.arange(n), 2)),
        "some twice": chosen(raw, np.r_[np.arange(n), np.arange(n - 20, n - 5)]),
    }
    for name, scan in cases.items():
        path = tmp_path / "in" / f"{name}.h5"
        mrd.write(path, scan)
        found = picture(run(path, tmp_path / name), tmp_path / name)
        found *= (found * expected).sum() / (found * found).sum()  # twice the lines: another unit of noise
        assert np.linalg.norm(found - expected) < 2e-2 * np.linalg.norm(expected), name


# F24: directions

DIRECTIONS: dict[str, tuple[tuple[float, ...], ...]] = {
    "zero": ((0, 0, 0), (0, 0, 0), (0, 0, 0)),
    "parallel": ((1, 0, 0), (1, 0, 0), (0, 0, 1)),
    "oblique to each other": ((1, 0, 0), (0.7, 0.7, 0), (0, 0, 1)),
    "NaN": ((np.nan, 0, 0), (0, 1, 0), (0, 0, 1)),
    "ten times too long": ((10, 0, 0), (0, 10, 0), (0, 0, 10)),
}


@pytest.mark.parametrize("case", DIRECTIONS)
def test_F24_a_wrong_place_is_never_written_as_the_scanners(case: str, tmp_path: Path) -> None:
    def turn(line: ismrmrd.Acquisition, n: int) -> None:
        line.read_dir[:], line.phase_dir[:], line.slice_dir[:] = DIRECTIONS[case]

    path = files.scan_file(scene(tmp_path / "in" / "scan.h5"), turn)
    end = run(path, tmp_path / "out")
    assert end.code == 0, end.err
    image = nibabel.load(tmp_path / "out" / "a.nii.gz")
    assert image.header["sform_code"] == image.header["qform_code"] == 0
    assert "the place in the patient is unknown" in end.err
    (path,) = (tmp_path / "out" / "d").iterdir()
    assert "orientation in the patient is unknown" in pydicom.dcmread(path).ImageComments
    assert not errors(path)


def test_F24_a_left_handed_slice_keeps_its_directions(tmp_path: Path) -> None:
    settings = replace(SMALL, slices=3, gap=1.0, slice_dir=(0.0, 0.0, -1.0), position=(3.0, -4.0, 20.0))
    end = run(scan_file(scene(tmp_path / "in" / "s.h5"), settings), tmp_path / "out")
    assert end.code == 0, end.err
    # LPS (x, y, −z) with y down the rows: RAS (−x, −y, −z), slices 6 mm apart; the middle slice is at 20 mm.
    affine = nibabel.load(tmp_path / "out" / "a.nii.gz").affine
    assert np.allclose(affine[:3, :3], np.diag([-5, -5, -6]))
    assert np.allclose(affine @ [24, 24, 1, 1], [-3, 4, 20, 1])


# F25, F26: the container


@pytest.mark.parametrize("fault", BROKEN)
def test_F26_a_broken_file_ends_the_run_in_one_sentence(fault: str, tmp_path: Path) -> None:
    path = files.scan_file(scene(tmp_path / "in" / "scan.h5"))
    BROKEN[fault][0](path)
    refuses(path, tmp_path / "out")
    refused(recon("info", path), code=1)


def test_F26_a_file_that_is_being_written_is_refused_and_read_afterwards(tmp_path: Path) -> None:
    path = files.scan_file(scene(tmp_path / "in" / "scan.h5"))
    code = f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print('open', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"open\n"
        assert "being written by another program" in refuses(path, tmp_path / "out")
        writer.communicate(b"\n")
    assert run(path, tmp_path / "out").code == 0


@pytest.mark.parametrize("damage", range(6))
def test_F26_bytes_overwritten_anywhere_give_a_picture_or_a_sentence(damage: int, tmp_path: Path) -> None:
    path = files.scan_file(scene(tmp_path / "in" / "scan.h5"))
    raw = bytearray(path.read_bytes())
    rng = np.random.default_rng(damage)
    for _ in range(20):
        at = int(rng.integers(0, len(raw) - 8))
        raw[at : at + 8] = rng.bytes(8)
    path.write_bytes(raw)
    # In a process of its own: the HDF5 library may not survive what it reads.
    done = subprocess.run(
        [sys.executable, "-c", "from recon.io.read import read; import sys; read(sys.argv[1])", path],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    if done.returncode == 0 or b"DataError" in done.stderr:
        end = run(path, tmp_path / "out")
        if end.code:
            refused(end)


def test_F26_F30_a_read_only_scan_gives_the_same_pixels_twice(tmp_path: Path) -> None:
    settings = replace(SMALL, mask="random", acceleration=(2, 1), acs=16)
    path = scan_file(scene(tmp_path / "in" / "scan.h5"), settings)
    path.chmod(0o400)
    first, second = (picture(run(path, tmp_path / name), tmp_path / name) for name in ("a", "b"))
    assert np.array_equal(first, second)
    (a,), (b,) = (list((tmp_path / name / "d").iterdir()) for name in ("a", "b"))
    assert pydicom.dcmread(a).PixelData == pydicom.dcmread(b).PixelData
    assert pydicom.dcmread(a).SOPInstanceUID == pydicom.dcmread(b).SOPInstanceUID  # F35: the same job sent again


def test_F35_changed_settings_give_new_uids(tmp_path: Path) -> None:
    path = scan_file(scene(tmp_path / "in" / "scan.h5"), replace(SMALL, acceleration=(2, 1), acs=16))
    (a,), (b,) = (
        (assert_ok(run(path, tmp_path / m, "--method", m)), list((tmp_path / m / "d").iterdir()))[1]
        for m in ("sense", "grappa")
    )
    one, other = pydicom.dcmread(a), pydicom.dcmread(b)
    assert one.SOPInstanceUID != other.SOPInstanceUID
    assert one.SeriesInstanceUID != other.SeriesInstanceUID
    assert one.StudyInstanceUID == other.StudyInstanceUID


def assert_ok(end: Ended) -> None:
    assert end.code == 0, end.err


# F32: the disk


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scan_file(scene(tmp_path_factory.mktemp("faults") / "in" / "scan.h5"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A disk of 64 KiB, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small disk is not permitted here; run the tests as root to try it")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", OUTPUTS)
def test_F32_a_disk_that_is_really_full_leaves_nothing(name: str, scan: Path, tiny_disk: Path) -> None:
    filler = tiny_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(b"x" * 70_000)
    sentence = refused(recon("run", scan, "-o", f"{tiny_disk}/{name}"))
    assert "the disk is full; free some space" in sentence
    assert [p.name for p in tiny_disk.rglob("*")] == ["filler"]
    filler.unlink()
    assert recon("run", scan, "-o", f"{tiny_disk}/{name}").code == 0  # recovers when space returns


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("name", OUTPUTS)
def test_F32_a_disk_that_refuses_leaves_nothing(
    name: str, number: int, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    sentence = refused(recon("run", scan, "-o", f"{tmp_path}/{name}"), code=1)
    assert "--output" in sentence
    assert not list(tmp_path.iterdir())


# F37: ranges


def _zeros(data: np.ndarray) -> None:
    data[:] = 0


def _constant(data: np.ndarray) -> None:
    data[:] = 1


def _hot(data: np.ndarray) -> None:
    data[:] = 0
    data[:, :, 0] = 1e6  # one column that carries all


@pytest.mark.parametrize("noise", [True, False], ids=["noise scan", "no noise scan"])
@pytest.mark.parametrize("change", [_zeros, _constant, _hot])
def test_F37_empty_and_constant_data_give_a_valid_picture_or_a_sentence(
    change: Callable[[np.ndarray], None], noise: bool, tmp_path: Path
) -> None:
    end = run(spoilt(tmp_path / "in" / "scan.h5", change, noise=noise), tmp_path / "out")
    if change is _zeros and not noise:
        assert "nothing to reconstruct" in refused(end)
        return
    assert ("was assumed" in end.err) == (not noise)
    x = picture(end, tmp_path / "out")
    assert np.isfinite(x).all()
    (path,) = (tmp_path / "out" / "d").iterdir()
    dataset = pydicom.dcmread(path)
    assert float(dataset.WindowWidth) >= 1
    assert float(dataset.RescaleSlope) > 0
    assert not errors(path)


def test_F37_an_array_of_zeros_is_no_scan(tmp_path: Path) -> None:
    np.save(scene(tmp_path / "in" / "k.npy"), np.zeros((2, 16, 16), np.complex64))
    assert "only zeros" in refuses(tmp_path / "in" / "k.npy", tmp_path / "out", "--axes", "coil,y,x")


# F38, F39, F40: the patient

MARK = "Zyx9Marked"
EVIL = {
    "carets and equals": f"{MARK}^{MARK}^^^^x=a=b=c=d",
    "backslashes": f"{MARK}\\..\\{MARK}\\",
    "line ends": f"{MARK}\r\n(0010,0010) PN [forged]\r\n",
    "300 characters": MARK * 30,
    "a path": f"../../../tmp/{MARK}",
    "an option": f"--output={MARK}",
    "Unicode": f"{MARK} Ødegård 山田^太郎 \u202egnp.exe 👩‍⚕️",
    "markup": f"<b>{MARK}</b> ]]> &amp; [red]%s{{}}",
    "blank": f"  {MARK}\t ",
}


@pytest.mark.parametrize("case", EVIL)
def test_F38_F40_evil_names_go_to_dicom_alone_and_leave_it_valid(case: str, tmp_path: Path) -> None:
    text = EVIL[case]
    raw = simulate(replace(SMALL, matrix=(32, 32, 1)))
    study = replace(
        raw.header.study, accession=text, referring_physician=text, id=text, uid=text, measurement_id="45_1"
    )
    patient = Patient(text, text, text, text, None)
    header = replace(raw.header, patient=patient, study=study, user={"name": text, "patient": text})
    mrd.write(scene(tmp_path / "in" / "scan.h5"), replace(raw, header=header))
    end = run(tmp_path / "in" / "scan.h5", tmp_path / "out")
    assert end.code == 0, end.err
    (dicom,) = (tmp_path / "out" / "d").iterdir()
    assert not errors(dicom)
    assert str(pydicom.dcmread(dicom).PatientName).startswith(MARK) == text.strip().startswith(MARK)
    told = recon("info", tmp_path / "in" / "scan.h5")
    assert told.code == 0
    for said in (end.out, end.err, told.out, told.err, *(str(p) for p in tmp_path.rglob("*"))):
        assert MARK not in said.replace(str(tmp_path), "")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path != dicom and path.suffix != ".h5":
            assert MARK.encode() not in path.read_bytes(), path
    assert not list(Path("/tmp").glob(f"{MARK}*"))


@pytest.mark.parametrize("fault", ["cut header", "cut file", "NaN", "stray lines", "unforeseen"])
def test_F40_errors_do_not_name_the_patient(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = simulate(replace(SMALL, matrix=(32, 32, 1)))
    header = replace(raw.header, patient=Patient(MARK, MARK, MARK, "F"), user={"a": MARK})
    lines = raw.lines.copy()
    if fault == "stray lines":
        lines["kspace_encode_step_1"][lines["number_of_samples"] == 64] = 900
    path = scene(tmp_path / "in" / "scan.h5")
    mrd.write(path, replace(raw, header=header, lines=lines))
    if fault == "cut header":
        with h5py.File(path, "r+") as file:
            xml = file["dataset/xml"][0].decode()
            file["dataset/xml"][0] = xml[: xml.index(MARK) + 4] + "<" + MARK
    elif fault == "cut file":
        path.write_bytes(path.read_bytes()[:-2000])
    elif fault in ("NaN", "unforeseen"):
        from recon import pipeline

        def fail(*_: object) -> None:
            raise KeyError(MARK)

        monkeypatch.setattr(pipeline if fault == "unforeseen" else pipeline.sort, "frames", fail, raising=False)
        monkeypatch.setattr(pipeline, "prepare", fail)
    end = recon("run", path, "-o", f"{tmp_path}/d/")
    assert end.code == 1
    assert len(end.err.splitlines()) == 1
    assert MARK not in end.err + end.out
    assert MARK not in recon("info", path).err


def test_F39_missing_patient_and_study_are_left_empty_and_kept_apart(tmp_path: Path) -> None:
    found = []
    for seed in (0, 1):
        raw = simulate(replace(SMALL, matrix=(32, 32, 1), seed=seed))
        study = replace(type(raw.header.study)(), measurement_id="45_1")
        mrd.write(
            scene(tmp_path / f"in{seed}" / "scan.h5"),
            replace(raw, header=replace(raw.header, patient=Patient(), study=study)),
        )
        end = run(tmp_path / f"in{seed}" / "scan.h5", tmp_path / f"out{seed}")
        assert end.code == 0, end.err
        (path,) = (tmp_path / f"out{seed}" / "d").iterdir()
        assert not errors(path)
        found.append(pydicom.dcmread(path))
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        assert [str(d[keyword].value or "") for d in found] == ["", ""], keyword
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"):
        assert found[0][keyword].value != found[1][keyword].value, keyword
