"""Lines that only calibrate and the lines of the image tell whether both saw the coils in one place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon import pipeline, recipe
from recon.data import Flag, Measurement, RawScan, flagged
from recon.io.samples import in_memory
from recon.nets import weights
from recon.nets.unrolled import Shape, Unrolled
from recon.operators import fft
from recon.operators.sense import Sense
from recon.simulation import preset, simulate
from recon.solve import position
from tests.solve.test_rows import BLOCK, SIZE, measured, scan

SAID = "the coil maps from the separate calibration lines fit the image better when moved by +4 rows and -3 columns"


def calibrated_elsewhere(rows: int, columns: int) -> RawScan:
    """A head at R = 3; its separate calibration lines see it, and its coils, so many voxels before their place."""
    made = simulate(
        replace(preset(coils=8, matrix=SIZE, noise=0.02), acceleration=(3, 1), acs=24, calibration="separate")
    )
    encoding, apart = made.encodings[0], flagged(made.lines, Flag.CALIBRATION)
    groups = []
    for i, line in enumerate(made.lines):
        samples = made.samples.read(np.array([i]))
        if apart[i]:
            kx = (np.arange(samples.shape[-1]) - int(line["center_sample"])) / encoding.encoded_matrix[0]
            ky = (int(line["kspace_encode_step_1"]) - encoding.limits["kspace_encoding_step_1"].center) / SIZE
            samples = samples * np.exp(2j * np.pi * (rows * ky + columns * kx))
        groups.append(samples.astype(np.complex64))
    return replace(made, samples=in_memory(*groups))


@pytest.mark.parametrize("method", ["cs", "sense"])
def test_calibration_lines_at_another_position_are_detected_with_the_shift(method: str) -> None:
    plan = recipe.parse({"solve": {"method": method}})
    good, moved = (pipeline.reconstruct(calibrated_elsewhere(*by), plan).notes for by in ((0, 0), (4, -3)))
    assert not any("calibration" in note for note in good)
    assert sum(note.startswith(f"warning: {SAID}") for note in moved) == 1


def test_a_learned_image_with_maps_from_another_position_falls_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights.save(Unrolled(Shape(cascades=1, channels=(4, 4), condition=4, iterations=3, start=30)), tmp_path)
    plan = recipe.parse({"solve": {"method": "unrolled", "weights": str(tmp_path)}})
    told = [pipeline.reconstruct(calibrated_elsewhere(*by), plan).trust for by in ((0, 0), (4, -3))]
    assert [t["items"][0]["elsewhere"] for t in told] == [0, 5]
    assert not any(SAID in reason for reason in told[0]["reasons"])
    assert any(reason.startswith(SAID) for reason in told[1]["reasons"])


def compared(by: tuple[int, int], maps_by: tuple[int, int]) -> position.Position:
    """What is found where a block sees the object, and the maps the coils, so many voxels before their place."""
    m = measured(scan(8))
    A = m.A
    assert isinstance(A, Sense)
    k = fft(m.y, (-1,))
    at = torch.arange(SIZE) - SIZE // 2
    ramp = torch.exp(2j * torch.pi * (by[0] * at[:, None] + by[1] * at) / SIZE)
    block = (k * ramp)[:, :, BLOCK[0] : BLOCK[1], SIZE // 2 - 12 : SIZE // 2 + 12]
    maps = torch.roll(A.maps, (-maps_by[0], -maps_by[1]), (-2, -1))
    found = position.compared(Measurement(m.y[None], Sense(maps[None], A.mask[None], A.axes), m.sigma), [block])[0]
    assert found is not None
    return found


def test_shifted_maps_are_distinguished_from_a_patient_who_moved_under_fixed_coils() -> None:
    off, beneath, good = compared((4, -3), (4, -3)), compared((4, -3), (0, 0)), compared((0, 0), (0, 0))
    assert (off.rows, off.columns) == (beneath.rows, beneath.columns) == (4, -3)
    assert off.elsewhere == 5
    assert beneath.saved < 0
    assert beneath.elsewhere == good.elsewhere == 0


def test_without_separate_lines_or_with_too_few_in_both_there_is_no_result() -> None:
    m = measured(scan(8))
    A = m.A
    assert isinstance(A, Sense)
    item = Measurement(m.y[None], Sense(A.maps[None], A.mask[None], A.axes), m.sigma)
    assert position.compared(item, [None]) == [None]
    block = m.y[..., BLOCK[0] : BLOCK[1], :24]
    few = A.mask.clone()
    few[..., BLOCK[0] + 2 : BLOCK[1], :] = 0
    assert position.compared(replace(item, A=Sense(A.maps[None], few[None], A.axes)), [block]) == [None]
