from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from recon.data import LINE, DataError, Encoding, Flag, Limit, RawScan, flag_bits
from recon.io.samples import in_memory
from recon.prepare.epi import ghost_phase, ramp_matrix, ramp_sampled, straighten, trajectory
from recon.prepare.scan_noise import whitening
from recon.prepare.sort import kinds
from tests.io.grid import grid, picture

NX, NY, NS = 96, 48, 100
UP, FLAT, DOWN, DELAY, DWELL = 150.0, 250.0, 130.0, 20.0, 4.8
TIMING = {"rampUpTime": UP, "flatTopTime": FLAT, "rampDownTime": DOWN, "acqDelayTime": DELAY, "dwellTime": DWELL}


def encoding(**more: float) -> Encoding:
    return Encoding(
        (NX, NY, 1), (480.0, 240.0, 5.0), (NX // 2, NY, 1), (240.0, 240.0, 5.0), "epi",
        {"kspace_encoding_step_1": Limit(0, NY - 1, NY // 2), "kspace_encoding_step_2": Limit(0, 0, 0)},
        trajectory_name="ConventionalEPI", trajectory_parameters={**TIMING, **more},
    )  # fmt: skip


def integrated(samples: int = NS, gradient_delay: float = 0.0) -> np.ndarray:
    """k of each sample by adding up the gradient in steps of 10 ns, from the waveform's corners; no formula shared."""
    t = np.arange(0, 600, 0.01) + 0.005
    g = np.interp(t, [0, UP, UP + FLAT, UP + FLAT + DOWN], [0, 1, 1, 0])
    k = np.cumsum(g) * 0.01
    centre = k[-1] / 2
    start, stop = np.interp([DELAY, DELAY + samples * DWELL], t, k)
    instants = DELAY + (np.arange(samples) + 0.5) * DWELL - gradient_delay
    return np.asarray((np.interp(instants, t, k) - centre) * NX / (stop - start))


#: Gaussians (amplitude, centre x, centre y, six sigma x, six sigma y) in grid steps, in the middle half.
#: The last one is so narrow along x that its spectrum reaches the samples on the ramps.
OBJECT = ((1.0, 1.3, -2.0, 30.0, 20.0), (0.8j, -6.0, 3.4, 12.0, 9.0), (-2.0, 8.0, -4.0, 4.2, 9.0))


def transform(kx: np.ndarray, ky: float) -> np.ndarray:
    """Continuous Fourier transform of OBJECT; k in grid steps of 1/FOV."""
    out = np.zeros(kx.shape, complex)
    for a, x, y, wx, wy in OBJECT:
        sx, sy = wx / 6, wy / 6
        phase = np.exp(-2j * np.pi * (kx * x / NX + ky * y / NY))
        out += a * sx * sy * np.exp(-2 * np.pi**2 * ((kx * sx / NX) ** 2 + (ky * sy / NY) ** 2)) * phase
    return out


def truth() -> np.ndarray:
    """Picture (coil, y, x) of OBJECT from its Fourier transform at every point of the even grid."""
    kx = (np.arange(NX) - NX // 2).astype(float)
    k = np.stack([transform(kx, float(ky)) for ky in range(-(NY // 2), NY - NY // 2)])
    x = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k)))
    return np.stack([x, 0.5 * x])


def scan(
    delay: float = 0.0, phase: tuple[float, float] = (0.0, 0.0), drift: float = 0.0, navigators: int = 3, **more: float
) -> RawScan:
    """EPI of OBJECT: ramp-sampled, every other line reversed, gradients late by `delay` µs, and for each of two coils a
    phase of forward against reversed lines; `drift` rad from one echo to the next between the navigators."""
    k = integrated(gradient_delay=delay)
    lines, data = np.zeros(navigators + NY, LINE), np.zeros((navigators + NY, 2, NS), np.complex64)
    for i, line in enumerate(lines):
        navigator = i < navigators
        ky = 0 if navigator else i - navigators - NY // 2
        reverse = i % 2 == 0 if navigator else (i - navigators) % 2 == 1
        line["flags"] = (flag_bits(Flag.REVERSE) if reverse else 0) | (flag_bits(Flag.PHASECORR) if navigator else 0)
        line["kspace_encode_step_1"] = ky + NY // 2
        kx = -k if reverse else k
        for coil in range(2):
            sign = -0.5 if reverse else 0.5
            value = transform(kx, float(ky)) * np.exp(1j * sign * phase[coil]) * (1.0, 0.5)[coil]
            data[i, coil] = value * np.exp(1j * drift * i * navigator)
    lines["number_of_samples"], lines["active_channels"], lines["center_sample"] = NS, 2, NS // 2
    return RawScan(lines, in_memory(data), (encoding(**more),), source="test")


def coils(s: RawScan) -> np.ndarray:
    """Image of each coil (coil, y, x), scaled as `truth`."""
    k, mask = grid(s)
    assert mask.all()
    k = np.fft.ifftshift(k[0, :, 0], axes=(-2, -1))
    return np.asarray(np.fft.fftshift(np.fft.ifft2(k), axes=(-2, -1)))


def ghost(x: np.ndarray) -> float:
    """Largest signal half a field of view away from the object, relative to the object."""
    return float(np.abs(np.roll(x, NY // 2, axis=-2))[:, 17:31].max() / np.abs(truth()).max())


def test_the_trajectory_is_the_integral_of_the_gradient() -> None:
    assert np.allclose(trajectory(encoding(), NS), integrated(), atol=2e-3)
    assert np.allclose(trajectory(encoding(), NS, reverse=True), -integrated(), atol=2e-3)


def test_it_is_the_trajectory_of_another_reader(data_dir: Path) -> None:
    mapvbvd = pytest.importorskip("mapvbvd", reason="pymapvbvd is not installed: pip install pymapvbvd")
    pytest.importorskip("twixtools", reason="twixtools is not installed: pip install twixtools")
    from recon.io.twix import read

    path = data_dir / "formats" / "siemens_twix_epi_phantom.dat"
    theirs = np.ravel(mapvbvd.mapVBVD(str(path), quiet=True).image.rampSampTrj)
    own = trajectory(read(path).encodings[0], len(theirs))
    # They state 1/mm; the encoded field of view is 400 mm.
    assert np.abs(own - 400 * theirs).max() < 0.01


@pytest.mark.parametrize("reverse", [False, True])
def test_regridding_gives_the_samples_of_an_even_readout(reverse: bool) -> None:
    k = integrated() * (-1 if reverse else 1)
    even = np.arange(NX) - NX // 2
    for ky in (0.0, 5.0):
        got = ramp_matrix(encoding(), NS, reverse=reverse) @ transform(k, ky)
        expected = transform(even.astype(float), ky)
        assert np.abs(got - expected).max() < 4e-3 * np.abs(transform(even.astype(float), 0.0)).max()


def test_the_picture_is_the_object_without_ghost() -> None:
    x = coils(straighten(scan()))
    assert np.abs(x - truth()).max() < 3e-3 * np.abs(truth()).max()
    assert ghost(x) < 2e-3


def test_without_regridding_the_picture_is_not_the_object() -> None:
    s = scan()
    plain = replace(s, encodings=(replace(s.encodings[0], trajectory_parameters={}),))
    k, _ = grid(straighten(plain))
    x = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(k[0, :, 0], axes=(-2, -1))), axes=(-2, -1))
    assert np.abs(np.abs(x) - np.abs(truth())).max() > 0.1 * np.abs(truth()).max()


@pytest.mark.parametrize(
    ("delay", "phase"), [(0.0, (0.3, -0.4)), (1.5, (0.0, 0.0)), (-2.0, (0.5, 0.2)), (1.0, (3.0, -2.8))]
)
def test_navigators_remove_the_ghost_of_delays_and_phases(delay: float, phase: tuple[float, float]) -> None:
    s = scan(delay, phase)
    before = replace(s, lines=s.lines[3:], samples=in_memory(s.samples.read(np.arange(3, 3 + NY))))
    uncorrected = straighten(before)
    assert any("to correct their Nyquist ghost" in n for n in uncorrected.notes)
    assert ghost(coils(uncorrected)) > 0.05
    corrected = straighten(s)
    assert not corrected.notes
    assert ghost(coils(corrected)) < 0.012
    assert np.abs(np.abs(coils(corrected)) - np.abs(truth())).max() < 0.02 * np.abs(truth()).max()


@pytest.mark.parametrize("delay", [-2.0, -0.5, 1.0, 2.0])
def test_the_estimated_slope_is_the_delay(delay: float) -> None:
    # On the flat top a gradient late by τ moves forward samples by −τ/dwell·Δk and reversed ones by +τ/dwell·Δk.
    k = integrated(gradient_delay=delay)
    forward = ramp_matrix(encoding(), NS) @ transform(k, 0.0)
    backward = ramp_matrix(encoding(), NS, reverse=True) @ transform(-k, 0.0)
    f, b = (np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(v))) for v in (forward, backward))
    _, slope = ghost_phase(f, b)
    step = np.diff(integrated())[NS // 2] / DWELL
    assert slope == pytest.approx(2 * np.pi * 2 * delay * step / NX, rel=0.03)


def test_the_estimated_constant_is_the_phase() -> None:
    x = np.arange(64) - 32
    profile = np.exp(-0.5 * (x / 9) ** 2) * np.exp(0.3j * np.sin(x / 5))
    rng = np.random.default_rng(0)
    f = np.stack([profile * np.exp(1j * (1.1 - 0.04 * x))] * 4) + 0.01 * rng.standard_normal((4, 64))
    assert ghost_phase(f, np.stack([profile] * 4)) == pytest.approx((1.1, -0.04), abs=2e-3)


@pytest.mark.parametrize("navigators", [3, 4, 5])
def test_a_wrong_frequency_between_navigators_is_no_ghost(navigators: int) -> None:
    assert ghost(coils(straighten(scan(1.0, (0.2, 0.2), drift=0.3, navigators=navigators)))) < 0.012


def test_each_coil_has_its_own_phase() -> None:
    x = coils(straighten(scan(0.0, (0.6, -0.6))))
    assert max(ghost(x[:1]), ghost(x[1:])) < 0.006


def test_reading_some_lines_is_reading_all() -> None:
    s = straighten(scan(1.0, (0.2, -0.1)))
    everything = s.samples.read(np.arange(NY))
    rows = np.array([7, 0, 30, 31])
    assert np.array_equal(s.samples.read(rows), everything[rows])
    alone = np.concatenate([s.samples.read(np.array([i])) for i in range(NY)])
    assert np.abs(alone - everything).max() < 1e-5 * np.abs(everything).max()


def test_the_straight_scan_is_an_ordinary_one() -> None:
    s = scan()
    before = s.lines.copy()
    out = straighten(s)
    assert len(out.lines) == NY
    assert not (out.lines["flags"] & np.uint64(flag_bits(Flag.REVERSE, Flag.PHASECORR))).any()
    assert set(out.lines["number_of_samples"].tolist()) == {NX}
    assert set(out.lines["center_sample"].tolist()) == {NX // 2}
    assert out.encodings[0].trajectory == "cartesian"
    assert np.array_equal(s.lines, before)
    assert straighten(out) is out


def test_an_image_centre_off_the_isocentre_is_demodulated_by_the_true_trajectory() -> None:
    # The receiver's frequency is that of the flat top all the time; the object must stay sharp and in its place.
    offcentre = 30.0
    s = scan()
    k = integrated()
    step = np.diff(k)[NS // 2]
    flat = step * (np.arange(NS) - np.interp(0, k, np.arange(NS)))
    reverse = (s.lines["flags"] & np.uint64(flag_bits(Flag.REVERSE))) != 0
    wrong = np.exp(2j * np.pi * offcentre / 480 * (flat - k))
    data = s.samples.read(np.arange(len(s.lines)))
    data = np.where(reverse[:, None, None], data * wrong.conj(), data * wrong).astype(np.complex64)
    blurred, told = (
        coils(straighten(replace(s, samples=in_memory(data), encodings=(encoding(**more),))))
        for more in ({}, {"readoutOffcentre": offcentre})
    )
    assert np.abs(told - truth()).max() < 4e-3 * np.abs(truth()).max()
    assert np.abs(blurred - truth()).max() > 2e-2 * np.abs(truth()).max()


def test_other_lines_pass_untouched() -> None:
    s = scan()
    noise = np.ones((4, 2, 33), np.complex64) * (1 + 2j)
    extra = np.zeros(4, LINE)
    extra["flags"], extra["number_of_samples"], extra["active_channels"] = flag_bits(Flag.NOISE), 33, 2
    both = in_memory(noise, s.samples.read(np.arange(len(s.lines))))
    out = straighten(replace(s, lines=np.concatenate([extra, s.lines]), samples=both))
    assert np.array_equal(out.samples.read(np.arange(4)), noise)
    assert np.array_equal(out.lines[:4], extra)
    assert (
        ghost(coils(replace(out, lines=out.lines[4:], samples=in_memory(out.samples.read(np.arange(4, 4 + NY))))))
        < 2e-3
    )


def test_scans_that_are_not_echo_planar_are_returned_themselves() -> None:
    s = scan()
    s = replace(s, encodings=(replace(s.encodings[0], trajectory="cartesian"),))
    assert straighten(s) is s
    assert not ramp_sampled(s.encodings[0])


def test_an_even_readout_is_turned_and_corrected_but_not_regridded() -> None:
    even = np.arange(NX) - NX // 2
    s = scan()
    data = np.zeros((3 + NY, 2, NX), np.complex64)
    reverse = (s.lines["flags"] & np.uint64(flag_bits(Flag.REVERSE))) != 0
    for i, line in enumerate(s.lines):
        v = transform(even.astype(float), float(line["kspace_encode_step_1"]) - NY // 2)
        v = v[::-1] if reverse[i] else v
        data[i] = np.stack([v, 0.5 * v]) * np.exp(0.4j * reverse[i])
    lines = s.lines.copy()
    lines["number_of_samples"], lines["center_sample"] = NX, np.where(reverse, NX // 2 - 1, NX // 2)
    no_ramps = replace(s.encodings[0], trajectory_parameters={**TIMING, "flatTopTime": 0.0})
    out = straighten(replace(s, lines=lines, samples=in_memory(data), encodings=(no_ramps,)))
    x = coils(out)
    assert ghost(x) < 1e-3
    assert np.abs(np.abs(x) - np.abs(truth())).max() < 2e-3 * np.abs(truth()).max()


def test_frames_without_navigators_take_those_of_the_nearest_repetition() -> None:
    s = scan(1.0, (0.4, 0.1))
    data = s.samples.read(np.arange(len(s.lines)))
    later = s.lines[3:].copy()
    later["repetition"] = 1
    both = replace(s, lines=np.concatenate([s.lines, later]), samples=in_memory(np.concatenate([data, data[3:]])))
    out = straighten(both)
    assert not out.notes
    x = out.samples.read(np.arange(2 * NY))
    assert np.array_equal(x[:NY], x[NY:])


@pytest.mark.parametrize("samples", [NS, 3 * NS])
@pytest.mark.parametrize("source", ["noise scan", "estimate"])
def test_whitened_noise_is_one_in_the_field_of_view_of_a_regridded_image(source: str, samples: int) -> None:
    """Nothing but white noise was measured, of a known covariance and of a power in proportion to the bandwidth."""
    rng = np.random.default_rng(1)
    coils = np.array([[3.0, 0.0], [1.0 - 2.0j, 0.5]])

    def lines(count: int, samples: int, dwell: float) -> tuple[np.ndarray, np.ndarray]:
        white = rng.standard_normal((count, 2, samples)) + 1j * rng.standard_normal((count, 2, samples))
        made = np.zeros(count, LINE)
        made["number_of_samples"], made["active_channels"], made["sample_time_us"] = samples, 2, dwell
        made["kspace_encode_step_1"] = np.arange(count) % NY
        return made, (coils @ white / np.sqrt(dwell)).astype(np.complex64)

    dwell = DWELL * NS / samples
    groups = [lines(600, samples, dwell)]
    if source == "noise scan":
        groups.insert(0, lines(600, NS, 12.0))
        groups[0][0]["flags"] = flag_bits(Flag.NOISE)
    s = scan()
    header = replace(s.header, system=replace(s.header.system, noise_bandwidth=1.0))
    raw = replace(
        s, lines=np.concatenate([made for made, _ in groups]), samples=in_memory(*(data for _, data in groups)),
        encodings=(encoding(dwellTime=dwell),), header=header,
    )  # fmt: skip
    out = straighten(raw)
    found = whitening(out, kinds(out), out.encodings[0], "auto")
    assert found.source == source
    y = found.matrix.numpy() @ out.samples.read(kinds(out).imaging)
    image = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(y, axes=-1), norm="ortho"), axes=-1)[..., NX // 4 : -NX // 4]
    covariance = np.einsum("lin,ljn->ij", image, image.conj()) / (2 * image[:, 0].size)
    assert np.abs(covariance - np.eye(2)).max() < 0.03


def test_the_phantom_has_its_width_and_less_ghost(data_dir: Path) -> None:
    pytest.importorskip("twixtools", reason="twixtools is not installed: pip install twixtools")
    from recon.io.twix import read

    s = read(data_dir / "formats" / "siemens_twix_epi_phantom.dat")
    after = picture(grid(straighten(s))[0])[0, 0]
    keep = np.arange(3, len(s.lines))
    bare = replace(s, lines=s.lines[3:], samples=in_memory(s.samples.read(keep)))
    before = picture(grid(straighten(bare))[0])[0, 0]
    inside = after[50:60, 60:100].mean()
    # 188 mm of 2.5 mm voxels; a gradient echo of the same phantom gives 150 columns of 1.25 mm.
    columns = np.nonzero(after.sum(axis=0) > 0.25 * after.sum(axis=0).max())[0]
    assert columns.max() - columns.min() + 1 == pytest.approx(75, abs=2)
    y, x = np.mgrid[:80, :160]
    outside = np.hypot(y - 42, (x - 80) / 1.0) > 43
    ghosted = outside & (np.hypot(np.minimum(np.abs(y - 82), np.abs(y - 2)), x - 80) < 34)
    assert ghosted.sum() > 100
    level = [float(np.sqrt((p[ghosted] ** 2).mean())) / inside for p in (before, after)]
    assert level[1] < 0.6 * level[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dwellTime": None}, "lacks dwellTime"),
        ({"rampUpTime": 0.0}, "do not fit"),
        ({"dwellTime": 6.0}, "do not fit"),
        ({"acqDelayTime": -1.0}, "do not fit"),
    ],
)
def test_impossible_timing_is_refused_with_the_cure(change: dict[str, float | None], said: str) -> None:
    p = {k: v for k, v in {**TIMING, **change}.items() if v is not None}
    with pytest.raises(DataError, match=said):
        straighten(replace(scan(), encodings=(replace(encoding(), trajectory_parameters=p),)))
