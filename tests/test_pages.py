"""What the README and the documentation say is what was measured, and what there is."""

from __future__ import annotations

import importlib
import json
import re
import statistics
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer

from recon.accuracy import undersample
from recon.cli import app
from recon.pacs.settings import CONFIRM
from recon.recipe import Method, Recipe
from recon.serve.settings import Site
from recon.simulation.ct_scan import Scan

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
#: Rows of the README's table of accuracy, and what the records call them.
METHODS = {
    "zero-filled (`combine`)": ("zero-filled", None),
    "`grappa`": ("grappa", None),
    "`sense`": ("sense", None),
    "BART CG-SENSE, tuned": ("bart CG-SENSE, tuned", None),
    "BART L1-wavelet, tuned": ("bart wavelet, tuned", None),
    "`cs`": ("cs", None),
    "`unrolled` (`mri-small`, 4 MB)": ("unrolled", "mri-small"),
    "`unrolled` (`mri-base`, 20 MB, the default)": ("unrolled", "mri-base"),
}
#: Rows of its table of speed, and the cases of the records.
CASES = {
    "SENSE normal operator": "sense_normal",
    "ESPIRiT maps": "espirit",
    "CG-SENSE to a residual of 1.6e-4": "cg_sense",
    "L1-wavelet, 50 iterations": "l1_wavelet",
    "GRAPPA 5×5": "grappa",
    "radial CG-SENSE, 400 spokes": "radial",
    "parallel-beam projection": "projection",
    "exact backprojection": "backprojection",
    "filtered backprojection": "fbp",
    "cone-beam projection": "cone_projection",
    "FDK": "fdk",
    "`recon run` to NIfTI, one slice *": "cold_run",
    "`recon run` to DICOM": "run_to_dicom",
}


def records(name: str) -> list[dict[str, Any]]:
    found = json.loads((ROOT / "bench" / "results" / name).read_text())
    return found["records"] if isinstance(found, dict) else found


