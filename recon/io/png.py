"""A contact sheet of an image, to see at one glance that it is what was wanted. Holds nothing of the patient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recon.data import Image
from recon.geometry import Geometry, Vector
from recon.io.atomic import atomic_file
from recon.io.parts import check, part
from recon.io.provenance import KEY, as_json

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

#: Longest side of the sheet, and of a tile that would otherwise be smaller, in pixels.
SHEET, TILE = 2400, 192
#: Most slices on a sheet, and the fewest that make a volume worth cutting across.
SLICES, CROSS = 64, 16
_GAP = 4
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))


@dataclass(frozen=True)
class Tile:
    """A section through a volume: voxels (row, column), their size in mm, directions to the right and downwards."""

    pixels: NDArray[np.float32]
    spacing: tuple[float, float]
    right: Vector
    down: Vector


def write_png(image: Image, path: Path) -> list[Path]:
    """Write the first volume of an image as one PNG: see `contact_sheet`. Raises ReconError for NaN or infinity."""
    from PIL.PngImagePlugin import PngInfo

    check(image)
    volume = part(image.data.reshape(-1, *image.data.shape[-3:])[0], "magnitude")
    info = PngInfo()
    info.add_text(KEY, as_json(image, part="magnitude"))
    with atomic_file(path) as temporary:
        contact_sheet(volume, image.geometry).save(temporary, format="PNG", pnginfo=info)
    return [path]


def contact_sheet(volume: NDArray[np.float32], geometry: Geometry) -> Picture:
    """All slices of a volume (z, y, x) in reading order, first at the top left; at most 64, spread evenly.

    Rows grow downwards along phase_dir and columns to the right along read_dir, nothing is turned for viewing. A volume
    of 16 and more slices ends with its two cross-sections through the middle, whose rows run along slice_dir. The
    window spans 0 (the 0.5 percentile where values are negative) to the 99.5 percentile; pixels have the shape of their
    voxels. Letters at the borders name the side of the patient (R, L, A, P, S, I) where the geometry is known.
    """
    from PIL import Image as pil

    low, high = (float(q) for q in np.percentile(volume, (0.5, 99.5)))
    low = min(low, 0.0)
    high = high if high > low else max(float(volume.max()), low + 1)
    sections = tiles(volume, geometry)
    height, width = (max(t.pixels.shape[i] * t.spacing[i] for t in sections) for i in (0, 1))
    columns = min(len(sections), max(1, round(math.sqrt(len(sections) * height / width))))
    rows = math.ceil(len(sections) / columns)
    # Pixels for each millimetre: every voxel one pixel at least, unless the sheet would grow too large.
    dense = max(1 / min(min(t.spacing) for t in sections), TILE / max(height, width))
    dense = min(dense, (SHEET - _GAP * columns) / (width * columns), (SHEET - _GAP * rows) / (height * rows))
    cell = (math.ceil(height * dense) + _GAP, math.ceil(width * dense) + _GAP)
    sheet = pil.new("L", (columns * cell[1] - _GAP, rows * cell[0] - _GAP), 0)
    for n, tile in enumerate(sections):
        grey = np.clip((tile.pixels - low) / (high - low), 0, 1)
        size = [max(1, round(n * step * dense)) for n, step in zip(tile.pixels.shape, tile.spacing)]
        # A box filter averages where it shrinks and repeats voxels where it enlarges: neither invents detail.
        picture = pil.fromarray(np.rint(grey * 255).astype(np.uint8)).resize((size[1], size[0]), pil.Resampling.BOX)
        if geometry.known:
            _label(picture, tile)
        corner = ((n % columns) * cell[1], (n // columns) * cell[0])
        sheet.paste(picture, (corner[0] + (cell[1] - _GAP - size[1]) // 2, corner[1] + (cell[0] - _GAP - size[0]) // 2))
    return sheet


def tiles(volume: NDArray[np.float32], g: Geometry) -> list[Tile]:
    """The sections that a contact sheet shows, in its order."""
    nz, ny, nx = volume.shape
    dx, dy, dz = g.voxel
    shown = np.unique(np.linspace(0, nz - 1, min(nz, SLICES)).round().astype(int))
    out = [Tile(volume[k], (dy, dx), g.read_dir, g.phase_dir) for k in shown]
    if nz >= CROSS:
        out.append(Tile(volume[:, ny // 2, :], (dz, dx), g.read_dir, g.slice_dir))
        out.append(Tile(volume[:, :, nx // 2], (dz, dy), g.phase_dir, g.slice_dir))
    return out


def side(direction: Vector) -> str:
    """Letter of the side of the patient that a direction in LPS points to most: R, L, A, P, S or I."""
    axis = int(np.argmax(np.abs(direction)))
    return _LETTERS[axis][direction[axis] > 0]


def _label(picture: Picture, tile: Tile) -> None:
    from PIL import ImageDraw, ImageFont

    width, height = picture.size
    size = max(8, min(14, min(width, height) // 10))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    left: Vector = (-tile.right[0], -tile.right[1], -tile.right[2])
    up: Vector = (-tile.down[0], -tile.down[1], -tile.down[2])
    places = (
        ((2, height // 2), "lm", left),
        ((width - 3, height // 2), "rm", tile.right),
        ((width // 2, 2), "mt", up),
        ((width // 2, height - 3), "mb", tile.down),
    )
    for place, anchor, direction in places:
        draw.text(place, side(direction), fill=255, font=font, anchor=anchor, stroke_width=1, stroke_fill=0)
