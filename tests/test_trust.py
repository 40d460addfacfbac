"""Learned images carry their evidence, and give way to the classical image where it speaks against them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recon import pipeline, simulation, trust
from recon import plan as planning
from recon.data import Measurement
from recon.mri import encoded
from recon.mri.replicas import replicas
from recon.nets import unrolled
from recon.operators.sense import Sense
from recon.prepare.hybrid import Slab
from recon.recipe import Method, Recipe, Solve, Trust
from recon.simulation import Settings
from recon.solve import cg
from recon.solve.detail import Detail
from recon.solve.halves import Halves

R, SIZE, COILS = 3, 48, 6


@pytest.fixture(scope="module")
def case() -> tuple[Measurement, Tensor]:
    """A smooth object behind unit-norm maps, noise of σ = 1, and a sampling of every third line with ACS."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    inside = (x**2 + y**2 < 0.8).to(torch.complex64)
    truth = (40 * inside * (1 + 0.3 * torch.cos(6 * x)))[None]
    angles = [2 * math.pi * c / COILS for c in range(COILS)]
    maps = torch.stack([torch.exp(-((x - math.cos(a)) ** 2 + (y - math.sin(a)) ** 2) + 1j * a) for a in angles])[
        :, None
    ]
    maps = maps / maps.abs().square().sum(0).sqrt()
    mask = torch.zeros(1, 1, SIZE, 1)
    mask[..., ::R, :] = 1
    mask[..., 18:30, :] = 1
    A = Sense(maps, mask, (-3, -2))
    clean = A(truth)
    noise = torch.randn(*clean.shape, dtype=torch.complex64) * math.sqrt(2)
    return Measurement((clean + noise) * mask, A, 1.0), truth


def test_the_truth_leaves_the_noise_as_its_residual(case) -> None:
    m, truth = case
    assert float(trust.chi2(m, truth, torch.Size([]))) == pytest.approx(1, abs=0.03)
    assert float(trust.chi2(m, 1.1 * truth, torch.Size([]))) > 1.5


def test_each_item_of_a_batch_is_compared_with_its_own_samples(case) -> None:
    m, truth = case
    fewer = m.y.clone()
    fewer[:, :, ::2] = 0
    batch = Measurement(torch.stack([m.y, fewer]), m.A, 1.0)
    found = trust.chi2(batch, torch.stack([truth, truth]), torch.Size([2]))
    # Samples that are zero, of a channel or a line that was lost, are no measurement: what they miss is no residual.
    assert found.tolist() == pytest.approx([1, 1], abs=0.05)


def test_a_learned_image_need_not_fit_the_noise_of_a_classical_one_that_fits_it_too_well(case) -> None:
    m, truth = case
    fitted = cg.sense(m, lam=1e-6, iterations=60, tolerance=1e-9).x
    found = trust.examine(m, truth, fitted, limits=Trust(), trained=None)[0]
    assert found.classical_residual < 0.75
    assert found.residual > 1.25 * found.classical_residual
    assert not any("residual" in r for r in found.reasons)


def test_the_range_of_one_channel_is_for_one_channel() -> None:
    known = trust.Range((2, 8), (0.01, 0.1), single=(2, 3))
    assert known.of(1).acceleration == (2, 3)
    assert known.of(2) == known
    assert trust.Range((2, 8), (0.01, 0.1)).of(1).acceleration == (2, 8)


def test_a_summary_states_the_worst_of_each_number_and_can_be_divided_and_joined() -> None:
    a = trust.Evidence(1.0, 1.0, 0.01, 0.3, 0.1, 4.0, reasons=("motion",))
    b = trust.Evidence(1.2, 1.0, 0.08, 0.1, 0.1, 4.0)
    whole = trust.summary([a, b])
    assert (whole["residual"], whole["added"], whole["changed"], whole["fallbacks"]) == (1.2, 0.08, 0.3, 1)
    assert whole["reasons"] == ["motion"]
    parts = [{**trust.summary([e]), "calibration": {"factor": 1.7}} for e in (a, b)]
    assert trust.together(parts) == {**whole, "calibration": {"factor": 1.7}}


