"""The evidence on volumes with two encoded axes: on good ones, and on each possible fault.

    python bench/trust_volumes.py                # a quarter of an hour of one core
    python bench/trust_volumes.py --table        # from what was measured

SIMULATED volumes of `volumes.py`, 24 columns of their readout, by Poisson disc and by CAIPIRINHA. A learned volume is
wrong if it loses more than half a decibel to that of `cs`; the limits are those of slices.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
import volumes
from records import Record, store, stored
from torch import Tensor
from trust import psnr

from recon.data import Measurement
from recon.mri import methods
from recon.operators import ifft
from recon.operators.sense import Sense
from recon.prepare.espirit import espirit
from recon.prepare.sensitivities import combine
from recon.recipe import Solve, Trust
from recon.solve import rows

OUT = Path(__file__).parent / "results/trust-volumes.json"
CASE = ("weights", "volume", "mask", "acceleration", "noise", "fault")
COLUMNS = 24
Fault = Callable[[Measurement], Measurement]


def scan(folder: Path, name: str, kind: str, R: int, noise: float, partitions: int) -> tuple[Measurement, Tensor]:
    """Some columns of a volume, (1, coil, kz, ky, x), and the image of all lines (z, y, x)."""
    full = volumes.full_scan(folder, name, noise, partitions)
    z, y, x = (slice(max(0, n // 2 - volumes.ACS // 2), n // 2 + volumes.ACS // 2) for n in full.shape[1:])
    maps = espirit(full[:, z, y, x].contiguous(), tuple(full.shape[1:])).maps
    first = full.shape[-1] // 2 - COLUMNS // 2
    hybrid, maps = (t[..., first : first + COLUMNS].contiguous() for t in (ifft(full, (-1,)), maps))
    mask = volumes.mask(kind, R, partitions)[None, None, :, :, None]
    m = Measurement((hybrid * mask[0])[None], Sense(maps[None], mask, (-3, -2)), 1.0)
    return m, combine(ifft(hybrid, (-3, -2)), maps)


def outside(m: Measurement) -> Tensor:
    """Measured lines (kz, ky) outside the ACS block."""
    mask = m.A.mask[0, 0, ..., 0] > 0
    outer = mask.clone()
    outer[rows.block(mask)] = False
    return outer


def moved(m: Measurement, by: int, axis: int) -> Measurement:
    """All lines outside the ACS block shifted along kz (0) or ky (1), as from a counter that starts at one."""
    outer, mask = outside(m), m.A.mask[0, 0, ..., 0] > 0
    inner = mask & ~outer
    there = torch.roll(outer, by, axis) & ~inner
    y = m.y * inner[..., None] + torch.roll(m.y * outer[..., None], by, axis - 3) * there[..., None]
    return replace(m, y=y, A=Sense(m.A.maps, (inner | there).to(m.A.mask)[None, None, ..., None], m.A.axes))


def outer_lines_off(m: Measurement, degrees: float, samples: float) -> Measurement:
    """Lines outside the ACS block with another phase, or a late readout, simulated on the examined columns."""
    nx = m.y.shape[-1]
    angle = math.radians(degrees) + 2 * math.pi * samples * (torch.arange(nx) - nx // 2) / nx
    return replace(m, y=torch.where(outside(m)[..., None], m.y * torch.exp(1j * angle).to(m.y.dtype), m.y))


def shots(m: Measurement) -> Measurement:
    """The object two voxels further along z and y in a random half of the lines."""
    nz, ny = m.y.shape[-3:-1]
    z, y = ((torch.arange(n) - n // 2) / n for n in (nz, ny))
    ramp = torch.exp(-4j * math.pi * (z[:, None] + y)).to(m.y.dtype)
    half = torch.rand(nz, ny, generator=torch.Generator().manual_seed(0)) < 0.5
    return replace(m, y=torch.where(half[..., None], m.y * ramp[..., None], m.y))


def spiked(m: Measurement) -> Measurement:
    """A spark in one line of every coil: one frequency along its readout."""
    y, at = m.y.clone(), torch.nonzero(outside(m))[3]
    y[..., at[0], at[1], :] += 3 * y.abs().amax() * torch.exp(0.7j * torch.arange(y.shape[-1]))
    return replace(m, y=y)


def with_maps(m: Measurement, change: Callable[[Tensor], Tensor]) -> Measurement:
    """The measurement with other maps."""
    return replace(m, A=Sense(change(m.A.maps), m.A.mask, m.A.axes))


FAULTS: dict[str, Fault] = {
    "good": lambda m: m,
    "one row off": lambda m: moved(m, 1, 1),
    "one partition off": lambda m: moved(m, 1, 0),
    "readout half a sample late": lambda m: outer_lines_off(m, 0, 0.5),
    "phase of 45°": lambda m: outer_lines_off(m, 45, 0),
    "motion between shots": shots,
    "spark": spiked,
    "noise told 10 times too low": lambda m: replace(m, sigma=m.sigma / 10),
    "noise told 10 times too high": lambda m: replace(m, sigma=m.sigma * 10),
    "maps 8 rows off": lambda m: with_maps(m, lambda s: torch.roll(s, 8, -2)),
    "maps of another coil order": lambda m: with_maps(m, lambda s: torch.roll(s, 1, 1)),
}


def record(m: Measurement, full: Tensor, name: str) -> dict[str, Any]:
    """PSNR of `cs` and of the network on a volume, and its evidence under the shipped limits."""
    plan = Solve(weights=name)
    cs = psnr(methods.solve("cs", m, plan)[0], full)
    x, found = methods.learned(m, plan, Trust(fallback=False))
    told, learned = found[0], psnr(x[0], full)
    numbers = ("residual", "classical_residual", "added", "gain", "turned", "alternating", "uneven", "scatter")
    return {
        "psnr_cs": round(cs, 3), "psnr": round(learned, 3), "wrong": not learned > cs - 0.5,
        **{key: getattr(told, key) for key in numbers}, "reasons": list(told.reasons),
    }  # fmt: skip


def table(records: Sequence[Record]) -> list[str]:
    """One line for each fault."""
    out = []
    for fault in FAULTS:
        if not (mine := [r for r in records if r["fault"] == fault]):
            continue
        spans = {k: [r[k] for r in mine if r[k] is not None] for k in ("residual", "classical_residual", "added")}
        told = ", ".join(f"{k} {min(v):.3g} to {max(v):.3g}" for k, v in spans.items() if v)
        gain = [r["psnr"] - r["psnr_cs"] for r in mine]
        out.append(
            f"{fault:30} gives way {sum(bool(r['reasons']) for r in mine)} of {len(mine)}, {told}, "
            f"over cs {min(gain):+.1f} to {max(gain):+.1f} dB, wrong {sum(r['wrong'] for r in mine)}"
        )
    return out


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--weights", default="mri-base")
    parser.add_argument("--volume", nargs="+", choices=volumes.SOURCES, default=list(volumes.SOURCES))
    parser.add_argument("--masks", nargs="+", choices=("poisson", "caipi"), default=["poisson", "caipi"])
    parser.add_argument("--accel", type=int, nargs="+", default=[4])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.01])
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--partitions", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    head = {"date": str(date.today()), "machine": platform.machine(), "simulated": True}
    kinds = itertools.product(options.volume, options.masks, options.accel, options.noise)
    for name, kind, R, noise in () if options.table else kinds:
        m, full = scan(options.data, name, kind, R, noise, options.partitions)
        common = {"weights": options.weights, "volume": name, "mask": kind, "acceleration": R, "noise": noise}
        for fault in options.faults:
            r = {**common, "fault": fault, **record(FAULTS[fault](m), full, options.weights)}
            store(options.json, [r], CASE, head)
            print(f"{name} {kind} R = {R} noise {noise:g}: {table([r])[0]}", flush=True)
    print("\n".join(table([r for r in stored(options.json) if r["weights"] == options.weights])))


if __name__ == "__main__":
    main()
