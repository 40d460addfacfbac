"""The contents of the simulated scanner, head and coils, and the images that a scan should give."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recon.data import FRAME_COUNTERS, Image
from recon.geometry import Geometry, Vector, centre_index, from_centre, stack
from recon.simulation import phantom
from recon.simulation.coil_array import Modes, coil_modes, in_plane, maps, phase_mode, product, received
from recon.simulation.settings import Settings, encoding_of, header_of

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]


def unit_scale(s: Settings) -> float:
    """Samples of a unitary FFT per signal·mm² or signal·mm³: √(samples of the grid)/its field of view."""
    ndim = 3 if s.volumetric else 2
    return math.sqrt(math.prod(s.encoded_matrix[:ndim])) / math.prod(s.encoded_fov[:ndim])


def _axes(s: Settings) -> tuple[Vector, Vector, Vector]:
    return (s.read_dir, s.phase_dir, s.slice_dir)


def shapes(s: Settings, slice_: int, contrast: int, phase: int, set_: int) -> phantom.Shapes:
    """The head at one value of each counter, as the slice (or the volume) sees it, in the coordinates of the scan."""
    head = phantom.head(s.te_ms[contrast], phase=phase / s.phases, set_=set_, scale=s.head_scale)
    return (phantom.volume if s.volumetric else phantom.plane)(head, s.slice_position(slice_), _axes(s))


def _period(s: Settings) -> tuple[float, ...]:
    """Periods of the maps: whole multiples of the encoded field of view, so that their shifts stay on its grid."""
    least = 360.0
    period = [f * math.ceil(least / f) for f in s.encoded_fov]
    return (period[0], period[1], period[2] if s.volumetric else 480.0)


def _coils(s: Settings) -> Modes:
    if s.coils == 1:  # a volume coil
        return Modes(np.zeros((1, 3), np.intp), np.ones((1, 1), np.complex128), _period(s))
    return _fitted(s.coils, tuple(s.position), tuple(map(tuple, _axes(s))), _period(s), s.coil_order)


#: A scan, its truth and its maps need the same fit, which takes as long as the lines of a slice.
_fitted = functools.lru_cache(maxsize=64)(coil_modes)


def _phase(s: Settings) -> Modes:
    return phase_mode(s.phase_rad, _period(s))


def receive_modes(s: Settings) -> Modes:
    """Coil maps times the object's smooth phase, in the coordinates of the whole stack or volume."""
    return product(_coils(s), _phase(s))


def slice_modes(s: Settings, modes: Modes, slice_: int) -> Modes:
    """The modes of a slice; those of the volume itself in a 3D scan."""
    if s.volumetric:
        return modes
    return in_plane(modes, float(np.subtract(s.slice_position(slice_), s.position) @ np.asarray(s.slice_dir)))


def truth(s: Settings, *, band_limited: bool = False) -> Image:
    """The image that the scan should give, with one coil of sensitivity 1 and no noise; complex64 (*axes, z, y, x).

    The mean of the head over each voxel (in the plane, for thin slices). With `band_limited` it is the FFT of the
    exact, fully sampled k-space with all of its Gibbs ringing: the result of a perfect linear reconstruction. Axes are
    those of FRAME_COUNTERS with more than one entry; repetitions are equal.
    """
    geometry = _geometry(s)
    phase = _phase(s)
    sizes = {"contrast": len(s.te_ms), "phase": s.phases, "repetition": s.repetitions, "set": s.sets}
    out = np.empty((*(sizes[n] for n in FRAME_COUNTERS), *geometry.shape), np.complex64)
    for c, p, v in np.ndindex(len(s.te_ms), s.phases, s.sets):
        frame = [
            (_band_limited if band_limited else _averaged)(s, phase, shapes(s, i, c, p, v), i) for i in range(s.slices)
        ]
        out[c, p, :, v] = np.concatenate(frame)
    axes = tuple(n for n in FRAME_COUNTERS if sizes[n] > 1)
    data = out.reshape(*(sizes[n] for n in axes), *geometry.shape)
    return Image(data, geometry, axes, header=header_of(s), notes=("Truth of a simulated scan, not a measurement.",))


def truth_maps(s: Settings) -> NDArray[np.complex64]:
    """Coil sensitivity maps at the voxels of `truth`, (coil, z, y, x): exactly those of the scan."""
    coils = _coils(s)
    out = [maps(slice_modes(s, coils, i), _voxels(s)).swapaxes(1, -1) for i in range(s.slices)]
    return np.concatenate([m if s.volumetric else m[:, None] for m in out], axis=1).astype(np.complex64)


def _geometry(s: Settings) -> Geometry:
    matrix = encoding_of(s).recon_matrix
    r, c, n = _axes(s)
    slices = [from_centre(s.slice_position(i), r, c, n, s.fov, matrix) for i in range(s.slices)]
    return stack(slices)[0]


def _voxels(s: Settings) -> Floats:
    """Voxel centres (x, y[, z], dimension) relative to the position of the slice or volume."""
    return np.stack(np.meshgrid(*_voxel_axes(s), indexing="ij"), -1)


def _voxel_axes(s: Settings) -> list[Floats]:
    matrix = encoding_of(s).recon_matrix[: 3 if s.volumetric else 2]
    return [(np.arange(n) - centre_index(n)) * f / n for n, f in zip(matrix, s.fov)]


def _averaged(s: Settings, phase: Modes, objects: phantom.Shapes, slice_: int) -> Complexes:
    axes = _voxel_axes(s)
    means = phantom.voxel_means(objects, axes, [f / len(a) for f, a in zip(s.fov, axes)])
    turned: Complexes = means * maps(slice_modes(s, phase, slice_), _voxels(s))[0].T
    return turned if s.volumetric else turned[None]


def _band_limited(s: Settings, phase: Modes, objects: phantom.Shapes, slice_: int) -> Complexes:
    nx, ny, nz = s.encoded_matrix
    kx, ky, kz = ((np.arange(n) - n // 2) / f for n, f in zip(s.encoded_matrix, s.encoded_fov))
    z, y = (a.ravel() for a in np.meshgrid(kz, ky, indexing="ij"))
    lines = received(objects, slice_modes(s, phase, slice_), kx, *((y, z) if s.volumetric else (y,)))
    image = _centred(np.fft.ifftn, lines.reshape(nz, ny, nx).astype(np.complex128) * unit_scale(s))
    image = _resized(image, tuple(reversed(s.matrix)))
    recon = encoding_of(s).recon_matrix
    if recon == s.matrix:
        return image
    fine = _resized(_centred(np.fft.fftn, image), tuple(reversed(recon)))
    return _centred(np.fft.ifftn, fine) * math.sqrt(math.prod(recon) / math.prod(s.matrix))


def _centred(transform: Callable[..., Complexes], x: Complexes) -> Complexes:
    out: Complexes = np.fft.fftshift(transform(np.fft.ifftshift(x), norm="ortho"))
    return out


def _resized(x: Complexes, shape: tuple[int, ...]) -> Complexes:
    """Cropped or zero-padded around index N // 2 of each axis."""
    for axis, n in enumerate(shape):
        low = n // 2 - x.shape[axis] // 2
        x = np.take(x, np.arange(max(0, -low), max(0, -low) + min(n, x.shape[axis])), axis)
        after = n - x.shape[axis] - max(0, low)
        x = np.pad(x, [(max(0, low), after) if a == axis else (0, 0) for a in range(x.ndim)])
    return x
