"""How near to a noisy reference anybody could come, against somebody who knows the slice without any noise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from recon.accuracy import ct_measures
from recon.accuracy.ct_bound import bound, even


def body(n: int = 256) -> np.ndarray:
    """A body with an organ, a rib and a hole of air, without noise."""
    y, x = np.mgrid[:n, :n] - (n - 1) / 2
    out = np.where((x / 110) ** 2 + (y / 90) ** 2 < 1, 40.0, -1000.0)
    out[(x + 40) ** 2 + y**2 < 30**2] = 90
    out[(np.hypot(x / 110, y / 90) < 0.95) & (np.hypot(x / 110, y / 90) > 0.88)] = 600
    out[(x - 50) ** 2 + y**2 < 15**2] = -950
    return out.astype(np.float32)[None]


def noise(sigma: float, blur: float, seed: int, n: int = 256) -> np.ndarray:
    white = np.random.default_rng(seed).standard_normal((1, n, n))
    smooth = gaussian_filter(white, (0, blur, blur), mode="wrap") if blur else white
    return (sigma * smooth / smooth.std()).astype(np.float32)


@pytest.mark.parametrize(
    ("own", "added", "blurs", "within"),
    [(20, 30, (0, 0), 0.3), (40, 25, (0.7, 0.7), 0.3), (10, 60, (0.7, 0.7), 0.4), (25, 25, (0.8, 0.5), 1.0),
     (25, 25, (0.5, 0.7), 1.1)],
)  # fmt: skip
def test_the_bound_is_what_somebody_reaches_who_knows_the_slice(
    own: float, added: float, blurs: tuple[float, float], within: float
) -> None:
    """Of two Gaussian noises of known spectra the one is told from their sum by Wiener's filter, and no better.

    Octaves tell kernels apart that differ, if less well than one spectrum that both noises have.
    """
    truth, r, n = body(), noise(own, blurs[0], 1), noise(added, blurs[1], 2)
    powers = [np.mean([np.abs(np.fft.fft2(noise(s, b, k)[0])) ** 2 for k in range(40)], 0)
              for s, b in zip((own, added), blurs)]  # fmt: skip
    known = truth + np.fft.ifft2(np.fft.fft2(r + n) * powers[0] / (powers[0] + powers[1])).real
    reached, noiseless = (ct_measures.errors(x.astype(np.float32), truth + r)["psnr"] for x in (known, truth))
    found = bound(truth + r + n, truth + r)
    assert found is not None
    assert found.best == pytest.approx(reached, abs=within)
    assert found.noiseless == pytest.approx(noiseless, abs=within)
    assert found.best > found.noiseless


def test_homogeneous_tissue_lies_off_the_edges_and_without_it_or_noise_there_is_no_bound() -> None:
    x = body()
    where = even(x)
    assert where.sum() > 5000
    assert set(np.unique(x[where])) == {40.0, 90.0}
    air = np.full((1, 64, 64), -1000, np.float32)
    assert bound(air + noise(10, 0, 3, 64), air) is None
    assert bound(x + noise(10, 0, 3), x) is None, "a reference without noise bounds nothing"
