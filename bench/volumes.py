"""Volumes by a network compared with `cs`: the network processes every column of the readout as a slice, `cs` all three
axes.

    python bench/volumes.py --weights mri-base --json bench/results/volumes.json
    python bench/volumes.py --weights mri-base mri-small --json bench/results/volumes.json --tell

SIMULATED from validation magnitudes: CT in a soft-tissue window, nearly isotropic, and a brain whose thick slices lie
along the readout, where their interpolation is smooth and favours `cs`. Eight coils by Biot-Savart's law in three
dimensions, synthetic phase, white noise; 96 × 128 phase encodes, Poisson disc and CAIPIRINHA with 24 × 24 ACS lines;
ESPIRiT maps of the ACS block for all. Scored inside the body on some columns, against the full scan with its noise.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
import torch.nn.functional as F
from networks import scored
from records import Record, store, stored
from torch import Tensor

from recon import masks
from recon.data import Measurement
from recon.io.atomic import atomic_file
from recon.learn.draw import Draw
from recon.mri import methods
from recon.nets import unrolled, weights
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.prepare.espirit import espirit
from recon.prepare.sensitivities import combine
from recon.recipe import Solve
from recon.simulation.coil_array import loop_fields

SEED = 800_000_000
COILS, NY, ACS = 8, 128, 24
#: What distinguishes records.
CASE = ("volume", "partitions", "noise", "mask", "acceleration", "method")
#: File, which of its axes are (kz, ky, readout), voxels along the readout.
SOURCES = {
    "heart CT": ("totalseg_heart_cta_1p5mm.nii.gz", (0, 1, 2), 96),
    "head CT": ("invesalius_head_ct.nii.gz", (2, 1, 0), 96),
    "brain T1": ("vsseg001_brain_t1gd_every5.nii.gz", (0, 1, 2), 48),
}


def magnitude(folder: Path, name: str, shape: tuple[int, int, int]) -> Tensor:
    """A volume on a grid (z, y, x), with its brightest voxels near 1 and air around it."""
    file, axes, _ = SOURCES[name]
    v = np.asarray(nibabel.load(folder / "validation" / file).dataobj, np.float32).transpose(axes)  # type: ignore[attr-defined]
    v = np.clip(v, -200, 300) + 200 if v.min() < -500 else np.maximum(v, 0)
    v = v / float(np.percentile(v[v > 0], 99.5))
    inner = F.interpolate(torch.from_numpy(v.copy())[None, None], size=tuple(int(0.9 * n) for n in shape),
                          mode="trilinear", align_corners=False)[0, 0].clamp(0, 1.5)  # fmt: skip
    pad = [p for n, m in zip(shape[::-1], inner.shape[::-1]) for p in ((n - m) // 2, n - m - (n - m) // 2)]
    return F.pad(inner, pad)


def field(draw: Draw, shape: tuple[int, int, int], power: float) -> Tensor:
    """A smooth random field of variance 1 in three dimensions."""
    k = torch.meshgrid(*(torch.fft.fftfreq(n, 1 / n) for n in shape), indexing="ij")
    amplitude = (1 + sum(a.square() for a in k)) ** (-power / 2)
    amplitude[0, 0, 0] = 0
    out = torch.fft.ifftn(torch.fft.fftn(draw.normal(*shape)) * amplitude).real
    return out / out.std()


def coils(shape: tuple[int, int, int]) -> Tensor:
    """Maps (coil, z, y, x) on a grid, from 25³ points of a field of view of 240 mm."""
    axis = np.linspace(-120, 120, 25)
    z, y, x = np.meshgrid(0.75 * axis, axis, axis, indexing="ij")
    coarse = torch.from_numpy(loop_fields(COILS, np.stack([x, y, z], -1)).astype(np.complex64))
    parts = torch.view_as_real(coarse).movedim(-1, 0).flatten(0, 1)[None]
    fine = F.interpolate(parts, size=shape, mode="trilinear", align_corners=True)[0]
    maps = torch.complex(fine[:COILS], fine[COILS:])
    return maps * maps.abs().square().sum(0).mean().rsqrt()


def full_scan(folder: Path, name: str, noise: float, partitions: int) -> Tensor:
    """Fully sampled k-space (coil, kz, ky, kx) with noise σ = 1, of an object drawn 1.5 times as fine."""
    shape = (partitions, NY, SOURCES[name][2])
    fine = tuple(3 * n // 2 for n in shape)
    draw = Draw.seeded(SEED)
    m = magnitude(folder, name, fine)
    x = torch.polar(m, 0.9 * field(draw, fine, 3.5) + draw.uniform(-math.pi, math.pi))
    k = torch.stack([_cut(fft((c * x)[None], (-3, -2, -1))[0], shape) for c in coils(fine)])
    k = k * (math.sqrt(math.prod(shape) / math.prod(fine)) * math.sqrt(2) / noise)
    return k + draw.complex_normal(*k.shape)


def _cut(k: Tensor, shape: tuple[int, int, int]) -> Tensor:
    for axis, n in zip((-3, -2, -1), shape):
        k = k.narrow(axis, k.shape[axis] // 2 - n // 2, n)
    return k


def mask(kind: str, R: int, partitions: int) -> Tensor:
    """Measured lines (kz, ky); for a Poisson disc R is the effective factor, on a lattice the ACS lines are added."""
    shape, acs = (partitions, NY), (min(ACS, partitions), ACS)
    if kind == "poisson":
        m = masks.poisson_disc(shape, R, acs, SEED, slope=1.0)
    elif kind == "caipi":
        m = masks.caipi(shape, (2, R // 2), acs, SEED, shift=1)
    else:
        m = masks.equispaced(shape, (1, R), (partitions, ACS), SEED)
    return torch.from_numpy(m).float()


def columns(m: Measurement, at: list[int]) -> Measurement:
    """Some columns of a volume as slices (column, coil, 1, kz, ky) of a batch."""
    A = m.A
    assert isinstance(A, Sense)
    y, maps = (t[..., at].movedim(-1, 0).unsqueeze(-3).contiguous() for t in (m.y, A.maps))
    return Measurement(y, Sense(maps, A.mask[..., 0], (-2, -1)), m.sigma)


def compared(
    full: Tensor, kind: str, R: int, networks: dict[str, unrolled.Unrolled], planes: int
) -> list[dict[str, Any]]:
    """Records of every method on one volume and mask."""
    m = mask(kind, R, full.shape[1])
    z, y, x = (slice(max(0, n // 2 - ACS // 2), n // 2 + ACS // 2) for n in full.shape[1:])
    maps = espirit(full[:, z, y, x].contiguous(), tuple(full.shape[1:])).maps
    hybrid = ifft(full, (-1,))
    given = Measurement(hybrid * m[..., None], Sense(maps, m[None, :, :, None], (-3, -2)), 1.0)
    nx = full.shape[-1]
    at = [int(i) for i in np.linspace(0.2, 0.8, planes) * nx]
    truth = combine(ifft(full, (-3, -2, -1)), maps)[..., at].movedim(-1, 0)
    whole = methods.solve("cs", given, Solve())
    made = {"cs": whole[..., at].movedim(-1, 0)}
    part = columns(given, at)
    from_cs = made["cs"].unsqueeze(-3).contiguous()
    for name, network in networks.items():
        start = unrolled.classical(part, network.shape.start)
        made[f"{name}, its start"] = start[:, 0]
        made[name] = unrolled.reconstruct(network, part, start=start)[:, 0]
        made[f"{name} from cs"] = unrolled.reconstruct(network, part, start=from_cs)[:, 0]
    found = []
    for name, image in made.items():
        scores = [scored(a, b) for a, b in zip(image, truth)]
        found.append({
            "method": name, "mask": kind, "acceleration": R, "effective": float(1 / m.mean()),
            "columns": at, "psnr": float(np.mean([s["psnr"] for s in scores])),
            "ssim": float(np.mean([s["ssim"] for s in scores])), "psnr_each": [s["psnr"] for s in scores],
        })  # fmt: skip
    return found


def tell(name: str, records: list[Record]) -> None:
    """Write what a network gained over `cs` on all volumes beside its weights: `recon` warns where it lost."""
    at = {tuple(r[k] for k in CASE): r["psnr"] for r in records}
    gains = [v - at[(*k[:-1], "cs")] for k, v in at.items() if k[-1] == f"{name} from cs"]
    found = {"volumes": len(gains), "mean_dB": round(sum(gains) / len(gains), 2), "least_dB": round(min(gains), 2)}
    told = {**found, "data": "simulated from validation magnitudes", "weights_sha256": weights.load(name).sha256}
    with atomic_file(weights.find(name) / "volumes.json") as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="ascii")


def main() -> None:
    """Compare, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--weights", nargs="+", default=["mri-base"])
    parser.add_argument("--volume", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--noise", type=float, nargs="+", default=[0.005, 0.03])
    parser.add_argument("--accel", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--masks", nargs="+", choices=("poisson", "caipi", "rows"), default=["poisson", "caipi"])
    parser.add_argument("--partitions", type=int, default=96)
    parser.add_argument("--columns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="records are added to those that the file holds")
    parser.add_argument("--tell", action="store_true", help="only write what --json holds of the weights beside them")
    options = parser.parse_args()
    if options.tell:
        for name in options.weights:
            tell(name, stored(options.json))
        return
    torch.set_num_threads(options.threads)
    networks = {n: weights.load(n).network for n in options.weights}
    head = {"date": str(date.today()), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "simulated": True}
    for name, noise in itertools.product(options.volume, options.noise):
        full = full_scan(options.data, name, noise, options.partitions)
        for kind, R in itertools.product(options.masks, options.accel):
            common = {"volume": name, "partitions": options.partitions, "noise": noise, "seed": SEED}
            records = [{**common, **row} for row in compared(full, kind, R, networks, options.columns)]
            for r in records:
                print(
                    f"{name:10} noise {noise:g} {kind:8} R = {R} ({r['effective']:.2f}) {r['method']:24} "
                    f"{r['psnr']:6.2f} dB / {r['ssim']:.4f}", flush=True,
                )  # fmt: skip
            if options.json:
                store(options.json, records, CASE, head)


if __name__ == "__main__":
    main()
