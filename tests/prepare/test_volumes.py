"""Which volumes are complete, decided from frames alone: their counters, and how many phase encodes they have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.data import DataError
from recon.prepare.sort import Frame
from recon.prepare.stacks import Stack
from recon.prepare.volumes import whole_volumes
from tests.prepare.lines import encoding

_N = 40


def series(repetitions: int = 3, slices: int = 2, contrasts: int = 1) -> list[Frame]:
    frame = Frame(contrast=0, phase=0, repetition=0, set=0, slice=0, rows=np.arange(0), encodes=_N)
    return [
        replace(frame, contrast=c, repetition=r, slice=s)
        for r in range(repetitions)
        for c in range(contrasts)
        for s in range(slices)
    ]


def whole(frames: list[Frame], slices: tuple[int, ...] = (0, 1)) -> tuple[tuple[str, ...], list[int], list[str]]:
    """The counters that vary, the repetition of each volume that is left, and what is said of the others."""
    stack = Stack(slices, None)  # type: ignore[arg-type]
    axes, volumes, found, notes = whole_volumes(frames, stack, encoding(16, _N))
    assert list(found) == [(n, k) for n in range(len(volumes)) for k in range(len(slices))]
    assert all(f.slice == slices[k] for (_, k), f in found.items())
    return axes, [f.repetition for (_, k), f in found.items() if k == 0], notes


def test_counters_that_vary_are_axes_and_slices_come_in_the_order_of_the_stack() -> None:
    assert whole(series(), (1, 0)) == (("repetition",), [0, 1, 2], [])
    assert whole(series(2, contrasts=2)) == (("contrast", "repetition"), [0, 1, 0, 1], [])


@pytest.mark.parametrize(("encodes", "left"), [(37, [0, 1]), (38, [0, 1, 2]), (39, [0, 1, 2])])
def test_a_last_repetition_is_an_image_where_at_most_a_twentieth_of_its_lines_is_missing(
    encodes: int, left: list[int]
) -> None:
    frames = series()
    frames[-1] = replace(frames[-1], encodes=encodes, complete=False)
    _, kept, notes = whole(frames)
    assert (kept, len(notes)) == (left, int(len(left) < 3))


def test_fewer_lines_in_a_pattern_that_is_complete_or_before_the_end_are_an_image() -> None:
    for at, complete in ((-1, True), (2, False)):
        frames = series()
        frames[at] = replace(frames[at], encodes=20, complete=complete)
        assert whole(frames)[1:] == ([0, 1, 2], [])


def test_a_last_repetition_of_fewer_random_lines_is_an_image_where_its_last_line_says_that_it_ended() -> None:
    frames = series()
    frames[-2:] = [replace(f, encodes=30, complete=False, ended=True) for f in frames[-2:]]
    assert whole(frames)[1:] == ([0, 1, 2], [])
    frames[-1] = replace(frames[-1], ended=False)  # one slice was cut short
    assert whole(frames)[1] == [0, 1]


def test_a_scan_of_one_repetition_that_was_cut_short_is_what_there_is() -> None:
    frames = [replace(f, encodes=20 + 10 * f.slice, complete=False) for f in series(1)]
    assert whole(frames)[1:] == ([0], [])


def test_contrasts_that_not_every_repetition_has_are_refused() -> None:
    frames = [f for f in series(2, contrasts=2) if (f.contrast, f.repetition) != (1, 1)]
    with pytest.raises(DataError, match="1 of 4 combinations of contrast, repetition were not acquired"):
        whole(frames)


@pytest.mark.parametrize(("encodes", "refused"), [(1, True), (2, True), (3, False)])
def test_counters_that_leave_a_line_or_two_for_each_image_are_refused(encodes: int, refused: bool) -> None:
    frames = [replace(f, encodes=encodes) for f in series(20, 1)]
    if refused:
        with pytest.raises(DataError, match=f"20 images of at most {encodes} phase encodes each"):
            whole(frames, (0,))
    else:
        assert len(whole(frames, (0,))[1]) == 20
