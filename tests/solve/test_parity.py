"""Reconstructions of a real scan beside those of BART, sigpy and pygrappa, from the same k-space and the same maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import Measurement
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.solve.cg import sense
from recon.solve.fista import l1_wavelet
from recon.solve.grappa import grappa
from tests.bart import bart


@dataclass(frozen=True)
class Scan:
    kspace: Tensor  # (coil, 1, ky, kx), noise σ = 1
    maps: Tensor  # of BART
    reference: NDArray[np.complex64]  # coil-combined, (y, x)
    rss: NDArray[np.float32]
    body: NDArray[np.bool_]

    def measurement(self, R: int) -> Measurement:
        mask = lines(R).float()[None, None, :, None]
        return Measurement(self.kspace * mask, Sense(self.maps, mask, (-2, -1)))


def lines(R: int, n: int = 256, acs: int = 24) -> Tensor:
    mask = torch.zeros(n, dtype=torch.bool)
    mask[n // 2 % R :: R] = True
    mask[n // 2 - acs // 2 : n // 2 + acs // 2] = True
    return mask


def psnr(image: NDArray[np.generic], reference: NDArray[np.generic], body: NDArray[np.bool_]) -> float:
    a, b = np.abs(image)[body], np.abs(reference)[body]
    return float(10 * np.log10(b.max() ** 2 / np.mean((a - b) ** 2)))


def nrmse(a: NDArray[np.generic], b: NDArray[np.generic]) -> float:
    return float(np.linalg.norm(a.ravel() - b.ravel()) / np.linalg.norm(b))


@pytest.fixture(scope="module")
def brain(data_dir: Path) -> Scan:
    k = torch.from_numpy(np.load(data_dir / "public_test" / "gpunufft_brain_t2_4ch.npz")["kspace"])[:, None]
    corners = torch.cat(
        [k[..., a, b].flatten() for a in (slice(16), slice(-16, None)) for b in (slice(16), slice(-16, None))]
    )
    k = k / (corners.std() / 2**0.5)
    maps = torch.from_numpy(bart("ecalib -m1 -r24 -c0", k.numpy()))
    coils = ifft(k, (-2, -1))
    rss = coils.abs().square().sum(0).sqrt()[0].numpy()
    return Scan(k, maps, (maps.conj() * coils).sum(0)[0].numpy(), rss, rss > 0.1 * np.percentile(rss, 99.5))


@pytest.mark.parametrize("R", [2, 4])
def test_cg_sense_is_that_of_bart(brain: Scan, R: int) -> None:
    measurement = brain.measurement(R)
    ours = sense(measurement, lam=0.01, iterations=60).x.numpy()
    theirs = bart("pics -l2 -r 0.01 -S -w 1 -i 60", measurement.y.numpy(), brain.maps.numpy())
    assert nrmse(ours, theirs) < 1e-4


@pytest.mark.parametrize("R", [2, 4])
def test_cg_sense_is_that_of_sigpy(brain: Scan, R: int) -> None:
    mri = pytest.importorskip("sigpy.mri", reason="sigpy is not installed; pip install sigpy")
    measurement = brain.measurement(R)
    ours = sense(measurement, lam=0.01, iterations=60).x.numpy()
    app = mri.app.SenseRecon(
        measurement.y[:, 0].numpy(), brain.maps[:, 0].numpy(), lamda=0.01, max_iter=60, show_pbar=False
    )
    assert nrmse(ours, app.run()) < 1e-3


def test_the_hybrid_space_of_a_fully_sampled_readout_gives_the_same_picture(brain: Scan) -> None:
    measurement = brain.measurement(4)
    hybrid = Measurement(ifft(measurement.y, (-1,)), Sense(brain.maps, lines(4).float()[None, None, :, None], (-2,)))
    assert nrmse(sense(hybrid, lam=0.01).x.numpy(), sense(measurement, lam=0.01).x.numpy()) < 1e-4
    torch.testing.assert_close(fft(hybrid.y, (-1,)), measurement.y, rtol=0, atol=1e-3)


@pytest.mark.parametrize("R", [2, 4])
def test_wavelets_are_at_least_as_good_as_those_of_bart_at_its_best_lambda(brain: Scan, R: int) -> None:
    measurement = brain.measurement(R)
    ours = psnr(l1_wavelet(measurement).x[0].numpy(), brain.reference, brain.body)
    convex = psnr(l1_wavelet(measurement, p=1, lam=0.2).x[0].numpy(), brain.reference, brain.body)
    theirs = {}
    for lam in (0.2, 0.3):  # the best of 0.02 … 8
        image = bart(f"pics -R W:3:0:{lam} -S -w 1 -i 50", measurement.y.numpy(), brain.maps.numpy())
        theirs[lam] = psnr(image.reshape(256, 256), brain.reference, brain.body)
    print(f"R = {R}: L1 {convex:.2f} dB, p = 0.5 {ours:.2f} dB, BART {theirs}")
    assert convex > max(theirs.values()) - 0.25
    assert ours > max(theirs.values()) - 0.1


@pytest.mark.parametrize("R", [2, 3, 4])
def test_grappa_is_at_least_as_good_as_that_of_pygrappa(brain: Scan, R: int) -> None:
    pygrappa = pytest.importorskip(
        "pygrappa", reason="pygrappa is not installed; pip install pygrappa scikit-image", exc_type=ImportError
    )
    mask = lines(R)
    kspace, block = brain.kspace * mask[:, None], brain.kspace[:, :, 116:140]
    quality = {}
    filled = [v[:, 0].numpy().transpose(1, 2, 0).astype(np.complex128) for v in (kspace, block)]
    theirs = torch.from_numpy(np.moveaxis(pygrappa.cgrappa(*filled, kernel_size=(5, 5), coil_axis=-1), -1, 0).copy())
    for name, full in {"ours": grappa(kspace, mask[None], block, sigma=1.0), "theirs": theirs[:, None]}.items():
        image = ifft(full, (-2, -1)).abs().square().sum(0).sqrt()[0].numpy()
        quality[name] = psnr(image, brain.rss, brain.body)
    print(f"R = {R}: {quality}")
    assert quality["ours"] > quality["theirs"]
