"""Which image of a network is better: that of the data as they are, or without the object's phase?

    python bench/phases.py --set large --seeds 3,4,5       # three minutes of one core for each large slice, see `SETS`
    python bench/phases.py --set scenes faults raw
    python bench/phases.py --table                         # from what was measured, without measuring

`plain` is the network's image, `rephased` the one with the phase of the classical image x₀ in the coils' maps
(`recon.nets.rephased`), `smooth w` that with the phase of x₀ after a Gaussian of w pixels; `mean` is the mean of plain
and rephased, `local t` the rephased one in windows whose ratio is above t, and plain elsewhere. Each, and `cs`, is
compared with the full scan without noise if that is known: PSNR, SSIM, and the largest ratio of a window's error to
that of `cs` (`invented`, see `large`). SIMULATED scans of validation bodies by the simulator of the gallery, but for
`raw`: slices of 0.055 T, one channel, of `validation`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import gallery
import large
import numpy as np
import records
import torch
from gallery_scans import Scene, acquired
from numpy.typing import NDArray
from torch import Tensor

from recon import metrics
from recon.data import Measurement
from recon.learn import synth, volumes
from recon.mri import methods
from recon.nets import rephased, unrolled, weights
from recon.operators.sense import Sense
from recon.recipe import Solve

OUT = Path(__file__).parent / "results/phases.json"
CASE = ("set", "case", "seed", "network", "image")
WIDTHS, LIMITS = (2.0, 5.0), (2.0, 3.0, 6.0)
LARGE = Scene(room=(1.18, 1.18), noise=0.005, R=4, acs=24)
SCENE = Scene(shape=(256, 256), room=(1.18, 1.18))
#: Scans by set: name and scene.
SETS: dict[str, dict[str, Scene]] = {
    "large": {
        f"{array} {phase} {n} R = {R}, {body}": replace(
            LARGE, shape=(n, n), array="ring" if array == "ring" else "", phase=phase, R=R, acs=24 if R == 4 else 16,
            body=body,
        )
        for (array, phase, n, R), body in itertools.product(
            (
                ("ring", "susceptibility", 480, 4), ("ring", "susceptibility", 320, 4), ("loops", "smooth", 480, 8),
                ("ring", "susceptibility", 320, 8), ("loops", "susceptibility", 480, 4), ("ring", "smooth", 320, 4),
                ("ring", "susceptibility", 400, 4),
            ),
            ("T2", "tumour", "T1 contrast"),
        )
    },
    "scenes": {
        f"{phase} R = {R}, noise {noise:g}, {body}": replace(
            SCENE, phase=phase, R=R, acs=24 if R == 4 else 16, noise=noise, body=body
        )
        for R, (phase, noise), body in itertools.product(
            (4, 8),
            (("smooth", 0.005), ("smooth", 0.03), ("susceptibility", 0.01), ("fat and water", 0.01), ("steep", 0.01)),
            ("T1", "knee"),
        )
    },
    "faults": {
        fault: replace(SCENE, fault=fault, acs=0 if fault.startswith("calibration") else 24, body="T2")
        for fault in (
            "motion in the middle of the scan", "motion between shots", "ghost", "phase drifts", "rows one off",
            "spike", "calibration before the patient moved", "phase wanders 12°",
        )
    },
}  # fmt: skip
RAW = 24


def images(m: Measurement, name: str) -> dict[str, Tensor]:
    """The images (1, 1, y, x) of a slice by name; see the module."""
    network = weights.load(name).network
    x0 = unrolled.classical(m, network.shape.start)
    plain = unrolled.reconstruct(network, m, start=x0)
    found = {"cs": methods.solve("cs", m, Solve()), "start": x0, "plain": plain}
    for w in (0.0, *WIDTHS):
        phase = _smoothed(x0, w) if w else x0
        found[f"smooth {w:g}" if w else "rephased"] = rephased.image(network, m, x0, phase=phase)
    other = found["rephased"]
    found["mean"] = (plain + other) / 2
    for limit in LIMITS:
        found[f"local {limit:g}"] = rephased.mixed(plain, other, x0, limit)[0]
    return found


def _smoothed(x: Tensor, width: float) -> Tensor:
    ky, kx = (torch.fft.fftfreq(n) for n in x.shape[-2:])
    w = torch.exp(-2 * (torch.pi * width) ** 2 * (ky[:, None] ** 2 + kx**2))
    return torch.fft.ifft2(torch.fft.fft2(x) * w)


def scored(
    found: Mapping[str, Tensor], noisy: NDArray[np.float64], clean: NDArray[np.float64], body: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Scores of each image."""
    errors, out = {}, []
    for name, t in found.items():
        x = t.abs().reshape(t.shape[-2:]).double().numpy()
        errors[name] = metrics.best_scale(x, clean, mask=body) * x - clean
        invented, contrast = large.local(errors[name], errors["cs"], clean, body)
        told = {"invented": round(invented, 2), "contrast": round(contrast, 2)}
        out.append({"image": name, **gallery.judged(x, noisy, clean, body), **told})
    return out


