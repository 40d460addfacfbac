"""The result of an adaptation: weights with their card and their parent's recipe, and a sentence for the user."""

from __future__ import annotations

import shutil
from pathlib import Path

from recon.data import counted
from recon.io.atomic import atomic_dir
from recon.learn.adapt import Adapted, Plan
from recon.nets import weights


def write(made: Adapted, parent: weights.Loaded, source: Path, folder: Path, scan: str, plan: Plan) -> None:
    """Write weights, hash, card and the parent's recipe (which defines the range) as a folder, all or nothing.

    If nothing was gained, the weights are those of the parent, byte for byte. `source` is the parent's folder and
    `scan` the SHA-256 of the scan, which reveals nothing about the patient.
    """
    with atomic_dir(folder) as temporary:
        if made.kept:
            weights.save(made.network, temporary)
        else:
            for name in (weights.FILE, weights.HASH):
                shutil.copyfile(source / name, temporary / name)
        if (source / "recipe.toml").is_file():
            shutil.copyfile(source / "recipe.toml", temporary / "recipe.toml")
        (temporary / "card.md").write_text(card(made, parent, scan, plan), encoding="utf-8")


def said(made: Adapted, parent: str) -> str:
    """The sentence on the result."""
    how = f"in {counted(made.steps, 'step')}, {made.seconds:.0f} s"
    if not made.steps:
        return (
            f"the time ran out before the first training step ({made.seconds:.0f} s): the weights of {parent} "
            "were written unchanged; give more --minutes"
        )
    if not made.kept:
        return (
            f"{parent} predicts the held-out lines of this scan no worse than any adapted weights {how}: its "
            "own weights were written unchanged"
        )
    return (
        f"the error of {counted(made.lines, 'held-out line')} fell by {1 - made.after / made.before:.1%} {how} "
        f"(χ² per sample {made.before:.3f} to {made.after:.3f})"
    )


def card(made: Adapted, parent: weights.Loaded, scan: str, plan: Plan) -> str:
    """The model card of adapted weights."""
    gain = 1 - made.after / made.before
    result = (
        f"χ² of the held-out samples fell from {made.before:.4f} to {made.after:.4f} ({gain:.1%})."
        if made.kept
        else (
            f"No significant gain on the held-out samples (χ² {made.before:.4f}): these are the parent's own weights."
        )
    )
    return f"""# {parent.name}, adapted to one scan

## Use

    recon run scan.h5 --weights THIS-FOLDER -o out/

For the scan named below, and scans of the same protocol and scanner; `recipe.toml` is that of the parent and
defines its range.

## Data

| what | SHA-256 |
|---|---|
| parent weights, {parent.name} | {parent.sha256} |
| scan, undersampled (the only data used) | {scan} |

## Training

{made.steps} steps in {made.seconds:.0f} s; rate {plan.rate:g}, seed {plan.seed}. Of the lines outside the ACS block
{plan.held:.0%} ({made.lines} lines) were held out for validation. In each split, {plan.hidden:.0%} of the other lines
made the loss.

## Results

{result}
The held-out lines were drawn by the seed. No training step used them, but they decided when to stop.

## Limits

No fully sampled scan was available: a gain on held-out lines does not prove a better image. The limits of the parent
apply, too.
"""
