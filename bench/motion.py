"""Whether a patient who moved once during a scan, or since its calibration lines, is detected, without false alarms.

    python bench/motion.py --slices 30                         # a quarter of an hour of one core
    python bench/motion.py --only moved --first 30 --slices 17
    python bench/motion.py --raw --part public_test            # good raw scans alone: false alarms
    python bench/motion.py --table                             # from what was measured

SIMULATED scans of the gallery's bodies (8 to 16 coils, R 2 to 6, all kinds of line masks, noise 0.003 to 0.05, maps by
ESPIRiT). "Moved": lines are acquired in the order of ky, and from one of them on the object is at another position
relative to the coils. "Calibrated": equispaced lines without ACS, and calibration lines of the object at another
position, with its coils (a flexible array, another field of view) or relative to them, or with another contrast.
"Loses" is the loss of the classical image, the median of decibels. The limits for shifts were set on scenes 0 to 29,
those for rotations on 30 to 36. "Raw" are slices of one channel with lines left out and, of `public_test`, the 4-coil
brain with 34 masks. See `recon.solve.halves`, `position` and `detail`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import platform
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import gallery_objects as objects
import numpy as np
import torch
from records import Record, store, stored
from torch import Tensor
from trust import psnr

from recon import masks, pipeline, trust
from recon.accuracy.undersample import Kind, mask_of, undersample
from recon.data import Measurement
from recon.io.read import read
from recon.learn import synth, volumes
from recon.nets import unrolled
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.prepare import compress
from recon.prepare.espirit import espirit
from recon.recipe import Trust
from recon.solve import detail, halves, position

OUT = Path(__file__).parent / "results/motion.json"
CASE = ("seed", "fault")
BODIES = (*objects.VOLUMES, "ellipses", "rods", "text")
KINDS: tuple[Kind, ...] = ("equispaced", "variable-density", "random")
ROOM = 1.25
#: Where the motion begins, as a share of the rows; its voxels and degrees.
WHEN = {"in the middle": 0.5, "after two thirds": 2 / 3}
MOVES = ((1, 0), (3, 0), (6, 0), (0, 3), (0, 5), (0, 8), (0, 15), (3, 5))


@dataclass(frozen=True)
class Scene:
    """Settings of a simulated scan."""

    seed: int
    body: str
    phase: str
    n: int
    coils: int
    R: float
    acs: int
    noise: float
    mask: str


def scene(seed: int) -> Scene:
    """The scene of a seed."""
    rng = np.random.default_rng([seed, 77])
    sizes, coils, R, acs = (
        rng.choice([160, 192, 224]),
        rng.choice([8, 12, 16]),
        rng.integers(2, 7),
        rng.choice([16, 24]),
    )
    noise, kind = (
        math.exp(rng.uniform(math.log(0.003), math.log(0.05))),
        rng.choice(["equispaced", "variable", "random"]),
    )
    phase = rng.choice(["smooth", "smooth", "steep", "fat and water"])
    return Scene(
        seed, BODIES[seed % len(BODIES)], str(phase), int(sizes), int(coils), float(R), int(acs), noise, str(kind)
    )


def kspace(
    s: Scene, folder: Path, move: Sequence[float] = (0, 0, 0), coils: bool = False, grey: str = "plain"
) -> Tensor:
    """Noise-free k-space (coil, ky, kx) of a body shifted and rotated, with its coils or relative to them."""
    fine = 2 * round(0.75 * s.n)
    axis, voxel, angle = ROOM * (2 * torch.arange(fine) / fine - 1), 2 * ROOM / s.n, math.radians(move[2])
    v, u = (t.contiguous() for t in torch.broadcast_tensors(axis[:, None], axis[None]))
    y, x = v - move[0] * voxel, u - move[1] * voxel
    y, x = y * math.cos(angle) - x * math.sin(angle), x * math.cos(angle) + y * math.sin(angle)
    m = objects.grey(grey, objects.body(s.body, s.seed, folder)(x, y))
    image = torch.polar(m, objects.phase(s.phase, s.seed, x, y, m))
    k = fft(objects.maps(s.coils, s.seed, *((x, y) if coils else (u, v))) * image, (-2, -1)) * (s.n / fine)
    for axis_ in (-2, -1):
        k = k.narrow(axis_, fine // 2 - s.n // 2, s.n)
    return k.contiguous()


def lines(s: Scene, calibrated: bool) -> Tensor:
    """Measured rows (ky,)."""
    if calibrated:
        return torch.arange(s.n) % int(s.R) == s.seed % int(s.R)
    if s.mask == "equispaced":
        return torch.from_numpy(masks.equispaced((s.n,), int(s.R), s.acs, s.seed))
    return torch.from_numpy(
        {"variable": masks.variable_density, "random": masks.random}[s.mask]((s.n,), s.R, s.acs, s.seed)
    )


def measured(s: Scene, k: Tensor, calibration: Tensor | None) -> tuple[Measurement, Tensor]:
    """The whitened scan of lines k, and the block that calibrates it."""
    generator = torch.Generator().manual_seed(s.seed + 991)

    def noisy(k: Tensor) -> Tensor:
        noise = torch.complex(*(torch.randn(k.shape, generator=generator) for _ in range(2)))
        return (k * (math.sqrt(2) / s.noise) + noise)[:, None]

    full = noisy(k)
    middle = slice(s.n // 2 - s.acs // 2, s.n // 2 + s.acs // 2), slice(s.n // 2 - 12, s.n // 2 + 12)
    block = (full if calibration is None else noisy(calibration))[:, :, middle[0], middle[1]]
    if s.coils > 8:
        matrix = compress.svd(block, virtual=8).matrix
        full, block = compress.compress(matrix, full), compress.compress(matrix, block)
    mask = lines(s, calibration is not None)
    A = Sense(espirit(block, (1, s.n, s.n)).maps[None], mask.float().reshape(1, 1, 1, -1, 1), (-2,))
    return Measurement((ifft(full, (-1,)) * mask[:, None])[None], A, 1.0), block


def looked_at(m: Measurement, block: Tensor | None) -> tuple[dict[str, Any], Tensor]:
    """The results for one measurement, the limits that are exceeded, and its classical image."""
    limits, x = Trust(), unrolled.classical(m, 60)
    h, p, d = halves.compared(m, x)[0], position.compared(m, [block])[0], detail.compared(m, x)[0]
    residual = float(trust.chi2(m, x, torch.Size([1])))
    most = limits.explained * trust.expected(2**0.5 * m.sigma / float(unrolled.size(x, 3)))
    by = {
        "residual": residual > most,
        "halves": h is not None and h.apart > limits.apart and not (m.y.shape[-4] == 1 and h.degrees),
        "position": p is not None and p.elsewhere > limits.elsewhere,
        # With one channel `recon` reports the tests of detail and rotated halves, but does not judge by them.
        "detail": d is not None and m.y.shape[-4] > 1 and (d.gain > limits.moved or abs(d.turned) > limits.turned),
    }  # fmt: skip
    told = {n: asdict(w) if w else None for n, w in (("halves", h), ("position", p), ("detail", d))}
    return {"residual": residual, **told, "by": [name for name, over in by.items() if over]}, x[0]


def scans(s: Scene, folder: Path, only: str = "") -> Iterator[tuple[str, Tensor, Tensor | None, Tensor]]:
    """Name, lines, calibration lines and another truth of every scan of a scene, or only of those that "moved"."""
    rng = np.random.default_rng([s.seed, 5])
    angle, sign = rng.uniform(0, 2 * math.pi), int(rng.choice([-1, 1]))
    good, row = kspace(s, folder), torch.arange(s.n)[:, None]

    def move(voxels: float, degrees: float) -> tuple[float, float, float]:
        return voxels * math.sin(angle), voxels * math.cos(angle), sign * degrees

    yield "none", good, None, good
    for voxels, degrees in MOVES:
        other = kspace(s, folder, move(voxels, degrees))
        for when, share in WHEN.items():
            yield f"moved {when}: {voxels} voxels, {degrees}°", torch.where(row > share * s.n, other, good), None, other
    beyond = (row - s.n // 2).abs() / (s.n // 2)
    for voxels, degrees in ((3, 0), (0, 5)):
        other = kspace(s, folder, move(voxels, degrees))
        name = f"centre first, moved half way out: {voxels} voxels, {degrees}°"
        yield name, torch.where(beyond > 0.5, other, good), None, other
    for power, order in ((2, "centre first"), (3, "in order")):
        bent = torch.polar(torch.ones(s.n, 1), math.pi / 2 * ((row - s.n // 2) / (s.n // 2)) ** power)
        yield f"phase drifts by 90°, {order}", good * bent, None, good
    if only:
        return
    yield "calibrated: none", good, good, good
    yield "calibrated: another contrast", good, kspace(s, folder, grey="inverted"), good
    for voxels in (2, 3, 5, 10):
        yield f"calibrated: {voxels} voxels off", good, kspace(s, folder, move(voxels, 0), coils=True), good
    yield "calibrated: 15° off", good, kspace(s, folder, move(0, 15), coils=True), good
    yield "calibrated: 5 voxels off, another contrast", good, kspace(s, folder, move(5, 0), True, "inverted"), good
    yield "calibrated: 5 voxels beneath the coils", good, kspace(s, folder, move(5, 0)), good


def simulated(s: Scene, folder: Path, only: str = "") -> list[dict[str, Any]]:
    """The records of a scene."""
    found, best, truths = [], dict[bool, float](), list[Tensor]()
    for name, k, calibration, other in scans(s, folder, only):
        m, block = measured(s, k, calibration)
        told, x = looked_at(m, None if calibration is None else block)
        truths = [*truths[:1], ifft(other, (-2, -1)).abs().square().sum(0).sqrt()[None] * (math.sqrt(2) / s.noise)]
        # A patient who moved may be shown at either position.
        score = max(psnr(x, t) for t in truths)
        best.setdefault(calibration is not None, score)
        found.append({**asdict(s), "fault": name, **told, "loses": round(best[calibration is not None] - score, 3)})
    return found


def raw(folder: Path, slices: int) -> list[dict[str, Any]]:
    """Records of good raw slices of one channel."""
    sources, found = volumes.read(folder), []
    for seed in range(slices):
        e = synth.example(650_000_000 + seed, sources, synth.Settings(raw=1.0))
        A = e.measurement.A
        assert isinstance(A, Sense)
        if not torch.isfinite(torch.view_as_real(e.measurement.y)).all():
            continue  # a slice of zeros
        m = Measurement(e.measurement.y[None], Sense(A.maps[None], A.mask.reshape(1, 1, 1, -1, 1), A.axes), 1.0)
        found.append({"seed": seed, "fault": f"none, raw, {folder.name}", **looked_at(m, None)[0], "loses": 0.0})
    return found


def brain(folder: Path) -> list[dict[str, Any]]:
    """Records of a good raw brain of several coils, with masks of all kinds."""
    full, found = read(folder / "gpunufft_brain_t2_4ch.npz", axes=("coil", "y", "x")), []
    rows = full.encodings[0].encoded_matrix[1]
    for seed, (kind, R, acs) in enumerate(itertools.product(KINDS, (1.5, 2, 3, 4, 6, 8), (16, 24))):
        if kind == "equispaced" and R != int(R):
            continue
        fewer = undersample(full, mask_of(kind, (1, rows), R, acs, seed)).scan
        (m,) = pipeline.measurements(fewer, device="cpu")
        found.append({"seed": seed, "fault": f"none, raw, brain, {folder.name}", **looked_at(m, None)[0], "loses": 0.0})
    return found


def table(records: Sequence[Record]) -> list[str]:
    """One line for each fault."""
    out = []
    for fault in dict.fromkeys(r["fault"] for r in records):
        mine = [r for r in records if r["fault"] == fault]
        each = ", ".join(f"{w} {sum(w in r['by'] for r in mine)}" for w in ("residual", "halves", "position", "detail"))
        bad = [r for r in mine if r["loses"] > 3]
        out.append(
            f"{fault:48} suspected {sum(bool(r['by']) for r in mine):3} of {len(mine)} ({each}), loses "
            f"{statistics.median(r['loses'] for r in mine):.1f} dB; of those that lose 3 dB "
            f"{sum(bool(r['by']) for r in bad)} of {len(bad)}"
        )
    return out


def main() -> None:
    """Simulate, test, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--part", default="validation", choices=("validation", "public_test"))
    parser.add_argument("--raw", action="store_true", help="raw slices of one channel, for false alarms")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", default="", choices=("moved",), help="leave calibration lines of their own out")
    parser.add_argument("--slices", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    head = {"date": str(date.today()), "machine": platform.machine()}
    if options.raw and not options.table:
        folder = options.data / options.part
        store(options.json, raw(folder, options.slices), CASE, head)
        if options.part == "public_test":
            store(options.json, brain(folder), CASE, head)
    for seed in range(options.first, options.first + options.slices) if not (options.raw or options.table) else ():
        made = simulated(scene(seed), options.data / "validation", options.only)
        store(options.json, made, CASE, head)
        print(seed, [r["fault"] for r in made if r["by"]], flush=True)
    print("\n".join(table(stored(options.json))))


if __name__ == "__main__":
    main()
