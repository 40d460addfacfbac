"""What the slices next to a CT slice can add to its denoised image: error, contrast and transfer along z.

    python bench/ct_neighbours.py ct-small
    python bench/ct_neighbours.py --table                 # from what was measured

No network is trained: the results of one network on three slices are combined in several ways.

    mean       denoised slices, weighted by how far they agree: w_j = exp(−⟨x̂_j − x̂⟩² / 2 (H s)²), ⟨⟩ over 5 × 5
               pixels, s the robust deviation of such means over the slice
    residual   what all three residuals y − x̂ have in common is given back: ⟨r⟩_z · max(0, 1 − σ² / 3 ⟨⟨r⟩_z²⟩)
    before     the slices as they came are put together with the weights of "mean", and the network sees the sum
    wiener     the network sees y + Σ_b w_b D_b over octaves b of D, the mean of the neighbours less the slice, with
               w_b = (n_b / 1.5) / (n_b + p_b): p_b the local power of D_b, n_b what it is where there is noise alone

Validation volumes with slices 1.5 mm apart, at ¼ and ⅒ of their dose with noise of projections that is independent from
slice to slice, as a scanner's nearly is. The same is done for slices that were denoised first and serve as truth, so
that no reference noise counts as an error. Measured are: PSNR of the middle output slice; the remaining contrast of
discs in a phantom that is constant along z, in one slice only or through all of them; how much appears in a
neighbouring slice; and d′ of discs in one slice. Statistics are over slices: intervals are over slices of one scan and
say nothing about other scans.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from records import Record, store, stored
from spread import said
from torch import Tensor

from recon.accuracy import ct, ct_measures
from recon.ct import strength
from recon.nets import denoiser, weights
from recon.nets.unrolled import Unrolled
from recon.operators.windows import box
from recon.prepare import image_noise
from recon.recipe import CT

WAYS = [("alone", 0.0), ("mean", 0.2), ("residual", 1.0), ("before", 0.5), ("wiener", 0.0)]
DISC, REALISATIONS = 15.0, 4
#: Gaussians in pixels that separate octaves of a difference, and the windows of their local powers.
WIDTHS, WINDOWS = (1.0, 2.0, 4.0), (1.5, 2.0, 3.0, 5.0)
OUT = Path(__file__).parent / "results/ct-neighbours.json"
CASE = ("weights", "scan", "truth", "slice", "dose", "way", "H")
NAMES = {"invesalius_head_ct": "head", "totalseg_heart_cta_1p5mm": "heart CTA"}
Way = tuple[str, float]


def written(network: Unrolled, y: Tensor) -> tuple[Tensor, Tensor, list[float]]:
    """The network's slices (z, y, x), the output slices, and their noise."""
    shown, out, levels = [], [], []
    for one in y:
        noise = image_noise.measured(one[None])
        x = denoiser.denoised(network, one[None], noise.level, noise.texture)
        levels.append(float(noise.level))
        shown.append(x[0])
        out.append(strength.written(one, x[0], CT(), levels[-1]))
    return torch.stack(shown), torch.stack(out), levels


def agreement(x: Tensor, k: int, height: float) -> Tensor:
    """Weights (z, y, x) of slices for slice k, adding up to 1."""
    d = box((x - x[k])[:, None], 5, inside=True)[:, 0]
    inside = x[k] > -900
    s = torch.stack([1.4826 * v[inside].abs().median() for v in d]).clamp_min(1e-3)
    w = (-((d / (height * s[:, None, None])) ** 2) / 2).exp()
    w[k] = 1.0
    return w / w.sum(0)


def middles(network: Unrolled, y: np.ndarray, ways: list[Way]) -> list[np.ndarray]:
    """The middle one of slices (z, y, x) with what its neighbours add, in each way."""
    noisy = torch.from_numpy(y)
    by_itself = written(network, noisy)
    return [middle(network, noisy, *by_itself, *way).numpy() for way in ways]


def middle(
    network: Unrolled, y: Tensor, shown: Tensor, out: Tensor, levels: list[float], how: str, height: float
) -> Tensor:
    """The middle one of slices (z, y, x) with what its neighbours add in one way."""
    k = len(y) // 2
    if how == "alone":
        return out[k]
    if how == "mean":
        return strength.written(y[k], (agreement(shown, k, height) * shown).sum(0), CT(), levels[k])
    if how == "residual":
        r = (y - shown).mean(0)
        power = box((r * r)[None, None], 9, inside=True)[0, 0].clamp_min(1e-6)
        kept = (1 - height**2 * levels[k] ** 2 / len(y) / power).clamp_min(0)
        return strength.written(y[k], shown[k] + kept * r, CT(), levels[k])
    merged = wiener(y, k) if how == "wiener" else (agreement(shown, k, height) * y).sum(0)
    noise = image_noise.measured(merged[None])
    x = denoiser.denoised(network, merged[None], noise.level, noise.texture)[0]
    # As much of the slice's own noise is left in as without neighbours.
    return strength.written(y[k], x, CT(), levels[k])


def wiener(y: Tensor, k: int) -> Tensor:
    """Slice k of slices (z, y, x) moved towards the mean of its neighbours, octave by octave, where they agree."""
    d, soft, out = (y[k - 1] + y[k + 1]) / 2 - y[k], y[k] > -300, y[k].clone()
    coarser = [d, *(strength.smoothed(d, w) for w in WIDTHS), torch.zeros_like(d)]
    for fine, coarse, window in zip(coarser, coarser[1:], WINDOWS):
        band = fine - coarse
        power = strength.smoothed(band * band, window)
        # Local powers of noise vary, and are higher where anatomy differs. The mean of two noises has less power by a
        # third, and two thirds are gained by leaving it.
        noise = power[soft].quantile(0.3) / 0.8
        out += noise / 1.5 / (noise + power) * band
    return out


