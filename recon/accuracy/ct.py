"""Denoisers of CT images against slices of a known dose: error, detectability, resolution and noise."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.ct import denoise, learned
from recon.data import CTImages, ReconError
from recon.hounsfield import WATER, attenuation
from recon.io.atomic import atomic_file
from recon.metrics import ssim
from recon.operators.xray import Parallel, Xray
from recon.recipe import Recipe
from recon.simulation import ct as physics
from recon.solve.fbp import fbp

Slices = NDArray[np.float32]

#: Photons of a ray without a body at the full dose; electronics in photons.
PHOTONS, ELECTRONIC = 6e5, 8.0
VIEWS = 720
#: HU that the data range of PSNR and SSIM spans.
RANGE = 1400.0
#: Disc that an observer looks for.
CONTRAST, RADIUS, SPOT = 15.0, 5.0, 32


def low_dose(slices: Slices, voxel: float, dose: float, seed: int, shade: Slices | None = None) -> Slices:
    """Slices (z, y, x) in HU with the noise that their projections have at a share `dose` of the full one.

    The FBP (Hann) of the projections' noise is added to the slices, whose own noise stays in both. `shade` is what
    X-rays see instead of the slices themselves.
    """
    n = max(slices.shape[-2:])
    seen = torch.from_numpy(slices if shade is None else shade)
    short = [(n - s) for s in seen.shape[-2:]]
    mu = torch.nn.functional.pad(attenuation(seen).clamp_min(0), (0, short[1], 0, short[0]))
    angles = torch.arange(VIEWS, dtype=torch.float64) * (math.pi / VIEWS)
    A = Xray(Parallel(angles, math.ceil(1.42 * n), voxel, offset=voxel / 4), (n, n), voxel)
    p = A(mu)
    bright = physics.air(physics.Beam(PHOTONS * dose, ELECTRONIC, 0.5), A.geometry.distances)
    counts = physics.measured(p, bright, ELECTRONIC, torch.Generator().manual_seed(seed))
    noise = fbp(physics.line_integrals(counts, bright) - p, A, "hann") * (1000 / WATER)
    return np.asarray(slices + noise[:, : slices.shape[1], : slices.shape[2]].numpy(), np.float32)


def shipped() -> list[str]:
    """Networks for CT images that ship, the best first."""
    name = learned.best()
    return [] if name is None else [name]


def methods(recipe: Recipe, names: Sequence[str], device: torch.device) -> dict[str, Callable[[Slices], Slices]]:
    """Functions of noisy slices by name: the networks of `names`, each by its recipe."""
    found: dict[str, Callable[[Slices], Slices]] = {}
    for name in names:
        plan = replace(recipe, solve=replace(recipe.solve, method="unrolled", weights=name))
        found[name] = lambda x, plan=plan: denoise.denoise_images(x, (1, 1, 1), plan, device, _silent).data  # type: ignore[misc]
    return found


def tuned(noisy: Slices, reference: Slices, level: float, device: torch.device) -> dict[str, tuple[Slices, str]]:
    """The classical methods, each with the strength that is nearest to the reference, which is a help to them."""
    choices: dict[str, list[tuple[str, Callable[[], Slices]]]] = {"tv": []}
    for w in (0.1, 0.2, 0.35, 0.5, 0.8):
        plan = replace(Recipe(), solve=replace(Recipe().solve, tv=w))
        choices["tv"].append(
            (f"tv {w}", lambda p=plan: denoise.total_variation(noisy, p, device, _silent, "").data)  # type: ignore[misc]
        )
    try:
        from skimage.restoration import denoise_nl_means

        choices["nlm"] = [
            (
                f"h {h} σ",
                lambda h=h: np.stack(  # type: ignore[misc]
                    [denoise_nl_means(s, h=h * level, patch_size=5, patch_distance=7, fast_mode=True) for s in noisy]
                ).astype(np.float32),
            )
            for h in (0.4, 0.6, 0.8, 1.1)
        ]
    except ImportError:
        pass
    try:
        from bm3d import bm3d

        choices["bm3d"] = [
            (f"σ × {f}", lambda f=f: np.stack([bm3d(s, sigma_psd=f * level) for s in noisy]).astype(np.float32))  # type: ignore[misc]
            for f in (0.7, 1.0, 1.4, 2.0)
        ]
    except ImportError:
        pass
    out = {}
    for name, several in choices.items():
        made = [(make(), setting) for setting, make in several]
        out[name] = min(made, key=lambda m: float(np.square(m[0] - reference).mean()))
    return out


def errors(x: Slices, reference: Slices) -> dict[str, float]:
    """PSNR, SSIM (data range 1400 HU) and root mean square error in HU over the body."""
    body = reference > -900
    rmse = float(np.sqrt(np.square(x - reference)[body].mean()))
    shown, truth = (np.clip(v, -1000, 1000) for v in (x, reference))
    return {
        "rmse_HU": rmse,
        "psnr": 20 * math.log10(RANGE / rmse),
        "ssim": ssim(shown, truth, data_range=RANGE, mask=body),
    }


def phantom(size: int = 320, voxel: float = 1.0) -> tuple[Slices, Slices, list[tuple[int, int]]]:
    """An elliptic body of water without and with faint discs, and the places of their centres; a rod of bone."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    absent = np.where((x / (0.45 * size)) ** 2 + (y / (0.36 * size)) ** 2 < 1, 40.0, -1000.0)
    absent = np.where(np.hypot(x - 0.33 * size, y) < 0.05 * size, 800.0, absent)
    places = [
        (int(size / 2 + SPOT * j), int(size / 2 + SPOT * i)) for i in range(-3, 3) for j in range(-2, 3)
        if (i * SPOT / (0.38 * size)) ** 2 + (j * SPOT / (0.3 * size)) ** 2 < 1
    ]  # fmt: skip
    present = absent.copy()
    for cy, cx in places:
        far = np.hypot(y + (size - 1) / 2 - cy, x + (size - 1) / 2 - cx)
        present += CONTRAST / (1 + np.exp(np.minimum((far - RADIUS) / 0.35, 60.0)))
    return absent[None].astype(np.float32), present[None].astype(np.float32), places


