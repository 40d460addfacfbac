"""Whether rays that have a say in a network's image pay: PSNR and χ² of CT projections with and without them.

    python bench/ct_consistency.py ct-small --size 160
    python bench/ct_consistency.py ct-small --windows
    python bench/ct_consistency.py ct-small --observer

x_FBP with the window shepp-logan, the network, and the network with `ct.consistency = "rays"`
(recon/nets/denoiser.py), each at the default strength, against what was projected. The phantom's integrals are exact;
validation slices are projected from pixels half as wide as those that are reconstructed, so that the operator is not
its own judge.
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

from recon.accuracy import ct, ct_measures
from recon.ct import strength
from recon.ct.explained import misfit
from recon.data import CTProjections, Measurement
from recon.hounsfield import WATER, hounsfield
from recon.io.read import read
from recon.nets import denoiser, weights
from recon.operators import Weight, Xray
from recon.prepare import ct as prepare
from recon.prepare import image_noise
from recon.recipe import CT
from recon.simulation import ct_scan
from recon.solve.fbp import fbp

#: Views of a turn and photons in air of the scans.
SCANS = ((480, 2e5), (480, 2e4), (90, 2e5))


def scans(data: Path, n: int) -> Iterator[tuple[str, Tensor, CTProjections]]:
    """Name, what is projected in HU, and a scan of it with a curved detector."""
    volumes = []
    for path in sorted((data / "validation").glob("*ct*.nii.gz")):
        x, voxel = ct.chosen(read(path), 1)  # type: ignore[arg-type]
        m = min(x.shape[1:])
        y0, x0 = ((s - m) // 2 for s in x.shape[1:])
        cut = torch.from_numpy(np.ascontiguousarray(x[None, :, y0 : y0 + m, x0 : x0 + m]))
        fine = torch.nn.functional.interpolate(cut, size=(2 * n, 2 * n), mode="bicubic", antialias=True)[0]
        volumes.append((path.name.split(".")[0], inside(fine.clamp(-1000, 3000).numpy()), voxel * m / n))
    for views, photons in SCANS:
        plan = ct_scan.Scan(views=views, photons=photons)
        made, truth = ct_scan.of_phantom(n, plan)
        yield f"phantom, {views} views, {photons:g}", torch.from_numpy(truth), made
        for name, x, voxel in volumes:
            made = ct_scan.of_volume(x, voxel / 2, (0.0,), 1.0, replace(plan, fineness=2 * plan.fineness))
            truth_ = torch.nn.functional.avg_pool2d(torch.from_numpy(x)[None], 2)[0]
            yield f"{name}, {views} views, {photons:g}", truth_, replace(made, matrix=(n, n), voxel=voxel)


def inside(x: np.ndarray) -> np.ndarray:
    """Air beyond the circle within the picture, as it is projected."""
    n = x.shape[-1]
    r = np.hypot(*(np.mgrid[:n, :n] - (n - 1) / 2))
    return np.where(r < n / 2, x, -1000).astype(np.float32)


def said(hu: Tensor, truth: Tensor, data: prepare.Projected, A: Xray) -> str:
    """PSNR of an image in the body, and what it leaves of the rays."""
    error = float((hu - truth)[truth > -900].square().mean())
    chi = float(misfit(hu, data, A, WATER))
    return f"{20 * math.log10(1400) - 10 * math.log10(error):6.2f} dB (χ² {chi:.3g})"


def observer(denoise: Callable[..., tuple[Tensor, float]], contrast: float = 15.0, count: int = 4) -> None:
    """d′ of discs of 5 pixels radius, and where the transfer at rims of bone and of a faint rod falls to half."""
    absent, present, places, rods = ct_measures.phantom(contrast)
    bone, faint = ([ct_measures.Rod(k, r.y, r.x, r.radius) for k in range(count)] for r in rods)
    for views, photons in SCANS[:2]:
        found: dict[str, list[list[np.ndarray]]] = {}
        for kind, image in enumerate((absent, present)):
            for k in range(count):
                plan = ct_scan.Scan(views=views, photons=photons, seed=100 * kind + k, fineness=2.0)
                fine = np.kron(image[0], np.ones((2, 2), np.float32))[None]
                made = replace(ct_scan.of_volume(fine, 0.5, (0.0,), 1.0, plan), matrix=image.shape[1:], voxel=1.0)
                A, data = prepare.operator(made), prepare.projected(made, 0, 1)
                start = hounsfield(fbp(data.p, A, "shepp-logan"))
                rays = Measurement(data.weights * data.p, WATER * (Weight(data.weights) @ A))
                shown = {"FBP": start}
                for label, measured in (("network", None), ("with rays", rays)):
                    x, sigma = denoise(start, measured)
                    shown[label] = strength.written(start, x, CT(coarse=0.0) if measured else CT(), sigma)
                for label, x in shown.items():
                    found.setdefault(label, [[], []])[kind].append(x[0].numpy())
        for label, pair in found.items():
            a, p = (np.stack(v) for v in pair)
            print(
                f"phantom, {views} views, {photons:g}: {label:10} d′ {ct_measures.detectability(a, p, places):.2f}  "
                f"MTF50 {ct_measures.transfer(a, bone).mtf50:.4f}, faint {ct_measures.transfer(a, faint).mtf50:.4f}  "
                f"noise {float((a - absent)[:, 130:190, 130:190].std()):.1f} HU",
                flush=True,
            )


def windows(data: Path, n: int, denoise: Callable[[Tensor], tuple[Tensor, float]]) -> None:
    """PSNR against what was projected, of the network after each window, at full strength and at that of the rule."""
    for name, truth, scan in scans(data, n):
        A, rays = prepare.operator(scan), prepare.projected(scan, 0, 1)
        shown = []
        for window in ("hann", "shepp-logan", "ramp"):
            start = hounsfield(fbp(rays.p, A, window))  # type: ignore[arg-type]
            x, sigma = denoise(start)
            blend = strength.written(start, x, CT(), sigma)
            shown.append(f"{window} " + " / ".join(said(v, truth, rays, A).split(" (")[0] for v in (start, x, blend)))
        print(f"{name:44} " + "  ".join(shown), flush=True)


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-small")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--windows", action="store_true", help="only compare windows of FBP before the network")
    parser.add_argument("--observer", action="store_true", help="only detectability and transfer on a phantom of 320²")
    options = parser.parse_args()
    network = weights.load(options.network).network

    def denoise(hu: Tensor, rays: Measurement | None = None) -> tuple[Tensor, float]:
        noise = image_noise.measured(hu)
        return denoiser.denoised(network, hu, noise.level, noise.texture, rays), float(noise.level)

    if options.observer:
        observer(denoise)
        return
    if options.windows:
        windows(options.data, options.size, denoise)
        return
    for name, truth, scan in scans(options.data, options.size):
        A, data = prepare.operator(scan), prepare.projected(scan, 0, 1)
        start = hounsfield(fbp(data.p, A, "shepp-logan"))
        rays = Measurement(data.weights * data.p, WATER * (Weight(data.weights) @ A))
        shown = [f"FBP {said(start, truth, data, A)}"]
        for label, measured in (("network", None), ("with rays", rays)):
            x, sigma = denoise(start, measured)
            blend = strength.written(start, x, CT(coarse=0.0) if measured else CT(), sigma)
            shown.append(f"{label} {said(blend, truth, data, A)}")
        print(f"{name:44} noise {sigma:5.1f} HU  " + "  ".join(shown), flush=True)


if __name__ == "__main__":
    main()
