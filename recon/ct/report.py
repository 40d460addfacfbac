"""What a file of CT holds: `recon info`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from recon.data import CTImages, CTProjections, CTViews
from recon.prepare.helical import fans


@dataclass(frozen=True)
class CTReport:
    """CT in plain numbers and sentences, nothing of it about the patient."""

    format: str
    items: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def describe(scan: CTImages | CTProjections | CTViews) -> CTReport:
    """Report on CT images, series by series, or on projections; reads no pixels of images or of a cone beam."""
    if isinstance(scan, CTViews):
        made = fans(scan)
        return CTReport(scan.source, (_views(scan, made),), made.notes)
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
            **({"steps_mm": f"{min(s.geometry.steps):g} to {max(s.geometry.steps):g}"} if s.geometry.steps else {}),
            "known": s.geometry.known,
        }
        for s in scan.series
    )
    return CTReport(scan.source, items, tuple(dict.fromkeys((*scan.notes, *(n for s in scan.series for n in s.notes)))))


def _projections(p: CTProjections) -> Mapping[str, Any]:
    # The last view covers as much as those before it.
    turn = float(np.degrees(np.ptp(p.angles))) * len(p.angles) / max(1, len(p.angles) - 1)
    cone = p.beam == "cone"
    return {
        "beam": p.beam,
        **({"rows": len(p.values)} if cone else {"slices": len(p.values)}),
        "views": len(p.angles),
        "covered_degrees": round(turn, 3),
        "detectors": p.values.shape[-1],
        "spacing_mm": p.spacing,
        "offset_mm": p.offset,
        **({"row_spacing_mm": p.row_spacing, "row_offset_mm": p.row_offset} if cone else {}),
        **({} if p.beam == "parallel" else {"source_mm": p.source_distance, "detector_mm": p.detector_distance}),
        "holds": p.kind,
        **({"matrix": p.matrix} if any(p.matrix) else {}),
        **({"voxel_mm": p.voxel} if p.voxel else {}),
        **({"slices": len(p.positions)} if cone and p.positions else {}),
    }


def _views(v: CTViews, made: CTProjections) -> Mapping[str, Any]:
    """What was measured, and the slices that it gives where nothing is asked for."""
    turn = abs(float(np.median(np.diff(v.angles))))
    return {
        "scanner": " ".join(w for w in (v.header.system.vendor, v.header.system.model) if w) or "not stated",
        "beam": f"{'helical' if v.helical else 'axial'}, {'curved' if v.curved else 'flat'} detector",
        "projections": len(v.angles),
        "views_a_turn": round(2 * np.pi / turn),
        "turns": round(float(np.ptp(v.angles)) / (2 * np.pi), 2),
        "table_mm": (round(float(v.positions.min()), 2), round(float(v.positions.max()), 2)),
        "rows_columns": v.shape,
        "element_mm": tuple(round(s, 4) for s in v.spacing),
        "source_mm": round(v.radius, 3),
        "detector_mm": round(v.distance - v.radius, 3),
        "slices": len(made.positions),
        "slices_mm": (round(made.positions[0], 2), round(made.positions[-1], 2)),
        "thickness_mm": round(made.thickness, 4),
        "water_per_mm": v.water or "not stated",
        "known": bool(v.header.study.patient_position),
    }


def text(report: CTReport) -> str:
    """The report for reading: one subject on each line."""
    out = [f"{'format':<16} {report.format}"]
    for item in report.items:
        for key, value in item.items():
            shown = "×".join(f"{v:g}" for v in value) if isinstance(value, tuple) else value
            out.append(f"{key:<16} {shown:g}" if isinstance(shown, float) else f"{key:<16} {shown}")
    return "\n".join(out + [f"· {note}" for note in report.notes])
