"""Faults of scans by their numbers, F18 to F24: header, counters, samples, channels, order, directions."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest

from recon.data import Flag, RawScan, flagged
from recon.io import ismrmrd as mrd
from recon.io.provenance import read_back
from recon.io.samples import in_memory, join
from recon.simulation import simulate
from tests.command import SMALL, chosen, recon, refused, scan_file
from tests.fault_runs import picture, refuses, run, scene, spoilt
from tests.io import mrd_files as files
from tests.io.test_mrd_header import ACCEPTED, REFUSED
from tests.io.validators import errors

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


def test_F20_readouts_of_which_no_sample_is_on_the_grid_are_refused(tmp_path: Path) -> None:
    raw = simulate(SMALL)
    lines = raw.lines.copy()
    lines["center_sample"] = 65534
    path = scene(tmp_path / "in" / "scan.h5")
    mrd.write(path, replace(raw, lines=lines))
    assert "center_sample 65534" in refuses(path, tmp_path / "out")


@pytest.mark.parametrize("flag", [Flag.NOISE, Flag.PHASECORR])
def test_F20_lines_of_no_image_may_name_an_encoding_that_there_is_not(flag: Flag, tmp_path: Path) -> None:
    raw = simulate(replace(SMALL, trajectory="epi", coils=2))
    lines = raw.lines.copy()
    beside = flagged(lines, flag)
    assert beside.any()
    lines["encoding_space_ref"][beside] = 65535
    path = scene(tmp_path / "in" / "scan.h5")
    mrd.write(path, replace(raw, lines=lines))
    assert picture(run(path, tmp_path / "out"), tmp_path / "out").max() > 0


@pytest.mark.parametrize("stray", [1, 12])
@pytest.mark.parametrize("field", ["encoding_space_ref", "kspace_encode_step_1", "kspace_encode_step_2", "slice"])
def test_F20_stray_lines_are_left_out_with_a_note_and_many_end_the_run(field: str, stray: int, tmp_path: Path) -> None:
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
        assert "NaN or infinite" in end.err
        x = picture(end, tmp_path / "out")
        assert np.isfinite(x).all()
        assert x.std() > 0.5 * x.mean()
    assert "NaN or infinite" in recon("info", path).out


@pytest.mark.parametrize("noise", [True, False], ids=["noise scan", "no noise scan"])
@pytest.mark.parametrize("method", ["combine", "sense", "grappa"])
def test_F21_a_dead_coil_is_the_same_as_no_coil(method: str, noise: bool, tmp_path: Path) -> None:
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
    assert "1 channel holds only zeros: 2" in recon("info", a).out


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
def test_F22_lines_with_other_channels_are_left_out_with_a_note(kind: str, tmp_path: Path) -> None:
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
def test_F22_the_noise_that_was_used_is_stated(case: str, tmp_path: Path) -> None:
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
    assert "the position in the patient is unknown" in end.err
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
