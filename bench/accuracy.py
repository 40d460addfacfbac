"""Acceleration factors on real raw scans and on a fixed analytic set, compared with BART tuned on each reference.

    python bench/accuracy.py --out accuracy/ --json bench/results/accuracy.json
    python bench/accuracy.py --out accuracy/ --scan gpunufft --accel 4 --methods cs
    python bench/accuracy.py --out accuracy/ --only simulated --weights mri-base mri-small
    python bench/accuracy.py --merge another_run.json --json bench/results/accuracy.json

`--out` gets two folders, `raw` and `simulated`, each with records, pictures and a page as from `recon bench`: numbers
of simulated scans are never mixed with those of measured ones. The reference of a simulated scan is the truth, the
image of its exact k-space without noise, which networks are also asked for (`denoise = 1`); that of a measured scan are
all of its lines. Only the opponents are tuned here, on the references by which they are judged. Real scans are read
from `--data`, by default the folder in RECON_DATA. `--weights` selects other networks than the recipe's: classical
methods and opponents are measured together with the first network, the others alone, in separate folders. `--json` adds
to the records of the file, replacing those of the same scan, method, network and mask; `--merge` adds records of other
files and measures nothing. `bench/accuracy_page.py` makes the documentation page from this file.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opponents import OTHERS
from records import joined, store, stored

from recon import __version__, simulation
from recon import recipe as recipes
from recon.accuracy import results
from recon.accuracy.compare import METHODS, Plan
from recon.data import RawScan
from recon.io.read import read
from recon.progress import reporter

FOLDER = Path(os.environ.get("RECON_DATA", "../shared/data"))
MULTI = Plan(accelerations=(2, 4, 6, 8), methods=("zero-filled", "grappa", "sense", "cs", "unrolled"))
SINGLE = Plan(accelerations=(2,), methods=("zero-filled", "cs", "unrolled"), mask="random")
#: Two coils unfold little.
TWO = replace(MULTI, accelerations=(2, 3, 4))
#: Two factors: with two slices per scan, and opponents tuned on each, these take long enough.
SIMULATED = replace(MULTI, accelerations=(4, 8))
#: Fully sampled raw scans not used for training or choices: file, axes, array, plan.
RAW: Mapping[str, tuple[str, str, str, Plan]] = {
    "gpunufft_brain_t2_4ch": ("public_test/gpunufft_brain_t2_4ch.npz", "coil,y,x", "", MULTI),
    "siemens_gre_phantom": ("formats/siemens_twix_gre_phantom.dat", "", "", TWO),
    "siemens_epi_phantom": ("formats/siemens_twix_epi_phantom.dat", "", "", TWO),
    "larson_brain_sag_t1_1ch": ("public_test/larson_brain_sag_t1_1ch.npz", "y,x", "", SINGLE),
    **{
        f"ulf055_{name.lower()}{'_' + key.lower() if key else ''}": (
            f"public_test/bispmri_ulf055_{name}.npz", "slice,y,x", key, SINGLE,
        )
        for name, key in (
            ("patient5", "FSE"), ("patient5", "FLAIR"), ("patient5", "GRE"),
            ("fisp50", ""), ("tfisp50", ""), ("tfisp90", ""),
        )
    },
}  # fmt: skip
#: What distinguishes records.
CASE = ("data", "scan", "method", "weights", "denoise", "acceleration", "mask", "acs", "seed")
#: Requested denoising of networks: a full scan with its noise; if the truth has none, also one without.
WISHES = {"raw": (0.0,), "simulated": (0.0, 1.0)}
#: The fixed analytic set: coils, matrix, slices, noise, seed of `recon.simulation.preset`.
ANALYTIC = {
    "head_4ch": (4, 192, 2, 0.02, 101),
    "head_8ch": (8, 256, 2, 0.02, 102),
    "head_16ch_noisy": (16, 192, 2, 0.1, 103),
    "head_1ch": (1, 128, 2, 0.05, 104),
}


def raw_scans(folder: Path) -> dict[str, tuple[Callable[[], RawScan], Plan]]:
    """The available raw scans by name, each with its reader and its plan."""
    found: dict[str, tuple[Callable[[], RawScan], Plan]] = {}
    for name, (file, axes, key, plan) in RAW.items():
        path = folder / file
        if not path.is_file():
            print(f"{name} is left out: there is no {path}; set RECON_DATA", file=sys.stderr)
            continue

        def open_(path: Path = path, axes: str = axes, key: str = key) -> RawScan:
            return read(path, axes=axes.split(",") if axes else None, key=key or None)

        found[name] = open_, plan
    return found


def analytic(name: str) -> simulation.Settings:
    """The settings of a scan of the fixed analytic set: an exact head, coils by Biot-Savart's law, white noise."""
    coils, matrix, slices, noise, seed = ANALYTIC[name]
    return simulation.preset(coils=coils, matrix=matrix, slices=slices, noise=noise, seed=seed)


def analytic_scans() -> dict[str, tuple[Callable[[], RawScan], Plan]]:
    """The fixed analytic set by name."""
    return {
        n: ((lambda n=n: simulation.simulate(analytic(n))), SINGLE if v[0] == 1 else SIMULATED)
        for n, v in ANALYTIC.items()
    }


def analytic_truth(settings: simulation.Settings) -> NDArray[np.float64]:
    """|x| (slice, y, x) of exact, full k-space without noise, as seen by whitened coils: times √(Sᴴ Ψ⁻¹ S)."""
    image = simulation.truth(settings, band_limited=True).data
    maps = simulation.truth_maps(settings)
    white = np.linalg.solve(simulation.noise_factor(settings), maps.reshape(len(maps), -1)).reshape(maps.shape)
    seen: NDArray[np.float64] = np.abs(image * np.linalg.norm(white, axis=0)).astype(np.float64)
    return seen


