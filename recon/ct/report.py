"""What a file of CT holds: `recon info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recon.data import CTImages, CTProjections


@dataclass(frozen=True)
class CTReport:
    """CT in plain numbers and sentences, nothing of it about the patient."""

    format: str
    items: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def describe(scan: CTImages | CTProjections) -> CTReport:
    """Report on CT images, series by series, or on projections; reads no pixels of images."""
    if isinstance(scan, CTProjections):
        return CTReport(scan.source, (_projections(scan),), scan.notes)
    items = tuple(
        {
            "series": s.label or "one series",
            "scanner": " ".join(v for v in (s.header.system.vendor, s.header.system.model) if v) or "not stated",
            "slices": s.geometry.shape[0],
            "matrix": s.geometry.shape[:0:-1],
            "voxel_mm": tuple(round(v, 4) for v in s.geometry.voxel),
            "thickness_mm": round(s.geometry.thickness, 4),
            "shear_mm": tuple(round(v, 4) for v in s.geometry.shear),
            "known": s.geometry.known,
        }
        for s in scan.series
    )
    return CTReport(scan.source, items, tuple(dict.fromkeys((*scan.notes, *(n for s in scan.series for n in s.notes)))))


def _projections(p: CTProjections) -> Mapping[str, Any]:
    turn = float(np.degrees(np.ptp(p.angles)))
    return {
        "beam": p.beam,
        "slices": len(p.values),
        "views": len(p.angles),
        "covered_degrees": round(turn, 3),
        "detectors": p.values.shape[-1],
        "spacing_mm": p.spacing,
        "offset_mm": p.offset,
        **({} if p.beam == "parallel" else {"source_mm": p.source_distance, "detector_mm": p.detector_distance}),
        "holds": p.kind,
        **({"matrix": p.matrix} if any(p.matrix) else {}),
        **({"voxel_mm": p.voxel} if p.voxel else {}),
    }


def text(report: CTReport) -> str:
    """The report for reading: one subject on each line."""
    out = [f"{'format':<16} {report.format}"]
    for item in report.items:
        for key, value in item.items():
            shown = "×".join(f"{v:g}" for v in value) if isinstance(value, tuple) else value
            out.append(f"{key:<16} {shown:g}" if isinstance(shown, float) else f"{key:<16} {shown}")
    return "\n".join(out + [f"· {note}" for note in report.notes])
