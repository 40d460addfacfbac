"""Difficult scans, one thing changed at a time: where is a learned image worse than a classical one, and was it
detected?

    python bench/gallery.py                                # every case, one seed: ten minutes of one core
    python bench/gallery.py --families noise coils --seeds 0,1
    python bench/gallery.py --table                        # from what was measured, without measuring

Scans of validation bodies and drawn phantoms are SIMULATED (`gallery_scans`) and reconstructed with `--method auto`,
with each network, and with `cs` and `sense`. Inside the body, each image is compared with the image of a full scan,
whose coil images are combined with the true maps after the same whitening, with their noise (`psnr`) and without
(`psnr_clean`). `patch` is the largest root mean square error of a window of 16 × 16 pixels, in per cent of the peak. A
learned image is bad if it was shown although it is worse than that of `cs`, compared with the full scan with its noise:
by more than 0.2 dB, or in its worst window by more than a quarter and by more than a hundredth of the peak.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import records
import torch
from gallery_cases import CASES
from gallery_scans import Acquired, Scene, acquired
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from recon import metrics, pipeline
from recon import recipe as recipes
from recon.data import ReconError
from recon.recipe import Recipe

METHODS = ("cs", "sense", "auto", "mri-base", "mri-small")
OUT = Path(__file__).parent / "results/gallery.json"
#: Decibels, and share and per cent of the peak of the worst window, by which a learned image must be worse to count.
WORSE, WINDOW, PEAK = 0.2, 0.25, 1.0
Floats = NDArray[np.float64]


def recipe(method: str) -> Recipe:
    """The default recipe with a method, or with a network by its name, whose image is always shown."""
    if method.startswith("mri-"):
        return recipes.parse({"solve": {"method": "unrolled", "weights": method}, "trust": {"fallback": False}})
    return recipes.parse({"solve": {"method": method}})


def reference(made: Acquired) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Magnitudes of a full scan, with its noise and without, and the body."""
    job = pipeline.prepare(made.scan, Recipe(), torch.device("cpu"), None, 0)
    clean, noisy = (torch.tensordot(job.whitening.matrix, t, 1) for t in (made.clean, made.noisy))
    size = clean.abs().square().sum(0).sqrt()
    # In air there is no map to combine with.
    phase = clean / size.clamp_min(1e-6 * float(size.max()) + 1e-30)
    x = (phase.conj() * noisy).sum(0).abs()
    r, n = (np.asarray(t, np.float64) for t in (size, x))
    return n, r, metrics.body(r) if r.any() else np.ones(r.shape, bool)


def judged(x: Floats, noisy: Floats, clean: Floats, body: NDArray[np.bool_]) -> dict[str, float]:
    """Measures of an image, brought to the scale of the reference."""
    out: dict[str, float] = {}
    top = float(clean.max())
    if top == 0:
        return out
    for name, r in (("", noisy), ("_clean", clean)):
        y = metrics.best_scale(x, r, mask=body) * x
        error = (y - r) * body
        out |= {
            f"psnr{name}": metrics.psnr(y, r, data_range=top, mask=body),
            f"ssim{name}": metrics.ssim(y, r, data_range=top, mask=body),
            f"patch{name}": 100 * float(np.sqrt(uniform_filter(error**2, 16).max())) / top,
        }
    return {k: round(v, 4) for k, v in out.items()}


def record(
    family: str, case: str, seed: int, scene: Scene, folder: Path, keep: dict[str, Floats]
) -> list[dict[str, Any]]:
    """One record for each method; `keep` receives the images."""
    made = acquired(scene, seed, folder)
    head = {"family": family, "case": case, "seed": seed, "R": round(made.effective, 2), "date": str(date.today())}
    found: list[dict[str, Any]] = []
    truth: tuple[Floats, Floats, NDArray[np.bool_]] | None = None
    for method in METHODS:
        started = time.process_time()
        if found and method == found[-1].get("ran") and learned(found[-1]):
            keep[method] = keep["auto"]  # which has shown it
            found.append({**found[-1], "method": method})
            continue
        try:
            truth = truth or reference(made)
            image = pipeline.reconstruct(made.scan, recipe(method), device="cpu")
        except ReconError as e:
            found.append({**head, "method": method, "failed": str(e)})
            continue
        x = np.abs(image.data).reshape(-1, *image.data.shape[-2:])[0].astype(np.float64)
        keep |= {method: x, "reference": truth[0]}
        evidence = {k: v for k, v in (image.trust.get("items") or [{}])[0].items() if k != "reasons"}
        found.append({
            **head, "method": method, **judged(x, *truth), "why": image.provenance["why"],
            "ran": image.provenance.get("weights", image.provenance["method"]),
            "reasons": image.trust.get("reasons", []), "evidence": evidence,
            "warnings": [n for n in image.notes if n.startswith("warning")],
            "cpu_s": round(time.process_time() - started, 2),
        })  # fmt: skip
    return found


