"""Simulated scans of other kinds: echo trains, samples off the grid, files, presets, what is refused."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from recon.data import DataError, Flag, flag_bits
from recon.geometry import affine_lps
from recon.simulation import Epi, Settings, coil_array, phantom, preset, reference, simulate, simulate_to
from recon.simulation import truth as truth_of
from recon.simulation.reference import truth_maps
from tests.bart import bart
from tests.simulation.scans import GRIDS, SMALL, TURNED, error, full_k_space, imaging, is_set, picture
from tests.tools import need


def test_echo_trains_alternate_and_navigators_measure_the_ghost() -> None:
    s = Settings(
        matrix=(64, 48, 1), coils=2, slices=2, trajectory="epi",
        epi=Epi(ramp_sampling=False, delay=0.4, phase_rad=0.5), segments=2,
    )  # fmt: skip
    scan = simulate(s)
    train = scan.lines[:27]
    assert list(is_set(train, Flag.PHASECORR)) == [True] * 3 + [False] * 24
    assert list(is_set(train, Flag.REVERSE)) == [False, True] * 13 + [False]
    assert set(train["kspace_encode_step_1"][:3]) == {24}
    assert set(train["slice"]) == {0}
    forward, backward, again = scan.samples.read(np.arange(3))[:, 0]
    assert np.array_equal(forward, again)
    # Sample n of a line backwards lies at the place of sample ns − 1 − n: the reverse, but for the ghost.
    centred = [np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(line))) for line in (forward, backward[::-1])]
    ratio = centred[0] * centred[1].conj()
    x = (np.arange(128) - 64)[np.abs(ratio) > 0.2 * np.abs(ratio).max()]
    phase = np.unwrap(np.angle(ratio[np.abs(ratio) > 0.2 * np.abs(ratio).max()]))
    slope, constant = np.polyfit(x, phase, 1, w=np.abs(ratio[x + 64]))
    assert slope == pytest.approx(-2 * np.pi * 2 * 0.4 / 128, rel=0.05)
    assert constant == pytest.approx(0.5, abs=0.03)
    ghost = picture(scan, slice=0)
    assert (
        error(ghost, picture(simulate(replace(s, epi=Epi(ramp_sampling=False, delay=0, phase_rad=0))), slice=0)) > 0.1
    )


def test_ramp_samples_lie_where_the_trapezoid_puts_them() -> None:
    s = Settings(matrix=(64, 32, 1), coils=1, phase_rad=0, trajectory="epi", epi=Epi(delay=0, phase_rad=0))
    scan = simulate(s)
    e = scan.encodings[0]
    p = e.trajectory_parameters
    assert e.trajectory == "epi"
    assert e.trajectory_name == "ConventionalEPI"
    assert {
        n: type(p[n]) for n in ("etl", "numberOfNavigators", "rampUpTime", "numSamples", "acqDelayTime")
    } == dict.fromkeys(("etl", "numberOfNavigators", "rampUpTime", "numSamples", "acqDelayTime"), int)
    # Integrate the gradient in fine steps instead of by its closed form.
    up, flat, down = p["rampUpTime"], p["flatTopTime"], p["rampDownTime"]
    t = np.linspace(0, up + flat + down, 600001)
    area = np.concatenate(
        [[0], np.cumsum(np.minimum.reduce([t / up, np.ones_like(t), (t[-1] - t) / down])[:-1]) * t[1]]
    )
    at = np.interp((np.arange(p["numSamples"]) + 1) * p["dwellTime"] + p["acqDelayTime"], t, area)
    window = np.diff(np.interp([p["acqDelayTime"], p["acqDelayTime"] + p["numSamples"] * p["dwellTime"]], t, area))
    kx = 128 / window * (at - area[-1] / 2) / 480
    assert np.abs(np.diff(kx)).max() < 1 / 480
    shapes = reference.shapes(s, 0, 0, 0, 0)
    for row in (10, 11):
        line, data = scan.lines[row], scan.samples.read(np.array([row]))[0, 0]
        ky = (int(line["kspace_encode_step_1"]) - 16) / 240
        sign = -1 if line["flags"] & np.uint64(1 << 21) else 1
        exact = phantom.spectrum(shapes, np.stack([sign * kx, np.full_like(kx, ky)], -1)) * reference.unit_scale(s)
        assert error(data, exact) < 1e-4
    assert line["sample_time_us"] == pytest.approx(p["dwellTime"])


def test_ramp_sampled_epi_with_separate_calibration_is_a_scan() -> None:
    s = preset(matrix=48, coils=2, accel=2, trajectory="epi")
    scan = simulate(s)
    assert is_set(scan.lines, Flag.CALIBRATION).sum() == 24 + 3
    assert (~is_set(scan.lines, Flag.NOISE) & ~is_set(scan.lines, Flag.CALIBRATION)).sum() == 24 + 3
    assert scan.encodings[0].echo_train_length == 24


@pytest.mark.parametrize("unit", ["grid", "fov", "1/m"])
@pytest.mark.parametrize("kind", ["radial", "goldenangle", "spiral", "kooshball"])
def test_samples_off_the_grid_belong_to_the_stored_trajectory(kind: str, unit: str) -> None:
    solid = kind == "kooshball"
    s = Settings(
        matrix=(32, 32, 32 if solid else 1), fov=(240, 240, 240 if solid else 5), coils=1, phase_rad=0, trajectory=kind,
        readouts=5, trajectory_unit=unit, position=(3, 4, 5), slices=1 if solid else 2,
    )  # fmt: skip
    scan = simulate(s)
    rows = np.nonzero(scan.lines["slice"] == (0 if solid else 1))[0]
    stored = scan.samples.trajectory(rows)
    assert stored.shape[2] == (3 if solid else 2) == scan.lines["trajectory_dimensions"][0]
    assert stored.dtype == np.float32
    reach = {"grid": 0.5, "fov": 16, "1/m": 1000 * 16 / 240}[unit]
    assert np.linalg.norm(stored, axis=-1).max() == pytest.approx(reach, rel=1e-5)
    exact = phantom.spectrum(reference.shapes(s, 0 if solid else 1, 0, 0, 0), stored * (16 / 240 / reach))
    assert error(scan.samples.read(rows)[:, 0], exact * reference.unit_scale(s)) < 1e-5
    assert scan.encodings[0].trajectory == ("radial" if solid else kind)


def test_coils_of_a_radial_scan_are_those_of_the_cartesian_one() -> None:
    s = replace(SMALL, matrix=(40, 40, 1), fov=(240, 240, 5))
    radial = simulate(replace(s, trajectory="radial", readouts=4))
    spoke = radial.samples.read(np.array([0]))[0]
    assert error(spoke, full_k_space(s)[:, 0, 20]) < 1e-6


def test_bart_grids_a_radial_scan_to_the_truth() -> None:
    s = Settings(matrix=(64, 64, 1), coils=1, trajectory="radial", readouts=120, trajectory_unit="fov")
    scan = simulate(s)
    rows = np.arange(len(scan.lines))
    t = np.zeros((*scan.samples.trajectory(rows).shape[:2], 3), np.complex64)
    t[..., :2] = scan.samples.trajectory(rows)
    k = scan.samples.read(rows)[:, 0]
    image = bart("nufft -i -m 20 -d 64:64:1", t, k[..., None])
    ideal = truth_of(s).data
    image = np.asarray(image).reshape(64, 64)
    image *= np.vdot(image, ideal[0]) / np.vdot(image, image)
    assert error(image, ideal[0]) < 0.2
    assert error(image[:, ::-1], ideal[0]) > 0.3


def test_a_written_scan_is_read_by_the_ismrmrd_package(tmp_path) -> None:
    import ismrmrd

    s = replace(
        SMALL, acceleration=(2, 1), acs=8, sigma=0.1, reversed_lines=True, slices=2, echo_fraction=0.75, discard=(2, 1)
    )
    path = tmp_path / "scan.h5"
    simulate_to(path, s)
    scan = simulate(s)
    with ismrmrd.Dataset(str(path), "dataset", create_if_needed=False) as file:
        header = ismrmrd.xsd.CreateFromDocument(file.read_xml_header())
        assert file.number_of_acquisitions() == len(scan.lines)
        for i in (0, 20, 21, len(scan.lines) - 1):
            line, stored = scan.lines[i], file.read_acquisition(i)
            assert np.array_equal(stored.data, scan.samples.read(np.array([i]))[0])
            for flag in range(1, 65):
                assert stored.is_flag_set(flag) == bool(int(line["flags"]) >> (flag - 1) & 1)
            assert stored.idx.kspace_encode_step_1 == line["kspace_encode_step_1"]
            assert stored.idx.slice == line["slice"]
            assert stored.center_sample == line["center_sample"]
            assert tuple(stored.position) == tuple(line["position"])
            assert stored.sample_time_us == line["sample_time_us"]
        assert file.read_acquisition(0).is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        assert file.read_acquisition(17).is_flag_set(ismrmrd.ACQ_IS_REVERSE) or file.read_acquisition(18).is_flag_set(
            ismrmrd.ACQ_IS_REVERSE
        )
        assert stored.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        assert stored.is_flag_set(ismrmrd.ACQ_LAST_IN_SLICE)
    e = header.encoding[0]
    assert (e.encodedSpace.matrixSize.x, e.reconSpace.matrixSize.x) == (96, 48)
    assert e.encodedSpace.fieldOfView_mm.x == 480
    assert e.parallelImaging.accelerationFactor.kspace_encoding_step_1 == 2
    assert header.subjectInformation.patientID.startswith("SIMULATED")


def test_a_written_trajectory_survives(tmp_path) -> None:
    import ismrmrd

    s = replace(SMALL, trajectory="goldenangle", readouts=3)
    simulate_to(tmp_path / "scan.h5", s)
    with ismrmrd.Dataset(str(tmp_path / "scan.h5"), "dataset", create_if_needed=False) as file:
        stored = file.read_acquisition(1)
        assert np.array_equal(stored.traj, simulate(s).samples.trajectory(np.array([1]))[0])


def test_another_program_reconstructs_a_written_scan(tmp_path) -> None:
    import h5py

    tool = need("ismrmrd_recon_cartesian_2d")
    s = replace(SMALL, matrix=(64, 64, 1), fov=(240, 240, 5))
    simulate_to(tmp_path / "scan.h5", s)
    subprocess.run([tool, str(tmp_path / "scan.h5")], check=True, capture_output=True)
    with h5py.File(tmp_path / "scan.h5") as file:
        image = np.squeeze(file["dataset/cpp/data"][0])
    expected = np.sqrt((np.abs(truth_maps(s) * truth_of(s).data) ** 2).sum(0))[0]
    image = image * (image * expected).sum() / (image**2).sum()
    assert image.shape == expected.shape
    assert error(image, expected) < 0.15


def test_equal_settings_give_equal_bits_and_another_seed_other_noise() -> None:
    s = replace(SMALL, sigma=0.1, mask="random", acceleration=(2, 1), acs=4)
    a, b, c = simulate(s), simulate(s), simulate(replace(s, seed=1))
    assert a.lines.tobytes() == b.lines.tobytes()
    rows = np.nonzero(imaging(a))[0]
    assert np.array_equal(a.samples.read(rows), b.samples.read(rows))
    assert not np.array_equal(a.lines["kspace_encode_step_1"], c.lines["kspace_encode_step_1"])


def test_first_and_last_lines_of_each_slice_are_flagged() -> None:
    scan = simulate(replace(SMALL, slices=2, te_ms=(3.0, 9.0), acceleration=(2, 1), calibration="separate", acs=6))
    first, last = is_set(scan.lines, 7), is_set(scan.lines, 8)
    assert first.sum() == last.sum() == 4
    assert set(scan.lines["kspace_encode_step_1"][first]) == {0}
    assert set(scan.lines["kspace_encode_step_1"][last]) == {38}
    assert is_set(scan.lines, Flag.LAST_IN_MEASUREMENT).nonzero()[0].tolist() == [len(scan.lines) - 1]
    assert flag_bits(Flag.REVERSE) == 1 << 21


@pytest.mark.parametrize(
    ("arguments", "matrix", "lines"),
    [
        (dict(), (32, 32, 1), 32),
        (dict(accel=4, coils=3, slices=2), (32, 32, 1), 52),
        (dict(accel=4, slices=12, volume=True, coils=2), (32, 32, 12), 123),
        (dict(volume=True, coils=1), (32, 32, 32), 1024),
        (dict(trajectory="radial", accel=2), (32, 32, 1), 26),
        (dict(trajectory="spiral"), (32, 32, 1), 2),
    ],
)
def test_presets_are_scans(arguments, matrix, lines: int) -> None:
    s = preset(matrix=32, **arguments)
    scan = simulate(s)
    assert s.matrix == matrix
    assert (~is_set(scan.lines, Flag.NOISE)).sum() == lines
    assert is_set(scan.lines, Flag.NOISE).sum() == 16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dict(read_dir=(1, 1, 0)), "unit vectors"),
        (dict(matrix=(32, 32, 8), slices=2), "asks for a 3D scan"),
        (dict(trajectory="kooshball"), "three-dimensional"),
        (dict(trajectory="radial", matrix=(32, 32, 8)), "slice by slice"),
        (dict(trajectory="spiral", echo_fraction=0.7), "work with Cartesian"),
        (dict(coils=0), "at least one"),
        (dict(te_ms=()), "at least one"),
    ],
)
def test_impossible_scans_are_refused_with_a_sentence(change, says: str) -> None:
    with pytest.raises(DataError, match=says):
        replace(SMALL, **change)
    with pytest.raises(DataError, match="no preset"):
        preset(trajectory="rosette")


def test_maps_of_the_truth_are_the_series_that_made_the_scan() -> None:
    s = replace(GRIDS["oblique"], slices=3, gap=2.0)
    modes = coil_array.coil_modes(4, s.position, TURNED, reference._period(s), 3)
    g = truth_of(s).geometry
    voxel = np.array([[7.0, 11.0, 2.0, 1.0], [30.0, 2.0, 0.0, 1.0]])
    mm = (affine_lps(g) @ voxel.T)[:3].T
    expected = coil_array.maps(modes, (mm - np.array(s.position)) @ TURNED.T)
    assert np.allclose(truth_maps(s)[:, [2, 0], [11, 2], [7, 30]], expected, atol=1e-5)
