"""Denoised CT slices against references with less noise of their own: means of neighbouring slices.

    python bench/ct_means.py ct-base
    python bench/ct_means.py --table                       # from what was measured

The original validation head, and means of 5 and 9 of its slices, 1.5 mm apart. The same noise of projections is added
to all: that of a share of the dose of the middle slice. The mean is image and reference alike, so only the part of its
own noise that can count against a denoiser differs. It is blurred along z like a thicker slice, and oblique edges are
softer in it. The filters are tuned on the middle one of the slices. Every number belongs to a slice; intervals are over
slices of one scan and say nothing about other scans.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from records import Record, store, stored
from spread import said

from recon.accuracy import ct, ct_measures, ct_methods
from recon.accuracy.ct_bound import bound
from recon.io.read import read
from recon.prepare import image_noise

HEAD, COUNTS = "invesalius_head_ct", (1, 5, 9)
STRENGTHS = {"rule": "auto", "strength 0.85": 0.85, "strength 1": 1.0}
OUT = Path(__file__).parent / "results/ct-means.json"
CASE = ("weights", "scan", "dose", "mean", "slice")
CPU = torch.device("cpu")


def means(volume: np.ndarray, places: Sequence[int], count: int) -> np.ndarray:
    """Means of `count` slices around each place of a volume (z, y, x), not below air."""
    around = [volume[k - count // 2 : k + count // 2 + 1] for k in places]
    return np.stack([np.maximum(a, -1000).mean(0, dtype=np.float64) for a in around]).astype(np.float32)


def measured(weights: str, reference: np.ndarray, added: np.ndarray) -> list[Record]:
    """PSNR in dB of each of the slices (z, y, x) by every method, with the reference's own noise in HU."""
    noisy = reference + added
    level = 1.4826 * float(np.median(np.abs(added)[reference > -300]))
    filters = ct_methods.tuned(noisy, reference, level, ct_methods.CLASSICAL, CPU)
    shown = {"came": noisy, **{n: run(noisy) for n, (_, run) in filters.items()}}
    for name, strength in STRENGTHS.items():
        (run,) = ct_methods.networks([weights], strength, CPU).values()  # type: ignore[arg-type]
        shown[name] = run(noisy).data
    own = image_noise.measured(torch.from_numpy(reference)).level.tolist()
    out = []
    for k, r in enumerate(reference):
        limit = bound(noisy[k : k + 1], r[None])
        psnr = {f"{n}_dB": ct_measures.errors(x[k : k + 1], r[None])["psnr"] for n, x in shown.items()}
        out.append({"own_HU": own[k], "added_HU": level, "bound_dB": limit and limit.best, **psnr})
    return out


def page(records: Sequence[Record]) -> list[str]:
    """Table rows of the documentation, each with a dose and a number of slices: the input, and gains over it."""
    rows = []
    methods = (*ct_methods.CLASSICAL, *STRENGTHS)
    for dose, count in dict.fromkeys((r["dose"], r["mean"]) for r in records):
        mine = [r for r in records if (r["dose"], r["mean"]) == (dose, count)]
        gains = {n: [r[f"{n}_dB"] - r["came_dB"] for r in mine] for n in (*methods, "bound")}
        best = max(ct_methods.CLASSICAL, key=lambda n: float(np.mean(gains[n])))
        over = [a - b for a, b in zip(gains["rule"], gains[best], strict=True)]
        cells = [f"{dose:g}", str(count), str(len(mine)), f"{np.mean([r['own_HU'] for r in mine]):.1f}"]
        cells += [f"{np.mean([r['came_dB'] for r in mine]):.2f}", *(said(gains[n], sign=True) for n in gains)]
        rows.append("| " + " | ".join([*cells, f"{said(over, sign=True)}, {best}"]) + " |")
    return rows


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="ct-base")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--doses", type=float, nargs="+", default=[0.25, 0.1])
    parser.add_argument("--slices", type=int, default=6)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    head = {"date": str(date.today()), "simulated": True}
    if not options.table:
        series = read(options.data / "validation" / f"{HEAD}.nii.gz").series[0]  # type: ignore[union-attr]
        volume, voxel = series.voxels.read(0, series.geometry.shape[0]), float(series.geometry.voxel[0])
        places = [round((k + 1) * len(volume) / (options.slices + 1)) for k in range(options.slices)]
        single = means(volume, places, 1)
        photons = ct.own_dose(single, voxel, "parallel")
        for dose in options.doses:
            added = ct.low_dose(single, voxel, dose, 0, photons=photons) - single
            for count in COUNTS:
                found = measured(options.network, means(volume, places, count), added)
                about = {"weights": options.network, "scan": HEAD, "dose": dose, "mean": count}
                made = [{**about, "slice": k, **r} for k, r in zip(places, found, strict=True)]
                store(options.json, made, CASE, head)
                print(f"mean of {count} at {dose:g}", flush=True)
    print("\n".join(page([r for r in stored(options.json) if r["weights"] == options.network])))


if __name__ == "__main__":
    main()
