"""Where learned images fail and what their evidence then says, and how well replicas predict their error.

    python bench/trust.py --weights mri-base --seeds 2 --json bench/results/trust.json
    python bench/trust.py --weights mri-base --seeds 2 --calibrate

Scans are simulated like those of the training, from validation magnitudes, with equispaced lines and ACS. Faults are
introduced one by one; a learned image is wrong if it loses more than half a decibel to the classical one. `--calibrate`
writes the reliability of replicas into `calibration.json` beside the weights: a pixel's error is below factor × 1.96 ×
its standard deviation in 95 of 100 pixels of the body.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon import trust
from recon.data import Measurement
from recon.io.atomic import atomic_file
from recon.learn import settings, synth, volumes
from recon.mri.replicas import replicas
from recon.nets import unrolled, weights
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.recipe import Trust
from recon.solve import detail, rows

FOLDER = Path(os.environ.get("RECON_DATA", "../shared/data"))
SEED = 900_000_000
#: No limits: only the numbers are needed.
OPEN = Trust(residual=1e9, explained=1e9, added=1.0, misplaced=1.0, moved=1e9, turned=90, margin=1e9)


def scan(sources: volumes.Sources, R: float, noise: float, seed: int) -> tuple[Measurement, synth.Example]:
    """A simulated slice of 192 to 256 pixels and 8 coils."""
    acs = 24 if R <= 4 else 16
    drawn = synth.Settings(
        sizes=(192, 256), coils=(8,), real=1.0, raw=0.0, acceleration=(R, R), acs=(acs, acs), planar=0.0, partial=0.0,
        kinds=(1.0, 0.0, 0.0, 0.0), estimated_maps=1.0, noise=(noise, noise),
    )  # fmt: skip
    e = synth.example(SEED + seed, sources, drawn)
    A = e.measurement.A
    assert isinstance(A, Sense)
    return Measurement(e.measurement.y, Sense(A.maps, A.mask[None, None], A.axes), e.measurement.sigma), e


def moved(m: Measurement) -> Measurement:
    """The object two pixels further along x and y in every second measured line: motion between shots."""
    ny = m.y.shape[-2]
    rows = torch.arange(ny)
    other = (torch.cumsum((m.A.mask.reshape(-1) > 0).int(), 0) % 2 == 0)[:, None]
    ramp = torch.exp(-2j * math.pi * 2 * (rows - ny // 2)[:, None] / ny)
    shifted = torch.roll(m.y, 2, -1) * ramp
    return replace(m, y=torch.where(other, shifted, m.y).to(torch.complex64))


def misplaced(m: Measurement) -> Measurement:
    """Every line outside the ACS block one row too high, as from a counter that starts at one."""
    measured = m.A.mask.reshape(-1) > 0
    ny = len(measured)
    gaps = torch.nonzero(~measured).flatten()
    inner = torch.zeros_like(measured)
    inner[int(gaps[gaps < ny // 2].max()) + 1 : int(gaps[gaps > ny // 2].min())] = True
    outer = measured & ~inner
    there = torch.roll(outer, 1) & ~inner
    y = m.y * inner[:, None] + torch.roll(m.y * outer[:, None], 1, -2) * there[:, None]
    mask = (inner | there).to(m.A.mask).reshape(m.A.mask.shape)
    return replace(m, y=y, A=Sense(m.A.maps, mask, m.A.axes))


def spiked(m: Measurement) -> Measurement:
    """One sample of every coil a hundred times the largest: a spark in the room."""
    k = fft(m.y, (-1,))
    row = int(torch.nonzero(m.A.mask.reshape(-1)).flatten()[3])
    k[:, :, row, k.shape[-1] // 3] = 3 * k.abs().amax()
    return replace(m, y=ifft(k, (-1,)))


def with_maps(m: Measurement, maps: Tensor) -> Measurement:
    """The measurement with other maps."""
    return replace(m, A=Sense(maps, m.A.mask, m.A.axes))


#: Name, R, noise, and the fault of the measurement.
CASES: tuple[tuple[str, float, float, Callable[[Measurement], Measurement]], ...] = (
    ("good, R = 4, noise 0.003", 4, 0.003, lambda m: m),
    ("good, R = 4, noise 0.03", 4, 0.03, lambda m: m),
    ("good, R = 8, noise 0.003", 8, 0.003, lambda m: m),
    ("good, R = 8, noise 0.03", 8, 0.03, lambda m: m),
    ("R = 16", 16, 0.01, lambda m: m),
    ("noise told 10 times too low", 4, 0.01, lambda m: replace(m, sigma=m.sigma / 10)),
    ("noise told 10 times too high", 4, 0.01, lambda m: replace(m, sigma=m.sigma * 10)),
    ("noise 0.5", 4, 0.5, lambda m: m),
    ("lines beside the ACS one row off", 4, 0.01, misplaced),
    ("motion between shots", 4, 0.01, moved),
    ("spark", 4, 0.01, spiked),
    ("maps 16 pixels off", 4, 0.01, lambda m: with_maps(m, torch.roll(m.A.maps, 16, -2))),
    ("maps of another coil order", 4, 0.01, lambda m: with_maps(m, torch.roll(m.A.maps, 1, 0))),
    ("samples not numbers", 4, 0.01, lambda m: replace(m, y=m.y / (m.y.abs() < m.y.abs().max() / 2))),
)  # fmt: skip


def psnr(x: Tensor, full: Tensor) -> float:
    """PSNR of a magnitude inside the body."""
    t = full.abs()
    return float(10 * torch.log10(t.max() ** 2 / (x.abs() - t)[t > 0.1 * t.max()].square().mean()))


def evidence(
    loaded: weights.Loaded, name: str, m: Measurement, e: synth.Example, trained: trust.Range
) -> dict[str, Any]:
    """Numbers of one scan, whether the learned image is wrong, and whether the shipped limits reject it."""
    network = loaded.network
    start = unrolled.classical(m, network.shape.start)
    x = unrolled.reconstruct(network, m, start=start)
    details = detail.compared(m, start)
    lines = rows.sparser(m, [detail.doubtful(d) for d in details])
    seen = [trust.Witnesses(*w) for w in zip(lines, details, strict=True)]
    found = trust.examine(m, x, start, limits=OPEN, trained=None, witnesses=seen)[0]
    limited = trust.examine(m, x, start, limits=Trust(), trained=trained, witnesses=seen)[0]
    before, after = psnr(start, e.full), psnr(x, e.full)
    return {
        "case": name, "residual": found.residual, "classical_residual": found.classical_residual, "added": found.added,
        "changed": found.changed, "rows": found.rows, "sparser": found.sparser, "moved_rows": found.moved_rows,
        "moved_samples": found.moved_samples, "gain": found.gain, "turned": found.turned, "noise": found.noise,
        "acceleration": found.acceleration, "psnr_classical": before,
        "psnr": after, "wrong": not after > before - 0.5, "gives_way": bool(limited.reasons),
        "reasons": list(limited.reasons),
    }  # fmt: skip


def calibration(loaded: weights.Loaded, scans: list[tuple[Measurement, synth.Example]], count: int) -> dict[str, Any]:
    """How |x| − |truth without noise| compares with the standard deviation of replicas over the pixels of bodies."""
    network, ratios = loaded.network, []

    def run(given: Measurement) -> Tensor:
        return unrolled.reconstruct(network, given)

    for n, (m, e) in enumerate(scans):
        spread = replicas(m, run, count=count, seeds=[n])
        t = e.clean.abs()
        body = t > 0.1 * t.max()
        ratios.append(((run(m).abs() - t).abs() / spread.clamp_min(1e-12))[body])
    z = torch.cat(ratios).double()
    return {
        "replicas": count, "scans": len(scans), "within_1": float((z < 1).double().mean()),
        "within_2": float((z < 2).double().mean()), "factor": float(z.sort().values[int(0.95 * len(z))]) / 1.96,
        "data": "simulated from validation magnitudes, R = 4 and 8, 8 coils", "seed": SEED, "date": str(date.today()),
        "weights_sha256": loaded.sha256,
    }  # fmt: skip


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--replicas", type=int, default=16)
    parser.add_argument("--calibrate", action="store_true", help="only calibrate, and write it beside the weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sources, loaded = volumes.read(options.data / "validation"), weights.load(options.weights)
    folder = weights.find(options.weights)
    if options.calibrate:
        todo = [(R, noise, s) for R in (4.0, 8.0) for noise in (0.005, 0.03) for s in range(options.seeds)]
        made = calibration(loaded, [scan(sources, *t) for t in todo], options.replicas)
        print(json.dumps(made, indent=1))
        with atomic_file(folder / "calibration.json") as temporary:
            temporary.write_text(json.dumps(made, indent=1) + "\n", encoding="ascii")
        return
    data = settings.load(folder / "recipe.toml").data
    trained = trust.Range(data.acceleration, data.noise)
    found = []
    for name, R, noise, fault in CASES:
        for seed in range(options.seeds):
            m, e = scan(sources, R, noise, seed)
            found.append({"seed": SEED + seed, **evidence(loaded, name, fault(m), e, trained)})
            r = found[-1]
            print(
                f"{name:30} residual {r['residual']:9.3g} ({r['classical_residual']:9.3g}) added {r['added']:8.2%} "
                f"changed {r['changed']:6.1%} noise {r['noise']:.4f} R {r['acceleration']:5.2f} gain "
                f"{r['psnr'] - r['psnr_classical']:+6.2f} dB{' WRONG' if r['wrong'] else ''}"
                f"{' gives way' if r['gives_way'] else ''}",
                flush=True,
            )
    if options.json:
        head = {"date": str(date.today()), "machine": platform.machine(), "weights": loaded.name, "simulated": True}
        text = json.dumps({**head, "sha256": loaded.sha256, "records": found}, indent=1)
        options.json.write_text(text.replace("NaN", "null") + "\n")


if __name__ == "__main__":
    main()
