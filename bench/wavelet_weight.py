"""Which weight of `cs` is best by noise, against the full scan with its noise and against the image without noise.

    python bench/wavelet_weight.py --seeds 2                 # five minutes of one core
    python bench/wavelet_weight.py --table

SIMULATED slices of validation magnitudes (144 × 144, 8 coils, ESPIRiT maps of 20 ACS lines), Poisson discs along two
axes and variable density along one. Records hold the PSNR in the body for each weight in units of the noise, `nu` is
the noise of a fully sampled pixel over the size of the image (`recon.nets.unrolled.size`).
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
from collections import defaultdict
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reach import judged
from records import Record, store, stored

from recon import masks
from recon.data import Measurement
from recon.learn import synth, volumes
from recon.learn.draw import Draw
from recon.nets.unrolled import size
from recon.operators.sense import Sense
from recon.solve import fista

SEED = 760_000_000
OUT = Path(__file__).parent / "results/wavelet_weight.json"
CASE = ("seed", "mask", "R", "noise")
WEIGHTS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
N, COILS, ACS = 144, 8, 20
MASKS = (("poisson", 4), ("poisson", 8), ("variable", 4))


def scan(sources: volumes.Sources, seed: int, kind: str, R: int, noise: float) -> synth.Example:
    """The slice of a seed: its object and coils do not depend on mask and noise."""
    made = synth.Settings(sizes=(N,), coils=(COILS,), real=1.0, raw=0.0, estimated_maps=1.0)
    draw = Draw.seeded(SEED + seed, "cpu")
    clean, truth = synth._scan(draw, sources, made, (N, N), COILS)
    clean = clean * math.sqrt(2) / noise
    full, planar = clean + draw.complex_normal(*clean.shape), kind == "poisson"
    if planar:
        mask = masks.poisson_disc((N, N), float(R), ACS, seed, slope=1.5)
    else:
        mask = masks.variable_density((N,), float(R), ACS, seed, power=3.0)[:, None]
    maps = synth.calibrated(draw, made, full, truth, ACS, planar)
    return synth.undersampled(full, clean, maps, torch.from_numpy(mask).float(), R, planar)


def measured(e: synth.Example) -> dict[str, Any]:
    """PSNR for each weight, against the full scan and against the image without noise."""
    A = e.measurement.A
    assert isinstance(A, Sense)
    m = Measurement(e.measurement.y[None], Sense(A.maps[None], A.mask[None, None], A.axes), e.measurement.sigma)
    found: dict[str, Any] = {"full": [], "clean": []}
    for weight in WEIGHTS:
        x = fista.l1_wavelet(m, lam=weight, iterations=60).x
        found["full"].append(round(judged(x, e.full)[0], 2))
        found["clean"].append(round(judged(x, e.clean)[0], 2))
        found |= {"nu": round(math.sqrt(2) / float(size(x, 3)), 4)} if weight == 1 else {}
    return found


def table(records: Sequence[Record]) -> list[str]:
    """The best weight for each noise, mask and R, and what a weight of 1 loses to it, in dB."""
    groups = defaultdict(list)
    for r in records:
        groups[r["mask"], r["R"], r["noise"]].append(r)
    out = []
    for (mask, R, noise), of in sorted(groups.items()):
        line = f"{mask:9} R = {R} noise {noise:5}: {len(of)} slices"
        for against in ("full", "clean"):
            psnr = np.array([r[against] for r in of])
            best = [WEIGHTS[i] for i in psnr.argmax(1)]
            lost = psnr.max(1) - psnr[:, WEIGHTS.index(1.0)]
            line += f"; {against}: best {min(best):g} to {max(best):g}, 1 loses {lost.mean():.2f} ({lost.max():.2f})"
        out.append(line)
    return out


def main() -> None:
    """Draw, reconstruct, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        sources = volumes.read(options.data / "validation")
        head = {"machine": platform.machine(), "simulated": True, "weights": WEIGHTS}
        cases = itertools.product(range(options.seeds), MASKS, (0.01, 0.03, 0.1, 0.2))
        for seed, (mask, R), noise in cases:
            r = measured(scan(sources, seed, mask, R, noise))
            case = {"seed": seed, "mask": mask, "R": R, "noise": noise, "date": str(date.today())}
            store(options.json, [{**case, **r}], CASE, head)
    print("\n".join(table(stored(options.json))))


if __name__ == "__main__":
    main()
