"""When a network draws structures that do not exist: size of the matrix, coil array and phase of the object, one at a
time.

    python bench/large.py                                   # one object, 48 scans: twenty minutes of one core
    python bench/large.py --sizes 480 --accel 3 8 --arrays ring --phases susceptibility
    python bench/large.py --table                           # from what was measured, without measuring
    python bench/large.py --tell                            # writes phases.json beside the networks

SIMULATED scans by the simulator of the gallery (`gallery_scans`), which is independent of the training of networks: one
object at every size, in the same field of view. `ring` is an array whose coils tell aliases apart badly,
`susceptibility` a phase with jumps where tissue meets air. Of windows of 12 × 12 pixels whose error is above 2 % of the
peak, against the full scan without noise, `invented` is the largest ratio to the error of `cs`, and `contrast` the
largest ratio to the standard deviation of the reference there: above 1 a window holds more error than structure.

`held_out` is a test that was tried and does not detect it: a tenth of the lines outside the ACS block is withheld, and
the number says by how many decibels the network predicts them better than its start.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import gallery
import numpy as np
import records
import torch
from gallery_scans import Scene, acquired
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from recon import metrics, pipeline
from recon.data import Measurement, RawScan
from recon.io.atomic import atomic_file
from recon.mri import cartesian
from recon.nets import unrolled, weights
from recon.nets.rephased import LARGE
from recon.operators.sense import Sense
from recon.recipe import Recipe, Trust
from recon.solve.rows import block

OUT = Path(__file__).parent / "results/large.json"
CASE = ("array", "phase", "size", "R", "acs", "iterations", "body", "seed", "method")
METHODS = ("cs", "mri-base", "mri-small")
WINDOW, SEEN, FAR = 12, 0.02, 3.0
#: Contrast of the reference, as a share of the peak, below which a window is homogeneous.
FLAT = 0.005
#: Share of the lines outside the ACS block that is withheld.
WITHHELD = 0.1
Floats = NDArray[np.float64]


def local(error: Floats, beside: Floats, reference: Floats, body: NDArray[np.bool_]) -> tuple[float, float]:
    """Largest ratio of an image's error (y, x) to another's, and to the reference's contrast, over windows."""
    top = float(reference.max())
    mine, other = (np.sqrt(uniform_filter(e**2, WINDOW).clip(0)) for e in (error, beside))
    mean = uniform_filter(reference, WINDOW)
    contrast = np.sqrt((uniform_filter(reference**2, WINDOW) - mean**2).clip(0))
    seen = body & (mine > SEEN * top)
    if not seen.any():
        return 0.0, 0.0
    over, beyond = mine[seen] / other[seen].clip(1e-6 * top), mine[seen] / contrast[seen].clip(FLAT * top)
    return float(over.max()), float(beyond.max())


def measurement(scan: RawScan) -> Measurement:
    """The measurement of the slice of a scan, as networks get it."""
    job = pipeline.prepare(scan, Recipe(), torch.device("cpu"), None, 0)
    m = cartesian.measurements(job, 1)[0]
    A = m.A
    assert isinstance(A, Sense)
    return replace(m, y=m.y[None], A=Sense(A.maps[None], A.mask[None], A.axes))


def held_out(name: str, m: Measurement, seed: int) -> float:
    """By how many decibels a network predicts withheld lines better than its start, without their noise."""
    A, network = m.A, weights.load(name).network
    assert isinstance(A, Sense)
    mask = A.mask.reshape(-1) > 0
    _, inner = block(mask[None])
    outer = np.array([k for k in torch.nonzero(mask).flatten().tolist() if not inner.start <= k < inner.stop])
    groups = np.array_split(outer, max(4, round(WITHHELD * len(outer))))
    held = np.random.default_rng(seed).integers(0, 1 << 30, len(groups))
    rows = [int(g[h % len(g)]) for g, h in zip(groups, held)]
    kept = A.mask.clone()
    kept[..., rows, :] = 0
    rest, whole = replace(m, y=m.y * kept, A=replace(A, mask=kept)), replace(A, mask=torch.ones_like(A.mask))
    start = unrolled.classical(rest, network.shape.start)
    x = unrolled.reconstruct(network, rest, start=start)
    noise = 2 * m.sigma**2 * m.y[..., rows, :].numel()
    mine, other = (float((whole(t) - m.y)[..., rows, :].abs().square().sum()) - noise for t in (x, start))
    return 10 * math.log10(max(other, 1e-9) / max(mine, 1e-9))


def converged(name: str, m: Measurement, iterations: int) -> Floats:
    """The magnitude (y, x) of a network whose data consistency uses this many iterations."""
    network = weights.load(name).network
    start = unrolled.classical(m, network.shape.start)
    network.shape = replace(network.shape, iterations=iterations)
    return np.asarray(unrolled.reconstruct(network, m, start=start).abs().reshape(m.y.shape[-2:]), np.float64)


