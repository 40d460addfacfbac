"""Line integrals of images along rays, their exact transpose, and the backprojection of filtered data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recon.kernels import bridge
from recon.kernels.build import native

#: Shapes of a detector, numbered as in shared/projector.h.
PARALLEL, FLAT, CURVED = 0, 1, 2

#: Threads of a CUDA block.
THREADS = 256

#: Bound on the rounding of a position on the detector, in elements.
MARGIN = {torch.float32: 2e-3, torch.float64: 1e-9}


@dataclass(frozen=True, eq=False)
class Rays:
    """The rays of a scan on one pixel grid, in double precision.

    `rays` (view, detector, 3) are (at, slope, step): the ray crosses line l at at + slope · l pixels, and is |step| mm
    long from one line to the next; lines are rows where step > 0, columns where step < 0. `views` (view, 6) are
    (side, side_row, side_column, depth, depth_row, depth_column), both affine in a pixel's row and column; the pixel
    lies on detector element centre + per · side/depth, or centre + per · atan(side/depth) on a CURVED one.
    """

    rays: Tensor
    views: Tensor
    beam: int
    centre: float
    per: float
    shape: tuple[int, int]

    @cached_property
    def single(self) -> tuple[Tensor, Tensor]:
        """Rays and views in single precision."""
        return self.rays.to(torch.float32).contiguous(), self.views.to(torch.float32).contiguous()

    @cached_property
    def _placed(self) -> dict[tuple[torch.dtype, torch.device, int], tuple[Tensor, Tensor]]:
        return {}

    def tables(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Rays and views in the precision and on the device of `like`; a copy for each stream of a GPU is cached."""
        single = like.dtype == torch.float32
        if like.device == self.rays.device:
            return self.single if single else (self.rays.contiguous(), self.views.contiguous())
        key = (torch.float32 if single else torch.float64, like.device, bridge.stream(like.device))
        if key not in self._placed:
            rays, views = self.single if single else (self.rays, self.views)
            self._placed[key] = rays.contiguous().to(like.device), views.contiguous().to(like.device)
        return self._placed[key]


def project(x: Tensor, r: Rays) -> Tensor:
    """Line integrals (item, view, detector) of images (item, row, column), float32 or float64."""
    y = x.new_empty(x.shape[0], *r.rays.shape[:2])
    if _on_gpu(x):
        return _launched("xray_project", x, r, y)
    if not _served(x):
        return _project(x, r, y)
    rays, views = (t.numpy() for t in r.tables(x))
    native().xray_project(x.contiguous().numpy(), rays, views, *_detector(r, x), y.numpy(), torch.get_num_threads())
    return y


def adjoint(y: Tensor, r: Rays) -> Tensor:
    """The transpose of `project`: images (item, row, column)."""
    x = y.new_empty(y.shape[0], *r.shape)
    if _on_gpu(y):
        return _launched("xray_adjoint", y, r, x)
    if not _served(y):
        return _gather(y, r, x)
    rays, views = (t.numpy() for t in r.tables(y))
    native().xray_adjoint(y.contiguous().numpy(), rays, views, *_detector(r, y), x.numpy(), torch.get_num_threads())
    return x


def smear(y: Tensor, r: Rays) -> Tensor:
    """Σ_view y(position of the pixel on the detector) / w, interpolated linearly; zero beyond the detector.

    w is 1 for parallel beams, depth² for flat and side² + depth² for curved detectors.
    """
    x = y.new_empty(y.shape[0], *r.shape)
    if _on_gpu(y):
        return _launched("xray_smear", y, r, x)
    if not _served(y):
        return _smear(y, r, x)
    views = r.tables(y)[1].numpy()
    native().xray_smear(y.contiguous().numpy(), views, *_detector(r, y), x.numpy(), torch.get_num_threads())
    return x


def smear_transposed(x: Tensor, r: Rays) -> Tensor:
    """The transpose of `smear`: sinograms (item, view, detector) of images (item, row, column), for its derivative.

    With torch, view by view; on a GPU the order of additions varies.
    """
    y = x.new_zeros(x.shape[0], r.rays.shape[0], r.rays.shape[1] + 4)
    for v, k, f, far in _neighbours(r, x, r.rays.shape[1]):
        share = x / far
        for at, part in ((k, share * (1 - f)), (k + 1, share * f)):
            y[:, v].scatter_add_(1, at.flatten().expand(len(x), -1), part.flatten(1))
    return y[..., 2:-2].contiguous()


def _served(t: Tensor) -> bool:
    return native() is not None and t.device.type == "cpu" and t.dtype in MARGIN and t.numel() > 0


def _detector(r: Rays, like: Tensor) -> tuple[int, float, float, float]:
    return r.beam, r.centre, r.per, MARGIN[like.dtype]


def _on_gpu(t: Tensor) -> bool:
    return t.is_cuda and t.dtype in MARGIN and t.numel() > 0 and bridge.proven("projector", t.device, proof)


