"""The contact sheet shows the array as it is: first slice at the top left, voxels in their shape, sides named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from recon.data import Image
from recon.geometry import affine_lps, from_centre
from recon.io.png import SHEET, contact_sheet, side, write_png
from recon.io.provenance import read_back
from tests.io.pictures import RECIPE, picture


def letter_f(nz: int = 1, voxel: tuple[float, float, float] = (2.0, 2.0, 5.0), known: bool = True) -> Image:
    data = np.zeros((nz, 64, 48), np.float32)
    data[:, 8:55, 12:19] = data[:, 8:15, 12:37] = data[:, 26:33, 12:31] = 200
    fov = (48 * voxel[0], 64 * voxel[1], nz * voxel[2])
    g = from_centre((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), fov, (48, 64, nz), known=known)
    return Image(data, g, provenance=RECIPE)


def grey(image: Image) -> np.ndarray:
    return np.asarray(contact_sheet(image.data, image.geometry, image.units))


def test_a_slice_is_shown_as_the_array_is_neither_turned_nor_mirrored() -> None:
    image = letter_f(known=False)
    sheet = grey(image)
    assert sheet.shape == (192, 144)
    assert np.array_equal(sheet > 128, np.kron(image.data[0] > 100, np.ones((3, 3), bool)))


def test_a_body_in_hu_is_shown_in_the_window_of_soft_tissue_and_a_map_in_its_own() -> None:
    image = replace(letter_f(known=False), units="HU")
    body = replace(image, data=np.where(image.data > 0, 40, -1000).astype(np.float32))
    assert set(np.unique(grey(body))) == {0, 128}
    bone = replace(image, data=np.where(image.data > 0, 900, -1000).astype(np.float32))
    assert set(np.unique(grey(bone))) == {0, 255}
    assert np.array_equal(grey(image), grey(replace(image, units="arbitrary")))


def test_pixels_have_the_shape_of_their_voxels() -> None:
    assert grey(letter_f(voxel=(2.0, 4.0, 5.0), known=False)).shape == (192, 72)
    assert grey(letter_f(voxel=(4.0, 2.0, 5.0), known=False)).shape == (128, 192)


def test_slices_follow_in_reading_order() -> None:
    image = letter_f(6, known=False)
    data = image.data * np.arange(1, 7, dtype=np.float32)[:, None, None]
    sheet = grey(replace(image, data=data))
    tops = [sheet[(k // 3) * 196 + 30, (k % 3) * 148 + 45] for k in range(6)]
    assert sheet.shape == (2 * 196 - 4, 3 * 148 - 4)
    assert tops == sorted(set(tops))


def test_a_volume_of_many_slices_ends_with_its_cross_sections_and_fits_the_sheet() -> None:
    image = letter_f(300, known=True)
    height, width = grey(image).shape
    assert max(height, width) <= SHEET + 100
    few, many = grey(letter_f(15)), grey(letter_f(16))
    assert few.shape[0] < many.shape[0]


@pytest.mark.parametrize(
    ("direction", "letter"),
    [((1, 0, 0), "L"), ((-1, 0, 0), "R"), ((0, 1, 0), "P"), ((0, -1, 0), "A"), ((0, 0, 1), "S"), ((0.6, 0, -0.8), "I")],
)
def test_letters_name_the_side_of_the_patient(direction: tuple[float, float, float], letter: str) -> None:
    assert side(direction) == letter


ORIENTATIONS = {
    "axial": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "axial, from the other end": ((-1, 0, 0), (0, 1, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "oblique": ((0.8, 0.6, 0), (-0.6, 0.8, 0), (0, 0, 1)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_letters_are_at_the_edge_of_the_side_that_they_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices and cross-sections: each letter against where the voxels of its edge are in the patient, by the affine."""
    nz, ny, nx = 16, 20, 24
    g = from_centre((5, -7, 9), *ORIENTATIONS[name], (48, 40, 48), (nx, ny, nz))
    drawn: list[tuple[str, str]] = []

    def text(draw: PIL.ImageDraw.ImageDraw, at: tuple[int, int], letter: str, **_: object) -> None:
        width, height = draw.im.size
        x, y = at[0] / width, at[1] / height
        edges = {"left": x, "right": 1 - x, "top": y, "bottom": 1 - y}
        drawn.append((min(edges, key=lambda e: edges[e]), letter))

    monkeypatch.setattr(PIL.ImageDraw.ImageDraw, "text", text)
    contact_sheet(np.zeros((nz, ny, nx), np.float32), g)

    def letter(axis: int, last: bool) -> str:
        """The side of the patient on which the first or last voxel of an axis (x, y, z) lies, seen from the middle."""
        step = affine_lps(g)[:3, axis] * (1 if last else -1)
        most = int(np.argmax(np.abs(step)))
        return ("RL", "AP", "IS")[most][int(step[most] > 0)]

    def tile(right: int, down: int) -> set[tuple[str, str]]:
        return {
            ("left", letter(right, False)), ("right", letter(right, True)),
            ("top", letter(down, False)), ("bottom", letter(down, True)),
        }  # fmt: skip

    found = [set(drawn[i : i + 4]) for i in range(0, len(drawn), 4)]
    assert found == [tile(0, 1)] * nz + [tile(0, 2), tile(1, 2)]


