from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import ismrmrd
import numpy as np
import pytest

from recon import info
from recon.data import DataError, Header, Patient, Study
from recon.io import ismrmrd as mrd
from recon.io.read import read
from tests.io import mrd_files as files


def test_the_report_of_an_accelerated_scan_says_what_was_asked_of_the_generator(tmp_path: Path) -> None:
    path = files.generate(tmp_path / "s.h5", "-m", "64", "-c", "3", "-a", "2", "-w", "8", "-C", "-r", "2", "-n", "0.01")
    report = info.describe(mrd.read(path))
    assert report.sampling is not None
    assert report.sampling.acceleration == (2, 1)
    assert report.noise == {"lines": 1, "samples": 128, "dwell_us": 5.0}
    assert report.frames == {"all": 4, "incomplete": 0}
    assert report.readout["oversampling"] == 2
    assert report.system["channels"] == 3
    assert not report.geometry[0]["known"]
    text = info.text(report)
    for part in ("128×64×1 over 600×300×6 mm", "R = 2×1", "noise scan   1 line,", "position in the patient unknown"):
        assert part in text


def test_the_report_is_json(tmp_path: Path) -> None:
    report = info.describe(mrd.read(files.scan_file(tmp_path / "scan.h5")))
    assert json.loads(info.as_json(report))["encodings"][0]["encoded_matrix"] == [32, 24, 1]


def test_the_patient_is_not_in_the_report(tmp_path: Path) -> None:
    scan = mrd.read(files.scan_file(tmp_path / "scan.h5"))
    secret = "Secret"
    header = Header(
        Patient(secret, secret, secret, "F", 70.0),
        Study(secret, secret, secret, secret, secret, secret, secret, secret, protocol=secret, measurement_id=secret),
        user={secret: secret},
    )
    report = info.describe(replace(scan, header=header))
    assert secret not in info.text(report) + info.as_json(report) + repr(report)


def geometry(a: ismrmrd.Acquisition, n: int, *, angle: float = 0.0) -> None:
    c, s = np.cos(angle), np.sin(angle)
    a.read_dir[:], a.phase_dir[:], a.slice_dir[:] = (1, 0, 0), (0, c, s), (0, -s, c)
    a.idx.slice = n % 3
    a.position[:] = tuple(5.0 * (n % 3) * np.array([0, -s, c]))


def test_orientation_and_spacing_are_reported(tmp_path: Path) -> None:
    limits = files.XML.replace("<slice><minimum>0</minimum><maximum>0<", "<slice><minimum>0</minimum><maximum>2<")
    path = files.scan_file(tmp_path / "scan.h5", lambda a, n: geometry(a, n, angle=np.radians(20)), limits)
    (volume,) = info.describe(mrd.read(path)).geometry
    assert volume["orientation"] == "axial, oblique by 20°"
    assert volume["slices"] == 3
    assert volume["voxel_mm"] == (15.0, 10.0, 5.0)
    assert volume["thickness_mm"] == 6


@pytest.mark.parametrize(
    ("normal", "name"),
    [
        ((0, 0, -1.0), "axial"),
        ((1.0, 0, 0), "sagittal"),
        ((0, 1.0, 0), "coronal"),
        ((0, 0.6, 0.8), "axial, oblique by 37°"),
    ],
)
def test_orientations_have_their_names(normal: tuple[float, float, float], name: str) -> None:
    assert info.orientation(normal) == name


ODD = {
    "nothing": (None, files.XML, None),
    "centre unset": (lambda a, n: setattr(a, "center_sample", 0), files.XML, "center_sample is 0 in 24 of 24"),
    "limit too high": (
        None, files.XML.replace("<maximum>0<", "<maximum>4<"), "slice ends at 4, but the lines go up to 0",
    ),
    "stopped early": (
        None, files.XML.replace("<y>24</y>", "<y>48</y>").replace("<maximum>23<", "<maximum>47<"), "stopped early",
    ),
    "acceleration": (
        None,
        files.XML.replace(
            "</trajectory>",
            "</trajectory><parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
            "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor></parallelImaging>",
        ),
        "is 2×1, but the lines are 1×1 undersampled",
    ),
    "recon beyond": (None, files.XML.replace("<x>240</x>", "<x>960</x>"), "asks for 960 mm along x where 480 mm"),
    "Siemens centre": (
        lambda a, n: a.idx.user.__setitem__(5, 10),
        files.XML.replace(
            "<experimentalC",
            "<acquisitionSystemInformation><systemVendor>SIEMENS</systemVendor></acquisitionSystemInformation>"
            "<experimentalC",
        ),
        r"center is 12, the lines' user\[5\] says 10",
    ),
    "field": (
        None,
        files.XML.replace(
            "<experimentalC",
            "<acquisitionSystemInformation><systemFieldStrength_T>3</systemFieldStrength_T>"
            "</acquisitionSystemInformation><experimentalC",
        ),
        "states 3 T, but a proton frequency that belongs to 1.49 T",
    ),
    "NaN": (lambda a, n: a.data.__setitem__((0, 3), np.nan) if n == 7 else None, files.XML, "1 of 24 inspected lines"),
    "dead channel": (lambda a, n: a.data.__setitem__(1, 0), files.XML, "1 channel holds only zeros: 1"),
    "crooked": (lambda a, n: a.read_dir.__setitem__(0, 2.0), files.XML, "not orthogonal unit vectors"),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_a_broken_rule_is_found(case: str, tmp_path: Path) -> None:
    change, xml, sentence = ODD[case]

    def both(a: ismrmrd.Acquisition, n: int) -> None:
        a.read_dir[:], a.phase_dir[:], a.slice_dir[:] = (1, 0, 0), (0, 1, 0), (0, 0, 1)
        if change is not None:
            change(a, n)

    path = files.scan_file(tmp_path / "scan.h5", both, xml)
    before = files.digest(path)
    report = info.describe(mrd.read(path))
    if sentence is None:
        assert report.findings == ()
    else:
        assert re.search(sentence, "\n".join(report.findings)), report.findings
    assert files.digest(path) == before


def test_what_will_be_ignored_is_counted(tmp_path: Path) -> None:
    def change(a: ismrmrd.Acquisition, n: int) -> None:
        if n in (1, 2):
            a.setFlag(ismrmrd.ACQ_IS_NAVIGATION_DATA)
        if n == 3:
            a.idx.slice = 9

    report = info.describe(mrd.read(files.scan_file(tmp_path / "scan.h5", change)))
    assert report.ignored == {"navigation": 2}
    assert report.rejected == 1
    text = info.text(report)
    assert "ignored      2 navigation" in text
    assert "rejected     1 imaging line" in text


def test_a_scan_with_only_noise_lines_is_refused(tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5", lambda a, n: a.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT))
    with pytest.raises(DataError, match="none of the 24 lines is an imaging line"):
        info.describe(mrd.read(path))


def test_real_scans_are_described(data_dir: Path) -> None:
    scan = read(data_dir / "public_test" / "sigpy_brain_8ch_prospectively_masked.npz", axes=("coil", "y", "x"))
    report = info.describe(scan)
    assert report.sampling is not None
    assert report.system["channels"] == 8
    assert "irregular" in info.text(report)
