"""The benchmark of acceleration factors: from scans to a folder of records, pictures and one page."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon import pipeline
from recon.accuracy.compare import MEASURES, Comparison, Others, Plan, compare
from recon.accuracy.page import page
from recon.accuracy.picture import picture
from recon.accuracy.undersample import measured
from recon.data import CTSeries, DataError, RawScan, ReconError
from recon.io.atomic import put, write_error
from recon.progress import Report

#: Files of a folder of results, besides the pictures.
RECORDS, TABLE, PAGE = "results.json", "results.csv", "index.html"


def bench(
    scans: Mapping[str, RawScan],
    plan: Plan | Mapping[str, Plan],
    folder: Path,
    *,
    replace: bool = False,
    report: Report | None = None,
    others: Others = MappingProxyType({}),
    truths: Mapping[str, NDArray[np.float64]] = MappingProxyType({}),
    left: Callable[[str, ReconError], None] | None = None,
) -> list[dict[str, Any]]:
    """Compare every scan as `compare` does and write the results into `folder`; returns the records.

    There is one plan for all scans, or one for each by its name; the same holds for the `truths` of simulated scans.
    `folder` gets results.json (a list of records), results.csv, index.html and a PNG for each scan, all updated after
    each scan. A scan with several stacks of slices gives one comparison for each. Every scan is checked before the
    first is reconstructed: raises DataError, with its name, for one that is not fully sampled, and ReconError for a
    folder that holds results unless they may be replaced. If `left` is given, it is called with the name and the reason
    for each scan without a reference, and the others are compared; nothing is written if none is left.
    """
    if (folder / RECORDS).exists() and not replace:
        raise ReconError(f"{folder} already holds results; give another folder, or --force to replace them")
    able = {}
    for name, scan in scans.items():
        try:
            measured(scan)
            able[name] = scan
        except DataError as e:
            if left is None:
                raise DataError(f"{name}: {e}") from None
            left(name, e)
    if not able:
        return []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise write_error(folder, e) from e
    records: list[dict[str, Any]] = []
    pictures: dict[str, bytes] = {}
    for name, scan in able.items():
        count = len(pipeline.stacks(scan))
        for stack in range(count):
            own = name if count == 1 else f"{name}_stack-{stack + 1}"
            own_plan = plan if isinstance(plan, Plan) else plan[name]
            try:
                found = compare(scan, own, own_plan, stack=stack, report=report, others=others, truth=truths.get(name))
            except ReconError as e:
                if left is None:
                    raise
                left(own, e)
                continue
            records += [dict(t.record) for t in found.trials]
            pictures[own] = png(found)
            put(folder / f"{own}.png", pictures[own])
            put(folder / RECORDS, (json.dumps(records, indent=1, allow_nan=False) + "\n").encode())
            put(folder / TABLE, table(records).encode())
            put(folder / PAGE, page(records, pictures).encode())
    return records


def png(compared: Comparison) -> bytes:
    """The picture of a comparison as a PNG file."""
    out = io.BytesIO()
    picture(compared).save(out, format="PNG", optimize=True)
    return out.getvalue()


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Records as CSV: an interval takes two columns, `*_low` and `*_high`; unknown values stay empty."""
    rows = []
    for r in records:
        row: dict[str, Any] = {}
        for key, value in r.items():
            if key.endswith("_ci"):
                row[key.replace("_ci", "_low")], row[key.replace("_ci", "_high")] = value or (None, None)
            else:
                row[key] = value
        rows.append(row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def names(files: Sequence[Path], scans: Sequence[RawScan | CTSeries], *, numbered: bool = False) -> list[str]:
    """Names of the scans in records, pages and file names: the stem of the file, or scan-1, scan-2, …

    A stem that contains part of the patient's name, identifier, birth date or accession number, as stated in the scan,
    is replaced by the number. `numbered` does this for all, for sites whose file names identify patients in another
    way. Equal stems get a number.
    """
    stems = [_stem(f) for f in files]
    return [
        f"scan-{n}" if numbered or not stem or _identifies(stem, scan) or stems.count(stem) > 1 else stem
        for n, (stem, scan) in enumerate(zip(stems, scans, strict=True), 1)
    ]


def summary(records: Sequence[Mapping[str, Any]]) -> str:
    """The measures within the body as lines of text."""
    wide = min(40, max([24, *(len(r["scan"]) for r in records)]))
    lines = [f"{'scan':{wide}} {'method':20} {'R':>4} {'eff.':>6} {'PSNR':>7} {'SSIM':>7} {'NMSE':>9} {'s':>8}"]
    for r in records:
        start = f"{r['scan'][:wide]:{wide}} {r['method']:20} {r['acceleration']:4g}"
        if r["failed"]:
            lines.append(f"{start} {r['failed']}")
            continue
        psnr, ssim, nmse = (float("inf") if r[m] is None else r[m] for m in MEASURES)
        lines.append(
            f"{start} {r['effective_acceleration']:6.2f} {psnr:7.2f} {ssim:7.4f} {nmse:9.6f} {r['seconds']:8.2f}"
        )
    return "\n".join(lines)


def _stem(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", path.name.split(".")[0]).strip("._-")


def _identifies(stem: str, scan: RawScan | CTSeries) -> bool:
    """Whether the stem contains a word of at least three characters from the scan's patient data."""
    patient, study = scan.header.patient, scan.header.study
    known = (patient.name, patient.id, patient.birth_date, study.accession)
    words = {w for text in known for w in re.split(r"[\W_]+", text.lower()) if len(w) >= 3}
    plain = stem.lower()
    return any(w in plain for w in words)
