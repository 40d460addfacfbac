"""The lines of a scan as a table: their flags, their counters, and which of them make an image."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

#: Counters that separate images; slices and encoding steps lie within an image, averages and segments are joined.
FRAME_COUNTERS = ("contrast", "phase", "repetition", "set")

#: One row per readout: the fields of ISMRMRD's acquisition header, with the same names.
LINE = np.dtype(
    [
        ("flags", "<u8"),
        ("encoding_space_ref", "<u2"),
        ("number_of_samples", "<u2"),
        ("active_channels", "<u2"),
        ("discard_pre", "<u2"),
        ("discard_post", "<u2"),
        ("center_sample", "<u2"),
        ("trajectory_dimensions", "<u2"),
        ("sample_time_us", "<f4"),
        ("acquisition_time_stamp", "<u4"),
        ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)),
        ("phase_dir", "<f4", (3,)),
        ("slice_dir", "<f4", (3,)),
        ("kspace_encode_step_1", "<u2"),
        ("kspace_encode_step_2", "<u2"),
        ("average", "<u2"),
        ("slice", "<u2"),
        ("contrast", "<u2"),
        ("phase", "<u2"),
        ("repetition", "<u2"),
        ("set", "<u2"),
        ("segment", "<u2"),
        ("user", "<u2", (8,)),
    ]
)


class Flag(IntEnum):
    """Acquisition flags of ISMRMRD by their number; flag n is set in `flags` when bit n − 1 is."""

    FIRST_IN_SLICE = 7
    LAST_IN_SLICE = 8
    NOISE = 19
    CALIBRATION = 20
    CALIBRATION_AND_IMAGING = 21
    REVERSE = 22
    NAVIGATION = 23
    PHASECORR = 24
    LAST_IN_MEASUREMENT = 25
    HPFEEDBACK = 26
    DUMMY = 27
    RTFEEDBACK = 28
    SURFACE_COIL_CORRECTION = 29
    PHASE_STABILIZATION_REFERENCE = 30
    PHASE_STABILIZATION = 31
    COMPRESSION1 = 53
    COMPRESSION2 = 54
    COMPRESSION3 = 55
    COMPRESSION4 = 56


def flag_bits(*flags: Flag) -> int:
    """The 64-bit mask in which the given flags are set."""
    return sum(1 << (int(f) - 1) for f in flags)


#: Lines with any of these flags are never part of an image.
NOT_IMAGE = (
    *(Flag.NOISE, Flag.NAVIGATION, Flag.PHASECORR, Flag.HPFEEDBACK, Flag.DUMMY, Flag.RTFEEDBACK),
    *(Flag.SURFACE_COIL_CORRECTION, Flag.PHASE_STABILIZATION_REFERENCE, Flag.PHASE_STABILIZATION),
)


def flagged(lines: NDArray[np.void], *flags: Flag) -> NDArray[np.bool_]:
    """Lines (line,), an array of LINE, in which any of the given flags is set."""
    return np.asarray((lines["flags"] & np.uint64(flag_bits(*flags))) != 0)


def imaging(lines: NDArray[np.void]) -> NDArray[np.bool_]:
    """Lines (line,) that belong to the image: none of NOT_IMAGE, and not only calibration (20 without 21)."""
    alone = flagged(lines, Flag.CALIBRATION) & ~flagged(lines, Flag.CALIBRATION_AND_IMAGING)
    return ~flagged(lines, *NOT_IMAGE) & ~alone
