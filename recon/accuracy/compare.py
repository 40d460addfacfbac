"""A scan against its full data: every method at every acceleration factor, compared with the full reconstruction."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from recon import pipeline
from recon import recipe as recipes
from recon.accuracy.undersample import Kind, acs_lines, mask_of, measured, undersample
from recon.data import DataError, RawScan
from recon.errors import sentence
from recon.metrics import best_scale, body, scores
from recon.progress import Report
from recon.recipe import Recipe

Floats = NDArray[np.float64]

#: The name of the zero-filled inverse FFT among the methods.
ZERO_FILLED = "zero-filled"
METHODS = (ZERO_FILLED, *(m for m in get_args(recipes.Method) if m not in ("auto", *recipes.CT_ALONE)))
#: Measures by name.
MEASURES = ("psnr", "ssim", "nmse")


@dataclass(frozen=True)
class Plan:
    """What is compared: acceleration factors, methods, the mask. `acs` None keeps 24 lines up to R = 4, 16 above."""

    accelerations: tuple[float, ...] = (2, 4, 6, 8)
    methods: tuple[str, ...] = (ZERO_FILLED, "grappa", "sense", "cs", "unrolled")
    mask: Kind = "equispaced"
    acs: int | None = None
    seed: int = 0
    recipe: Recipe = field(default_factory=Recipe)
    device: str = "auto"


@dataclass(frozen=True)
class Reference:
    """The full reconstruction: `magnitude` (slice, y, x), `body` of that shape, `data_range` its maximum.

    `shown` is the slice with the most body, shown in pictures; `fingerprint` distinguishes scans and reveals nothing
    about the patient.
    """

    magnitude: Floats
    body: NDArray[np.bool_]
    data_range: float
    shown: int
    fingerprint: str


@dataclass(frozen=True)
class Trial:
    """One record, and the shown slice of its image on the scale of the reference, None if the method failed."""

    record: Mapping[str, Any]
    picture: Floats | None = None


@dataclass(frozen=True)
class Comparison:
    """All trials of a scan."""

    scan: str
    reference: Reference
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Answer:
    """Result of another program on an undersampled scan: |x| (slice, y, x), its seconds, and its settings."""

    magnitude: Floats
    seconds: float
    settings: str = ""


#: Other programs by name. They receive the undersampled scan, the number of the stack, and the reference, by which they
#: may choose their settings; the results say so.
Others = Mapping[str, Callable[[RawScan, int, Reference], Answer]]


def reference(scan: RawScan, plan: Plan, stack: int = 0, truth: Floats | None = None) -> Reference:
    """The coil-combined image of all lines, by the usual pipeline, with maps of the full data and all coils.

    For a simulated scan the known `truth` (slice, y, x) replaces it, on its scale. Raises DataError as `measured`, and
    for an image without a body.
    """
    measured(scan)
    recipe = recipes.with_method(plan.recipe, "combine")
    recipe = replace(recipe, prepare=replace(recipe.prepare, coil_compression="none"))
    image = pipeline.reconstruct(scan, recipe, device=plan.device, stack=stack)
    magnitude = _magnitude(image.data)
    if truth is not None:
        magnitude = best_scale(truth, magnitude) * truth
    inside = body(magnitude)
    if not inside.any():
        raise DataError(
            "no body was found in the fully sampled reconstruction, so there is no region to measure in; look "
            "at the scan with `recon run`"
        )
    shown = int(inside.reshape(len(inside), -1).sum(1).argmax())
    return Reference(magnitude, inside, float(magnitude.max()), shown, str(image.provenance["scan_sha256"]))


def compare(
    scan: RawScan,
    name: str,
    plan: Plan,
    *,
    stack: int = 0,
    report: Report | None = None,
    others: Others = MappingProxyType({}),
    truth: Floats | None = None,
) -> Comparison:
    """Undersample a fully sampled scan, reconstruct it by every method and compare the images with the full data.

    `truth` (slice, y, x), known for simulated scans, replaces the full data. The `others` come after the plan's
    methods. If a method fails, or the scan cannot have a mask, the record states the reason in `failed`. Raises
    DataError for a scan without a reference.
    """
    full = reference(scan, plan, stack, truth)
    todo = [(r, m) for r in plan.accelerations for m in (*plan.methods, *others)]
    trials = []
    for n, (acceleration, method) in enumerate(todo):
        trials.append(_trial(scan, name, method, acceleration, full, plan, stack, others))
        if report:
            report(name, n + 1, len(todo))
    return Comparison(name, full, tuple(trials))


def score(magnitude: Floats, full: Reference) -> dict[str, Any]:
    """The measures of an image (slice, y, x), within the body and over the whole image (`*_whole`).

    The image is first multiplied by one factor, the same for all slices, that brings it closest to the reference within
    the body (`scale`): methods weight coils differently, and a reader windows the image anyway.
    """
    scale = best_scale(magnitude, full.magnitude, mask=full.body)
    out: dict[str, Any] = {}
    for suffix, where in (("", full.body), ("_whole", None)):
        found = scores(scale * magnitude, full.magnitude, data_range=full.data_range, mask=where)
        for m in MEASURES:
            out[m + suffix] = _finite(getattr(found, m))
        for m in MEASURES:
            interval = found.intervals.get(m)
            out[f"{m}{suffix}_ci"] = [_finite(v) for v in interval] if interval else None
    return {**out, "data_range": full.data_range, "scale": scale, "slices": len(magnitude)}


def blank(full: Reference) -> dict[str, Any]:
    """The keys of `score` for a missing image."""
    names = [m + suffix + ci for suffix in ("", "_whole") for ci in ("", "_ci") for m in MEASURES]
    return {**dict.fromkeys(names), "data_range": full.data_range, "scale": None, "slices": len(full.magnitude)}


def _trial(
    scan: RawScan, name: str, method: str, acceleration: float, full: Reference, plan: Plan, stack: int, others: Others
) -> Trial:
    acs = acs_lines(acceleration) if plan.acs is None else plan.acs
    record: dict[str, Any] = {
        "scan": name, "method": method, "acceleration": acceleration, "effective_acceleration": None,
        "mask": plan.mask, "acs": acs, "seed": plan.seed,
    }  # fmt: skip
    last: dict[str, Any] = {
        "scan_sha256": full.fingerprint,
        "settings": "",
        "recipe_hash": None,
        "weights": None,
        "weights_sha256": None,
    }
    last |= {"fallbacks": None, "device": None, "failed": ""}
    try:
        fewer = undersample(scan, mask_of(plan.mask, measured(scan).shape, acceleration, acs, plan.seed))
        record["effective_acceleration"] = fewer.effective
        if method in others:
            answer = others[method](fewer.scan, stack, full)
            magnitude, seconds = answer.magnitude, answer.seconds
            last["settings"] = answer.settings
        else:
            recipe = recipes.with_method(plan.recipe, "combine" if method == ZERO_FILLED else method)  # type: ignore[arg-type]
            started = time.perf_counter()
            image = pipeline.reconstruct(fewer.scan, recipe, device=plan.device, stack=stack)
            seconds = time.perf_counter() - started
            magnitude = _magnitude(image.data)
            last |= {k: image.provenance.get(k) for k in ("recipe_hash", "weights", "weights_sha256", "device")}
            last["fallbacks"] = image.trust.get("fallbacks")
        found = score(magnitude, full)
    except Exception as e:
        return Trial(
            {**record, **blank(full), "seconds": None, **last, "failed": sentence(e, memory="give fewer --threads")}
        )
    return Trial({**record, **found, "seconds": seconds, **last}, found["scale"] * magnitude[full.shown])


def _magnitude(data: NDArray[Any]) -> Floats:
    """|x| as (slice, y, x), with the volumes of a series one after the other."""
    return np.asarray(np.abs(data).reshape(-1, *data.shape[-2:]), np.float64)


def _finite(value: float) -> float | None:
    """The value, None if it is infinite: JSON has no such number."""
    return float(value) if np.isfinite(value) else None
