"""Up to which R beyond its training a network is better than `cs`, and whether trust detects where it is not.

    python bench/reach.py --weights mri-base                    # a few minutes of one core
    python bench/reach.py --weights mri-base --tell             # writes reach.json beside the weights, measures nothing
    python bench/reach.py --accel 4 --coils 8 --sizes 256 480   # on more phase encodes than it was trained on

SIMULATED slices of validation magnitudes, made like those of the training, with acceleration factors not used in
training: equispaced lines, variable density and lines at random. A learned image is worse if it is shown although it is
more than 0.2 dB below that of `cs`, or its worst window of 16 × 16 pixels is worse by more than a quarter and a
hundredth of the peak.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from records import Record, store, stored
from scipy.ndimage import uniform_filter
from torch import Tensor

from recon.data import Measurement
from recon.io.atomic import atomic_file
from recon.learn import synth, volumes
from recon.mri import methods
from recon.nets import weights
from recon.operators.sense import Sense
from recon.recipe import Solve, Trust

SEED = 610_000_000
OUT = Path(__file__).parent / "results/reach.json"
#: Weights of equispaced, exact, variable density and random lines, and their names.
KINDS = {"equispaced": (1.0, 0.0, 0.0, 0.0), "exact": (0.0, 1.0, 0.0, 0.0),
         "variable": (0.0, 0.0, 1.0, 0.0), "random": (0.0, 0.0, 0.0, 1.0)}  # fmt: skip
#: Masks for each R: below 2, equispaced lines are impossible.
LOW, HIGH = ("exact", "random"), ("equispaced", "variable")
SIZES = (192, 224, 256)
CASE = ("weights", "R", "mask", "coils", "noise", "seed", "size")
WORSE, WINDOW, PEAK = 0.2, 0.25, 0.01
#: Errors above which a window is examined for invented structures: `invented` is the largest ratio of its error to that
#: of `cs`.
SEEN, FAR = 0.02, 3


def scan(
    sources: volumes.Sources, R: float, kind: str, coils: int, noise: float, seed: int, size: int = 0
) -> synth.Example:
    """A simulated slice of `size` pixels along either axis; 0 means 192 to 256."""
    settings = synth.Settings(
        sizes=(size,) if size else SIZES, coils=(coils,), real=1.0, raw=0.0, acceleration=(R, R), acs=(16, 24),
        planar=0.0, partial=0.0, kinds=KINDS[kind], estimated_maps=1.0, noise=(noise, noise),
    )  # fmt: skip
    return synth.example(SEED + seed, sources, settings)


def judged(x: Tensor, full: Tensor) -> tuple[float, NDArray[np.float32]]:
    """PSNR of a magnitude inside the body, and the error over the peak of the window around each pixel (y, x)."""
    t = full.abs()
    error = (x.reshape(t.shape).abs() - t) * (t > 0.1 * t.max())
    psnr = 10 * torch.log10(t.max() ** 2 / error[t > 0.1 * t.max()].square().mean())
    windows = uniform_filter(error.square().numpy().reshape(error.shape[-2:]), 16).clip(0)
    return float(psnr), np.sqrt(windows) / float(t.max())


def measured(name: str, e: synth.Example) -> dict[str, Any]:
    """PSNR and worst window of `sense`, `cs` and the network on one scan, and the reasons against the network."""
    m, A = e.measurement, e.measurement.A
    assert isinstance(A, Sense)
    m = Measurement(m.y[None], Sense(A.maps[None], A.mask[None, None], A.axes), m.sigma)
    plan = Solve(weights=name)
    found: dict[str, Any] = {"effective": round(float(1 / A.mask.float().mean()), 3)}
    patches = {}
    for method in ("sense", "cs"):
        psnr, patches[method] = judged(methods.solve(method, m, plan), e.full)  # type: ignore[arg-type]
        found |= {method: round(psnr, 3), f"patch_{method}": round(float(patches[method].max()), 4)}
    x, evidence = methods.learned(m, plan, Trust(fallback=False))
    psnr, patch = judged(x, e.full)
    seen = patch > SEEN
    invented = float((patch[seen] / patches["cs"][seen].clip(1e-6)).max()) if seen.any() else 0.0
    return {
        **found, "learned": round(psnr, 3), "patch_learned": round(float(patch.max()), 4),
        "invented": round(invented, 2), "reasons": list(evidence[0].reasons),
    }  # fmt: skip


def worse(r: Record) -> bool:
    """Whether a learned image is shown that is worse than that of `cs`."""
    far = r["patch_learned"] > (1 + WINDOW) * r["patch_cs"] and r["patch_learned"] > r["patch_cs"] + PEAK
    return not r["reasons"] and (r["learned"] < r["cs"] - WORSE or far)


def table(records: Sequence[Record]) -> list[str]:
    """One line for each R and mask."""
    out = []

    def row(r: Record) -> tuple[Any, ...]:
        return r["R"], r["mask"], r.get("size", 0)

    for (R, mask, size), group in itertools.groupby(sorted(records, key=row), row):
        rows = list(group)
        least, most = (end(r["effective"] for r in rows) for end in (min, max))
        gain, over = (np.array([r["learned" if k else "cs"] - r["cs" if k else "sense"] for r in rows]) for k in (1, 0))
        out.append(
            f"R = {R:4g} {mask:10} {size or ''} ({least:.1f} to {most:.1f})"
            f" {len(rows):3} scans: network over cs {gain.mean():+.1f} dB ({gain.min():+.1f} to {gain.max():+.1f}), "
            f"{sum(map(worse, rows))} worse without a word, {sum(r.get('invented', 0) >= FAR for r in rows)} with a "
            f"window of {FAR} times its error, {sum(bool(r['reasons']) for r in rows)} kept back; cs over "
            f"sense {over.mean():+.1f} dB ({over.min():+.1f} to {over.max():+.1f})"
        )
    return out


def tell(name: str, records: Sequence[Record]) -> None:
    """Write the widest range of R without a worse learned image beside the weights."""
    mine = [r for r in records if r["weights"] == name]
    mine = [r for r in mine if not r.get("size")]
    bad = {r["R"] for r in mine if worse(r)}
    low = [r["R"] for r in mine if r["R"] < 2 and not any(r["R"] <= b < 2 for b in bad)]
    high = [r["R"] for r in mine if r["R"] > 10 and not any(10 < b <= r["R"] for b in bad)]
    found = {
        "acceleration": [min(low, default=2.0), max(high, default=10.0)],
        "scans": len(mine), "worse": sum(map(worse, mine)),
        "least_dB": round(min(r["learned"] - r["cs"] for r in mine), 2), "seed": SEED, "date": str(date.today()),
        "data": "simulated from validation magnitudes, several coils", "weights_sha256": weights.load(name).sha256,
    }  # fmt: skip
    with atomic_file(weights.find(name) / "reach.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")
    print(json.dumps(found))


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--weights", default="mri-base")
    parser.add_argument("--accel", type=float, nargs="+", default=[1.5, 12.0, 14.0])
    parser.add_argument("--coils", type=int, nargs="+", default=[4, 8, 32])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.005, 0.03])
    parser.add_argument("--sizes", type=int, nargs="+", default=[0], help="pixels along either axis; 0: 192 to 256")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tell", action="store_true")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.tell:
        sources = volumes.read(options.data / "validation")
        head = {"machine": platform.machine(), "simulated": True}
        for number, (seed, R, coils, noise) in enumerate(
            itertools.product(range(options.seeds), options.accel, options.coils, options.noise)
        ):
            for kind, size in itertools.product(LOW if R < 2 else HIGH, options.sizes):
                case = {"weights": options.weights, "R": R, "mask": kind, "coils": coils, "noise": noise, "seed": seed}
                case |= {"size": size} if size else {}
                made = scan(sources, R, kind, coils, noise, 1000 * seed + number, size)
                r = {**case, **measured(options.weights, made)}
                store(options.json, [{**r, "date": str(date.today())}], CASE, head)
                print(table([r])[0], flush=True)
    mine = [r for r in stored(options.json) if r["weights"] == options.weights]
    print("\n".join(table(mine)))
    if options.tell:
        tell(options.weights, mine)


if __name__ == "__main__":
    main()