def scans(network: Unrolled, about: Record, data: Path, ways: list[Way], count: int) -> Iterator[Record]:
    """PSNR of the middle slices of validation volumes, in each way; `truth` is "own" or "denoised"."""
    import nibabel as nib

    for path in sorted((data / "validation").glob("*ct*.nii.gz")):
        file = nib.load(path)
        volume = np.maximum(np.moveaxis(np.asarray(file.dataobj, np.float32), 2, 0), -1000)  # type: ignore[attr-defined]
        voxel = float(file.header.get_zooms()[0])  # type: ignore[attr-defined]
        places = [round(len(volume) * (i + 1) / (count + 1)) for i in range(count)]
        for k, dose, truth in itertools.product(places, (0.25, 0.1), ("own", "denoised")):
            three = np.ascontiguousarray(volume[k - 1 : k + 2])
            photons = ct.own_dose(three, voxel, "parallel")
            if truth == "own":
                noisy = ct.low_dose(three, voxel, dose, k, photons=photons)
            else:
                three = written(network, torch.from_numpy(three))[0].numpy()
                noisy = ct.low_dose(three, voxel, dose * photons / ct.PHOTONS, k)
            found = {w: ct_measures.errors(x[None], three[1:2]) for w, x in zip(ways, middles(network, noisy, ways))}
            for (how, height), e in found.items():
                case = {"scan": path.name.split(".")[0], "truth": truth, "slice": k, "dose": dose}
                yield {**about, **case, "way": how, "H": height, "psnr": e["psnr"], "ssim": e["ssim"]}


def observed(network: Unrolled, about: Record, ways: list[Way]) -> Iterator[Record]:
    """Remaining contrast of discs of several widths, and d′ of discs of 15 HU and 10 pixels in one slice."""
    absent, present, places, _ = ct_measures.phantom(DISC)
    flat = np.concatenate([absent] * 3)
    for dose in (0.25, 0.1):
        images: dict[str, list[list[np.ndarray]]] = {}
        drawn, kinds = zip(*(ct_measures.discs(absent.shape[1:], places, seed) for seed in range(REALISATIONS)))
        for seed, disc in enumerate(drawn):
            noise, other = (ct.low_dose(flat, 1.0, dose, first + seed) - flat for first in (7000, 8000))
            none = np.zeros_like(disc)
            stacks = {
                "absent": flat + noise,
                "one": flat + noise + np.concatenate([none, disc, none]),
                "all": flat + noise + disc,
                "beside": flat + noise + np.concatenate([none, none, disc]),
                # The observer's pairs have independent noise; remaining and leaked contrast are measured with equal
                # noise.
                "seen": np.concatenate([absent, present, absent]) + other,
            }
            for kind, stack in stacks.items():
                images.setdefault(kind, []).append(middles(network, stack.astype(np.float32), ways))
        for i, (how, height) in enumerate(ways):
            of = {kind: np.stack([m[i] for m in several]) for kind, several in images.items()}
            record = {**about, "scan": "phantom", "dose": dose, "way": how, "H": height, "draws": REALISATIONS}
            for kind in ("one", "all", "beside"):
                left = ct_measures.contrast_left(of["absent"], of[kind], np.concatenate(drawn), places, kinds)
                record[kind] = [
                    float(np.mean([left[w, h] for h in ct_measures.HEIGHTS])) for w in ct_measures.WIDTHS
                ]  # fmt: skip
            record["d"] = ct_measures.detectability(of["absent"], of["seen"], places)
            record["noise_HU"] = float((of["absent"] - absent)[:, 100:220, 100:220].std())
            yield record


def page(records: Sequence[Record]) -> list[str]:
    """Table rows of the documentation: gains of each way over a single slice, then the remaining contrast of discs."""
    rows, ways = [], list(dict.fromkeys((r["way"], r["H"]) for r in records))
    psnr = {tuple(r.get(k) for k in CASE[1:]): r["psnr"] for r in records if r["scan"] != "phantom"}
    for scan, truth, dose in dict.fromkeys((r["scan"], r.get("truth"), r["dose"]) for r in records):
        if scan == "phantom":
            continue
        at = sorted({k[2] for k in psnr if (k[0], k[1], k[3]) == (scan, truth, dose)})
        alone = [psnr[(scan, truth, k, dose, "alone", 0.0)] for k in at]
        gains = [[psnr[(scan, truth, k, dose, *w)] - a for k, a in zip(at, alone)] for w in ways if w[0] != "alone"]
        name = f"{NAMES.get(scan, scan)}{', denoised' if truth == 'denoised' else ''}, {dose:g}"
        cells = [str(len(at)), f"{np.mean(alone):.2f}", *(said(g, sign=True) for g in gains)]
        rows.append("| " + " | ".join([name, *cells]) + " |")
    for r in (r for r in records if r["scan"] == "phantom"):
        left = [" / ".join(f"{abs(v) if abs(v) < 0.005 else v:.2f}" for v in r[k]) for k in ("one", "all", "beside")]
        cells = [f"{r['way']}, {r['dose']:g}", *left, f"{r['d']:.2f}", f"{r['noise_HU']:.1f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-small")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--slices", type=int, default=3, help="of each scan")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    if not options.table:
        network, about = weights.load(options.network).network, {"weights": options.network}
        head = {"date": str(date.today()), "simulated": True}
        measured = (observed(network, about, WAYS), scans(network, about, options.data, WAYS, options.slices))
        for record in itertools.chain(*measured):
            store(options.json, [record], CASE, head)
    print("\n".join(page([r for r in stored(options.json) if r["weights"] == options.network])))


if __name__ == "__main__":
    main()
