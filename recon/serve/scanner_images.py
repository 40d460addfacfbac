"""Images that a scanner sends instead of raw data: passed on unchanged, and denoised if a recipe asks for it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from defusedxml import ElementTree as safe
from defusedxml.common import DefusedXmlException

from recon.data import ReconError
from recon.errors import counted, sentence
from recon.io.mrd_image import ImageMessage, meta_xml
from recon.io.provenance import KEY
from recon.recipe import Recipe

#: image_type of a magnitude. An image without a type may be a phase image and is not changed.
_MAGNITUDE = 1
#: A denoised series beside its original has the number of the original plus this.
_BESIDE = 1000
_HIGHEST = 0xFFFF

_MEMORY = "lower max_sessions in the site's file"

Meta = dict[str, list[str]]


@dataclass
class Passing:
    """What has been done to the scanner's images so far, and the series that were sent back."""

    came: int = 0
    denoised: int = 0
    #: Images returned unchanged although the recipe asks for denoising, by reason.
    left: dict[str, int] = field(default_factory=dict)
    theirs: set[int] = field(default_factory=set)
    ours: set[int] = field(default_factory=set)

    def arrived(self, message: ImageMessage, recipe: Recipe) -> None:
        """Count an image, and reserve the series that `replies` will use, before raw data can take it."""
        series = int(message.header["image_series_index"])
        self.came += 1
        self.theirs.add(series)
        if _wanted(message, recipe) and _beside(series, recipe) <= _HIGHEST:
            self.ours.add(_beside(series, recipe))

    @property
    def highest_series(self) -> int:
        return max(self.theirs | self.ours, default=-1)

    def notes(self) -> list[str]:
        return [
            f"{counted(n, 'image was returned unchanged', 'images were returned unchanged')}: {reason}"
            for reason, n in self.left.items()
        ]


def replies(message: ImageMessage, recipe: Recipe, state: Passing) -> Iterator[ImageMessage]:
    """The reply to an image that has `arrived`: the image itself, or the result of the recipe's section `images`.

    Magnitudes are denoised; phase, real, imaginary and complex images and those of unknown type are returned unchanged.
    A denoised image has the header, type, size and attributes of its original, and states the processing in history,
    description and comment. An image that cannot be denoised is returned unchanged, with the reason in its comment.
    """
    if not _wanted(message, recipe):
        yield passed_on(message)
        return
    series = int(message.header["image_series_index"])
    beside = _beside(series, recipe)
    if recipe.images.original:
        yield passed_on(message)
    try:
        out = _denoised(message, recipe, _free(beside, series, state.theirs))
    except Exception as e:  # in any case the scanner keeps its image
        reason = sentence(e, memory=_MEMORY)
        state.left[reason] = state.left.get(reason, 0) + 1
        if not recipe.images.original:
            yield passed_on(message, f"not denoised: {reason}")
        return
    state.denoised += 1
    yield out


def _wanted(message: ImageMessage, recipe: Recipe) -> bool:
    magnitude = int(message.header["image_type"]) == _MAGNITUDE and not np.iscomplexobj(message.pixels)
    return recipe.images.denoise > 0 and magnitude


def _beside(series: int, recipe: Recipe) -> int:
    return series + _BESIDE if recipe.images.original else series


def _free(number: int, series: int, taken: Collection[int]) -> int:
    if number != series and (number > _HIGHEST or number in taken):
        raise ReconError(
            f"the series {number} is already in use, so there is no number for denoised images next to the "
            "originals; set images.original = false"
        )
    return number


def _denoised(message: ImageMessage, recipe: Recipe, series: int) -> ImageMessage:
    from recon import magnitude

    values = message.pixels
    if not values.size:
        raise ReconError("the image has no pixels; send images with pixels")
    found = magnitude.denoise(values.reshape(-1, *values.shape[-2:]).astype(np.float32), recipe)
    pixels = found.data.reshape(values.shape)
    if values.dtype.kind in "iu":
        bounds = np.iinfo(values.dtype)
        pixels = np.rint(pixels).clip(bounds.min, bounds.max)
    head = message.header.copy()
    head["image_series_index"] = series
    meta = _meta(message.attributes)
    share = f"{100 * recipe.images.denoise:.0f} %"
    how = f"Denoised by recon {found.record['version']}, {share} of method tv, recipe {recipe.name}"
    comment = "ImageComments" if "ImageComments" in meta else "ImageComment"
    added = {
        "ImageProcessingHistory": ["RECON", "DENOISE"],
        "SequenceDescriptionAdditional": [f"denoised {share}"],
        comment: [f"{how} sha256:{found.record['recipe_hash']}"],
    }
    for name, more in added.items():
        meta[name] = [*meta.get(name, []), *more]
    record = {"provenance": found.record, "trust": {}, "notes": [how], "axes": [], "units": "", "geometry_known": True}
    meta[KEY] = [json.dumps(record, sort_keys=True)]
    attributes = meta_xml({**meta, "Keep_image_geometry": ["1"]})
    return replace(message, header=head, attributes=attributes, pixels=pixels.astype(values.dtype))


def passed_on(message: ImageMessage, comment: str = "") -> ImageMessage:
    """A scanner's image as it is sent back: pixels and attributes unchanged, its geometry marked as final."""
    meta = _meta(message.attributes)
    if comment:
        meta["ImageComment"] = [*meta.get("ImageComment", []), comment]
    return replace(message, attributes=meta_xml({**meta, "Keep_image_geometry": ["1"]}))


def _meta(attributes: str) -> Meta:
    """The attributes of an image by name; empty if they cannot be read."""
    meta: Meta = {}
    try:
        root: Any = safe.fromstring(attributes, forbid_dtd=True) if attributes.strip() else ()
        for entry in root:
            values = [v.text or "" for v in entry.findall("value")]
            meta.setdefault(entry.findtext("name") or "", []).extend(values)
    except (safe.ParseError, DefusedXmlException, ValueError):
        meta = {}
    meta.pop("", None)
    return meta
