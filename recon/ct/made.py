"""The result of projections before it becomes an image with a header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.ct.denoise import Denoised
from recon.geometry import Geometry
from recon.prepare import ct as prepare


@dataclass(frozen=True, eq=False)
class Made:
    """HU (z, y, x), their position, the method and the reason for it, and the diameter in mm of the visible circle."""

    data: NDArray[np.float32] = field(repr=False)
    geometry: Geometry
    method: str
    why: str
    seen: float
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trust: Mapping[str, Any] = field(default_factory=dict)

    def streaked(self, lost: float) -> Made:
        """The same with `starved`, the share of lost rays in the worst slice, and a note if it is large."""
        said = prepare.streaked(lost)
        return replace(self, notes=(*self.notes, *([said] if said else [])), trust={**self.trust, "starved": lost})

    def cut(self, share: float) -> Made:
        """The same with `truncated`, the share of views that end within the body, and a note if there are any."""
        said = (
            f"the body extends beyond the detector in {share:.0%} of the views and was extrapolated there as "
            "water: soft tissue inside the field of view may be off by about 30 HU, by more at its rim or "
            "where the missing part is not like water"
        )
        return replace(self, notes=(*self.notes, *([said] if share else [])), trust={**self.trust, "truncated": share})

    def denoised(self, found: Denoised) -> Made:
        """The same with the images that a network made of it, and the evidence on them."""
        return replace(
            self,
            data=found.data,
            why=f"{self.why}, then {found.why}",
            notes=(*self.notes, *found.notes),
            provenance={**self.provenance, **found.provenance},
            trust={**self.trust, **found.trust},
        )
