"""The verb `simulate-ct`, and what `run` asks of CT."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from recon.recipe import Recipe

Strength = Annotated[
    float | None,
    typer.Option(help="CT images: 1 takes the noise away, 0 leaves the image as it came", min=0, max=1),
]


def with_strength(plan: Recipe, strength: float | None) -> Recipe:
    """The recipe with another share of the denoised CT image, or as it is for None."""
    from dataclasses import replace

    return plan if strength is None else replace(plan, ct=replace(plan.ct, strength=strength))
