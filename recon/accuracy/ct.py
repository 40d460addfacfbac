"""The benchmark of CT denoisers: noise of a lower dose is added to scans; writes a folder of records and a page."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from recon import pipeline
from recon.accuracy import ct_measures as measures
from recon.accuracy import ct_methods as methods
from recon.accuracy.ct_bound import bound
from recon.accuracy.ct_measures import PATCH, Slices
from recon.accuracy.ct_methods import Made
from recon.accuracy.ct_page import page, picture
from recon.data import CTImages, DataError, ReconError, counted
from recon.hounsfield import WATER, attenuation
from recon.io.atomic import put, write_error
from recon.operators.xray import Xray
from recon.progress import Report, silent
from recon.recipe import CT
from recon.simulation import ct as physics
from recon.simulation.ct_scan import Scan, own_photons, rays
from recon.solve.fbp import fbp

Record = dict[str, Any]

#: In order: photons of a ray without a body at the full dose, for the phantom and for scans without noise; the fewest
#: for scans (small, resampled images would need a dose at which rays are starved); the electronic noise in photons.
PHOTONS, FEWEST, ELECTRONIC = 6e5, 2e4, 8.0
VIEWS = 720
#: Contrasts in HU of the discs that the observer looks for, and number of images of each kind that it sees.
CONTRASTS, REALISATIONS = (10.0, 15.0, 20.0), 4
RECORDS, TABLE, PAGE = "results.json", "results.csv", "index.html"
Beam = Literal["parallel", "curved"]


@dataclass(frozen=True)
class Plan:
    """What is compared: doses, beams, slices of each scan, networks, their strength, and the classical methods."""

    doses: tuple[float, ...] = (0.25, 0.1)
    beams: tuple[Beam, ...] = ("parallel", "curved")
    slices: int = 3
    networks: tuple[str, ...] = ()
    strength: float | Literal["auto"] = CT().strength
    classical: tuple[str, ...] = methods.CLASSICAL
    observer: bool = True
    seed: int = 0
    device: str = "cpu"


def bench(
    scans: Mapping[str, CTImages],
    real: Mapping[str, CTImages],
    plan: Plan,
    folder: Path,
    *,
    replace: bool = False,
    report: Report = silent,
) -> list[Record]:
    """Compare denoisers and write results.json, results.csv, index.html and a PNG for each scan; gives the records.

    `scans` have references: noise of a lower dose is added to them. `real` are scans of phantoms with their own noise,
    with round inserts in air and no reference. An analytic phantom gives detectability, transfer and noise power. All
    files are updated after each scan. Raises ReconError for a folder that holds results, unless they may be replaced.
    """
    if (folder / RECORDS).exists() and not replace:
        raise ReconError(f"{folder} already holds results; give another folder, or --force to replace them")
    place = pipeline.place(plan.device)
    ours = methods.networks(plan.networks, plan.strength, place)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise write_error(folder, e) from e
    steps: list[tuple[str, Callable[[], tuple[list[Record], bytes | None]]]] = [
        *((n, lambda n=n, s=s: _scan(n, s, plan, ours, place)) for n, s in scans.items()),
        *((n, lambda n=n, s=s: _real(n, s, ours)) for n, s in real.items()),
        *([("phantom", lambda: (observed(plan, ours, place), None))] if plan.observer else []),
    ]
    records: list[Record] = []
    pictures: dict[str, bytes] = {}
    for k, (name, step) in enumerate(steps):
        report("compare", k, len(steps))
        found, shown = step()
        records += found
        if shown:
            pictures[name] = shown
            put(folder / f"{name}.png", shown)
        put(folder / RECORDS, (json.dumps(records, indent=1, allow_nan=False) + "\n").encode())
        put(folder / TABLE, table(records).encode())
        put(folder / PAGE, page(records, pictures).encode())
    report("compare", len(steps), len(steps))
    return records


def own_dose(slices: Slices, voxel: float, beam: Beam) -> float:
    """Number of photons at which filtered backprojection is as noisy as the middle slice, at least FEWEST."""
    x = slices[len(slices) // 2]
    n = min(x.shape)
    x = np.ascontiguousarray(x[(x.shape[0] - n) // 2 :, (x.shape[1] - n) // 2 :][:n, :n])
    scan = Scan(beam=beam, views=VIEWS, fineness=1.0)
    try:
        return max(FEWEST, own_photons(x, Xray(rays(scan, math.ceil(1.42 * n), voxel), x.shape, voxel), scan))
    except DataError:
        return PHOTONS


def low_dose(
    slices: Slices,
    voxel: float,
    dose: float,
    seed: int,
    shade: Slices | None = None,
    beam: Beam = "parallel",
    photons: float = 0.0,
) -> Slices:
    """Slices (z, y, x) in HU with the noise of their projections at a share `dose` of the full one.

    The FBP (Hann) of the noise of projections is added to the slices. `photons` are those of their own dose, whose
    noise they already contain; only the rest is added: the noise of photons · a/(1 − a), a = dose. Without it the noise
    is that of PHOTONS · dose. `shade` replaces the slices as the object that X-rays see.
    """
    reach = photons * dose / (1 - dose) if photons else PHOTONS * dose
    n = max(slices.shape[-2:])
    seen = torch.from_numpy(slices if shade is None else shade)
    short = [(n - s) for s in seen.shape[-2:]]
    mu = torch.nn.functional.pad(attenuation(seen).clamp_min(0), (0, short[1], 0, short[0]))
    A = Xray(rays(Scan(beam=beam, views=VIEWS, fineness=1.0), math.ceil(1.42 * n), voxel), (n, n), voxel)
    p = A(mu)
    bright = physics.air(physics.Beam(reach, ELECTRONIC, 0.5, 0.35 * n * voxel), A.geometry.distances)
    counts = physics.measured(p, bright, ELECTRONIC, torch.Generator().manual_seed(seed))
    noise = fbp(physics.line_integrals(counts, bright) - p, A, "hann") * (1000 / WATER)
    return np.asarray(slices + noise[:, : slices.shape[1], : slices.shape[2]].numpy(), np.float32)


def chosen(images: CTImages, count: int) -> tuple[Slices, float]:
    """Slices (z, y, x) in HU spread over the first series of a scan, not below −1000, and their pixel size in mm."""
    series = images.series[0]
    total = series.geometry.shape[0]
    at = sorted({min(total - 1, round((k + 1) * total / (count + 1))) for k in range(count)})
    x = np.concatenate([series.voxels.read(k, k + 1) for k in at]).astype(np.float32)
    return np.maximum(x, -1000), float(series.geometry.voxel[0])


def _scan(
    name: str, images: CTImages, plan: Plan, ours: Mapping[str, Callable[[Slices], Made]], device: torch.device
) -> tuple[list[Record], bytes]:
    """Records of one scan at every dose and beam, and the picture of its middle slice."""
    reference, voxel = chosen(images, plan.slices)
    squares = _squares(reference)
    records, shown = list[Record](), list[tuple[str, dict[str, Slices]]]()
    for beam in plan.beams:
        photons = own_dose(reference, voxel, beam)
        for dose in plan.doses:
            noisy = low_dose(reference, voxel, dose, plan.seed, beam=beam, photons=photons)
            level = float(np.median(np.abs(noisy - reference)[reference > -300]) * 1.4826)
            limit = bound(noisy, reference)
            made = {"noisy": Made(noisy, "", 0.0), **{n: run(noisy) for n, run in ours.items()}}
            found = methods.tuned(noisy, reference, level, plan.classical, device)
            for n, (setting, run) in found.items():
                made[n] = methods.timed(run, f"{setting}, chosen on the reference", noisy)
            for n, m in made.items():
                power = measures.noise_power(m.data - reference, voxel, squares) if squares else None
                records.append(
                    {"scan": name, "beam": beam, "dose": dose, "method": n, **measures.errors(m.data, reference),
                     "psnr_bound": limit.best if limit else None, "added_noise_HU": level, "photons": dose * photons,
                     "noise_per_mm": measures.mean_frequency(*power) if power else None,
                     "seconds_a_slice": m.seconds, "fallbacks": m.fallbacks, "settings": m.settings}
                )  # fmt: skip
            if beam == plan.beams[0]:
                k = len(reference) // 2
                shown.append((f"dose {dose:g}", {n: m.data[k] for n, m in made.items()}))
    return records, _png(reference[len(reference) // 2], shown, "reference")


def _real(
    name: str, images: CTImages, ours: Mapping[str, Callable[[Slices], Made]]
) -> tuple[list[Record], bytes | None]:
    """Noise and transfer of a phantom with real noise before and after."""
    series = images.series[0]
    x = np.asarray(series.voxels.read(0, series.geometry.shape[0]), np.float32)
    middles, rods = measures.uniform(x), measures.rods_of(x)
    if not middles.any() or not rods:
        raise ReconError(
            f"{name} has no uniform insert surrounded by air, in which noise and edges could be measured; give "
            "it as a scan instead"
        )
    made = {"as scanned": Made(x, "", 0.0), **{n: run(x) for n, run in ours.items()}}
    records = []
    was, was_flat, sharp = _measured(x, middles, rods)
    for n, m in made.items():
        noise, flat, edge = _measured(m.data, middles, rods)
        records.append(
            {"scan": name, "dose": None, "beam": None, "method": n, "noise_HU": noise,
             "noise_ratio": noise / was, "noise_detrended_HU": flat, "noise_detrended_ratio": flat / was_flat,
             "mtf50": edge.mtf50, "mtf10": edge.mtf10,
             "mtf50_ratio": edge.mtf50 / sharp.mtf50, "inserts": len(rods),
             "mtf_curve": _curve(edge.frequency, edge.value),
             "seconds_a_slice": m.seconds, "fallbacks": m.fallbacks, "settings": m.settings}
        )  # fmt: skip
    k = max((r.slice for r in rods), key=[r.slice for r in rods].count)
    return records, _png(x[k], [("", {n: m.data[k] for n, m in made.items() if n != "as scanned"})], "as scanned")


def _measured(
    x: Slices, middles: NDArray[np.bool_], rods: Sequence[measures.Rod]
) -> tuple[float, float, measures.Transfer]:
    """Noise of a phantom, noise without shading, and the transfer at the rims of its inserts."""
    return measures.noise_in(x, middles), measures.noise_in(x, middles, order=2), measures.transfer(x, rods)


def observed(plan: Plan, ours: Mapping[str, Callable[[Slices], Made]], device: torch.device) -> list[Record]:
    """Detectability, transfer and noise of the analytic phantom, noisy and by every method, at every dose and beam."""
    absent, _, places, rods = measures.phantom()
    size, records = absent.shape[-1], list[Record]()
    middle = [(k, (size - PATCH) // 2, (size - PATCH) // 2) for k in range(REALISATIONS)]
    for beam in plan.beams:
        for dose in plan.doses:
            kinds = []
            for kind, image in enumerate((absent, *(measures.phantom(c)[1] for c in CONTRASTS))):
                seeds = [plan.seed + 1000 * kind + k for k in range(REALISATIONS)]
                kinds.append(np.concatenate([low_dose(image, 1.0, dose, s, absent, beam) for s in seeds]))
            level = float(np.std((kinds[0] - absent)[:, 140:180, 140:180]))
            drawn = [measures.discs(absent.shape[1:], places, k) for k in range(REALISATIONS)]
            kinds.append(kinds[0] + np.concatenate([d for d, _ in drawn]))
            runs: dict[str, Callable[[Slices], Made]] = {"noisy": lambda x: Made(x, "", 0.0), **ours}
            few: dict[str, Callable[[Slices], Made]] = {}
            truth = np.repeat(absent, REALISATIONS, 0)
            for n, (setting, run) in methods.tuned(kinds[0], truth, level, plan.classical, device).items():
                runs[n] = lambda x, run=run, setting=setting: methods.timed(run, setting, x)  # type: ignore[misc]
                if n == "bm3d":
                    # Regions far from the discs have no influence on them, and would take half a minute.
                    near = methods.boxed(run, methods.reach(places, measures.SPOT // 2))
                    few[n] = lambda x, near=near, setting=setting: methods.timed(near, setting, x)  # type: ignore[misc]
            for n, go in runs.items():
                made = [go(kinds[0]), *(few.get(n, go)(v) for v in kinds[1:])]
                data = [m.data for m in made]
                all_rods = [measures.Rod(k, r.y, r.x, r.radius) for k in range(REALISATIONS) for r in rods[:1]]
                faint = [measures.Rod(k, r.y, r.x, r.radius) for k in range(REALISATIONS) for r in rods[1:]]
                edge, power = measures.transfer(data[0], all_rods), measures.noise_power(data[0] - absent, 1.0, middle)
                records.append(
                    {"scan": "phantom", "beam": beam, "dose": dose, "method": n,
                     **{f"d_{c:g}_HU": measures.detectability(data[0], d, places)
                        for c, d in zip(CONTRASTS, data[1:-1])},
                     **_contrast_left(data[0], data[-1], drawn, places),
                     "noise_HU": float((data[0] - absent)[:, 130:190, 130:190].std()),
                     "noise_per_mm": measures.mean_frequency(*power), "mtf50": edge.mtf50, "mtf10": edge.mtf10,
                     "mtf50_faint": measures.transfer(data[0], faint).mtf50,
                     "mtf_curve": _curve(edge.frequency, edge.value), "nps_curve": _curve(*power),
                     "seconds_a_slice": made[0].seconds, "fallbacks": sum(m.fallbacks for m in made),
                     "settings": made[0].settings}
                )  # fmt: skip
    return records


def _contrast_left(
    absent: Slices, present: Slices, drawn: Sequence[tuple[Slices, Any]], places: Sequence[tuple[int, int]]
) -> Record:
    """Shares of contrast that discs of each width keep, the mean over their heights; and each separately."""
    kinds = [k for _, k in drawn]
    left = measures.contrast_left(absent, present, np.concatenate([d for d, _ in drawn]), places, kinds)
    mean = {w: float(np.mean([left[w, h] for h in measures.HEIGHTS])) for w in measures.WIDTHS}
    return {
        **{f"contrast_{w}_mm": v for w, v in mean.items()},
        "contrast_curve": [(w, h, round(v, 4)) for (w, h), v in left.items()],
    }


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV, without their curves; missing values stay empty."""
    keys = [k for k in dict.fromkeys(k for r in records for k in r) if not k.endswith("_curve")]
    out = io.StringIO()
    writer = csv.DictWriter(out, keys, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """What was measured as lines of text."""
    lines = []
    for r in records:
        where = " ".join(str(v) for v in (r["scan"], r["beam"] or "", f"dose {r['dose']:g}" if r["dose"] else "") if v)
        start = f"{where:44} {r['method']:12}"
        if "psnr" in r:
            said = f"{r['psnr']:6.2f} dB  SSIM {r['ssim']:.4f}  {r['rmse_HU']:5.1f} HU  {r['seconds_a_slice']:.2f} s"
        elif "noise_ratio" in r:
            said = f"noise {r['noise_HU']:.2f} HU (×{r['noise_ratio']:.2f}), less shading "
            said += f"{r['noise_detrended_HU']:.2f} (×{r['noise_detrended_ratio']:.2f})  MTF50 "
            said += f"{r['mtf50']:.4f} (×{r['mtf50_ratio']:.3f})"
        else:
            seen = "/".join(f"{r[f'd_{c:g}_HU']:.2f}" for c in CONTRASTS)
            left = "/".join(f"{r[f'contrast_{w}_mm']:.2f}" for w in measures.WIDTHS)
            said = f"d' {seen}  contrast left {left}  noise {r['noise_HU']:5.1f} HU"
            said += f"  MTF50 {r['mtf50']:.3f}, faint {r['mtf50_faint']:.3f}"
        back = f"  {counted(r['fallbacks'], 'slice unchanged', 'slices unchanged')}" if r["fallbacks"] else ""
        lines.append(f"{start} {said}{back}  {r['settings']}".rstrip())
    return "\n".join(lines)


def _squares(x: Slices) -> list[tuple[int, int, int]]:
    """Squares of PATCH pixels with nothing but body in them, (slice, y, x)."""
    step = PATCH // 2
    return [
        (k, i, j)
        for k in range(len(x))
        for i in range(0, x.shape[1] - PATCH + 1, step)
        for j in range(0, x.shape[2] - PATCH + 1, step)
        if float((x[k, i : i + PATCH, j : j + PATCH] > -300).mean()) > 0.98
    ]


def _curve(f: measures.Floats, value: measures.Floats) -> list[tuple[float, float]]:
    return [(round(float(a), 5), float(f"{b:.5g}")) for a, b in zip(f, value)]


def _png(first: Slices, rows: Sequence[tuple[str, Mapping[str, Slices]]], name: str) -> bytes:
    out = io.BytesIO()
    picture(first, rows, name).save(out, format="PNG", optimize=True)
    return out.getvalue()
