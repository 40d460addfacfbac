"""Faults by their numbers, F25 to F40: the container, the disk, ranges of values, the patient."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pydicom
import pytest

from recon.data import Patient
from recon.io import ismrmrd as mrd
from recon.simulation import simulate
from tests.command import SMALL, Ended, recon, refused, scan_file
from tests.fault_runs import OUTPUTS, picture, refuses, run, scene, spoilt
from tests.io import mrd_files as files
from tests.io.test_ismrmrd import BROKEN
from tests.io.validators import errors

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
    # In a separate process: the HDF5 library may crash on its input.
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


@pytest.mark.parametrize("free", [0, 4096, 12288, 20480])
@pytest.mark.parametrize("verb", ["run", "simulate"])
def test_F32_a_disk_that_fills_within_hdf5_ends_no_process(verb: str, free: int, scan: Path, tiny_disk: Path) -> None:
    """Where HDF5 could not write its last blocks, the process died of it and left the temporary file."""
    with pytest.raises(OSError, match="No space"):
        (tiny_disk / "filler").write_bytes(b"x" * 70_000)
    os.truncate(tiny_disk / "filler", 65536 - free)
    command = ["run", str(scan)] if verb == "run" else ["simulate", "--matrix", "32"]
    done = subprocess.run(
        [sys.executable, "-m", "recon", *command, "-o", str(tiny_disk / "a.h5")],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the disk is full; free some space" in done.stderr
    assert [p.name for p in tiny_disk.iterdir()] == ["filler"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("name", OUTPUTS)
def test_F32_a_disk_that_refuses_leaves_nothing(
    name: str, number: int, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    sentence = refused(recon("run", scan, "-o", f"{tmp_path}/{name}"), code=1)
    assert ("another disk for the output" if number == errno.ENOSPC else "--output") in sentence
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.nii.gz", "a.png", "a.h5", "d"])
@pytest.mark.parametrize("there", [True, False], ids=["there", "not there"])
def test_F32_an_output_that_is_a_link_is_written_where_it_leads(
    name: str, there: bool, scan: Path, tmp_path: Path
) -> None:
    target = scene(tmp_path / "disk" / name)
    if there:
        target.mkdir() if name == "d" else target.write_bytes(b"before")
    (tmp_path / name).symlink_to(Path("disk", name))
    end = recon("run", scan, "-o", tmp_path / name)
    assert end.code == 0, end.err
    assert (tmp_path / name).is_symlink()
    assert list(target.iterdir()) if name == "d" else target.stat().st_size > 100
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]


def test_F32_a_link_in_a_circle_ends_the_run_before_it_begins(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("b.png")
    (tmp_path / "b.png").symlink_to("a.png")
    assert "leads nowhere but to itself" in refused(recon("run", scan, "-o", tmp_path / "a.png"))


def test_F32_a_link_that_somebody_else_made_is_replaced_and_not_followed(scan: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a link that is somebody else's; run the tests as root to try it")
    other = tmp_path / "other"
    other.write_bytes(b"before")
    (tmp_path / "a.png").symlink_to("other")
    os.lchown(tmp_path / "a.png", 12345, 12345)
    assert recon("run", scan, "-o", tmp_path / "a.png").code == 0
    assert not (tmp_path / "a.png").is_symlink()
    assert other.read_bytes() == b"before"


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
    if change is _zeros:  # never a black picture that says nothing
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


def test_F37_an_empty_slice_among_others_is_reported(tmp_path: Path) -> None:
    def empty(data: np.ndarray) -> None:
        data[1::2] = 0  # slices take turns

    end = run(spoilt(tmp_path / "in" / "scan.h5", empty, replace(SMALL, slices=2)), tmp_path / "out")
    assert "1 of 2 slices are zero everywhere" in end.err


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
def test_F38_F40_malicious_names_go_only_to_dicom_and_leave_it_valid(case: str, tmp_path: Path) -> None:
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


def test_F39_missing_patient_and_study_are_left_empty_and_kept_separate(tmp_path: Path) -> None:
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


@pytest.mark.skipif(sys.platform != "linux", reason="limits addresses as Linux does")
@pytest.mark.parametrize("suffix", [".cfl", ".npy"])
def test_a_scan_larger_than_the_addresses_of_a_process_names_the_limit(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan{suffix}"
    with path.open("wb") as file:  # 20 GB of holes
        if suffix == ".npy":
            header = {"descr": "<c8", "fortran_order": False, "shape": (30, 320, 512, 512)}
            np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + 30 * 320 * 512 * 512 * 8)
    (tmp_path / "scan.hdr").write_text("# Dimensions\n512 512 320 30\n")
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)); "
        "from recon.cli import main; main(sys.argv[1:])"
    )
    end = subprocess.run(
        [sys.executable, "-c", program, "info", str(path), *(("--axes", "coil,z,y,x") if suffix == ".npy" else ())],
        capture_output=True,
        text=True,
    )
    assert end.returncode == 1
    assert end.stderr.startswith(
        f"recon: scan{suffix} has 20.1 GB, more than this process may address; raise that limit"
    )
