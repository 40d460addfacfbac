"""The proof of a CUDA kernel on a device before it is used: a small random problem, compared with torch's result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from recon.kernels import bridge, fourier, launch

_CPU = torch.device("cpu")

#: The end of the report on a kernel in use.
GOOD = "in use"


def stands(name: str, device: torch.device) -> bool:
    """Whether a kernel of `PROOFS` may be used on a device."""
    return device.type == "cuda" and bool(bridge.proven(name, device, PROOFS[name]))


def report() -> list[str]:
    """A sentence for each kernel and GPU, after running every proof; a single one if none can run."""
    why = bridge.missing()
    if why:
        return [f"CUDA kernels: {why}"]
    devices = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    for device in devices:
        for name in PROOFS:
            stands(name, device)
    return [
        f"CUDA kernel {name} on GPU {index}: {said or GOOD}"
        for (name, index), said in sorted(bridge.verdicts().items())
    ]


def sense(device: torch.device) -> None:
    """The encoding along y, its adjoint and its normal operator: lengths with every radix, sets and a batch."""
    for n, sets, items in ((210, 2, 2), (1040, 1, 1), (88, 2, 1), (1, 1, 1)):
        draw = _draw(n)
        maps, x = draw(1, sets, 3, 2, n, 19), draw(items, sets, 2, n, 19)
        y, w = draw(items, 3, 2, n, 19), draw(1, 2, n).real.contiguous()
        xs, ys, s, ws = (t.to(device) for t in (x, y, maps, w))
        wide = w.double()[:, None, :, :, None]
        coil_images = (maps * x[:, :, None]).to(torch.complex128).sum(1)
        filtered = n * torch.fft.ifft(torch.fft.fft(coil_images, dim=-2) * wide, dim=-2)
        for blocks in (1, launch.BLOCKS):  # all coils in one group, and one in each
            bridge.same("sense_normal", launch.normal(xs, s, ws, blocks), _combined(maps, filtered))
        k = torch.fft.fft(torch.fft.ifftshift(coil_images, -2), dim=-2)
        bridge.same("sense_encode", launch.encode(xs, s, ws), torch.fft.fftshift(k, -2) * wide)
        back = n * torch.fft.ifft(torch.fft.ifftshift(y * wide, -2), dim=-2)
        for blocks in (1, launch.BLOCKS):
            bridge.same("sense_decode", launch.decode(ys, s, ws, blocks), _combined(maps, torch.fft.fftshift(back, -2)))
        rows = n - n // 3  # an image shorter than the transform
        short = coil_images[..., :rows, :].contiguous()
        filtered = n * torch.fft.ifft(torch.fft.fft(short, n=n, dim=-2) * wide, dim=-2)[..., :rows, :]
        cut = [t[..., :rows, :].contiguous() for t in (xs, s)]
        bridge.same("sense_normal", launch.normal(*cut, ws), _combined(maps[..., :rows, :], filtered))


def fits(x: Tensor, maps: Tensor, compiled: Sequence[fourier.Compiled]) -> bool:
    """Whether the kernels compiled for these lengths, (y,) or (y, z), and this image may be used: each has a proof."""
    if not compiled or not x.is_cuda:
        return False
    coils, nz, ny, nx = maps.shape[2:]
    if len(compiled) == 1:
        (y,) = compiled
        name = f"planned {y.n} by {y.width} of {ny}×{nx}"
        return bool(bridge.proven(name, x.device, lambda device: _plane(device, y, (1, 2, 1, ny, nx))))
    y, z = compiled
    wide = launch.together(coils, nz, ny, nx, y)
    name = f"planned {z.n}×{y.n} of {nz}×{ny}×{nx} by {wide}"
    return bool(bridge.proven(name, x.device, lambda device: _volume(device, y, z, (nz, ny, nx), wide)))


def planned(device: torch.device) -> None:
    """The normal operator by kernels compiled for a length and an image, which may have fewer rows."""
    y, z = fourier.compiled(180), fourier.compiled(10)
    assert y is not None
    assert z is not None
    for rows, items in ((y.n, 2), (y.n - y.n // 3, 1)):
        _plane(device, y, (items, 3, 2, rows, 19))
    for nz, ny in ((z.n, y.n), (z.n - z.n // 3, y.n - y.n // 3)):
        _volume(device, y, z, (nz, ny, 11), 8)


def _plane(device: torch.device, c: fourier.Compiled, shape: tuple[int, int, int, int, int]) -> None:
    items, coils, nz, rows, nx = shape
    draw = _draw(c.n)
    maps, x, w = draw(1, 1, coils, nz, rows, nx), draw(items, 1, nz, rows, nx), draw(1, nz, c.n).real.contiguous()
    k = torch.fft.fft((maps * x[:, :, None]).to(torch.complex128).sum(1), n=c.n, dim=-2)
    filtered = c.n * torch.fft.ifft(k * w.double()[:, None, :, :, None], dim=-2)[..., :rows, :]
    xs, s, ordered = (t.to(device) for t in (x, maps, w[..., fourier.plan(c.n, c.radices).frequency]))
    for blocks in (1, launch.BLOCKS):
        bridge.same("planned_normal", launch.planned(xs, s, ordered, c, blocks), _combined(maps, filtered))


def _volume(
    device: torch.device, y: fourier.Compiled, z: fourier.Compiled, shape: tuple[int, int, int], wide: int
) -> None:
    """Against torch's transforms on the device: those of a large volume would take seconds on the CPU."""
    draw, size, (nz, ny, _) = _draw(y.n + z.n, device), (z.n, y.n), shape
    maps, x, w = draw(1, 1, 2, *shape), draw(1, 1, *shape), draw(1, *size).real.contiguous()
    order = w.cpu()[:, fourier.plan(z.n, z.radices).frequency][..., fourier.plan(y.n, y.radices).frequency]
    got = launch.planned_volume(x, maps, order.transpose(1, 2).contiguous().to(device), z, y, wide)
    k = torch.fft.fft2((maps * x[:, :, None]).sum(1), s=size, dim=(-3, -2)) * w[:, None, ..., None]
    filtered = torch.fft.ifft2(k, dim=(-3, -2))[..., :nz, :ny, :] * w[0].numel()
    bridge.same("planned_volume", got, _combined(maps, filtered).cpu())


