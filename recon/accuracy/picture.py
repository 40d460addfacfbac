"""One picture per scan: reference, reconstructions, errors and a magnified region, a band per acceleration factor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recon.accuracy.compare import Comparison, Trial

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Floats = NDArray[np.float64]

#: Longer side of a tile, height of the text above it, space between tiles, in pixels.
TILE, TEXT, GAP = 224, 30, 4
#: Factor by which errors are amplified.
ERROR = 5.0
#: Side of the magnified region as a share of the image's.
ZOOM = 0.3


def picture(compared: Comparison) -> Picture:
    """Tiles of the slice with the most body: columns are the reference and the methods.

    A band of three rows for each acceleration factor holds the images, their absolute errors times ERROR, and the
    region (ZOOM of each side) in which the reference has the most detail. All tiles share one window, from 0 to the
    99.5 percentile of the reference. Nothing about the patient or the file is written into it.
    """
    from PIL import Image as pil

    full = compared.reference
    truth = full.magnitude[full.shown]
    top = float(np.percentile(truth, 99.5)) or 1.0
    box = detail(truth, full.body[full.shown])
    bands = list(dict.fromkeys(t.record["acceleration"] for t in compared.trials))
    methods = list(dict.fromkeys(t.record["method"] for t in compared.trials))
    height, width = _size(truth.shape)
    zoom_height = _size((box[1] - box[0], box[3] - box[2]))[0]
    band = 2 * (height + TEXT) + zoom_height + 4 * GAP
    sheet = pil.new("RGB", ((width + GAP) * (1 + len(methods)) - GAP, band * len(bands) - GAP), (0, 0, 0))

    def put(column: int, y: int, tile: Picture, text: str) -> None:
        x = column * (width + GAP)
        write(sheet, x, y, text, width)
        sheet.paste(tile, (x, y + TEXT if text else y))

    for n, acceleration in enumerate(bands):
        here = {t.record["method"]: t for t in compared.trials if t.record["acceleration"] == acceleration}
        first = n * band
        second = first + height + TEXT + GAP
        third = second + height + TEXT + GAP
        put(0, first, _framed(_tile(truth, top, (height, width)), box, truth.shape), "reference\nall lines")
        put(0, third, _tile(truth[box[0] : box[1], box[2] : box[3]], top, (zoom_height, width)), "")
        for column, method in enumerate(methods, 1):
            trial = here[method]
            if trial.picture is None:
                write(sheet, column * (width + GAP), first, f"{method}\nno image", width)
                continue
            x = trial.picture
            put(column, first, _tile(x, top, (height, width)), _caption(trial))
            error = _tile(ERROR * np.abs(x - truth), top, (height, width))
            put(column, second, error, f"error x {ERROR:g}\n")
            put(column, third, _tile(x[box[0] : box[1], box[2] : box[3]], top, (zoom_height, width)), "")
    return sheet


def detail(image: Floats, body: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The window (top, bottom, left, right), ZOOM of each side, with the most gradient well inside the body."""
    from scipy.ndimage import binary_erosion, uniform_filter

    sides = [min(n, max(8, round(ZOOM * n))) for n in image.shape]
    inner = binary_erosion(body, iterations=max(1, min(image.shape) // 12))
    strength = np.hypot(*np.gradient(image)) * (inner if inner.any() else body)
    # A single very strong edge would decide alone, so gradients are limited to their 99th percentile.
    strength = np.minimum(strength, np.percentile(strength, 99))
    mean = uniform_filter(strength, sides, mode="constant")
    inside = np.full(image.shape, -1.0)
    low = [s // 2 for s in sides]
    within = tuple(slice(a, a + n - s + 1) for a, n, s in zip(low, image.shape, sides))
    inside[within] = mean[within]
    y, x = np.unravel_index(int(inside.argmax()), image.shape)
    top, left = int(y) - low[0], int(x) - low[1]
    return top, top + sides[0], left, left + sides[1]


def _size(shape: tuple[int, ...]) -> tuple[int, int]:
    scale = TILE / max(shape)
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def _tile(x: Floats, top: float, size: tuple[int, int]) -> Picture:
    from PIL import Image as pil

    grey = np.rint(np.clip(x / top, 0, 1) * 255).astype(np.uint8)
    # Magnified by repeating voxels, without interpolated detail.
    how = pil.Resampling.NEAREST if size[0] >= x.shape[0] else pil.Resampling.BOX
    return pil.fromarray(grey).resize(size[::-1], how).convert("RGB")


def _framed(tile: Picture, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> Picture:
    from PIL import ImageDraw

    scale_y, scale_x = tile.height / shape[0], tile.width / shape[1]
    corners = (box[2] * scale_x, box[0] * scale_y, box[3] * scale_x - 1, box[1] * scale_y - 1)
    ImageDraw.Draw(tile).rectangle(corners, outline=(255, 200, 60))
    return tile


def write(sheet: Picture, x: int, y: int, text: str, width: int) -> None:
    """Write lines of text at (x, y) of a sheet, cut off if they are wider than a tile."""
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(11)
    for n, line in enumerate(text.split("\n")):
        while line and font.getlength(line) > width:
            line = line[:-1]
        ImageDraw.Draw(sheet).text((x + 2, y + 2 + 13 * n), line, fill=(230, 230, 230), font=font)


def _caption(trial: Trial) -> str:
    r = trial.record
    scores = " / ".join(s for s in (_number(r["psnr"], "{:.1f} dB"), _number(r["ssim"], "{:.3f}")) if s)
    return f"{r['method']}, R = {r['acceleration']:g} ({r['effective_acceleration']:.2f})\n{scores}"


def _number(value: float | None, how: str) -> str:
    return "" if value is None else how.format(value)
