"""Scans that were interpolated before they were stored, simulated with numpy alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recon import pipeline, recipe
from recon.data import Flag, Limit, RawScan, flag_bits
from recon.io.arrays import scan_from_array
from recon.io.samples import in_memory
from recon.prepare import sort, support
from recon.prepare.gauge import interpolated
from recon.prepare.noise import Whitening
from recon.prepare.readout import resample

NOISE = 0.004


def fft2(x: np.ndarray) -> np.ndarray:
    x = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(x, axes=(-2, -1))), axes=(-2, -1))
    return x / np.sqrt(x.shape[-1] * x.shape[-2])


def ifft2(k: np.ndarray) -> np.ndarray:
    return np.conj(fft2(np.conj(k)))


def coils(ny: int, nx: int, count: int = 6) -> np.ndarray:
    """Maps of round coils about the object, (coil, y, x)."""
    y, x = np.meshgrid(np.arange(ny) / ny - 0.5, np.arange(nx) / nx - 0.5, indexing="ij")
    angle = 2 * np.pi * np.arange(count)[:, None, None] / count
    u, v = x - 0.6 * np.cos(angle), y - 0.6 * np.sin(angle)
    return np.exp(-(u**2 + v**2) / 0.5) * np.exp(1j * (angle + 2 * u - 1.5 * v))


def objects(ny: int, nx: int) -> np.ndarray:
    """Ellipses with a smooth phase, off the centre."""
    y, x = np.meshgrid(np.arange(ny) / ny - 0.5, np.arange(nx) / nx - 0.5, indexing="ij")
    out = np.zeros((ny, nx))
    for value, x0, y0, a, b in (
        *((1, 0.02, -0.01, 0.36, 0.4), (-0.4, 0.1, 0.1, 0.1, 0.16), (0.5, -0.13, -0.1, 0.06, 0.1)),
    ):
        out += value * (((x - x0) / a) ** 2 + ((y - y0) / b) ** 2 < 1)
    return out * np.exp(1j * (2 * x + 3 * y * y))


def scan(
    shape: tuple[int, int] = (96, 112), inner: tuple[int, int] = (64, 72), *, R: int = 1, acs: int = 20,
    partial: int = 0, window: Any = None, seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """K-space (coil, y, x) that is zero outside of the inner samples, and the image without noise that all of it makes.

    The object is drawn four times as finely as the matrix that was measured.
    """
    rng = np.random.default_rng(seed)
    fine = 4 * inner[0], 4 * inner[1]
    k = fft2(coils(*fine) * objects(*fine)) / 4
    at = [slice(f // 2 - n // 2, f // 2 - n // 2 + n) for f, n in zip(fine, inner)]
    k = k[:, at[0], at[1]]
    if window is not None:
        k = k * np.outer(window(inner[0]), window(inner[1]))
    noise = rng.normal(size=(2, *k.shape)) * NOISE
    noise = noise[0] + 1j * noise[1]
    if window is not None:
        noise = noise * np.outer(window(inner[0]), window(inner[1]))
    rows = np.zeros(inner[0], bool)
    rows[rng.integers(R) :: R] = True
    rows[inner[0] // 2 - acs // 2 : inner[0] // 2 + acs // 2] = True
    rows[:partial] = False
    clean, stored = (np.zeros((len(k), *shape), complex) for _ in range(2))
    to = [slice(f // 2 - n // 2, f // 2 - n // 2 + n) for f, n in zip(shape, inner)]
    clean[:, to[0], to[1]] = k
    stored[:, to[0], to[1]] = (k + noise) * rows[:, None]
    return stored, np.sqrt((np.abs(ifft2(clean)) ** 2).sum(0))


def read(k: np.ndarray) -> RawScan:
    return scan_from_array(k.astype(np.complex64), "coil,y,x")


def made(given: RawScan, method: str = "sense", edges: str = "auto") -> tuple[np.ndarray, dict[str, Any], list[str]]:
    plan = recipe.parse({"solve": {"method": method}, "prepare": {"empty_edges": edges}})
    image = pipeline.reconstruct(given, plan, device="cpu")
    notes = [n for n in image.notes if "k-space was zero-filled by the scanner" in n]
    return np.abs(image.data).reshape(image.data.shape[-2:]), image.provenance["sampling"], notes


def psnr(x: np.ndarray, truth: np.ndarray) -> float:
    body = truth > 0.1 * truth.max()
    x = x * (x * truth)[body].sum() / (x * x)[body].sum()
    return float(10 * np.log10(truth.max() ** 2 / ((x - truth)[body] ** 2).mean()))


@pytest.mark.parametrize("shape", [(96, 112), (97, 112), (96, 111), (99, 107)])
@pytest.mark.parametrize("inner", [(64, 72), (63, 71)])
def test_the_measured_part_is_found_and_the_image_does_not_move(shape: tuple[int, int], inner: tuple[int, int]) -> None:
    k, truth = scan(shape, inner, R=2)
    x, sampling, notes = made(read(k))
    assert sampling["shape"][0] in (inner[0] - 1, inner[0], inner[0] + 1)
    assert len(notes) == 1
    assert x.shape == shape
    whole = psnr(x, truth)
    assert whole > 30
    assert all(psnr(np.roll(x, 1, axis), truth) < whole - 6 for axis in (0, 1))


@pytest.mark.parametrize("method", ["cs", "tv", "unrolled"])
def test_unmeasured_lines_are_not_filled_in(method: str) -> None:
    k, truth = scan(R=3)
    assert psnr(made(read(k), method)[0], truth) > psnr(made(read(k), method, "keep")[0], truth) + 0.5


@pytest.mark.parametrize("method", ["combine", "sense"])
def test_a_full_scan_is_what_it_is_on_the_stored_grid_in_the_unit_of_the_noise_that_was_measured(method: str) -> None:
    k, _ = scan()
    share = (k[0] != 0).mean()
    (x, _, notes), (y, _, none) = made(read(k), method), made(read(k), method, "keep")
    assert notes
    assert not none
    body = y > 0.2 * y.max()
    assert abs(float((x[body] / y[body]).mean()) * share**0.5 - 1) < 2e-3
    assert psnr(x, y) > 40


def test_a_filter_and_rounding_do_not_hide_the_edge() -> None:
    k, truth = scan(R=2, window=np.hamming)
    stored = np.abs(k).sum(0) > 0
    rounding = 1e-7 * np.random.default_rng(1).normal(size=k.shape)
    k = k + np.where(stored.any(1)[:, None] & ~stored, rounding, 0)
    x, _, notes = made(read(k))
    assert (
        "zero-filled by the scanner outside the middle 72 of 112 readout samples and the middle 64 of 96 " in notes[0]
    )
    assert "partitions" not in notes[0]
    assert psnr(x, truth) > 30


def test_lines_of_zeros_in_a_file_are_lines_that_were_not_measured() -> None:
    k, _ = scan()
    full = read(k + 1)
    given = replace(full, samples=in_memory(np.ascontiguousarray(k.astype(np.complex64).transpose(1, 0, 2))))
    assert len(given.lines) == 96
    _, sampling, notes = made(given, "combine")
    assert sampling["shape"] == (64, 1)
    assert len(notes) == 1


def test_a_backward_readout_is_cut_at_its_own_ends() -> None:
    k, _ = scan(R=1)
    forth = read(k)
    data = forth.samples.read(np.arange(len(forth.lines))).copy()
    lines = forth.lines.copy()
    data[1::2] = data[1::2, :, ::-1]
    lines["flags"][1::2] |= np.uint64(flag_bits(Flag.REVERSE))
    lines["center_sample"][1::2] = 111 - 56
    lines["discard_pre"], lines["discard_post"] = 0, 0
    turned = replace(forth, lines=lines, samples=in_memory(data))
    x, _, notes = made(turned, "combine")
    assert "72 of 112 readout samples" in notes[0]
    assert psnr(x, made(turned, "combine", "keep")[0]) > 45
    assert psnr(np.roll(x, 1, 1), made(turned, "combine", "keep")[0]) < 30


def zeros_beyond(shape: tuple[int, int], axis: int, n: int) -> np.ndarray:
    d = np.arange(shape[axis]) - shape[axis] // 2
    keep = (d >= -(n // 2)) & (d < n - n // 2)
    return keep[:, None] if axis == 0 else keep[None]


NOT_EMPTY: dict[str, dict[str, Any]] = {
    "partial Fourier": {"R": 2, "partial": 24},
    "every fourth line": {"R": 4, "seed": 1},
    "every eighth line": {"R": 8, "seed": 3},
    "a Hamming filter": {"window": np.hamming},
    "a Hann filter": {"window": np.hanning},
}


@pytest.mark.parametrize("case", NOT_EMPTY)
def test_edges_that_only_look_empty_are_kept(case: str) -> None:
    k, _ = scan((96, 112), (96, 112), **NOT_EMPTY[case])
    _, sampling, notes = made(read(k), "combine")
    assert not notes
    assert sampling["shape"] == (96, 1)


def test_a_spark_is_no_edge() -> None:
    k, _ = scan((96, 112), (96, 112))
    k[:, 30, 70] += 50
    assert not made(read(k), "combine")[2]


def test_a_header_that_names_the_rows_is_trusted_up_to_the_next_line() -> None:
    k, _ = scan((96, 112), (60, 112), R=4, seed=2)
    given = read(k)
    e = given.encodings[0]
    # Rows 18 to 77 were measured, and the first and last of every fourth lie up to three further in.
    limits = {**e.limits, "kspace_encoding_step_1": Limit(18, 77, 48)}
    named = replace(given, encodings=(replace(e, limits=limits),))
    assert made(named, "sense")[1]["shape"] == (60, 1)


def test_an_image_is_interpolated_whole_where_its_coil_sees_nothing() -> None:
    """Two coils, of which the first, whose phase the image has, turns about a point in the middle of the object."""

    def drawn(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        r = (torch.arange(n, dtype=torch.float64) - n // 2) / n
        y, x = torch.meshgrid(r, r, indexing="ij")
        raw = torch.stack([torch.complex(4 * (x - 0.051), 4 * (y - 0.032)), torch.ones(n, n, dtype=torch.complex128)])
        maps = raw / torch.linalg.vector_norm(raw, dim=0)
        maps = maps * torch.polar(torch.ones(n, n, dtype=torch.float64), -maps[0].angle())
        image = torch.exp(-20 * (x * x + y * y)) * torch.polar(torch.ones(n, n, dtype=torch.float64), raw[0].angle())
        return image[None], maps[:, None]

    (x, maps), (wanted, _) = drawn(48), drawn(96)

    def finer(t: torch.Tensor) -> torch.Tensor:
        for axis in (-2, -1):
            t = resample(t.to(torch.complex128), axis, 2.0, 1.0, 96)
        return t

    first = torch.tensor([1, 0], dtype=torch.complex128)
    plain, found = finer(x), interpolated(x, maps, first, finer)
    assert float((plain.abs() - wanted.abs()).abs().max()) > 0.3
    assert float((found.abs() - wanted.abs()).abs().max()) < 0.01
    assert float((found - wanted).abs().mean()) < 0.01


@pytest.mark.parametrize(("inner", "found"), [((96, 112), 96), ((64, 72), 64)])
def test_random_lines_are_cropped_only_if_another_axis_is_empty_too(inner: tuple[int, int], found: int) -> None:
    k, _ = scan((96, 112), inner)
    rows = np.zeros(96, bool)
    rows[[18, 22, 25, 31, 33, 36, *range(38, 58), 59, 62, 65, 70, 72, 79]] = True
    _, sampling, notes = made(read(k * rows[:, None]), "sense")
    assert sampling["shape"] == (found, 1)
    assert len(notes) == (inner == (64, 72))


def _cut(given: RawScan) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The table of lines without what is empty, and the matrix that was measured; the noise is of unit variance."""
    kinds = sort.kinds(given)
    white = Whitening(torch.eye(6, dtype=torch.complex64), "noise scan")
    frames = sort.frames(given, kinds.imaging)
    scaled = replace(given, samples=in_memory(given.samples.read(np.arange(len(given.lines))) / np.float32(NOISE)))
    found = support.measured(scaled, kinds, given.encodings[0], frames, white)
    return found.scan.lines, found.encoding.encoded_matrix