def test_images_partly_without_the_phase_are_counted_and_noted_unless_the_classical_one_is_shown() -> None:
    plain = trust.Evidence(1.0, 1.0, 0.01, 0.3, 0.1, 4.0, rephased=2.0, rephased_share=0.0)
    mended = replace(plain, rephased=9.0, rephased_share=0.1)
    whole = trust.summary([plain, mended, replace(mended, reasons=("motion",))])
    assert (whole["rephased"], whole["fallbacks"]) == (1, 1)
    first, second = trust.not_trusted(whole, "cs", True)
    assert first.startswith("warning: 1 of 3 learned images are not trusted (motion)")
    assert second.startswith("warning: 1 of 3 learned images are partly reconstructed without the object's phase")
    assert trust.not_trusted(trust.summary([plain]), "cs", True) == []


def test_fresh_noise_is_that_of_the_measurement_and_only_where_it_was_measured(case) -> None:
    m, _ = case
    seen: list[Tensor] = []

    def run(given: Measurement) -> Tensor:
        seen.append(given.y - m.y)
        return given.y.abs()

    replicas(replace(m, sigma=3.0), run, count=4, seeds=[1])
    fresh = torch.stack(seen)
    assert not fresh[..., (m.y == 0)].any()
    parts = torch.view_as_real(fresh[..., m.y != 0])
    assert float(parts.std()) == pytest.approx(3.0, rel=0.02)
    assert not torch.equal(seen[0], seen[1])


def test_what_was_added_where_nothing_was_measured_is_counted(case) -> None:
    m, truth = case
    # A pattern that aliases onto itself with the opposite sign in what was measured, and one that was measured.
    lines = torch.zeros(1, SIZE, SIZE, dtype=torch.complex64)
    lines[0, 4 * R + 1] = 3000  # a line of k-space between measured ones
    hidden = torch.fft.fftshift(torch.fft.ifftn(torch.fft.ifftshift(lines, dim=-2), dim=(-2,)), dim=-2)
    own = Sense(torch.ones_like(truth)[None], m.A.mask, m.A.axes)
    single = Measurement(own(truth), own, 1.0)
    for extra, share in ((hidden, 1.0), (truth - truth.roll(1, -1), None)):
        found = trust.examine(single, truth + extra, truth, limits=Trust(), trained=None)[0]
        energy = float(extra.abs().square().sum() / (truth + extra).abs().square().sum())
        direct = extra - own.H(own(extra))
        expected = float(direct.abs().square().sum() / (truth + extra).abs().square().sum())
        assert found.added == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert found.changed == pytest.approx(energy**0.5, rel=1e-3)
        if share is not None:
            assert found.added == pytest.approx(share * energy, rel=1e-3)


def test_a_residual_an_invention_and_a_strange_scan_are_each_named(case) -> None:
    m, truth = case
    quiet = trust.examine(m, truth, truth, limits=Trust(), trained=trust.Range((2, 10), (1e-3, 0.1)))[0]
    assert quiet.reasons == ()
    assert quiet.acceleration == pytest.approx(SIZE / float(m.A.mask.sum()), rel=0.2)
    wrong = trust.examine(m, 1.2 * truth, truth, limits=Trust(), trained=None)[0]
    assert any("residual" in r for r in wrong.reasons)
    invented = truth + 30 * torch.randn_like(truth)
    assert any(
        "nothing was measured" in r for r in trust.examine(m, invented, truth, limits=Trust(), trained=None)[0].reasons
    )
    far = trust.examine(m, truth, truth, limits=Trust(), trained=trust.Range((8, 10), (0.5, 0.9)))[0]
    assert len(far.reasons) == 2
    assert "acceleration" in far.reasons[0]
    nan = trust.examine(m, truth * float("nan"), truth, limits=Trust(), trained=None)[0]
    assert any("the residual of the learned image" in r for r in nan.reasons)
    assert any("nothing was measured" in r for r in nan.reasons)


