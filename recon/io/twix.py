"""Siemens raw data (twix .dat, VB and VD/VE) through twixtools."""

from __future__ import annotations

import contextlib
import io
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import LINE, DataError, Flag, MissingPackage, RawScan, flag_bits, imaging
from recon.io import twix_header

#: Bit of Siemens' evaluation mask → flag number of ISMRMRD. The first and last readout of a slice are 7 and 8.
FLAGS = {
    1: Flag.RTFEEDBACK,
    2: Flag.HPFEEDBACK,
    11: Flag.LAST_IN_MEASUREMENT,
    14: Flag.PHASE_STABILIZATION_REFERENCE,
    15: Flag.PHASE_STABILIZATION,
    21: Flag.PHASECORR,
    22: Flag.CALIBRATION,
    23: Flag.CALIBRATION_AND_IMAGING,
    24: Flag.REVERSE,
    25: Flag.NOISE,
    28: 7,
    29: 8,
    51: Flag.DUMMY,
}
_NOISE, _REFLECT = 1 << 25, 1 << 24

#: Sign of an image's read and phase direction relative to the quaternion's. With image = F⁻¹(k-space) Siemens data are
#: reversed along both: the receiver's off-centre phase of ramp-sampled echoes fits only this sign.
DIRECTION = -1.0

#: Bytes before the samples of a readout and of each of its channels, for VB and VD/VE.
_HEADERS = {False: (0, 128), True: (192, 32)}


@dataclass(frozen=True)
class TwixSamples:
    """Samples behind the lines of a twix file: line i starts at byte `position[i]`; read from the file on request."""

    path: Path
    position: NDArray[np.int64]
    channels: NDArray[np.intp]
    samples: NDArray[np.intp]
    is_ve: bool

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        rows = np.asarray(rows, dtype=np.intp)
        shapes = set(zip(self.channels[rows].tolist(), self.samples[rows].tolist(), strict=True))
        if len(shapes) > 1:
            raise DataError(f"lines of different shape {sorted(shapes)} cannot be read together; read each kind alone")
        nc, ns = shapes.pop() if shapes else (0, 0)
        out = np.empty((len(rows), nc, ns), np.complex64)
        first, each = _HEADERS[self.is_ve]
        with self.path.open("rb") as file:
            for i, row in enumerate(rows):
                file.seek(int(self.position[row]) + first)
                block = np.frombuffer(file.read(nc * (each + 8 * ns)), np.uint8)
                if block.size != nc * (each + 8 * ns):
                    raise DataError(f"{self.path.name} ends within line {row}; copy the file again")
                out[i] = np.ascontiguousarray(block.reshape(nc, each + 8 * ns)[:, each:]).view("<c8")
        if not np.isfinite(out).all():
            raise DataError(f"{self.path.name} holds NaN or infinite samples; copy the file again")
        return out

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return np.zeros((len(rows), int(self.samples[rows].max(initial=0)), 0), np.float32)


def read(path: str | Path) -> RawScan:
    """Scan in a Siemens twix file: the last measurement, with the noise lines of all.

    Flags, counters, cut-offs and the centre of each readout are those of its header; counters Lin, Par, Sli, Eco, Rep,
    Set, Seg, Ave, Phs become kspace_encode_step_1 and _2, slice, contrast, repetition, set, segment, average, phase.
    Positions are LPS (Sag, Cor, Tra); directions come from the quaternion with the sign DIRECTION. Echo-planar scans
    carry the timing of their ramps as "ConventionalEPI" (see `recon.io.twix_header.epi`). Samples are read on request.
    Raises MissingPackage without twixtools and DataError for other files, files that are cut short, files without image
    lines, and simultaneous multi-slice.
    """
    path = Path(path)
    twixtools = _package()
    is_ve, notes = _check(path)
    scans = _parse(twixtools, path)
    header = scans[-1].get("hdr") or {}
    kept = [(s, m) for s in scans[:-1] for m in s["mdb"] if int(m.mdh.EvalInfoMask) & _NOISE]
    kept += [(scans[-1], m) for m in scans[-1]["mdb"]]
    dropped = sum(len(s["mdb"]) for s in scans[:-1]) - sum(s is not scans[-1] for s, _ in kept)
    if dropped:
        notes += (f"{len(scans) - 1} earlier measurements hold {dropped} lines of adjustments, which are left out",)
    size = path.stat().st_size
    whole = [
        (s, m) for s, m in kept if m.mem_pos + int(m.dma_len) <= size and m.mdh.SamplesInScan and m.mdh.UsedChannels
    ]
    if len(whole) < len(kept):
        notes += (f"{len(kept) - len(whole)} lines are truncated or empty and are left out",)
    if not whole:
        raise DataError(f"{path.name} holds no lines; the scan was stopped before its first readout")
    lines = _lines(whole)
    samples = TwixSamples(
        path,
        np.array([m.mem_pos for _, m in whole], np.int64),
        lines["active_channels"].astype(np.intp),
        lines["number_of_samples"].astype(np.intp),
        is_ve,
    )
    image = imaging(lines)
    if not image.any():
        raise DataError(
            f"{path.name} holds {len(lines)} lines but none of an image; the scan was stopped or is a noise scan"
        )
    encoding, odd = twix_header.encoding(header, lines, image)
    centre = _centre([m for (_, m), yes in zip(whole, image, strict=True) if yes])
    encoding = replace(encoding, limits={**encoding.limits, **twix_header.limits(lines[image], centre)})
    channels = int(lines["active_channels"][image][0])
    return RawScan(lines, samples, (encoding,), twix_header.header(header, channels), "twix", (*notes, *odd))


