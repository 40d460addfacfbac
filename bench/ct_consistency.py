"""Whether using rays inside a network pays: PSNR and χ² of CT projections with and without them.

    python bench/ct_consistency.py ct-small --size 160
    python bench/ct_consistency.py --table                # from what was measured
    python bench/ct_consistency.py ct-small --windows
    python bench/ct_consistency.py ct-small --observer

x_FBP with the window shepp-logan, the network, and the network with `ct.consistency = "rays"` (recon/nets/denoiser.py),
each at the default strength, compared with what was projected. The phantom's integrals are exact. Validation slices are
projected from pixels half as wide as those reconstructed, so that the operator is not tested on its own data.
Statistics are over slices (for the phantom, draws of the noise): intervals are over the slices of one scan and say
nothing about other scans.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from records import Record, store, stored
from spread import said
from torch import Tensor

from recon.accuracy import ct, ct_measures
from recon.accuracy.ct_measures import RANGE
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

#: Views per turn and photons in air of the scans.
SCANS = ((480, 2e5), (480, 2e4), (90, 2e5))
OUT = Path(__file__).parent / "results/ct-consistency.json"
CASE = ("weights", "size", "scan", "slice", "views", "photons")
NAMES = {"phantom": "phantom", "invesalius_head_ct": "head", "totalseg_heart_cta_1p5mm": "heart CTA"}


def scans(data: Path, n: int, count: int) -> Iterator[tuple[dict[str, Any], Tensor, CTProjections]]:
    """Name of a scan, the projected HU, and a scan of it with a curved detector."""
    volumes = []
    for path in sorted((data / "validation").glob("*ct*.nii.gz")):
        x, voxel = ct.chosen(read(path), count)  # type: ignore[arg-type]
        m = min(x.shape[1:])
        y0, x0 = ((s - m) // 2 for s in x.shape[1:])
        for k in range(len(x)):
            cut = torch.from_numpy(np.ascontiguousarray(x[None, k : k + 1, y0 : y0 + m, x0 : x0 + m]))
            fine = torch.nn.functional.interpolate(cut, size=(2 * n, 2 * n), mode="bicubic", antialias=True)[0]
            volumes.append((path.name.split(".")[0], k, inside(fine.clamp(-1000, 3000).numpy()), voxel * m / n))
    for views, photons in SCANS:
        for seed in range(count):
            plan = ct_scan.Scan(views=views, photons=photons, seed=seed)
            made, truth = ct_scan.of_phantom(n, plan)
            about = {"size": n, "scan": "phantom", "slice": seed, "views": views, "photons": photons}
            yield about, torch.from_numpy(truth), made
        for name, k, x, voxel in volumes:
            plan = ct_scan.Scan(views=views, photons=photons, seed=k)
            made = ct_scan.of_volume(x, voxel / 2, (0.0,), 1.0, replace(plan, fineness=2 * plan.fineness))
            truth_ = torch.nn.functional.avg_pool2d(torch.from_numpy(x)[None], 2)[0]
            about = {"size": n, "scan": name, "slice": k, "views": views, "photons": photons}
            yield about, truth_, replace(made, matrix=(n, n), voxel=voxel)


def inside(x: np.ndarray) -> np.ndarray:
    """The image with air outside the circle, as it is projected."""
    n = x.shape[-1]
    r = np.hypot(*(np.mgrid[:n, :n] - (n - 1) / 2))
    return np.where(r < n / 2, x, -1000).astype(np.float32)


def seen(hu: Tensor, truth: Tensor, data: prepare.Projected, A: Xray) -> tuple[float, float]:
    """PSNR of an image in the body, and its χ² with the rays."""
    error = float((hu - truth)[truth > -900].square().mean())
    return 20 * math.log10(RANGE) - 10 * math.log10(error), float(misfit(hu, data, A, WATER))


def page(records: Sequence[Record]) -> list[str]:
    """Table rows of the documentation for each matrix, in the order of SCANS."""
    rows = []
    cases = dict.fromkeys((r["size"], r["views"], r["photons"], r["scan"]) for r in records)
    for case in sorted(cases, key=lambda c: (c[0], SCANS.index(c[1:3]), list(NAMES).index(c[3]))):
        mine = [r for r in records if (r["size"], r["views"], r["photons"], r["scan"]) == case]
        size, views, photons, scan = case
        gains = [said([r[k] - r["fbp_dB"] for r in mine], 1, sign=True) for k in ("network_dB", "rays_dB")]
        gains.append(said([r["rays_dB"] - r["network_dB"] for r in mine], 1, sign=True))
        chi = " → ".join(f"{np.median([r[k] for r in mine]):.3g}" for k in ("network_chi2", "rays_chi2"))
        about = f"{NAMES[scan]}, {views}, {photons:.0e}".replace("e+04", "·10⁴").replace("e+05", "·10⁵")
        noise = f"{np.mean([r['noise_HU'] for r in mine]):.0f}"
        rows.append("| " + " | ".join([str(size), about, str(len(mine)), noise, *gains, chi]) + " |")
    return rows


def observer(denoise: Callable[..., tuple[Tensor, float]], contrast: float = 15.0, count: int = 4) -> None:
    """d′ of discs with 5 pixels radius, and where the transfer at rims of bone and of a faint rod falls to one half."""
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


def windows(data: Path, n: int, count: int, denoise: Callable[[Tensor], tuple[Tensor, float]]) -> None:
    """PSNR against what was projected, of the network after each window, at full strength and at that of the rule."""
    for about, truth, scan in scans(data, n, count):
        A, rays = prepare.operator(scan), prepare.projected(scan, 0, 1)
        shown = []
        for window in ("hann", "shepp-logan", "ramp"):
            start = hounsfield(fbp(rays.p, A, window))  # type: ignore[arg-type]
            x, sigma = denoise(start)
            blend = strength.written(start, x, CT(), sigma)
            shown.append(f"{window} " + " / ".join(f"{seen(v, truth, rays, A)[0]:.2f}" for v in (start, x, blend)))
        print(f"{' '.join(map(str, about.values())):44} " + "  ".join(shown), flush=True)


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-small")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--slices", type=int, default=3, help="of each scan")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
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
        windows(options.data, options.size, options.slices, denoise)
        return
    head = {"date": str(date.today()), "simulated": True}
    for about, truth, scan in [] if options.table else scans(options.data, options.size, options.slices):
        A, data = prepare.operator(scan), prepare.projected(scan, 0, 1)
        start = hounsfield(fbp(data.p, A, "shepp-logan"))
        rays = Measurement(data.weights * data.p, WATER * (Weight(data.weights) @ A))
        record = {"weights": options.network, **about}
        record["fbp_dB"], record["fbp_chi2"] = seen(start, truth, data, A)
        for label, measured in (("network", None), ("rays", rays)):
            x, record["noise_HU"] = denoise(start, measured)
            blend = strength.written(start, x, CT(coarse=0.0) if measured else CT(), record["noise_HU"])
            record[f"{label}_dB"], record[f"{label}_chi2"] = seen(blend, truth, data, A)
        store(options.json, [record], CASE, head)
        print(" ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in record.values()), flush=True)
    print("\n".join(page([r for r in stored(options.json) if r["weights"] == options.network])))


if __name__ == "__main__":
    main()