@pytest.mark.parametrize(
    ("scale", "off", "gives_way"), [(1, 0.05, True), (1, 0.02, False), (60, 0.002, False), (60, 0.005, True)]
)
def test_a_difference_far_below_the_error_of_maps_is_no_reason_in_a_clean_scan(case, scale, off, gives_way) -> None:
    """An image off by a share of itself, before noise that is 60 times smaller and before noise as it was."""
    m, truth = case
    signal = m.A(truth)
    m = replace(m, y=(scale - 1) * signal * (m.y != 0) + m.y)
    learned = scale * truth * (1 + off)
    found = trust.examine(m, learned, scale * truth, limits=Trust(), trained=None)[0]
    assert any("residual" in r for r in found.reasons) == gives_way
    if scale > 1:
        assert found.residual > 1.25


def test_a_measurement_that_no_image_explains_is_named(case) -> None:
    m, truth = case
    noise = trust.examine(m, truth, truth, limits=Trust(), trained=None)[0].noise
    assert trust.expected(noise) == pytest.approx(1 + 1e-4 / noise**2)
    ramp = torch.exp(2j * math.pi * 3 * torch.arange(SIZE) / SIZE)[:, None]
    moved = torch.where((torch.arange(SIZE) % 2 == 0)[:, None], m.y * ramp, m.y)  # motion between shots
    m = replace(m, y=moved.to(torch.complex64))
    best = cg.sense(m, lam=1e-3, iterations=60, tolerance=1e-7).x
    for x in (truth, best):
        found = trust.examine(m, x, x, limits=Trust(), trained=None)[0]
        assert any("no image fits the measured data" in r for r in found.reasons)
    assert not trust.examine(m, best, best, limits=Trust(explained=1e9), trained=None)[0].reasons


#: What a number of the evidence may be at most, or at least, by the limits of a recipe; a number beyond it; others'
#: values; a word of the sentence.
GATES = {
    "residual": ("residual", 1.2699, 1.28, {}, "is 1.28 times the power of the noise"),
    "residual of what is odd": (
        "residual",
        2.5199,
        2.53,
        {"classical_residual": 2.0},
        "is 2.53 times the power of the noise",
    ),
    "residual of what is clean": ("residual", 3.2499, 3.26, {"noise": 0.001}, "is 3.26 times the power of the noise"),
    "explained": ("classical_residual", 2.999, 3.01, {}, "no image fits the measured data"),
    "sparser": ("sparser", 0.01, 0.011, {"rows": -1}, "shifted by -1 row"),
    "gain": ("gain", 1.2, 1.21, {"moved_rows": 1.0, "moved_samples": -2.0}, "moved by -1.0 rows or +2.0 samples"),
    "turned": ("turned", 20.0, 20.5, {}, "differ in phase"),
    "turned back": ("turned", -20.0, -20.5, {}, "differ in phase"),
    "apart": ("apart", 1.5, 1.6, {}, "shifted by 1.6 voxels"),
    "elsewhere": ("elsewhere", 1.5, 1.6, {"elsewhere_rows": -1.0, "elsewhere_columns": 1.25}, "-1 rows and +1 columns"),
    "rephased": ("rephased", 3.0, 3.1, {"rephased_share": 0.0}, "differs 3.1 times as much"),
    "added": ("added", 0.1, 0.101, {}, "put 10.1% of the image's energy"),
    "too fast": ("acceleration", 20.0, 20.1, {}, "its acceleration of 20.1 is outside"),
    "too slow": ("acceleration", 1.0, 0.99, {}, "its acceleration of 0.99 is outside"),
    "too noisy": ("noise", 0.04, 0.041, {}, "its noise of 0.041 is outside"),
    "too quiet": ("noise", 5e-4, 4.9e-4, {}, "its noise of 0.00049 is outside"),
}


