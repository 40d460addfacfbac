"""A reference scan with its own encoding, as converters write it, calibrates the image that it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import recon
from recon.data import Encoding, Flag, Limit, RawScan, flag_bits, flagged, imaging
from recon.io import ismrmrd, line_rules
from recon.io.samples import join
from recon.prepare import sort
from recon.simulation import Settings, simulate
from tests.command import Chosen

SENSE = recon.Recipe(solve=recon.recipe.Solve(method="sense"))
STEP = "kspace_encoding_step_1"


def _scan(**more: object) -> RawScan:
    """Undersampled, with separate calibration lines in the image's own encoding."""
    usual = {"matrix": (48, 64, 1), "fov": (240, 240, 5), "coils": 4, "acceleration": (2, 1), "sigma": 0.01}
    return simulate(Settings(calibration="separate", **{**usual, **more}))


def _apart(scan: RawScan) -> np.ndarray:
    return flagged(scan.lines, Flag.CALIBRATION) & ~imaging(scan.lines)


def _elsewhere(path: Path, change: Callable[[Encoding], Encoding] = lambda e: e) -> RawScan:
    """The same scan from a file in which the calibration has its own encoding, with 32 rows counted from 0."""
    scan = _scan()
    (image,) = scan.encodings
    lines, apart = scan.lines.copy(), _apart(scan)
    first = int(lines["kspace_encode_step_1"][apart].min())
    centre = image.limits[STEP].center - first
    lines["kspace_encode_step_1"][apart] -= first
    lines["encoding_space_ref"][apart] = 1
    limits = {**image.limits, STEP: Limit(0, int(lines["kspace_encode_step_1"][apart].max()), centre)}
    nx = image.encoded_matrix[0]
    own = replace(
        image, encoded_matrix=(nx, 2 * centre + 2, 1), recon_matrix=(nx // 2, 2 * centre + 2, 1), limits=limits
    )
    ismrmrd.write(path, replace(scan, lines=lines, encodings=(image, change(own))))
    return ismrmrd.read(path)


def test_a_reference_scan_with_its_own_row_numbers_gives_the_same_image(tmp_path: Path) -> None:
    ismrmrd.write(tmp_path / "one.h5", _scan())
    expected = recon.reconstruct(recon.read(tmp_path / "one.h5"), SENSE)
    scan = _elsewhere(tmp_path / "two.h5")
    count = int(_apart(scan).sum())
    found = recon.reconstruct(scan, SENSE)
    assert (
        f"{count} calibration lines of encoding[1] lie on the grid of encoding[0] and are used to calibrate its coils"
        in scan.notes
    )
    np.testing.assert_array_equal(found.data, expected.data)


def test_shorter_readouts_of_a_reference_scan_lie_about_the_centre(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    scan = _elsewhere(path)
    long = recon.reconstruct(scan, SENSE).data
    n = int(scan.lines["number_of_samples"][_apart(scan)][0])
    with h5py.File(path, "r+") as file:
        data = file["dataset/data"][()]
        for i in np.nonzero(data["head"]["encoding_space_ref"] == 1)[0]:
            samples = data["data"][i].reshape(4, n, 2)[:, n // 8 : n - n // 8]
            data["data"][i] = np.ascontiguousarray(samples).ravel()
            data["head"]["number_of_samples"][i], data["head"]["center_sample"][i] = n - 2 * (n // 8), n // 2 - n // 8
        file["dataset/data"][...] = data
    short = recon.reconstruct(recon.read(path), SENSE).data
    # The 24 samples of the calibration block are within: only what the cut rings into them differs.
    assert np.linalg.norm(short - long) < 2e-3 * np.linalg.norm(long)


def test_a_plain_reference_scan_unfolds_an_echo_planar_image(tmp_path: Path) -> None:
    settings = Settings(matrix=(64, 64, 1), fov=(240, 240, 5), coils=6, sigma=0.01)
    plain, epi = (
        simulate(settings),
        simulate(replace(settings, trajectory="epi", acceleration=(2, 1), calibration="separate")),
    )
    image, step = np.nonzero(~_apart(epi))[0], plain.lines["kspace_encode_step_1"].astype(int)
    centre = plain.encodings[0].limits[STEP].center
    middle = np.nonzero(imaging(plain.lines) & (np.abs(step - centre) < 16))[0]
    reference = plain.lines[middle].copy()
    reference["kspace_encode_step_1"] -= centre - 15
    reference["encoding_space_ref"], reference["flags"] = 1, flag_bits(Flag.CALIBRATION)
    own = replace(
        plain.encodings[0], encoded_matrix=(128, 32, 1), limits={**plain.encodings[0].limits, STEP: Limit(0, 30, 15)}
    )
    lines, samples = join((epi.lines[image], Chosen(epi, image)), (reference, Chosen(plain, middle)))
    path = tmp_path / "scan.h5"
    ismrmrd.write(path, replace(epi, lines=lines, samples=samples, encodings=(epi.encodings[0], own)))
    found = np.abs(recon.reconstruct(ismrmrd.read(path), SENSE).data).ravel()
    truth = np.abs(recon.reconstruct(plain).data).ravel()
    found *= (found @ truth) / (found @ found)
    assert np.linalg.norm(found - truth) < 0.05 * np.linalg.norm(truth)


REFUSED: dict[str, tuple[Callable[[Encoding], Encoding], str]] = {
    "another field of view": (
        lambda e: replace(e, encoded_fov=(e.encoded_fov[0], 300.0, e.encoded_fov[2])),
        "whose field of view is 480×300×5 mm where the image's is 480×240×5 mm",
    ),
    "is empty": (
        lambda e: replace(e, limits={k: v for k, v in e.limits.items() if k != STEP}),
        f"whose header has no encodingLimits/{STEP}",
    ),
    "spokes": (lambda e: replace(e, trajectory="radial"), "which is not Cartesian"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_reference_scan_that_does_not_fit_is_left_out_with_a_note(case: str, tmp_path: Path) -> None:
    change, why = REFUSED[case]
    scan = _elsewhere(tmp_path / "scan.h5", change)
    count = int(_apart(_scan()).sum())
    assert f"{count} calibration lines belong to encoding[1], {why}: they are left out" in scan.notes
    assert not len(sort.kinds(scan).calibration)
    with pytest.raises(recon.ReconError, match="too few to calibrate"):
        recon.reconstruct(scan, SENSE)


def test_a_reference_scan_with_longer_readouts_is_left_out(tmp_path: Path) -> None:
    scan = _elsewhere(tmp_path / "scan.h5")
    lines = scan.lines.copy()
    lines["kspace_encode_step_1"][_apart(scan)] = 0
    lines["number_of_samples"][_apart(scan)] *= 2
    _, keep, notes = line_rules.calibration_of_others(lines, scan.encodings, np.ones(len(lines), np.bool_))
    assert (len(lines) - int(keep.sum()), len(notes)) == (int(_apart(scan).sum()), 1)
    assert "longer than the image's" in notes[0]