def coils(device: torch.device) -> None:
    """The normal operator along z and y, with transforms longer than the image."""
    for sets, longer in ((1, 0), (2, 3)):
        draw = _draw(sets)
        maps, x = draw(2, sets, 3, 5, 12, 7), draw(2, sets, 5, 12, 7)
        w = draw(2, 5 + longer, 12 + longer).real.contiguous()
        coil_images = (maps * x[:, :, None]).to(torch.complex128).sum(1)
        k = torch.fft.fft2(coil_images, s=w.shape[1:], dim=(-3, -2)) * w.double()[:, None, ..., None]
        filtered = torch.fft.ifft2(k, dim=(-3, -2))[..., :5, :12, :] * (w[0].numel())
        bridge.same(
            "coil kernels", launch.normal_volume(*(t.to(device) for t in (x, maps, w))), _combined(maps, filtered)
        )


def eigen(device: torch.device) -> None:
    """Eigenvectors of matrices whose first eigenvalue is well separated."""
    draw = _draw(5)
    for coils in (1, 5):
        upper = torch.triu_indices(coils, coils)
        first = draw(coils)
        first = first / torch.linalg.vector_norm(first)
        g = 0.05 * draw(2, 11, 3, coils, coils)
        g[:, :, 1] += first[:, None] * first.conj()
        half = g[..., upper[0], upper[1]].contiguous()
        waves = torch.polar(torch.ones(13, 3), draw(13, 3).real)
        waves[:, 1] = 1
        every = torch.einsum("xl,zyle->zyxe", waves.to(torch.complex128), half.to(torch.complex128))
        matrix = every.new_zeros(*every.shape[:3], coils, coils)
        matrix[..., upper[0], upper[1]] = every
        matrix = matrix.triu(1) + matrix.triu(1).mH + torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1).real)
        value, vector = torch.linalg.eigh(matrix)
        value, vector = value[..., -1], vector[..., -1]
        along = (first.conj() * vector).sum(-1)
        vector = (vector * (along.conj() / along.abs())[..., None]).permute(3, 0, 1, 2)
        maps = torch.zeros(coils, 3, 11, 13, dtype=torch.complex64, device=device)
        values = torch.zeros(3, 11, 13, device=device)
        given = (t.to(device) for t in (half, waves, first))
        launch.eigenmaps(*given, maps, values, 1, least=0.1, tolerance=1e-5)
        bridge.same("eigenmaps", values[1:], value)
        bridge.same("eigenmaps", maps[:, 1:], vector, 1e-3)
        if bool((maps[:, 0] != 0).any()):
            raise ValueError("eigenmaps wrote outside its planes")


def shrink(device: torch.device) -> None:
    """Every exponent with a separate branch."""
    x = _draw(6)(3, 1001)
    for exponent in (1.0, 1.5, 2.0, 1.7):
        got = x.clone().to(device)
        launch.shrink(got, 0.7, exponent)
        size = x.to(torch.complex128).abs()
        bridge.same("shrink", got, x * (1 - (0.7 / size.clamp_min(0.7)) ** exponent))


def wavelet(device: torch.device) -> None:
    """One level along each axis, and back; four taps, against its matrix."""
    taps = np.array([1 - 3**0.5, 3 - 3**0.5, 3 + 3**0.5, 1 + 3**0.5]) / 32**0.5
    x = _draw(7)(2, 8, 10, 70)
    for axis, n in ((-3, 6), (-2, 10), (-1, 66)):
        rows = torch.zeros(n, n, dtype=torch.complex128)
        high = taps[::-1] * (1, -1, 1, -1)
        for k, t in itertools.product(range(n // 2), range(4)):
            rows[k, (2 * k - 1 + t) % n] += taps[t]
            rows[n // 2 + k, (2 * k - 1 + t) % n] += high[t]
        corner = (n if axis == -3 else 8, 10, n if axis == -1 else 70)
        for inverse in (False, True):
            got = x.clone().to(device)
            launch.wavelet_level(got, corner, axis, taps, inverse)
            expected = x.to(torch.complex128)
            part = expected.narrow(axis, 0, n).movedim(axis, -1) @ (rows if inverse else rows.mT)
            expected.narrow(axis, 0, n).copy_(part.movedim(-1, axis))
            bridge.same("wavelet_level", got, expected)


PROOFS: dict[str, Callable[[torch.device], None]] = {
    "sense": sense,
    "planned": planned,
    "coils": coils,
    "eigen": eigen,
    "shrink": shrink,
    "wavelet": wavelet,
}


def _draw(seed: int, device: torch.device = _CPU) -> Callable[..., Tensor]:
    generator = torch.Generator(device).manual_seed(seed)
    return lambda *shape: torch.randn(*shape, dtype=torch.complex64, generator=generator, device=device)


def _combined(maps: Tensor, k: Tensor) -> Tensor:
    return (maps.conj() * k[:, None]).sum(2)
