"""A contact sheet of an image, to check at a glance that it is the right one. Contains no patient data."""

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

#: Longest side of the sheet, and the smallest length to which a tile is enlarged, in pixels.
SHEET, TILE = 2400, 192
#: Most slices on a sheet, and the fewest that make cross-sections of a volume worthwhile.
SLICES, CROSS = 64, 16
#: HU of the soft-tissue window (level 40, width 400); and the HU below which an image contains air, and is therefore a
#: body rather than a map of noise or of removed detail.
SOFT, AIR = (-160.0, 240.0), -500.0
_GAP = 4
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))


@dataclass(frozen=True)
class Tile:
    """A section through a volume: voxels (row, column), their size in mm, directions to the right and downwards."""

    pixels: NDArray[np.float32]
    spacing: tuple[float, float]
    right: Vector
    down: Vector

    @property
    def extent(self) -> tuple[float, float]:
        """Height and width in millimetres."""
        return self.pixels.shape[0] * self.spacing[0], self.pixels.shape[1] * self.spacing[1]


def write_png(image: Image, path: Path) -> list[Path]:
    """Write `sheet` as one PNG with the record of the image. Raises ReconError for NaN or infinity."""
    from PIL.PngImagePlugin import PngInfo

    check(image)
    info = PngInfo()
    info.add_text(KEY, as_json(image, part="magnitude"))
    with atomic_file(path) as temporary:
        sheet(image).save(temporary, format="PNG", pnginfo=info)
    return [path]


def sheet(image: Image) -> Picture:
    """The `contact_sheet` of an image's first volume, shown by a notebook. Raises ReconError for NaN or infinity."""
    check(image)
    volume = part(image.data.reshape(-1, *image.data.shape[-3:])[0], "magnitude")
    return contact_sheet(volume, image.geometry, image.units)


def contact_sheet(volume: NDArray[np.float32], geometry: Geometry, units: str = "") -> Picture:
    """All slices of a volume (z, y, x) in reading order from the top left; at most 64, evenly spaced.

    Rows go down along phase_dir and columns to the right along read_dir; nothing is rotated for viewing. A volume of 16
    or more slices ends with its two central cross-sections, whose rows run along slice_dir. The window spans 0 (the 0.5
    percentile if values are negative) to the 99.5 percentile. In `units` of HU it is the soft-tissue window if there is
    air, which would otherwise take most of the greys. Pixels have the shape of their voxels. Letters at the borders
    name the side of the patient (R, L, A, P, S, I) if the geometry is known.
    """
    from PIL import Image as pil

    low, high = (float(q) for q in np.percentile(volume, (0.5, 99.5)))
    low = min(low, 0.0)
    high = high if high > low else max(float(volume.max()), low + 1)
    if units == "HU" and low < AIR:
        low, high = SOFT
    slices, across = tiles(volume, geometry)
    height, width = slices[0].extent
    columns = min(len(slices), max(1, round(math.sqrt(len(slices) * height / width))))
    rows = [slices[i : i + columns] for i in range(0, len(slices), columns)] + ([across] if across else [])
    # Pixels per millimetre: at least one pixel per voxel, unless the sheet would become too large.
    dense = max(1 / min(min(t.spacing) for t in slices + across), TILE / max(height, width))
    whole = (sum(max(t.extent[0] for t in row) for row in rows), max(sum(t.extent[1] for t in row) for row in rows))
    dense = min(dense, SHEET / max(whole))
    pictures = [[_picture(t, low, high, dense, geometry.known) for t in row] for row in rows]
    size = (
        max(sum(p.width + _GAP for p in row) for row in pictures) - _GAP,
        sum(max(p.height for p in row) + _GAP for row in pictures) - _GAP,
    )
    sheet = pil.new("L", size, 0)
    y = 0
    for row in pictures:
        x = 0
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + _GAP
        y += max(p.height for p in row) + _GAP
    return sheet


def tiles(volume: NDArray[np.float32], g: Geometry) -> tuple[list[Tile], list[Tile]]:
    """The slices and cross-sections of a contact sheet, in order."""
    nz, ny, nx = volume.shape
    dx, dy, dz = g.voxel
    shown = np.unique(np.linspace(0, nz - 1, min(nz, SLICES)).round().astype(int))
    slices = [Tile(volume[k], (dy, dx), g.read_dir, g.phase_dir) for k in shown]
    if nz < CROSS:
        return slices, []
    return slices, [
        Tile(volume[:, ny // 2, :], (dz, dx), g.read_dir, g.slice_dir),
        Tile(volume[:, :, nx // 2], (dz, dy), g.phase_dir, g.slice_dir),
    ]


def side(direction: Vector) -> str:
    """Letter of the side of the patient closest to a direction in LPS: R, L, A, P, S or I."""
    axis = int(np.argmax(np.abs(direction)))
    return _LETTERS[axis][direction[axis] > 0]


def _picture(tile: Tile, low: float, high: float, dense: float, known: bool) -> Picture:
    from PIL import Image as pil

    grey = np.rint(np.clip((tile.pixels - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    height, width = (max(1, round(mm * dense)) for mm in tile.extent)
    # A box filter averages when it shrinks and repeats voxels when it enlarges: neither invents detail.
    picture = pil.fromarray(grey).resize((width, height), pil.Resampling.BOX)
    if known:
        _label(picture, tile)
    return picture


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
