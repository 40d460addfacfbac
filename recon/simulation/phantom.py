"""A head of ellipsoids with exactly known k-space.

All coordinates are in patient millimetres (LPS: +x left, +y posterior, +z head) and cycles per millimetre. The Fourier
transform of a sum of ellipsoids has a closed form, and so has that of its cut by any plane. The head is therefore a
true reference, not the output of another discrete transform.
"""

from __future__ import annotations

import cmath
import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.geometry import Vector

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid that adds `signal` to what is already inside it.

    `centre` and `semi_axes` in millimetres; `turn_deg` turns it about the patient's z axis (from x to y) and `tilt_deg`
    then about the x axis (from y to z).
    """

    centre: Vector
    semi_axes: Vector
    signal: complex = 1.0
    turn_deg: float = 0.0
    tilt_deg: float = 0.0


@dataclass(frozen=True, eq=False)
class Shapes:
    """Ellipsoids (dimension 3) or ellipses (2) in the coordinates u of a scan, in millimetres from its position.

    Shape i holds the points with (u − centre)ᵀ form⁻¹ (u − centre) ≤ 1; `content` is its volume in mm³ or area in mm².
    """

    centre: Floats
    form: Floats
    content: Floats
    signal: Complexes

    @property
    def ndim(self) -> int:
        """2 for ellipses in a plane, 3 for ellipsoids."""
        return int(self.centre.shape[1])


@dataclass(frozen=True)
class Tissue:
    """Signal at echo time 0, T2* in ms, amplitude of the signal over the `phase` counter and phase in rad per `set`."""

    signal: complex
    t2star_ms: float
    pulse: float = 0.0
    flow: float = 0.0


TISSUES = {
    "air": Tissue(0.0, 1.0),
    "fat": Tissue(cmath.rect(0.9, 0.6), 30.0),
    "bone": Tissue(0.06, 2.0),
    "csf": Tissue(0.35, 400.0),
    "grey": Tissue(0.72, 60.0),
    "white": Tissue(1.0, 50.0),
    "nuclei": Tissue(cmath.rect(0.82, -0.1), 35.0),
    "blood": Tissue(1.25, 80.0, pulse=0.3, flow=math.pi / 3),
    "letter": Tissue(0.1, 100.0),
    "lesion 3 %": Tissue(0.97, 50.0),
    "lesion 6 %": Tissue(0.94, 50.0),
    "lesion 10 %": Tissue(0.90, 50.0),
    "lesion 20 %": Tissue(0.80, 50.0),
}

#: Widths in millimetres of the bars of the four resolution groups; the gaps between bars are equally wide.
BAR_WIDTHS_MM = (3.0, 2.0, 1.5, 1.0)

#: A point inside the stem of the letter F. The letter lies left and anterior. It reads upright, with its stem towards
#: the midline, if x runs to the right and y downwards, so any mirroring is visible.
LETTER_MM: Vector = (28.0, -36.0, 14.0)

#: Semi-axes of the whole head.
HEAD_MM: Vector = (78.0, 98.0, 110.0)


def _parts() -> Iterator[tuple[str, str, Ellipsoid]]:
    """Tissue, the tissue that it replaces, and the position of each part; parts are nested or disjoint."""
    yield "fat", "air", Ellipsoid((0, 0, 0), HEAD_MM)
    yield "bone", "fat", Ellipsoid((0, 0, 1), (73, 93, 104))
    yield "csf", "bone", Ellipsoid((0, 0, 1), (68, 88, 99))
    yield "grey", "csf", Ellipsoid((0, 0, 1), (66, 86, 97))
    for side in (1, -1):
        yield "white", "grey", Ellipsoid((31 * side, 0, 9), (27, 68, 70))
        yield "csf", "white", Ellipsoid((16 * side, 2, 14), (5, 26, 15), turn_deg=6 * side)
        yield "nuclei", "white", Ellipsoid((20 * side, 8, -15), (7, 14, 9), turn_deg=-20 * side)
        yield "grey", "white", Ellipsoid((34 * side, -14, -42), (7, 20, 9), turn_deg=10 * side)
        yield "csf", "white", Ellipsoid((33 * side, 28, 50), (3, 13, 12), turn_deg=-25 * side)
    yield "csf", "grey", Ellipsoid((0, -46, 12), (1.2, 26, 50))
    yield "white", "grey", Ellipsoid((0, 28, -74), (24, 22, 9), tilt_deg=12)
    yield "blood", "grey", Ellipsoid((0, 74, 12), (2.5, 3, 16))
    x, y, z = LETTER_MM
    yield "letter", "white", Ellipsoid((x, y, z), (2, 13, 20))
    yield "letter", "white", Ellipsoid((x + 8.5, y - 7, z), (6, 1.6, 20))
    yield "letter", "white", Ellipsoid((x + 7.5, y + 1, z), (5, 1.6, 20))
    yield "csf", "white", Ellipsoid((-25, -12, 55), (5, 5, 5))
    for y, radius in zip((-21, -11, 1, 17), (1.5, 2.5, 3.5, 5)):
        yield "lesion 20 %", "white", Ellipsoid((-37, y, 6), (radius, radius, 14))
    for y, depth in zip((-18, -6, 6, 18), (3, 6, 10, 20)):
        yield f"lesion {depth} %", "white", Ellipsoid((-49, y, 6), (3.5, 3.5, 14))
    for y, width in zip((22, 32, 41, 49), BAR_WIDTHS_MM):
        for step in (-1, 0, 1):
            yield "csf", "white", Ellipsoid((37 + 2 * step * width, y, 0), (width / 2, 3.5, 24))


def head(te_ms: float = 0.0, *, phase: float = 0.0, set_: int = 0, scale: float = 1.0) -> tuple[Ellipsoid, ...]:
    """The head at an echo time, at a `phase` of the heartbeat from 0 to 1 and in a velocity-encoded `set_`.

        s(tissue) = signal · exp(−TE/T2*) · (1 + pulse · cos 2π·phase) · exp(i · flow · set)

    Each ellipsoid carries s(tissue) − s(the tissue that it replaces), so a point has the signal of its innermost part
    at any echo time. `scale` shrinks or enlarges the head about the origin.
    """

    def signal(name: str) -> complex:
        t = TISSUES[name]
        beat = 1 + t.pulse * math.cos(2 * math.pi * phase)
        return t.signal * math.exp(-te_ms / t.t2star_ms) * beat * cmath.exp(1j * t.flow * set_)

    def scaled(v: Vector) -> Vector:
        return (v[0] * scale, v[1] * scale, v[2] * scale)

    return tuple(
        Ellipsoid(scaled(e.centre), scaled(e.semi_axes), signal(tissue) - signal(within), e.turn_deg, e.tilt_deg)
        for tissue, within, e in _parts()
    )


def volume(objects: Sequence[Ellipsoid], origin: Sequence[float], axes: Sequence[Sequence[float]]) -> Shapes:
    """Ellipsoids in the coordinates of a 3D scan: u = axes · (x − origin), rows of `axes` orthonormal."""
    rows, form = np.asarray(axes, np.float64), _forms(objects)
    centre = np.array([o.centre for o in objects], np.float64).reshape(-1, 3)
    content = 4 / 3 * np.pi * np.array([math.prod(o.semi_axes) for o in objects])
    signal = np.array([o.signal for o in objects], np.complex128)
    return Shapes((centre - np.asarray(origin)) @ rows.T, rows @ form @ rows.T, content, signal)


def plane(objects: Sequence[Ellipsoid], origin: Sequence[float], axes: Sequence[Sequence[float]]) -> Shapes:
    """Ellipses in which a plane through `origin` along axes[0] and axes[1] cuts the ellipsoids: a thin slice.

    With E = [axes[0] axes[1]], d = origin − centre and B = Eᵀ form⁻¹ E, the cut is the ellipse (u − u₀)ᵀ B (u − u₀) ≤
    ρ², u₀ = −B⁻¹ Eᵀ form⁻¹ d, ρ² = 1 − dᵀ form⁻¹ d + u₀ᵀ B u₀, and is empty if ρ² ≤ 0. Objects that the plane misses
    are left out.
    """
    e = np.asarray(axes, np.float64)[:2]
    found = []
    for o, form in zip(objects, _forms(objects)):
        a = np.linalg.inv(form)
        d = np.asarray(origin, np.float64) - o.centre
        inverse = np.linalg.inv(e @ a @ e.T)
        u = -inverse @ e @ a @ d
        rho2 = 1 - d @ a @ d + u @ (e @ a @ e.T) @ u
        if rho2 > 0:
            found.append((u, rho2 * inverse, np.pi * rho2 * math.sqrt(np.linalg.det(inverse)), o.signal))
    centre, form, content, signal = zip(*found) if found else ([], [], [], [])
    n = len(found)
    return Shapes(
        np.reshape(centre, (n, 2)),
        np.reshape(form, (n, 2, 2)),
        np.array(content, np.float64),
        np.array(signal, complex),
    )


def spectrum(shapes: Shapes, k: Floats) -> Complexes:
    """Fourier transform of the shapes at `k` (…, dimension) in cycles/mm, exact to double precision.

        F(k) = Σ signal · content · g(κ) · exp(−2πi k·centre),   κ = 2π √(kᵀ form k)
        g(κ) = 2 J₁(κ)/κ for ellipses,   3 (sin κ − κ cos κ)/κ³ for ellipsoids

    Unit: signal·mm² or signal·mm³. Source: Van de Walle et al., IEEE TMI 1997 (ellipses); Koay et al., MRM 2007
    (ellipsoids).
    """
    k = np.asarray(k, np.float64)
    out = np.zeros(k.shape[:-1], np.complex128)
    for centre, form, content, signal in _each(shapes):
        kappa = 2 * np.pi * np.sqrt(np.einsum("...i,ij,...j->...", k, form, k))
        out += signal * content * _profile(kappa, shapes.ndim) * np.exp(-2j * np.pi * (k @ centre))
    return out


def grid_spectrum(shapes: Shapes, *axes: Floats, rows: int = 32) -> Complexes:
    """`spectrum` on the product of k axes (kx, ky[, kz]), as ([kz,] ky, kx); fast, in single precision.

    `rows` is the number of ky rows processed at a time, so that they stay in the cache.
    """
    kx, ky, kz = (*axes, np.zeros(1))[:3]
    out = np.zeros((len(kz), len(ky), len(kx)), np.complex128)
    for centre, form, content, signal in _each(shapes):
        c = np.zeros(3)
        q = np.zeros((3, 3))
        c[: shapes.ndim], q[: shapes.ndim, : shapes.ndim] = centre, form
        shift = [np.exp(-2j * np.pi * a * at) for a, at in zip((kx, ky, kz), c)]
        for iz, z in enumerate(kz):
            amount = signal * content * shift[2][iz]
            for first in range(0, len(ky), rows):
                y = ky[first : first + rows, None]
                p = np.multiply(kx, 2 * (q[0, 1] * y + q[0, 2] * z))
                p += q[0, 0] * kx**2
                p += (q[1, 1] * y + 2 * q[1, 2] * z) * y + q[2, 2] * z * z
                np.sqrt(np.maximum(p, 0, out=p), out=p)
                p *= 2 * np.pi
                part = tabulated(p, shapes.ndim) * (shift[0] * amount)
                part *= shift[1][first : first + rows, None]
                out[iz, first : first + rows] += part
    return out if shapes.ndim == 3 else out[0]


def image(shapes: Shapes, points: Floats) -> Complexes:
    """Signal at `points` (…, dimension) in the coordinates of the shapes, millimetres."""
    points = np.asarray(points, np.float64)
    out = np.zeros(points.shape[:-1], np.complex128)
    for centre, form, _, signal in _each(shapes):
        d = points - centre
        out += signal * (np.einsum("...i,ij,...j->...", d, np.linalg.inv(form), d) <= 1)
    return out


def voxel_means(shapes: Shapes, axes: Sequence[Floats], voxel: Sequence[float], supersample: int = 4) -> Complexes:
    """Mean of the signal over each voxel of a grid, from `supersample` points along each axis, as ([z,] y, x).

    `axes` are the voxel centres (x, y[, z]) and `voxel` the voxel's edges, millimetres.
    """
    if len(axes) == 3 and len(axes[2]) > 1:
        return np.concatenate([voxel_means(shapes, (*axes[:2], z[None]), voxel, supersample) for z in axes[2]])
    offset = (np.arange(supersample) + 0.5) / supersample - 0.5
    fine = [(a[:, None] + v * offset).ravel() for a, v in zip(axes, voxel)]
    out = np.zeros([len(f) for f in fine], np.complex128)
    for centre, form, _, signal in _each(shapes):
        reach = np.sqrt(np.diag(form))
        window = tuple(slice(*np.searchsorted(f, (c - r, c + r))) for f, c, r in zip(fine, centre, reach))
        d = np.meshgrid(*(f[w] - c for f, w, c in zip(fine, window, centre)), indexing="ij", sparse=True)
        inverse = np.linalg.inv(form)
        inside = sum(inverse[i, j] * d[i] * d[j] for i in range(len(d)) for j in range(len(d))) <= 1
        out[window] += signal * inside
    blocks = [n for a in axes for n in (len(a), supersample)]
    mean: Complexes = out.reshape(blocks).mean(axis=tuple(range(1, 2 * len(axes), 2))).transpose()
    return mean


_STEP = 1e-3


def tabulated(kappa: Floats, ndim: int) -> Floats:
    """g(κ) of `spectrum` by linear interpolation of a table with steps of 10⁻³; `kappa` is overwritten.

    The error, at most 1.3·10⁻⁷ of the envelope of g, is that of single precision.
    """
    table, slope = _table(ndim, 1 << (int(kappa.max(initial=0)) + 1).bit_length())
    kappa /= _STEP
    at = kappa.astype(np.int32)
    kappa -= at
    kappa *= slope[at]
    kappa += table[at]
    return kappa


@functools.lru_cache(maxsize=16)
def _table(ndim: int, limit: int) -> tuple[Floats, Floats]:
    """g(κ) at multiples of _STEP from 0 to `limit`, and the differences between neighbours."""
    table = _profile(np.arange(round(limit / _STEP) + 1, dtype=np.float64) * _STEP, ndim)
    return table, np.append(np.diff(table), 0.0)


def _profile(kappa: Floats, ndim: int) -> Floats:
    """g(κ): 2 J₁(κ)/κ in two dimensions, 3 (sin κ − κ cos κ)/κ³ in three, 1 at κ = 0."""
    from scipy.special import j1

    # Below 0.05 the difference in the numerator of the 3D form cancels; the series is accurate there to 1e-13.
    small = kappa < 0.05
    safe = np.where(small, 1.0, kappa)
    if ndim == 2:
        series, closed = 1 - kappa**2 / 8 + kappa**4 / 192 - kappa**6 / 9216, 2 * j1(safe) / safe
    else:
        series, closed = 1 - kappa**2 / 10 + kappa**4 / 280 - kappa**6 / 15120, _profile_3d(safe)
    g: Floats = np.where(small, series, closed)
    return g


def _profile_3d(kappa: Floats) -> Floats:
    g: Floats = 3 * (np.sin(kappa) - kappa * np.cos(kappa)) / kappa**3
    return g


def _forms(objects: Sequence[Ellipsoid]) -> Floats:
    """R diag(a²) Rᵀ of each ellipsoid in patient coordinates."""
    out = []
    for o in objects:
        t, s = math.radians(o.turn_deg), math.radians(o.tilt_deg)
        turn = np.array([[math.cos(t), -math.sin(t), 0], [math.sin(t), math.cos(t), 0], [0, 0, 1]])
        tilt = np.array([[1, 0, 0], [0, math.cos(s), -math.sin(s)], [0, math.sin(s), math.cos(s)]])
        r = tilt @ turn
        out.append(r @ np.diag(np.square(np.asarray(o.semi_axes, np.float64))) @ r.T)
    forms: Floats = np.reshape(out, (-1, 3, 3))
    return forms


def _each(shapes: Shapes) -> Iterator[tuple[Floats, Floats, float, complex]]:
    return zip(shapes.centre, shapes.form, shapes.content, shapes.signal)
