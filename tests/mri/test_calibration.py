"""Which lines calibrate a frame of a Cartesian scan; the tables of lines are made here, their samples are not read."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recon import pipeline, recipe
from recon.data import Flag, flag_bits
from recon.io.arrays import scan_from_array
from recon.mri.calibration import calibrating_rows
from recon.prepare import hybrid, sort
from recon.simulation import preset, simulate

_N = 32
_ACS, _WIDE, _EVEN, _ODD = range(10, 22), range(6, 26), range(0, _N, 2), range(1, _N, 2)
_COUNTERS = ("slice", "contrast", "set", "phase", "repetition")

#: Whether lines calibrate, their phase encodes, and their counters.
Group = tuple[bool, range, dict[str, int]]


def chosen(groups: list[Group], **frame: int) -> list[int]:
    """The groups of lines that calibrate a frame, by their number; `frame` names its counters."""
    scan = scan_from_array(np.ones((1, _N, 8), np.complex64), "coil,y,x")
    of = np.repeat(np.arange(len(groups)), [len(steps) for _, steps, _ in groups])
    lines = np.concatenate([scan.lines[list(steps)] for _, steps, _ in groups])
    for n, (calibrates, _, counters) in enumerate(groups):
        for name, value in counters.items():
            lines[name][of == n] = value
        if calibrates:
            lines["flags"][of == n] |= np.uint64(flag_bits(Flag.CALIBRATION))
    scan = replace(scan, lines=lines)
    kinds, (encoding,) = sort.kinds(scan), scan.encodings
    frames = sort.frames(scan, kinds.imaging)
    job = SimpleNamespace(
        scan=scan, kinds=kinds, encoding=encoding, recipe=recipe.parse({}), frames=dict(enumerate(frames))
    )
    (one,) = (f for f in frames if all(getattr(f, c) == frame.get(c, 0) for c in _COUNTERS))
    rows = calibrating_rows(job, one, hybrid.counts(scan, one.rows, encoding))  # type: ignore[arg-type]
    found = sorted({int(n) for n in of[rows]})
    assert len(rows) == sum(len(groups[n][1]) for n in found), "a group is used whole"
    return found


@pytest.mark.parametrize("counter", _COUNTERS)
def test_lines_of_the_same_slice_contrast_set_phase_and_repetition_come_first(counter: str) -> None:
    groups = [(kind, steps, {counter: n}) for n in (0, 1) for kind, steps in ((False, _EVEN), (True, _ACS))]
    assert [chosen(groups, **{counter: n}) for n in (0, 1)] == [[1], [3]]


@pytest.mark.parametrize("counter", _COUNTERS)
def test_a_scan_that_calibrates_once_serves_everything_but_other_slices(counter: str) -> None:
    groups: list[Group] = [(False, _EVEN, {}), (True, _ACS, {}), (False, _EVEN, {counter: 1})]
    assert chosen(groups) == [1]
    assert chosen(groups, **{counter: 1}) == ([2] if counter == "slice" else [1])


@pytest.mark.parametrize(("flagged", "used"), [(_ACS, [0]), (_WIDE, [1])])
def test_lines_of_the_image_calibrate_where_they_are_more(flagged: range, used: list[int]) -> None:
    assert chosen([(False, range(8, 24), {}), (True, flagged, {})]) == used


def test_where_they_are_as_many_the_lines_that_were_measured_for_it_calibrate() -> None:
    assert chosen([(False, _ACS, {}), (True, _ACS, {})]) == [1]


@pytest.mark.parametrize("counter", _COUNTERS)
def test_repetitions_and_phases_that_interleave_calibrate_one_another_and_nothing_else_does(counter: str) -> None:
    groups: list[Group] = [(False, _EVEN, {}), (False, _ODD, {counter: 1})]
    assert chosen(groups) == ([0, 1] if counter in ("phase", "repetition") else [0])


def test_calibration_only_lines_are_not_averaged_over_the_series() -> None:
    assert chosen([(False, _WIDE, {}), (False, range(_N), {"repetition": 1})]) == [0]
    assert chosen([(False, _EVEN, {}), (True, _ACS, {}), (False, _ODD, {"repetition": 1})]) == [1]


@pytest.mark.parametrize(
    "how", [{"espirit_kernel": 3}, {"espirit_threshold": 0.3}, {"espirit_crop": 0.999}, {"map_sets": 2}]
)
def test_maps_are_made_as_the_recipe_wants_them(how: dict[str, Any]) -> None:
    scan = simulate(preset(matrix=32, coils=4, accel=2))
    usual, other = (
        pipeline.reconstruct(scan, recipe.parse({"solve": {"method": "sense"}, "prepare": p}), device="cpu").data
        for p in ({}, how)
    )
    assert not np.array_equal(usual, other)
    assert np.linalg.norm(np.abs(usual) - np.abs(other)) < 0.5 * np.linalg.norm(usual)