def _launched(kernel: str, given: Tensor, r: Rays, out: Tensor) -> Tensor:
    """One launch of cuda/projector.cu: a thread for each value of the result."""
    rays, views = r.tables(given)
    real = np.float32 if given.dtype == torch.float32 else np.float64
    tables = {"xray_project": (rays,), "xray_adjoint": (rays, views), "xray_smear": (views,)}[kernel]
    numbers = () if kernel == "xray_project" else (np.int32(r.beam), *(real(a) for a in _detector(r, given)[1:]))
    sizes = (*(np.int32(n) for n in (*r.shape, *r.rays.shape[:2])), np.int64(given.shape[0]))
    name = kernel if real is np.float32 else f"{kernel}_double"
    grid = min(-(-out.numel() // THREADS), 1 << 20)
    bridge.run("projector", name, grid, THREADS, (given.contiguous(), *tables, out, *numbers, *sizes))
    return out


def proof(device: torch.device) -> None:
    """Compare the CUDA kernels with torch on two small fans; ValueError if they differ.

    The source is 50 pixels from the middle of 19 × 23, so that both kinds of rays occur, also within a view.
    """
    angle = torch.tensor([0.2, 0.8, 1.5], dtype=torch.float64)[:, None]
    cos, sin = angle.cos(), angle.sin()
    place = (torch.arange(29, dtype=torch.float64) - 14) / 30
    views = torch.cat([-11 * cos - 9 * sin, sin, cos, 50 + 11 * sin - 9 * cos, cos, -sin], 1) / 50
    for beam in (FLAT, CURVED):
        turn = angle - (place if beam == CURVED else place.atan())
        rows = turn.cos().abs() >= turn.sin().abs()
        x, y, slope = 11 + 50 * sin, 9 - 50 * cos, torch.where(rows, -turn.tan(), -1 / turn.tan())
        at = torch.where(rows, x - slope * y, y - slope * x)
        step = (1 + slope**2).sqrt()
        r = Rays(torch.stack([at, slope, torch.where(rows, step, -step)], -1), views, beam, 14.0, 30.0, (19, 23))
        image, sinogram = torch.rand(2, 19, 23), torch.rand(2, 3, 29)
        for kernel, given, out, twin in (
            ("xray_project", image, sinogram, _project),
            ("xray_adjoint", sinogram, image, _gather),
            ("xray_smear", sinogram, image, _smear),
        ):
            expected = twin(given.double(), r, torch.empty_like(out, dtype=torch.float64))
            got = _launched(kernel, given.to(device), r, torch.empty_like(out, device=device))
            bridge.same(kernel, got, expected, 1e-4)


# The same arithmetic in torch, view by view, for machines and devices without compiled kernels.


def _project(x: Tensor, r: Rays, y: Tensor) -> Tensor:
    rays, _ = r.tables(x)
    for across in (True, False):
        image = x if across else x.transpose(-1, -2)
        lines, width = image.shape[-2:]
        line = torch.arange(lines, device=x.device)
        flat = torch.nn.functional.pad(image, (2, 2)).flatten(1)
        for v, chosen in along(rays, across):
            at, slope, step = rays[v, chosen].unbind(-1)
            crossing = (at[:, None] + slope[:, None] * line).clamp(-1, width)
            k = crossing.floor()
            f, index = crossing - k, k.long() + 2 + line * (width + 4)
            low, high = flat[:, index], flat[:, index + 1]
            y[:, v, chosen] = (low + f * (high - low)).sum(-1) * step.abs()
    return y


def along(rays: Tensor, across: bool) -> Iterator[tuple[int, Tensor]]:
    """Views of `rays` (view, element, …), and which of their rays cross lines of y (`across`), or of x."""
    chosen = (rays[..., 2] > 0) == across
    for v in range(rays.shape[0]):
        if bool(chosen[v].any()):
            yield v, chosen[v]


def _gather(y: Tensor, r: Rays, x: Tensor) -> Tensor:
    rays, views = r.tables(y)
    x.zero_()
    count, margin = y.shape[-1], MARGIN[y.dtype]
    row, column = pixels(r.shape, y)
    for across in (True, False):
        i, j = (0, 1) if across else (1, 0)
        line, pixel = (row, column) if across else (column, row)
        for v, chosen in along(rays, across):
            at, slope, step = rays[v].unbind(-1)
            values = y[:, v] * (step.abs() * chosen)
            ends = torch.stack([_position(r, views[v], row + s * i, column + s * j) for s in (-1, 1)])
            low, high = ends.amin(0) - margin, ends.amax(0) + margin
            first = low.clamp(-1, count).ceil().long()
            for n in range(int((high - low).max().ceil().clamp_max(count + 1))):
                u = first + n
                inside = (u >= 0) & (u < count) & (u < high)
                u = u.clamp(0, count - 1)
                hat = (1 - (at[u] + slope[u] * line - pixel).abs()).clamp_min(0)
                x += values[:, u] * (hat * inside)
    return x


def _smear(y: Tensor, r: Rays, x: Tensor) -> Tensor:
    x.zero_()
    padded = torch.nn.functional.pad(y, (2, 2))
    for v, k, f, far in _neighbours(r, y, y.shape[-1]):
        low, high = padded[:, v, k], padded[:, v, k + 1]
        x += (low + f * (high - low)) / far
    return x


def _neighbours(r: Rays, like: Tensor, count: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """What the pixels of each view meet: the preceding element, counted with two more in front; the fraction; and w."""
    _, views = r.tables(like)
    row, column = pixels(r.shape, like)
    for v in range(len(views)):
        u = _position(r, views[v], row, column).clamp(-1, count)
        k = u.floor()
        side, depth = seen(views[v], row, column)
        yield v, k.long() + 2, u - k, side**2 + depth**2 if r.beam == CURVED else depth**2


def pixels(shape: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each pixel (y, x)."""
    rows, columns = (torch.arange(n, dtype=like.dtype, device=like.device) for n in shape)
    return rows[:, None].expand(shape), columns.expand(shape)


def seen(view: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Side and depth of pixels in a view, from its six numbers (see `Rays`)."""
    return view[0] + view[1] * row + view[2] * column, view[3] + view[4] * row + view[5] * column


def _position(r: Rays, view: Tensor, row: Tensor, column: Tensor) -> Tensor:
    side, depth = seen(view, row, column)
    t = side / depth
    return r.centre + r.per * (t.atan() if r.beam == CURVED else t)