@pytest.mark.parametrize("name", GATES)
def test_a_number_at_its_limit_is_no_reason_and_one_beyond_it_is_the_only_one(name: str) -> None:
    number, within, beyond, others, words = GATES[name]
    good = trust.Evidence(residual=1, classical_residual=1, added=0, changed=0, noise=0.01, acceleration=4)
    trained = trust.Range((2, 10), (1e-3, 0.02))
    assert trust._reasons(replace(good, **others, **{number: within}), Trust(), trained) == []
    (reason,) = trust._reasons(replace(good, **others, **{number: beyond}), Trust(), trained)
    assert words in reason


@pytest.mark.parametrize(("coils", "count"), [(COILS, 2), (1, 0)])
def test_fine_detail_is_reported_for_one_coil_and_judged_for_several(case, coils: int, count: int) -> None:
    m, truth = case
    if coils == 1:
        own = Sense(torch.ones_like(m.A.maps[:1]), m.A.mask, m.A.axes)
        m = Measurement(own(truth), own, 1.0)
    seen = Detail(rows=1.0, samples=0.0, gain=3.0, turned=45.0, coherent=0.9, partitions=0.0)
    (found,) = trust.examine(
        m, truth, truth, limits=Trust(explained=1e9), trained=None, witnesses=[trust.Witnesses(detail=seen)]
    )
    assert (found.gain, found.turned) == (3.0, 45.0)
    assert len(found.reasons) == count
    assert found.noise == pytest.approx(2**0.5 * m.sigma / float(unrolled.size(truth, 3)))


@pytest.mark.parametrize(("degrees", "coils", "count"), [(0.0, 1, 1), (0.0, COILS, 1), (6.0, 1, 0), (6.0, COILS, 1)])
def test_rotated_halves_are_reported_for_one_coil_and_judged_for_several(case, degrees, coils, count) -> None:
    m, truth = case
    if coils == 1:
        own = Sense(torch.ones_like(m.A.maps[:1]), m.A.mask, m.A.axes)
        m = Measurement(own(truth), own, 1.0)
    seen = Halves(rows=4, columns=0, gain=3.0, clear=20.0, share=0.5, degrees=degrees, radius=30.0)
    (found,) = trust.examine(
        m, truth, truth, limits=Trust(explained=1e9), trained=None, witnesses=[trust.Witnesses(halves=seen)]
    )
    assert found.apart == seen.apart > 3
    assert len(found.reasons) == count


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("brighter", [1, 300])
def test_the_spread_of_replicas_is_their_standard_deviation_however_bright_the_image_is(
    case, count: int, brighter: float
) -> None:
    m, _ = case
    made: list[Tensor] = []

    def run(given: Measurement) -> Tensor:
        made.append(given.A.H(given.y))
        return made[-1]

    spread = replicas(replace(m, y=brighter * m.y), run, count=count, seeds=[3])
    exact = torch.stack(made).abs().double().std(0)
    torch.testing.assert_close(spread.double(), exact, rtol=1e-2, atol=1e-2)
    assert float(exact.mean()) > 0.3


def test_the_uncertainty_of_a_slice_is_the_same_whichever_slices_are_solved_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s = Settings((32, 32, 1), slices=3, acceleration=(2, 1), acs=12, coils=4, sigma=0.05)
    scan = simulation.simulate(s)
    plan = Recipe(trust=Trust(replicas=3), solve=Solve(method="cs", iterations=5))
    together = pipeline.reconstruct(scan, plan, device="cpu").uncertainty
    solve = encoded.images

    def of_one(method: Method, slabs: list[Slab], *rest: Any, **more: Any) -> encoded.EncodedImages:
        if len(slabs) > 1:
            raise MemoryError
        return solve(method, slabs, *rest, **more)

    monkeypatch.setattr(encoded, "images", of_one)
    image = pipeline.reconstruct(scan, plan, device="cpu")
    assert any("1 slices at a time" in n for n in image.notes)
    assert together is not None
    np.testing.assert_array_equal(image.uncertainty, together)
    found: list[pipeline.FrameImage] = []
    pipeline.reconstruct(scan, plan, device="cpu", each=found.append)
    np.testing.assert_array_equal(np.concatenate([f.image.uncertainty for f in found]), together)
    noise = together / together.mean((1, 2), keepdims=True)
    # What one slice's estimate is off by says nothing of the next one's.
    assert not np.allclose(noise[0], noise[1], rtol=0.2)