def detectability(absent: Slices, present: Slices, places: Sequence[tuple[int, int]]) -> float:
    """d' of a channelised Hotelling observer for discs at known places, from images (n, y, x) without and with them.

        d'² = Δvᵀ S⁻¹ Δv,   v = the image through ten difference-of-Gaussians channels

    (C. K. Abbey and H. H. Barrett, J Opt Soc Am A 18:473, 2001.)
    """
    half = SPOT // 2
    r = np.hypot(*(np.mgrid[:SPOT, :SPOT] - half))
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(SPOT), np.fft.fftfreq(SPOT)))
    bands = [0.015 * 1.4**k for k in range(9)]
    responses = [np.exp(-((f / (1.67 * b)) ** 2) / 2) - np.exp(-((f / b) ** 2) / 2) for b in bands]
    channels = np.stack([np.fft.fftshift(np.fft.ifft2(h).real) for h in responses])
    channels = (channels * (r < half)).reshape(len(channels), -1)

    def seen(images: Slices) -> NDArray[np.float64]:
        cut = [i[y - half : y + half, x - half : x + half].ravel() for i in images for y, x in places]
        return np.asarray(np.stack(cut) @ channels.T, np.float64)

    a, p = seen(absent), seen(present)
    d = p.mean(0) - a.mean(0)
    s = (np.cov(a.T) + np.cov(p.T)) / 2
    return float(np.sqrt(d @ np.linalg.solve(s + 1e-9 * np.trace(s) * np.eye(len(d)), d)))


def resolution(image: Slices) -> float:
    """Half-width in pixels of the edge of the phantom's rod of bone: 10 to 90 % of its profile, all around."""
    size = image.shape[-1]
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    far = np.hypot(x - 0.33 * size, y)
    at = np.arange(-6, 6.01, 0.25)
    radius = 0.05 * size
    profile = np.array([image[:, np.abs(far - radius - a) < 0.25].mean() for a in at])
    high, low = image[:, far < radius - 7].mean(), profile[-4:].mean()
    share = (profile - low) / (high - low)
    ends = [float(at[np.argmax(share < level)]) for level in (0.9, 0.1)]
    return ends[1] - ends[0]


