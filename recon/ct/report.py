"""The content of a CT file: `recon info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recon.data import CTImages, CTProjections, CTViews, counted
from recon.geometry import orientation
from recon.prepare.helical import fans


@dataclass(frozen=True)
class CTReport:
    """CT as plain numbers and sentences, without patient data."""

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
            "orientation": orientation(s.geometry.normal) if s.geometry.known else "unknown",
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
    """What was measured, and the slices made by default."""
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
    """The report as text: one line per subject, then the notes."""
    out = [("format", report.format)]
    for item in report.items:
        kind = _of_series if "series" in item else _of_views if "turns" in item else _of_projections
        out += kind(item)
    return "\n".join([f"{name:<12} {value}" for name, value in out] + [f"· {note}" for note in report.notes])


def _of_series(s: Mapping[str, Any]) -> list[tuple[str, str]]:
    place = s["orientation"] if s["known"] else "position in the patient unknown"
    size = f"{_by((*s['matrix'], s['slices']))} voxels of {_by(s['voxel_mm'])} mm, thickness {s['thickness_mm']:g} mm"
    apart = f", slices {s['steps_mm']} mm apart" if "steps_mm" in s else ""
    across, along = s["shear_mm"]
    shifted = f", each slice {across:g} and {along:g} mm aside of the last" if across or along else ""
    maker = "scanner not stated" if s["scanner"] == "not stated" else s["scanner"]
    return [("images", f"{s['series']}, {maker}"), ("geometry", f"{place}, {size}{apart}{shifted}")]


def _of_projections(p: Mapping[str, Any]) -> list[tuple[str, str]]:
    cone = p["beam"] == "cone"
    shape = {"parallel": "parallel rays", "flat": "fan, flat detector", "curved": "fan, curved detector"}
    parts = counted(p["rows"], "row") if cone else counted(p["slices"], "slice")
    element = _by((p["spacing_mm"], p["row_spacing_mm"])) if cone else f"{p['spacing_mm']:g}"
    size = (f"{counted(p['rows'], 'row')} of " if cone else "") + f"{p['detectors']} elements of {element} mm"
    aside = f", {p['offset_mm']:g} mm aside" if p["offset_mm"] else ""
    aside += f", {p['row_offset_mm']:g} mm up" if p.get("row_offset_mm") else ""
    out = [
        ("projections", f"{p['holds']}, {parts} of {counted(p['views'], 'view')} over {p['covered_degrees']:g}°"),
        ("beam", shape.get(p["beam"], "cone, flat detector")),
        ("detector", f"{size}{aside}"),
    ]
    if "source_mm" in p:
        out.append(("axis", f"{p['source_mm']:g} mm from the source, {p['detector_mm']:g} mm from the detector"))
    pixels = [_by(p["matrix"][::-1]) + " pixels"] if "matrix" in p else []
    pixels += [f"of {p['voxel_mm']:g} mm"] if "voxel_mm" in p else []
    pixels += [f"in {counted(p['slices'], 'slice')}"] if cone and "slices" in p else []
    return [*out, *([("image", " ".join(pixels))] if pixels else [])]


def _of_views(v: Mapping[str, Any]) -> list[tuple[str, str]]:
    low, high = v["table_mm"]
    first, last = v["slices_mm"]
    water = v["water_per_mm"]
    turns = f"{v['turns']:g} turns of {v['views_a_turn']}"
    return [
        ("scanner", v["scanner"]),
        ("projections", f"{v['projections']}, {turns}, table {low:g} to {high:g} mm"),
        ("beam", v["beam"]),
        ("detector", f"{_by(v['rows_columns'])} elements of {_by(v['element_mm'])} mm"),
        ("axis", f"{v['source_mm']:g} mm from the source, {v['detector_mm']:g} mm from the detector"),
        ("image", f"{counted(v['slices'], 'slice')}, {first:g} to {last:g} mm, thickness {v['thickness_mm']:g} mm"),
        ("water", water if isinstance(water, str) else f"{water:g} /mm"),
        *([] if v["known"] else [("place", "position of the patient not stated")]),
    ]


def _by(values: Sequence[float]) -> str:
    return "×".join(f"{v:g}" for v in values)