def simulated(scene: Scene, seed: int, name: str, folder: Path) -> list[dict[str, Any]]:
    """A record of each image of a scene."""
    made = acquired(scene, seed, folder)
    m = large.measurement(made.scan)
    found = images(m, name)
    return _told(m, found, scored(found, *gallery.reference(made)))


def raw(seed: int, name: str, sources: volumes.Sources) -> list[dict[str, Any]]:
    """A record of each image of a raw slice of one channel, against the full scan with its noise."""
    e = synth.example(700_000_100 + seed, sources, synth.Settings(raw=1.0, planar=0.0, partial=0.0))
    A = e.measurement.A
    assert isinstance(A, Sense)
    mask = A.mask.reshape(1, 1, *A.mask.shape) if A.mask.ndim == 2 else A.mask
    m = replace(e.measurement, y=e.measurement.y[None], A=Sense(A.maps[None], mask[None], A.axes))
    full = e.full.abs().reshape(e.full.shape[-2:]).double().numpy()
    found = images(m, name)
    return _told(m, found, scored(found, full, full, metrics.body(full)))


def _told(m: Measurement, found: Mapping[str, Tensor], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with the ratio of the test and the residuals."""
    ratio = round(rephased.mixed(found["plain"], found["rephased"], found["start"], 1e9)[1][0], 2)
    power = [float(((m.A(found[r["image"]]) - m.y) * (m.y != 0)).abs().square().sum()) for r in rows]
    count = 2 * m.sigma**2 * int((m.y != 0).sum())
    return [{**r, "rephased": ratio, "residual": round(p / count, 4)} for r, p in zip(rows, power)]


#: Images of the table in docs/trust-numbers.md.
SHOWN = ("plain", "rephased", "smooth 2", "mean", "local 6", "local 3")


def kind(r: Mapping[str, Any]) -> str:
    """The kind of a record's scan: large ones by array, phase, matrix and R, the scenes by R, all others by set."""
    about = str(r["case"]).split(",")[0]
    known = {"large": about, "scenes": f"scenes R = {about.rpartition('R = ')[2]}"}
    return known.get(r["set"], r["set"])


def table(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each kind of scan: how far the images differ, and the gain of each over `cs` and its worst window."""
    scans: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for r in found:
        scans.setdefault((r["network"], kind(r), r["case"], r["seed"]), {})[r["image"]] = r
    groups: dict[tuple[Any, ...], list[dict[str, Mapping[str, Any]]]] = {}
    for key, rows in scans.items():
        groups.setdefault(key[:2], []).append(rows)
    yield "| scans | slices | ratio | " + " | ".join(SHOWN) + " |"
    yield "|---" * (3 + len(SHOWN)) + "|"
    for (_, about), some in sorted(groups.items()):
        ratios = [r["plain"]["rephased"] for r in some]
        yield (
            f"| {about} | {len(some)} | {min(ratios):.1f} to {max(ratios):.1f} | "
            + " | ".join(_cell([(r["cs"], r[image]) for r in some]) for image in SHOWN)
            + " |"
        )


def _cell(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> str:
    gains = [r["psnr_clean"] - cs["psnr_clean"] for cs, r in pairs]
    worst = max(r["invented"] for _, r in pairs)
    return f"{np.mean(gains):+.1f} ({min(gains):+.1f}), {worst:.1f}".replace("-", "−")


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--set", nargs="+", default=[*SETS, "raw"], choices=[*SETS, "raw"])
    parser.add_argument("--cases", nargs="+", default=[""], help="only those whose name holds one of these words")
    parser.add_argument("--network", default="mri-base")
    parser.add_argument("--seeds", default="3", help="numbers with commas; raw slices are 24 for each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    head = {"machine": platform.machine(), "date": str(date.today())}
    todo: list[tuple[str, str, int]] = []
    for seed in map(int, options.seeds.split(",")):
        todo += [
            (s, case, seed) for s in options.set for case in SETS.get(s, {}) if any(w in case for w in options.cases)
        ]
        todo += [("raw", "0.055 T", RAW * seed + i) for i in range(RAW * ("raw" in options.set))]
    raws = "raw" in options.set and not options.table
    sources = volumes.read(options.data / "validation") if raws else None
    have = {tuple(r[k] for k in CASE[:-1]) for r in records.stored(options.json)}
    for of, case, seed in [] if options.table else todo:
        if (of, case, seed, options.network) in have:
            continue
        begun = time.process_time()
        if sources and of == "raw":
            made = raw(seed, options.network, sources)
        else:
            made = simulated(SETS[of][case], seed, options.network, options.data / "validation")
        about = {"set": of, "case": case, "seed": seed, "network": options.network}
        made = [{**about, **r} for r in made]
        records.store(options.json, made, CASE, head)
        print(f"{time.process_time() - begun:.0f} s, seed {seed}", *table(made), sep="\n", flush=True)
    if options.table:
        print(*table(records.stored(options.json)), sep="\n")


if __name__ == "__main__":
    main()