def test_the_uncertainty_of_a_volume_is_the_same_in_however_many_parts_it_is_solved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scan = simulation.simulate(Settings((32, 16, 8), acceleration=(2, 1), acs=8, coils=2, sigma=0.05))
    plan = Recipe(trust=Trust(replicas=2), solve=Solve(method="sense"))
    whole = pipeline.reconstruct(scan, plan, device="cpu").uncertainty
    inner = planning.plan
    monkeypatch.setattr(planning, "plan", lambda *a, **k: replace(inner(*a, **k), columns=9))
    parts = pipeline.reconstruct(scan, plan, device="cpu").uncertainty
    assert whole is not None
    assert np.median(whole) > 0
    # Maps are found part by part: a voxel at the edge of the object may be within in one and without in the other.
    assert np.isclose(parts, whole, rtol=0.02, atol=0.02 * whole.max()).mean() > 0.999


@pytest.mark.parametrize(("fallback", "kept"), [(True, "the sense image is shown"), (False, "shown anyway")])
def test_the_warning_says_which_image_is_shown(fallback: bool, kept: str) -> None:
    good = trust.Evidence(1, 1, 0, 0, 0.01, 4)
    (note,) = trust.not_trusted(trust.summary([good, replace(good, reasons=("motion",))]), "sense", fallback)
    assert note == f"warning: 1 of 2 learned images are not trusted (motion): {kept}"
    assert trust.not_trusted(trust.summary([good]), "sense", fallback) == []


def test_only_the_slices_with_reasons_fall_back(case) -> None:
    _, truth = case
    learned, classical = torch.stack([truth, 2 * truth]), torch.stack([3 * truth, 4 * truth])
    good = trust.Evidence(1, 1, 0, 0, 0.01, 4)
    both = trust.chosen(learned, classical, [good, replace(good, reasons=("a reason",))], fallback=True)
    assert torch.equal(both, torch.stack([truth, 4 * truth]))
    assert trust.chosen(learned, classical, [replace(good, reasons=("a reason",))] * 2, fallback=False) is learned


def test_replicas_of_a_linear_method_have_its_analytic_noise(case) -> None:
    m, _ = case
    lam = 0.05

    def run(given: Measurement) -> Tensor:
        return cg.sense(given, lam=lam, iterations=60, tolerance=1e-5).x

    column = slice(SIZE // 2, SIZE // 2 + 1)
    A = Sense(m.A.maps[..., column], m.A.mask, m.A.axes)
    m = Measurement(m.y[..., column], A, m.sigma)
    spread = replicas(m, run, count=300, seeds=[1])
    eye = torch.eye(SIZE, dtype=torch.complex64).reshape(SIZE, 1, SIZE, 1)
    N = torch.stack([A.normal()(e)[0, :, 0] for e in eye], 1).to(torch.complex128)
    inverse = torch.linalg.inv(N + lam * torch.eye(SIZE))
    exact = (
        (inverse @ N @ inverse).diagonal().real.sqrt()
    )  # σ = 1 per part; the magnitude of a bright pixel sees one part
    inside = slice(8, 40)
    ratio = spread[0, inside, 0] / exact[inside]
    assert ratio.mean() == pytest.approx(1, abs=0.02)
    assert ratio.std() < 0.08
    again = [replicas(m, run, count=3, seeds=[seed]) for seed in (1, 1, 2)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
