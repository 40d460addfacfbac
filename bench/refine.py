"""The gain from maps estimated again from k-space completed by the network's image, on simulated validation scans.

    python bench/refine.py --weights mri-base --acs 16 10 --json bench/results/refine.json

The scans are those of `bench/networks.py` at R = 8, with the given number of ACS lines. PSNR inside the body against
the full scan, once with the maps of the ACS lines and once with `solve.refine_maps`.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from networks import _REAL, SEED, scored

from recon.data import Measurement
from recon.learn import synth, volumes
from recon.nets import unrolled, weights
from recon.operators.sense import Sense
from recon.prepare.refine import refined


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--weights", default="mri-base")
    parser.add_argument("--accel", type=float, default=8.0)
    parser.add_argument("--acs", type=int, nargs="+", default=[16, 10])
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sources, loaded = volumes.read(options.data / "validation"), weights.load(options.weights)
    records = []
    for acs in options.acs:
        drawn = replace(_REAL, acceleration=(options.accel, options.accel), acs=(acs, acs))
        for i in range(options.slices):
            e = synth.example(SEED + i, sources, drawn)
            A = e.measurement.A
            assert isinstance(A, Sense)
            m = Measurement(e.measurement.y, Sense(A.maps, A.mask[None, None], A.axes), e.measurement.sigma)
            x = unrolled.reconstruct(loaded.network, m)
            found = [scored(v, e.full)["psnr"] for v in (x, unrolled.reconstruct(loaded.network, refined(m, x)))]
            records.append({"acceleration": options.accel, "acs": acs, "scan": i, "coils": len(A.maps),
                            "psnr": round(found[0], 2), "psnr_refined": round(found[1], 2)})  # fmt: skip
            print(records[-1], flush=True)
    if options.json:
        head = {"date": str(date.today()), "weights": loaded.name, "simulated": True, "seed": SEED}
        options.json.write_text(json.dumps({**head, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
