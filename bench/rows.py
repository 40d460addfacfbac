"""Whether lines beside the ACS block that lie one row off are found, and good scans left alone (recon.solve.rows).

    python bench/rows.py                      # 100 slices, a minute or more
    python bench/rows.py --slices 20

SIMULATED scans of validation magnitudes: 2 to 16 coils, noise 0.002 to 0.1, R 2 to 10, all kinds of line masks, maps by
ESPIRiT. Each is looked at as it is, and with the lines beside its ACS block one row up and one row down.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from networks import SEED

from recon.data import Measurement
from recon.learn import synth, volumes
from recon.operators.sense import Sense
from recon.recipe import Trust
from recon.solve import rows

EVEN, MIXED = (1.0, 0.0, 0.0, 0.0), (0.4, 0.2, 0.2, 0.2)


def settings(number: int) -> synth.Settings:
    """What a scan is drawn from: every second one has equispaced lines, the others any kind."""
    return synth.Settings(
        sizes=(128, 160, 192, 256), coils=(2, 4, 6, 8, 12, 16), kinds=EVEN if number % 2 else MIXED,
        noise=(0.002, 0.1), real=1.0, raw=0.0, estimated_maps=1.0, planar=0.0, partial=0.1,
        acceleration=(2, 10), acs=(12, 26),
    )  # fmt: skip


def main() -> None:
    """Draw, look, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--slices", type=int, default=100)
    options = parser.parse_args()
    sources, limit = volumes.read(options.data / "validation"), Trust().misplaced
    alarms = found = seen = 0
    for number in range(options.slices):
        made = synth.example(SEED + 1000 + number, sources, settings(number)).measurement
        A = made.A
        m = Measurement(made.y[None], Sense(A.maps[None], A.mask.reshape(1, 1, 1, -1, 1), A.axes), made.sigma)
        told = [rows.sparser(rows.moved(m, by))[0] for by in (0, 1, -1)]
        shown = "  ".join(f"{t[0]:+d} {t[1]:+.2%}" if t else "not looked at" for t in told)
        print(f"{number:4}  {A.maps.shape[0]:2} coils  as it is, +1, -1: {shown}", flush=True)
        good, *bad = told
        if good is None:
            continue
        seen += 1
        alarms += good[1] > limit
        found += sum(t is not None and t[1] > limit for t in bad)
    print(f"{seen} of {options.slices} looked at: {alarms} false alarms, {found} of {2 * seen} misplaced found")


if __name__ == "__main__":
    main()