def noise_frequency(image: Slices, clean: Slices) -> tuple[float, float]:
    """Standard deviation in HU, and mean frequency of the noise power spectrum in cycles per pixel, mid-body."""
    n = image.shape[-1]
    d = (image - clean)[:, n // 2 - 48 : n // 2 + 48, n // 2 - 48 : n // 2 + 48]
    power = np.square(np.abs(np.fft.fft2(d - d.mean((-2, -1), keepdims=True)))).mean(0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96)))
    return float(d.std()), float((f * power).sum() / power.sum())


def bench(
    scans: Mapping[str, CTImages],
    names: Sequence[str],
    doses: Sequence[float],
    output: Path,
    *,
    slices: int = 3,
    seed: int = 0,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Records of every scan, dose and method in ct.json and ct.csv, and of an analytic phantom."""
    place = torch.device(device)
    records: list[dict[str, Any]] = []
    ours = methods(Recipe(), names, place)
    for scan, images in scans.items():
        series = images.series[0]
        count = series.geometry.shape[0]
        chosen = sorted({round((k + 1) * count / (slices + 1)) for k in range(slices)})
        reference = np.concatenate([series.voxels.read(k, k + 1) for k in chosen]).astype(np.float32)
        reference = np.maximum(reference, -1000)
        for dose in doses:
            noisy = low_dose(reference, float(series.geometry.voxel[0]), dose, seed)
            level = float(np.median(np.abs(noisy - reference)[reference > -300]) * 1.4826)
            results: dict[str, tuple[Slices, str, float]] = {"noisy": (noisy, "", 0.0)}
            for name, run in ours.items():
                begin = time.perf_counter()
                results[name] = (run(noisy), "", (time.perf_counter() - begin) / len(noisy))
            for name, (x, setting) in tuned(noisy, reference, level, place).items():
                results[name] = (x, setting + " (chosen on the reference)", 0.0)
            for name, (x, setting, seconds) in results.items():
                records.append(
                    {"scan": scan, "dose": dose, "method": name, **errors(x, reference), "added_noise_HU": level,
                     "seconds_a_slice": seconds, "settings": setting}
                )  # fmt: skip
    records += observed(ours, doses, seed)
    write(records, output)
    return records


def observed(ours: Mapping[str, Callable[[Slices], Slices]], doses: Sequence[float], seed: int) -> list[dict[str, Any]]:
    """Detectability, edge width and noise of the phantom, noisy and by every method, at every dose."""
    absent, present, places = phantom()
    records = []
    for dose in doses:
        pairs = []
        for which, image in enumerate((absent, present)):
            made = [low_dose(image, 1.0, dose, seed + 2 * k + which, absent) for k in range(4)]
            pairs.append(np.concatenate(made))
        for name, run in {"noisy": lambda x: x, **ours}.items():
            a, p = (run(v) for v in pairs)
            sigma, frequency = noise_frequency(a, absent)
            records.append(
                {"scan": "phantom", "dose": dose, "method": name, "detectability": detectability(a, p, places),
                 "edge_pixels": resolution(a), "noise_HU": sigma, "noise_frequency": frequency}
            )  # fmt: skip
    return records


def write(records: Sequence[Mapping[str, Any]], output: Path) -> None:
    """ct.json and ct.csv in a folder, whole or not at all."""
    if not records:
        raise ReconError("there is nothing to write: give CT scans")
    output.mkdir(parents=True, exist_ok=True)
    with atomic_file(output / "ct.json") as temporary:
        temporary.write_text(json.dumps(list(records), indent=1) + "\n", encoding="utf-8")
    keys = list(dict.fromkeys(k for r in records for k in r))
    with atomic_file(output / "ct.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, keys)
        table.writeheader()
        table.writerows(records)


def _silent(stage: str, done: int, total: int) -> None:
    """No report."""
