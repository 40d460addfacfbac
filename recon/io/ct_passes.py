"""Which slices of one series UID make a volume: passes, kernels, phases and times lie at the same places."""

from __future__ import annotations

from collections.abc import Sequence

from recon.io.ct_slices import Slice, whole

#: What tells reconstructions apart that were stored under one UID: passes of the scanner, kernels, energies, times.
#: All but the first two may differ from slice to slice, so that they count only where each is that of a whole volume.
_APART = (
    "AcquisitionNumber", "ConvolutionKernel", "KVP", "TemporalPositionIdentifier", "NominalPercentageOfCardiacPhase",
    "TriggerTime", "AcquisitionTime", "ImageType",
)  # fmt: skip


def volumes(slices: Sequence[Slice]) -> tuple[list[list[Slice]], list[str]]:
    """The slices of one series UID, apart where that explains why several lie at one place, and what is to be said.

    Where no attribute does, and each place was measured as often as any other, they are told apart by their instance
    numbers: scanners count through the places of one time and then the next, or through the times of one place.
    """
    whole_series = list(slices)
    if not _twice(whole_series):
        return [whole_series], []
    for keyword in _APART:
        parts: dict[str, list[Slice]] = {}
        for s in whole_series:
            parts.setdefault(str(s.header.get(keyword, "")), []).append(s)
        whole_ones = len({_places(part) for part in parts.values()}) == 1
        if len(parts) > 1 and not any(map(_twice, parts.values())) and (whole_ones or keyword in _APART[:2]):
            return [parts[value] for value in sorted(parts)], []
    by_number = _by_number(whole_series)
    if not by_number:
        return [whole_series], []
    return by_number, [f"{len(by_number)} volumes of one series were told apart by their instance numbers alone"]


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
