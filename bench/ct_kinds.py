"""What denoising gains, and where it does harm: CT slices of many kinds, by the estimated noise.

    python bench/ct_kinds.py
    python bench/ct_kinds.py --table                      # from what was measured

Three neighbouring slices at two places of each scan of `train` and `validation` (chest, pelvis, head, heart) get noise
of projections at a half, a quarter and a tenth of their dose, independent from slice to slice. The same noise is added
to quiet references, the slices after total variation. Slice and reference alike are then changed as other
reconstructions, grids and padding would (`kinds`). Whether a kind loses is decided on the quiet reference: an unchanged
slice has its own noise, whose removal counts against a denoiser. Its gain is shown beside that of a perfect image
without noise (`recon.accuracy.ct_bound`). Printed are the added noise (robust, in soft tissue), the estimate, and gains
over the input, the worst first. PSNR is that of all six slices over the body. Everything is simulated.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ct_kernels import filtered
from records import Record, store, stored
from scipy import ndimage

from recon.accuracy import ct, ct_measures
from recon.accuracy.ct_bound import bound
from recon.ct.denoise import denoise_images, total_variation
from recon.io.read import read
from recon.progress import silent
from recon.recipe import CT, Recipe

CPU = torch.device("cpu")
OUT = Path(__file__).parent / "results/ct-kinds.json"
CASE = ("weights", "scan", "reference", "kind", "dose")
#: What noise is added to: the original slice, whose own noise counts against a denoiser, or a quiet one.
REFERENCES = ("as it came", "quiet")
DOSES, PLACES = (0.5, 0.25, 0.1), (0.3, 0.7)
#: Gain in dB below which a kind counts as lost.
HARM = -0.1
SCANS = {
    "chest": ("train", "fnndsc_chest_ct"),
    "pelvis": ("train", "totalseg_abdpelvis"),
    "head": ("validation", "invesalius_head_ct"),
    "heart": ("validation", "totalseg_heart_cta"),
}
Pair = tuple[np.ndarray, np.ndarray]


def scans(data: Path, names: Sequence[str]) -> Iterator[tuple[str, list[np.ndarray], float]]:
    """Name, groups of five neighbouring slices in HU (the outer two for thicker slices) and pixel size in mm."""
    for name in names:
        folder, start = SCANS[name]
        (path,) = (data / folder).glob(start + "*.nii.gz")
        series = read(path).series[0]  # type: ignore[union-attr]
        total = series.geometry.shape[0]
        at = [round(p * total) - 2 for p in PLACES]
        voxel = float(series.geometry.voxel[0])
        yield name, [np.maximum(series.voxels.read(k, k + 5), -1000).astype(np.float32) for k in at], voxel


def kinds(r: np.ndarray, y: np.ndarray, voxel: float) -> Iterator[tuple[str, Pair]]:
    """Name and a pair of reference and noisy slices (3, y, x) of each kind, made of five neighbours."""
    both = lambda f: (f(r)[1:-1], f(y)[1:-1])  # noqa: E731
    yield "as it is", both(lambda x: x)
    for name, cut in (("smooth kernel", 0.2), ("smoothest kernel", 0.12)):
        yield name, both(lambda x, c=cut: filtered(x, lambda f: np.exp(-((f / c) ** 2))))  # type: ignore[misc]
    yield "sharp kernel", (r[1:-1], (r + filtered(y - r, lambda f: 1 + 2.5 * np.minimum(f / 0.35, 1) ** 2))[1:-1])
    thick = lambda x: ndimage.uniform_filter1d(x, 3, axis=0, mode="nearest")  # noqa: E731
    yield "three times as thick, overlapping", both(thick)
    for mm in (1.5, 2.0, 3.0, 4.0):
        if mm > 1.2 * voxel:
            yield f"resampled to {mm:g} mm", both(lambda x, z=voxel / mm: ndimage.zoom(x, (1, z, z), order=1))
    if voxel < 2:
        coarse = lambda x: ndimage.zoom(x, (1, voxel / 3, voxel / 3), order=1)  # noqa: E731
        rim = ((0, 0), (12, 12), (12, 12))
        yield "resampled to 3 mm, padded", both(lambda x: np.pad(coarse(x), rim, constant_values=-1024))
    quarter = [n // 4 for n in r.shape[1:]]
    inner = (slice(None), slice(quarter[0], -quarter[0]), slice(quarter[1], -quarter[1]))
    yield "zoomed twice", both(lambda x: ndimage.zoom(x[inner], (1, 2, 2), order=3))
    area = lambda x: x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]  # noqa: E731
    half = lambda x: area(x).reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean((2, 4))  # noqa: E731
    wide = ((0, 0), *((n // 4, n // 4) for n in r.shape[1:]))
    yield "twice the field of view", both(lambda x: np.pad(half(x), wide, constant_values=-1000))
    at = [np.arange(n) - (n - 1) / 2 for n in r.shape[1:]]
    inside = np.hypot(at[0][:, None], at[1]) < min(r.shape[1:]) / 2
    yield "filled outside of a circle", both(lambda x: np.where(inside, x, np.float32(-2000)))
    yield "iterative", (r[1:-1], (0.4 * y + 0.6 * quiet(y))[1:-1].astype(np.float32))
    blotchy = filtered(y - r, lambda f: 1.6 * np.exp(-((f / 0.15) ** 2)))
    yield "iterative, blotchy", (r[1:-1], (r + blotchy)[1:-1])


def quiet(r: np.ndarray) -> np.ndarray:
    """Slices with little of their noise, by total variation slice by slice, independent of any network."""
    plan = Recipe()
    whole = replace(plan, solve=replace(plan.solve, tv=0.35), ct=CT(strength=1.0, coarse=0.0))
    return total_variation(r, whole, CPU, silent, "").data


def pairs(data: Path, names: Sequence[str], doses: Sequence[float]) -> Iterator[tuple[str, str, str, float, Pair]]:
    """Scan, reference, kind, dose and the pairs of both places, one after the other."""
    for name, groups, voxel in scans(data, names):
        for dose, reference in itertools.product(doses, REFERENCES):
            made = []
            for n, r in enumerate(groups):
                y = ct.low_dose(r, voxel, dose, n, photons=ct.own_dose(r, voxel, "parallel"))
                still = quiet(r) if reference == "quiet" else r
                made.append(list(kinds(still, still + (y - r), voxel)))
            for same in zip(*made, strict=True):
                both = tuple(np.concatenate(v) for v in zip(*(p for _, p in same)))
                yield name, reference, same[0][0], dose, both  # type: ignore[misc]


def one(r: np.ndarray, y: np.ndarray, plan: Recipe) -> dict[str, Any]:
    """Results for a kind: noise in HU and gains in dB."""
    soft = (r > -200) & (r < 250)
    added = 1.4826 * float(np.median(np.abs((y - r)[soft])))
    half = len(y) // 2
    parts = [denoise_images(y[s].astype(np.float32), plan, CPU, silent) for s in (slice(half), slice(half, None))]
    x = np.concatenate([p.data for p in parts])
    psnr = [ct_measures.errors(v, r)["psnr"] for v in (y, x)]
    one_by_one = [[ct_measures.errors(v[k : k + 1], r[k : k + 1])["psnr"] for k in range(len(y))] for v in (x, y)]
    each = np.subtract(*one_by_one)
    levels = [v for p in parts for v in p.provenance["noise_HU"]]
    limit = bound(y, r)
    return {
        "pixels": list(r.shape[1:]), "added_HU": round(added, 2), "noise_HU": [round(v, 1) for v in levels],
        "came_dB": round(psnr[0], 3), "gain_dB": round(psnr[1] - psnr[0], 3),
        "worst_slice_dB": round(float(each.min()), 3),
        "as_they_came": sum(int(p.trust["fallbacks"]) for p in parts),
        "noiseless_dB": round(limit.noiseless - psnr[0], 2) if limit else None,
    }  # fmt: skip


def verdicts(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Scan, kind and dose with the record of the quiet reference, which decides, and that of the original one."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for r in records:
        found.setdefault((r["scan"], r["kind"], r["dose"]), {})[r["reference"]] = r
    both = [{"at": at, **v} for at, v in found.items() if len(v) == len(REFERENCES)]
    return sorted(both, key=lambda v: v["quiet"]["gain_dB"])


def lost(records: Sequence[Record]) -> int:
    """How many of the records lie below HARM."""
    return sum(r["gain_dB"] < HARM for r in records)


def shown(records: Sequence[Record]) -> list[str]:
    """Rows of kinds, the worst first, and their means."""
    heads = "scan | kind | dose | pixels | added, HU | estimated | gain, dB | worst slice | back | as it came | clean"
    rows = [f"| {heads} |", "|---" * 11 + "|"]
    number = lambda v: "" if v is None else f"{v:+.2f}"  # noqa: E731
    for v in verdicts(records):
        r, own = v["quiet"], v["as it came"]
        levels = sorted(r["noise_HU"])
        span = f"{levels[0]:.0f} to {levels[-1]:.0f}"
        row = [*v["at"], "×".join(map(str, r["pixels"])), f"{r['added_HU']:.1f}", span]
        row += [number(r["gain_dB"]), number(r["worst_slice_dB"]), r["as_they_came"]]
        rows.append(f"| {' | '.join(map(str, [*row, number(own['gain_dB']), number(own['noiseless_dB'])]))} |")
    ends = []
    for reference in REFERENCES:
        these = [r for r in records if r["reference"] == reference]
        if these:
            mean = np.mean([r["gain_dB"] for r in these])
            ends.append(f"{reference}: {len(these)} kinds, mean {mean:+.3f} dB, {lost(these)} below −0.1 dB")
    return [*rows, "", *ends]


def page(records: Sequence[Record]) -> list[str]:
    """Table rows of the documentation: by scan and dose the mean gain, losing kinds, the worst, unchanged slices."""
    rows = []
    doses = sorted({r["dose"] for r in records}, reverse=True)
    for scan, dose in itertools.product(SCANS, doses):
        these = [v for v in verdicts(records) if v["at"][0] == scan and v["at"][2] == dose]
        if these:
            quiet, own = ([v[name] for v in these] for name in ("quiet", "as it came"))
            clean = [r["noiseless_dB"] for r in own if r["noiseless_dB"] is not None]
            means = [f"{np.mean([r['gain_dB'] for r in rs]):+.2f}" for rs in (quiet, own)]
            size = "×".join(map(str, next(r["pixels"] for r in quiet if r["kind"] == "as it is")))
            worst = f"{these[0]['at'][1]}: {quiet[0]['gain_dB']:+.2f}"
            row = [scan, size, f"{dose:g}", len(these), means[0], lost(quiet), worst, means[1], lost(own)]
            rows.append(f"| {' | '.join(map(str, row))} | {np.mean(clean):+.2f} |")
    return rows


def main() -> None:
    """Measure and print; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-base")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--scans", nargs="+", default=list(SCANS), choices=list(SCANS))
    parser.add_argument("--doses", nargs="+", type=float, default=DOSES)
    parser.add_argument("--kinds", nargs="+", default=(), help="these alone, by name (default: all)")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="show what was measured")
    options = parser.parse_args()
    if not options.table:
        base = Recipe()
        plan = replace(base, solve=replace(base.solve, method="unrolled", weights=options.network))
        for scan, reference, kind, dose, (r, y) in pairs(options.data, options.scans, options.doses):
            if options.kinds and kind not in options.kinds:
                continue
            case = dict(zip(CASE, (options.network, scan, reference, kind, dose)))
            record = {**case, **one(r, y, plan)}
            print(record, flush=True)
            store(options.out, [record], CASE, {"simulated": True, "date": str(date.today())})
    print("\n".join(shown([r for r in stored(options.out) if r["weights"] == options.network])))


if __name__ == "__main__":
    main()
