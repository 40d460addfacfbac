"""CT denoisers: networks, and classical methods, each with the setting closest to the reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from recon.accuracy.ct_measures import Slices
from recon.ct import denoise, learned
from recon.progress import silent
from recon.recipe import CT, Recipe

Method = Callable[[Slices], Slices]

#: Settings that are tried: weights of total variation, h over the noise, the assumed over the real noise in BM3D.
TV, NLM, BM3D = (0.1, 0.2, 0.35, 0.5, 0.8, 1.3), (0.4, 0.6, 0.8, 1.1, 1.5), (0.7, 1.0, 1.4, 2.0, 2.8)
CLASSICAL = ("tv", "nlm", "bm3d")
#: Side of the piece on which BM3D is tuned, and margin around a body on which it runs, because it takes 10 s for 512².
#: SEARCH is how far its blocks of 8 pixels are compared, in windows of 39.
PIECE, MARGIN, SEARCH = 192, 16, 27
Box = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Made:
    """Images of one method, its setting, seconds per slice, unchanged slices, noise in HU."""

    data: Slices
    settings: str
    seconds: float
    fallbacks: int = 0
    noise: tuple[float, ...] = ()


def networks(
    names: Sequence[str], strength: float | Literal["auto"], device: torch.device
) -> dict[str, Callable[[Slices], Made]]:
    """Networks, shipped ones or folders, by name, each with its checks and its fallback, at a strength."""
    return {Path(name).name: _network(name, strength, device) for name in names}


def _network(name: str, strength: float | Literal["auto"], device: torch.device) -> Callable[[Slices], Made]:
    learned.network(name, device)  # missing ones are reported before anything is written
    base = Recipe()
    plan = replace(
        base, solve=replace(base.solve, method="unrolled", weights=name), ct=replace(base.ct, strength=strength)
    )

    def run(x: Slices) -> Made:
        # Weights are loaded and memory is allocated before the time is measured.
        denoise.denoise_images(x[:1], plan, device, silent)
        begin = time.perf_counter()
        found = denoise.denoise_images(x, plan, device, silent)
        seconds = (time.perf_counter() - begin) / len(x)
        back = int(found.trust.get("fallbacks", 0))
        used = found.provenance["strength"]
        said = f"strength {min(used):.2f}" + (f" to {max(used):.2f}" if max(used) - min(used) > 0.005 else "")
        return Made(found.data, said, seconds, back, tuple(found.provenance["noise_HU"]))

    return run


def choices(noise: float, wanted: Sequence[str], device: torch.device) -> dict[str, list[tuple[str, Method]]]:
    """Settings of the requested, installed classical methods, for a standard deviation of the noise in HU."""
    found: dict[str, list[tuple[str, Method]]] = {}
    if "tv" in wanted:
        found["tv"] = [(f"solve.tv {w}", _tv(w, device)) for w in TV]
    if "nlm" in wanted and not missing(["nlm"]):
        found["nlm"] = [(f"h {h} σ", _nlm(h * noise)) for h in NLM]
    if "bm3d" in wanted and not missing(["bm3d"]):
        found["bm3d"] = [(f"{f} σ", _bm3d(f * noise)) for f in BM3D]
    return found


def missing(wanted: Sequence[str]) -> list[str]:
    """A sentence for each requested method that is not installed."""
    from importlib.util import find_spec

    packages = {"nlm": ("skimage", "scikit-image"), "bm3d": ("bm3d", "bm3d")}
    return [
        f"{name} is left out: pip install {packages[name][1]}"
        + (" (free for non-commercial use only)" if name == "bm3d" else "")
        for name in wanted
        if name in packages and find_spec(packages[name][0]) is None
    ]


def tuned(
    noisy: Slices, reference: Slices, noise: float, wanted: Sequence[str], device: torch.device
) -> dict[str, tuple[str, Method]]:
    """The setting of each classical method that is closest to the reference of the middle slice, in their favour.

    All settings are tried on the whole slice; those of BM3D on a piece of it, from the middle one downhill.
    """
    k = len(noisy) // 2
    found = {}
    for name, several in choices(noise, wanted, device).items():
        box = _piece(reference[k]) if name == "bm3d" else (slice(None), slice(None))
        part = (slice(k, k + 1), *box)
        one, truth = noisy[part], reference[part]

        def error(n: int, several=several, one=one, truth=truth) -> float:  # type: ignore[no-untyped-def]
            return float(np.square(several[n][1](one) - truth)[truth > -900].mean())

        count = len(several)
        found[name] = several[downhill(error, count) if name == "bm3d" else min(range(count), key=error)]
    return found


def downhill(error: Callable[[int], float], count: int) -> int:
    """The number with the smallest error among 0 … count − 1, searched from the middle, assuming a single minimum."""
    known: dict[int, float] = {}

    def at(n: int) -> float:
        if n not in known:
            known[n] = error(n) if 0 <= n < count else float("inf")
        return known[n]

    here = count // 2
    while True:
        best = min((here, here - 1, here + 1), key=at)
        if best == here:
            return here
        here = best


def boxed(method: Method, box: Box) -> Method:
    """A method that processes only a box (y, x) of slices and leaves the rest unchanged."""

    def run(x: Slices) -> Slices:
        out: Slices = x.copy()
        within = (slice(None), *box)
        out[within] = method(np.ascontiguousarray(x[within]))
        return out

    return run


def reach(places: Sequence[tuple[int, int]], half: int) -> Box:
    """The box (y, x) of squares around some positions, and of what BM3D compares with them."""
    low, high = (np.array(places).min(0) - half - SEARCH, np.array(places).max(0) + half + SEARCH)
    return slice(int(low[0]), int(high[0])), slice(int(low[1]), int(high[1]))


def _bodies(x: Slices) -> Box:
    """The box (y, x) around the bodies of slices, with a margin; the whole slice if there is none."""
    # Single noisy pixels would look like a body.
    where = (x > -500).reshape(-1, *x.shape[-2:])
    spans = [np.nonzero((where.mean(axis) > 0.05).any(0))[0] for axis in (2, 1)]
    if not all(map(len, spans)):
        return slice(None), slice(None)
    y, z = (slice(max(0, int(s[0]) - MARGIN), int(s[-1]) + 1 + MARGIN) for s in spans)
    return y, z


def _piece(x: Slices) -> Box:
    """A box of at most PIECE pixels in the middle of a slice's body."""
    middles = [(s.indices(n)[0] + s.indices(n)[1]) // 2 for s, n in zip(_bodies(x), x.shape, strict=True)]
    low = [min(max(0, m - PIECE // 2), max(0, n - PIECE)) for m, n in zip(middles, x.shape, strict=True)]
    return slice(low[0], low[0] + PIECE), slice(low[1], low[1] + PIECE)


def timed(method: Method, settings: str, x: Slices) -> Made:
    """Images of a method and the time it took."""
    begin = time.perf_counter()
    data = method(x)
    return Made(data, settings, (time.perf_counter() - begin) / len(x))


def shipped() -> list[str]:
    """Networks for CT images that ship, the best first."""
    return learned.shipped()


def _tv(weight: float, device: torch.device) -> Method:
    whole = CT(strength=1.0, coarse=0.0)
    plan = replace(Recipe(), solve=replace(Recipe().solve, tv=weight), ct=whole)
    return lambda x: denoise.total_variation(x, plan, device, silent, "").data


def _nlm(h: float) -> Method:
    def run(x: Slices) -> Slices:
        from skimage.restoration import denoise_nl_means

        return np.stack([denoise_nl_means(s, h=h, patch_size=5, patch_distance=7, fast_mode=True) for s in x]).astype(
            np.float32
        )

    return run


def _bm3d(sigma: float) -> Method:
    def run(x: Slices) -> Slices:
        from bm3d import bm3d

        def whole(v: Slices) -> Slices:
            made: list[Slices] = [np.asarray(bm3d(s, sigma_psd=sigma), np.float32) for s in v]
            return np.stack(made)

        return boxed(whole, _bodies(x))(x)

    return run
