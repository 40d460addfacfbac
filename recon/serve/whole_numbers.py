"""Integer pixels of images that are sent one by one: their step, decided by the first image of a series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recon.data import Image
from recon.io.mrd_image import ImagePart, steps


class Steps:
    """The steps of the integers of each part of each series, set by the first image that is not zero.

    `later` says whether a series may get further images, which may be brighter.
    """

    def __init__(self, parts: Sequence[ImagePart], later: bool) -> None:
        self._parts, self._later = parts, later
        self._known: dict[int, dict[ImagePart, float]] = {}

    def known(self, series: int) -> bool:
        """Whether all parts of a series have their step."""
        return len(self._known.get(series, {})) == len(self._parts)

    def steps_of(self, series: int, image: Image) -> Mapping[ImagePart, float]:
        """The steps of a series whose next image this is; without one while everything so far is zero."""
        found = self._known.setdefault(series, {})
        if not self.known(series):
            found |= {k: v for k, v in steps(image, self._parts, later=self._later).items() if k not in found}
        return found
