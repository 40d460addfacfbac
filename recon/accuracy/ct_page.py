"""The page and the pictures of the benchmark of CT denoisers."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recon.accuracy.chart import chart
from recon.accuracy.page import FOOT, head, shown
from recon.accuracy.picture import GAP, TEXT, write
from recon.errors import counted

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Record = Mapping[str, Any]

#: Longer side of a tile; windows in HU of images and of differences.
TILE, WINDOW, DIFFERENCE = 288, (-160.0, 240.0), (-100.0, 100.0)

_METHOD = """<p>Noise was added to each slice, as a share of its own dose would have it. That dose is estimated from
the noise in the slice. The added noise is <em>simulated</em> in projections (Poisson counts,
electronic noise, a bow-tie; parallel and curved fan beams; filtered backprojection with a Hann
window). The slices have noise of their own, which stays in the reference. <em>The most</em> is the
PSNR that knowing the noise-free slices would reach, as far as their own noise can be estimated.
Classical methods use the setting that is closest to the reference. PSNR and SSIM are of the body
with a data range of 1400 HU.</p>
<p><em>d′</em> is the detectability of discs of 10 mm diameter, 10, 15 and 20 HU above their
surroundings, for a channelised Hotelling observer. <em>Contrast left</em> is the share of contrast
that discs of 4, 6, 10 and 15 mm and 10 to 40 HU keep, measured with the same noise with and without
them. MTF&nbsp;50 is the frequency at which the transfer function at the edge of a rod falls to
half, in cycles per pixel: a rod of bone, and a faint one of 100 HU. Noise of a phantom is the
standard deviation in uniform squares, and also that without a second-order polynomial, since
shading is not noise. Pictures are shown from −160 to 240 HU, differences from −100 to 100 HU.</p>
"""
_COLUMNS: dict[str, tuple[str, str, Callable[..., float] | None]] = {
    "psnr": ("PSNR", "{:.2f}", max), "psnr_bound": ("the most", "{:.2f}", None),
    "ssim": ("SSIM", "{:.4f}", max), "rmse_HU": ("RMSE / HU", "{:.1f}", min),
    "d_10_HU": ("d′ 10 HU", "{:.2f}", max), "d_15_HU": ("d′ 15 HU", "{:.2f}", max),
    "d_20_HU": ("d′ 20 HU", "{:.2f}", max), "noise_HU": ("noise / HU", "{:.2f}", None),
    **{f"contrast_{w}_mm": (f"contrast left, {w} mm", "{:.2f}", None) for w in (4, 6, 10, 15)},
    "noise_ratio": ("noise / before", "{:.2f}", None),
    "noise_detrended_HU": ("noise less shading / HU", "{:.2f}", None),
    "noise_detrended_ratio": ("noise less shading / before", "{:.2f}", None),
    "noise_per_mm": ("noise, cycles/mm", "{:.3f}", None),
    "mtf50": ("MTF 50", "{:.4f}", None), "mtf10": ("MTF 10", "{:.4f}", None),
    "mtf50_ratio": ("MTF 50 / before", "{:.3f}", None), "mtf50_faint": ("MTF 50, faint", "{:.3f}", None),
    "seconds_a_slice": ("s a slice", "{:.2f}", None),
}  # fmt: skip


def page(records: Sequence[Record], pictures: Mapping[str, bytes]) -> str:
    """The whole page of some records and a PNG for each scan, as HTML without network addresses."""
    parts = [head("CT denoisers"), "<h1>Denoisers of CT images</h1>", _METHOD]
    for scan in dict.fromkeys(r["scan"] for r in records):
        own = [r for r in records if r["scan"] == scan]
        parts.append(f"<h2>{html.escape(scan)}</h2>")
        for beam, dose in dict.fromkeys((r["beam"], r["dose"]) for r in own):
            here = [r for r in own if (r["beam"], r["dose"]) == (beam, dose)]
            said = "noise of the scanner, no reference" if dose is None else f"{_name(beam)}, dose {dose:g}"
            parts += [f"<h3>{said}</h3>", _table(here)]
            if all("mtf_curve" in r for r in here):
                parts.append(_curves(here, "mtf_curve", "MTF", "cycles/pixel", 0.6))
            if all("nps_curve" in r for r in here):
                parts.append(_curves(here, "nps_curve", "NPS / HU² mm²", "cycles/mm", 0.5))
        if scan in pictures:
            parts.append(shown(pictures[scan], f"Reference, methods and what they changed, of {scan}"))
    return "\n".join([*parts, FOOT])


def picture(first: NDArray[Any], rows: Sequence[tuple[str, Mapping[str, NDArray[Any]]]], name: str) -> Picture:
    """Tiles of one slice: `first`, labelled `name`; for each row the images of methods above their differences from it.

    Nothing about the patient or the file is written into it.
    """
    from PIL import Image as pil

    scale = TILE / max(first.shape)
    height, width = (max(1, round(n * scale)) for n in first.shape)
    columns = 1 + max(len(images) for _, images in rows)
    band = 2 * (height + TEXT + GAP)
    sheet = pil.new("RGB", (columns * (width + GAP) - GAP, band * len(rows) - GAP), (0, 0, 0))

    def put(column: int, y: int, x: NDArray[Any], window: tuple[float, float], text: str) -> None:
        grey = np.rint(np.clip((x - window[0]) / (window[1] - window[0]), 0, 1) * 255).astype(np.uint8)
        how = pil.Resampling.NEAREST if scale >= 1 else pil.Resampling.BOX
        at = column * (width + GAP)
        write(sheet, at, y, text, width)
        sheet.paste(pil.fromarray(grey).resize((width, height), how).convert("RGB"), (at, y + TEXT))

    for n, (said, images) in enumerate(rows):
        y = n * band
        put(0, y, first, WINDOW, name)
        for column, (method, x) in enumerate(images.items(), 1):
            put(column, y, x, WINDOW, f"{method}\n{said}")
            put(column, y + height + TEXT + GAP, x - first, DIFFERENCE, f"{method} - {name}")
    return sheet


def _name(beam: str) -> str:
    return {"parallel": "parallel beam", "curved": "fan beam"}.get(beam, beam)


def _table(records: Sequence[Record]) -> str:
    known = [k for k in _COLUMNS if any(r.get(k) is not None for r in records)]
    rows = ["".join(f"<th>{_COLUMNS[k][0]}</th>" for k in known)]
    best = {k: better(r[k] for r in records) for k in known if (better := _COLUMNS[k][2])}
    for r in records:
        aside = [r["settings"]] if r["settings"] else []
        aside += [counted(r["fallbacks"], "slice unchanged", "slices unchanged")] if r["fallbacks"] else []
        said = f" <small>{html.escape('; '.join(aside))}</small>" if aside else ""
        cells = [f"<td>{html.escape(r['method'])}{said}</td>"]
        for k in known:
            mark = ' class="best"' if k in best and r[k] == best[k] else ""
            cells.append(f"<td{mark}>{'' if r.get(k) is None else _COLUMNS[k][1].format(r[k])}</td>")
        rows.append("".join(cells))
    body = "</tr>\n<tr>".join(rows)
    return f'<div class="scroll"><table><tr><th>method</th>{body}</tr></table></div>'


def _curves(records: Sequence[Record], key: str, unit: str, axis: str, end: float) -> str:
    lines = {r["method"]: [tuple(p) for p in r[key]] for r in records}
    top = max(v for points in lines.values() for f, v in points if f <= end)
    ticks = [(end * k / 5, f"{end * k / 5:.2g}") for k in range(5)] + [(end, f"{end:.2g} {axis}")]
    return chart(lines, ticks, (0.0, 1.05 * top or 1.0), unit, f"{unit} over {axis}")
