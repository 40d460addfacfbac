"""The step of a series is decided once, by the first of its images that shows anything."""

from __future__ import annotations

import numpy as np
import pytest

from recon.data import Image
from recon.io.mrd_image import HEAD_ROOM, TOP
from recon.serve.whole_numbers import Steps
from tests.io.pictures import RECIPE, picture


def bright(peak: float) -> Image:
    return picture(data=picture().data * np.float32(peak / 30000), provenance={**RECIPE, "noise": "none"})


def test_later_images_keep_the_step_of_the_first_however_bright_they_are() -> None:
    known = Steps(("magnitude",), later=True)
    assert not known.known(0)
    first = dict(known.steps_of(0, bright(100.0)))
    assert first["magnitude"] == pytest.approx(HEAD_ROOM * 100 / TOP)
    assert known.known(0)
    assert known.steps_of(0, bright(3000.0)) == first


def test_each_series_has_its_own_step() -> None:
    known = Steps(("magnitude",), later=False)
    steps = [known.steps_of(series, bright(100.0 * (series + 1)))["magnitude"] for series in range(3)]
    assert steps == pytest.approx([100 * n / TOP for n in (1, 2, 3)])
    assert not known.known(3)


def test_a_part_that_was_zero_so_far_is_decided_by_the_first_that_is_not_and_changes_no_other() -> None:
    known = Steps(("phase", "magnitude"), later=False)
    dark = picture(data=np.zeros((3, 7, 6), np.complex64))
    assert set(known.steps_of(0, dark)) == {"phase"}
    assert not known.known(0)
    found = dict(known.steps_of(0, bright(50.0)))
    assert found["magnitude"] == pytest.approx(50 / TOP)
    assert known.known(0)


def test_parts_that_are_known_stay_while_others_are_waited_for() -> None:
    known = Steps(("real", "imag"), later=False)
    data = picture().data.astype(np.complex64)
    first = known.steps_of(0, picture(data=data))["real"]
    assert set(known.steps_of(0, picture(data=data * (2 + 2j)))) == {"real", "imag"}
    assert known.steps_of(0, picture(data=data * 9))["real"] == first
