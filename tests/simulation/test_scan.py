"""Simulated scans, read by a reader of this test's own and by other programs, against the analytic truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.data import DataError, Flag
from recon.geometry import affine_lps
from recon.simulation import FALL, Epi, Receiver, Settings, noise_factor, phantom, simulate
from recon.simulation import truth as truth_of
from recon.simulation.reference import truth_maps
from tests.simulation.scans import (
    GRIDS,
    SMALL,
    TURNED,
    combined,
    error,
    full_k_space,
    imaging,
    is_set,
    k_space,
    picture,
)


@pytest.mark.parametrize("name", GRIDS)
def test_a_plain_fft_of_a_full_scan_is_the_truth_times_the_maps(name: str) -> None:
    s = GRIDS[name]
    images, maps = picture(simulate(s)), truth_maps(s)
    ideal = truth_of(s, band_limited=True)
    assert images.shape[1:] == ideal.data.shape == ideal.geometry.shape
    # Ringing at 5 to 12 mm voxels is cut off before the maps in one case and after them in the other.
    assert error(images, maps * ideal.data) < 0.08
    assert error(combined(images, maps), truth_of(s).data) < (0.25 if s.volumetric else 0.2)
    if s.coils == 1:
        assert error(images[0], ideal.data) < 1e-6


def test_the_difference_is_ringing_that_vanishes_with_finer_voxels() -> None:
    errors = []
    for n in (48, 160):
        s = Settings(matrix=(n, n, 1), coils=4)
        ideal = truth_of(s, band_limited=True).data
        head = np.abs(truth_of(s).data) > 0.03
        errors.append(error(combined(picture(simulate(s)), truth_maps(s))[head], ideal[head]))
    assert errors[0] < 0.02
    assert errors[1] < 0.006


def test_the_truth_of_voxel_means_comes_nearer_with_finer_voxels() -> None:
    errors = []
    for n in (32, 64, 128):
        s = Settings(matrix=(n, n, 1), coils=1)
        errors.append(error(truth_of(s, band_limited=True).data, truth_of(s).data))
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.08


PLANES = {
    "axial": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "axial, left-handed": ((1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "axial, turned": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    "coronal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "sagittal": ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),
    "oblique": tuple(tuple(v) for v in TURNED),
    "oblique, left-handed": (tuple(TURNED[0]), tuple(TURNED[1]), tuple(-TURNED[2])),
}


def shade(image, points) -> np.ndarray:
    """Magnitude of the voxels nearest to LPS points."""
    index = (
        np.linalg.inv(affine_lps(image.geometry)) @ np.c_[np.atleast_2d(points), np.ones(len(np.atleast_2d(points)))].T
    )
    i, j, k = np.rint(index[:3]).astype(int)
    return np.abs(image.data[k, j, i])


@pytest.mark.parametrize("plane", PLANES)
def test_the_letter_is_seen_at_its_place_in_the_patient(plane: str) -> None:
    r, c, n = PLANES[plane]
    letter = np.array(phantom.LETTER_MM)
    slices, spacing, wanted = 4, 6.0, 2
    # Stack so that slice 2 of 0 … 3 holds the letter, off centre in the plane as well.
    offset = 17.0 * np.array(r) - 23.0 * np.array(c) + ((slices - 1) / 2 - wanted) * spacing * np.array(n)
    s = Settings(
        matrix=(160, 150, 1), fov=(240, 250, 5), slices=slices, gap=1.0, coils=1, phase_rad=0,
        position=tuple(letter + offset), read_dir=r, phase_dir=c, slice_dir=n,
    )  # fmt: skip
    scan = simulate(s)
    seen = replace(truth_of(s), data=np.concatenate([picture(scan, slice=i)[0] for i in range(slices)]))
    x, y, z = letter
    arm = np.array([[x, y, z], [x + 10, y - 7, z], [x + 8, y + 1, z]])
    white = [[-x, y, z], [x + 16, y + 10, z], [x - 5, y, z], [x + 8, y - 3, z], [x + 8, y + 8, z]]
    image, exact = truth_of(s), shade
    assert np.allclose(affine_lps(image.geometry) @ [*_index(image, letter), 1], [*letter, 1], atol=3.1)
    inside = [p for p in arm if _within(image, p)]
    outside = [p for p in white if _within(image, np.array(p))]
    assert len(inside) >= 1
    assert len(outside) >= 1
    assert (exact(seen, np.array(inside)) < 0.45).all()
    assert (exact(seen, np.array(outside)) > 0.8).all()
    stored = scan.lines["position"][np.argmax(scan.lines["slice"] == wanted)]
    assert np.allclose(stored, letter + 17.0 * np.array(r) - 23.0 * np.array(c), atol=1e-3)


def _index(image, point) -> np.ndarray:
    return np.rint(np.linalg.inv(affine_lps(image.geometry)) @ [*point, 1])[:3]


def _within(image, point) -> bool:
    """Whether a voxel centre of the stack is within a millimetre of the point along the slices."""
    at = np.linalg.inv(affine_lps(image.geometry)) @ [*point, 1]
    return bool(
        (at > 0).all() and (at[:3] < np.array(image.geometry.shape[::-1]) - 1).all() and abs(at[2] % 1 - 0.5) > 0.33
    )


def test_slices_come_interleaved_and_lie_a_gap_apart() -> None:
    scan = simulate(replace(SMALL, slices=5, gap=1.5, position=(1, 2, 3)))
    assert list(scan.lines["slice"][:5]) == [0, 2, 4, 1, 3]
    z = np.array([scan.lines["position"][scan.lines["slice"] == i][0] for i in range(5)])
    assert np.allclose(z, [[1, 2, 3 + (i - 2) * 6.5] for i in range(5)])
    geometry = truth_of(replace(SMALL, slices=5, gap=1.5, position=(1, 2, 3))).geometry
    assert geometry.voxel[2] == pytest.approx(6.5)
    assert geometry.thickness == 5
    ordered = simulate(replace(SMALL, slices=5, interleaved=False))
    assert list(ordered.lines["slice"][:5]) == [0, 1, 2, 3, 4]


SAME = {
    "reversed lines": dict(reversed_lines=True),
    "early echo": dict(echo_fraction=0.7),
    "late echo": dict(echo_fraction=0.7, echo_missing="end"),
    "early echo, reversed, discards": dict(echo_fraction=0.7, reversed_lines=True, discard=(5, 3)),
    "discards": dict(discard=(4, 7)),
    "partial Fourier, start": dict(partial_fourier=(0.625, 1)),
    "partial Fourier, end": dict(partial_fourier=(0.75, 1), missing=("end", "end")),
    "acceleration": dict(acceleration=(3, 1), acs=8),
    "segments": dict(segments=4),
    "averages": dict(averages=2),
    "EPI without ghost": dict(trajectory="epi", epi=Epi(ramp_sampling=False, delay=0, phase_rad=0)),
    "EPI in segments": dict(trajectory="epi", segments=2, epi=Epi(ramp_sampling=False, delay=0, phase_rad=0)),
}


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", SAME)
def test_measured_samples_are_those_of_the_full_scan(name: str, odd: bool) -> None:
    s = replace(SMALL, coils=2, **SAME[name])
    s = replace(s, matrix=(31, 27, 1), oversampling=(1, 1, 1)) if odd else s
    scan = simulate(s)
    k, full = k_space(scan, np.nonzero(imaging(scan))[0]), full_k_space(s)
    measured = k != 0
    assert np.abs(k - full)[measured].max() < 1e-5 * np.abs(full).max()
    wanted = s.partial_fourier[0] * s.echo_fraction
    if s.acceleration == (1, 1):
        assert measured.mean() == pytest.approx(wanted, abs=0.03)
    else:
        assert 0.4 < measured.mean() < 0.55
    ny, nx = k.shape[2:]
    assert measured[:, 0, ny // 2, nx // 2].all()
    if s.echo_fraction < 1:
        assert measured[..., -1].all() != (s.echo_missing == "end")
    if s.partial_fourier[0] < 1:
        assert measured[:, :, -1].all() != (s.missing[0] == "end")


@pytest.mark.parametrize("missing", ["start", "end"])
def test_partial_fourier_of_a_volume_has_its_centres_in_the_limits(missing: str) -> None:
    s = Settings(
        matrix=(16, 20, 18), fov=(240, 240, 240), coils=1, partial_fourier=(0.7, 0.7), missing=(missing, missing)
    )
    scan = simulate(s)
    k, full = k_space(scan, np.arange(len(scan.lines))), full_k_space(s)
    measured = k != 0
    assert measured.mean() == pytest.approx(14 / 20 * 13 / 18)
    assert np.abs(k - full)[measured].max() < 1e-5 * np.abs(full).max()
    limits = scan.encodings[0].limits["kspace_encoding_step_2"]
    assert (limits.minimum, limits.maximum) == (0, 12)
    assert limits.center == (4 if missing == "start" else 9)


def test_discarded_samples_hold_rubbish() -> None:
    scan = simulate(replace(SMALL, discard=(4, 7)))
    data = scan.samples.read(np.arange(len(scan.lines)))
    assert data.shape[2] == 96 + 11
    assert np.abs(data[:, :, :4]).mean() > np.abs(data[:, :, 4:-7]).mean()
    assert np.abs(data[:, :, -7:]).mean() > np.abs(data[:, :, 4:-7]).mean()


def test_counters_give_the_pictures_of_their_states() -> None:
    s = replace(SMALL, te_ms=(5.0, 40.0), phases=2, sets=2, repetitions=2, coils=1)
    scan, ideal = simulate(s), truth_of(s, band_limited=True)
    assert ideal.axes == ("contrast", "phase", "repetition", "set")
    assert ideal.data.shape == (2, 2, 2, 2, 1, 40, 48)
    for at in np.ndindex(2, 2, 2, 2):
        assert error(picture(scan, **dict(zip(ideal.axes, map(int, at))))[0], ideal.data[at]) < 1e-6
    means = np.abs(truth_of(s).data).mean(axis=(-1, -2, -3))
    assert means[1, 0, 0, 0] < 0.7 * means[0, 0, 0, 0]
    assert means[0, 0, 0, 0] == means[0, 0, 1, 0]
    assert error(ideal.data[0, 0, 0, 1], ideal.data[0, 0, 0, 0]) > 0.01
    assert error(ideal.data[0, 1, 0, 0], ideal.data[0, 0, 0, 0]) > 0.003
    assert scan.encodings[0].limits["contrast"].maximum == 1


def test_averages_differ_only_in_noise_and_lower_it() -> None:
    s = replace(SMALL, averages=4, sigma=0.5)
    clean, scan = picture(simulate(replace(s, sigma=0))), simulate(s)
    every, first = picture(scan) - clean, picture(scan, average=0) - clean
    assert every.std() == pytest.approx(first.std() / 2, rel=0.05)


def test_interpolation_asks_for_a_larger_matrix_and_truth_follows() -> None:
    s = replace(SMALL, recon_matrix=(96, 80, 1), coils=1)
    scan, ideal = simulate(s), truth_of(s, band_limited=True)
    assert scan.encodings[0].recon_matrix == (96, 80, 1)
    assert scan.encodings[0].encoded_matrix == (96, 40, 1)
    assert ideal.data.shape == (1, 80, 96) == ideal.geometry.shape
    assert error(ideal.data[:, ::2, ::2], picture(scan)[0]) < 1e-6
    assert ideal.geometry.position == truth_of(SMALL).geometry.position
    assert error(ideal.data, truth_of(s).data) < 0.2
    assert truth_maps(s).shape == (1, 1, 80, 96)


@pytest.mark.parametrize(
    "kind", ["equispaced", "equispaced_fraction", "random", "variable_density", "poisson_disc", "caipi"]
)
def test_every_mask_makes_a_scan(kind: str) -> None:
    solid = kind in ("poisson_disc", "caipi")
    s = Settings(
        matrix=(16, 32, 24 if solid else 1), fov=(240, 240, 240 if solid else 5), coils=2, coil_order=2, mask=kind,
        acceleration=(2, 2) if solid else (3, 1), acs=8,
    )  # fmt: skip
    scan = simulate(s)
    lines = scan.lines[imaging(scan)]
    full = 24 * 32 if solid else 32
    assert full / 5 < len(lines) < full / 1.5
    assert len(np.unique(np.stack([lines["kspace_encode_step_1"], lines["kspace_encode_step_2"]]), axis=1).T) == len(
        lines
    )
    acs = lines[is_set(lines, Flag.CALIBRATION_AND_IMAGING)]
    assert len(acs) == (64 if solid else 8)
    assert acs["kspace_encode_step_1"].min() == 12
    assert acs["kspace_encode_step_1"].max() == 19
    assert scan.encodings[0].acceleration == s.acceleration
    assert scan.encodings[0].calibration_mode == "embedded"


def test_acceleration_factors_belong_to_ky_and_kz_in_this_order() -> None:
    s = Settings(matrix=(8, 24, 16), fov=(240, 240, 240), coils=1, acceleration=(3, 2), calibration="none")
    lines = simulate(s).lines
    assert set(np.diff(np.unique(lines["kspace_encode_step_1"]))) == {3}
    assert set(np.diff(np.unique(lines["kspace_encode_step_2"]))) == {2}
    assert len(lines) == 8 * 8


def test_reference_lines_off_the_pattern_are_only_for_calibration() -> None:
    scan = simulate(replace(SMALL, acceleration=(3, 1), acs=9, calibration="reference"))
    only, both = is_set(scan.lines, Flag.CALIBRATION), is_set(scan.lines, Flag.CALIBRATION_AND_IMAGING)
    assert (only.sum(), both.sum()) == (6, 3)
    assert not (only & both).any()
    assert set(scan.lines["kspace_encode_step_1"][both] % 3) == {20 % 3}
    rows = scan.lines["kspace_encode_step_1"][imaging(scan)]
    assert set(np.diff(np.sort(rows))) == {3}


def test_separate_calibration_comes_first_and_is_not_in_the_image() -> None:
    scan = simulate(replace(SMALL, acceleration=(2, 1), acs=10, calibration="separate", slices=2, repetitions=2))
    only = is_set(scan.lines, Flag.CALIBRATION)
    assert only.sum() == 20
    assert only[:20].all()
    assert set(scan.lines["kspace_encode_step_1"][only]) == set(range(15, 25))
    assert set(scan.lines["repetition"][only]) == {0}
    assert (~only).sum() == 20 * 2 * 2
    assert scan.encodings[0].calibration_mode == "separate"
    none = simulate(replace(SMALL, acceleration=(2, 1), calibration="none"))
    assert len(none.lines) == 20
    assert not is_set(none.lines, Flag.CALIBRATION_AND_IMAGING).any()


def test_noise_has_the_covariance_that_is_stated() -> None:
    s = replace(SMALL, matrix=(128, 128, 1), coils=6, sigma=0.7, correlation=0.4)
    clean, noisy = simulate(replace(s, sigma=0)), simulate(s)
    rows = np.nonzero(imaging(noisy))[0]
    n = noisy.samples.read(rows) - clean.samples.read(np.arange(len(clean.lines)))
    x = n.swapaxes(0, 1).reshape(6, -1)
    expected = 2 * 0.7**2 * noise_factor(s) @ noise_factor(s).conj().T
    assert np.abs(x @ x.conj().T / x.shape[1] - expected).max() < 0.02 * np.abs(expected).max()
    assert np.trace(expected).real / 6 == pytest.approx(2 * 0.7**2)
    assert np.abs(expected[0, 1]) == pytest.approx(0.4 * np.sqrt(expected[0, 0] * expected[1, 1]).real)
    assert np.abs(x @ x.T / x.shape[1]).max() < 0.02 * np.abs(expected).max()


def test_the_noise_scan_whitens_the_image_by_the_formula_of_dwell_times() -> None:
    s = replace(SMALL, matrix=(128, 96, 1), coils=6, sigma=0.3, noise_lines=40, noise_samples=1024)
    noisy, clean = simulate(s), simulate(replace(s, sigma=0))
    noise = noisy.lines[is_set(noisy.lines, Flag.NOISE)]
    assert len(noise) == 40
    assert noise["sample_time_us"][0] != noisy.lines["sample_time_us"][-1]
    x = noisy.samples.read(np.arange(40)).swapaxes(0, 1).reshape(6, -1)
    factor = np.linalg.cholesky(x @ x.conj().T / (x.shape[1] - 1))
    ratio = s.dwell_us / s.noise_dwell_us * noisy.header.system.noise_bandwidth
    n = noisy.samples.read(40 + np.arange(len(clean.lines))) - clean.samples.read(np.arange(len(clean.lines)))
    white = np.sqrt(2 * ratio) * np.linalg.solve(factor, n.swapaxes(0, 1).reshape(6, -1))
    covariance = white @ white.conj().T / white.shape[1]
    assert np.abs(covariance - 2 * np.eye(6)).max() < 0.05


def test_the_noise_scan_may_have_more_channels() -> None:
    scan = simulate(replace(SMALL, sigma=0.1, noise_coils=7, noise_lines=3))
    assert list(scan.lines["active_channels"][:4]) == [7, 7, 7, 4]
    assert scan.samples.read(np.arange(3)).shape == (3, 7, 512)
    with pytest.raises(DataError):
        scan.samples.read(np.arange(4))


def test_a_receivers_filter_takes_noise_from_the_ends_of_the_band_and_leaves_the_signal() -> None:
    s = replace(SMALL, slices=8, sigma=1.0, noise_lines=0, receiver=Receiver(fall=FALL))
    noisy, clean = simulate(s), simulate(replace(s, sigma=0.0))
    rows = np.arange(len(noisy.lines))
    noise = noisy.samples.read(rows) - clean.samples.read(rows)
    power = np.mean(np.abs(np.fft.fftshift(np.fft.fft(noise, norm="ortho"), axes=-1)) ** 2, axis=(0, 1)) / 2
    u = np.abs(np.arange(len(power)) - len(power) // 2) / (len(power) / 2)
    assert power[u < 0.3].mean() == pytest.approx(np.exp(-FALL * u[u < 0.3] ** 4).mean(), rel=0.05)
    assert power[u > 0.9].mean() == pytest.approx(np.exp(-FALL * u[u > 0.9] ** 4).mean(), rel=0.05)
    assert np.array_equal(
        clean.samples.read(rows), simulate(replace(s, sigma=0.0, receiver=Receiver())).samples.read(rows)
    )


def test_a_receivers_offset_is_the_mean_of_its_noise_lines() -> None:
    s = replace(SMALL, sigma=0.1, receiver=Receiver(offset=2.0))
    scan = simulate(s)
    noise = scan.samples.read(np.nonzero(is_set(scan.lines, Flag.NOISE))[0])
    assert np.abs(noise.mean((0, 2))) == pytest.approx(0.1 * 2 * 2**0.5, rel=0.05)


def test_lines_turn_fade_and_spark_as_asked_for() -> None:
    s = replace(SMALL, sigma=0.0, acceleration=(1, 1))

    def ratio(r: Receiver) -> np.ndarray:
        rows = np.arange(len(simulate(s).lines))
        dirty, clean = simulate(replace(s, receiver=r)).samples.read(rows), simulate(s).samples.read(rows)
        return (dirty * clean.conj()).sum((1, 2)) / (np.abs(clean) ** 2).sum((1, 2))

    assert np.degrees(np.angle(ratio(Receiver(jitter_deg=8)))).std() == pytest.approx(8, rel=0.4)
    wandering = np.degrees(np.unwrap(np.angle(ratio(Receiver(drift_deg=8)))))
    assert np.diff(wandering).std() == pytest.approx(8, rel=0.4)
    fading = np.abs(ratio(Receiver(gain_drift=-0.3)))
    assert fading[[0, -1]] == pytest.approx([1, 0.7], rel=1e-4)
    sparks = simulate(replace(s, receiver=Receiver(spikes=3))).samples.read(np.arange(len(fading)))
    hit = np.abs(sparks - simulate(s).samples.read(np.arange(len(fading)))) > 1e-3
    assert hit.sum((0, 2)).tolist() == [3] * s.coils


def test_invalid_receiver_settings_are_refused() -> None:
    with pytest.raises(DataError, match="must be finite and 0 or more"):
        Receiver(offset=-1)
