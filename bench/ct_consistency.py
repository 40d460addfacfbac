"""Whether data consistency after the denoiser pays for CT projections: PSNR and χ² with and without it.

    python bench/ct_consistency.py ct-small --size 144

x_FBP, z = D(x_FBP), then x = argmin ‖w (Ax − p)‖² + λ‖x − z‖² by a few conjugate gradients from z, λ = 1/(c·σ)² with
σ the noise found in x_FBP, and once more from D(x). Projections p are smoothed by the window of the filtered
backprojection, whose resolution the reference has: a filtered backprojection of 720 views without noise. The phantom's
integrals are exact; scans are projected by the operator that reconstructs them, which flatters data consistency.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon.accuracy import ct
from recon.ct import strength
from recon.ct.explained import misfit
from recon.data import CTProjections
from recon.hounsfield import WATER, attenuation, hounsfield
from recon.io.read import read
from recon.nets import denoiser, unrolled, weights
from recon.operators import Weight, Xray
from recon.prepare import ct as prepare
from recon.prepare import image_noise
from recon.recipe import CT
from recon.simulation import ct_scan
from recon.solve.fbp import fbp

#: Views and photons in air of the scans; the error of z over the noise that λ is made of.
SCANS, ERRORS = ((720, 3e4), (720, 1e4), (120, 1e5), (60, 2e4)), (0.1, 0.3)


def scans(data: Path, n: int) -> Iterator[tuple[str, Tensor, CTProjections, CTProjections]]:
    """Name, what is projected in HU, a scan of it, and the same without noise and with 720 views."""
    volumes = []
    for path in sorted((data / "validation").glob("*ct*.nii.gz")):
        x, voxel = ct.chosen(read(path), 1)  # type: ignore[arg-type]
        m = min(x.shape[1:])
        y0, x0 = ((s - m) // 2 for s in x.shape[1:])
        cut = torch.from_numpy(np.ascontiguousarray(x[None, :, y0 : y0 + m, x0 : x0 + m]))
        small = torch.nn.functional.interpolate(cut, size=(n, n), mode="bilinear", antialias=True)[0].numpy()
        small = inside(small)
        volumes.append((path.name.split(".")[0], small, voxel * m / n))
    for views, photons in SCANS:
        plan = ct_scan.Scan(beam="parallel", views=views, photons=photons, fineness=1.0)
        dense = replace(plan, views=720, photons=1e9, electronic=0.0)
        (made, truth), (clean, _) = (ct_scan.of_phantom(n, s) for s in (plan, dense))
        yield f"phantom, {views} views, {photons:g}", torch.from_numpy(truth), made, clean
        for name, x, voxel in volumes:
            made, clean = (ct_scan.of_volume(x, voxel, (0.0,), 1.0, s) for s in (plan, dense))
            yield f"{name}, {views} views, {photons:g}", torch.from_numpy(x), made, clean


def inside(x: np.ndarray) -> np.ndarray:
    """Air beyond the circle within the picture, as it is projected."""
    n = x.shape[-1]
    r = np.hypot(*(np.mgrid[:n, :n] - (n - 1) / 2))
    return np.where(r < n / 2, x, -1000).astype(np.float32)


def smoothed(p: Tensor) -> Tensor:
    """Projections by Hann's window along the detector."""
    n = p.shape[-1]
    window = 0.5 + 0.5 * torch.cos(2 * math.pi * torch.fft.rfftfreq(2 * n))
    return torch.fft.irfft(torch.fft.rfft(p, 2 * n) * window, 2 * n)[..., :n]


def said(hu: Tensor, truth: Tensor, data: prepare.Projected, A: Xray) -> str:
    """PSNR of an image in the body, and what it leaves of the rays."""
    error = float((hu - truth)[truth > -900].square().mean())
    chi = float(misfit(hu, data, A, WATER))
    return f"{20 * math.log10(1400) - 10 * math.log10(error):6.2f} dB (χ² {chi:.3g})"


def windows(data: Path, n: int, denoise: Callable[[Tensor], tuple[Tensor, float]]) -> None:
    """PSNR against what was projected, of the network after each window, at full strength and at that of the rule."""
    for name, truth, scan, _ in scans(data, n):
        A, rays = prepare.operator(scan), prepare.projected(scan, 0, 1)
        shown = []
        for window in ("hann", "shepp-logan", "ramp"):
            start = hounsfield(fbp(rays.p, A, window))  # type: ignore[arg-type]
            x, sigma = denoise(start)
            blend = start + strength.share(CT(), sigma) * (x - start)
            shown.append(f"{window} " + " / ".join(said(v, truth, rays, A).split(" (")[0] for v in (start, x, blend)))
        print(f"{name:44} " + "  ".join(shown), flush=True)


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-small")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--size", type=int, default=144)
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--windows", action="store_true", help="only compare windows of FBP before the network")
    options = parser.parse_args()
    network = weights.load(options.network).network

    def denoise(hu: Tensor) -> tuple[Tensor, float]:
        noise = image_noise.measured(hu)
        return denoiser.denoised(network, hu, noise.level, noise.texture), float(noise.level)

    if options.windows:
        windows(options.data, options.size, denoise)
        return
    for name, _, scan, dense in scans(options.data, options.size):
        A, data = prepare.operator(scan), prepare.projected(scan, 0, 1)
        truth = hounsfield(fbp(prepare.projected(dense, 0, 1).p, prepare.operator(dense), "hann"))
        data = replace(data, p=smoothed(data.p))
        start = hounsfield(fbp(prepare.projected(scan, 0, 1).p, A, "hann"))

        z, sigma = denoise(start)
        shown = [f"FBP {said(start, truth, data, A)}", f"network {said(z, truth, data, A)}"]
        weighted = Weight(data.weights) @ A
        normal, b = weighted.normal(), weighted.adjoint(data.weights * data.p)
        for c in ERRORS:
            x = z
            for _ in range(2):
                lam = torch.tensor([(c * sigma / 1000 * WATER) ** -2])
                x = hounsfield(unrolled.refine(normal, b, attenuation(x), lam, options.iterations, 2))
                shown.append(f"c {c:g} {said(x, truth, data, A)}")
                x = denoise(x)[0]
        print(f"{name:44} " + "  ".join(shown), flush=True)


if __name__ == "__main__":
    main()
