"""GRAPPA: missing k-space lines predicted from measured neighbours of all coils."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.data import DataError
from recon.kernels.steady import alone

#: Offsets (kz, ky) of the measured neighbours that predict a missing line.
Sources = tuple[tuple[int, int], ...]

#: Share of the slice's calibration lines that a line and its neighbours may span. If the span is too long, only a few
#: lines in the middle of k-space contain it, and weights fitted to these do not predict the others.
SPAN = 0.4

#: Largest number of equations per unknown in the fit of the weights.
EQUATIONS = 12

#: Bytes of measured neighbours gathered at a time.
GATHERED = 32 << 20


def grappa(
    kspace: Tensor,
    mask: Tensor,
    calibration: Tensor,
    *,
    sigma: float,
    kernel: tuple[int, int, int] = (5, 5, 5),
    lam: float = 1e-5,
) -> Tensor:
    """Full k-space: each missing line as a linear combination of its measured neighbours in all coils.

    k_c(z, y, x) = Σ_{c', s, t} w_{c c' s t} k_{c'}((z, y) + s, x + t), with weights per arrangement s of neighbours
    fitted to `calibration` in the least-squares sense,

        min ‖A w − b‖² + [λ tr AᴴA / n + 2σ² (M − m)] ‖w‖²

    for n unknowns per coil and m equations. Calibration lines hold nearly all of the signal but only the noise of their
    own m samples. The fitted weights carry the noise of all M samples of k-space into the image, so `sigma` adds the
    missing noise: it is the noise per real and imaginary part of `kspace` (0 for none, 1 after whitening). With less
    than the true noise the weights amplify it: a measured brain at R = 4 loses 2.9 dB with σ = 0.

    `kspace` is (..., coil, kz, ky, kx), zero where nothing was measured; `mask` (kz, ky) is true where measured;
    `calibration` (..., coil, cz, cy, cx) is a fully sampled block with the same spacing. `kernel` is the largest number
    of measured lines used along kz and along ky (kz × ky of them in a volume undersampled along both axes), and the
    number of samples along kx. Any regular pattern works: uniform, shifted (CAIPIRINHA), with embedded calibration
    lines. Lines without a measured neighbour nearby, as in partial Fourier scans, stay zero. Measured samples are kept
    bit for bit.

    Raises DataError if the calibration block is too small or the pattern is not regular. (Griswold et al., Magn Reson
    Med 47:1202, 2002; Breuer et al., Magn Reson Med 55:549, 2006.)
    """
    if kspace.ndim > 4:
        pairs = zip(kspace, calibration, strict=True)
        return torch.stack([grappa(k, mask, c, kernel=kernel, lam=lam, sigma=sigma) for k, c in pairs])
    measured = mask.detach().cpu().numpy().astype(bool)
    block = (calibration.shape[-3], calibration.shape[-2])
    out, noise = kspace.clone(), 2 * sigma**2
    for sources, targets in neighbourhoods(measured, block, kernel[:2]).items():
        weights = _weights(calibration, sources, kernel[2], lam, noise, kspace.shape[-3:].numel())
        z, y = (torch.as_tensor(targets[:, i], device=kspace.device) for i in (0, 1))
        one = len(sources) * kspace.shape[0] * kspace.shape[-1] * kspace.element_size()
        for zs, ys in zip(*(torch.split(t, max(1, GATHERED // one)) for t in (z, y))):
            out[:, zs, ys] = _predict(kspace, weights, sources, zs, ys)
    return out


def neighbourhoods(
    mask: NDArray[np.bool_], block: tuple[int, int], lines: tuple[int, int]
) -> dict[Sources, NDArray[np.intp]]:
    """Missing lines, (line, (kz, ky)), grouped by the offsets of the measured lines that predict them.

    The nearest measured lines are used, those at equal distance together, as far as they fit into SPAN of the
    calibration `block` (lines along kz, ky), or three quarters of SPAN for a volume. Nothing farther away than the
    widest gap between measured lines is predicted. Raises DataError for an irregular pattern, and if no arrangement
    fits into the block.
    """
    if mask.all():
        return {}
    axes = [a for a in (0, 1) if (mask.any(a) & ~mask.all(a)).any()]
    count = int(np.prod([lines[a] for a in axes]))
    gap = max(
        (int(np.diff(np.flatnonzero(row)).max(initial=1)) for a in axes for row in np.moveaxis(mask, a, 1)), default=1
    )
    fit = [max(1, n - n // 4) for n in block]
    if mask.shape[0] == 1:
        # At least one neighbour on either side.
        fit = [min(most, max(round(n * SPAN), gap + 1)) for n, most in zip(block, fit)]
    reach = [min(fit[a], mask.shape[a]) - 1 if a in axes else 0 for a in (0, 1)]
    size = [2 * r + 1 for r in reach]
    missing = np.argwhere(~mask)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(mask, [(r, r) for r in reach]), size)
    patches = windows[tuple(missing.T)].reshape(len(missing), -1)
    _, first, kind = np.unique(np.packbits(patches, axis=1), axis=0, return_index=True, return_inverse=True)
    groups: dict[Sources, list[NDArray[np.intp]]] = {}
    for i, example in enumerate(first):
        sources = _nearest(np.argwhere(patches[example].reshape(size)) - reach, count, fit, gap - 1)
        if sources:
            groups.setdefault(sources, []).append(missing[kind.reshape(-1) == i])
    if len(groups) > 1000:
        raise DataError(
            f"GRAPPA found {len(groups)} different arrangements of measured lines around the missing ones, and "
            "a regular pattern has only some tens; use the method sense for random sampling"
        )
    if not groups:
        raise DataError(
            "GRAPPA found no missing line whose measured neighbours fit into the calibration block of "
            f"{block[0]} x {block[1]} lines (kz x ky); acquire more calibration lines or use the method sense"
        )
    return {sources: np.concatenate(members) for sources, members in groups.items()}


def _nearest(offsets: NDArray[np.intp], count: int, fit: list[int], farthest: int) -> Sources:
    """The `count` nearest offsets, and those as near as the last, except distant ones that do not fit the block."""
    distance = (offsets**2).sum(1)
    order = np.argsort(distance, kind="stable")
    offsets, distance = offsets[order], distance[order]
    if not len(offsets) or distance[0] > farthest**2:
        return ()
    offsets = offsets[distance <= distance[min(count, len(offsets)) - 1]]
    while len(offsets) and any(np.ptp(np.append(offsets[:, a], 0)) >= fit[a] for a in (0, 1)):
        offsets = offsets[:-1]
    return tuple((int(z), int(y)) for z, y in offsets)


def _weights(calibration: Tensor, sources: Sources, taps: int, lam: float, noise: float, samples: int) -> Tensor:
    """Regularised least-squares weights, (coil, tap · source · coil), for `samples` of k-space of that noise power."""
    coils, _, _, nx = calibration.shape
    low = [min(0, *(s[a] for s in sources)) for a in (0, 1)]
    high = [max(0, *(s[a] for s in sources)) for a in (0, 1)]
    sizes = [calibration.shape[1 + a] - high[a] + low[a] for a in (0, 1)]
    taps = min(taps, nx - 1 + nx % 2)
    width = nx - taps + 1
    # Extra equations beyond this change nothing; those around the centre of the readout, with the signal, are kept.
    width = min(width, max(1, -(-EQUATIONS * taps * len(sources) * coils // (sizes[0] * sizes[1]))))
    start = (nx - taps + 1 - width) // 2

    def lines(s: tuple[int, int], x: int) -> Tensor:
        z, y = s[0] - low[0], s[1] - low[1]
        return calibration[:, z : z + sizes[0], y : y + sizes[1], x : x + width].reshape(coils, -1)

    terms = [(s, start + t) for t in range(taps) for s in sources]
    a = calibration.new_empty(len(terms) * coils, sizes[0] * sizes[1] * width)
    for rows, term in zip(torch.split(a, coils), terms):
        rows.copy_(lines(*term))
    b = lines((0, 0), start + taps // 2)
    gram = (a @ a.mH).to(torch.complex128)
    cross = (b @ a.mH).to(torch.complex128)
    missing = noise * max(0, samples - a.shape[1])
    gram.diagonal().add_(lam * gram.diagonal().real.mean() + missing + torch.finfo(torch.float32).tiny)
    weights: Tensor = alone(torch.linalg.solve, gram, cross, left=False)
    return weights.to(calibration.dtype)


def _predict(kspace: Tensor, weights: Tensor, sources: Sources, z: Tensor, y: Tensor) -> Tensor:
    """Lines at (z, y) predicted from their sources, (coil, line, kx)."""
    coils, nx = kspace.shape[0], kspace.shape[-1]
    taps = weights.shape[1] // (len(sources) * coils)
    near = torch.cat([kspace[:, z + s[0], y + s[1]] for s in sources])
    near = torch.nn.functional.pad(near, (taps // 2, taps // 2))
    out = kspace.new_zeros(coils, len(z) * nx)
    for t, w in enumerate(weights.chunk(taps, dim=1)):
        out.addmm_(w, near[..., t : t + nx].reshape(len(near), -1))
    return out.reshape(coils, len(z), nx)
