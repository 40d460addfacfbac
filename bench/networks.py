"""Networks compared with their start and BART's tuned wavelet on the validation scans, for the cards of weights that
ship.

    python bench/networks.py mri-small mri-base --json bench/results/networks.json
    python bench/networks.py runs/a/mri-base runs/b/mri-base --no-bart     # which of several trainings

Only `validation` is read. Multi-coil scans are SIMULATED from magnitudes (synthetic phase and coils), which favours
every method; the single-channel scans are raw. All methods get the same ESPIRiT maps from the ACS lines; BART's weight
is the best for each scan by its reference.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opponents import WAVELET, WEIGHTS, bart, read_cfl, write_cfl
from torch import Tensor

from recon import metrics
from recon.learn import pool, synth, volumes
from recon.learn.synth import Example, Settings
from recon.nets import weights
from recon.operators import fft
from recon.operators.sense import Sense

SEED = 700_000_000
_REAL = Settings(sizes=(256,), coils=(4, 6, 8, 12, 16), kinds=(1.0, 0.0, 0.0, 0.0), noise=(0.002, 0.05), real=1.0,
                 raw=0.0, estimated_maps=1.0, planar=0.0, partial=0.0)  # fmt: skip
_RAW = Settings(raw=1.0, planar=0.0, partial=0.0)


def scans(folder: Path, slices: int) -> dict[str, list[Example]]:
    """Scans of the validation folder by kind: simulated at two accelerations, and raw ones of one channel."""
    sources = volumes.read(folder / "validation")
    found = {
        f"simulated, R = {R:g}, {acs} ACS": [
            synth.example(SEED + i, sources, replace(_REAL, acceleration=(R, R), acs=(acs, acs))) for i in range(slices)
        ]
        for R, acs in ((4.0, 24), (8.0, 16))
    }
    found["raw 0.055 T, one channel"] = [synth.example(SEED + 100 + i, sources, _RAW) for i in range(min(6, slices))]
    return found


def scored(x: Tensor, full: Tensor) -> dict[str, float]:
    """PSNR and SSIM of magnitudes within the body; the range is the reference's maximum."""
    a, r = x.abs().numpy().squeeze(), full.abs().numpy().squeeze()
    inside, top = metrics.body(r), float(r.max())
    return {k: float(f(a, r, data_range=top, mask=inside)) for k, f in (("psnr", metrics.psnr), ("ssim", metrics.ssim))}


def tuned(e: Example) -> dict[str, float]:
    """BART's wavelet with the best weight for this scan."""
    A = e.measurement.A
    assert isinstance(A, Sense)
    y = e.measurement.y if -1 in A.axes else fft(e.measurement.y, (-1,))
    best = dict[str, float]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cfl(folder / "k", np.asarray(y.numpy()))
        write_cfl(folder / "maps", np.asarray(A.maps.numpy()))
        shape = tuple(e.full.shape)
        flags = sum(1 << axis for axis, n in enumerate(shape[::-1]) if n > 1)

        def attempt(exponent: float) -> float:
            nonlocal best
            bart(f"{WAVELET.format(flags=flags, weight=f'{10**exponent:.3g}')} k maps x", folder)
            x: NDArray[np.complex64] = read_cfl(folder / "x", shape)
            found = scored(torch.from_numpy(x.copy()), e.full) if np.isfinite(x).all() else {"psnr": -np.inf, "ssim": 0}
            best = found if not best or found["psnr"] > best["psnr"] else best
            return found["psnr"]

        tried = {float(w): attempt(float(w)) for w in np.log10(WEIGHTS[2:])}
        for step in (0.25, 0.125):
            centre = max(tried, key=lambda w: tried[w])
            tried.update({w: attempt(w) for w in (centre - step, centre + step)})
    return best


def main() -> None:
    """Compare, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("networks", nargs="+", help="names that ship, or folders")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--slices", type=int, default=8, help="of each kind; at most six raw ones")
    parser.add_argument("--no-bart", action="store_true")
    options = parser.parse_args()
    networks = {str(n): weights.load(n).network for n in options.networks}
    records: list[dict[str, Any]] = []
    for kind, examples in scans(options.data, options.slices).items():
        for number, e in enumerate(examples):
            item = pool.prepared(e, next(iter(networks.values())).shape.start)
            made = pool.batch([item], 0, None)
            images = {"start": item.start}
            with torch.no_grad():
                images |= {n: net(made.problem, 0.0)[0] for n, net in networks.items()}
            found = {n: scored(x, item.full) for n, x in images.items()}
            if not options.no_bart:
                found["bart wavelet, tuned"] = tuned(e)
            records += [{"kind": kind, "scan": number, "method": n, **v} for n, v in found.items()]
        print(f"\n{kind}, {len(examples)} slices")
        mine = [r for r in records if r["kind"] == kind]
        bart = [r["psnr"] for r in mine if r["method"] == "bart wavelet, tuned"]
        for method in dict.fromkeys(r["method"] for r in mine):
            rows = [r for r in mine if r["method"] == method]
            psnr, ssim = (statistics.mean(r[k] for r in rows) for k in ("psnr", "ssim"))
            over = [r["psnr"] - b for r, b in zip(rows, bart)]
            said = f"  over BART {statistics.mean(over):+.2f} ({min(over):+.2f} to {max(over):+.2f})" if over else ""
            print(f"{method:24} {psnr:6.2f} dB / {ssim:.4f}{said}", flush=True)
    if options.json:
        head = {"date": str(date.today()), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
        options.json.write_text(json.dumps({**head, "records": records}, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
