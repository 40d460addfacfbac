"""A pool of training scans on disk: expensive parts are made once, then drawn repeatedly with variations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from recon.data import DataError, Measurement
from recon.io.atomic import put
from recon.learn.draw import Draw
from recon.learn.synth import Example
from recon.nets import unrolled
from recon.nets.unrolled import Problem
from recon.operators.sense import Sense, SenseNormal
from recon.progress import Report


@dataclass(frozen=True, eq=False)
class Item:
    """A scan of a pool: maps (coil, z, y, x, 2), mask (y, x), and images (z, y, x) in units of the start's own size.

    Maps are pairs of real numbers in half precision, as in the file. All tensors of an item on the CPU are
    memory-mapped from the file. `noise` is the standard deviation of a complex fully sampled pixel, `sampled` the
    measured share of k-space; `axes` are the transformed axes.
    """

    maps: Tensor
    mask: Tensor
    b: Tensor
    start: Tensor
    full: Tensor
    clean: Tensor
    noise: float
    sampled: float
    acceleration: float
    known_clean: bool
    axes: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """Items of one shape together: the problem, its targets without and with noise, and the weight of every pixel."""

    problem: Problem
    full: Tensor
    clean: Tensor
    weight: Tensor
    known_clean: Tensor


def prepared(e: Example, iterations: int) -> Item:
    """An example with its classical start, everything divided by the start's size; maps in half precision."""
    A = e.measurement.A
    assert isinstance(A, Sense)
    maps = torch.view_as_real(A.maps).half()
    m = Measurement(e.measurement.y, Sense(_whole(maps), A.mask, A.axes), e.measurement.sigma)
    start = unrolled.classical(m, iterations)
    scale = unrolled.size(start, 3)
    p = unrolled.problem(m, 0, start=start)
    return Item(
        maps, A.mask, p.b / scale, start / scale, e.full / scale, e.clean / scale,
        math.sqrt(2) * m.sigma / float(scale), float(p.sampled), e.acceleration, e.known_clean, A.axes,
    )  # fmt: skip


def write(path: Path, item: Item) -> None:
    """Store an item as one safetensors file; raises ReconError if it cannot be written."""
    from safetensors.torch import save

    tensors = {name: torch.view_as_real(getattr(item, name)).contiguous() for name in ("b", "start", "full", "clean")}
    tensors |= {name: getattr(item, name).contiguous() for name in ("maps", "mask")}
    names = ("noise", "sampled", "acceleration", "known_clean", "axes")
    # As bytes, because only Python's own writing reports a full disk.
    put(path, save(tensors, metadata={"scan": json.dumps({n: getattr(item, n) for n in names})}))


def read(path: Path) -> Item:
    """The item in a file; raises DataError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as stored:
            t = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            scan = json.loads(stored.metadata()["scan"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError):
        raise DataError(f"{path} is damaged; delete it and continue with --resume, which makes it again") from None
    scan["axes"] = tuple(scan["axes"])
    b, start, full, clean = (torch.view_as_complex(t[name]) for name in ("b", "start", "full", "clean"))
    return Item(t["maps"], t["mask"], b, start, full, clean, **scan)


def fill(
    folder: Path,
    count: int,
    make: Callable[[int], Item],
    report: Report,
    part: tuple[int, int] = (0, 1),
) -> list[Path]:
    """Files of `count` items in a folder; missing ones are made, each from its number.

    `part` (i, n) makes only every n-th, so that n processes can share the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:06d}.safetensors" for i in range(count)]
    mine = range(part[0], count, part[1])
    for done, i in enumerate(mine, start=1):
        if not paths[i].exists():
            write(paths[i], make(i))
            report("pool", done, len(mine))
    return paths


class Groups:
    """Items grouped by what can share a batch: equal rows and axes, and at least `width` columns to cut from."""

    def __init__(self, width: int, items: Iterable[Item] = ()) -> None:
        self.width, self._groups = width, dict[tuple[object, ...], list[Item]]()
        for item in items:
            self.add(item)

    def add(self, item: Item) -> None:
        """Add an item to its group; another thread may draw at the same time."""
        *_, ny, nx = item.b.shape
        planar = -1 in item.axes
        key = (ny, nx if planar or nx < self.width else 0, item.axes)
        self._groups.setdefault(key, []).append(item)

    def __len__(self) -> int:
        return sum(len(g) for g in self._groups.values())

    def draw(self, draw: Draw, count: int) -> list[Item]:
        """Items of one group, drawn with replacement; groups with probability in proportion to their size."""
        found = self._groups.copy()
        keys = sorted(found, key=repr)
        group = found[draw.one_of(keys, [len(found[k]) for k in keys])]
        return [group[draw.integer(0, len(group) - 1)] for _ in range(count)]


def batch(items: Sequence[Item], width: int, draw: Draw | None) -> Batch:
    """Items of one group as a batch, varied: columns cut out, mirrored left to right, with a random phase.

    Cutting and mirroring along x keep the problem exact if x is not transformed. Missing coils are zeros. Without
    `draw` nothing is varied and all columns stay.
    """
    parts = [_varied(item, width, draw) for item in items]
    most = max(p[0].shape[0] for p in parts)
    maps = torch.stack([torch.cat([p[0], p[0].new_zeros(most - len(p[0]), *p[0].shape[1:])]) for p in parts])
    b, start, full, clean = (torch.stack([p[i] for p in parts]) for i in range(1, 5))
    mask = torch.stack([item.mask for item in items])[:, None, None]
    noise = onto(torch.tensor([item.noise for item in items]), b.device)
    share = onto(torch.tensor([item.sampled for item in items]), b.device)
    known = onto(torch.tensor([item.known_clean for item in items]), b.device)
    # Sense.normal() would read the mask's values, for which a GPU has to wait; these masks vary along their axes.
    normal = SenseNormal(Sense(maps, mask, items[0].axes), mask * mask)
    seen = torch.where(known[:, None, None, None], clean.abs(), start.abs())
    near = torch.nn.functional.max_pool2d(seen[:, 0], 9, 1, 4)[:, None]
    weight = 0.05 + 0.95 * (near > 0.1)
    return Batch(Problem(normal, b, start, noise, share), full, clean, weight, known)


def placed(item: Item, device: torch.device) -> Item:
    """The item with its tensors on a device."""
    moved = {n: getattr(item, n).to(device) for n in ("maps", "mask", "b", "start", "full", "clean")}
    return replace(item, **moved)


def onto(t: Tensor, device: torch.device) -> Tensor:
    """A small tensor copied from the CPU to a device without waiting for its current work."""
    return t.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else t.to(device)


def _varied(item: Item, width: int, draw: Draw | None) -> list[Tensor]:
    """Maps, b, start, full and clean of an item, complex64."""
    maps, images = item.maps, [item.b, item.start, item.full, item.clean]
    if draw is None:
        return [_whole(maps), *images]
    nx = item.b.shape[-1]
    if -1 not in item.axes:
        if nx > width:
            first = draw.integer(0, nx - width)
            some = slice(first, first + width)
            maps, images = maps[..., some, :], [t[..., some] for t in images]
        if draw.chance(0.5):
            maps, images = maps.flip(-2), [t.flip(-1) for t in images]
    angle = draw.uniform(-math.pi, math.pi)
    turn = complex(math.cos(angle), math.sin(angle))
    return [_whole(maps), *(turn * t for t in images)]


def _whole(maps: Tensor) -> Tensor:
    """Maps in half precision as complex64."""
    return torch.view_as_complex(maps.float().contiguous())