def _package() -> Any:
    try:
        import twixtools
    except ImportError:
        raise MissingPackage(
            "Siemens .dat files need the package twixtools; install it with: pip install twixtools, or convert the "
            "file with siemens_to_ismrmrd"
        ) from None
    return twixtools


def _check(path: Path) -> tuple[bool, tuple[str, ...]]:
    """Whether the file is VD/VE, and notes; raises DataError unless its table of contents fits its size."""
    if not path.is_file():
        raise DataError(f"there is no file {path.name}; check the path")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8 + 64 * 152)
    if len(start) < 8:
        raise DataError(f"{path.name} has {size} bytes, too few for a Siemens raw data file; copy it again")
    first, second = struct.unpack_from("<II", start)
    if first >= 10000 or second > 64:
        # VB: one measurement; the first number is the length of its header, the second the number of its parts.
        if not 0 < second <= 64 or first >= size:
            raise DataError(
                f"{path.name} is not a Siemens raw data file, or is truncated within its header; copy it again"
            )
        return False, ()
    if second == 0 or len(start) < 8 + 152 * second:
        raise DataError(
            f"{path.name} is not a Siemens raw data file, or is truncated within its table of contents; copy it again"
        )
    for i in range(second):
        offset, length = struct.unpack_from("<QQ", start, 8 + 152 * i + 8)
        if offset + length > size or offset == 0:
            raise DataError(
                f"{path.name} has {size} bytes, but its measurement {i + 1} of {second} ends at byte "
                f"{offset + length}; the copy is incomplete or this is not a Siemens raw data file: copy it "
                "again"
            )
    return True, ()


def _parse(twixtools: Any, path: Path) -> list[Any]:
    """Measurements of the file as returned by twixtools."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            scans = twixtools.read_twix(
                str(path), parse_pmu=False, parse_geometry=False, verbose=False, keep_syncdata=False
            )
    except Exception as error:
        # twixtools has no error type: for a damaged header it raises whatever its parser ran into.
        raise DataError(
            f"{path.name} cannot be read as Siemens raw data ({type(error).__name__} in twixtools); copy it again, or "
            "convert it with siemens_to_ismrmrd"
        ) from error
    if not scans:
        raise DataError(f"{path.name} holds no measurement; copy it again")
    return list(scans)


def _lines(blocks: Sequence[tuple[Mapping[str, Any], Any]]) -> NDArray[np.void]:
    lines = np.zeros(len(blocks), LINE)
    for line, (scan, block) in zip(lines, blocks, strict=True):
        mdh = block.mdh
        counter = mdh.Counter
        line["flags"] = _flags(int(mdh.EvalInfoMask))
        line["number_of_samples"], line["active_channels"] = mdh.SamplesInScan, mdh.UsedChannels
        line["discard_pre"], line["discard_post"] = mdh.CutOff.Pre, mdh.CutOff.Post
        # The centre lies between samples CenterCol − 1 and CenterCol, so that a reversed readout mirrors a forward one.
        line["center_sample"] = max(0, mdh.CenterCol - (1 if int(mdh.EvalInfoMask) & _REFLECT else 0))
        line["acquisition_time_stamp"] = mdh.TimeStamp
        line["sample_time_us"] = twix_header.dwell_us(
            scan.get("hdr") or {}, counter.Eco, mdh.SamplesInScan, bool(int(mdh.EvalInfoMask) & _NOISE)
        )
        place = mdh.SliceData.SlicePos
        line["position"] = place.Sag, place.Cor, place.Tra
        line["read_dir"], line["phase_dir"], line["slice_dir"] = directions(mdh.SliceData.Quaternion)
        line["kspace_encode_step_1"], line["kspace_encode_step_2"] = counter.Lin, counter.Par
        line["slice"], line["contrast"], line["repetition"] = counter.Sli, counter.Eco, counter.Rep
        line["set"], line["segment"], line["average"], line["phase"] = (
            counter.Set,
            counter.Seg,
            counter.Ave,
            counter.Phs,
        )
        line["user"][:5] = counter.Ida, counter.Idb, counter.Idc, counter.Idd, counter.Ide
        line["user"][5:7] = mdh.CenterLin, mdh.CenterPar
    return lines


def _flags(mask: int) -> int:
    out = 0
    for bit, flag in FLAGS.items():
        if mask & 1 << bit:
            out |= 1 << (int(flag) - 1)
    if out & flag_bits(Flag.CALIBRATION_AND_IMAGING):
        out &= ~flag_bits(Flag.CALIBRATION)
    return out


def directions(quaternion: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Read, phase and slice direction (LPS) of an image from Siemens' quaternion (w, x, y, z).

    The rotation matrix of the quaternion has the phase, read and slice direction as its columns; the image's are
    DIRECTION times the first two. Zeros where the quaternion is not of length 1 (±1 %).
    """
    w, x, y, z = (float(q) for q in quaternion)
    norm = (w * w + x * x + y * y + z * z) ** 0.5
    if not abs(norm - 1) < 1e-2:
        return np.zeros(3), np.zeros(3), np.zeros(3)
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    phase = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    read = np.array([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)])
    return (
        DIRECTION * read,
        DIRECTION * phase,
        np.array([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]),
    )


def _centre(blocks: Sequence[Any]) -> tuple[int, int]:
    """Line and partition at the centre of k-space, as stated by most of the readouts."""
    centres = Counter((int(m.mdh.CenterLin), int(m.mdh.CenterPar)) for m in blocks)
    return centres.most_common(1)[0][0]
