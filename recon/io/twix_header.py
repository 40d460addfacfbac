"""The protocol in a Siemens raw data file: grids, timing, scanner, patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.data import DataError, Encoding, Flag, Header, Limit, Patient, Sequence, Study, System, flagged

_MODES = {1: "other", 2: "embedded", 4: "separate", 8: "other", 16: "interleaved"}
_TRAJECTORIES = {1: "cartesian", 2: "radial", 4: "spiral", 8: "other"}
_SEXES = {1: "F", 2: "M", 3: "O"}


def encoding(
    header: Mapping[str, Any], lines: NDArray[np.void], imaging: NDArray[np.bool_]
) -> tuple[Encoding, tuple[str, ...]]:
    """Encoding of the image lines, and notes on contradictions between the protocol and the lines.

    The grid along phase and slice is that of the scanner's own Fourier transform (iPEFTLength, i3DFTLength) over the
    field of view with its oversampling; along the readout it is lBaseResolution times the oversampling. Raises
    DataError for a protocol without field of view and for simultaneous multi-slice.
    """
    yaps, meas = _part(header, "MeasYaps"), _part(header, "Meas")
    bands = int(_number(yaps, "sSliceAcceleration.lMultiBandFactor", default=1))
    if bands > 1:
        raise DataError(
            f"the scan excites {bands} slices at once, which is not supported; reconstruct it on the scanner"
        )
    three_d = _number(yaps, "sKSpace.ucDimension", default=2) == 4
    fov_x, fov_y = (_number(yaps, f"sSliceArray.asSlice.0.{n}") for n in ("dReadoutFOV", "dPhaseFOV"))
    thickness = _number(yaps, "sSliceArray.asSlice.0.dThickness")
    if not (fov_x > 0 and fov_y > 0 and thickness > 0):
        raise DataError(
            "the protocol of the Siemens file states no field of view (sSliceArray.asSlice[0]); convert the file with "
            "siemens_to_ismrmrd instead"
        )
    notes: tuple[str, ...] = ()
    most = int(lines["number_of_samples"][imaging].max())
    base = int(_number(yaps, "sKSpace.lBaseResolution", default=most / 2))
    over = _number(meas, "flReadoutOSFactor", default=2.0) or 2.0
    nx = round(base * over)
    if most > nx:
        notes += (
            (
                f"readouts have {most} samples, the protocol's matrix {nx}; the larger number is used, with the "
                "same voxel size"
            ),
        )
        nx, over = most, most / base
    ny, over_y = _grid(yaps, meas, "iPEFTLength", "sKSpace.lPhaseEncodingLines", "sKSpace.dPhaseOversamplingForDialog")
    nz, over_z = _grid(yaps, meas, "i3DFTLength", "sKSpace.lPartitions", "sKSpace.dSliceOversamplingForDialog")
    if not three_d:
        nz, over_z = 1, 1.0
    recon = (
        int(_number(meas, "NImageCols", default=base)),
        int(_number(meas, "NImageLins", default=ny / over_y)),
        int(_number(yaps, "sKSpace.lImagesPerSlab", default=nz)) if three_d else 1,
    )
    accelerated = tuple(max(1, int(_number(yaps, f"sPat.{n}", default=1))) for n in ("lAccelFactPE", "lAccelFact3D"))
    kind = _TRAJECTORIES.get(int(_number(yaps, "sKSpace.ucTrajectory", default=1)), "other")
    parameters: Mapping[str, float] = {}
    if kind == "cartesian" and _number(yaps, "sFastImaging.lEPIFactor", default=1) > 1:
        kind, parameters = "epi", epi(header, lines, imaging)
    if kind not in ("cartesian", "epi"):
        notes += (f"the scan is {kind}; Siemens files hold no trajectory, give it with --trajectory",)
    return (
        Encoding(
            (nx, ny, nz),
            (fov_x * nx / base, fov_y * over_y, thickness * over_z),
            (max(1, recon[0]), max(1, recon[1]), max(1, recon[2])),
            (fov_x, fov_y, thickness),
            kind,
            acceleration=(accelerated[0], accelerated[1]),
            calibration_mode=_MODES.get(int(_number(yaps, "sPat.ucRefScanMode", default=0)), "")
            if max(accelerated) > 1
            else "",
            echo_train_length=int(_number(_part(header, "Dicom"), "EchoTrainLength")) or None,
            trajectory_name="ConventionalEPI" if parameters else "",
            trajectory_parameters=parameters,
        ),
        notes,
    )


def epi(header: Mapping[str, Any], lines: NDArray[np.void], imaging: NDArray[np.bool_]) -> dict[str, float]:
    """Timing of an echo-planar readout with ISMRMRD's names for "ConventionalEPI"; times in µs.

    rampUpTime, flatTopTime, rampDownTime, acqDelayTime (start of the gradient to the first sample), numSamples,
    dwellTime, etl, numberOfNavigators, echoSpacing, and readoutOffcentre: the distance in mm of the image's centre from
    the isocentre along its read direction. Empty if the readout is not sampled on ramps; raises DataError for ramps
    that are not trapezoidal.
    """
    meas = _part(header, "Meas")
    mode = int(_number(meas, "alRegridMode.0", default=1))
    if mode <= 1:
        return {}
    if mode != 2:
        raise DataError(
            f"the echo-planar readout has ramps of kind {mode} (sinusoidal); only trapezoidal ramps (2) are supported: "
            "reconstruct this scan on the scanner"
        )
    first = lines[imaging][0]
    ns = int(_number(meas, "alRegridDestSamples.0", default=int(first["number_of_samples"])))
    navigator = flagged(lines, Flag.PHASECORR)
    same = navigator & (lines["slice"] == first["slice"]) & (lines["repetition"] == first["repetition"])
    etl = _number(_part(header, "Dicom"), "EchoTrainLength", default=int(imaging.sum()))
    return {
        "etl": etl,
        "numberOfNavigators": float(same.sum()),
        "rampUpTime": _number(meas, "alRegridRampupTime.0"),
        "flatTopTime": _number(meas, "alRegridFlattopTime.0"),
        "rampDownTime": _number(meas, "alRegridRampdownTime.0"),
        "acqDelayTime": _number(meas, "alRegridDelaySamplesTime.0"),
        "numSamples": float(ns),
        "dwellTime": _number(meas, "aflRegridADCDuration.0") / ns or float(first["sample_time_us"]),
        "echoSpacing": _number(meas, "lEchoSpacing"),
        "readoutOffcentre": float(np.dot(first["position"].astype(float), first["read_dir"].astype(float))),
    }


def limits(lines: NDArray[np.void], centre: tuple[int, int]) -> dict[str, Limit]:
    """Ranges of all counters of the image lines, with the centre line and partition."""
    names = (
        *("kspace_encode_step_1", "kspace_encode_step_2", "average", "slice", "contrast"),
        *("phase", "repetition", "set", "segment"),
    )
    centres = {"kspace_encode_step_1": centre[0], "kspace_encode_step_2": centre[1]}
    return {
        n.replace("encode", "encoding"): Limit(int(lines[n].min()), int(lines[n].max()), centres.get(n, 0))
        for n in names
    }


def dwell_us(header: Mapping[str, Any], contrast: int, samples: int, noise: bool) -> float:
    """Sampling interval in µs: the protocol's for the echo, that of a fixed bandwidth (130 Hz/pixel) for noise lines.

    Noise lines of a scan are sampled with 7.68 ms whatever the protocol; the separate adjustment measurement
    (AdjCoilSens) with 5 µs. Source: siemens_to_ismrmrd.
    """
    if noise:
        name = str(_get(_part(header, "MeasYaps"), "tProtocolName") or _get(_part(header, "Config"), "tProtocolName"))
        if "AdjCoilSens" in name:
            return 5.0
        if "AdjQuietCoilSens" in name:
            return 4.0
        return int(76800 / samples) / 10
    meas = _part(header, "Meas")
    first = _number(meas, "alDwellTime.0") or _number(_part(header, "MeasYaps"), "sRXSPEC.alDwellTime.0")
    return (_number(meas, f"alDwellTime.{contrast}") or first) / 1000


def header(parts: Mapping[str, Any], channels: int) -> Header:
    """Patient, study, scanner and timing of the protocol; names anonymised to x are left empty."""
    yaps, meas, dicom, config = (_part(parts, n) for n in ("MeasYaps", "Meas", "Dicom", "Config"))
    echoes = max(1, int(_number(yaps, "lContrasts", default=1)))
    inverted = int(_number(yaps, "sPrepPulses.ucInversion", default=4)) in (1, 2)
    nucleus = "sTXSPEC.asNucleusInfo.0.lFrequency"
    weight = _number(dicom, "flUsedPatientWeight")
    return Header(
        Patient(
            _text(dicom, "tPatientName"),
            _text(config, "PatientID"),
            _text(config, "PatientBirthDay"),
            _SEXES.get(int(_number(dicom, "lPatientSex")), ""),
            weight or None,
        ),
        Study(
            description=_text(config, "tStudyDescription"),
            series_description=_text(yaps, "tProtocolName"),
            protocol=_text(yaps, "tProtocolName"),
            patient_position=_text(dicom, "tPatientPosition") or _text(meas, "PatientPosition"),
            frame_of_reference_uid=_text(config, "FrameOfReference"),
            body_part=_text(dicom, "tBodyPartExamined"),
        ),
        System(
            _text(dicom, "Manufacturer") or "SIEMENS",
            _text(dicom, "ManufacturersModelName"),
            _number(dicom, "flMagneticFieldStrength") or None,
            _number(yaps, nucleus) or _number(dicom, "lFrequency") or None,
            _text(dicom, "InstitutionName"),
            device_id=_text(dicom, "DeviceSerialNumber").removesuffix(".0"),
            noise_bandwidth=0.793,
            coil_labels=_coils(yaps, channels),
        ),
        Sequence(
            _text(yaps, "tSequenceFileName"),
            _text(dicom, "tScanningSequence"),
            _times(yaps, "alTR", 1),
            _times(yaps, "alTE", echoes),
            _times(yaps, "alTI", 1) if inverted else (),
            tuple(float(f) for f in _list(yaps, "adFlipAngleDegree")[:1]),
            (_number(meas, "lEchoSpacing") / 1000,) if _number(meas, "lEchoSpacing") else (),
        ),
    )


def _coils(yaps: Mapping[str, Any], channels: int) -> tuple[str, ...]:
    """Names of the receive elements in the order of their converters, if there is one for each channel."""
    elements = [e for e in _list(yaps, "sCoilSelectMeas.aRxCoilSelectData.0.asList") if isinstance(e, Mapping)]
    elements.sort(key=lambda e: _number(e, "lADCChannelConnected"))
    names = tuple(f"{_text(e, 'sCoilElementID.tCoilID')}:{_text(e, 'sCoilElementID.tElement')}" for e in elements)
    return names if len(names) == channels else ()


def _grid(
    yaps: Mapping[str, Any], meas: Mapping[str, Any], transform: str, nominal: str, oversampling: str
) -> tuple[int, float]:
    """Samples along a phase-encoded axis and the factor by which its field of view is oversampled."""
    n = int(_number(meas, transform) or _number(yaps, nominal, default=1))
    if transform == "iPEFTLength" and _number(yaps, "sKSpace.uc2DInterpolation"):
        n //= 2
    return max(1, n), 1 + _number(yaps, oversampling)


def _times(yaps: Mapping[str, Any], name: str, count: int) -> tuple[float, ...]:
    """Times in ms; the protocol holds µs."""
    return tuple(float(t) / 1000 for t in _list(yaps, name)[:count] if isinstance(t, int | float))


def _part(header: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = header.get(name)
    return part if isinstance(part, Mapping) else {}


def _get(tree: Any, path: str) -> Any:
    """Entry of nested dictionaries and lists by a dotted path, None if a step is missing."""
    for step in path.split("."):
        if isinstance(tree, Mapping):
            tree = tree.get(step)
        elif isinstance(tree, list) and step.isdigit() and int(step) < len(tree):
            tree = tree[int(step)]
        else:
            return None
    return tree


def _number(tree: Any, path: str, default: float = 0.0) -> float:
    value = _get(tree, path)
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else float(default)


def _text(tree: Any, path: str) -> str:
    value = _get(tree, path)
    text = "" if value is None or isinstance(value, list | Mapping) else str(value).strip().strip('"')
    return "" if set(text.lower()) == {"x"} else text


def _list(tree: Any, path: str) -> list[Any]:
    value = _get(tree, path)
    return value if isinstance(value, list) else []
