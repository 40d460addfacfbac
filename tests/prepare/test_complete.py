"""Which side of k-space is missing, found from the samples alone, and what is done about it."""

from __future__ import annotations

import pytest
import torch

from recon.prepare.complete import complete
from recon.prepare.partial_fourier import homodyne, pocs

SHAPE = (16, 24, 32)
NAMES = {-3: "partitions", -2: "phase encodes", -1: "readout"}


def sampling(axis: int, first: int, last: int, step: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (kz, ky) and columns (kx,) where one axis was measured from `first` to `last`."""
    sampled, columns = torch.ones(SHAPE[:2], dtype=torch.bool), torch.ones(SHAPE[2], dtype=torch.bool)
    part = torch.zeros(SHAPE[axis], dtype=torch.bool)
    part[first : last + 1 : step] = True
    if axis == -3:
        sampled &= part[:, None]
    elif axis == -2:
        sampled &= part
    else:
        columns &= part
    return sampled, columns


@pytest.mark.parametrize("method", ["homodyne", "pocs"])
@pytest.mark.parametrize("axis", [-3, -2, -1])
@pytest.mark.parametrize("low", [True, False])
def test_the_axis_that_lacks_a_side_is_completed_and_named(axis: int, low: bool, method: str) -> None:
    n = SHAPE[axis]
    first, last = (n // 4, n - 1) if low else (0, n - 1 - n // 4)
    x = torch.randn(SHAPE, dtype=torch.complex64)
    out, notes = complete(x, *sampling(axis, first, last), method)  # type: ignore[arg-type]
    used = (
        homodyne(x, axis, (first, last + 1), keep_phase=True)
        if method == "homodyne"
        else pocs(x, axis, (first, last + 1))
    )
    assert torch.equal(out, used)
    assert notes == [f"partial Fourier along the {NAMES[axis]}, 75% of k-space: {method}"]


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_zero_filling_leaves_the_picture_and_says_so(axis: int) -> None:
    x = torch.randn(SHAPE, dtype=torch.complex64)
    out, notes = complete(x, *sampling(axis, SHAPE[axis] // 4, SHAPE[axis] - 1), "zero-fill")
    assert torch.equal(out, x)
    assert notes == [f"partial Fourier along the {NAMES[axis]}, 75% of k-space: zero-fill"]


def test_undersampling_is_no_partial_fourier() -> None:
    """Rows 0, 4, … 20 of 24 reach 12 below the centre and 8 above it: as far apart as two rows, and no more."""
    x = torch.randn(SHAPE, dtype=torch.complex64)
    out, notes = complete(x, *sampling(-2, 0, 23, step=4), "pocs")
    assert torch.equal(out, x)
    assert notes == []


def test_a_side_that_ends_farther_off_than_the_gap_is_missing_though_lines_are_left_out() -> None:
    x = torch.randn(SHAPE, dtype=torch.complex64)
    _, notes = complete(x, *sampling(-2, 6, 23, step=2), "pocs")
    assert notes == ["partial Fourier along the phase encodes, 71% of k-space: pocs"]


def test_an_axis_is_completed_on_the_grid_of_the_image_not_of_the_lines() -> None:
    """64 columns of an oversampled readout show as 32 voxels: columns 16 … 63 are samples 8 … 31 of the image."""
    x = torch.randn(SHAPE, dtype=torch.complex64)
    columns = torch.arange(64) >= 16
    out, _ = complete(x, torch.ones(SHAPE[:2], dtype=torch.bool), columns, "pocs")
    assert torch.equal(out, pocs(x, -1, (8, 32)))


def test_slabs_of_few_partitions_are_not_changed() -> None:
    x = torch.randn(6, 24, 32, dtype=torch.complex64)
    sampled = torch.ones(6, 24, dtype=torch.bool)
    sampled[:2] = False
    assert complete(x, sampled, torch.ones(32, dtype=torch.bool), "pocs")[1] == []
