"""Whether this installation would reproduce an output: its record against what is installed here."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recon import __version__
from recon.data import ReconError, counted
from recon.io import provenance
from recon.recipe import digest, parse
from recon.starting import torch_version

#: Keys of the evidence on learned images, of MR and of CT, and how they are shown.
_NUMBERS = {
    "residual": "residual {:.2f}",
    "added": "added {:.2%}",
    "changed": "changed {:.1%}",
    "removed": "removed {:.2f}",
    "blur": "blur {:.2f} pixels",
    "patch": "patch {:.2f}",
    "share": "share {:.2f}",
}


@dataclass(frozen=True)
class Checked:
    """The record of an output, and a sentence for each difference here."""

    record: Mapping[str, Any]
    differences: tuple[str, ...]


def check(path: Path) -> Checked:
    """Read an output's record and compare it; raises ReconError for a file without one."""
    record = provenance.read_back(path)
    p = record["provenance"]
    found = []
    if p.get("version") != __version__:
        found.append(f"it was made by recon {p.get('version')}, this is {__version__}")
    found += _recipe(p)
    if p.get("method") == "own":
        found.append(f"it was made by the user's own function ({p.get('why')}), which a recipe cannot hold")
    found += _weights(p, record.get("units") == "HU")
    for name, here in _versions().items():
        there = p.get("versions", {}).get(name)
        if there not in (None, here):
            found.append(f"it was made with {name} {there}, here is {here}: the last digits may differ")
    return Checked(record, tuple(found))


def text(checked: Checked) -> str:
    """The record and the findings as text."""
    p, trust = checked.record["provenance"], checked.record.get("trust") or {}
    lines = [
        f"made by     {p.get('engine')} {p.get('version')}, {p.get('date')}, on {p.get('device')}",
        f"recipe      {p.get('recipe')}, sha256 {p.get('recipe_hash')}",
        f"method      {p.get('why') or p.get('method')}",
        f"seed        {p.get('seed')}",
        f"scan        sha256 {p.get('scan_sha256')}",
        "versions    " + ", ".join(f"{k} {v}" for k, v in p.get("versions", {}).items()),
    ]
    if p.get("weights_sha256"):
        lines.append(f"weights     {p.get('weights')}, sha256 {p['weights_sha256']}")
    if trust.get("items"):
        told = [words.format(trust[name]) for name, words in _NUMBERS.items() if trust.get(name) is not None]
        told.append(f"{trust['fallbacks']} of {counted(len(trust['items']), 'image')} classical")
        if trust.get("rephased"):
            told.append(f"{trust['rephased']} in part without the object's phase")
        lines.append("trust       " + ", ".join(told))
    lines += [f"note        {note}" for note in checked.record.get("notes", [])]
    if not checked.differences:
        lines.append("again       this installation would make the same image from the same scan")
    return "\n".join(lines + [f"differs     {d}" for d in checked.differences])


def as_json(checked: Checked) -> str:
    """The same as JSON."""
    return json.dumps({**checked.record, "differences": list(checked.differences)}, indent=2, sort_keys=True)


def _recipe(p: Mapping[str, Any]) -> list[str]:
    """Whether the recipe's values still have the same meaning: its hash, recomputed by this version."""
    try:
        now = digest(parse(p.get("recipe_values", {}), "its recipe"))
    except ReconError as e:
        return [f"this version does not support its recipe: {e}"]
    return (
        [] if now == p.get("recipe_hash") else ["its recipe has a different hash here: a default or a key has changed"]
    )


def _weights(p: Mapping[str, Any], of_ct: bool) -> list[str]:
    if not p.get("weights_sha256"):
        return []
    from recon.ct.learned import best
    from recon.nets import checkpoint, weights

    name = p.get("recipe_values", {}).get("solve", {}).get("weights", p.get("weights", ""))
    name = best() or name if of_ct and name == "auto" else name  # `auto` means another network for CT
    try:
        here = (checkpoint if p.get("method") == "varnet" else weights).load(name).sha256
    except ReconError as e:
        return [f"its network is not installed: {e}"]
    return [] if here == p["weights_sha256"] else [f"the weights {p.get('weights')} are others here, sha256 {here}"]


def _versions() -> dict[str, str]:
    import numpy

    return {"python": platform.python_version(), "torch": torch_version(), "numpy": numpy.__version__}
