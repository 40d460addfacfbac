"""The page of measured accuracy, from the records of `bench/accuracy.py`.

python bench/accuracy_page.py bench/results/accuracy.json docs/accuracy.md
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from accuracy import leads
from opponents import OTHERS
from records import Record, stored

#: Names of the methods, in the order of the tables.
NAMES = {
    "zero-filled": "zero-filled (`combine`)",
    "grappa": "`grappa`",
    "sense": "`sense`",
    "bart CG-SENSE, tuned": "BART CG-SENSE, tuned",
    "bart wavelet, tuned": "BART L1-wavelet, tuned",
    "cs": "`cs`",
}
WHAT = {
    "raw": (
        "Measured scans",
        "Fully sampled raw k-space, undersampled retrospectively. The reference is the image of all lines.",
    ),
    "simulated": (
        "Simulated scans",
        "SIMULATED: an analytic head, coils by the Biot-Savart law, white noise. The reference is the image of exact "
        "k-space without noise. By default networks reconstruct what a full scan with its noise would show, and that "
        "noise counts as error here; with `denoise = 1` they reconstruct the noise-free image. Simulated and measured "
        "results cannot be compared with each other.",
    ),
}


#: A method, its weights if it has any, and the requested denoising.
Competitor = tuple[str, str | None, float]


def competitor(r: Record) -> Competitor:
    """The competitor of a record."""
    return r["method"], r["weights"], r.get("denoise", 0.0)


def competitors(records: Sequence[Record]) -> list[Competitor]:
    """The measured methods, each network separately, in the order of the tables."""
    order = list(NAMES)
    return sorted(
        set(map(competitor, records)),
        key=lambda c: (order.index(c[0]) if c[0] in order else len(order), c[2], c[1] != "mri-small", c),
    )


def called(method: str, weights: str | None, denoise: float = 0.0) -> str:
    """The name of a method in a table."""
    return f"`{method}` ({network(weights, denoise)})" if weights else NAMES.get(method, f"`{method}`")


def network(weights: str, denoise: float) -> str:
    """The name of a network in a table."""
    return f"`{weights}`, denoise = {denoise:g}" if denoise else f"`{weights}`"


def cell(record: Record | None) -> str:
    """PSNR and SSIM, or a note that there are none."""
    if record is None:
        return ""
    if record["failed"]:
        return "failed"
    psnr = "∞" if record["psnr"] is None else f"{record['psnr']:.1f}"
    # Slices in which the classical image replaced the network's.
    gave_way = f" ({record['fallbacks']} of {record['slices']} classical)" if record["fallbacks"] else ""
    return f"{psnr} / {record['ssim']:.3f}".replace(" 0.", " .") + gave_way


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of markdown."""
    return [f"| {' | '.join(r)} |" for r in (heads, ["---"] * len(heads), *rows)]


def by_factor(records: Sequence[Record]) -> list[str]:
    """A scan at several acceleration factors: one row per method."""
    at = {(*competitor(r), r["acceleration"]): r for r in records}
    factors = {r["acceleration"]: r["effective_acceleration"] for r in records if not r["failed"]}
    heads = ["method, PSNR / SSIM", *(f"R = {f:g} (effective {e:.2f})" for f, e in sorted(factors.items()))]
    return table(heads, ([called(*c), *(cell(at.get((*c, f))) for f in sorted(factors))] for c in competitors(records)))


def by_scan(records: Sequence[Record]) -> list[str]:
    """Several scans at one factor: one row per scan."""
    at = {(r["scan"], *competitor(r)): r for r in records}
    methods = competitors(records)
    scans = dict.fromkeys(r["scan"] for r in records)
    return table(
        ["scan, PSNR / SSIM", *(called(*c) for c in methods)],
        ([s, *(cell(at.get((s, *c))) for c in methods)] for s in scans),
    )


def section(data: str, records: Sequence[Record]) -> list[str]:
    """Tables and margins of measured or of simulated scans."""
    title, what = WHAT[data]
    lines = [f"## {title}", "", what, ""]
    if not records:
        return [*lines, "Not measured yet.", ""]
    scans = dict.fromkeys(r["scan"] for r in records)
    several = [s for s in scans if len({r["acceleration"] for r in records if r["scan"] == s}) > 1]
    for s in several:
        own = [r for r in records if r["scan"] == s]
        lines += [f"### {s}", "", _masks(own), "", *by_factor(own), ""]
    single = [r for r in records if r["scan"] not in several]
    for factor in sorted({r["acceleration"] for r in single}):
        own = [r for r in single if r["acceleration"] == factor]
        lines += [f"### One channel, R = {factor:g}", "", _masks(own), "", *by_scan(own), ""]
    heads = ["network", "over", "R", "scans", "PSNR, mean", "SSIM, mean", "PSNR, least"]
    rows = [
        [network(w, d), NAMES[lead.other], f"{lead.acceleration:g}", str(lead.scans), f"{lead.psnr:+.2f} dB",
         f"{lead.ssim:+.4f}", f"{lead.least:+.2f} dB ({lead.where})"]
        for d, w in sorted({(d, w) for _, w, d in map(competitor, records) if w})
        for lead in leads([r for r in records if competitor(r)[1:] == (w, d) or r["method"] in OTHERS])
    ]  # fmt: skip
    return [*lines, "### Leads over tuned opponents", "", *table(heads, rows), ""] if rows else lines


def _masks(records: Sequence[Record]) -> str:
    kept = sorted({(r["acceleration"], r["mask"], r["acs"]) for r in records})
    said = ", ".join(f"{a} at R = {f:g}" for f, _, a in kept)
    slices = " and ".join(str(n) for n in sorted({r["slices"] for r in records}))
    return f"Mask: {' and '.join(sorted({m for _, m, _ in kept}))}; ACS lines: {said}; slices: {slices}."


def page(records: Sequence[Record]) -> str:
    """The whole page as markdown."""
    days = ", ".join(sorted({r["date"] for r in records}))
    return "\n".join(
        [
            "# Accuracy",
            "",
            f"Measured on {days} by `python bench/accuracy.py`, records in `bench/results/accuracy.json`. PSNR in dB "
            "and SSIM (7×7) of magnitudes inside the body; the data range is the reference's maximum. Recipes are at "
            "their defaults. “Tuned” opponents use the regularisation weight that is best for each reference. Measured "
            "scans are of `public_test`. Networks were not chosen on them, but the solvers' shrinkage exponent and "
            "GRAPPA kernel were chosen in view of the T2 brain. Times are left out, because the machine was shared.",
            "",
            *(line for data in WHAT for line in section(data, [r for r in records if r["data"] == data])),
        ]
    )


def main() -> None:
    """Write the page; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("records", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    options.page.write_text(page(stored(options.records)), encoding="utf-8")


if __name__ == "__main__":
    main()
