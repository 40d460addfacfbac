"""Receive coils around the head with an exact effect on k-space.

A sensitivity map that is a short Fourier series, c(u) = Σₘ aₘ exp(2πi m·u/P), shifts and adds the object's spectrum:

    k-space(k) = Σₘ aₘ F(k − m/P)

so multi-coil k-space of an analytic object is analytic, too. The series is fitted to the Biot–Savart fields of loops
around the head; the fitted maps are, exactly, the maps of the simulated scan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.simulation.phantom import HEAD_MM, Shapes, grid_spectrum, tabulated

Floats = NDArray[np.float64]
Complexes = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class Modes:
    """Fourier series of one or more maps in the coordinates u of a scan (mm from its position along its axes).

    map c at u = Σₘ coefficients[c, m] · exp(2πi Σ_d index[m, d]·u[d]/period[d])
    """

    index: NDArray[np.intp]
    coefficients: Complexes
    period: tuple[float, ...]


def maps(modes: Modes, points: Floats) -> Complexes:
    """Values of the maps (coil, …) at `points` (…, dimension) in the coordinates of the modes, millimetres."""
    flat = np.reshape(points, (-1, len(modes.period)))
    waves = np.exp(2j * np.pi * (modes.index / np.asarray(modes.period)) @ flat.T)
    values: Complexes = modes.coefficients @ waves
    return values.reshape(-1, *np.shape(points)[:-1])


def product(a: Modes, b: Modes) -> Modes:
    """The series of a's maps times the one map of `b`: the coefficients convolve."""
    index = (a.index[:, None] + b.index[None]).reshape(-1, len(a.period))
    coefficients = (a.coefficients[:, :, None] * b.coefficients[:1, None, :]).reshape(len(a.coefficients), -1)
    return _gathered(index, coefficients, a.period)


def in_plane(modes: Modes, w: float) -> Modes:
    """The two-dimensional series of a three-dimensional one in the plane u[2] = w mm."""
    wave = np.exp(2j * np.pi * modes.index[:, 2] * w / modes.period[2])
    return _gathered(modes.index[:, :2], modes.coefficients * wave, modes.period[:2])


