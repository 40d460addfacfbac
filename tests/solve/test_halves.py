"""Fine detail tells whether both halves of k-space show the object in one place."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.ndimage import gaussian_filter, rotate
from torch import Tensor

from recon import trust
from recon.data import Measurement
from recon.operators.sense import Sense
from recon.recipe import Trust
from recon.solve import halves

N, ACS = 128, 20


def transformed(x: Tensor, inverse: bool = False) -> Tensor:
    along = (torch.fft.ifft if inverse else torch.fft.fft)(torch.fft.ifftshift(x, dim=-2), dim=-2, norm="ortho")
    return torch.fft.fftshift(along, dim=-2)


def moved_in_part(shift: tuple[int, int], since: int, degrees: float = 0) -> tuple[Measurement, Tensor]:
    """Blocks on a disc behind a smooth phase, and the same with all rows from `since` on of the object elsewhere."""
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(*(torch.arange(N) - N // 2,) * 2, indexing="ij")
    body = ((y**2 + x**2) < 50**2).float()
    for _ in range(60):
        top, left = (int(torch.randint(20, N - 30, (1,), generator=g)) for _ in range(2))
        body[top : top + 6, left : left + 9] *= 1 + float(torch.rand(1, generator=g))
    elsewhere = body
    if degrees:  # what is finer than a voxel does not turn
        body = torch.from_numpy(gaussian_filter(body.numpy(), 0.7))
        elsewhere = torch.from_numpy(rotate(body.numpy(), degrees, reshape=False, order=3))
    phase = 0.5 + 0.02 * y + 1e-4 * x**2
    image = torch.polar(body, phase)
    k, other = transformed(image), transformed(torch.roll(torch.polar(elsewhere, phase), shift, (0, 1)))
    noise = 0.02 * torch.complex(*(torch.randn(N, N, generator=g) for _ in range(2)))
    k = torch.where(torch.arange(N)[:, None] >= since, other, k) + noise
    mask = torch.zeros(1, 1, N, 1)
    mask[..., ::2, :] = 1
    mask[..., N // 2 - ACS // 2 : N // 2 + ACS // 2, :] = 1
    m = Measurement((k * mask[0])[None], Sense(torch.ones(1, 1, N, N, dtype=torch.complex64), mask, (-2,)), 0.02)
    return m, transformed(k, inverse=True)[None]


def told(m: Measurement, x: Tensor) -> halves.Halves:
    found = halves.compared(m, x)[0]
    assert found is not None
    return found


def test_halves_of_an_object_that_lay_still_agree() -> None:
    good = told(*moved_in_part((0, 0), N))
    assert good.apart == 0
    assert good.gain == 1
    assert good.clear > 5
    assert 0.5 < good.share < 1


@pytest.mark.parametrize("shift", [(3, -2), (0, 5), (-4, 0)])
@pytest.mark.parametrize("since", [N // 2 + ACS // 2, N // 2 + N // 8])
def test_who_moved_beyond_the_acs_block_is_found_where_they_went(shift: tuple[int, int], since: int) -> None:
    found = told(*moved_in_part(shift, since))
    assert (found.rows, found.columns) == shift
    assert found.apart == pytest.approx(math.hypot(*shift))


@pytest.mark.parametrize(("degrees", "shift"), [(3, (0, 0)), (-4.5, (0, 0)), (5, (2, -3))])
@pytest.mark.parametrize("since", [N // 2 + ACS // 2, N // 2 + N // 8])
def test_who_turned_beyond_the_acs_block_is_found_by_the_turn(
    degrees: float, shift: tuple[int, int], since: int
) -> None:
    found = told(*moved_in_part(shift, since, degrees))
    assert found.degrees == pytest.approx(-degrees, abs=1)
    assert found.apart > 1.5


def test_a_half_of_another_phase_or_size_did_not_move() -> None:
    m, x = moved_in_part((0, 0), N)
    k = transformed(x[0])
    upper = torch.arange(N)[:, None] >= N // 2 + ACS // 2
    for factor in (0.5, complex(math.cos(1), math.sin(1))):
        assert told(m, transformed(torch.where(upper, factor * k, k), inverse=True)[None]).apart == 0


def test_an_agreement_elsewhere_counts_only_where_it_is_large_clear_and_more_than_chance() -> None:
    sure = halves.Halves(3, 4, gain=1.5, clear=8, share=0.5)
    assert sure.apart == 5
    for weak in ({"gain": 1.2}, {"clear": 4}, {"share": 0.2}):
        assert replace(sure, **weak).apart == 0


def test_an_unmeasured_side_gives_no_result() -> None:
    m, x = moved_in_part((4, 0), N // 2 + ACS // 2)
    A = m.A
    assert isinstance(A, Sense)
    for mask in (A.mask * (torch.arange(N)[:, None] > N // 2 - ACS // 2 - 5), A.mask * 0):
        assert halves.compared(Measurement(m.y, Sense(A.maps, mask, A.axes), m.sigma), x) == [None]
    volume = Measurement(m.y.expand(1, 4, N, N), Sense(A.maps, A.mask, A.axes), m.sigma)
    assert halves.compared(volume, x.expand(4, N, N)) == [None]


def test_a_learned_image_with_shifted_halves_falls_back_and_states_the_distance() -> None:
    m, x = moved_in_part((0, 5), N // 2 + ACS // 2)
    seen = [trust.Witnesses(halves=h) for h in halves.compared(m, x)]
    found = trust.examine(m, x, x, limits=Trust(explained=1e9), trained=None, witnesses=seen)[0]
    assert found.apart == 5
    assert any("shifted by 5.0 voxels against the other half: the patient moved" in r for r in found.reasons)
    loose = trust.examine(m, x, x, limits=Trust(explained=1e9, apart=6), trained=None, witnesses=seen)[0]
    assert not loose.reasons
