"""ISMRMRD images are read back with the ismrmrd package, from files and from the bytes of a stream."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import ismrmrd
import numpy as np
import pytest

from recon.geometry import affine_lps, from_centre
from recon.io.mrd_image import HEAD_ROOM, IMAGE_HEADER, REACH, TOP, centre, messages, steps, write_messages, write_mrd
from recon.io.provenance import read_back
from tests.io.pictures import RECIPE, geometry, picture, whole_numbers


def test_the_header_has_the_198_bytes_of_the_standard() -> None:
    assert IMAGE_HEADER.itemsize == 198
    offsets = {"matrix_size": 16, "field_of_view": 22, "channels": 34, "position": 36, "slice_dir": 72, "average": 96}
    offsets |= {
        "acquisition_time_stamp": 108,
        "image_type": 124,
        "image_series_index": 128,
        "attribute_string_len": 194,
    }
    fields = IMAGE_HEADER.fields
    assert fields is not None
    assert {name: fields[name][1] for name in offsets} == offsets


def test_images_of_the_file_are_those_that_were_written(tmp_path: Path) -> None:
    image = picture()
    write_mrd(image, tmp_path / "a.h5")
    with ismrmrd.Dataset(str(tmp_path / "a.h5"), mode="r") as file:
        assert file.number_of_images("image_0") == 3
        for k in range(3):
            found = file.read_image("image_0", k)
            assert np.array_equal(found.data, image.data[k][None, None])
            assert (found.image_type, found.slice, found.image_index, found.data_type) == (1, k, k + 1, 5)
            assert list(found.matrix_size) == [6, 7, 1]


@pytest.mark.parametrize("shape", [(4, 12, 10), (5, 11, 13)])
@pytest.mark.parametrize("hand", [1, -1])
@pytest.mark.parametrize("volume", [False, True])
def test_a_reader_that_follows_the_standard_finds_every_voxel(
    shape: tuple[int, int, int], hand: int, volume: bool
) -> None:
    rng = np.random.default_rng(4)
    g = geometry(rng, shape, hand, gap=1.0 if volume else 1.5, volume=volume)
    image = picture(data=whole_numbers(rng, shape), geometry=g)
    for m in messages(image, volume=volume):
        h = m.header
        nx, ny, nz = (int(n) for n in h["matrix_size"])
        step = h["field_of_view"] / h["matrix_size"]
        i, j, k = 7, 3, nz - 1
        # ISMRMRD: position is the centre, where a centred FFT has index N // 2.
        place = h["position"] + (i - nx // 2) * step[0] * h["read_dir"] + (j - ny // 2) * step[1] * h["phase_dir"]
        place = place + (k - nz // 2) * step[2] * h["slice_dir"]
        expected = affine_lps(g) @ [i, j, int(h["slice"]) + k, 1]
        assert np.abs(place - expected[:3]).max() < 1e-3
        assert m.pixels[0, k, j, i] == image.data[int(h["slice"]) + k, j, i]


def test_the_field_of_view_of_a_slice_is_its_thickness_and_that_of_a_volume_its_extent() -> None:
    g = geometry(np.random.default_rng(0), (3, 7, 6), gap=2.0)
    image = picture(geometry=g)
    assert next(messages(image)).header["field_of_view"][2] == pytest.approx(g.thickness)
    assert next(messages(image, volume=True)).header["field_of_view"][2] == pytest.approx(3 * 2 * g.thickness)


def test_centre_undoes_from_centre() -> None:
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    for matrix in ((10, 11, 12), (9, 8, 1)):
        g = from_centre((3, -4, 5), q[:, 0], q[:, 1], q[:, 2], (100, 90, 40), matrix)
        assert np.allclose(centre(g), (3, -4, 5))


@pytest.mark.parametrize("part", ["magnitude", "phase", "real", "imag", "complex"])
def test_the_stream_of_a_message_is_read_by_the_reference_package(part: str) -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(3, 7, 6)) + 1j * rng.normal(size=(3, 7, 6))).astype(np.complex64)
    expected = {"magnitude": np.abs, "phase": np.angle, "real": np.real, "imag": np.imag, "complex": np.asarray}[part]
    for k, m in enumerate(messages(picture(data=data), parts=(part,))):  # type: ignore[arg-type]
        found = ismrmrd.Image.deserialize_from(io.BytesIO(m.body()).read)
        assert np.allclose(found.data[0, 0], expected(data[k]), atol=1e-6)
        assert found.image_type == ["magnitude", "phase", "real", "imag", "complex"].index(part) + 1
        assert found.meta["Keep_image_geometry"] == "1"
        assert int.from_bytes(m.body()[194:198], "little") == len(m.attributes.encode())


def test_whole_numbers_for_the_scanner_share_one_scale_of_twelve_bits() -> None:
    image = picture(data=picture().data * np.float32(0.123))
    sent = list(messages(image, pixel="int16"))
    stored = np.stack([m.pixels[0, 0] for m in sent])
    assert stored.dtype == np.int16
    assert (stored.min(), stored.max()) == (0, 4095)
    assert np.abs(stored * (image.data.max() / 4095) - image.data).max() <= image.data.max() / 4095 * 0.501
    meta = ismrmrd.Meta.deserialize(sent[0].attributes)
    assert float(meta["WindowWidth"]) <= 4095
    assert {int(m.header["data_type"]) for m in sent} == {2}


def test_what_is_larger_than_the_step_of_its_series_allows_is_cut_and_counted() -> None:
    data = np.zeros((1, 7, 6), np.float32)
    data[0, 0, :4] = TOP, TOP + 0.4, TOP + 0.6, 2 * TOP
    (sent,) = messages(
        picture(data=data, geometry=replace(picture().geometry, shape=(1, 7, 6))),
        pixel="int16",
        step={"magnitude": 1.0},
    )
    assert sent.pixels[0, 0, 0].tolist() == [TOP, TOP, TOP, TOP, 0, 0]
    assert sent.cut == 2
    assert "2 pixels were clipped" in ismrmrd.Meta.deserialize(sent.attributes)["ImageComment"][1]


def test_a_window_means_the_same_tissue_whatever_the_step() -> None:
    # So dim that the window of a separate image would be stated in thousandths.
    image = picture(data=picture().data * np.float32(1e-6))
    step = 1e-5
    meta = ismrmrd.Meta.deserialize(next(messages(image, pixel="int16", step={"magnitude": step})).attributes)
    top = float(meta["WindowCenter"]) + float(meta["WindowWidth"]) / 2
    assert top * step == pytest.approx(np.percentile(image.data, 99.5), rel=1e-3)


@pytest.mark.parametrize("noise", ["noise scan", "estimate", "assumed", "none"])
@pytest.mark.parametrize("peak", [0.01, 30000.0])
def test_the_first_image_of_a_series_leaves_room_for_brighter_ones_of_its_noise(noise: str, peak: float) -> None:
    image = picture(data=picture().data * np.float32(peak / 30000), provenance={**RECIPE, "noise": noise})
    known = noise in ("noise scan", "estimate")
    reach = max(HEAD_ROOM * peak, REACH if known else 0)
    assert steps(image, ("magnitude",), later=True)["magnitude"] == pytest.approx(reach / TOP)
    assert steps(image, ("magnitude",), later=False)["magnitude"] == pytest.approx(peak / TOP)


def test_an_image_of_zeros_decides_no_step() -> None:
    dark = picture(data=np.zeros((3, 7, 6), np.complex64), provenance={**RECIPE, "noise": "estimate"})
    assert steps(dark, ("magnitude", "phase"), later=False) == {"phase": pytest.approx(np.pi / TOP)}


def test_one_series_of_two_types_is_two_groups_of_a_file(tmp_path: Path) -> None:
    image = picture()
    write_messages([*messages(image), *messages(image, pixel="int16")], tmp_path / "a.h5")
    with ismrmrd.Dataset(str(tmp_path / "a.h5"), mode="r") as file:
        assert [file.read_image(name, 2).data.dtype for name in ("image_0", "image_0_1")] == [np.float32, np.int16]


def test_phase_as_whole_numbers_keeps_its_sign() -> None:
    data = np.exp(1j * np.linspace(-3.1, 3.1, 126).reshape(3, 7, 6)).astype(np.complex64)
    stored = np.stack([m.pixels[0, 0] for m in messages(picture(data=data), parts=("phase",), pixel="int16")])
    assert np.abs(stored * (np.pi / 4095) - np.angle(data)).max() < np.pi / 4095


def test_parts_are_series_of_their_own_and_counters_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(2, 2, 3, 7, 6)) + 1j).astype(np.complex64)
    write_mrd(picture(data=data, axes=("contrast", "repetition")), tmp_path / "a.mrd", parts=("magnitude", "complex"))
    with ismrmrd.Dataset(str(tmp_path / "a.mrd"), mode="r") as file:
        assert [file.number_of_images(f"image_{n}") for n in (0, 1)] == [12, 12]
        found = file.read_image("image_1", 7)
        assert (found.contrast, found.repetition, found.slice, found.image_series_index) == (1, 0, 1, 1)
        assert np.array_equal(found.data[0, 0], data[1, 0, 1])


def test_attributes_carry_directions_and_record_and_nothing_of_the_patient(tmp_path: Path) -> None:
    image = picture(notes=("a < b & \x00\x1b c",), provenance={**RECIPE, "weights_sha256": "cd" * 32})
    write_mrd(image, tmp_path / "a.h5")
    content = (tmp_path / "a.h5").read_bytes()
    for secret in (b"Marked", b"SECRET-42", b"1970", b"ACC42"):
        assert secret not in content
    with ismrmrd.Dataset(str(tmp_path / "a.h5"), mode="r") as file:
        meta = file.read_image("image_0", 0).meta
    assert np.allclose([float(v) for v in meta["ImageColumnDir"]], image.geometry.phase_dir)
    assert meta["ImageProcessingHistory"] == ["RECON", "AI"]
    assert meta["SeriesDescription"] == "t2_tse sense AI"
    assert read_back(tmp_path / "a.h5")["notes"] == ["a < b & \x00\x1b c"]


def test_an_unknown_geometry_is_stated_in_the_record(tmp_path: Path) -> None:
    image = picture(geometry=replace(picture().geometry, known=False))
    write_mrd(image, tmp_path / "a.h5")
    assert read_back(tmp_path / "a.h5")["geometry_known"] is False
