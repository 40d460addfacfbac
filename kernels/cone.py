"""Cone beams: line integrals of volumes, their exact transpose, and the backprojection of filtered data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from recon.kernels import bridge
from recon.kernels.build import native
from recon.kernels.projector import MARGIN, THREADS, along, pixels, seen

#: Rays, or voxels, of one column per CUDA thread; as in cuda/cone.cu.
TOGETHER = 4


@dataclass(frozen=True, eq=False)
class Tracks:
    """The rays of a cone beam on a voxel grid, in double precision.

    `tracks` (view, column, 5) are (at, slope, step, tau, rate): seen along the axis, the rays of a detector column
    coincide in one ray, as in `projector.Rays`. On line l they have covered the share τ = tau + rate · l of their path
    from the source to the detector. `views` (view, 6) are those of `projector.Rays`. `frame` (6,) are (middle, across,
    low, centre, per, near): a voxel lies on column middle + across · side/depth; the ray of row w is at the height low
    + (w − centre) · per · τ in slices of `thick` mm, and τ = near · depth. `shape` is (z, y, x).
    """

    tracks: Tensor
    views: Tensor
    frame: Tensor
    shape: tuple[int, int, int]
    rows: int
    thick: float

    @cached_property
    def _placed(self) -> dict[tuple[torch.dtype, torch.device, int], tuple[Tensor, Tensor, Tensor]]:
        return {}

    def tables(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tracks, views, and the frame with its margin third, in the precision and on the device of `like`; cached."""
        key = (like.dtype, like.device, bridge.stream(like.device) if like.is_cuda else 0)
        if key not in self._placed:
            margin = torch.tensor([MARGIN[like.dtype]], dtype=torch.float64)
            frame = torch.cat([self.frame[:2], margin, self.frame[2:]])
            tracks, views, frame = (
                t.to(like.device, like.dtype).contiguous() for t in (self.tracks, self.views, frame)
            )
            self._placed[key] = tracks, views, frame
        return self._placed[key]

    def lengthen(self, y: Tensor) -> Tensor:
        """Multiply sinograms (item, row, view, column) in place by the length of each ray from line to line, in mm."""
        tracks, _, frame = self.tables(y)
        step, rate = tracks[..., 2], tracks[..., 4] * (frame[5] * self.thick)
        for w in range(self.rows):
            y[:, w] *= (step**2 + ((w - frame[4]) * rate) ** 2).sqrt()
        return y

    @property
    def sinogram(self) -> tuple[int, int, int]:
        """Shape (row, view, column) of the sinogram."""
        return self.rows, self.tracks.shape[0], self.tracks.shape[1]


def project(x: Tensor, r: Tracks) -> Tensor:
    """Line integrals (item, row, view, column) of volumes (item, z, y, x), float32 or float64."""
    return r.lengthen(_run("cone_project", _project, x, r, r.sinogram))


def adjoint(y: Tensor, r: Tracks) -> Tensor:
    """The transpose of `project`: volumes (item, z, y, x)."""
    return _run("cone_adjoint", _gather, r.lengthen(y.clone()), r, r.shape)


def smear(y: Tensor, r: Tracks) -> Tensor:
    """Σ_view y(place of the voxel on the detector) / depth², interpolated linearly; zero beyond the detector."""
    return _run("cone_smear", _smear, y, r, r.shape)


def smear_transposed(x: Tensor, r: Tracks) -> Tensor:
    """The transpose of `smear`: sinograms (item, row, view, column) of volumes (item, z, y, x), for its derivative.

    With torch, view by view; on a GPU the order of additions varies.
    """
    rows, views, columns = r.sinogram
    y = x.new_zeros(len(x), views, rows + 4, columns + 4)
    for v, below, left, h, f, far in _neighbours(r, x):
        for up, share in ((below, x / far * (1 - h)), (below + 1, x / far * h)):
            for at, part in ((left, share * (1 - f)), (left + 1, share * f)):
                place = (up * (columns + 4) + at).flatten().expand(len(x), -1)
                y[:, v].flatten(1).scatter_add_(1, place, part.flatten(1))
    return y[..., 2:-2, 2:-2].transpose(1, 2).contiguous()