def run(
    scans: Mapping[str, tuple[Callable[[], RawScan], Plan]],
    folder: Path,
    options: argparse.Namespace,
    weights: str = "",
    *,
    denoise: float = 0.0,
    alone: bool = False,
) -> list[dict[str, Any]]:
    """Records of the scans whose name contains one of the given words; `alone` of the network only.

    `denoise` is recorded if it is not 0.
    """
    chosen = {n: s for n, s in scans.items() if not options.scan or any(w in n for w in options.scan)}
    if not chosen:
        return []
    plans = {n: adapted(plan, options, weights, denoise) for n, (_, plan) in chosen.items()}
    if alone:
        plans = {n: replace(plan, methods=("unrolled",)) for n, plan in plans.items()}
    others = {n: o for n, o in OTHERS.items() if not (options.no_bart or alone)}
    with reporter(False) as report:
        made = results.bench(
            {n: open_() for n, (open_, _) in chosen.items()}, plans, folder, replace=True, report=report, others=others,
            truths={n: analytic_truth(analytic(n)) for n in chosen if n in ANALYTIC},
        )  # fmt: skip
    return [{**r, "denoise": denoise} for r in made] if denoise else made


def adapted(plan: Plan, options: argparse.Namespace, weights: str = "", denoise: float = 0.0) -> Plan:
    """The plan with the changes of the command line, and a network with its requested denoising."""
    if weights or denoise:
        solve = replace(plan.recipe.solve, weights=weights or "auto", denoise=denoise)
        plan = replace(plan, recipe=recipes.Recipe(solve=solve))
    if options.accel:
        plan = replace(plan, accelerations=tuple(options.accel))
    if options.methods:
        plan = replace(plan, methods=tuple(m for m in options.methods))
    return replace(plan, seed=options.seed, device=options.device)


@dataclass(frozen=True)
class Lead:
    """How far a method is above another at one factor: mean and minimum over the `scans` that both have."""

    other: str
    acceleration: float
    scans: int
    psnr: float
    ssim: float
    least: float
    where: str


def leads(records: Sequence[Mapping[str, Any]], method: str = "unrolled") -> list[Lead]:
    """How far a method is above each tuned opponent, within the body; records of one network only."""
    at = {(r["method"], r["acceleration"], r["scan"]): r for r in records if r["psnr"] is not None}
    found = []
    for other in OTHERS:
        for acceleration in sorted({r["acceleration"] for r in records}):
            pairs = [
                (ours["psnr"] - theirs["psnr"], ours["ssim"] - theirs["ssim"], scan)
                for (m, a, scan), ours in at.items()
                if (m, a) == (method, acceleration) and (theirs := at.get((other, acceleration, scan)))
            ]
            if pairs:
                psnr, ssim = (sum(p[i] for p in pairs) / len(pairs) for i in (0, 1))
                least, _, where = min(pairs)
                found.append(Lead(other, acceleration, len(pairs), psnr, ssim, least, where))
    return found


def margins(records: Sequence[Mapping[str, Any]], method: str = "unrolled") -> list[str]:
    """The leads as sentences."""
    return [
        f"{method} over {found.other}, R = {found.acceleration:g}: {found.psnr:+.2f} dB, SSIM {found.ssim:+.4f} on "
        f"average of {found.scans}; at worst {found.least:+.2f} dB ({found.where})"
        for found in leads(records, method)
    ]


def main() -> None:
    """Compare, print, write; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--out", type=Path, help="folder of pictures and pages")
    parser.add_argument("--json", type=Path, help="records are added to those that the file holds")
    parser.add_argument("--merge", type=Path, nargs="+", help="only put the records of these files into that of --json")
    parser.add_argument("--scan", action="append", help="only scans whose name holds this; repeat it")
    parser.add_argument("--only", choices=("raw", "simulated"), default="")
    parser.add_argument("--accel", type=int, nargs="+")
    parser.add_argument("--methods", choices=METHODS, nargs="+")
    parser.add_argument("--weights", nargs="+", default=[""], help="names that ship, or folders")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--no-bart", action="store_true")
    options = parser.parse_args()
    if options.merge:
        if options.json is None:
            parser.error("--merge needs --json, the file that the records are put into")
        store(options.json, joined(map(stored, options.merge), CASE), CASE, {})
        return
    if options.out is None:
        parser.error("--out is needed: a folder for pictures and pages")
    if options.threads:
        torch.set_num_threads(options.threads)
    head = {
        "date": str(date.today()),
        "version": __version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    for data, scans in (("raw", raw_scans(options.data)), ("simulated", analytic_scans())):
        if options.only not in ("", data):
            continue
        found: list[dict[str, Any]] = []
        networks = not options.methods or "unrolled" in options.methods
        for number, (wish, name) in enumerate(itertools.product(WISHES[data], options.weights)):
            if wish and not networks:
                continue
            folder = options.out / (f"{data}-{Path(name).name}{'-denoised' if wish else ''}" if number else data)
            made = run(scans, folder, options, name, denoise=wish, alone=number > 0)
            found += made
            if not made:
                continue
            # Results of the opponents from the first run are valid for all networks.
            rivals = [r for r in found if r["method"] in OTHERS]
            mine = made if number == 0 else [*made, *rivals]
            print(
                f"\n{data} {name}{' without noise' if wish else ''}\n{results.summary(made)}",
                *margins(mine),
                sep="\n",
                flush=True,
            )
            if options.json:
                store(options.json, [{"data": data, **r, **head} for r in made], CASE, {})


if __name__ == "__main__":
    main()
