"""How often clipped samples are detected, and good scans misjudged: `recon.prepare.clipped` on simulated raw scans.

    python bench/clipping.py --seeds 12 --json bench/results/clipping.json

SIMULATED scans of the gallery (`gallery_scans`), 8 coils, noise 1 % of the peak, 12 bits or floats. The receiver clips
at a share of the largest real or imaginary part of all channels; 1 is a good scan.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import gallery_scans
import numpy as np

from recon.data import RawScan
from recon.io.samples import in_memory
from recon.prepare.clipped import clipped

BODIES = ("T1", "T2", "knee", "text")
SHARES, BITS = (1.0, 0.9, 0.7, 0.5, 0.25), (0, 12)
SEED = 900


def received(scan: RawScan, share: float, bits: int) -> RawScan:
    """The scan as stored by a receiver that clips at a share of the largest part, in so many bits or as floats."""
    x = scan.samples.read(np.arange(len(scan.lines)))
    parts = np.stack([x.real, x.imag])
    top = share * np.abs(parts).max()
    parts = np.clip(parts, -top, top)
    if bits:
        step = top / (2 ** (bits - 1) - 1)
        parts = np.round(parts / step)
    return replace(scan, samples=in_memory((parts[0] + 1j * parts[1]).astype(np.complex64)))


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seen: dict[tuple[float, int], list[bool]] = {(s, b): [] for s in SHARES for b in BITS}
    for seed in range(SEED, SEED + options.seeds):
        body = BODIES[seed % len(BODIES)]
        made = gallery_scans.acquired(gallery_scans.Scene(body=body), seed, options.data / "validation").scan
        for (share, bits), found in seen.items():
            found.append(bool(clipped(received(made, share, bits))))
    records: list[dict[str, Any]] = [
        {"share": s, "bits": b, "scans": len(found), "named": sum(found)} for (s, b), found in seen.items()
    ]
    for r in records:
        print(f"receiver stops at {r['share']:.2f}, bits {r['bits']:2}: named in {r['named']} of {r['scans']}")
    if options.json:
        head = {"date": str(date.today()), "simulated": True, "seed": SEED}
        options.json.write_text(json.dumps({**head, "records": records}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