def _run(name: str, twin, given: Tensor, r: Tracks, shape: tuple[int, int, int]) -> Tensor:  # type: ignore[no-untyped-def]
    out = given.new_empty(given.shape[0], *shape)
    if given.dtype not in MARGIN or not given.numel() or not out.numel():
        return out.zero_()
    if given.is_cuda and bridge.proven("cone", given.device, proof):
        return _launched(name, given, r, out)
    if native() is None or given.device.type != "cpu":
        filled: Tensor = twin(given, r, out)
        return filled
    tables = (t.numpy() for t in r.tables(given))
    threads = torch.get_num_threads()
    getattr(native(), name)(given.contiguous().numpy(), *tables, out.numpy(), name == "cone_project", threads)
    return out


def _launched(kernel: str, given: Tensor, r: Tracks, out: Tensor) -> Tensor:
    """One launch of cuda/cone.cu."""
    tracks, views, frame = r.tables(given)
    tables = {"cone_project": (tracks,), "cone_adjoint": (tracks, views), "cone_smear": (views,)}[kernel]
    sizes = (*(np.int32(n) for n in (*r.shape, *r.sinogram)), np.int64(given.shape[0]))
    name = kernel if given.dtype == torch.float32 else f"{kernel}_double"
    grid = max(1, min(-(-out.numel() // (TOGETHER * THREADS)), 1 << 20))
    bridge.run("cone", name, grid, THREADS, (given.contiguous(), *tables, out, frame, *sizes))
    return out


def proof(device: torch.device) -> None:
    """Compare the CUDA kernels with torch on a small cone beam; ValueError if they differ."""
    angle = torch.tensor([0.2, 0.8, 1.5], dtype=torch.float64)[:, None]
    cos, sin = angle.cos(), angle.sin()
    place = (torch.arange(29, dtype=torch.float64) - 14) / 30
    views = torch.cat([-11 * cos - 9 * sin, sin, cos, 50 + 11 * sin - 9 * cos, cos, -sin], 1) / 50
    along_x, along_y = -sin + place * cos, cos + place * sin  # of length 1 along the central ray
    rows = along_y.abs() >= along_x.abs()
    x, y = 11 + 50 * sin, 9 - 50 * cos
    slope = torch.where(rows, along_x / along_y, along_y / along_x)
    at = torch.where(rows, x - slope * y, y - slope * x)
    way = torch.where(rows, along_y, along_x) * 80
    step = (1 + slope**2).sqrt() * torch.where(rows, 1.0, -1.0)
    tracks = torch.stack([at, slope, step, -torch.where(rows, y, x) / way, 1 / way], -1)
    frame = torch.tensor([14.0, 30.0, 5.2, 7.6, 1.9, 50 / 80], dtype=torch.float64)
    r = Tracks(tracks, views, frame, (11, 19, 23), 17, 0.8)
    volume, sinogram = torch.rand(2, *r.shape), torch.rand(2, *r.sinogram)
    for kernel, given, out, twin in (
        ("cone_project", volume, sinogram, _project),
        ("cone_adjoint", sinogram, volume, _gather),
        ("cone_smear", sinogram, volume, _smear),
    ):
        expected = twin(given.double(), r, torch.empty_like(out, dtype=torch.float64))
        got = _launched(kernel, given.to(device), r, torch.empty_like(out, device=device))
        bridge.same(kernel, got, expected, 1e-4)


# The same arithmetic in torch, view by view, for machines and devices without compiled kernels.


def _project(x: Tensor, r: Tracks, y: Tensor) -> Tensor:
    tracks, _, frame = r.tables(x)
    y.zero_()
    height = (torch.arange(r.rows, dtype=x.dtype, device=x.device) - frame[4]) * frame[5]
    slices = r.shape[0]
    for across in (True, False):
        image = torch.nn.functional.pad(x if across else x.transpose(-1, -2), (2, 2, 0, 0, 1, 2))
        lines, width = image.shape[-2], image.shape[-1] - 4
        line = torch.arange(lines, device=x.device)
        for v, chosen in along(tracks, across):
            at, slope, _, tau, rate = (t[:, None] for t in tracks[v, chosen].unbind(-1))
            crossing = (at + slope * line).clamp(-1, width)
            k = crossing.floor()
            f, index = crossing - k, k.long() + 2
            standing = (1 - f) * image[..., line, index] + f * image[..., line, index + 1]  # (item, z, column, line)
            share = tau + rate * line
            for w in range(r.rows):
                z = (frame[3] + height[w] * share).clamp(-1, slices)
                m = z.floor()
                index = (m.long() + 1).expand(len(x), 1, *z.shape)
                low, high = standing.gather(1, index)[:, 0], standing.gather(1, index + 1)[:, 0]
                y[:, w, v, chosen] = (low + (z - m) * (high - low)).sum(-1)
    return y


def _gather(y: Tensor, r: Tracks, x: Tensor) -> Tensor:
    tracks, views, frame = r.tables(y)
    x.zero_()
    columns, margin = y.shape[-1], float(frame[2])
    row, column = pixels(r.shape[1:], y)
    slices = torch.arange(r.shape[0], dtype=y.dtype, device=y.device)[:, None, None]
    height = (torch.arange(r.rows, dtype=y.dtype, device=y.device) - frame[4]) * frame[5]
    for across in (True, False):
        i, j = (0, 1) if across else (1, 0)
        line, pixel = (row, column) if across else (column, row)
        for v, chosen in along(tracks, across):
            at, slope, _, tau, rate = tracks[v].unbind(-1)
            values = y[:, :, v] * chosen
            ends = torch.stack([_column(frame, *seen(views[v], row + s * i, column + s * j)) for s in (-1, 1)])
            low, high = ends.amin(0) - margin, ends.amax(0) + margin
            first = low.clamp(-1, columns).ceil().long()
            for n in range(int((high - low).max().ceil().clamp_max(columns + 1))):
                u = first + n
                inside = (u >= 0) & (u < columns) & (u < high)
                u = u.clamp(0, columns - 1)
                beside = (1 - (at[u] + slope[u] * line - pixel).abs()).clamp_min(0) * inside
                share = tau[u] + rate[u] * line
                per = frame[5] * share
                begin, end = (frame[4] + (slices + s - frame[3]) / per + s * margin for s in (-1, 1))
                lowest = begin.clamp(-1, r.rows).ceil().long()
                for m in range(int((end - begin).max().ceil().clamp_max(r.rows + 1))):
                    w = lowest + m
                    within = (w >= 0) & (w < r.rows) & (w < end)
                    w = w.clamp(0, r.rows - 1)
                    beneath = (1 - (frame[3] + height[w] * share - slices).abs()).clamp_min(0) * within
                    x += values[:, w, u.expand_as(w)] * (beside * beneath)
    return x


def _smear(y: Tensor, r: Tracks, x: Tensor) -> Tensor:
    x.zero_()
    padded = torch.nn.functional.pad(y.transpose(1, 2), (2, 2, 2, 2))
    for v, below, left, h, f, far in _neighbours(r, y):
        low = padded[:, v, below, left] * (1 - f) + padded[:, v, below, left + 1] * f
        high = padded[:, v, below + 1, left] * (1 - f) + padded[:, v, below + 1, left + 1] * f
        x += (low + h * (high - low)) / far
    return x


def _neighbours(r: Tracks, like: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """What the voxels of each view meet: preceding row and column, counted with two more; fractions; depth²."""
    _, views, frame = r.tables(like)
    row, column = pixels(r.shape[1:], like)
    slices = torch.arange(r.shape[0], dtype=like.dtype, device=like.device)[:, None, None]
    for v in range(len(views)):
        side, depth = seen(views[v], row, column)
        u = _column(frame, side, depth).clamp(-1, r.sinogram[2])
        w = (frame[4] + (slices - frame[3]) / (frame[5] * frame[6] * depth)).clamp(-1, r.rows)
        k, m = w.floor(), u.floor()
        yield v, k.long() + 2, (m.long() + 2).expand(r.shape), w - k, u - m, depth**2


def _column(frame: Tensor, side: Tensor, depth: Tensor) -> Tensor:
    return frame[0] + frame[1] * side / depth