def measured(scene: Scene, seed: int, folder: Path, iterations: int = 0) -> list[dict[str, Any]]:
    """A record of each method on one scan, whatever the reasons against it; 0 means data consistency as trained."""
    made = acquired(scene, seed, folder)
    noisy, clean, body = gallery.reference(made)
    head = {
        "array": scene.array or "loops", "phase": scene.phase, "size": scene.shape[0], "R": scene.R, "body": scene.body,
        "acs": scene.acs, "iterations": iterations, "seed": seed, "effective": round(made.effective, 3),
        "date": str(date.today()),
    }  # fmt: skip
    m = measurement(made.scan)
    found: list[dict[str, Any]] = []
    cs: Floats | None = None
    for method in METHODS:
        image = pipeline.reconstruct(made.scan, gallery.recipe(method), device="cpu")
        x = np.abs(image.data).reshape(-1, *image.data.shape[-2:])[0].astype(np.float64)
        if iterations and method != "cs":
            x = converged(method, m, iterations)
        more = {"held_out": round(held_out(method, m, seed), 3)} if method == "mri-base" else {}
        error = metrics.best_scale(x, clean, mask=body) * x - clean
        cs = error if cs is None else cs
        invented, contrast = local(error, cs, clean, body)
        found.append({
            **head, "method": method, **gallery.judged(x, noisy, clean, body), "invented": round(invented, 2),
            "contrast": round(contrast, 2), **more, "reasons": image.trust.get("reasons", []),
            "evidence": {k: v for k, v in (image.trust.get("items") or [{}])[0].items() if k != "reasons"},
        })  # fmt: skip
    return found


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each array, phase, R and size: gains over `cs` and windows with three times its error."""
    scans: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for r in found:
        scans.setdefault(tuple(r[k] for k in CASE[:-1]), {})[r["method"]] = r
    groups: dict[tuple[Any, ...], list[dict[str, Mapping[str, Any]]]] = {}
    for key, methods in sorted(scans.items(), key=lambda kv: str(kv[0])):
        groups.setdefault(key[:6], []).append(methods)
    return [_line(key, rows) for key, rows in groups.items()]


def doubted(r: Mapping[str, Any]) -> bool:
    """Whether the present limits give a reason against a network's image, or a part of it."""
    others = [reason for reason in r["reasons"] if "without the object's phase" not in reason]
    return bool(others) or (r["evidence"]["rephased"] or 0) > Trust().rephased


def _line(key: tuple[Any, ...], rows: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    array, phase, size, R, acs, n = key
    line = f"{array} {phase} {size} R = {R} ({acs} ACS{f', {n} iterations' if n else ''}): "
    line += f"cs {np.mean([m['cs']['psnr_clean'] for m in rows]):.1f} dB"
    for name in METHODS[1:]:
        mine = [m[name] for m in rows]
        gains = [m[name]["psnr_clean"] - m["cs"]["psnr_clean"] for m in rows]
        far = [r for r in mine if r["invented"] >= FAR]
        ratios, held = [r["evidence"]["rephased"] for r in mine], [r.get("held_out") for r in mine]
        alone = "" if None in ratios else f", rephased {min(ratios):.1f} to {max(ratios):.1f}"
        if None not in held:
            alone += f", held out {min(held):+.1f} to {max(held):+.1f}"
        line += (
            f" | {name} {min(gains):+.1f} to {max(gains):+.1f}, windows up to {max(r['invented'] for r in mine):.1f} "
            f"times cs and {max(r['contrast'] for r in mine):.1f} times the contrast, {len(far)} of {len(rows)} beyond "
            f"{FAR:g}, {sum(not doubted(r) for r in far)} of them without a warning, "
            f"{sum(map(doubted, mine))} with a warning{alone}"
        )
    return line


def tell(name: str, found: Sequence[Mapping[str, Any]]) -> None:
    """Write beside the weights in how many of the large slices structures were drawn that do not exist."""
    mine = [r["invented"] for r in found if r["method"] == name and r["size"] >= LARGE and not r["iterations"]]
    told = {
        "slices": len(mine), "drawn": sum(v >= FAR for v in mine), "most": max(mine), "date": str(date.today()),
        "data": f"simulated slices of {LARGE} phase encodes and more, several coils",
        "weights_sha256": weights.load(name).sha256,
    }  # fmt: skip
    with atomic_file(weights.find(name) / "phases.json") as temporary:
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="ascii")
    print(json.dumps(told))


def main() -> None:
    """Measure, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 320, 400, 480])
    parser.add_argument("--arrays", nargs="+", default=["loops", "ring"])
    parser.add_argument("--phases", nargs="+", default=["smooth", "susceptibility"])
    parser.add_argument("--bodies", nargs="+", default=["T2", "tumour", "T1 contrast"])
    parser.add_argument("--accel", type=int, nargs="+", default=[4])
    parser.add_argument("--acs", type=int, default=0, help="0: 24, and 16 beyond R = 4")
    parser.add_argument("--iterations", type=int, default=0, help="of each data consistency; 0: as trained")
    parser.add_argument("--noise", type=float, default=0.005)
    parser.add_argument("--seeds", default="0", help="numbers with commas")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--tell", action="store_true", help="write phases.json beside each network, measure nothing")
    parser.add_argument("--json", type=Path, default=OUT)
    options = parser.parse_args()
    if options.tell:
        for name in METHODS[1:]:
            tell(name, records.stored(options.json))
        return
    torch.set_num_threads(options.threads)
    head = {"machine": platform.machine(), "simulated": True, "noise": options.noise}
    todo = itertools.product(
        (int(s) for s in options.seeds.split(",")), options.accel, options.arrays, options.phases, options.sizes,
        options.bodies,
    )  # fmt: skip
    for seed, R, array, phase, size, body in [] if options.table else todo:
        scene = Scene(
            body=body, phase=phase, shape=(size, size), room=(1.18, 1.18), noise=options.noise, R=R,
            acs=options.acs or (24 if R <= 4 else 16), array=array if array != "loops" else "",
        )  # fmt: skip
        made = measured(scene, seed, options.data / "validation", options.iterations)
        records.store(options.json, made, CASE, head)
        print(body, seed, table(made)[0], flush=True)
    print("\n".join(table(records.stored(options.json))))


if __name__ == "__main__":
    main()
