"""What a scan contains, what will be ignored, and which rules it breaks: `recon info`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.data import (
    FRAME_COUNTERS,
    CTImages,
    CTProjections,
    CTViews,
    Encoding,
    Flag,
    RawScan,
    ReconError,
    counted,
    flagged,
)
from recon.geometry import orientation
from recon.io.provenance import plain
from recon.prepare import sort
from recon.prepare.oddities import oddities
from recon.prepare.sampling import Sampling, sampling
from recon.prepare.stacks import stacks

if TYPE_CHECKING:
    from recon.ct.report import CTReport

#: Samples (bytes) that are examined for NaN and dead channels.
_LOOK = 64 * 2**20

_COUNTERS = ("average", "slice", *FRAME_COUNTERS, "segment")


@dataclass(frozen=True)
class Report:
    """A scan in plain numbers and sentences, without patient data; `as_json` makes it printable.

    `findings` are broken rules and contradictions between header and lines; `ignored` counts lines that will not be
    used, by reason; `notes` come from the reader.
    """

    format: str
    system: Mapping[str, Any]
    lines: Mapping[str, int]
    counters: Mapping[str, int]
    encodings: tuple[Mapping[str, Any], ...]
    encoding: int
    readout: Mapping[str, Any]
    noise: Mapping[str, Any] | None
    sampling: Sampling | None
    frames: Mapping[str, int]
    geometry: tuple[Mapping[str, Any], ...]
    samples: Mapping[str, Any]
    ignored: Mapping[str, int] = field(default_factory=dict)
    rejected: int = 0
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def as_json(report: Report | CTReport) -> str:
    """The report as JSON text."""
    return json.dumps(plain(asdict(report)), indent=2, ensure_ascii=False)


def describe(scan: RawScan) -> Report:
    """Report on a raw scan; reads all headers and at most 64 MiB of samples. Raises DataError without imaging lines."""
    kinds, number = sort.kinds(scan), sort.choose_encoding(scan)
    encoding = scan.encodings[number]
    rows = kinds.imaging
    lines, all_lines = scan.lines[rows], scan.lines
    frames = sort.frames(scan, rows)
    system = scan.header.system
    pattern: Sampling | None = None
    findings = list(oddities(scan))
    if encoding.on_grid:
        ky, kz, valid = sort.row_index(all_lines[frames[0].rows], encoding)
        nz, ny = encoding.encoded_matrix[2], encoding.encoded_matrix[1]
        pattern = sampling(np.bincount(kz[valid] * ny + ky[valid], minlength=nz * ny).reshape(nz, ny))
    samples, faults = _samples(scan, rows)
    noise = all_lines[kinds.noise]
    return Report(
        format=scan.source,
        system={
            "vendor": system.vendor,
            "model": system.model,
            "field_T": system.field_T,
            "frequency_Hz": system.frequency_Hz,
            "channels": int(lines["active_channels"][0]),
            "coils named": len(system.coil_labels),
        },
        lines={
            "all": len(all_lines),
            "imaging": len(kinds.imaging),
            "calibration": len(kinds.calibration),
            "calibration and imaging": len(np.intersect1d(kinds.calibration, kinds.imaging)),
            "noise": len(kinds.noise),
            "phase correction": len(kinds.phasecorr),
        },
        counters={name: len(np.unique(lines[name])) for name in _COUNTERS},
        encodings=tuple(
            _encoding(e, int((all_lines["encoding_space_ref"] == i).sum())) for i, e in enumerate(scan.encodings)
        ),
        encoding=number,
        readout=_readout(lines, encoding),
        noise={
            "lines": len(noise),
            "samples": int(noise["number_of_samples"].astype(np.int64).sum()),
            "dwell_us": float(noise["sample_time_us"][0]),
        }
        if len(noise)
        else None,
        sampling=pattern,
        frames={"all": len(frames), "incomplete": sum(not f.complete for f in frames)},
        geometry=_geometry(scan, rows, encoding, findings),
        samples=samples,
        ignored=kinds.ignored,
        rejected=scan.rejected,
        findings=(*findings, *faults, *kinds.notes),
        notes=scan.notes,
    )


def describe_any(scan: RawScan | CTImages | CTProjections | CTViews) -> Report | CTReport:
    """Report on a scan of any kind."""
    if isinstance(scan, RawScan):
        return describe(scan)
    from recon.ct import report  # it imports torch, which a raw scan's report does without

    return report.describe(scan)


def _encoding(e: Encoding, lines: int) -> dict[str, Any]:
    return {
        "trajectory": e.trajectory,
        "encoded_matrix": e.encoded_matrix,
        "encoded_fov_mm": e.encoded_fov,
        "recon_matrix": e.recon_matrix,
        "recon_fov_mm": e.recon_fov,
        "limits": {name: (v.minimum, v.maximum, v.center) for name, v in e.limits.items()},
        "acceleration": e.acceleration,
        "calibration_mode": e.calibration_mode,
        "lines": lines,
    }


def _readout(lines: NDArray[np.void], encoding: Encoding) -> dict[str, Any]:
    centres = np.unique(lines["center_sample"])
    return {
        "samples": sorted({int(n) for n in lines["number_of_samples"]}),
        "grid": encoding.encoded_matrix[0],
        "center_sample": centres[:8].tolist(),
        "oversampling": round(encoding.encoded_fov[0] / encoding.recon_fov[0], 4),
        "dwell_us": sorted({round(float(t), 4) for t in lines["sample_time_us"]}),
        "reversed": int(flagged(lines, Flag.REVERSE).sum()),
        "discarded": int(((lines["discard_pre"] > 0) | (lines["discard_post"] > 0)).sum()),
        "trajectory_dimensions": int(lines["trajectory_dimensions"].max()),
    }


def _geometry(
    scan: RawScan, rows: NDArray[np.intp], encoding: Encoding, findings: list[str]
) -> tuple[dict[str, Any], ...]:
    try:
        found = stacks(scan, rows, encoding)
    except (ReconError, ValueError) as error:
        findings.append(str(error))
        return ()
    out = []
    for one in found:
        g = one.geometry
        findings += [note for note in one.notes if note not in findings]
        out.append(
            {
                "known": g.known,
                "orientation": orientation(g.normal) if g.known else "unknown",
                "voxel_mm": tuple(round(v, 4) for v in g.voxel),
                "matrix": (g.shape[2], g.shape[1], g.shape[0]),
                "thickness_mm": round(g.thickness, 4),
                "slices": len(one.slices),
            }
        )
    return tuple(out)


def _samples(scan: RawScan, rows: NDArray[np.intp]) -> tuple[dict[str, Any], list[str]]:
    """Examines samples of lines spread over the scan for NaN and channels without signal."""
    lines = scan.lines[rows]
    shape = (lines["active_channels"], lines["number_of_samples"])
    same = rows[(shape[0] == shape[0][0]) & (shape[1] == shape[1][0])]
    most = max(1, _LOOK // (8 * int(shape[0][0]) * int(shape[1][0])))
    chosen = same[:: -(-len(same) // most)]
    try:
        data = scan.samples.read(chosen)
    except ReconError as error:
        return {"lines looked at": 0}, [str(error)]
    good = sort.finite(data)
    dead = np.nonzero(~np.any(data, axis=(0, 2)))[0].tolist()
    faults = []
    if not good.all():
        faults.append(f"{int((~good).sum())} of {len(chosen)} inspected lines hold NaN or infinite samples")
    if dead:
        faults.append(f"{counted(len(dead), 'channel holds', 'channels hold')} only zeros: {', '.join(map(str, dead))}")
    return {"lines looked at": len(chosen), "lines with NaN": int((~good).sum()), "dead channels": dead}, faults


def text(report: Report | CTReport) -> str:
    """The report as text: one line per subject, then what is ignored, odd or noted."""
    if not isinstance(report, Report):
        from recon.ct.report import text as of_ct

        return of_ct(report)
    r = report
    e, s = r.encodings[r.encoding], r.sampling
    field_T = f"{r.system['field_T']:g} T" if r.system["field_T"] else ""
    maker = " ".join(str(v) for v in (r.system["vendor"], r.system["model"], field_T) if v)
    out = [("format", f"{r.format}, {counted(r.lines['all'], 'line')}"), ("scanner", maker or "not stated")]
    out.append(("lines", ", ".join(f"{n} {name}" for name, n in r.lines.items() if n and name != "all")))
    for i, one in enumerate(r.encodings):
        out.append(
            (
                f"encoding {i}",
                f"{one['trajectory']}, {counted(one['lines'], 'line')}" + (", used" if i == r.encoding else ""),
            )
        )
        out.append(("  acquired", f"{_by(one['encoded_matrix'])} over {_by(one['encoded_fov_mm'])} mm"))
        out.append(("  image", f"{_by(one['recon_matrix'])} over {_by(one['recon_fov_mm'])} mm"))
    varied = [f"{name} {n}" for name, n in r.counters.items() if n > 1]
    out.append(("counters", ", ".join(varied) or "one image"))
    out.append(
        ("frames", f"{r.frames['all']}" + (f", {r.frames['incomplete']} incomplete" if r.frames["incomplete"] else ""))
    )
    ro = r.readout
    extra = [f"oversampled {ro['oversampling']:g}×"] + [f"{ro[k]} {k}" for k in ("reversed", "discarded") if ro[k]]
    dwell = "/".join(f"{t:g}" for t in ro["dwell_us"])
    centre = "/".join(map(str, ro["center_sample"]))
    counts = "/".join(map(str, ro["samples"]))
    out.append(("readout", f"{counts} samples on {ro['grid']}, centre {centre}, dwell {dwell} µs, {', '.join(extra)}"))
    out.append(("channels", str(r.system["channels"])))
    noise = "none"
    if r.noise:
        size = f"{counted(r.noise['lines'], 'line')}, {counted(r.noise['samples'], 'sample')}"
        noise = f"{size}, dwell {r.noise['dwell_us']:g} µs"
    out.append(("noise scan", noise))
    if ro["trajectory_dimensions"]:
        out.append(("trajectory", f"{e['trajectory']}, {ro['trajectory_dimensions']} dimensions"))
    if s is not None:
        out.append(("sampling", _sampling(s)))
    for g in r.geometry:
        place = g["orientation"] if g["known"] else "position in the patient unknown"
        size = f"{_by(g['matrix'])} voxels of {_by(g['voxel_mm'])} mm"
        out.append(
            ("geometry", f"{place}, {counted(g['slices'], 'slice')}, {size}, thickness {g['thickness_mm']:g} mm")
        )
    body = [f"{name:<12} {value}" for name, value in out]
    body += [f"ignored      {n} {reason}" for reason, n in r.ignored.items()]
    body += [f"rejected     {counted(r.rejected, 'imaging line')}"] if r.rejected else []
    body += [f"! {finding}" for finding in r.findings] + [f"· {note}" for note in r.notes]
    return "\n".join(body)


def _sampling(s: Sampling) -> str:
    ny, nz = s.shape
    if s.full:
        return f"all {ny * nz} rows"
    parts = [f"{s.rows} of {ny * nz} rows (1 in {s.effective:.2f})"]
    if s.regular and s.acceleration != (1, 1):
        parts.append(f"R = {s.acceleration[0]}×{s.acceleration[1]}" + (f", CAIPI shift {s.caipi}" if s.caipi else ""))
    elif not s.regular:
        parts.append("irregular")
    if s.acs is not None and s.acceleration != (1, 1):
        (y0, y1), (z0, z1) = s.acs
        parts.append(f"ACS {y1 - y0}×{z1 - z0}")
    for axis, share, side in zip("yz", s.partial_fourier, s.missing):
        if side:
            parts.append(f"partial Fourier {share:.3g} along {axis} ({side} side missing)")
    return ", ".join(parts)


def _by(values: tuple[float, ...]) -> str:
    return "×".join(f"{v:g}" for v in values)
