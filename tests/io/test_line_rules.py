"""Stray lines, and headers as converters and simulators write them: wrong centres and limits, no place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ismrmrd
import numpy as np
import pytest

import recon
from recon.data import DataError, Flag, Limit, RawScan, flag_bits
from recon.io import ismrmrd as mrd
from recon.io import line_rules
from recon.io.arrays import scan_from_array
from recon.prepare import sort
from recon.prepare.stacks import stacks
from tests.io import mrd_files as files


def test_compressed_lines_are_refused(tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "s.h5", lambda a, n: a.setFlag(ismrmrd.ACQ_COMPRESSION2) if n == 3 else None)
    with pytest.raises(DataError, match="1 of 24 lines hold compressed"):
        mrd.read(path)


STRAY = {
    "encoding_space_ref": (lambda a: setattr(a, "encoding_space_ref", 7), "encoding_space_ref beyond the 1 encodings"),
    "the next encoding": (lambda a: setattr(a, "encoding_space_ref", 1), "encoding_space_ref beyond the 1 encodings"),
    "ke1": (lambda a: setattr(a.idx, "kspace_encode_step_1", 24), "kspace_encode_step_1 outside the encoded matrix 24"),
    "ke2": (lambda a: setattr(a.idx, "kspace_encode_step_2", 1), "kspace_encode_step_2 outside the encoded matrix 1"),
    "slice": (lambda a: setattr(a.idx, "slice", 3), "counter slice beyond its limit"),
    "discards": (lambda a: (setattr(a, "discard_pre", 20), setattr(a, "discard_post", 12)), "discard all"),
}


@pytest.mark.parametrize("fault", STRAY)
@pytest.mark.parametrize("count", [1, 2])
def test_stray_lines_are_left_out_and_counted_and_many_are_an_error(fault: str, count: int, tmp_path: Path) -> None:
    change, sentence = STRAY[fault]
    path = files.scan_file(tmp_path / "scan.h5", lambda a, n: change(a) if 0 < n <= count else None)
    before = files.digest(path)
    if count == 1:  # 1 of 24 is below 5 %
        scan = mrd.read(path)
        assert scan.rejected == 1
        assert len(scan.lines) == 23
        assert any(sentence in note for note in scan.notes)
        np.testing.assert_array_equal(scan.samples.read(np.array([1]))[0], files.kspace()[:, 2])
    else:
        with pytest.raises(DataError, match=sentence):
            mrd.read(path)
    assert files.digest(path) == before


@pytest.mark.parametrize(("n", "refused"), [(20, True), (21, False)])
def test_one_line_in_twenty_is_too_many_and_one_in_twenty_one_is_not(n: int, refused: bool) -> None:
    scan = scan_from_array(np.ones((1, n, 8), np.complex64), "coil,y,x")
    lines = scan.lines.copy()
    lines["kspace_encode_step_1"][3] = n
    if refused:
        with pytest.raises(DataError, match="1 of 20 imaging lines cannot be placed"):
            line_rules.check(lines, scan.encodings)
    else:
        assert line_rules.check(lines, scan.encodings)[2] == 1


def test_stray_calibration_only_lines_are_left_out_and_do_not_count_as_image_lines() -> None:
    scan = scan_from_array(np.ones((1, 24, 8), np.complex64), "coil,y,x")
    lines = scan.lines.copy()
    lines["flags"][:8] |= np.uint64(flag_bits(Flag.CALIBRATION))
    lines["kspace_encode_step_1"][:4] = 24
    kept, notes, rejected = line_rules.check(lines, scan.encodings)
    assert (np.nonzero(~kept)[0].tolist(), rejected) == ([0, 1, 2, 3], 0)
    assert len(notes) == 1


def test_stray_noise_and_navigator_lines_are_not_counted(tmp_path: Path) -> None:
    def change(a: ismrmrd.Acquisition, n: int) -> None:
        if n < 6:
            a.setFlag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT if n % 2 else ismrmrd.ACQ_IS_NAVIGATION_DATA)
            a.encoding_space_ref, a.idx.kspace_encode_step_1 = 9, 999

    scan = mrd.read(files.scan_file(tmp_path / "scan.h5", change))
    assert (scan.rejected, len(scan.lines)) == (0, 24)


def test_a_limit_that_excludes_whole_slices_is_not_trusted(tmp_path: Path) -> None:
    scan = mrd.read(files.scan_file(tmp_path / "scan.h5", lambda a, n: setattr(a.idx, "slice", n % 3)))
    assert (scan.rejected, len(scan.lines)) == (0, 24)
    assert any("limit of slice is 0, but the lines count up to 2" in note for note in scan.notes)


@pytest.mark.parametrize(("every", "count"), [(2, 12), (1, 24)])
def test_counters_beyond_their_limit_after_a_gap_are_not_trusted(every: int, count: int, tmp_path: Path) -> None:
    path = files.scan_file(tmp_path / "scan.h5", lambda a, n: setattr(a.idx, "slice", 9 if n % every == 0 else 0))
    with pytest.raises(DataError, match=f"{count} have a counter slice beyond its limit"):
        mrd.read(path)


def test_missing_limits_are_filled_in_where_all_lines_are_there(tmp_path: Path) -> None:
    start, end = files.XML.index("<encodingLimits>"), files.XML.index("</encodingLimits>")
    xml = files.XML[:start] + "<encodingLimits>" + files.XML[end:]
    scan = mrd.read(files.scan_file(tmp_path / "full.h5", xml=xml))
    ky, _, valid = sort.row_index(scan.lines, scan.encodings[0])
    assert valid.all()
    np.testing.assert_array_equal(ky, np.arange(24))
    lines = [files.line(files.kspace(), y) for y in range(20)]
    scan = mrd.read(files.save(tmp_path / "partial.h5", lines, xml))
    with pytest.raises(DataError, match="no encodingLimits/kspace_encoding_step_1 and only 20 of 24"):
        sort.row_index(scan.lines, scan.encodings[0])


#: A matrix of 24 rows that begins at line `first`, and the centre that the header states.
CENTRES = {
    "(max - min) // 2": (0, 11),
    "zero": (0, 0),
    "counted from 1, centre from 0": (1, 12),
    "counted from 1, halved": (1, 0),
    "beyond the lines": (0, 24),
}


def _plain(rows: int = 40) -> RawScan:
    return scan_from_array(np.ones((1, rows, 16), np.complex64), "coil,y,x")


def _numbered(first: int) -> Callable[[ismrmrd.Acquisition, int], None]:
    return lambda a, n: setattr(a.idx, "kspace_encode_step_1", n + first)


@pytest.mark.parametrize("name", CENTRES)
def test_a_centre_with_which_lines_would_not_fit_is_put_right(name: str, tmp_path: Path) -> None:
    first, centre = CENTRES[name]
    xml = files.XML.replace("<maximum>23</maximum><center>12<", f"<maximum>{23 + first}</maximum><center>{centre}<")
    scan = mrd.read(files.scan_file(tmp_path / "scan.h5", _numbered(first), xml))
    ky, _, valid = sort.row_index(scan.lines, scan.encodings[0])
    assert valid.all()
    assert list(ky) == list(range(24))
    assert scan.rejected == 0
    beside = f"puts {abs(12 + first - centre)} of 24 lines outside the grid; {12 + first} is used"
    assert any(f"centre at {centre}, which {beside}" in note for note in scan.notes)


def test_a_scan_counted_from_one_without_limits_keeps_all_of_its_lines(tmp_path: Path) -> None:
    start, end = files.XML.index("<encodingLimits>"), files.XML.index("<trajectory>")
    path = files.scan_file(tmp_path / "scan.h5", _numbered(1), files.XML[:start] + files.XML[end:])
    scan = mrd.read(path)
    assert list(sort.row_index(scan.lines, scan.encodings[0])[0]) == list(range(24))
    assert any("the centre is 13" in note for note in scan.notes)


def test_one_partition_whose_centre_is_one_is_read(tmp_path: Path) -> None:
    limits = (
        "<kspace_encoding_step_2><minimum>0</minimum><maximum>0</maximum><center>1</center></kspace_encoding_step_2>"
    )
    xml = files.XML.replace("<slice><minimum>", limits + "<slice><minimum>")
    assert len(mrd.read(files.scan_file(tmp_path / "scan.h5", xml=xml)).lines) == 24


def test_a_stray_line_does_not_move_the_centre_of_a_partial_fourier_scan(tmp_path: Path) -> None:
    def change(a: ismrmrd.Acquisition, n: int) -> None:
        a.idx.kspace_encode_step_1 = 47 if n == 23 else n

    xml = files.XML.replace("<y>24</y>", "<y>48</y>").replace("<center>12<", "<center>10<")
    scan = mrd.read(files.scan_file(tmp_path / "scan.h5", change, xml))
    assert (scan.rejected, len(scan.lines)) == (1, 23)
    assert list(sort.row_index(scan.lines, scan.encodings[0])[0]) == list(range(14, 37))


def test_a_centre_that_fits_is_kept(tmp_path: Path) -> None:
    xml = files.XML.replace("<y>24</y>", "<y>30</y>").replace("<center>12<", "<center>14<")
    scan = mrd.read(files.scan_file(tmp_path / "scan.h5", xml=xml))
    assert list(sort.row_index(scan.lines, scan.encodings[0])[0]) == list(range(1, 25))


def test_readouts_of_twice_the_matrix_are_taken_to_be_oversampled(tmp_path: Path) -> None:
    said = mrd.read(files.scan_file(tmp_path / "said.h5"))
    xml = files.XML.replace("<x>32</x>", "<x>16</x>").replace("<x>480</x>", "<x>240</x>")
    silent = mrd.read(files.scan_file(tmp_path / "silent.h5", xml=xml))
    assert silent.encodings == said.encodings
    assert any("oversampled twofold, over 480 mm" in note for note in silent.notes)


@pytest.mark.parametrize("kind", ["lines", "spokes"])
def test_k_space_positions_decide_whether_a_scan_without_trajectory_is_cartesian(kind: str, tmp_path: Path) -> None:
    k, lines = files.kspace(), []
    steps = (np.arange(32) - 16) / 0.48  # cycles per metre
    for n in range(24):
        angle = np.pi * n / 24 if kind == "spokes" else 0.0
        across = 0.0 if kind == "spokes" else (n - 12) / 0.24
        positions = np.stack([steps * np.cos(angle), steps * np.sin(angle) + across, 0 * steps], axis=1)
        line = ismrmrd.Acquisition.from_array(np.ascontiguousarray(k[:, n]), positions.astype(np.float32))
        line.center_sample, line.idx.kspace_encode_step_1 = 16, n
        lines.append(line)
    xml = files.XML.replace("<trajectory>cartesian</trajectory>", "")
    scan = mrd.read(files.save(tmp_path / "scan.h5", lines, xml))
    assert scan.encodings[0].trajectory == {"lines": "cartesian", "spokes": "other"}[kind]
    assert any("are not on a Cartesian grid" in note for note in scan.notes) == (kind == "spokes")


def _places(change: Callable[[ismrmrd.Acquisition, int], None], folder: Path) -> list[tuple]:
    """Stacks, as (places known, shape, voxel, thickness, direction of columns), of three slices of 24 lines."""
    k = files.kspace()
    lines = [files.line(k, n, slice=s) for s in range(3) for n in range(24)]
    for line in lines:
        line.read_dir[:], line.phase_dir[:], line.slice_dir[:] = (1, 0, 0), (0, 0.6, 0.8), (0, -0.8, 0.6)
        line.position[:] = (0, -0.8 * 7 * line.idx.slice, 0.6 * 7 * line.idx.slice)
        change(line, line.idx.slice)
    xml = files.XML.replace("<maximum>0</maximum>", "<maximum>2</maximum>")
    scan = mrd.read(files.save(folder / "scan.h5", lines, xml))
    found = [s.geometry for s in stacks(scan, np.arange(72), scan.encodings[0])]
    return [
        (g.known, g.shape, tuple(np.round(g.voxel, 4)), g.thickness, tuple(np.round(g.phase_dir, 4))) for g in found
    ]


def test_a_slice_direction_that_is_missing_is_that_of_read_and_phase(tmp_path: Path) -> None:
    def silent(a: ismrmrd.Acquisition, n: int) -> None:
        a.slice_dir[:] = (0, 0, 0)

    assert _places(silent, tmp_path) == [(True, (3, 24, 16), (15, 10, 7), 6, (0, 0.6, 0.8))]


def test_planes_through_the_isocentre_keep_their_place(tmp_path: Path) -> None:
    ways = ((1, 0, 0), (0, 1, 0), (0, 0, 1))

    def plane(a: ismrmrd.Acquisition, n: int) -> None:
        a.position[:] = (0, 0, 0)
        a.read_dir[:], a.phase_dir[:], a.slice_dir[:] = ways[n], ways[(n + 1) % 3], ways[(n + 2) % 3]

    assert [(known, shape) for known, shape, *_ in _places(plane, tmp_path)] == [(True, (1, 24, 16))] * 3


def test_directions_that_a_file_rounds_are_orthonormal_to_the_last_digit(tmp_path: Path) -> None:
    def rounded(a: ismrmrd.Acquisition, n: int) -> None:
        a.read_dir[:], a.phase_dir[:], a.slice_dir[:] = (
            (0.928, 0.309, -0.206),
            (-0.357, 0.897, -0.259),
            (-0.105, -0.314, -0.943),
        )

    _places(rounded, tmp_path)
    scan = mrd.read(tmp_path / "scan.h5")
    (g,) = (s.geometry for s in stacks(scan, np.arange(72), scan.encodings[0])[:1])
    d = np.array([g.read_dir, g.phase_dir, g.slice_dir])
    np.testing.assert_allclose(d @ d.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(d[2], (-0.105, -0.314, -0.943), atol=2e-3)


def test_slices_that_all_lie_at_zero_make_one_volume_of_unknown_place(tmp_path: Path) -> None:
    found = _places(lambda a, n: setattr(a, "position", (0, 0, 0)), tmp_path)
    assert found == [(False, (3, 24, 16), (15, 10, 6), 6, (0, 1, 0))]


def test_a_scan_whose_counters_number_single_lines_is_refused(tmp_path: Path) -> None:
    def change(a: ismrmrd.Acquisition, n: int) -> None:
        a.idx.contrast, a.idx.repetition = n % 4, n // 4

    scan = mrd.read(files.scan_file(tmp_path / "scan.h5", change))
    with pytest.raises(DataError, match="24 images of at most 1 phase encodes each"):
        recon.reconstruct(scan)


#: Lines in each of four slices, of which the header names three, and whether the header is believed.
FILLED = {
    "half as many as in the others": ([28, 28, 29, 15], False),
    "fewer than half as many": ([29, 29, 28, 14], True),
    "hardly any": ([32, 32, 32, 4], True),
}


@pytest.mark.parametrize("case", FILLED)
def test_a_limit_is_wrong_where_the_lines_beyond_it_are_about_as_many_as_those_within(case: str) -> None:
    filled, believed = FILLED[case]
    scan = _plain(100)
    scan.lines["slice"] = np.repeat(np.arange(4), filled)
    (e,) = scan.encodings
    told = replace(e, limits={**e.limits, "slice": Limit(0, 2, 1)})
    if filled[3] < 5 or not believed:
        kept, notes, rejected = line_rules.check(scan.lines, (told,))
        assert rejected == np.count_nonzero(~kept) == (filled[3] if believed else 0)
        assert ["of the lines are used" in note for note in notes] == [not believed]
    else:
        with pytest.raises(DataError, match="14 have a counter slice beyond its limit"):
            line_rules.check(scan.lines, (told,))


def test_lines_that_miss_their_centre_by_two_or_that_fit_are_left_where_they_are() -> None:
    scan = _plain(100)
    (e,) = scan.encodings

    def centre(said: int) -> int:
        told = replace(e, limits={**e.limits, "kspace_encoding_step_1": Limit(0, 99, said)})
        return line_rules.complete_limits(scan.lines, (told,))[0][0].limits["kspace_encoding_step_1"].center

    # Two lines beside the grid are left out with a note; one may be a converter's, five are too many.
    assert [centre(c) for c in (50, 49, 51, 48, 52, 45, 55, 99, 100)] == [50, 50, 50, 48, 52, 50, 50, 50, 50]


def test_a_centre_outside_all_lines_is_corrected_however_few_lie_outside_the_grid() -> None:
    """Of half of k-space and one stray line, which alone misses the grid."""
    scan = _plain(40)
    (e,) = scan.encodings
    told = replace(e, limits={**e.limits, "kspace_encoding_step_1": Limit(0, 39, 40)})
    few = scan.lines[[0, *range(20, 40)]]
    assert line_rules.complete_limits(few, (told,))[0][0].limits["kspace_encoding_step_1"].center == 20


def test_limits_are_not_filled_in_where_lines_are_missing() -> None:
    scan = _plain(33)
    (e,) = scan.encodings
    bare = replace(e, limits={})
    (found,), notes = line_rules.complete_limits(scan.lines[::2], (bare,))
    assert "kspace_encoding_step_1" not in found.limits
    assert notes == ()
    (found,), notes = line_rules.complete_limits(scan.lines, (bare,))
    assert found.limits["kspace_encoding_step_1"] == Limit(0, 32, 16)
    assert len(notes) == 1


@pytest.mark.parametrize(("other", "count"), [("slice", 1), ("number_of_samples", 1)])
def test_a_line_that_breaks_two_rules_is_counted_once(other: str, count: int) -> None:
    scan = _plain(100)
    lines = scan.lines.copy()
    lines["kspace_encode_step_1"][3] = 100
    lines[other][3] = 5 if other == "slice" else 0
    (e,) = scan.encodings
    kept, notes, rejected = line_rules.check(lines, (replace(e, limits={**e.limits, "slice": Limit(0, 0, 0)}),))
    assert rejected == np.count_nonzero(~kept) == count
    assert len(notes) == 1
    assert " and " not in notes[0]


WIDER: dict[str, Callable[[np.ndarray], None]] = {
    "centre": lambda lines: lines["center_sample"].__setitem__(slice(None), 4),
    "one shorter": lambda lines: lines["number_of_samples"].__setitem__(3, 15),
}


@pytest.mark.parametrize("name", ["all alike", "a finer image", *WIDER])
def test_readouts_are_assumed_oversampled_only_if_nothing_contradicts_it(name: str) -> None:
    scan = _plain()
    (e,) = scan.encodings
    said = replace(e, encoded_matrix=(8, *e.encoded_matrix[1:]), recon_matrix=(8, *e.recon_matrix[1:]))
    if name == "a finer image":
        said = replace(said, recon_matrix=(16, *e.recon_matrix[1:]))
    elif name in WIDER:
        WIDER[name](scan.lines)
    (found,), notes = line_rules.oversampled(scan.lines, (said,))
    assert (found.encoded_matrix[0], len(notes)) == ((16, 1) if name == "all alike" else (8, 0))


@pytest.mark.parametrize("kind", ["equal steps", "steps that grow", "bent", "one short"])
def test_lines_are_cartesian_where_they_run_along_one_axis_in_equal_steps(kind: str) -> None:
    scan = _plain()
    scan.lines["trajectory_dimensions"] = 2
    step = np.linspace(-1, 1, 16)
    k = np.zeros((40, 16, 2), np.float32)
    k[..., 0], k[..., 1] = step, np.linspace(-1, 1, 40)[:, None]
    if kind == "steps that grow":
        k[..., 0] = step * np.abs(step)
    elif kind == "bent":
        k[..., 1] += 0.1 * step**2
    elif kind == "one short":
        k[7, :, 0] *= 0.9
    (found,), notes = line_rules.off_grid(scan.lines, scan.encodings, lambda rows: k[rows])
    assert (found.trajectory, len(notes)) == (("cartesian", 0) if kind == "equal steps" else ("other", 1))