@pytest.mark.parametrize("flag", [Flag.CALIBRATION, Flag.NOISE])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_ends_of_every_readout_that_makes_an_image_are_left_out(flag: Flag, backwards: bool) -> None:
    """Of 112 samples those of columns 20 to 91: the centre is sample 56, which nobody wrote, or 55 backwards."""
    k, _ = scan()
    given = read(k)
    lines, samples = given.lines.copy(), given.samples.read(np.arange(len(given.lines)))
    if backwards:
        lines["flags"] |= np.uint64(flag_bits(Flag.REVERSE))
        samples = np.ascontiguousarray(samples[:, :, ::-1])
    lines["center_sample"], lines["discard_pre"], lines["discard_post"] = 0, 0, 0
    lines["flags"][:4] |= np.uint64(flag_bits(flag))
    out, matrix = _cut(replace(given, lines=lines, samples=in_memory(samples)))
    assert matrix == (72, 64, 1)
    cut = slice(None) if flag == Flag.CALIBRATION else slice(4, None)
    assert set(out["discard_pre"][cut]) == set(out["discard_post"][cut]) == {20}
    assert set(out["center_sample"][cut]) == {55 if backwards else 56}
    if flag == Flag.NOISE:
        assert not out["discard_pre"][:4].any()
        assert not out["center_sample"][:4].any()


