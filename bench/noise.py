"""How close an estimate of noise without noise lines comes to the truth.

    python bench/noise.py                          # simulated, three minutes of one core
    python bench/noise.py --small                  # 64 and 80 rows, bodies that end beside the field of view
    python bench/noise.py --raw                    # single-channel raw scans at 0.055 T, by the corners of their images
    python bench/noise.py --images                 # what it costs to tell uneven noise by its quietest part

SIMULATED k-space of the gallery's bodies, 1 to 32 channels with different, correlated noise, at signal-to-noise ratios
of 3 to 2,000 (bright voxel, one channel), with and without readout oversampling, a sixth of the rows or of the readout
missing (partial Fourier), every second line or all. The noise is white; or uneven over k-space through filters along
the readout ("kx") or along both axes ("both"), as the raw scans show it; or white and reduced beside the field of view
by the receiver's filter ("receiver": the power follows exp(-2.5 u⁴) over the readout's band, as on Siemens scanners;
the truth is the mean over the field of view). The table shows, over the combinations of channels, the smallest and the
largest noise after whitening, where 1 is right, and the mean. For a raw scan it is the estimated noise over that in the
corners of the images of all its lines, by the median, which a ghost does not change.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gallery_objects as objects
import numpy as np
import torch
from records import Record, store, stored
from torch import Tensor
from trust import psnr

from recon import pipeline
from recon.accuracy.undersample import mask_of, undersample
from recon.io.arrays import scan_from_array
from recon.operators import fft, ifft
from recon.prepare import noise
from recon.prepare.noise import estimate
from recon.recipe import parse

OUT = Path(__file__).parent / "results/noise.json"
CASE = ("scan", "channels", "snr", "noise", "lines", "rows", "oversampling")
ROWS, COLUMNS = 160, 192
#: Rows of small scans, and how large their bodies are along the readout: parts of the band of twice the field of view.
SMALL, REACH = (64, 80), (0.6, 0.7, 0.8)
CHANNELS, SNR = (1, 2, 4, 8, 16, 32), (3, 10, 30, 100, 500, 2000)
#: Distribution of the noise over k-space, which lines there are, how many of the rows or the readout, and readout
#: oversampling.
KINDS = (
    ("white", "all", "all", 1), ("white", "half", "all", 1), ("white", "all", "all", 2), ("white", "half", "all", 2),
    ("white", "all", "partial ky", 1), ("white", "all", "partial kx", 1), ("kx", "all", "all", 1),
    ("kx", "half", "all", 1), ("both", "all", "all", 1), ("both", "half", "all", 1), ("kx", "all", "all", 2),
    ("receiver", "all", "all", 2), ("receiver", "half", "all", 2),
)  # fmt: skip


def scan(
    body: str, channels: int, seed: int, oversampling: int, folder: Path, shape: tuple[int, int], reach: float = 0.0
) -> Tensor:
    """Noise-free k-space (ky, channel, kx) of a body, with bright voxels of 1 in the mean channel.

    With `reach` the body spans that part of the readout's band.
    """
    fine = 2 * shape[0]
    y, x = (2.5 * (torch.arange(n) / fine - n / fine / 2) for n in (fine, fine * oversampling))
    x = x / (reach * float(x.abs().max())) if reach else x
    v, u = (t.contiguous() for t in torch.broadcast_tensors(y[:, None], x[None]))
    m = objects.body(body, seed, folder)(u, v)
    image = torch.polar(m, objects.phase("smooth", seed, u, v, m))
    maps = objects.maps(channels, seed, v, u) if channels > 1 else torch.ones(1, *m.shape)
    k = fft(maps * image, (-2, -1))
    rows, columns = shape[0], shape[1] * oversampling
    k = k[:, fine // 2 - rows // 2 :][:, :rows, k.shape[-1] // 2 - columns // 2 :][..., :columns]
    bright = ifft(k, (-2, -1)).abs().square().mean(0).sqrt().flatten().quantile(0.95)
    return (k / bright).transpose(0, 1).contiguous()


def uneven(kind: str, rows: int, columns: int) -> Tensor:
    """Size of the noise over k-space (ky, 1, kx)."""
    x = torch.linspace(1.5, 0.25, columns) if kind in ("kx", "both") else torch.ones(columns)
    y = torch.linspace(-1, 1, rows).square().mul(-1.2).exp() if kind == "both" else torch.ones(rows)
    return (y[:, None] * x)[:, None]


def small(body: str, seed: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The records of small scans of a body that ends beside the field of view."""
    kinds = tuple((kind, "all", "all", 2) for kind in ("white", "receiver"))
    for rows, reach in itertools.product(SMALL, REACH):
        for r in simulated(body, seed, folder, (rows, rows), reach, kinds):
            yield {**r, "rows": f"{rows}, body {reach:g}"}


