"""Which lines of a scan tell its noise: the first that do, so that no line that comes later changes a picture."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon import pipeline, simulation
from recon.data import Encoding, RawScan
from recon.io.arrays import scan_from_array
from recon.io.samples import SomeRows
from recon.prepare import scan_noise, sort
from recon.prepare.quiet import NoNoise
from recon.prepare.scan_noise import settled, whitening
from recon.recipe import parse
from recon.simulation import Settings

_SERIES = Settings(matrix=(64, 64, 1), slices=3, repetitions=4, coils=4, noise_lines=0, sigma=0.02)


def beginning(scan: RawScan, n: int) -> RawScan:
    """The first n lines of a scan."""
    return replace(scan, lines=scan.lines[:n], samples=SomeRows(scan.samples, np.arange(n)))


def looked_at(scan: RawScan) -> tuple[RawScan, sort.Kinds, Encoding]:
    return scan, sort.kinds(scan), scan.encodings[sort.choose_encoding(scan)]


@pytest.mark.parametrize("noise_lines", [0, 8])
@pytest.mark.parametrize("interleaved", [False, True])
def test_later_lines_do_not_change_the_noise_found_in_the_first_ones(interleaved: bool, noise_lines: int) -> None:
    scan = simulation.simulate(replace(_SERIES, noise_lines=noise_lines))
    if not interleaved:  # slice after slice
        order = np.lexsort((scan.lines["slice"][noise_lines:], scan.lines["repetition"][noise_lines:])) + noise_lines
        order = np.append(np.arange(noise_lines), order)
        scan = replace(scan, lines=scan.lines[order], samples=SomeRows(scan.samples, order))
    whole = whitening(*looked_at(scan), "estimate")
    # Four frames of 64 lines of 128 samples; where three slices take turns, the fourth is whole two lines before the
    # second repetition ends.
    silent = noise_lines + (2 * 192 - 3 if interleaved else 4 * 64 - 1)
    some = (*range(noise_lines + 1, silent + 5), *range(silent + 5, len(scan.lines), 61))
    known = [settled(*looked_at(beginning(scan, n)), "estimate") for n in some]
    told = [k for k in known if k is not None]
    assert len(known) - len(told) == silent - noise_lines
    assert all(torch.equal(k.whitening.matrix, whole.matrix) and k.whitening.notes == whole.notes for k in told)


def test_the_noise_of_the_first_slices_is_that_of_all() -> None:
    """Of known noise, by its noise lines, the estimate is off by a few hundredths, as that of all lines is."""
    for seed in range(4):
        scan = simulation.simulate(replace(_SERIES, noise_lines=128, seed=seed))
        here = looked_at(scan)
        truth, found = (whitening(*here, choice).matrix.to(torch.complex128) for choice in ("auto", "estimate"))
        level = (found @ torch.linalg.inv(truth)).abs().square().sum(1).sqrt()
        torch.testing.assert_close(level, torch.ones_like(level), rtol=0.12, atol=0)


def test_slices_without_noise_information_leave_the_estimate_to_all_lines() -> None:
    scan = simulation.simulate(_SERIES)
    samples = scan.samples.read(np.arange(len(scan.lines)))
    samples[scan.lines["repetition"] < 2] = 0

    class Darkened:
        def read(self, rows: np.ndarray) -> np.ndarray:
            return samples[rows]

        def trajectory(self, rows: np.ndarray) -> np.ndarray:
            return scan.samples.trajectory(rows)

    dark = replace(scan, samples=Darkened())
    assert settled(*looked_at(dark), "auto") is None
    assert whitening(*looked_at(dark), "auto").source == "estimate"


def test_few_samples_do_not_settle_the_noise_however_many_coils_there_are() -> None:
    """A frame of 32 lines of 128 samples is an eighth of what is asked for; 32 coils ask for twice as much."""
    scan = simulation.simulate(Settings(matrix=(64, 32, 1), repetitions=9, coils=2, noise_lines=0, sigma=0.02))
    frames = [(settled(*looked_at(beginning(scan, 32 * n)), "auto") is not None) for n in range(1, 10)]
    assert frames == [False] * 7 + [True] * 2
    many = simulation.simulate(Settings(matrix=(64, 32, 1), repetitions=9, coils=32, noise_lines=0, sigma=0.02))
    assert settled(*looked_at(many), "auto") is None
    assert scan_noise.first_lines(*looked_at(many)[:1], sort.kinds(many).imaging, many.encodings[0]) is None


def test_a_scan_without_a_readout_notes_once_that_its_noise_is_from_the_edge_of_k_space() -> None:
    """White noise of σ = 3 per part, a bright centre, a coil that recorded nothing, a random mask in y and x."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 3, 64, 64)) * 3
    kspace = (noise[0] + 1j * noise[1]).astype(np.complex64)
    kspace[:, 28:36, 28:36] += 1000
    kspace *= rng.random((64, 64)) < 0.5
    kspace[1] = 0
    found = whitening(*looked_at(scan_from_array(kspace, "coil,y,x")), "auto")
    assert found.source == "estimate"
    assert len(found.notes) == 2
    assert found.notes[0].startswith("noise was estimated from the edge of k-space: the scan has no noise lines;")
    assert "1 of 3" in found.notes[1]
    torch.testing.assert_close(found.matrix.abs().amax(1), torch.full((2,), 1 / 3), rtol=0.05, atol=0)