def rows(first: str) -> list[list[str]]:
    """The cells of the README's table whose head begins with a word, row by row."""
    lines = (ROOT / "README.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    table = lines[start : next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in [table[0], *table[2:]]]


def seconds(text: str) -> float:
    value, unit = re.fullmatch(r"(?:.* )?([\d.]+) (ms|s)", text).groups()  # type: ignore[union-attr]
    return float(value) * (1e-3 if unit == "ms" else 1)


def keys(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a dataclass of dataclasses with its default, sections before it."""
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            yield from keys(value, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, value


@pytest.mark.parametrize(("page", "settings", "whole"), [("recipe", Recipe(), False), ("site", Site(), True)])
def test_every_key_is_documented_with_its_default(page: str, settings: Any, whole: bool) -> None:
    """The page of recipes names keys within their sections, that of a site with them."""
    text = (ROOT / f"docs/reference/{page}.md").read_text()
    for key, value in keys(settings):
        name = key if whole else key.rpartition(".")[2]
        said = re.search(rf"^\| `{re.escape(name)}` \|([^|]*)\|", text, re.MULTILINE)
        assert said, f"docs/reference/{page}.md lacks {key}"
        stated = said[1].strip().strip("`")
        assert (json.loads(stated) if stated else None) == json.loads(json.dumps(value)), key


@pytest.mark.parametrize("verb", sorted(COMMANDS))
def test_every_option_of_a_verb_is_documented(verb: str) -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text()
    section = re.search(rf"^## {verb}$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section, f"docs/reference/command-line.md has no section on {verb}"
    shown = [p for p in COMMANDS[verb].params if not getattr(p, "hidden", False)]
    options = {o for p in shown for o in p.opts if o.startswith("--") and o != "--help"}
    assert options <= set(re.findall(r"--[a-z0-9-]+", section[1]))
    heads = re.findall(r"^\| ([^|]*) \||^(recon .*)", section[1], re.MULTILINE)
    assert set(re.findall(r"--[a-z][a-z0-9-]*", " ".join(a + b for a, b in heads))) <= options
    assert f"(#{verb})" in page.partition("## ")[0], "the table of all verbs lacks it"


CHOICES = {
    ("run", "--method"): get_args(Method),
    ("bench", "--mask"): get_args(undersample.Kind),
    ("send", "--confirm"): CONFIRM,
    ("simulate-ct", "--beam"): get_args(get_type_hints(Scan)["beam"]),
}


@pytest.mark.parametrize(("verb", "option"), CHOICES)
def test_the_help_of_an_option_names_every_choice_and_no_other(verb: str, option: str) -> None:
    """Help is written by hand, so that it needs no import of what it tells of."""
    (found,) = [p for p in COMMANDS[verb].params if option in p.opts]
    assert set(re.findall(r"[a-z][a-z-]+", found.help)) - {"or", "fan", "beams"} == set(CHOICES[verb, option])


def test_the_accuracy_that_the_readme_states_is_the_record() -> None:
    head, *table = rows("method")
    assert len(table) == len(METHODS)
    found = {
        (r["method"], r["weights"], r["acceleration"]): r
        for r in records("accuracy.json")
        if r["scan"] == "gpunufft_brain_t2_4ch"
    }
    for title, column in zip(head[1:], range(1, 4), strict=True):
        R, effective = re.match(r"R = (\d) \((?:effective )?([\d.]+)\)", title).groups()  # type: ignore[union-attr]
        for cells in table:
            r = found[(*METHODS[cells[0]], int(R))]
            assert f"{r['effective_acceleration']:.2f}" == effective
            ssim = f"{r['ssim']:.3f}".lstrip("0")
            assert cells[column].strip("*") == f"{r['psnr']:.1f} / {ssim}", (cells[0], R)


def test_the_times_that_the_readme_states_are_the_record() -> None:
    _, *table = rows("case")
    found = records("speed.json")
    assert len({r["machine"] for r in found}) == 1
    for name, size, ours, peer, ratio in table:
        numbers = [int(n) for n in re.findall(r"\d+", size.replace("256²", "256").replace("160³", "160"))]
        sizes = [r for r in found if r["case"] == CASES[name]]
        r = next(r for r in sizes if all(str(n) in re.findall(r"\d+", r["size"]["name"]) for n in numbers))
        theirs = r["peers"][peer.split()[0]]["s"]
        assert peer.split()[0] == r["peer"] or r["peer"] is None, name
        assert seconds(ours) == pytest.approx(r["ours_s"], rel=0.05), name
        assert seconds(peer) == pytest.approx(theirs, rel=0.05), name
        assert float(ratio) == pytest.approx(theirs / r["ours_s"], rel=0.02), name


def stated(pattern: str) -> list[float]:
    """The numbers of a sentence of the README."""
    text = " ".join((ROOT / "README.md").read_text().split())
    found = re.search(pattern, text)
    assert found, f"the README no longer says {pattern}"
    return [float(g.replace(",", "").replace("−", "-")) for g in found.groups()]


def test_the_leads_over_wavelets_that_the_readme_states_are_the_record() -> None:
    one_channel = [r for r in records("accuracy.json") if r["scan"].startswith(("ulf055_", "larson_"))]
    psnr = {(r["scan"], r["method"], r["weights"]): r["psnr"] for r in one_channel if r["acceleration"] == 2}
    scans = {scan for scan, *_ in psnr}
    leads = [psnr[s, "unrolled", "mri-base"] - psnr[s, "bart wavelet, tuned", None] for s in scans]
    assert len(leads) == 7
    found = stated(r"`mri-base` is ([\d.]+) dB above BART's tuned wavelets on average, and at least ([\d.]+) dB")
    assert found == pytest.approx([sum(leads) / 7, min(leads)], abs=0.05)


def test_the_leads_on_phantoms_that_the_readme_states_are_the_record() -> None:
    psnr = {(r["scan"], r["method"], r["weights"], r["acceleration"]): r["psnr"] for r in records("accuracy.json")}

    def leads(scan: str, over: str) -> list[float]:
        return [psnr[scan, "unrolled", "mri-base", R] - psnr[scan, over, None, R] for R in (2, 3, 4)]

    three = r"([−\d.]+), ([−\d.]+) and ([−\d.]+) dB above"
    gradient = stated(rf"gradient echo\*\* [^:]*: `mri-base` is {three} BART's tuned wavelets")
    assert gradient == pytest.approx(leads("siemens_gre_phantom", "bart wavelet, tuned"), abs=0.06)
    planar = stated(rf"echo-planar, 80²\*\* [^:]*: `mri-base` is {three} them, and {three} `cs`")
    both = leads("siemens_epi_phantom", "bart wavelet, tuned") + leads("siemens_epi_phantom", "cs")
    assert planar == pytest.approx(both, abs=0.06)


def test_the_ratios_in_the_prose_of_the_readme_are_the_record() -> None:
    found = {(r["case"], r["size"]["name"]): r for r in records("speed.json")}
    network = found["e2e_varnet", "15x640x368"]
    theirs = network["peers"]["fastmri"]
    ratio, ours, peer = stated(r"VarNet is ([\d.]+) times as fast .* and uses ([\d,]+) instead of ([\d,]+) MiB")
    assert ratio == pytest.approx(theirs["s"] / network["ours_s"], rel=0.03)
    assert (ours, peer) == (network["ours_MiB"], theirs["MiB"])


def test_the_accuracy_of_ct_that_the_readme_states_is_the_record() -> None:
    _, *table = rows("CT scan, dose")
    scans = {"chest": "itkelastix_chest_ct_every6", "head": "invesalius_head_ct", "heart": "totalseg_heart_cta_1p5mm"}
    for title, *cells in table:
        body, _, dose = title.split(", ")
        of = [r for r in records("ct.json") if r["scan"] == scans[body] and r.get("beam") == "parallel"]
        psnr = {r["method"]: r["psnr"] for r in of if r["dose"] == float(dose)}
        filters = max(psnr[m] for m in ("tv", "nlm", "bm3d"))
        (most,) = {r["psnr_bound"] for r in of if r["dose"] == float(dose)}
        found = [psnr["noisy"], filters, psnr["ct-small"], psnr["ct-base"], most]
        assert [cell.strip("*") for cell in cells] == [f"{x:.1f}" for x in found], title


def test_the_table_of_large_matrices_is_the_record() -> None:
    text = (ROOT / "docs" / "trust-numbers.md").read_text(encoding="utf-8")
    lines = text[text.index("| array, phase |") :].split("\n\n")[0].splitlines()[2:]
    found, drawn, seen, others, kept = records("large.json"), 0, 0, 0, 0
    assert len(lines) == 16
    for line in lines:
        about, size, count, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        R = 8 if "R = 8" in about else 4
        case = (about.split("`")[1], "smooth" if "smooth" in about else "susceptibility", int(size), R)
        mine = [r for r in found if (r["array"], r["phase"], r["size"], r["R"]) == case]
        mine = [r for r in mine if not r["iterations"] and r["acs"] == (16 if R == 8 else 24)]
        cs, base, small = ([r for r in mine if r["method"] == m] for m in ("cs", "mri-base", "mri-small"))
        assert len(cs) == len(base) == len(small) == int(count)
        gains = [[r["psnr_clean"] - c["psnr_clean"] for r, c in zip(of, cs)] for of in (base, small)]
        told = [f"{min(g):+.1f} to {max(g):+.1f} dB".replace("-", "−") for g in gains]
        told[1] += f", {max(r['invented'] for r in small):.1f}"
        bad = [r["invented"] >= 3 for r in base]
        tell = [(r["evidence"]["rephased"] or 0) > Recipe().trust.rephased for r in base]
        one, other = sum(b and t for b, t in zip(bad, tell)), sum(t and not b for b, t in zip(bad, tell))
        witness = [str(one), str(other)] if int(size) >= 288 else ["—", "—"]
        assert cells == [told[0], f"{max(r['invented'] for r in base):.1f}", str(sum(bad)), *witness, told[1]], about
        if int(size) >= 288:
            drawn, seen, others, kept = drawn + sum(bad), seen + one, others + len(bad) - sum(bad), kept + other
    assert drawn == seen
    assert f"somewhere in all\n{drawn} slices in which something was drawn, and in {kept} of {others} others" in text


def test_the_table_of_images_without_the_phase_is_the_record() -> None:
    text = (ROOT / "docs" / "trust-numbers.md").read_text(encoding="utf-8")
    _, table = text.split("| scans | slices | ratio |")
    head, _, *lines = table.split("\n\n")[0].splitlines()
    images = [name.strip().split(" (")[0] for name in head.strip("| ").split("|")]
    found = records("phases.json")

    def kind(r: dict[str, Any]) -> str:
        about, _, _ = r["case"].partition(",")
        return {"large": about, "scenes": f"scenes R = {about[-1]}"}.get(r["set"], r["set"])

    counted = 0
    for line in lines:
        about, count, ratio, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        mine = [r for r in found if kind(r) == about]
        cs, plain = ([r for r in mine if r["image"] == image] for image in ("cs", "plain"))
        assert len(cs) == len(plain) == int(count), about
        ratios = [r["rephased"] for r in plain]
        assert ratio == f"{min(ratios):.1f} to {max(ratios):.1f}", about
        for image, cell in zip(images, cells, strict=True):
            rows = [r for r in mine if r["image"] == image]
            gains = [r["psnr_clean"] - c["psnr_clean"] for r, c in zip(rows, cs, strict=True)]
            told = f"{statistics.mean(gains):+.1f} ({min(gains):+.1f}), {max(r['invented'] for r in rows):.1f}"
            assert cell == told.replace("-", "−"), (about, image)
        counted += int(count)
    assert counted == len([r for r in found if r["image"] == "plain"])


def test_the_table_of_adapted_raw_scans_is_the_record() -> None:
    text = (ROOT / "docs" / "how-to" / "adapt.md").read_text(encoding="utf-8")
    lines = text.split("| scan | weights | held-out χ² | PSNR, decibels |\n")[1].split("\n\n")[0].splitlines()[1:]
    found = {(r["scan"], r["weights"]): r for r in records("adapt.json") if "scan" in r}
    scans = {
        "FLAIR without the scanner's RF cage": "flair_nocage.npz", "FLAIR with it": "flair_rfcage.npz",
        "patient 4, GRE": "patient4.npz:GRE", "patient 4, FSE": "patient4.npz:FSE",
    }  # fmt: skip
    assert len(lines) == len(found)
    for line in lines:
        about, weights, held, psnr = (cell.strip() for cell in line.strip("|").split("|"))
        r = found[f"bispmri_ulf055_{scans[about]}", weights.strip("`")]
        kept = [f"{r['held_before']:.2f} → {r['held_after']:.2f}", f"{r['psnr_before']:.1f} → {r['psnr_after']:.1f}"]
        start = [f"{r['held_before']:.2f}, start kept", f"{r['psnr_before']:.1f}"]
        assert [held, psnr] == (kept if r["kept"] else start), about


@pytest.mark.parametrize(
    "page", ["README.md", "CHANGELOG.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]
)
def test_every_table_has_a_head_and_rows_of_its_width(page: str) -> None:
    """A blank line within a table makes text with bars of what follows."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    width = 0
    for n, line in enumerate(lines):
        if not line.startswith("|"):
            width = 0
            continue
        bars = len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line)))
        if not width:
            assert set(lines[n + 1]) <= set("|-: "), f"{page}:{n + 1} begins a table without a head"
            width = bars
        assert bars == width, f"{page}:{n + 1} has {bars - 1} cells of {width - 1}"


