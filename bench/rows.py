"""Whether lines that contradict their ACS block, or each other, are detected, without false alarms.

    python bench/rows.py                          # 100 slices of several coils, a few minutes
    python bench/rows.py --raw --slices 60        # single-channel raw slices at 0.055 T
    python bench/rows.py --raw --part public_test --slices 60

SIMULATED scans of validation magnitudes (2 to 16 coils, noise 0.002 to 0.1, R 2 to 10, all kinds of line masks, maps by
ESPIRiT), or raw slices of one channel with lines left out (R 1.5 to 4). Each is tested unchanged and with one fault:
all lines outside its ACS block one row up or down, their readout half a sample or one sample late, or their phase
changed by 45°; or every second line of all with another phase or a later readout. "Loses" is the loss of the classical
image, the median of decibels. See `recon.solve.rows`, `detail` and `alternating`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from networks import SEED
from torch import Tensor
from trust import psnr

from recon import trust
from recon.data import Measurement
from recon.learn import synth, volumes
from recon.nets import unrolled
from recon.operators.sense import Sense
from recon.recipe import Trust
from recon.solve import alternating, detail, rows

EVEN, MIXED = (1.0, 0.0, 0.0, 0.0), (0.4, 0.2, 0.2, 0.2)


def settings(number: int, raw: bool = False) -> synth.Settings:
    """Settings of a simulated scan: of several coils, every second one has equispaced lines, others any kind."""
    if raw:
        return synth.Settings(raw=1.0)
    return synth.Settings(
        sizes=(128, 160, 192, 256), coils=(2, 4, 6, 8, 12, 16), kinds=EVEN if number % 2 else MIXED,
        noise=(0.002, 0.1), real=1.0, raw=0.0, estimated_maps=1.0, planar=0.0, partial=0.1,
        acceleration=(2, 10), acs=(12, 26),
    )  # fmt: skip


def outer_lines_times(m: Measurement, factor: Tensor | complex) -> Measurement:
    """Every line outside the ACS block multiplied, in hybrid space."""
    measured = m.A.mask.reshape(-1) > 0
    outer = measured & ~rows.acs(measured)
    return replace(m, y=torch.where(outer[:, None], m.y * factor, m.y))


def late(m: Measurement, samples: float) -> Measurement:
    """The readout of every line outside the ACS block shifted."""
    nx = m.y.shape[-1]
    return outer_lines_times(m, torch.exp(2j * math.pi * samples * (torch.arange(nx) - nx // 2) / nx))


def uneven(m: Measurement, degrees: float, samples: float) -> Measurement:
    """Every second measured line with another phase, its readout shifted."""
    nx = m.y.shape[-1]
    second = torch.cumsum((m.A.mask.reshape(-1) > 0).int(), 0) % 2 == 0
    angle = math.radians(degrees) + 2 * math.pi * samples * (torch.arange(nx) - nx // 2) / nx
    return replace(m, y=torch.where(second[:, None], m.y * torch.exp(1j * angle).to(m.y.dtype), m.y))


FAULTS: dict[str, Callable[[Measurement], Measurement]] = {
    "none": lambda m: m,
    "one row up": lambda m: rows.moved(m, 1),
    "one row down": lambda m: rows.moved(m, -1),
    "readout half a sample late": lambda m: late(m, 0.5),
    "readout a sample early": lambda m: late(m, -1.0),
    "phase turned by 45°": lambda m: outer_lines_times(m, complex(math.sqrt(0.5), math.sqrt(0.5))),
    "every second line 10°": lambda m: uneven(m, 10, 0),
    "every second line 20°": lambda m: uneven(m, 20, 0),
    "every second line 45°": lambda m: uneven(m, 45, 0),
    "every second readout half a sample late": lambda m: uneven(m, 0, 0.5),
    "every second readout a sample late": lambda m: uneven(m, 0, 1),
}


def looked_at(m: Measurement, full: Tensor, limits: Trust) -> dict[str, Any] | None:
    """The results for one measurement and whether it is suspected, as in `recon`; None if the test does not apply."""
    start = unrolled.classical(m, 60)
    d = detail.compared(m, start)[0]
    if d is None:
        return None
    sparser = rows.sparser(m, [detail.doubtful(d)])[0]
    a = alternating.compared(m)[0]
    # What `recon` compares with the noise: the residual of a network's start.
    residual = float(trust.chi2(m, start, torch.Size([1])))
    noise = 2**0.5 * m.sigma / float(unrolled.size(start, 3))
    by = [
        name
        for name, over in (
            ("detail", d.gain > limits.moved),
            ("phase", abs(d.turned) > limits.turned),
            ("sparsity", sparser is not None and sparser[1] > limits.misplaced),
            ("residual", residual > limits.explained * trust.expected(noise)),
            ("parity", a is not None and a.beyond(limits.alternating, limits.uneven)),
        )
        if over
    ]
    told = {"alternating": a.degrees, "uneven": a.samples, "scatter": a.scatter} if a else {}
    return {
        **asdict(d), **told, "sparser": sparser[1] if sparser else None, "residual": residual, "by": by,
        "psnr": psnr(start[0], full),
    }  # fmt: skip


def main() -> None:
    """Simulate, test, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--part", default="validation", choices=("validation", "public_test"))
    parser.add_argument("--raw", action="store_true", help="raw slices of one channel")
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--faults", nargs="+", default=[""], help="only those whose name holds one of these words")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    faults = {n: f for n, f in FAULTS.items() if n == "none" or any(w in n for w in options.faults)}
    torch.set_num_threads(options.threads)
    sources, limits, records = volumes.read(options.data / options.part), Trust(), list[dict[str, Any]]()
    for number in range(options.slices):
        seed = SEED + (5000 if options.raw else 1000) + number
        e = synth.example(seed, sources, settings(number, options.raw))
        A = e.measurement.A
        assert isinstance(A, Sense)
        m = Measurement(
            e.measurement.y[None], Sense(A.maps[None], A.mask.reshape(1, 1, 1, -1, 1), A.axes), e.measurement.sigma
        )
        for name, fault in faults.items():
            if (found := looked_at(fault(m), e.full, limits)) is not None:
                records.append({"seed": seed, "coils": A.maps.shape[0], "fault": name, **found})
                print(f"{number:4} {name:28} {', '.join(found['by']) or '-'}", flush=True)
    for name in faults:
        mine = [r for r in records if r["fault"] == name]
        good = {r["seed"]: r["psnr"] for r in records if r["fault"] == "none"}
        lost = statistics.median(good[r["seed"]] - r["psnr"] for r in mine if r["seed"] in good)
        ways = {w: sum(w in r["by"] for r in mine) for w in ("detail", "phase", "sparsity", "residual", "parity")}
        suspected = sum(bool(r["by"]) for r in mine)
        print(f"{name:28} suspected {suspected:3} of {len(mine)} {ways}, loses {lost:.1f} dB")
    if options.json:
        head = {"date": str(date.today()), "machine": platform.machine(), "part": options.part, "raw": options.raw}
        options.json.write_text(json.dumps({**head, "slices": options.slices, "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
