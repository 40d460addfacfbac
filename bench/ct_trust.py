"""What the evidence on denoised CT slices says about bad ones, and about good ones.

    python bench/ct_trust.py ct-small --slices 4 --json bench/results/ct-trust.json

Slices of validation at 1, 0.25 and 0.05 of their own dose, and the output for them, are the good ones. For the bad
ones, filters replace the network (Gaussian blur, median), the network is blind to a disc, or slices are not CT at all,
too small, of odd size, with metal, or of kernels at the ends of the training range. All are judged as written at the
default strength: a disc that has then lost less than LOST counts as good. The gain is that of the output over the
input, if a reference is known.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from ct_noise import coloured
from scipy import ndimage

from recon.accuracy import ct
from recon.ct import learned, strength
from recon.ct.evidence import evidence
from recon.hounsfield import attenuation, hounsfield
from recon.io.read import read
from recon.nets import denoiser, weights
from recon.operators.xray import Parallel, Xray
from recon.prepare import image_noise
from recon.recipe import CT, Trust
from recon.solve.fbp import fbp

Filter = Callable[[np.ndarray], np.ndarray]

#: HU and radius in pixels of discs that a network does not see, and the share of one that may be lost.
DISCS, LOST = ((20.0, 5.0), (40.0, 4.0), (40.0, 2.5), (15.0, 8.0)), 1 / 3


def disc(x: np.ndarray, contrast: float, radius: float) -> np.ndarray:
    """A disc in the middle of the widest soft tissue of a slice."""
    far = ndimage.distance_transform_edt((x > 0) & (x < 150))
    cy, cx = np.unravel_index(int(far.argmax()), far.shape)
    y, z = np.mgrid[: x.shape[0], : x.shape[1]]
    return (contrast / (1 + np.exp(np.clip((np.hypot(y - cy, z - cx) - radius) / 0.35, -60, 60)))).astype(np.float32)


def metal(x: np.ndarray, voxel: float) -> np.ndarray:
    """The slice with two screws of steel whose rays end at four e-folds more than the body's: streaks."""
    y, z = np.mgrid[: x.shape[0], : x.shape[1]]
    cy, cx = ndimage.center_of_mass(x > -300)
    screws = sum(np.hypot(y - cy, z - cx - s * 0.12 * x.shape[1]) < 4 for s in (-1, 1)) > 0
    steel = np.where(screws, np.float32(8000), x)
    n = max(x.shape)
    mu = torch.nn.functional.pad(attenuation(torch.from_numpy(steel)), (0, n - x.shape[1], 0, n - x.shape[0]))
    angles = torch.arange(720, dtype=torch.float64) * (math.pi / 720)
    A = Xray(Parallel(angles, math.ceil(1.42 * n), voxel), (n, n), voxel)
    p = A(mu)
    hard = torch.where(p > 4, 4 + 0.3 * (p - 4), p)
    streaks = hounsfield(fbp(hard, A, "hann")) - hounsfield(fbp(p, A, "hann"))
    return (steel + streaks.numpy()[: x.shape[0], : x.shape[1]]).clip(-1024, 3071).astype(np.float32)


def inputs(
    data: Path, count: int
) -> Iterator[tuple[str, str, np.ndarray, np.ndarray | None, Filter | None, np.ndarray | None]]:
    """Kind (good, bad, edge of the range), name, slice, reference, a filter in the network's place, the missed disc."""
    gauss: Callable[[float], Filter] = lambda s: lambda y: ndimage.gaussian_filter(y, s, mode="reflect")  # noqa: E731
    for path in sorted((data / "validation").glob("*ct*.nii.gz")):
        x, voxel = ct.chosen(read(path), count)  # type: ignore[arg-type]
        photons, name = ct.own_dose(x, voxel, "parallel"), path.name.split(".")[0]
        for dose in (1.0, 0.25, 0.05):
            noisy = x if dose == 1 else ct.low_dose(x, voxel, dose, 0, photons=photons)
            for k, y in enumerate(noisy):
                ref = x[k] if dose < 1 else None
                yield "good", f"{name} at dose {dose:g}", y, ref, None, None
                for s in (0.7, 1.0):
                    yield "bad", f"blur of {s:g} pixel", y, None, gauss(s), None
                yield "bad", "median of 5 × 5", y, None, lambda v: ndimage.median_filter(v, 5), None
                for hu, radius in DISCS:
                    shown = disc(x[k], hu, radius)
                    yield "bad", f"a disc of {hu:g} HU, {2 * radius:g} wide", y + shown, None, None, shown
        for k, y in enumerate(x):
            yield "bad", "metal", metal(y, voxel), None, None, None
            yield "edge", "64 × 64 pixels", np.ascontiguousarray(_middle(y, 64, 64)), None, None, None
            yield "edge", "odd sizes, 201 × 163", np.ascontiguousarray(_middle(y, 201, 163)), None, None, None
            for kind, power, cut in (("very smooth kernel", 0.5, 0.07), ("very sharp kernel", 1.0, 0.7)):
                yield "edge", kind, y + 40 * coloured(y.shape, power, cut, k), y, None, None
    for path in sorted((data / "validation").glob("*brain*.nii.gz")):
        # The reader refuses data labelled as MR; a DICOM series with the wrong modality or a wrong offset arrives as
        # HU.
        volume = np.asarray(nib.load(path).dataobj, np.float32).T  # type: ignore[attr-defined]
        white = np.float32(1000 / float(np.quantile(volume, 0.99)))
        for at in np.linspace(0.3, 0.7, count):
            yield "bad", "MR as if it were HU", volume[int(at * len(volume))] * white, None, None, None