def simulated(
    body: str, seed: int, folder: Path, size: tuple[int, int] = (ROWS, COLUMNS), reach: float = 0.0,
    kinds: Sequence[tuple[str, str, str, int]] = KINDS,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The records of a body."""
    for channels, oversampling in itertools.product(CHANNELS, sorted({over for *_, over in kinds})):
        k = scan(body, channels, seed, oversampling, folder, size, reach)
        generator = torch.Generator().manual_seed(seed + channels)
        random = torch.view_as_complex(torch.randn(*k.shape, 2, generator=generator))
        mix = torch.diag(torch.linspace(0.7, 1.3, channels) if channels > 1 else torch.ones(1)).to(torch.complex64)
        if channels > 1:
            more = torch.randn(channels, channels, 2, generator=generator)
            mix = mix + 0.3 / math.sqrt(channels) * torch.view_as_complex(more)
        for kind, lines, rows, over in kinds:
            if over != oversampling:
                continue
            keep = torch.ones(size[0], dtype=torch.bool)
            if lines == "half":
                keep = torch.from_numpy(mask_of("equispaced", (1, size[0]), 2, 24, seed)[0])
            shape = uneven(kind, *k.shape[::2])
            columns = slice(k.shape[-1] // 6 if rows == "partial kx" else 0, None)
            keep[: size[0] // 6 if rows == "partial ky" else 0] = False
            level = shape[keep][..., columns].square().mean().sqrt()
            for snr in SNR:
                noisy = (k + mix / snr @ (random * shape))[keep]
                if kind == "receiver":
                    u = torch.linspace(-1, 1, k.shape[-1] + 1)[:-1]
                    noisy = fft(ifft(noisy, (-1,)) * (-1.25 * u**4).exp(), (-1,))
                    level = (-2.5 * u[u.abs() < 1 / over] ** 4).exp().mean().sqrt()
                noisy[..., : columns.start] = 0
                found = estimate(noisy, oversampling=float(over))
                left = found.matrix @ mix * float(level / snr)
                each = torch.linalg.svdvals(left)
                yield {
                    "scan": body, "channels": channels, "snr": snr, "noise": kind, "lines": lines, "rows": rows,
                    "oversampling": over, "told": [float(1 / v) for v in (each.max(), each.min())],
                    "mean": float(1 / each.square().mean().sqrt()),
                }  # fmt: skip


def raw(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of the raw scans of one channel."""
    for path in sorted(folder.glob("bispmri_ulf*.npz")):
        with np.load(path) as held:
            scans = {name: held[name] for name in held.files if held[name].ndim == 3 and np.iscomplexobj(held[name])}
        for (name, k), lines in itertools.product(scans.items(), ("all", "half")):
            full = torch.from_numpy(k)
            ny, nx = full.shape[1:]
            air = ifft(full, (-2, -1))[:, [*range(ny // 8), *range(-(ny // 8), 0)]]
            air = air[..., [*range(nx // 8), *range(-(nx // 8), 0)]]
            truth = float((air.abs().square().median() / (2 * math.log(2))).sqrt())
            keep = torch.from_numpy(mask_of("random", (1, ny), 2, 24, 0)[0]) if lines == "half" else slice(None)
            found = estimate(full[:, keep].flatten(0, 1)[:, None])
            told = 2**0.5 / float(found.matrix.abs()) / truth / 2**0.5
            yield {
                "scan": f"{folder.name} {path.stem} {name}", "channels": 1, "lines": lines, "told": [told, told],
                "mean": told,
            }  # fmt: skip


def images(body: str, seed: int, folder: Path) -> Iterator[str]:
    """Decibels of images of one channel, against the truth and the noisy full scan, with either noise estimate."""
    k = scan(body, 1, seed, 1, folder, (ROWS, COLUMNS))[:, 0]
    truth = ifft(k, (-2, -1)).abs().numpy()
    every = noise.every_line
    for snr, kind in itertools.product((10, 25), ("kx", "both")):
        shape = uneven(kind, *k.shape)[:, 0]
        fresh = torch.randn(*k.shape, 2, generator=torch.Generator().manual_seed(seed))
        noisy = k + torch.view_as_complex(fresh) * shape / shape.square().mean().sqrt() / snr
        full = ifft(noisy, (-2, -1)).abs().numpy()
        mask = mask_of("random", (1, ROWS), 2, 24, 0)
        fewer = undersample(scan_from_array(noisy[None].numpy(), ("coil", "y", "x")), mask).scan
        for method in ("cs", "unrolled"):
            found = []
            for how in (lambda *_: None, every):
                with patch.object(noise, "every_line", how):
                    x = np.abs(pipeline.reconstruct(fewer, parse({"solve": {"method": method}}), device="cpu").data)
                scales = [float((x * ref).sum() / (x * x).sum()) for ref in (truth, full)]
                found.append([psnr(torch.from_numpy(s * x), torch.from_numpy(r[None]))
                              for s, r in zip(scales, (truth, full))])  # fmt: skip
            quietest, all_lines = found
            yield (
                f"{body:12} snr {snr:3} {kind:5} {method:9} by the quietest, by all lines: truth {quietest[0]:.2f}, "
                f"{all_lines[0]:.2f}; noisy full scan {quietest[1]:.2f}, {all_lines[1]:.2f}"
            )


def table(records: Sequence[Record]) -> list[str]:
    """One line for each kind of scan: one channel, and several."""
    out = []
    groups = dict.fromkeys(
        (r.get("noise", "raw"), r["lines"], r.get("rows", ""), r.get("oversampling", ""), r["channels"] > 1)
        for r in records
    )
    for group in groups:
        mine = [
            r for r in records
            if group == (
                r.get("noise", "raw"), r["lines"], r.get("rows", ""), r.get("oversampling", ""), r["channels"] > 1,
            )
        ]  # fmt: skip
        means = sorted(r["mean"] for r in mine)
        out.append(
            f"{'several' if group[-1] else 'one':8}{' '.join(map(str, group[:-1])):28} {len(mine):4} scans: mean "
            f"{means[0]:.2f} to {means[-1]:.2f}, half of them {means[len(mine) // 4]:.2f} to "
            f"{means[-len(mine) // 4]:.2f}; over combinations {min(r['told'][0] for r in mine):.2f} to "
            f"{max(r['told'][1] for r in mine):.2f}"
        )
    return out


def main() -> None:
    """Simulate, estimate, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--raw", action="store_true", help="raw scans of all parts")
    parser.add_argument("--small", action="store_true", help="64 and 80 rows, bodies that end beside the field of view")
    parser.add_argument("--images", action="store_true", help="reconstruct, and store nothing")
    parser.add_argument("--bodies", nargs="+", default=["T1 contrast", "ellipses"])
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.images:
        for seed, body in enumerate(("T1 contrast", "tumour")):
            for line in images(body, seed, options.data / "validation"):
                print(line, flush=True)
        return
    head = {"date": str(date.today()), "machine": platform.machine()}
    made: list[Record] = []
    if options.raw:
        made = [r for part in ("train", "validation", "public_test") for r in raw(options.data / part)]
        for r in made:
            print(f"{r['scan']:58} {r['lines']:5} {r['mean']:.2f}", flush=True)
    else:
        for seed, body in enumerate(options.bodies):
            made += (small if options.small else simulated)(body, seed, options.data / "validation")
    store(options.json, made, CASE, head)
    print("\n".join(table(stored(options.json))))


if __name__ == "__main__":
    main()