def test_the_table_of_the_scan_stays_as_it_was_and_lines_that_discard_more_discard_it_still() -> None:
    k, _ = scan()
    given = read(k)
    samples = given.samples.read(np.arange(len(given.lines)))
    lines = given.lines.copy()
    lines["center_sample"], lines["discard_pre"], lines["discard_post"] = 56, 0, 0
    lines["discard_pre"][10], lines["discard_post"][11] = 30, 25
    before = lines.copy()
    out, _ = _cut(replace(given, lines=lines, samples=in_memory(samples)))
    assert np.array_equal(lines, before)
    assert (out["discard_pre"][10], out["discard_post"][11]) == (30, 25)
    assert (out["discard_post"][10], out["discard_pre"][11]) == (20, 20)


def test_noise_that_was_measured_beyond_the_signal_is_measured() -> None:
    k, _ = scan()
    noise = np.random.default_rng(3).normal(size=(2, *k.shape)) * NOISE
    assert _cut(read(300 * k + noise[0] + 1j * noise[1]))[1] == (112, 96, 1)
    assert _cut(read(300 * k))[1] == (72, 64, 1)


def test_a_frame_of_few_lines_with_signal_does_not_shrink_the_scan_to_what_no_scanner_interpolates_from() -> None:
    k, _ = scan((96, 112), (16, 112))
    assert _cut(read(k))[1] == (112, 96, 1)
    k, _ = scan((96, 112), (24, 112))
    assert _cut(read(k))[1] == (112, 24, 1)


