"""Networks and `cs` on small matrices: how size, an EPI ghost and a phase that jumps change which of them is best.

    python bench/small.py --kind sizes --seeds 0 45                          # ten minutes of one core
    python bench/small.py --kind phases --seeds 2000 2028 --sizes 64 80 112 160 224
    python bench/small.py --table

SIMULATED slices of validation magnitudes and drawn shapes, made like those of training, at sizes that no training
used. Each seed draws one setting, which is the same at every size: coils, R, mask and noise of 0.5 to 3 %. `sizes` also
draws a ghost that remains uncorrected, a phase between odd and even lines, which the full scan has, too. `phases` draws
the phase of a susceptibility field (`recon.learn.images.field`) of 0.2 to 1.5 rad over tissue ("weak"), of 1.5 to 4 rad
("strong", as of a long echo time), or none. `rephased` is the image of mri-base without the object's phase, `local`
takes windows from it where both differ (`recon.nets.rephased`), and `mean` is the mean of both images.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from reach import judged
from records import Record, store, stored
from torch import Tensor

from recon import masks
from recon.data import Measurement
from recon.learn import images, synth, volumes
from recon.learn.draw import Draw
from recon.mri import methods, networks
from recon.nets import rephased, unrolled
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.recipe import Solve, Trust

SEED = 740_000_000
OUT = Path(__file__).parent / "results/small.json"
SIZES = (48, 64, 80, 96, 112, 128, 160)
CASE = ("kind", "seed", "size")
NETWORKS = ("mri-small", "mri-base")
#: Weights of the masks as in `recon.learn.synth.Settings.kinds`.
EQUISPACED, VARIABLE = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0)
LIMIT = Trust().rephased
#: Standard deviations over tissue of the phase of a susceptibility field, in radians.
FIELDS = {"weak": (0.2, 1.5), "strong": (1.5, 4.0)}


def setting(kind: str, seed: int) -> dict[str, Any]:
    """What a seed draws: coils, R, mask, noise, ghost in degrees, share of real magnitudes, and the phase."""
    r = random.Random(seed)
    if kind == "sizes":
        coils = r.choice([1, 2, 2, 4, 8])
        R = r.choice([2, 2.5, 3, 4] if coils == 1 else [2, 3, 4, 6])
        mask = "random" if coils == 1 else r.choice(["equispaced", "equispaced", "variable"])
        noise = math.exp(r.uniform(math.log(0.005), math.log(0.03)))
        ghost, real = r.choice([[0, 0], [0, 0], [4, 4], [8, -5]]), r.choice([1.0, 1.0, 1.0, 0.0])
        return dict(coils=coils, R=R, mask=mask, noise=noise, ghost=ghost, real=real, jumps="none", acs=20)
    coils, R = r.choice([2, 2, 4, 8]), r.choice([2, 3, 4])
    noise = math.exp(r.uniform(math.log(0.005), math.log(0.03)))
    real, jumps = r.choice([1.0, 1.0, 0.0]), r.choice(["none", "weak", "strong", "strong"])
    return dict(coils=coils, R=R, mask="equispaced", noise=noise, ghost=[0, 0], real=real, jumps=jumps, acs=24)


def ghosted(k: Tensor, constant: float, slope: float) -> Tensor:
    """K-space (coil, 1, y, x) whose odd lines have a phase against the even ones, in degrees."""
    x = (torch.arange(k.shape[-1]) - k.shape[-1] // 2) / (k.shape[-1] / 4)
    odd = (torch.arange(k.shape[-2]) % 2 * 2 - 1).float()[:, None]
    return fft(ifft(k, (-1,)) * torch.polar(torch.ones(1), odd * math.radians(1) * (constant + slope * x) / 2), (-1,))


def scan(sources: volumes.Sources, seed: int, n: int, s: dict[str, Any]) -> synth.Example:
    """The slice of n × n pixels of a seed and its setting."""
    R, noise = float(s["R"]), s["noise"]
    made = synth.Settings(
        sizes=(n,), coils=(s["coils"],), real=s["real"], raw=0.0, acceleration=(R, R), acs=(s["acs"], s["acs"]),
        planar=0.0, partial=0.0, kinds=VARIABLE if s["mask"] == "variable" else EQUISPACED, estimated_maps=1.0,
        noise=(noise, noise), susceptibility=float(s["jumps"] != "none"),
    )  # fmt: skip
    draw = Draw.seeded(SEED + seed, "cpu")
    with patch.object(images, "FIELD", FIELDS.get(s["jumps"], images.FIELD)):
        clean, truth = synth._scan(draw, sources, made, (n, n), s["coils"])
    clean = clean * math.sqrt(2) / noise
    full = (ghosted(clean, *s["ghost"]) if any(s["ghost"]) else clean) + draw.complex_normal(*clean.shape)
    if s["coils"] == 1:  # the masks of training would draw an R of their own
        acs = min(s["acs"], int(0.7 * n / R))
        mask = torch.from_numpy(masks.random((n,), R, acs, (SEED + seed) % 2**31)[:, None]).float()
    else:
        mask, _, acs = synth.drawn_mask(draw, made, (n, n), False, single=False)
    return synth.undersampled(full, clean, synth.calibrated(draw, made, full, truth, acs, False), mask, R, False)


def measured(e: synth.Example, kind: str) -> dict[str, Any]:
    """PSNR in the body against the full scan, of `cs`, the networks and what else there is of mri-base."""
    A = e.measurement.A
    assert isinstance(A, Sense)
    m = Measurement(e.measurement.y[None], Sense(A.maps[None], A.mask[None, None], A.axes), e.measurement.sigma)
    body = e.full.abs() > 0.1 * e.full.abs().max()
    found: dict[str, Any] = {"effective": round(float(1 / A.mask.float().mean()), 2)}
    found |= {"fill": round(float(body.float().mean()), 3)}

    def note(name: str, x: Tensor) -> None:
        psnr, windows = judged(x, e.full)
        found.update({name: round(psnr, 2), f"{name}_patch": round(float(windows.max()), 4)})

    note("cs", methods.solve("cs", m, Solve()))
    for name in NETWORKS:
        x, evidence = methods.learned(m, Solve(weights=name), Trust(fallback=False))
        note(name, x)
        found[f"{name}_reasons"] = len(evidence[0].reasons)
    if kind == "phases":
        network = networks.load("mri-base", "cpu").network
        start = unrolled.classical(m, network.shape.start)
        other = rephased.image(network, m, start)
        local, apart, share = rephased.mixed(x, other, start, LIMIT)
        note("rephased", other)
        note("local", local)
        note("mean", (x + other) / 2)
        found |= {"apart": round(apart[0], 2), "share": round(share[0], 3)}
    return found


def table(records: Sequence[Record]) -> list[str]:
    """Gains over `cs` in dB by size, by ghost and by phase, and how often mri-base is the worse network."""
    out = []

    def rows(name: str, mine: Sequence[Record], by: Callable[[Record], Any]) -> None:
        groups = defaultdict(list)
        for r in mine:
            groups[by(r)].append(r)
        for key in sorted(groups, key=str):
            of = groups[key]
            gains = {
                n: np.array([r[n] - r["cs"] for r in of])
                for n in (*NETWORKS, "rephased", "local", "mean")
                if n in of[0]
            }
            apart = gains["mri-base"] - gains["mri-small"]
            out.append(
                f"{name} {key!s:12} {len(of):3} slices over cs: "
                + ", ".join(f"{n} {g.mean():+.2f} ({g.min():+.2f})" for n, g in gains.items())
                + f"; mri-base over mri-small {apart.mean():+.2f} ({apart.min():+.2f}), below it in {(apart < 0).sum()}"
            )

    sizes, phases = ([r for r in records if r["kind"] == kind] for kind in ("sizes", "phases"))
    rows("sizes: size", sizes, lambda r: f"{r['size']:3}")
    rows("sizes: coils", sizes, lambda r: r["coils"])
    rows("sizes: ghost", sizes, lambda r: str(r["ghost"]))
    rows("phases: jumps", phases, lambda r: r["jumps"])
    rows("phases: jumps, size", phases, lambda r: (r["jumps"], r["size"]))
    rows("phases: jumps, coils", phases, lambda r: (r["jumps"], r["coils"]))
    return out


def main() -> None:
    """Draw, reconstruct, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--kind", choices=("sizes", "phases"), default="sizes")
    parser.add_argument("--seeds", type=int, nargs=2, default=[0, 45], help="the first, and the one after the last")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.table:
        sources = volumes.read(options.data / "validation")
        head = {"machine": platform.machine(), "simulated": True}
        for seed in range(*options.seeds):
            s = setting(options.kind, seed)
            case = {"kind": options.kind, "seed": seed, **s, "noise": round(s["noise"], 4), "date": str(date.today())}
            for n in options.sizes:
                r = {**case, "size": n, **measured(scan(sources, seed, n, s), options.kind)}
                store(options.json, [r], CASE, head)
    print("\n".join(table(stored(options.json))))


if __name__ == "__main__":
    main()