@pytest.mark.parametrize("part", ["operators", "prepare", "solve"])
def test_the_reference_shows_every_module_that_serves_by_hand(part: str) -> None:
    pages = "".join(p.read_text() for p in sorted((ROOT / "docs" / "reference" / "api").glob("*.md")))
    modules = [p.stem for p in sorted((ROOT / "recon" / part).glob("*.py")) if p.stem != "__init__"]
    assert modules
    assert [m for m in modules if not re.search(rf"^::: recon\.{part}\.{m}$", pages, re.MULTILINE)] == []


@pytest.mark.parametrize(
    ("bench", "weights", "page"),
    [
        ("ct_errors", "ct-base", "docs/mathematics-ct.md"),
        ("ct_means", "ct-base", "docs/mathematics-ct.md"),
        ("ct_neighbours", "ct-small", "docs/mathematics-ct.md"),
        ("ct_consistency", "ct-small", "docs/how-to/ct-denoising.md"),
        ("ct_kinds", "ct-base", "docs/how-to/ct-denoising.md"),
    ],
)
def test_the_rows_of_a_ct_bench_are_on_its_page(
    bench: str, weights: str, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    module = importlib.import_module(bench)
    rows = module.page([r for r in module.stored(module.OUT) if r["weights"] == weights])
    assert rows
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [row for row in rows if f"\n{row}\n" not in text] == []