def test_cross_sections_run_through_the_middle_with_slices_downwards() -> None:
    """Voxels in the planes y = 10 and x = 12 of 16 slices: the last row of the sheet has them at (z, x) and (z, y)."""
    data = np.zeros((16, 20, 24), np.float32)
    data[13, 10, 5] = data[3, 17, 12] = 100
    data[:4, :2, :9] = 100  # beside both planes, so that the window spans up to 100
    g = from_centre((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (24, 20, 16), (24, 20, 16), known=False)
    dense = 192 // 24
    last = np.asarray(contact_sheet(data, g))[-16 * dense :]
    expected_zx, expected_zy = np.zeros((16, 24), bool), np.zeros((16, 20), bool)
    expected_zx[13, 5] = expected_zy[3, 17] = True
    for left, expected in ((0, expected_zx), (24 * dense + 4, expected_zy)):
        shown = last[:, left : left + expected.shape[1] * dense] == 255
        assert np.array_equal(shown, np.kron(expected, np.ones((dense, dense), bool)))


def test_letters_appear_only_where_the_geometry_is_known() -> None:
    blank = np.zeros((1, 64, 48), np.float32)
    known, unknown = letter_f(), letter_f(known=False)
    assert grey(replace(known, data=blank)).max() == 255
    assert grey(replace(unknown, data=blank)).max() == 0


def test_the_window_is_not_set_by_one_hot_voxel_and_a_constant_image_is_drawn() -> None:
    image = letter_f(known=False)
    image.data[0, 0, 0] = 1e6
    assert (grey(image) == 255).sum() > 1000
    assert grey(replace(image, data=np.full((1, 64, 48), 7, np.float32))).min() == 255


def test_the_file_carries_the_record_and_nothing_of_the_patient(tmp_path: Path) -> None:
    assert write_png(picture(), tmp_path / "a.png") == [tmp_path / "a.png"]
    assert read_back(tmp_path / "a.png")["provenance"] == RECIPE
    with PIL.Image.open(tmp_path / "a.png") as sheet:
        assert sheet.mode == "L"
        assert "SECRET" not in str(sheet.info)
        assert "Marked" not in str(sheet.info)


def test_of_several_volumes_the_first_is_shown(tmp_path: Path) -> None:
    image = letter_f(known=False)
    several = replace(image, data=np.stack([image.data, image.data[..., ::-1]]), axes=("repetition",))
    write_png(several, tmp_path / "a.png")
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "a.png")), grey(image))
