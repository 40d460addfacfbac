"""Undersampling of full scans: volumes, calibration lines, empty rows, what has no reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.accuracy.undersample import acs_lines, mask_of, measured, undersample
from recon.data import DataError, RawScan
from recon.io.arrays import scan_from_array
from recon.io.read import read
from recon.prepare.epi import straighten
from recon.prepare.scan_noise import whitening
from recon.prepare.sort import kinds
from recon.simulation import preset, simulate
from tests.command import chosen


def rows_of(scan: RawScan) -> np.ndarray:
    """Phase encodes of the lines without the noise flag."""
    imaging = scan.lines["flags"] & np.uint64(1 << 18) == 0
    return np.asarray(scan.lines["kspace_encode_step_1"][imaging])


def one_slice(coils: int = 1) -> RawScan:
    return simulate(preset(coils=coils, matrix=48, noise=0.01))


def test_a_volume_is_undersampled_along_both_phase_encodes() -> None:
    mask = mask_of("equispaced", (16, 32), 6, 0, 0)
    assert mask.shape == (16, 32)
    z, y = (np.unique(np.diff(np.nonzero(mask.any(axis=a))[0])) for a in (1, 0))
    assert (z.tolist(), y.tolist()) == ([2], [3])
    assert mask_of("poisson-disc", (16, 32), 4, 6, 0).sum() == 16 * 32 / 4


def test_the_acs_block_has_24_lines_up_to_four_and_16_above() -> None:
    assert [acs_lines(r) for r in (2, 4, 6, 8)] == [24, 24, 16, 16]


def test_lines_that_calibrate_and_nothing_else_are_left_out() -> None:
    scan = simulate(preset(coils=4, matrix=48))
    twice = chosen(scan, np.r_[np.arange(len(scan.lines)), np.arange(len(scan.lines) - 30, len(scan.lines) - 10)])
    twice.lines["flags"][-20:] |= np.uint64(1 << 19)
    mask = mask_of("equispaced", (1, 48), 4, 8, 0)
    fewer = undersample(twice, mask).scan
    assert np.array_equal(rows_of(fewer), rows_of(undersample(scan, mask).scan))
    assert not (fewer.lines["flags"] & np.uint64(1 << 19) != 0).any()


def test_the_noise_scan_stays_whole_and_every_line_keeps_its_samples() -> None:
    """Without it an accelerated scan would be whitened by an estimate, and another thing be compared than its lines."""
    scan = simulate(preset(coils=4, matrix=48))
    fewer = undersample(scan, mask_of("equispaced", (1, 48), 4, 8, 0)).scan

    def samples(of: RawScan, noise: bool) -> dict[int, bytes]:
        """Samples by row, or by order for noise lines."""
        rows = np.nonzero((of.lines["flags"] & np.uint64(1 << 18) != 0) == noise)[0]
        names = range(len(rows)) if noise else of.lines["kspace_encode_step_1"][rows].tolist()
        return {n: of.samples.read(rows[i : i + 1]).tobytes() for i, n in enumerate(names)}

    assert samples(fewer, True) == samples(scan, True) != {}
    kept, full = samples(fewer, False), samples(scan, False)
    assert 12 < len(kept) < len(full) == 48
    assert kept == {row: full[row] for row in kept}


def test_rows_that_are_empty_on_both_sides_leave_a_scan_full_and_do_not_count() -> None:
    k = np.random.default_rng(0).standard_normal((2, 48, 48)).astype(np.complex64)
    k[:, :5] = k[:, -4:] = 0
    scan = scan_from_array(k, ("coil", "y", "x"), source="numpy", name="a")
    assert measured(scan).sum() == 39
    mask = mask_of("equispaced", (1, 48), 4, 8, 0)
    assert undersample(scan, mask).effective == 39 / mask[0, 5:-4].sum()


def test_scans_without_a_reference_are_refused() -> None:
    for settings, what in (
        (preset(coils=4, matrix=48, accel=2), r"not fully sampled \(\d+ of 48 phase encodes"),
        (replace(preset(coils=4, matrix=48), partial_fourier=(0.7, 1.0)), "not fully sampled"),
        (preset(coils=2, matrix=48, trajectory="radial"), "is radial"),
    ):
        with pytest.raises(DataError, match=what):
            measured(simulate(settings))


def test_the_noise_of_regridded_lines_is_that_before_regridding(data_dir: Path) -> None:
    """Regridding leaves the margin of the field of view dark, which would pass for a quiet receiver."""
    pytest.importorskip("twixtools")
    whole = straighten(read(data_dir / "formats/siemens_twix_epi_phantom.dat"))
    fewer = undersample(whole, mask_of("equispaced", measured(whole).shape, 2, 24, 0)).scan
    told = [whitening(s, kinds(s), s.encodings[0], "auto").matrix.abs().amax(1) for s in (whole, fewer)]
    torch.testing.assert_close(told[1], told[0], rtol=0.15, atol=0)
