"""Which readouts a simulated scan measures, and in which order: masks, segments, echo trains, calibration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from recon import masks
from recon.data import Flag, flag_bits
from recon.simulation.settings import Settings, acquired_rows, readout_count

#: One row per readout of an image: its row on the encoded grid (or its number), and how it is acquired.
READOUT = np.dtype([("z", "i4"), ("y", "i4"), ("segment", "u2"), ("reverse", "?"), ("flags", "u8")])


def _mask(s: Settings) -> tuple[masks.Mask, masks.Mask]:
    """Measured lines (kz, ky), and those of the regular pattern, before partial Fourier."""
    _, ny, nz = s.encoded_matrix
    ry, rz = s.acceleration
    shape: tuple[int, ...] = (nz, ny) if s.volumetric else (ny,)
    acs = 0 if s.calibration in ("separate", "none") or s.acceleration == (1, 1) else _acs(s)
    if s.mask in ("equispaced", "caipi"):
        factors = (rz, ry) if s.volumetric else (ry,)
        build = masks.caipi if s.mask == "caipi" else masks.equispaced
        measured, pattern = build(shape, factors, acs), build(shape, factors, 0)
    else:
        choose = {
            "equispaced_fraction": masks.equispaced_fraction,
            "random": masks.random,
            "variable_density": masks.variable_density,
            "poisson_disc": masks.poisson_disc,
        }[s.mask]
        measured = choose(shape, ry * rz, acs, s.seed)
        pattern = measured & ~masks.centre(shape, acs)
    return measured.reshape(nz, ny), pattern.reshape(nz, ny)


def _acs(s: Settings) -> tuple[int, ...]:
    _, ny, nz = s.encoded_matrix
    return (min(s.acs, nz), min(s.acs, ny)) if s.volumetric else (min(s.acs, ny),)


def image_readouts(s: Settings) -> NDArray[np.void]:
    """Readouts of one image in order of acquisition."""
    if not s.gridded:
        out = np.zeros(readout_count(s), READOUT)
        out["y"] = np.arange(len(out))
        return out
    _, ny, nz = s.encoded_matrix
    measured, pattern = _mask(s)
    rows_y, rows_z = acquired_rows(s)
    out = _rows(measured & rows_y & rows_z[:, None])
    if s.acceleration != (1, 1) and s.calibration in ("embedded", "reference"):
        acs = masks.centre((nz, ny) if s.volumetric else (ny,), _acs(s)).reshape(nz, ny)[out["z"], out["y"]]
        off = acs & ~pattern[out["z"], out["y"]] & (s.calibration == "reference")
        out["flags"][acs] = flag_bits(Flag.CALIBRATION_AND_IMAGING)
        out["flags"][off] = flag_bits(Flag.CALIBRATION)
    out["segment"] = np.arange(len(out)) % s.segments
    out = out[np.argsort(out["segment"], kind="stable")]
    if s.trajectory == "epi":
        return _trains(s, out)
    out["reverse"] = s.reversed_lines & (np.arange(len(out)) % 2 == 1)
    return out


def _trains(s: Settings, lines: NDArray[np.void]) -> NDArray[np.void]:
    """Echo trains: for each segment the navigators without phase encoding, then its lines, with alternating sign."""
    trains = []
    for segment in range(s.segments):
        navigator = np.zeros(s.epi.navigators, READOUT)
        navigator["y"], navigator["segment"] = s.encoded_matrix[1] // 2, segment
        navigator["flags"] = flag_bits(Flag.PHASECORR)
        train = np.concatenate([navigator, lines[lines["segment"] == segment]])
        train["reverse"] = np.arange(len(train)) % 2 == 1
        trains.append(train)
    return np.concatenate(trains)


def calibration_readouts(s: Settings) -> NDArray[np.void]:
    """Readouts of the separate calibration of each slice; none if there is no such scan."""
    if not s.gridded or s.calibration != "separate" or s.acceleration == (1, 1):
        return np.zeros(0, READOUT)
    _, ny, nz = s.encoded_matrix
    rows_y, rows_z = acquired_rows(s)
    block = masks.centre((nz, ny) if s.volumetric else (ny,), _acs(s)).reshape(nz, ny)
    out = _rows(block & rows_y & rows_z[:, None])
    out = _trains(replace(s, segments=1), out) if s.trajectory == "epi" else out
    out["flags"] |= np.uint64(flag_bits(Flag.CALIBRATION))
    return out


def _rows(mask: masks.Mask) -> NDArray[np.void]:
    z, y = np.nonzero(mask)
    out = np.zeros(len(z), READOUT)
    out["z"], out["y"] = z, y
    return out
