"""Lines of MRD version 1, as in a file and a stream: their headers, and the scan that they make."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recon.data import LINE, Encoding, Header, RawScan, Samples
from recon.io import line_rules

#: Counters of a line, in the order of ISMRMRD's EncodingCounters.
IDX = (
    "kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast", "phase", "repetition", "set",
    "segment", "user",
)  # fmt: skip

#: The acquisition header of MRD version 1, 340 bytes, in its order.
HEAD = np.dtype(
    [
        ("version", "<u2"), ("flags", "<u8"), ("measurement_uid", "<u4"), ("scan_counter", "<u4"),
        ("acquisition_time_stamp", "<u4"), ("physiology_time_stamp", "<u4", (3,)), ("number_of_samples", "<u2"),
        ("available_channels", "<u2"), ("active_channels", "<u2"), ("channel_mask", "<u8", (16,)),
        ("discard_pre", "<u2"), ("discard_post", "<u2"), ("center_sample", "<u2"), ("encoding_space_ref", "<u2"),
        ("trajectory_dimensions", "<u2"), ("sample_time_us", "<f4"), ("position", "<f4", (3,)),
        ("read_dir", "<f4", (3,)), ("phase_dir", "<f4", (3,)), ("slice_dir", "<f4", (3,)),
        ("patient_table_position", "<f4", (3,)), ("idx", np.dtype([(n, LINE[n]) for n in IDX])),
        ("user_int", "<i4", (8,)), ("user_float", "<f4", (8,)),
    ]
)  # fmt: skip


def assemble(
    lines: NDArray[np.void],
    parsed: tuple[Header, tuple[Encoding, ...], tuple[str, ...]],
    waveforms: int,
    samples: Callable[[NDArray[np.bool_]], Samples],
) -> RawScan:
    """The scan of lines from a file or a stream, with the result of `mrd_header.parse` and the number of waveforms.

    `samples` gives access to the samples of the lines that are kept, bool (line,). `lines` may be changed: an invalid
    sample_time_us becomes 0. Raises DataError as `line_rules.check` does.
    """
    header, encodings, found = parsed
    notes = [*found]
    if waveforms:
        notes.append(f"{waveforms} waveforms (ECG, respiration, …) are not used")
    odd = ~(np.isfinite(lines["sample_time_us"]) & (lines["sample_time_us"] >= 0))
    if odd.any():
        lines["sample_time_us"][odd] = 0
        notes.append(
            f"{int(odd.sum())} of {len(lines)} lines have an impossible sample_time_us; it is treated as unknown"
        )
    if (lines["trajectory_dimensions"] > 1).any():
        encodings, found = line_rules.off_grid(lines, encodings, samples(np.ones(len(lines), np.bool_)).trajectory)
        notes += found
    encodings, wider = line_rules.oversampled(lines, encodings)
    encodings, filled = line_rules.complete_limits(lines, encodings)
    keep, broken, rejected = line_rules.check(lines, encodings)
    lines, keep, shared = line_rules.calibration_of_others(lines, encodings, keep)
    said = (*notes, *wider, *filled, *broken, *shared)
    return RawScan(lines[keep], samples(keep), encodings, header, "ismrmrd", said, rejected)


def line_table(heads: NDArray[np.void]) -> NDArray[np.void]:
    """The table of LINE of acquisition headers (of HEAD, or of a file's equivalent)."""
    out = np.zeros(len(heads), LINE)
    for name in LINE.names or ():
        out[name] = heads["idx"][name] if name in IDX else heads[name]
    return out


def heads(lines: NDArray[np.void], numbers: NDArray[np.intp]) -> NDArray[np.void]:
    """The acquisition headers (HEAD) of lines (LINE), with their scan counters `numbers`."""
    head = np.zeros(len(lines), HEAD)
    for name in LINE.names or ():
        (head["idx"] if name in IDX else head)[name] = lines[name]
    head["version"] = 1
    head["scan_counter"] = numbers
    head["available_channels"] = lines["active_channels"]
    for channel in range(int(lines["active_channels"].max(initial=0))):
        word, bit = divmod(channel, 64)
        if word < 16:
            head["channel_mask"][lines["active_channels"] > channel, word] |= np.uint64(1 << bit)
    return head
