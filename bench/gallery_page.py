"""The page of the gallery from its records, and a contact sheet of the scans with the worst learned images.

python bench/gallery_page.py bench/results/gallery.json docs/gallery.md --sheet docs/pictures/gallery.png
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gallery
import numpy as np
from accuracy_page import table
from gallery import METHODS, bad, grouped, learned, record, worse
from gallery_cases import CASES
from numpy.typing import NDArray
from page import days
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont
from records import Record, stored

Scan = Mapping[str, Mapping[str, Any]]
Floats = NDArray[np.float64]
NETWORKS = ("mri-small", "mri-base", "auto")


def counted(scans: Sequence[Scan], name: str) -> list[str]:
    """For the scans of a family: learned images shown and their gain over `cs`, bad ones, false alarms."""
    mine = [s for s in scans if "psnr" in s[name] and "psnr" in s["cs"]]
    shown = [s for s in mine if learned(s[name])]
    gains = [s[name]["psnr"] - s["cs"]["psnr"] for s in shown]
    wrong = sum(bad(s[name], s["cs"]) for s in mine)
    vain = sum(bool(s[name]["reasons"]) and not worse(s[name], s["cs"]) for s in mine) if name != "auto" else None
    gain = f"{statistics.mean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})" if gains else "—"
    return [f"{len(shown)} of {len(mine)}", gain, str(wrong), "" if vain is None else str(vain)]


def families(scans: Mapping[tuple[str, str, int], Scan]) -> list[str]:
    """One row for each family and network."""
    heads = [
        "family",
        "",
        "learned images shown",
        "over `cs`, dB",
        "worse than `cs`",
        "not shown though better or equal",
    ]
    rows = []
    for family in CASES:
        mine = [s for (f, _, _), s in scans.items() if f == family]
        if mine:
            rows += [[family if n == 0 else "", f"`{m}`", *counted(mine, m)] for n, m in enumerate(NETWORKS)]
    rows += [["**all**" if n == 0 else "", f"`{m}`", *counted(list(scans.values()), m)] for n, m in enumerate(NETWORKS)]
    return table(heads, rows)


def cases(scans: Mapping[tuple[str, str, int], Scan]) -> list[str]:
    """One row for each case: `cs`, and the gains of the others, averaged over the seeds."""
    heads = ["case", "R", "`cs`", *(f"`{m}`" for m in ("sense", *NETWORKS)), "reason for rejection"]
    rows = []
    for family, named in CASES.items():
        for case in named:
            mine = [s for (f, c, _), s in scans.items() if (f, c) == (family, case)]
            told = [s for s in mine if "psnr" in s["cs"]]
            if mine and not told:
                rows.append([f"{family}: {case}", "", mine[0]["cs"].get("failed", "nothing to compare with")[:120]])
            if not told:
                continue
            cs = statistics.mean(s["cs"]["psnr"] for s in told)
            cells = [_gain(told, m) for m in ("sense", *NETWORKS)]
            why = sorted({_short(r) for s in told for m in NETWORKS for r in s[m].get("reasons", [])})
            R = statistics.mean(s["cs"]["R"] for s in told)
            rows.append([f"{family}: {case}", f"{R:.2f}", f"{cs:.1f}", *cells, "; ".join(why)])
    return table(heads, [[*r, *[""] * (len(heads) - len(r))] for r in rows])


def _gain(scans: Sequence[Scan], method: str) -> str:
    mine = [s for s in scans if "psnr" in s[method]]
    if not mine:
        return "failed"
    gain = statistics.mean(s[method]["psnr"] - s["cs"]["psnr"] for s in mine)
    ran = {str(s[method]["ran"]) for s in mine} if method == "auto" else set()
    wrong = sum(bad(s[method], s["cs"]) for s in mine)
    given = sum(bool(s[method]["reasons"]) for s in mine)
    said = [*sorted(r for r in ran if r != "mri-base")]
    said += [f"rejected {given}"] * bool(given) + [f"**worse {wrong}**"] * bool(wrong)
    return f"{gain:+.1f}" + (f" ({', '.join(said)})" if said else "")


def _short(reason: str) -> str:
    """A reason without its numbers."""
    for words, short in (
        ("no image explains", "residual"), ("no image fits", "residual"),
        ("residual of the learned image", "residual of the learned image"),
        ("nothing was measured", "added"),
        ("its noise", "noise"), ("its acceleration", "acceleration"), ("every second line", "every second line"),
        ("another phase", "phase outside the ACS"), ("differ in phase", "phase outside the ACS"),
        ("do not agree with it", "detail"), ("do not fit those inside", "detail"),
        ("row from where", "rows"), ("row (moved back", "rows"),
        ("two halves", "halves apart"), ("one half of k-space", "halves apart"),
        ("maps of the separate", "calibration elsewhere"), ("maps from the separate", "calibration elsewhere"),
        ("without the object's phase", "rephased"),
    ):  # fmt: skip
        if words in reason:
            return short
    return reason[:40]


def page(scans: Mapping[tuple[str, str, int], Scan], head: Mapping[str, Any], sheet: str) -> str:
    """The page as markdown."""
    every, measured = sum(map(len, CASES.values())), len({(f, c) for f, c, _ in scans})
    seeds = ", ".join(str(s) for s in sorted({s for _, _, s in scans}))
    intro = (gallery.__doc__ or "").split("\n\n", 2)[2].strip().replace("\n", " ")
    return "\n".join([
        "# A gallery of hard scans", "",
        f"Measured on {head.get('date')} by `python bench/gallery.py`, seeds {seeds}; records in "
        "`bench/results/gallery.json`. No scan here is raw or of `public_test`, and none was used to train a network "
        f"or to choose a limit of trust. {measured} of {every} cases were measured.", "", intro, "",
        "## By family", "", *families(scans), "",
        *([f"![Worst cases]({sheet})", ""] if sheet else []),
        "## By case", "",
        "PSNR of `cs` in dB, and the gain of the others over it; means over the seeds. For networks the learned image "
        "is compared even if it was rejected; `auto` is what a user gets.", "", *cases(scans), "",
    ])  # fmt: skip


def grey(x: Floats, top: float, side: int = 176) -> Picture.Image:
    """A tile of a picture from 0 to `top`."""
    picture = Picture.fromarray((255 * np.clip(x / top, 0, 1)).astype(np.uint8))
    picture.thumbnail((side, side), Picture.Resampling.LANCZOS)
    out = Picture.new("L", (side, side))
    out.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return out


def sheet(wanted: Sequence[tuple[str, str, int]], folder: Path, path: Path, side: int = 176) -> None:
    """Reference, `cs`, both networks, and five times the errors of the three: one row per scan."""
    out = Picture.new("L", (7 * side, (side + 14) * len(wanted)))
    pen, font = ImageDraw.Draw(out), ImageFont.load_default(11)
    for n, (family, case, seed) in enumerate(wanted):
        keep: dict[str, Floats] = {}
        found = {r["method"]: r for r in record(family, case, seed, CASES[family][case], folder, keep)}
        reference = keep["reference"]
        top = float(np.percentile(reference, 99.5))
        images = {m: keep[m] * np.vdot(keep[m], reference) / np.vdot(keep[m], keep[m]) for m in METHODS if m in keep}
        tiles = [reference, *(images[m] for m in ("cs", "mri-small", "mri-base"))]
        tiles += [5 * np.abs(images[m] - reference) for m in ("cs", "mri-small", "mri-base")]
        for i, tile in enumerate(tiles):
            out.paste(grey(tile, top, side), (i * side, n * (side + 14) + 14))
        values = ", ".join(f"{m} {found[m]['psnr']:.1f} dB" for m in ("cs", "mri-small", "mri-base"))
        pen.text((2, n * (side + 14)), f"{family}: {case} (seed {seed}): {values}; errors times 5", 255, font)
    path.parent.mkdir(parents=True, exist_ok=True)
    out.save(path, optimize=True)


def worst(scans: Mapping[tuple[str, str, int], Scan], count: int) -> list[tuple[str, str, int]]:
    """Cases whose learned image, shown or not, is furthest below that of `cs`: one scan of each."""
    below: dict[tuple[str, str], tuple[float, int]] = {}
    for (family, case, seed), s in scans.items():
        if "psnr" not in s["cs"] or "psnr" not in s["mri-base"] or "psnr" not in s["mri-small"]:
            continue
        gain = min(s[m]["psnr"] - s["cs"]["psnr"] for m in ("mri-small", "mri-base"))
        below[family, case] = min(below.get((family, case), (gain, seed)), (gain, seed))
    order = sorted(below, key=lambda k: below[k])
    return [(*k, below[k][1]) for k in order[:count]]


def main() -> None:
    """Write the page and the sheet; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RECON_DATA", "../shared/data")))
    options = parser.parse_args()
    found: list[Record] = stored(options.records)
    scans = grouped(found)
    shown = ""
    if options.sheet:
        sheet(worst(scans, options.rows), options.data / "validation", options.sheet)
        shown = os.path.relpath(options.sheet, options.page.parent)
    options.page.write_text(page(scans, {"date": days(found)}, shown), encoding="utf-8")


if __name__ == "__main__":
    main()