def learned(r: Mapping[str, Any]) -> bool:
    """Whether the image of a record is a network's."""
    return str(r.get("ran", "")).startswith("mri-") and not r["reasons"]


def bad(r: Mapping[str, Any], beside: Mapping[str, Any]) -> bool:
    """Whether a learned image was shown that is worse than the classical one."""
    return learned(r) and worse(r, beside)


def worse(r: Mapping[str, Any], beside: Mapping[str, Any], clean: str = "") -> bool:
    """Whether an image is worse than another, against the full scan, or with `clean="_clean"` that without noise."""
    if "psnr" not in r or "psnr" not in beside:
        return False
    mine, other = r[f"patch{clean}"], beside[f"patch{clean}"]
    far = mine > (1 + WINDOW) * other and mine > other + PEAK
    return bool(r[f"psnr{clean}"] < beside[f"psnr{clean}"] - WORSE or far)


def grouped(found: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, int], dict[str, Mapping[str, Any]]]:
    """Records of a scan by method."""
    out: dict[tuple[str, str, int], dict[str, Mapping[str, Any]]] = {}
    for r in found:
        out.setdefault((r["family"], r["case"], r["seed"]), {})[r["method"]] = r
    return out


def summary(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """A line on a scan: the classical PSNR and the gain of each network, in brackets if its image was not shown."""
    cs = methods["cs"]
    if "psnr" not in cs:
        return cs.get("failed", "nothing to compare with")[:100]
    parts = [f"cs {cs['psnr']:5.1f} ({cs['psnr_clean']:5.1f}) patch {cs['patch']:4.1f}"]
    for name in METHODS[1:]:
        r = methods[name]
        if "psnr" not in r:
            parts.append(f"{name} failed")
            continue
        gain = f"{r['psnr'] - cs['psnr']:+.1f} ({r['psnr_clean'] - cs['psnr_clean']:+.1f}) {r['patch']:4.1f}"
        mark = " BAD" if bad(r, cs) else " gave way" if r["reasons"] else ""
        parts.append(f"{name}{'=' + r['ran'] if name == 'auto' else ''} {gain}{mark}")
    return " | ".join(parts)


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--families", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--cases", nargs="+", default=[""], help="only those whose name holds one of these words")
    parser.add_argument("--seeds", default="0", help="numbers with commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seeds = tuple(int(s) for s in options.seeds.split(","))
    head = {"machine": platform.machine(), "simulated": True}
    todo = [(f, c, s) for f in options.families for c in CASES[f] if any(w in c for w in options.cases) for s in seeds]
    for family, case, seed in [] if options.table else todo:
        made = record(family, case, seed, CASES[family][case], options.data / "validation", {})
        records.store(options.json, made, ("family", "case", "seed", "method"), head)
        print(f"{family}: {case}, {seed}: {summary(grouped(made)[family, case, seed])}", flush=True)
    wanted = set(todo)
    scans = {k: m for k, m in grouped(records.stored(options.json)).items() if k in wanted}
    for name in ("mri-small", "mri-base", "auto"):
        mine = [m for m in scans.values() if "psnr" in m[name] and "psnr" in m["cs"]]
        shown = [m for m in mine if learned(m[name])]
        wrong = [k for k, m in scans.items() if bad(m[name], m["cs"])]
        print(f"{name}: {len(shown)} of {len(mine)} images learned, {len(wrong)} of them bad: {wrong}")


if __name__ == "__main__":
    main()