def test_of_a_scan_that_shows_no_noise_a_thousandth_of_its_signal_is_assumed_unless_it_must_be_estimated() -> None:
    scan = simulation.simulate(Settings(matrix=(64, 64, 1), coils=4, noise_lines=0, sigma=0.0))
    found = whitening(*looked_at(scan), "auto")
    assert found.source == "assumed"
    white = found.matrix.numpy() @ scan.samples.read(np.arange(64))
    assert float((np.abs(white) ** 2).mean() / 2) ** 0.5 == pytest.approx(1000, rel=1e-4)  # of noise it would be 1
    with pytest.raises(NoNoise, match="noise"):
        whitening(*looked_at(scan), "estimate")


def test_noise_lines_with_other_channels_than_the_image_are_not_used() -> None:
    scan = simulation.simulate(replace(_SERIES, noise_lines=8))
    lines = scan.lines.copy()
    lines["active_channels"][:8] = 3

    class Fewer:
        def read(self, rows: np.ndarray) -> np.ndarray:
            found = scan.samples.read(rows)
            return found[:, :3] if rows[0] < 8 else found

        def trajectory(self, rows: np.ndarray) -> np.ndarray:
            return scan.samples.trajectory(rows)

    here = looked_at(replace(scan, lines=lines, samples=Fewer()))
    found = whitening(*here, "auto")
    assert found.matrix.shape == (4, 4)
    assert found.source == "estimate"
    assert here[1].notes == ("8 of 8 noise lines have 3 channels where the image has 4; they are left out",)


def test_a_whitening_that_is_settled_says_by_which_lines() -> None:
    scan = simulation.simulate(replace(_SERIES, noise_lines=8))
    (rows,) = settled(*looked_at(scan), "auto").tried
    assert rows.tolist() == list(range(8))


def test_lines_beyond_those_announced_are_not_used_for_the_noise() -> None:
    scan = simulation.simulate(replace(_SERIES, slices=1, repetitions=8))
    order = np.sort(np.append(np.arange(len(scan.lines)), 63))  # the last line of the first frame came twice
    twice = replace(scan, lines=scan.lines[order], samples=SomeRows(scan.samples, order))
    rows = scan_noise.first_lines(twice, sort.kinds(twice).imaging, twice.encodings[0])
    assert rows is not None
    assert np.bincount(twice.lines["repetition"][rows]).tolist() == [64] * 4


@pytest.mark.parametrize("choice", ["auto", "estimate"])
@pytest.mark.parametrize("noise_lines", [0, 8])
def test_the_notes_say_once_and_truly_where_the_noise_is_from(choice: str, noise_lines: int) -> None:
    scan = simulation.simulate(replace(_SERIES, noise_lines=noise_lines))
    notes = whitening(*looked_at(scan), choice).notes
    said = [note for note in notes if "noise" in note and "estimates from k-space" not in note]
    assert len(said) == 1
    if noise_lines and choice == "auto":
        assert said[0] == "noise from the noise scan (8 lines)"
    else:
        why = "requested by the recipe" if choice == "estimate" else "the scan has no noise lines"
        assert said[0].startswith("noise was estimated from the oversampled margin of the readout: " + why)


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("sigma", [0.002, 0.02, 0.2])
@pytest.mark.parametrize("times", [64.0, 1.0, 1 / 64])
def test_noise_lines_with_more_noise_than_the_image_cause_a_warning(coils: int, sigma: float, times: float) -> None:
    """A dwell time that is wrong by 64 makes the level wrong by 8."""
    scan = simulation.simulate(replace(_SERIES, noise_lines=64, sigma=sigma, coils=coils))
    lines = scan.lines.copy()
    lines["sample_time_us"][:64] *= times
    here = looked_at(replace(scan, lines=lines))
    found = scan_noise.contradicted(*here, whitening(*here, "auto"))
    assert len(found) == (times > 1)
    assert all(
        re.match("warning: the noise scan gives [78].. times the noise seen in the imaging", one) for one in found
    )
    assert not scan_noise.contradicted(*here, whitening(*here, "estimate"))


def test_a_run_warns_that_its_noise_lines_show_too_much_noise() -> None:
    scan = simulation.simulate(replace(_SERIES, noise_lines=64))
    lines = scan.lines.copy()
    lines["sample_time_us"][:64] *= 64
    image = pipeline.reconstruct(replace(scan, lines=lines), parse({"solve": {"method": "combine"}}), device="cpu")
    assert sum("the noise scan gives" in note for note in image.notes) == 1
