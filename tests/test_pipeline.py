"""Whole scans of the analytic head, with everything that real ones have, against the truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from recon import pipeline, plan
from recon import recipe as recipes
from recon.data import DataError, Image, RawScan, ReconError
from recon.geometry import affine_lps
from recon.io.samples import SomeRows, join
from recon.recipe import Recipe
from recon.simulation import Settings, noise_factor, simulate
from recon.simulation.reference import truth, truth_maps

HEAD = Settings(matrix=(64, 64, 1), fov=(240, 240, 5), coils=6, sigma=1e-4)
TURNED = np.linalg.qr(np.array([[1.0, 0.25, -0.15], [-0.1, 1.0, 0.3], [0.2, -0.2, 1.0]]))[0].T * [[-1], [-1], [1]]


def with_values(**solve: object) -> Recipe:
    return recipes.parse({"solve": solve})


def error(image: Image, reference: Image) -> float:
    """‖|x| − |t|‖ / ‖t‖ after the one scale that fits best: the engine counts intensity in units of the noise."""
    x, t = np.abs(image.data).astype(np.float64), np.abs(reference.data).astype(np.float64)
    assert x.shape == t.shape
    x *= (x * t).sum() / (x * x).sum()
    return float(np.linalg.norm(x - t) / np.linalg.norm(t))


def seen(settings: Settings) -> Image:
    """The truth as the whitened coils see it together: times the root of Sᴴ Ψ⁻¹ S."""
    image = truth(settings, band_limited=True)
    maps = truth_maps(settings)
    white = np.linalg.solve(noise_factor(settings), maps.reshape(len(maps), -1)).reshape(maps.shape)
    return replace(image, data=image.data * np.linalg.norm(white, axis=0))


def same_place(image: Image, reference: Image) -> bool:
    return np.allclose(affine_lps(image.geometry), affine_lps(reference.geometry), atol=1e-3)


FULL = {
    "a plain scan": HEAD,
    "an odd matrix": replace(HEAD, matrix=(63, 65, 1), fov=(236.25, 243.75, 5)),
    "phase oversampling": replace(HEAD, oversampling=(2.0, 1.5, 1.0)),
    "no oversampling": replace(HEAD, oversampling=(1.0, 1.0, 1.0)),
    "zero-fill interpolation": replace(HEAD, recon_matrix=(96, 96, 1)),
    "reversed lines": replace(HEAD, reversed_lines=True),
    "discarded samples": replace(HEAD, discard=(6, 3)),
    "averages and segments": replace(HEAD, averages=2, segments=4),
    "an oblique slice": replace(
        HEAD, read_dir=tuple(TURNED[0]), phase_dir=tuple(TURNED[1]), slice_dir=tuple(TURNED[2]), position=(5, -12, 20)
    ),
    "a left-handed stack": replace(HEAD, slices=4, gap=1.0, slice_dir=(0.0, 0.0, -1.0)),
    "interleaved slices": replace(HEAD, slices=5, gap=2.0, position=(0, 0, 8)),
    "contrasts and repetitions": replace(HEAD, te_ms=(4.0, 40.0), repetitions=2),
    "heart phases and sets": replace(HEAD, phases=2, sets=2),
    "a volume": replace(HEAD, matrix=(24, 24, 20), fov=(240, 240, 240)),
    "slice oversampling": replace(HEAD, matrix=(24, 24, 18), fov=(240, 240, 200), oversampling=(2.0, 1.0, 1.5)),
    "one coil": replace(HEAD, coils=1),
}


@pytest.mark.parametrize("name", FULL)
def test_a_fully_sampled_scan_gives_the_truth_at_its_place(name: str) -> None:
    image = pipeline.reconstruct(simulate(FULL[name]))
    expected = seen(FULL[name])
    assert image.provenance["method"] == "combine"
    assert image.axes == expected.axes
    assert same_place(image, expected)
    assert error(image, expected) < (0.07 if "volume" in name or "slice over" in name else 0.02)


UNDERSAMPLED = {
    "SENSE, R = 2": (replace(HEAD, acceleration=(2, 1), acs=16), Recipe(), 0.03),
    "SENSE, R = 3": (replace(HEAD, acceleration=(3, 1), acs=16), Recipe(), 0.05),
    "separate calibration": (replace(HEAD, acceleration=(2, 1), acs=20, calibration="separate"), Recipe(), 0.03),
    "reference lines": (replace(HEAD, acceleration=(2, 1), acs=20, calibration="reference"), Recipe(), 0.03),
    "GRAPPA, R = 2": (replace(HEAD, acceleration=(2, 1), acs=20), with_values(method="grappa"), 0.04),
    "wavelets, random lines": (replace(HEAD, mask="variable_density", acceleration=(2, 1), acs=16), Recipe(), 0.09),
    "total variation": (replace(HEAD, acceleration=(2, 1), acs=16), with_values(method="tv"), 0.05),
    "Walsh maps": (
        replace(HEAD, acceleration=(2, 1), acs=24), recipes.parse({"prepare": {"maps": "walsh"}}), 0.1,
    ),
    "two sets of maps": (
        replace(HEAD, acceleration=(2, 1), acs=16), recipes.parse({"prepare": {"map_sets": 2}}), 0.05,
    ),
    "coils compressed by SVD": (
        replace(HEAD, coils=12, acceleration=(2, 1), acs=16), recipes.parse({"prepare": {"virtual_coils": 8}}), 0.04,
    ),
    "coils compressed at each x": (
        replace(HEAD, coils=12, acceleration=(2, 1), acs=16),
        recipes.parse({"prepare": {"virtual_coils": 6, "coil_compression": "geometric"}}), 0.04,
    ),
    "a CAIPI volume": (
        replace(HEAD, matrix=(24, 24, 24), fov=(240, 240, 240), acceleration=(2, 2), mask="caipi", acs=12),
        Recipe(), 0.13,
    ),
    "a Poisson-disc volume": (
        replace(HEAD, matrix=(24, 24, 24), fov=(240, 240, 240), acceleration=(2, 1), mask="poisson_disc", acs=10),
        with_values(method="sense"), 0.2,
    ),
    "slices": (replace(HEAD, slices=3, gap=3.0, acceleration=(2, 1), acs=16), Recipe(), 0.03),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDERSAMPLED)
def test_an_undersampled_scan_comes_close_to_the_truth(name: str) -> None:
    settings, recipe, limit = UNDERSAMPLED[name]
    image = pipeline.reconstruct(simulate(settings), recipe)
    expected = seen(settings)
    assert image.provenance["method"] != "combine"
    assert same_place(image, expected)
    assert error(image, expected) < limit


CUT = {
    "phase encodes, start": replace(HEAD, partial_fourier=(0.625, 1.0)),
    "phase encodes, end": replace(HEAD, partial_fourier=(0.625, 1.0), missing=("end", "start")),
    "readout, start": replace(HEAD, echo_fraction=0.7),
    "readout, end": replace(HEAD, echo_fraction=0.7, echo_missing="end"),
}


@pytest.mark.parametrize("name", CUT)
def test_partial_fourier_is_detected_reported_and_completed(name: str) -> None:
    scan, expected = simulate(CUT[name]), seen(CUT[name])
    images = {
        m: pipeline.reconstruct(scan, recipes.parse({"prepare": {"partial_fourier": m}}))
        for m in ("zero-fill", "homodyne", "pocs")
    }
    assert all("partial Fourier along the" in " ".join(i.notes) for i in images.values())
    errors = {m: error(i, expected) for m, i in images.items()}
    assert errors["zero-fill"] < 0.2
    assert errors["pocs"] < 0.7 * errors["zero-fill"]
    assert errors["homodyne"] < 0.8 * errors["zero-fill"]


NON_CARTESIAN = {
    "radial": (replace(HEAD, trajectory="radial"), 0.08),
    "golden angle": (replace(HEAD, trajectory="goldenangle"), 0.08),
    "positions in cycles per field of view": (replace(HEAD, trajectory="radial", trajectory_unit="fov"), 0.08),
    "spiral": (replace(HEAD, trajectory="spiral", oversampling=(1.0, 1.0, 1.0)), 0.12),
    "kooshball": (replace(HEAD, trajectory="kooshball", matrix=(16, 16, 16), fov=(240, 240, 240)), 0.15),
}


@pytest.mark.parametrize("name", NON_CARTESIAN)
def test_a_non_cartesian_scan_comes_close_to_the_truth(name: str) -> None:
    settings, limit = NON_CARTESIAN[name]
    image = pipeline.reconstruct(simulate(settings))
    expected = seen(settings)
    assert image.provenance["method"] == "sense"
    assert same_place(image, expected)
    assert error(image, expected) < limit


def test_an_echo_planar_scan_is_straightened_and_freed_of_its_ghost() -> None:
    settings = replace(HEAD, trajectory="epi", calibration="separate")
    image = pipeline.reconstruct(simulate(settings))
    expected = seen(settings)
    assert same_place(image, expected)
    assert error(image, expected) < 0.06


def only(scan: RawScan, rows: NDArray[np.intp]) -> RawScan:
    """Some lines of a scan, in this order."""
    return replace(scan, lines=scan.lines[rows], samples=SomeRows(scan.samples, rows))


def test_the_order_of_lines_does_not_matter() -> None:
    scan = simulate(replace(HEAD, slices=3, gap=1.0, acceleration=(2, 1), acs=16))
    shuffled = only(scan, np.random.default_rng(1).permutation(len(scan.lines)))
    assert np.allclose(pipeline.reconstruct(shuffled).data, pipeline.reconstruct(scan).data, rtol=0, atol=1e-2)


def test_a_stack_gives_the_same_bits_slice_by_slice_and_at_once() -> None:
    scan = simulate(replace(HEAD, slices=3, gap=1.0, acceleration=(2, 1), acs=16))
    one = plan._base() + 24 * 2**20
    assert np.array_equal(pipeline.reconstruct(scan, memory=one).data, pipeline.reconstruct(scan).data)


def test_the_same_scan_gives_the_same_bits_twice() -> None:
    scan = simulate(replace(HEAD, mask="random", acceleration=(2, 1), acs=16))
    assert np.array_equal(pipeline.reconstruct(scan).data, pipeline.reconstruct(scan).data)


def test_an_unfinished_repetition_is_left_out_with_a_note() -> None:
    scan = simulate(replace(HEAD, matrix=(32, 32, 1), slices=2, repetitions=3))
    last = (scan.lines["repetition"] == 2) & (scan.lines["slice"] == 1)
    keep = np.nonzero(~last)[0]
    image = pipeline.reconstruct(only(scan, keep))
    assert image.data.shape[0] == 2
    assert "1 of 3 volumes lack slices" in " ".join(image.notes)


@pytest.mark.parametrize(("left", "repetitions"), [(12, 2), (31, 3)])
def test_a_last_repetition_that_was_cut_short_is_left_out_and_one_line_less_is_not(left: int, repetitions: int) -> None:
    scan = simulate(replace(HEAD, matrix=(32, 32, 1), slices=1, repetitions=3))
    last = np.nonzero(scan.lines["repetition"] == 2)[0]
    keep = np.setdiff1d(np.arange(len(scan.lines)), last[left:])
    image = pipeline.reconstruct(only(scan, keep))
    assert image.data.shape[0] == repetitions
    assert ("repetition 3 lacks more than 5%" in " ".join(image.notes)) == (repetitions == 2)


def test_slices_with_different_accelerations_are_unfolded_in_any_order() -> None:
    full = replace(HEAD, matrix=(64, 64, 1), slices=2, repetitions=2)
    scan = simulate(full)
    off = scan.lines["kspace_encode_step_1"].astype(int) - 32
    thin = (scan.lines["slice"] == 1) & (off % 2 == 1) & (abs(off) > 12) & (scan.lines["flags"] & (1 << 18) == 0)
    image = pipeline.reconstruct(only(scan, np.nonzero(~thin)[0]), with_values(method="auto"))
    assert image.data.shape[0] == 2
    assert error(image, seen(full)) < 0.06


def test_noise_is_white_with_one_unit_in_the_image() -> None:
    settings = replace(HEAD, coils=4, sigma=0.05, correlation=0.4)
    a, b = (pipeline.reconstruct(simulate(replace(settings, seed=s))) for s in (1, 2))
    inside = np.abs(a.data) > 0.3 * np.abs(a.data).max()
    difference = (a.data - b.data * np.exp(1j * np.angle(np.vdot(b.data, a.data))))[inside]
    assert abs(np.std(difference.real) / np.sqrt(2) - 1) < 0.15


def test_what_does_not_fit_is_refused_before_anything_runs() -> None:
    scan = simulate(replace(HEAD, acceleration=(2, 1), acs=16))
    with pytest.raises(ReconError, match="raise --memory"):
        pipeline.reconstruct(scan, memory=2**20)
    with pytest.raises(ReconError, match="1 stack of"):
        pipeline.reconstruct(scan, stack=3)
    with pytest.raises(ReconError, match="no device"):
        pipeline.reconstruct(scan, device="quantum")


def test_a_thin_slab_keeps_its_voxels() -> None:
    settings = replace(HEAD, matrix=(48, 48, 8), fov=(240, 240, 240), acceleration=(2, 1), acs=16)
    image = pipeline.reconstruct(simulate(settings), with_values(method="sense"))
    assert error(image, seen(settings)) < 0.3


def test_several_slices_at_once_are_refused() -> None:
    scan = simulate(HEAD)
    with pytest.raises(DataError, match="multiband"):
        pipeline.reconstruct(replace(scan, encodings=(replace(scan.encodings[0], multiband=2),)))


def test_grappa_on_irregular_lines_is_refused() -> None:
    scan = simulate(replace(HEAD, mask="variable_density", acceleration=(2, 1), acs=16))
    with pytest.raises(ReconError, match="regular lattice"):
        pipeline.reconstruct(scan, with_values(method="grappa"))


def test_a_scan_without_calibration_says_what_to_do() -> None:
    scan = simulate(replace(HEAD, acceleration=(4, 1), acs=0, calibration="none"))
    with pytest.raises(DataError, match="--method combine"):
        pipeline.reconstruct(scan)


def test_samples_taken_at_the_isocentre_are_moved_to_the_slice_when_asked() -> None:
    settings = replace(HEAD, trajectory="radial", position=(12.0, -7.5, 0.0))
    scan, expected = simulate(settings), seen(settings)

    class Isocentre:
        def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
            k = scan.samples.trajectory(rows)
            samples = scan.samples.read(rows)
            if not k.shape[-1]:
                return samples
            turns = k @ (np.array(settings.position[:2]) / (240 / 64))
            return (samples * np.exp(-2j * np.pi * turns)[:, None]).astype(np.complex64)

        def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
            return scan.samples.trajectory(rows)

    moved = replace(scan, samples=Isocentre())
    assert error(pipeline.reconstruct(moved), expected) > 0.3
    asked = recipes.parse({"prepare": {"offcentre": True}})
    assert error(pipeline.reconstruct(moved, asked), expected) < 0.08


def test_slices_are_sorted_by_their_place_and_not_by_their_number() -> None:
    scan = simulate(replace(HEAD, slices=5, gap=2.0))
    lines = scan.lines.copy()
    lines["slice"] = np.array([3, 0, 4, 1, 2])[lines["slice"]]
    renumbered, usual = pipeline.reconstruct(replace(scan, lines=lines)), pipeline.reconstruct(scan)
    assert renumbered.geometry == usual.geometry
    assert np.allclose(renumbered.data, usual.data)


def test_lines_of_another_encoding_are_left_out_of_the_image_with_a_note() -> None:
    scan = simulate(replace(HEAD, matrix=(48, 48, 1), slices=2))
    other = simulate(replace(HEAD, matrix=(32, 32, 1), slices=2, noise_lines=0))
    lines = other.lines.copy()
    lines["encoding_space_ref"] = 1
    both, samples = join((scan.lines, scan.samples), (lines, other.samples))
    joined = replace(scan, lines=both, samples=samples, encodings=(*scan.encodings, *other.encodings))
    image = pipeline.reconstruct(joined)
    assert np.array_equal(image.data, pipeline.reconstruct(scan).data)
    assert any("64 of 160 imaging lines belong to another encoding than encoding[0]" in note for note in image.notes)


def test_a_scan_of_which_no_volume_is_whole_is_refused() -> None:
    scan = simulate(replace(HEAD, matrix=(32, 32, 1), slices=2))
    lines = scan.lines.copy()
    lines["repetition"] = lines["slice"]
    with pytest.raises(DataError, match="no volume has all of its 2 slices"):
        pipeline.reconstruct(replace(scan, lines=lines))


def test_settings_with_another_meaning_off_the_grid_are_noted() -> None:
    scan = simulate(replace(HEAD, trajectory="radial", matrix=(32, 32, 1)))
    plain = pipeline.reconstruct(scan)
    asked = pipeline.reconstruct(scan, recipes.parse({"prepare": {"maps": "walsh", "coil_compression": "geometric"}}))
    assert asked.data.tobytes() == plain.data.tobytes()
    assert [n for n in asked.notes if n not in plain.notes] == [
        'prepare.maps = "walsh" is for Cartesian scans; for this one it means "espirit"',
        'prepare.coil_compression = "geometric" is for Cartesian scans; for this one it means "svd"',
    ]
