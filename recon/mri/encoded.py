"""Cartesian slices and volumes on the encoded grid: from hybrid space and calibration through a method to images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from recon import trust
from recon.data import Measurement
from recon.job import Job
from recon.kernels.steady import total
from recon.mri import measured, methods
from recon.mri.calibration import Calibrated, maps_of
from recon.mri.replicas import replicas
from recon.operators import fft, ifft
from recon.operators.sense import Sense
from recon.plan import HALO
from recon.prepare import place
from recon.prepare.finish import finer
from recon.prepare.hybrid import Slab
from recon.prepare.sensitivities import combine, first_coil
from recon.prepare.walsh import walsh
from recon.recipe import Method
from recon.solve import cg, position
from recon.solve.grappa import grappa
from recon.trust import Evidence


@dataclass(frozen=True)
class EncodedImages:
    """Complex images (item, z, y, x) on the encoded grid, their uncertainty (or None), and evidence on learned ones.

    `phase` holds the maps (item, coil, z, y, x) and the coil (item, coil) that define the image's phase, if requested.
    `notes` are warnings on classical images.
    """

    images: Tensor
    deviation: Tensor | None = None
    evidence: tuple[Evidence, ...] = ()
    phase: tuple[Tensor, Tensor] | None = None
    notes: tuple[str, ...] = ()


def by_columns(
    method: Method, slab: Slab, known: Calibrated, top: int, job: Job, columns: int, seed: int
) -> EncodedImages:
    """The complex image (1, z, y, x) of a volume, some columns of its readout at a time; `seed` is that of replicas.

    Properties of the whole volume are computed first: its mean power, which sets λ, and the phase of its coils.
    """
    nx, halo = slab.y.shape[-1], HALO[method]
    weights = (slab.counts / top).sqrt()[:, :, None]
    energy = torch.stack([total((c * weights).abs().square().double(), 3) for c in slab.y]).sum()
    samples = torch.count_nonzero(slab.counts) * slab.y[:, 0, 0].numel()
    power = float(cg.signal_power(energy, samples, top**-0.5, slab.y[0].numel()))
    towards = first_coil(slab.y) if method == "combine" else None
    out = torch.empty(1, *slab.y.shape[1:], dtype=slab.y.dtype, device=job.device)
    spread = torch.zeros_like(out.real) if job.recipe.trust.replicas else None
    for start in range(0, nx, columns):
        end = min(nx, start + columns)
        low, high = start - halo, end + halo
        # For wavelets and total variation the grid is periodic; the window of the combination ends at its edges.
        low, high = (max(0, low), min(nx, high)) if method == "combine" else (low, high)
        around = torch.arange(low, high).remainder(nx)
        maps = known.maps.index_select(-1, around.to(known.maps.device)) if known.maps is not None else None
        if known.signal is not None:
            maps = maps_of(known.signal, (*slab.y.shape[1:3], nx), job, (low, high))
        part = replace(slab, y=slab.y.index_select(-1, around))
        solved = images(
            method, [part], [replace(known, maps=maps)], top, job,
            seeds=[seed], columns=around.tolist(), power=power, towards=towards,
        )  # fmt: skip
        out[..., start:end] = solved.images[..., start - low : end - low]
        if spread is not None and solved.deviation is not None:
            spread[..., start:end] = solved.deviation[..., start - low : end - low]
    return EncodedImages(out, spread)


def images(
    method: Method,
    slabs: list[Slab],
    known: list[Calibrated],
    top: int,
    job: Job,
    *,
    seeds: Sequence[int],
    instead: Method | None = None,
    columns: Sequence[int] = (),
    power: float | None = None,
    towards: Tensor | None = None,
) -> EncodedImages:
    """The images of a batch; if a learned one is not trusted, that of the method `instead`.

    `seeds` holds one seed for the replicas of each item. If this is a part of a volume, `columns` are its columns of
    the whole, and `power` and `towards` the mean power and the first coil of the whole.
    """
    y, acquired = place.together([s.y for s in slabs]).to(job.device), place.together([s.counts for s in slabs])
    if method == "varnet":
        return EncodedImages(methods.varnet(y, acquired.to(job.device), job.recipe.solve))
    if method == "grappa":
        y = torch.stack([_grappa(s, k, top, job) for s, k in zip(slabs, known, strict=True)])
    if method in ("combine", "grappa"):
        return _combined(y, job, towards)
    sets = job.recipe.prepare.map_sets if y.shape[1] > 1 else 1
    m = measurement(y, acquired, known, top, sets)
    return _explained(method, m, known, job, seeds=seeds, columns=columns, sets=sets, instead=instead, power=power)


def _combined(y: Tensor, job: Job, towards: Tensor | None) -> EncodedImages:
    """The coil images of full k-space y (item, coil, kz, ky, x), combined adaptively."""
    coil_images = ifft(y, (-3, -2))
    if y.shape[1] == 1:
        return EncodedImages(coil_images[:, 0])
    first = torch.stack([first_coil(c) for c in coil_images]) if towards is None else towards[None]
    maps = place.together([walsh(c, reference=r).maps for c, r in zip(coil_images, first)])
    return EncodedImages(combine(coil_images, maps), phase=(maps, first) if finer(job.encoding) else None)


def _explained(
    method: Method,
    m: Measurement,
    known: list[Calibrated],
    job: Job,
    *,
    seeds: Sequence[int],
    columns: Sequence[int],
    sets: int,
    instead: Method | None,
    power: float | None,
) -> EncodedImages:
    """The images with which a solver, or a network, explains a measurement; arguments are as for `images`."""
    solve, limits = job.recipe.solve, job.recipe.trust
    positions = position.compared(m, [k.block if k.separate else None for k in known])
    evidence: Sequence[Evidence] | None = None

    def run(given: Measurement) -> Tensor:
        nonlocal evidence
        if job.solver:
            x = measured.solved(job, given)
        elif method == "unrolled":
            x, evidence = methods.learned(
                given, solve, limits, sets=sets, instead=instead, decided=evidence, positions=positions,
                prepare=job.recipe.prepare,
            )  # fmt: skip
        else:
            x = methods.solve(method, given, solve, power=power, sets=sets)
        # The first set is the object; the second absorbs what wraps around.
        return x[:, 0] if sets > 1 else x

    x = run(m)
    again = partial(replicas, m, run, count=limits.replicas, seeds=seeds, columns=columns)
    spread = again() if limits.replicas else None
    references = [k.reference for k in known if k.reference is not None] if finer(job.encoding) else []
    assert isinstance(m.A, Sense)
    phase = (m.A.maps[:, 0] if sets > 1 else m.A.maps, torch.stack(references)) if references else None
    # The evidence on learned images includes it.
    far = [] if evidence else [p for p in positions if p is not None and p.elsewhere > limits.elsewhere]
    notes = tuple(f"warning: {trust.elsewhere(p.rows, p.columns)}" for p in far)
    return EncodedImages(x, spread, tuple(evidence or ()), phase, notes)


def measurement(y: Tensor, counts: Tensor, known: list[Calibrated], top: int, sets: int) -> Measurement:
    """The measurement of y (item, coil, kz, ky, x), which are means of `counts` (item, kz, ky) lines, at most `top`."""
    # n averaged lines have noise σ/√n: weighting by √n keeps it white. Unmeasured samples are zero anyway.
    weights = (counts / top).sqrt()[:, None, :, :, None].to(y.device)
    even = bool(((counts == 0) | (counts == top)).all())
    if y.shape[1] == 1:
        maps = torch.ones_like(y)
    else:
        maps = place.together([k.maps for k in known if k.maps is not None]).to(y.device)
    return Measurement(y if even else y * weights, Sense(maps, weights, (-3, -2), sets > 1), top**-0.5)


def _grappa(slab: Slab, known: Calibrated, top: int, job: Job) -> Tensor:
    """Full k-space of a slice or slab in hybrid space; its noise is taken into account if it is known."""
    assert known.block is not None
    solve, sigma = job.recipe.solve, top**-0.5 if job.whitening.known else 0.0
    k = fft(slab.y.to(job.device), (-1,))
    mask, block = slab.counts.to(job.device) > 0, known.block.to(job.device)
    z, y, x = solve.grappa_kernel
    kernel = (z if k.shape[1] > 1 else 1, y, x)
    full = grappa(k, mask, block, kernel=kernel, lam=solve.grappa_l2, sigma=sigma)
    return ifft(full, (-1,))
