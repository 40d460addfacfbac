"""Synthetic scans: what a seed decides, and that measurement, maps and answer fit together."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recon.data import DataError
from recon.learn import ct_images, synth, volumes
from recon.learn.arrays import coil_maps
from recon.learn.draw import Draw
from recon.learn.images import FIELD, field, image, phase
from recon.learn.synth import Settings
from recon.learn.volumes import Sources
from recon.operators.sense import Sense

NOTHING = Sources()
#: Small scans with true maps.
SMALL = Settings(sizes=(48, 49), coils=(4,), acs=(8, 12), acceleration=(2.0, 4.0), estimated_maps=0.0, planar=0.0)


def ball(n: int = 40) -> Sources:
    z, y, x = np.mgrid[:n, :n, :n] - n / 2
    inside = (x**2 + y**2 + z**2 < (0.45 * n) ** 2).astype(np.float32)
    return Sources(((inside * (1 + 0.3 * np.sin(x))).astype(np.float32)[8:-8],), (), ("ball",))


def test_a_seed_decides_the_scan() -> None:
    one, two, other = (synth.example(s, ball(), SMALL) for s in (7, 7, 8))
    assert torch.equal(one.measurement.y, two.measurement.y)
    assert torch.equal(one.full, two.full)
    assert one.full.shape != other.full.shape or not torch.equal(one.full, other.full)


def test_what_was_measured_is_the_full_scan_seen_through_the_operator_but_for_noise() -> None:
    settings = replace(SMALL, noise=(0.001, 0.001), oversampling=1.0, sizes=(48, 52), raw=0.0)
    for seed in range(6):
        e = synth.example(seed, ball(), settings)
        A = e.measurement.A
        assert isinstance(A, Sense)
        measured = A.mask.expand(e.measurement.y.shape) > 0
        # On its own grid and with true maps the operator predicts the scan exactly: what is left is the noise.
        left = (A(e.clean) - e.measurement.y)[measured]
        assert float(left.abs().square().mean()) == pytest.approx(2.0, rel=0.25)
        assert float(e.measurement.y[~measured].abs().max()) == 0


def test_the_noise_of_the_answer_is_that_of_a_full_scan() -> None:
    for seed in range(4):
        e = synth.example(seed, ball(), replace(SMALL, noise=(0.02, 0.02)))
        noise = (e.full - e.clean).abs().square().mean()
        assert float(noise) == pytest.approx(2.0, rel=0.15)
        peak = float(e.clean.abs().max())
        assert 0.3 < peak / (math.sqrt(2) / 0.02) < 3


@pytest.mark.parametrize("planar", [0.0, 1.0])
def test_the_acceleration_that_is_stated_is_that_of_the_mask(planar: float) -> None:
    for seed in range(8):
        e = synth.example(seed, NOTHING, replace(SMALL, planar=planar, real=0.0))
        A = e.measurement.A
        assert isinstance(A, Sense)
        assert e.acceleration == pytest.approx(A.mask.numel() / float(A.mask.sum()))
        assert A.axes == ((-2, -1) if planar else (-2,))


def test_maps_have_unit_size_where_they_are() -> None:
    e = synth.example(3, ball(), replace(SMALL, estimated_maps=1.0, noise=(0.01, 0.01), sizes=(64,)))
    A = e.measurement.A
    assert isinstance(A, Sense)
    size = A.maps.abs().square().sum(-4)
    assert bool(((size - 1).abs() < 1e-3).logical_or(size == 0).all())
    assert float((size > 0).float().mean()) > 0.2


def test_many_coils_are_compressed() -> None:
    e = synth.example(0, ball(), replace(SMALL, coils=(20,), virtual=6))
    assert e.measurement.y.shape[0] == 6


def test_raw_scans_keep_their_noise_and_nothing_cleaner_is_claimed() -> None:
    g = torch.Generator().manual_seed(0)
    k = 5 * torch.randn(3, 40, 36, dtype=torch.complex64, generator=g)
    k[:, 14:26, 12:24] *= 100
    e = synth.example(1, Sources((), (k.numpy(),), ("raw",)), replace(SMALL, raw=1.0))
    assert not e.known_clean
    assert torch.equal(e.full, e.clean)
    corner = e.measurement.A.forward(e.full)
    measured = e.measurement.y.abs() > 0
    torch.testing.assert_close(corner[measured], e.measurement.y[measured], rtol=1e-3, atol=1e-2)


def test_a_loop_is_strongest_on_its_own_side_and_weakens_away_from_it() -> None:
    maps = coil_maps(Draw.seeded(1), 6, (40, 44)).abs()
    assert float(maps.square().sum(0).mean()) == pytest.approx(1, rel=1e-3)
    edge = torch.stack([maps[:, 0].amax(1), maps[:, -1].amax(1), maps[:, :, 0].amax(1), maps[:, :, -1].amax(1)])
    assert bool((edge.amax(0) > 2 * maps[:, 18:22, 20:24].mean((1, 2))).all())


def test_images_are_finite_and_near_one() -> None:
    for seed in range(12):
        x = image(Draw.seeded(seed), ball(), (33, 40))
        assert x.shape == (33, 40)
        assert bool(torch.isfinite(torch.view_as_real(x)).all())
        assert 0.5 < float(x.abs().max()) < 4


@pytest.mark.parametrize("angle", [0.0, 0.5 * math.pi, 0.7])
def test_the_field_of_a_rod_across_the_magnet_is_the_one_of_the_textbook(angle: float) -> None:
    # Within it −1/6, around it ½ (a/r)² cos 2φ from the direction of the magnet (Haacke et al., 1999, chapter 25).
    n, a = 512, 30.0
    y, x = torch.meshgrid(torch.arange(n) - n // 2, torch.arange(n) - n // 2, indexing="ij")
    r2 = (y**2 + x**2).float()
    found = field(r2 < a**2, angle)
    # The mean over the periodic plane is undetermined.
    found = found - found[(r2 > 200**2) & (r2 < 250**2)].mean()
    assert float(found[r2 < 20**2].mean()) == pytest.approx(-1 / 6, abs=0.01)
    assert float(found[r2 < 20**2].std()) < 0.005
    around = (r2 > 40**2) & (r2 < 90**2)
    along = (math.cos(angle) * y + math.sin(angle) * x)[around].square() / r2[around]
    torch.testing.assert_close(found[around], 0.5 * a**2 / r2[around] * (2 * along - 1), atol=0.012, rtol=0)


def test_a_share_of_phases_jumps_where_tissue_ends() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    body = ((y / 0.8).square() + (x / 0.5).square() < 1).float()
    tissue = body > 0
    spread = []
    for seed in range(40):
        without, with_it = (phase(Draw.seeded(seed), body, share) for share in (0.0, 1.0))
        jump = with_it - without
        spread.append(float(jump[tissue].std()))
        # The chance and the field are drawn last: what comes before is as it was.
        assert float((jump[tissue].mean() / FIELD[1]).abs()) < 0.01
    assert min(spread) < 0.6
    assert FIELD[0] < max(spread) <= 1.01 * FIELD[1]
    small = body[::6, ::6]
    drawn = [not torch.equal(phase(Draw.seeded(s), small), phase(Draw.seeded(s), small, 0.3)) for s in range(300)]
    assert np.mean(drawn) == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize(("seed", "next_number"), [(3, 0.911983), (4, 0.062222), (5, 0.034681)])
def test_the_scans_of_recipes_without_such_a_field_are_what_they_were(seed: int, next_number: float) -> None:
    # What the generator gave after a phase before there were such fields: one draw more would change every scan.
    draw = Draw.seeded(seed)
    phase(draw, torch.ones(8, 8))
    assert draw.uniform() == pytest.approx(next_number, abs=1e-6)
    assert Settings().susceptibility == 0


def test_a_random_field_has_the_spectrum_that_was_asked_for() -> None:
    draw = Draw.seeded(0)
    power = torch.stack([torch.fft.fft2(draw.field((64, 64), 2.0)).abs().square() for _ in range(100)]).mean(0)
    # Amplitude (1 + k²)^(−power/2): from 2 to 16 cycles the power falls by (257/5)².
    assert float(power[2, 0] / power[16, 0]) == pytest.approx((257 / 5) ** 2, rel=0.4)


def test_volumes_are_read_from_a_folder(tmp_path: Path) -> None:
    import nibabel

    g = np.random.default_rng(0)
    nibabel.save(
        nibabel.Nifti1Image(g.integers(0, 900, (30, 28, 5)).astype(np.int16), np.eye(4)), tmp_path / "a.nii.gz"
    )
    np.savez(tmp_path / "b.npz", image=g.integers(0, 900, (4, 20, 22)).astype(np.int16))
    k = np.zeros((2, 16, 18), np.complex64)
    k[:, 6, 11] = 5
    np.savez(tmp_path / "c.npz", kspace=k)
    (tmp_path / "note.txt").write_text("no volume")
    (tmp_path / "._head.nii.gz").write_bytes(b"\0\5\x16\7")  # a file manager's
    found = volumes.read(tmp_path)
    assert found.names == ("a.nii.gz", "b.npz", "c.npz")
    assert [m.shape[1:] for m in found.magnitudes] == [(30, 28), (20, 22)]
    assert abs(found.raw[0][0, 8, 9]) == 5
    for name in ("a.nii.gz", "b.npz"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=rf"{name} is truncated or not a volume"):
            volumes.read(tmp_path)
        (tmp_path / name).write_bytes(whole)
    np.savez(tmp_path / "b.npz", image=np.array([{"any": "object"}]))
    with pytest.raises(DataError, match="is truncated or not a volume"):
        volumes.read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no NIfTI volume"):
        volumes.read(tmp_path / "empty")


def test_voxels_that_are_no_numbers_count_as_the_darkest_and_series_are_refused(tmp_path: Path) -> None:
    """Brain extraction leaves NaN around the brain; one such voxel must not cost a volume, or a training."""
    import nibabel

    def store(volume: np.ndarray) -> None:
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")

    v = np.random.default_rng(0).uniform(100, 900, (30, 28, 5)).astype(np.float32)
    v[:4] = np.nan
    store(v)
    (found,) = volumes.read(tmp_path).magnitudes
    assert found.shape == (5, 30, 28)
    assert found[:, :4].max() == found.min() < 0.2
    store(np.where(np.isnan(v), np.float32(np.inf), v)[..., None])
    np.testing.assert_array_equal(volumes.read(tmp_path).magnitudes[0], found)
    store(np.full_like(v, np.nan))
    with pytest.raises(DataError, match=r"a\.nii\.gz holds NaN or infinite values"):
        volumes.read(tmp_path)
    store(np.stack([v] * 4, -1))
    with pytest.raises(
        DataError, match=r"a\.nii\.gz has 30×28×5×4 voxels of float32 where one real-valued volume is needed"
    ):
        volumes.read(tmp_path)
    store(v[..., 0])
    assert volumes.read(tmp_path).magnitudes[0].shape == (1, 30, 28)


def test_ct_with_voxels_that_are_no_numbers_is_ct_and_they_are_air(tmp_path: Path) -> None:
    import nibabel

    v = np.full((30, 28, 5), 40.0, np.float32)
    v[:8], v[0] = -1000.0, np.nan
    nibabel.save(nibabel.Nifti1Image(v, np.eye(4)), tmp_path / "a.nii.gz")
    (found,) = ct_images.read(tmp_path).ct
    assert set(np.unique(found[:, :8])) == {-1000}
    (tmp_path / "b.nii.gz").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"b\.nii\.gz is truncated or not a volume"):
        ct_images.read(tmp_path)


def test_the_noise_of_raw_scans_comes_from_measured_corners() -> None:
    g = np.random.default_rng(3)
    k = (g.normal(size=(2, 2, 128, 128)) * 2.0).astype(np.float32)
    raw = (k[0] + 1j * k[1]).astype(np.complex64)
    raw[:, 64, 64] = 1e4
    far = ((np.arange(128)[:, None] - 64) ** 2 + (np.arange(128) - 64) ** 2) / 64**2
    some = raw * (far < 1.15)
    drawn = Settings(raw=1.0, acs=(8, 8))
    e = synth.example(5, Sources(raw=(some,)), drawn)
    # Whitened: noise of a standard deviation of one per part.
    rows = [r for r in range(44, 85) if r != 64 and bool((e.measurement.y[0, 0, r] != 0).any())]
    y = torch.view_as_real(e.measurement.y[0, 0, rows])
    assert float(y.abs().median()) / 0.6745 == pytest.approx(1, rel=0.05)
    none = raw * (far < 1)
    with pytest.raises(DataError, match="empty corners"):
        synth.example(5, Sources(raw=(none,)), drawn)
