"""A network's image that depends on the object's phase is detected, and made without it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recon import check, pipeline
from recon import recipe as recipes
from recon.data import Measurement, RawScan
from recon.mri import networks
from recon.nets import rephased, unrolled, weights
from recon.nets.rephased import Rephased
from recon.operators.sense import Sense
from recon.recipe import Recipe
from recon.simulation import preset, simulate

ROWS, COLUMNS = rephased.LARGE, 48
NETWORK = weights.load("mri-small").network


def disc(rows: int = ROWS) -> tuple[Measurement, Tensor]:
    """A disc behind a phase, two coils, every second row; and its image."""
    y, x = torch.meshgrid(torch.arange(rows) - rows // 2, torch.arange(COLUMNS) - COLUMNS // 2, indexing="ij")
    body = ((y / rows) ** 2 + (x / COLUMNS) ** 2 < 0.16).float()
    image = torch.polar(body, 0.4 + 0.02 * y)[None]
    maps = torch.stack([torch.polar(torch.ones(y.shape), 0.01 * x), torch.polar(1 + 0.3 * y / rows, 0.02 * y)])
    maps = (maps / maps.abs().square().sum(0).sqrt())[:, None]
    mask = torch.zeros(1, 1, rows, 1)
    mask[..., ::2, :] = 1
    A = Sense(maps, mask, (-2,))
    return Measurement(A(image), A, 0.01), image


def drawing(with_phase: float, without: float, seen: list[Tensor]) -> Callable[..., Tensor]:
    """A network that makes an image brighter, by one share where it has a phase and by another where it has none."""

    def made(network: object, m: Measurement, *, denoise: float = 0.0, start: Tensor) -> Tensor:
        seen.append(m.A(start))
        real = bool((start.imag.abs() <= 1e-6 * start.abs().max()).all())
        return start * (1 + (without if real else with_phase))

    return made


@pytest.mark.parametrize(
    ("with_phase", "without", "told"),
    [(0.35, 0.05, 6.0), (0.05, 0.05, 0.0), (0.05, 0.35, 0.3 / 0.35), (0.06, 0.05, 0.0), (0.1, 0.0, 0.1 / 0.003)],
    ids=["strays", "alike", "changes more without", "differs too little to see", "all of it by the phase"],
)
def test_the_effect_of_the_phase_is_measured_relative_to_the_change_without_it(
    monkeypatch, with_phase: float, without: float, told: float
) -> None:
    m, start = disc()
    seen: list[Tensor] = []
    monkeypatch.setattr(unrolled, "reconstruct", drawing(with_phase, without, seen))
    x = (1 + with_phase) * start
    shown, (found,) = rephased.compared(NETWORK, m, x, start, limit=100)
    assert found == Rephased(pytest.approx(told, rel=1e-3), 0.0)
    assert torch.equal(shown, x)
    # Told as a part of the maps, the phase leaves what the image says of the data as it is.
    torch.testing.assert_close(seen[0], m.y, rtol=1e-4, atol=1e-5)


def test_of_a_batch_the_images_beyond_the_limit_are_those_without_the_phase_with_the_phase_put_back(
    monkeypatch,
) -> None:
    m, start = disc()
    two = replace(m, y=torch.stack([m.y, m.y]), A=replace(m.A, maps=torch.stack([m.A.maps, m.A.maps])))
    monkeypatch.setattr(unrolled, "reconstruct", drawing(0.35, 0.05, []))
    x = torch.stack([1.35 * start, 1.05 * start])
    shown, (far, near) = rephased.compared(NETWORK, two, x, torch.stack([start, start]), limit=5.9)
    assert far is not None
    assert far.apart == pytest.approx(6.0, rel=1e-3)
    assert far.share > 0.5
    assert near == Rephased(pytest.approx(0.0), 0.0)
    torch.testing.assert_close(shown, torch.stack([1.05 * start, 1.05 * start]), rtol=1e-5, atol=1e-6)
    assert torch.equal(shown[1], x[1])


def test_only_the_windows_that_depend_on_the_phase_are_made_without_it() -> None:
    _, start = disc()
    drawn, other, classical = start.clone(), 1.02 * start, start
    at = slice(ROWS // 2, ROWS // 2 + 2), slice(COLUMNS // 2 - 4, COLUMNS // 2 + 4)
    x = other.clone()
    x[0, at[0], at[1]] = 1.8 * drawn[0, at[0], at[1]]
    made, (apart,), (share,) = rephased.mixed(x, other, classical, 3.0)
    assert apart > 6
    torch.testing.assert_close(made, other)
    assert 0 < share < 0.2
    far = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    far[: ROWS // 2 - 40] = True
    y = x.clone()
    y[0, far] = 1.021 * y[0, far]  # far from what is drawn, the network's own image stays
    made, _, _ = rephased.mixed(y, other, classical, 3.0)
    assert torch.equal(made[0, far], y[0, far])


def test_dark_windows_follow_where_a_bright_one_depends_on_the_phase_and_are_no_reason_by_themselves() -> None:
    plane = torch.ones(1, 128, 64, dtype=torch.complex64)
    plane[:, :64] = 0.05
    x, other = 1.03 * plane, 1.01 * plane
    x[0, 20, 32] = 0.6
    made, (apart,), (share,) = rephased.mixed(x, other, plane, 3.0)
    assert (apart, share) == (0.0, 0.0)
    assert torch.equal(made, x)
    x[0, 100, 32] = 3.0
    made, _, (share,) = rephased.mixed(x, other, plane, 3.0)
    assert float(made[0, 20, 32].real) == pytest.approx(1.01 * 0.05)
    assert float(made[0, 100, 32].real) == pytest.approx(1.01)
    assert share < 0.4
    dark = x.clone()
    dark[0, 100, 32] = other[0, 100, 32]
    made, _, shares = rephased.mixed(*(torch.stack(t) for t in ((dark, x), (other, other), (plane, plane))), 3.0)
    assert shares == [0.0, share]
    assert torch.equal(made[0], dark)


def test_one_image_changes_over_to_the_other_without_an_edge() -> None:
    plane = torch.ones(1, 96, 96, dtype=torch.complex64)
    x, other = 1.03 * plane, 1.01 * plane
    x[0, 48, 48] = 3.0
    made, _, _ = rephased.mixed(x, other, plane, 3.0)
    across = made[0, 48].real
    assert float(across.diff().abs().max()) < 0.02 / 6
    assert float(across[48]) == pytest.approx(1.01)
    # The windows that hold the spot reach twelve pixels from it.
    assert float(across[60]) == pytest.approx(1.01)
    assert float(across[0]) == pytest.approx(1.03)


def test_an_empty_image_has_nothing_that_differs() -> None:
    m, start = disc()
    nothing = torch.zeros_like(start)
    empty = replace(m, y=torch.zeros_like(m.y))
    assert rephased.compared(NETWORK, empty, nothing, nothing, limit=6)[1] == [Rephased(0.0, 0.0)]


def test_smaller_slices_volumes_and_several_sets_of_maps_are_not_looked_at() -> None:
    def told(m: Measurement, x: Tensor) -> list[Rephased | None]:
        return rephased.compared(NETWORK, m, x, x, limit=0)[1]

    assert told(*disc(ROWS - 2)) == [None]
    m, start = disc()
    assert told(replace(m, y=torch.cat([m.y, m.y], -3)), start) == [None]
    sets = Sense(torch.stack([m.A.maps, m.A.maps], -4), m.A.mask, m.A.axes, sets=True)
    assert told(replace(m, A=sets), start) == [None]


def test_a_shipped_network_gives_the_same_image_with_a_smooth_phase_and_without() -> None:
    m, start = disc()
    m = replace(m, y=m.y + 0.01 * m.A.mask * torch.randn(m.y.shape, generator=torch.Generator().manual_seed(0)))
    start = unrolled.classical(m, 20)
    x = unrolled.reconstruct(NETWORK, m, start=start)
    _, (found,) = rephased.compared(NETWORK, m, x, start, limit=6)
    assert found is not None
    assert math.isfinite(found.apart)
    assert found.apart < 6


@pytest.fixture
def scan(monkeypatch: pytest.MonkeyPatch) -> RawScan:
    """A small scan of which every image is looked at, whatever was seen of a network, and small differences count."""
    monkeypatch.setattr(rephased, "LARGE", 64)
    monkeypatch.setattr(rephased, "SEEN", 1e-3)
    monkeypatch.setattr(networks, "draws", lambda name: True)
    return simulate(replace(preset(accel=4, matrix=64, coils=4), sigma=0.02))


def plan(limit: float, **more: object) -> Recipe:
    return recipes.parse(
        {"solve": {"method": "unrolled", "weights": "mri-small"}, "trust": {"rephased": limit, **more}}
    )


def test_windows_that_depend_on_the_phase_are_shown_without_it_with_a_note(scan: RawScan) -> None:
    mixed, plain = (pipeline.reconstruct(scan, plan(limit), device="cpu") for limit in (0.0, 1e9))
    (item,) = mixed.trust["items"]
    assert item["rephased"] > 0
    assert 0 < item["rephased_share"] <= 1
    assert (item["reasons"], mixed.trust["fallbacks"], mixed.trust["rephased"]) == ((), 0, 1)
    assert [
        n
        for n in mixed.notes
        if n.startswith("warning: 1 of 1 learned image is partly reconstructed without the object")
    ]
    told, untold = (
        check.text(check.Checked({"provenance": i.provenance, "trust": i.trust}, ())) for i in (mixed, plain)
    )
    assert "0 of 1 image classical, 1 in part without the object's phase\n" in told
    assert (plain.trust["items"][0]["rephased_share"], plain.trust["rephased"]) == (0.0, 0)
    assert "phase" not in untold + "".join(plain.notes)
    m = pipeline.measurements(scan, plan(0.0), device="cpu")[0]
    start = unrolled.classical(m, NETWORK.shape.start)
    x = unrolled.reconstruct(NETWORK, m, start=start)
    expected = rephased.mixed(x, rephased.image(NETWORK, m, start), start, 0.0)[0][0, 0].abs().numpy()
    assert np.abs(np.abs(mixed.data.reshape(64, 64)) - expected).max() < 1e-4 * expected.max()
    assert np.abs(np.abs(plain.data.reshape(64, 64)) - expected).max() > 1e-3 * expected.max()


def test_without_fallback_the_image_with_the_phase_is_shown_with_a_warning(scan: RawScan) -> None:
    shown, plain = (pipeline.reconstruct(scan, plan(limit, fallback=False), device="cpu") for limit in (0.0, 1e9))
    assert np.array_equal(shown.data, plain.data)
    assert [n for n in shown.notes if "without the object's phase" in n and "shown anyway" in n]


def test_replicas_of_an_image_without_the_phase_are_made_as_it_was(scan: RawScan, monkeypatch) -> None:
    made: list[Tensor] = []
    original = rephased.image

    def watched(*given: object, **more: object) -> Tensor:
        made.append(original(*given, **more))
        return made[-1]

    monkeypatch.setattr(rephased, "image", watched)
    for limit, count in ((0.0, 4), (1e9, 1)):
        made.clear()
        assert pipeline.reconstruct(scan, plan(limit, replicas=3), device="cpu").uncertainty is not None
        assert len(made) == count


def test_a_network_that_drew_nothing_is_spared_the_second_image(scan: RawScan, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(rephased, "LARGE", 64)
    here = tmp_path / "mine"
    shutil.copytree(weights.available()["mri-small"], here)
    mine = recipes.parse({"solve": {"method": "unrolled", "weights": str(here)}})

    def told(record: dict[str, object]) -> float | None:
        (here / "phases.json").write_text(json.dumps(record), encoding="utf-8")
        networks.draws.cache_clear()
        return pipeline.reconstruct(scan, mine, device="cpu").trust["items"][0]["rephased"]

    sha = weights.load("mri-small").sha256
    assert told({"slices": 58, "drawn": 0, "weights_sha256": sha}) is None
    assert told({"slices": 58, "drawn": 1, "weights_sha256": sha}) is not None
    assert told({"slices": 58, "drawn": 0, "weights_sha256": "of others"}) is not None
    networks.draws.cache_clear()
    assert (networks.draws("mri-small"), networks.draws("mri-base")) == (False, True)