def received(shapes: Shapes, modes: Modes, kx: Floats, *lines: Floats) -> NDArray[np.complex64]:
    """K-space of each coil on Cartesian lines, (line, coil, sample): Σₘ aₘ F(k − m/P).

    `kx` are the samples along every line, `lines` ky (and kz) of each line, cycles/mm. F is evaluated once on the
    product of the axes, refined by the shifts m/P; these repeat if P is a multiple of the encoded field of view.
    """
    axes, at = [], []
    for d, k in enumerate((kx, *lines)):
        shifted = np.round(k[:, None] - modes.index[:, d] / modes.period[d], 10)
        values, where = np.unique(shifted, return_inverse=True)
        axes.append(values)
        at.append(where.reshape(shifted.shape))
    grid = grid_spectrum(shapes, *axes).astype(np.complex64)
    coefficients = modes.coefficients.astype(np.complex64)
    out = np.empty((len(lines[0]), len(coefficients), len(kx)), np.complex64)
    step = max(1, 2**16 // len(kx))
    for first in range(0, len(out), step):
        some = slice(first, first + step)
        rows = [a[some].T[:, :, None] for a in reversed(at[1:])]
        patches = grid[tuple([*rows, at[0].T[:, None, :]])]
        part = coefficients @ patches.reshape(len(patches), -1)
        out[some] = part.reshape(len(coefficients), -1, len(kx)).swapaxes(0, 1)
    return out


def received_at(shapes: Shapes, modes: Modes, k: Floats) -> NDArray[np.complex64]:
    """K-space of each coil at any points `k` (line, sample, dimension) in cycles/mm, (line, coil, sample).

    Σₘ aₘ F(k − m/P), summed for each shape as exp(−2πi k·centre) · Σₘ [aₘ exp(2πi m·centre/P)] · g(κ(k − m/P)).
    """
    flat = k.reshape(-1, k.shape[-1]).astype(np.float64)
    out = np.zeros((len(modes.coefficients), len(flat)), np.complex128)
    shift = modes.index / np.asarray(modes.period)
    for centre, form, content, signal in zip(shapes.centre, shapes.form, shapes.content, shapes.signal):
        weight = modes.coefficients * np.exp(2j * np.pi * (shift @ centre)) * signal * content
        parts = np.ascontiguousarray(np.concatenate([weight.real, weight.imag]))
        constant, slope = np.einsum("mi,ij,mj->m", shift, form, shift), -2 * shift @ form
        for first in range(0, len(flat), 4096):
            q = flat[first : first + 4096]
            kappa = slope @ q.T
            kappa += np.einsum("ni,ij,nj->n", q, form, q)
            kappa += constant[:, None]
            np.sqrt(np.maximum(kappa, 0, out=kappa), out=kappa)
            kappa *= 2 * np.pi
            real, imaginary = np.split(parts @ tabulated(kappa, shapes.ndim), 2)
            out[:, first : first + 4096] += (real + 1j * imaginary) * np.exp(-2j * np.pi * (q @ centre))
    samples: NDArray[np.complex64] = out.reshape(-1, *k.shape[:-1]).swapaxes(0, 1).astype(np.complex64)
    return samples


def coil_modes(
    coils: int, origin: Sequence[float], axes: Sequence[Sequence[float]], period: Sequence[float], order: int = 3
) -> Modes:
    """Series of `coils` sensitivity maps in the coordinates u = axes · (x − origin) of a scan.

    Fitted by least squares inside the head to the fields of `loop_fields`, with |m| ≤ order. The mean over the head of
    Σ|c|² is 1. `period` in millimetres should be at least 1.5 times the head (330 mm) along each axis, because the maps
    are periodic.
    """
    points = _inside_head(4000)
    u = (points - np.asarray(origin)) @ np.asarray(axes, np.float64).T
    return _fit(loop_fields(coils, points), u, period, order)


def phase_mode(amount: float, period: Sequence[float]) -> Modes:
    """A smooth object phase as a series of order 1, normalised to a mean power of 1.

        p(u) ∝ 1 + i·amount·Σ_d w_d sin(2π u_d/P_d + d),   w = (0.6, −0.5, 0.4)

    It is close to exp(i·amount·…). Its modulus, which varies by amount²/4, belongs to the truth like its phase.
    """
    ndim = len(period)
    index = np.concatenate([np.zeros((1, ndim), np.intp), np.eye(ndim, dtype=np.intp), -np.eye(ndim, dtype=np.intp)])
    weight = amount * np.array([0.6, -0.5, 0.4][:ndim]) / 2
    turn = np.exp(1j * np.arange(ndim))
    a = np.concatenate([[1.0], weight * turn, -weight / turn])
    return Modes(index, (a / np.linalg.norm(a))[None], tuple(float(p) for p in period))


def loop_fields(coils: int, points: Floats) -> Complexes:
    """Receive sensitivity Bx − i·By (coil, …) of circular loops around the head at `points` (…, 3), LPS mm.

    The loops lie in rings of about eight on an ellipsoid 45 mm outside the head and face its centre. Field by
    Biot–Savart, Σ dl × r/|r|³ over 24 segments; the unit is arbitrary; each coil has a different constant phase.
    """
    flat = np.reshape(points, (-1, 3))
    out = np.empty((coils, len(flat)), np.complex128)
    for c, (centre, normal, radius) in enumerate(_loops(coils)):
        across = np.cross(normal, (0.0, 0.0, 1.0))
        across /= np.linalg.norm(across)
        angle = np.arange(24) * (2 * np.pi / 24)
        wire = np.cos(angle)[:, None] * across + np.sin(angle)[:, None] * np.cross(normal, across)
        tangent = np.cos(angle)[:, None] * np.cross(normal, across) - np.sin(angle)[:, None] * across
        field = np.zeros((len(flat), 3))
        for at, along in zip(centre + radius * wire, tangent):
            r = flat - at
            field += radius * np.cross(along, r) / (np.einsum("pi,pi->p", r, r) ** 1.5)[:, None]
        out[c] = (field[:, 0] - 1j * field[:, 1]) * np.exp(2j * np.pi * 0.618 * c)
    return out.reshape(coils, *np.shape(points)[:-1])


def _loops(coils: int) -> list[tuple[Floats, Floats, float]]:
    """Centre, unit normal and radius of each loop."""
    rings = max(1, round(coils / 8))
    counts = [coils // rings + (i < coils % rings) for i in range(rings)]
    semi = np.asarray(HEAD_MM) + 45
    found = []
    for ring, n in enumerate(counts):
        height = (ring + 0.5) / rings * 1.2 - 0.6
        width = math.sqrt(1 - height**2)
        radius = max(55.0, 0.75 * math.pi * width * float(semi[:2].mean()) / max(n, 4))
        for i in range(n):
            angle = 2 * math.pi * (i + 0.5 * (ring % 2)) / n
            centre = semi * (width * math.cos(angle), width * math.sin(angle), height)
            found.append((centre, -centre / float(np.linalg.norm(centre)), radius))
    return found


def _fit(values: Complexes, u: Floats, period: Sequence[float], order: int) -> Modes:
    """Least squares with slight regularisation, so that the maps do not grow outside the fitted points."""
    ndim = len(period)
    box = np.stack(np.meshgrid(*[np.arange(-order, order + 1)] * ndim, indexing="ij"), -1).reshape(-1, ndim)
    index = box[(box**2).sum(1) <= order**2]
    waves = np.exp(2j * np.pi * u @ (index / np.asarray(period)).T)
    gram = waves.conj().T @ waves
    gram += 1e-4 * len(u) * np.eye(len(index))
    a = np.linalg.solve(gram, waves.conj().T @ values.T).T
    a /= math.sqrt(float(np.mean(np.sum(np.abs(waves @ a.T) ** 2, axis=1))))
    return Modes(index, a, tuple(float(p) for p in period))


def _inside_head(count: int) -> Floats:
    """Evenly spread points of the head ellipsoid (a Kronecker sequence with the plastic number)."""
    g = 1.22074408460575947536
    cube = (0.5 + np.arange(1, 2 * count + 1)[:, None] / g ** np.arange(1, 4)) % 1 * 2 - 1
    return np.asarray(cube[(cube**2).sum(1) <= 1][:count] * np.asarray(HEAD_MM))


def _gathered(index: NDArray[np.intp], coefficients: Complexes, period: tuple[float, ...]) -> Modes:
    """Terms with equal index added up."""
    unique, where = np.unique(index, axis=0, return_inverse=True)
    out = np.zeros((len(coefficients), len(unique)), np.complex128)
    np.add.at(out.T, where.ravel(), coefficients.T)
    return Modes(unique, out, tuple(period))