def _middle(x: np.ndarray, ny: int, nx: int) -> np.ndarray:
    y0, x0 = ((a - b) // 2 for a, b in zip(x.shape, (ny, nx)))
    return x[max(0, y0) : max(0, y0) + ny, max(0, x0) : max(0, x0) + nx]


def one(network, y, ref, instead, hidden, trained) -> dict:  # type: ignore[no-untyped-def]
    """The evidence on one slice as written, the lost part of a disc, and the gain in dB if a reference is known."""
    noisy = torch.from_numpy(np.ascontiguousarray(y, np.float32))
    noise = image_noise.measured(noisy[None])
    if instead:
        x = torch.from_numpy(np.ascontiguousarray(instead(y), np.float32))
    else:
        # A network that is blind to the disc makes of the slice what it makes of the slice without it.
        seen = noisy if hidden is None else noisy - torch.from_numpy(hidden)
        x = denoiser.denoised(network, seen[None], noise.level, noise.texture)[0]
    sigma = float(noise.level)
    how = strength.sampled(CT(), noise)
    x = strength.written(noisy, x, how, sigma)
    found = evidence(noisy, x, sigma, Trust(), trained, image_noise.sharpness(noise))
    x = noisy + found["share"] * (x - noisy)
    if hidden is not None:
        all_gone = strength.written(torch.from_numpy(hidden), torch.zeros(hidden.shape), how, sigma).numpy()
        where = hidden > 0.5 * hidden.max()
        found["lost"] = 1 - float(all_gone[where].mean() / hidden[where].mean())
    if ref is not None:
        body, truth = noisy > -900, torch.from_numpy(ref)
        found["gain"] = float(
            10 * torch.log10((noisy - truth)[body].square().mean() / (x - truth)[body].square().mean())
        )
    return found


def held(found: dict) -> bool:  # type: ignore[type-arg]
    """Whether there is a reason against a slice: it is returned unchanged, or for blur denoised in part."""
    return bool(found["reasons"]) or found["share"] < 1


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-small")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--slices", type=int, default=4, help="of each scan")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    loaded = weights.load(options.network)
    rows: dict[tuple[str, str], list[dict]] = {}
    for kind, name, *given in inputs(options.data, options.slices):
        told = one(loaded.network, *given, learned.trained(options.network))
        rows.setdefault(("good" if told.get("lost", 1) < LOST else kind, name), []).append(told)
    print(f"{'':42} refused  noise / HU  removed      blur / pixels  patch        gain / dB    lost")
    shown = ("noise", "removed", "blur", "patch", "gain", "lost")
    for (kind, name), found in rows.items():
        refused = sum(held(f) for f in found)
        spans = "  ".join(_span([f[n] for f in found if n in f]) for n in shown)
        print(f"{kind:5} {name:36} {refused:3}/{len(found):<3}  {spans}", flush=True)
    good, bad = ([f for (k, _), v in rows.items() if k == which for f in v] for which in ("good", "bad"))
    alarms, misses = sum(held(f) for f in good), sum(not held(f) for f in bad)
    print(f"false alarms {alarms} of {len(good)}, misses {misses} of {len(bad)}")
    if options.json:
        records = [{"kind": k, "case": n, **f} for (k, n), v in rows.items() for f in v]
        options.json.write_text(json.dumps({"weights": loaded.name, "simulated": True, "records": records}, indent=1))


def _span(values: list[float]) -> str:
    return f"{min(values):5.2f}–{max(values):5.2f}" if values else " " * 11


if __name__ == "__main__":
    main()
