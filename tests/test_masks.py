"""Sampling masks: what they promise of their effective factor, their ACS block and their seed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recon import masks

ONE, TWO = (168,), (96, 120)
CASES = {
    "equispaced": (masks.equispaced, ONE, 4, 24),
    "equispaced_2d": (masks.equispaced, TWO, (2, 3), 20),
    "equispaced_fraction": (masks.equispaced_fraction, ONE, 4, 16),
    "random": (masks.random, ONE, 4, 16),
    "random_2d": (masks.random, TWO, 6, 20),
    "variable_density": (masks.variable_density, ONE, 4, 16),
    "variable_density_2d": (masks.variable_density, TWO, 6, (16, 20)),
    "poisson_disc": (masks.poisson_disc, TWO, 6, 16),
    "caipi": (masks.caipi, TWO, (2, 3), 16),
}

#: SHA-256 of the packed bits for seed 7: a mask named in a paper or a recipe must stay the same mask.
GOLDEN = {
    "equispaced": "72b7a91e79a074ef",
    "equispaced_2d": "37adfdd31387b49b",
    "equispaced_fraction": "c02d98b67dc192b8",
    "random": "346aaec49b0cd961",
    "random_2d": "0e8abf6722a0a259",
    "variable_density": "49123cd9c87978d2",
    "variable_density_2d": "919d5838b93dc5b9",
    "poisson_disc": "c4f6f9b48fccb802",
    "caipi": "725282fc7e0fb27f",
}


def build(name: str, seed: int = 7) -> masks.Mask:
    make, shape, R, acs = CASES[name]
    return make(shape, R, acs, seed)


@pytest.mark.parametrize("name", CASES)
def test_a_seed_gives_the_mask_that_it_always_gave(name: str) -> None:
    mask = build(name)
    assert hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:16] == GOLDEN[name]
    assert np.array_equal(mask, build(name))


@pytest.mark.parametrize("name", CASES)
def test_another_seed_gives_another_mask(name: str) -> None:
    assert any(not np.array_equal(build(name), build(name, seed)) for seed in range(8, 12))


@pytest.mark.parametrize("name", CASES)
def test_masks_have_shape_type_and_the_whole_acs_block(name: str) -> None:
    _, shape, _, acs = CASES[name]
    mask = build(name)
    assert mask.dtype == bool
    assert mask.shape == shape
    sizes = (acs,) * len(shape) if isinstance(acs, int) else acs
    middle = tuple(slice(n // 2 - a // 2, n // 2 - a // 2 + a) for n, a in zip(shape, sizes))
    assert mask[middle].all()
    assert masks.centre(shape, acs).sum() == np.prod(sizes)
    assert masks.centre(shape, acs)[middle].all()


@pytest.mark.parametrize(
    "name", ["equispaced_fraction", "random", "random_2d", "variable_density", "variable_density_2d", "poisson_disc"]
)
def test_the_effective_factor_is_the_one_asked_for(name: str) -> None:
    _, shape, R, _ = CASES[name]
    assert build(name).sum() == round(np.prod(shape) / R)
    assert masks.effective(build(name)) == pytest.approx(R, rel=0.5 * R / np.prod(shape) + 1e-9)


@pytest.mark.parametrize(
    ("n", "acs", "lines"),
    [(8, 3, [3, 4, 5]), (8, 4, [2, 3, 4, 5]), (7, 4, [1, 2, 3, 4]), (4, 4, [0, 1, 2, 3]), (4, 0, [])],
)
def test_acs_lines_lie_around_the_centre_of_k_space_which_is_at_half_the_lines(
    n: int, acs: int, lines: list[int]
) -> None:
    assert np.nonzero(masks.centre((n,), acs))[0].tolist() == lines


def test_acs_lines_lower_the_effective_factor_of_the_regular_mask() -> None:
    plain, with_acs = masks.equispaced(ONE, 4), masks.equispaced(ONE, 4, 24)
    assert masks.effective(plain) == 4
    assert np.array_equal(np.nonzero(masks.equispaced((11,), 3))[0], [2, 5, 8])
    assert masks.effective(with_acs) == pytest.approx(168 / (42 + 18))
    assert np.array_equal(np.nonzero(plain)[0] % 4, np.full(42, 84 % 4))


def test_the_fractional_variant_spaces_its_lines_equally_but_not_by_r() -> None:
    mask = masks.equispaced_fraction((320,), 4, 24, seed=3)
    outside = np.nonzero(mask & ~masks.centre((320,), 24))[0]
    steps = np.diff(outside)
    steps = steps[steps < 20]
    assert set(steps) == {5, 6}
    assert steps.mean() == pytest.approx((320 - 24) / (80 - 24), rel=0.02)


def test_a_regular_grid_of_two_axes_is_the_product_of_two_regular_masks() -> None:
    mask = masks.equispaced(TWO, (2, 3), 0, offset=(1, 2))
    z, y = (masks.equispaced((n,), r, 0, offset=o) for n, r, o in zip(TWO, (2, 3), (1, 2)))
    assert np.array_equal(mask, z[:, None] & y)
    assert z[TWO[0] // 2 + 1]
    assert y[TWO[1] // 2 + 2]


def test_caipi_staggers_kz_from_one_ky_to_the_next() -> None:
    mask = masks.caipi((12, 12), (3, 2), shift=1)
    assert masks.effective(mask) == 6
    assert not mask[:, 1::2].any()
    columns = [set(np.nonzero(mask[:, y])[0] % 3) for y in range(0, 12, 2)]
    assert columns == [{0}, {1}, {2}] * 2
    assert mask[6, 6]


def test_poisson_disc_lines_keep_their_distance_and_thin_out_outwards() -> None:
    mask = masks.poisson_disc((128, 128), 8, 0, seed=1)
    z, y = np.nonzero(mask)
    distance = np.hypot(z[:, None] - z, y[:, None] - y)
    np.fill_diagonal(distance, np.inf)
    nearest = distance.min(axis=1)
    r = np.hypot(z - 64, y - 64) / 64
    assert r.max() <= 1
    assert nearest[r > 0.6].min() > 1.5 * nearest[r < 0.2].min()
    assert nearest[r > 0.8].mean() > 1.5 * nearest[r < 0.2].mean()
    assert nearest[r > 0.6].min() >= 2


def test_variable_density_prefers_the_centre() -> None:
    density = np.mean([masks.variable_density((64, 64), 4, 0, seed) for seed in range(40)], axis=0)
    assert density[28:36, 28:36].mean() > 3 * density[:8, :8].mean()
    flat = np.mean([masks.random((64, 64), 4, 0, seed) for seed in range(40)], axis=0)
    assert flat[28:36, 28:36].mean() == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("n", [15, 16])
@pytest.mark.parametrize("missing", ["start", "end"])
def test_partial_fourier_keeps_the_centre_and_one_side(n: int, missing: str) -> None:
    mask = masks.partial_fourier(n, 0.625, missing)
    assert mask.sum() == round(0.625 * n)
    assert mask[n // 2]
    assert mask[-1 if missing == "start" else 0]
    assert not mask[0 if missing == "start" else -1]
    assert masks.partial_fourier(n, 1.0, missing).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(24, 200), st.integers(1, 6), st.integers(0, 12), st.integers(0, 2**31))
def test_odd_and_even_sizes_hold_their_promises(n: int, R: int, acs: int, seed: int) -> None:
    acs = min(acs, n // R)
    for make in (masks.equispaced_fraction, masks.random, masks.variable_density):
        mask = make((n,), R, acs, seed)
        assert mask.sum() == round(n / R)
        assert (mask | ~masks.centre((n,), acs)).all()
    regular = masks.equispaced((n,), R, acs, seed)
    assert (regular | ~masks.centre((n,), acs)).all()
    assert regular.sum() >= n // R


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: masks.random((100,), 8, 24), "ACS block alone has 24"),
        (lambda: masks.random((100,), 0.5), "below 1"),
        (lambda: masks.centre((20, 20), 24), "do not fit"),
        (lambda: masks.partial_fourier(100, 0.4), "leaves 40 of 100"),
        (lambda: masks.partial_fourier(16, 0.5), "leaves 8 of 16"),
        (lambda: masks.poisson_disc((100,), 4), "two phase-encoded axes"),
        (lambda: masks.caipi((100,), (2, 2)), "two phase-encoded axes"),
        (lambda: masks.equispaced_fraction((8, 8), 4), "one axis"),
        (lambda: masks.poisson_disc((64, 64), 1.1), "inside the ellipse"),
        (lambda: masks.equispaced((64, 64), 2.5), "whole number"),
        (lambda: masks.effective(np.zeros(4, bool)), "no line at all"),
    ],
)
def test_impossible_masks_are_refused_with_a_sentence(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.floats(0.3, 0.95))
def test_the_central_block_is_the_largest_of_all_rectangles(seed: int, nz: int, ny: int, density: float) -> None:
    mask = np.random.default_rng(seed).random((nz, ny)) < density
    mask[nz // 2, ny // 2] = True
    block = masks.central_block(mask)
    assert block is not None
    (y0, y1), (z0, z1) = block
    assert mask[z0:z1, y0:y1].all()
    assert z0 <= nz // 2 < z1
    assert y0 <= ny // 2 < y1
    largest = max(
        (b - a) * (d - c)
        for a in range(ny // 2 + 1)
        for b in range(ny // 2 + 1, ny + 1)
        for c in range(nz // 2 + 1)
        for d in range(nz // 2 + 1, nz + 1)
        if mask[c:d, a:b].all()
    )
    assert (y1 - y0) * (z1 - z0) == largest


def test_no_central_block_where_the_centre_was_not_sampled() -> None:
    assert masks.central_block(np.arange(64)[None] % 2 == 1) is None
