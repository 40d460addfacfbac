"""The page of a benchmark: one self-contained HTML file with its pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from typing import Any

from recon import __version__
from recon.accuracy.chart import chart
from recon.accuracy.compare import MEASURES

Record = Mapping[str, Any]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 3rem; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } .best { font-weight: 700; }
.failed { text-align: left; color: #a33; }
small { color: #777; } img { max-width: 100%; background: #000; } .scroll { overflow-x: auto; }
@media (prefers-color-scheme: dark) {
  body { background: #181a1b; color: #ddd; } th, td, h2 { border-color: #444; } .failed { color: #f88; }
}
"""
_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width"><style>{style}</style></head><body>
"""
FOOT = f"<p><small>recon {__version__}. For research; not a medical device.</small></p></body></html>\n"
_METHOD = """<p>Each scan was fully sampled. Lines outside the mask were left out, and the rest was reconstructed
like any scan. The reference is the reconstruction of all lines, with coils combined by the maps of
the full data. Before comparison each image is multiplied by one factor, the same for all slices,
that brings it closest to the reference within the body. The data range of PSNR and SSIM (7×7,
uniform window) is the maximum of the reference volume. “Body” is the object without the surrounding
air. Small numbers in brackets are 95&nbsp;% intervals from a bootstrap over slices, given for eight
or more slices; slices of one head are not independent patients. Seconds include the whole
reconstruction and reading.</p>
"""


def page(records: Sequence[Record], pictures: Mapping[str, bytes]) -> str:
    """The whole page of some records and a PNG for each scan, as HTML without network addresses."""
    scans = list(dict.fromkeys(str(r["scan"]) for r in records))
    parts = [head("Acceleration factors"), "<h1>Acceleration factors against fully sampled references</h1>", _METHOD]
    if len(scans) > 1:
        parts += ["<h2>All scans</h2>", _means(records)]
    for scan in scans:
        own = [r for r in records if r["scan"] == scan]
        parts += [f"<h2>{html.escape(scan)}</h2>", _conditions(own), _chart(own)]
        for acceleration in dict.fromkeys(r["acceleration"] for r in own):
            parts.append(_table([r for r in own if r["acceleration"] == acceleration]))
        if scan in pictures:
            parts.append(shown(pictures[scan], f"Reference, reconstructions, errors and magnified region of {scan}"))
    parts.append(FOOT)
    return "\n".join(parts)


def head(title: str) -> str:
    """The start of a page."""
    return _HEAD.format(style=_STYLE, title=html.escape(title))


def shown(png: bytes, alt: str) -> str:
    """A picture within the page, and its text for screen readers."""
    data = base64.b64encode(png).decode()
    return f'<div class="scroll"><img alt="{html.escape(alt, True)}" src="data:image/png;base64,{data}"></div>'


def _conditions(records: Sequence[Record]) -> str:
    r = records[0]
    return (
        f"<p>{r['slices']} slice{'s' if r['slices'] != 1 else ''}, mask {html.escape(r['mask'])}, seed {r['seed']}, "
        f"data range {r['data_range']:.4g}; scan {html.escape(str(r['scan_sha256'])[:12])}.</p>"
    )


def _table(records: Sequence[Record]) -> str:
    first = records[0]
    effective = [r["effective_acceleration"] for r in records if r["effective_acceleration"]]
    title = f"R = {first['acceleration']:g}" + (f", effective {effective[0]:.2f}" if effective else "")
    rows = [
        f"<h3>{title} ({first['acs']} ACS lines)</h3>",
        '<div class="scroll"><table><tr><th>method</th><th>PSNR, body</th><th>SSIM, body</th><th>NMSE, body</th>'
        "<th>PSNR, whole</th><th>SSIM, whole</th><th>NMSE, whole</th><th>seconds</th></tr>",
    ]
    names = [m + s for s in ("", "_whole") for m in MEASURES]
    known = {n: [r[n] for r in records if r[n] is not None] for n in names}
    best = {n: (min if n.startswith("nmse") else max)(v) for n, v in known.items() if v}
    for r in records:
        said = [r["settings"]] if r["settings"] else []
        said += [f"classical in {r['fallbacks']} of its images"] if r["fallbacks"] else []
        aside = f" <small>{html.escape('; '.join(said))}</small>" if said else ""
        name = f"<td>{html.escape(r['method'])}{aside}</td>"
        if r["failed"]:
            rows.append(f'<tr>{name}<td class="failed" colspan="7">{html.escape(r["failed"])}</td></tr>')
            continue
        cells = []
        for n in names:
            mark = ' class="best"' if r[n] == best.get(n) else ""
            cells.append(f"<td{mark}>{_value(n, r[n])}{_interval(n, r[n + '_ci'])}</td>")
        rows.append(f"<tr>{name}{''.join(cells)}<td>{r['seconds']:.2f}</td></tr>")
    return "\n".join([*rows, "</table></div>"])


def _means(records: Sequence[Record]) -> str:
    """Means over the scans for which every method of the table has an image, for each mask and acceleration factor."""
    rows = [
        '<div class="scroll"><table><tr><th>method</th><th>R</th><th>mask</th><th>scans</th><th>PSNR, body</th>'
        "<th>SSIM, body</th></tr>"
    ]
    for acceleration, mask in dict.fromkeys((r["acceleration"], r["mask"]) for r in records):
        here = [r for r in records if (r["acceleration"], r["mask"]) == (acceleration, mask)]
        able = list(dict.fromkeys(r["method"] for r in here if r["psnr"] is not None))
        common = {r["scan"] for r in here} - {r["scan"] for r in here if r["method"] in able and r["psnr"] is None}
        for method in able if common else ():
            own = [r for r in here if r["method"] == method and r["scan"] in common]
            psnr, ssim = (sum(r[m] for r in own) / len(own) for m in ("psnr", "ssim"))
            cells = (html.escape(method), f"{acceleration:g}", html.escape(mask), str(len(own)), f"{psnr:.2f}")
            rows.append("<tr>" + "".join(f"<td>{c}</td>" for c in (*cells, f"{ssim:.4f}")) + "</tr>")
    return "\n".join([*rows, "</table></div>"])


def _chart(records: Sequence[Record]) -> str:
    """PSNR in the body over R as a chart, empty with fewer than two factors."""
    known = [r for r in records if r["psnr"] is not None]
    factors = sorted({r["acceleration"] for r in known})
    if len(factors) < 2:
        return ""
    lines = {
        m: sorted((r["acceleration"], r["psnr"]) for r in known if r["method"] == m)
        for m in dict.fromkeys(r["method"] for r in known)
    }
    bounds = min(r["psnr"] for r in known) - 1, max(r["psnr"] for r in known) + 1
    ticks = [(f, f"R = {f:g}") for f in factors]
    return chart(lines, ticks, bounds, "dB", "PSNR over acceleration factor", dots=True)


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "∞"
    how = {"psnr": "{:.2f}", "ssim": "{:.4f}", "nmse": "{:.5f}"}[name.removesuffix("_whole")]
    return how.format(value)


def _interval(name: str, interval: Sequence[float | None] | None) -> str:
    if not interval:
        return ""
    return f" <small>[{_value(name, interval[0])}, {_value(name, interval[1])}]</small>"