def test_discarded_samples_do_not_count_as_measured() -> None:
    k, _ = scan()
    given = read(k)
    lines, samples = given.lines.copy(), given.samples.read(np.arange(len(given.lines))).copy()
    lines["center_sample"], lines["discard_pre"], lines["discard_post"] = 56, 20, 20
    samples[:, :, :20], samples[:, :, -20:] = 1, 1
    assert _cut(replace(given, lines=lines, samples=in_memory(samples)))[1] == (72, 64, 1)


def stored(*slices: np.ndarray) -> RawScan:
    """Slices (coil, y, x) with every line in the file, those of zeros too."""
    given = scan_from_array(np.stack(slices).astype(np.complex64) + 1, "slice,coil,y,x")
    rows = [slices[n][:, y] for n, y in zip(given.lines["slice"], given.lines["kspace_encode_step_1"])]
    return replace(given, samples=in_memory(np.stack(rows).astype(np.complex64)))


def test_the_widest_of_all_frames_that_are_looked_at_is_what_was_measured() -> None:
    """Of two frames the ends of k-space are empty beyond where the third one was measured."""
    k, _ = scan()
    small = k.copy()
    small[:, :, :30], small[:, :, 82:] = 0, 0
    small[:, :24], small[:, 72:] = 0, 0
    assert _cut(stored(small, k, small))[1] == (72, 64, 1)
    assert _cut(stored(small, small, small))[1] == (52, 48, 1)


def test_one_row_that_is_missing_at_the_other_end_of_partial_fourier_is_there_by_chance() -> None:
    k, _ = scan((96, 112), (96, 112), partial=24)
    k[:, -1] = 0
    assert _cut(read(k))[1] == (112, 96, 1)


def test_a_spark_beyond_what_was_measured_leaves_the_axis_as_it_is() -> None:
    k, _ = scan()
    k[:, 8, 56] = 50
    assert _cut(stored(k))[1] == (72, 96, 1)


def test_too_few_rows_show_no_edge() -> None:
    """Six of sixteen hold something; twelve of 32 would be detected."""
    assert _cut(stored(scan((16, 112), (6, 112))[0]))[1] == (112, 16, 1)
    assert _cut(stored(scan((32, 112), (12, 112))[0]))[1] == (112, 12, 1)
