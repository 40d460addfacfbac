"""What a scanner's user interface may request besides the name of a recipe: a few values, each from a list."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from recon.data import ReconError
from recon.recipe import Recipe

#: The value that keeps the recipe's; the first of each list and its default.
AS_RECIPE = "recipe"

#: Parameters that name a recipe; if both are given, the last one counts.
NAMES = ("customconfig", "config")


@dataclass(frozen=True)
class Parameter:
    """A parameter of the user interface: its id, label and explanation, its choices by id, and their effect."""

    id: str
    label: str
    information: str
    values: Mapping[str, tuple[str, Any]]
    apply: Callable[[Recipe, Any], Recipe]


def _denoise(recipe: Recipe, value: float) -> Recipe:
    return replace(recipe, solve=replace(recipe.solve, denoise=value), images=replace(recipe.images, denoise=value))


def _partial(recipe: Recipe, value: Any) -> Recipe:
    return replace(recipe, prepare=replace(recipe.prepare, partial_fourier=value))


def _parts(recipe: Recipe, value: Any) -> Recipe:
    return replace(recipe, output=replace(recipe.output, parts=value, complex=False))


PARAMETERS = (
    Parameter(
        "denoise",
        "Denoising",
        "How much noise a learned reconstruction takes away, or is taken from images sent instead of raw data",
        {"none": ("None", 0.0), "quarter": ("A quarter", 0.25), "half": ("Half", 0.5), "full": ("All", 1.0)},
        _denoise,
    ),
    Parameter(
        "partialfourier",
        "Partial Fourier",
        "What stands in for the part of k-space that was left out on one side",
        {"zerofill": ("Zeros", "zero-fill"), "homodyne": ("Homodyne", "homodyne"), "pocs": ("POCS", "pocs")},
        _partial,
    ),
    Parameter(
        "images",
        "Images",
        "Which images come back; each kind is a series of its own",
        {"magnitude": ("Magnitude", ("magnitude",)), "magnitudephase": ("Magnitude, phase", ("magnitude", "phase"))},
        _parts,
    ),
)


def wishes(text: str, notes: list[str]) -> dict[str, str]:
    """The parameters in the scanner's text, {"version": …, "parameters": {…}}; empty if it contains none."""
    try:
        found = json.loads(text)["parameters"]
        return {str(k): str(v) for k, v in found.items() if isinstance(v, str | int | float | bool)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        notes.append("the text after the header holds no JSON with parameters; it is not used")
        return {}


def name(given: Mapping[str, str]) -> str:
    """The name of the requested recipe, empty if there is none."""
    return ([given[key] for key in NAMES if given.get(key)] or [""])[-1]


def applied(recipe: Recipe, given: Mapping[str, str], notes: list[str]) -> Recipe:
    """The recipe with the requested values.

    Raises ReconError for a value that is not in the parameter's list; a note counts unknown parameters. Neither repeats
    what a peer sent.
    """
    known = {p.id: p for p in PARAMETERS}
    for p in PARAMETERS:
        value = given.get(p.id, AS_RECIPE)
        if value == AS_RECIPE:
            continue
        if value not in p.values:
            raise ReconError(f"the parameter {p.id} takes {', '.join((AS_RECIPE, *p.values))}; choose one of them")
        recipe = p.apply(recipe, p.values[value][1])
    unknown = sum(key not in known and key not in NAMES for key in given)
    if unknown:
        notes.append(f"{unknown} parameters of the user interface are not known here and change nothing")
    return recipe
