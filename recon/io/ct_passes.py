"""Which slices of one series UID make a volume: passes, kernels, phases and times can lie at the same positions."""

from __future__ import annotations

from collections.abc import Sequence

from recon.io import ct_places
from recon.io.ct_slices import Slice, whole

#: Attributes that distinguish reconstructions stored under one UID: passes of the scanner, kernels, energies, times.
#: All but the first two may differ from slice to slice, so they count only if each value belongs to a whole volume.
_APART = (
    "AcquisitionNumber", "ConvolutionKernel", "KVP", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase",
    "TriggerTime", "AcquisitionTime", "ImageType",
)  # fmt: skip

#: Fewest slices for an acquisition to be a separate volume: old scanners count each slice as an acquisition.
LEAST = 3


def volumes(slices: Sequence[Slice]) -> tuple[list[list[Slice]], list[str]]:
    """The slices of one series UID, divided if that explains several slices at one position, and notes.

    If no attribute distinguishes them, and each position was measured equally often, the instance numbers do. Scanners
    count either through the positions of one time and then the next, or through the times of one position.
    """
    whole_series = list(slices)
    if not _twice(whole_series):
        several = _acquisitions(whole_series)
        if not several:
            return [whole_series], []
        return several, [(f"{len(several)} acquisitions of one series have different grids: each becomes an image")]
    for keyword in _APART:
        parts = _by(keyword, whole_series)
        whole_ones = len({_places(part) for part in parts.values()}) == 1
        if len(parts) > 1 and not any(map(_twice, parts.values())) and (whole_ones or keyword in _APART[:2]):
            return [parts[value] for value in sorted(parts)], []
    by_number = _by_number(whole_series)
    if not by_number:
        return [whole_series], []
    return by_number, [(f"{len(by_number)} volumes of one series could be separated only by their instance numbers")]


def _by(keyword: str, slices: Sequence[Slice]) -> dict[str, list[Slice]]:
    parts: dict[str, list[Slice]] = {}
    for s in slices:
        parts.setdefault(str(s.header.get(keyword, "")), []).append(s)
    return parts


def _acquisitions(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Acquisitions of one series, if each lies on its own grid and together they lie on none; otherwise empty.

    A head is often scanned with one tilt below and with another above, or the table is moved in between.
    """
    if ct_places.straight(slices):
        return []
    parts = list(_by("AcquisitionNumber", slices).values())
    several = len(parts) > 1 and all(len(part) >= LEAST and ct_places.straight(part) for part in parts)
    return sorted(parts, key=lambda part: whole(part[0].header, "AcquisitionNumber") or 0) if several else []


def _by_number(slices: Sequence[Slice]) -> list[list[Slice]]:
    """Volume t holds the t-th instance of each place; none where numbers repeat or places have different counts."""
    single = {s.identity: s for s in slices}.values()
    numbers = [whole(s.header, "InstanceNumber") for s in single]
    if None in numbers or len(set(numbers)) < len(numbers):
        return []
    at: dict[str, list[Slice]] = {}
    for s in sorted(single, key=lambda s: whole(s.header, "InstanceNumber") or 0):
        at.setdefault(_place(s), []).append(s)
    if len(set(map(len, at.values()))) > 1:
        return []
    return [list(volume) for volume in zip(*at.values())]


def _twice(slices: Sequence[Slice]) -> bool:
    """Whether different objects have one place."""
    return len(_places(slices)) < len({s.identity for s in slices})


def _places(slices: Sequence[Slice]) -> frozenset[str]:
    return frozenset(map(_place, slices))


def _place(s: Slice) -> str:
    return str(s.header.get("ImagePositionPatient"))
