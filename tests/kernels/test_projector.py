"""The projection kernels against the matrix of their definition, on every level of vector instructions."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.kernels import bridge, projector
from recon.operators.xray import Fan, Parallel, Xray
from tests.kernels.rays import gap, has_the_same_bits, is_the_matrix, is_transposed, levels, sample, turn, use
from tests.operators.rays import joseph


@pytest.fixture(params=levels())
def compiled(request, monkeypatch):
    return use(request.param, monkeypatch, projector)


@pytest.fixture(params=[*levels(), "torch"])
def kernel(request, monkeypatch):
    return use(request.param, monkeypatch, projector)


#: Detector elements as wide as pixels, wider and much wider, and finer, so that neighbours lie in two vectors, in four
#: and anywhere; angles along the grid, along its diagonals and between; sizes that fill no vector and no tile.
SCANS = {
    "parallel": Xray(Parallel(turn(16), 61, 1.0, 0.3), (37, 45), 1.0),
    "parallel, wide elements": Xray(Parallel(turn(7), 15, 3.7), (37, 45), 1.0),
    "parallel, very wide elements": Xray(Parallel(turn(7), 7, 9.0), (37, 45), 1.0),
    "parallel, fine elements": Xray(Parallel(turn(5), 150, 0.35, -4.0), (33, 20), 1.0),
    "parallel, very fine elements": Xray(Parallel(turn(5) + 0.1, 301, 0.1), (20, 18), 1.0),
    "flat": Xray(Fan(turn(16), 75, 1.5, 60.0, 50.0, False, 0.4), (37, 45), 0.9),
    "flat, wide": Xray(Fan(turn(9), 30, 5.0, 40.0, 50.0, False, 0.4), (37, 45), 1.0),
    "flat, source far off": Xray(Fan(turn(9), 60, 1.0, 9000.0, 0.0), (37, 45), 1.0),
    "curved": Xray(Fan(turn(16), 75, 1.5, 60.0, 50.0, True, 0.4), (37, 45), 0.9),
    "curved, over 90 degrees": Xray(Fan(turn(9), 95, 1.2, 33.0, 30.0, True), (37, 45), 1.0),
    "curved, fine elements": Xray(Fan(turn(5), 240, 0.3, 40.0, 20.0, True), (20, 31), 1.0),
    "one pixel": Xray(Parallel(turn(3), 3, 1.0), (1, 1), 1.0),
    "one element": Xray(Parallel(turn(3) + 0.2, 1, 1.0, 0.2), (5, 70), 1.0),
}
each = pytest.mark.parametrize("name", SCANS)


@cache
def matrix(name: str) -> Tensor:
    return joseph(SCANS[name].geometry, SCANS[name].shape, SCANS[name].voxel)


def images(name: str, items: int = 2) -> tuple[Tensor, Tensor]:
    A = SCANS[name]
    return sample(items, *A.shape), sample(items, A.geometry.angles.numel(), A.geometry.detectors, seed=2)


# A source far off costs digits: its distance over a pixel, in both formulas.
@each
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_the_projection_and_its_transpose_are_the_matrix(kernel, name, dtype, limit) -> None:
    is_the_matrix(SCANS[name], matrix(name), *images(name), dtype, limit)


@each
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_backprojection_is_the_transpose_to_rounding(kernel, name, dtype, limit) -> None:
    is_transposed(SCANS[name], *(t.to(dtype) for t in images(name)), limit)


#: Beside them a pixel is as wide as ten million elements, of which there are five.
NARROW = {
    "parallel": Parallel(turn(2) + 0.1, 5, 1e-7, 0.3),
    "flat": Fan(turn(2) + 0.1, 5, 1e-7, 60.0, 50.0, False, 0.3),
    "curved": Fan(turn(2) + 0.1, 5, 1e-7, 60.0, 50.0, True, 0.3),
}


@pytest.mark.parametrize("beam", NARROW)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_elements_of_next_to_no_width_take_no_longer_than_there_are(kernel, beam, dtype, limit) -> None:
    A = Xray(NARROW[beam], (3, 2), 1.0)
    is_the_matrix(A, joseph(A.geometry, A.shape, A.voxel), sample(2, 3, 2), sample(2, 2, 5, seed=2), dtype, limit)


def positions(A: Xray) -> tuple[np.ndarray, np.ndarray]:
    """Detector element and weight (view, y, x) of every pixel, by trigonometry."""
    g = A.geometry
    y, x = ((np.arange(n) - (n - 1) / 2) * A.voxel for n in A.shape)
    at, weight = [], []
    for angle in g.angles.tolist():
        e = x * math.cos(angle) + y[:, None] * math.sin(angle)
        d = -x * math.sin(angle) + y[:, None] * math.cos(angle)
        if isinstance(g, Parallel):
            s, w = e, np.ones(A.shape)
        else:
            gamma, reach = np.arctan2(e, g.source_distance + d), g.source_distance + g.detector_distance
            s = reach * (gamma if g.curved else np.tan(gamma))
            far = np.hypot(e, g.source_distance + d) if g.curved else g.source_distance + d
            w = (g.source_distance / far) ** 2
        at.append((s - g.offset) / g.spacing + (g.detectors - 1) / 2)
        weight.append(w)
    return np.stack(at), np.stack(weight)


@each
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_smearing_interpolates_between_elements(kernel, name, dtype, limit) -> None:
    A, (_, y) = SCANS[name], images(name)
    at, weight = positions(A)
    padded = np.arange(-1, A.geometry.detectors + 1)
    expected = [
        sum(np.interp(u, padded, np.pad(p, 1), 0, 0) * w for u, w, p in zip(at, weight, item)) for item in y.numpy()
    ]
    assert gap(A.smear(y.to(dtype)), torch.from_numpy(np.stack(expected))) < limit


@each
def test_the_bits_depend_neither_on_threads_nor_on_the_batch(compiled, name) -> None:
    has_the_same_bits(SCANS[name], *(t.float() for t in images(name, 3)))


def test_a_wide_image_gives_the_same_in_tiles_and_strips(compiled) -> None:
    g = Fan(turn(11), 260, 1.3, 260.0, 150.0, True, 0.2)
    A = Xray(g, (131, 207), 0.8)
    x, y = sample(1, 131, 207), sample(1, 11, 260, seed=2)
    assert gap(A(x.float()), A(x)) < 1e-5
    assert gap(A.adjoint(y.float()), A.adjoint(y)) < 1e-5
    assert gap(A.smear(y.float()), A.smear(y)) < 1e-4


def test_shapes_and_types_that_do_not_fit_are_refused(compiled) -> None:
    x, y = np.zeros((1, 5, 6), "float32"), np.zeros((1, 4, 7), "float32")
    rays, views = np.zeros((4, 7, 3), "float32"), np.zeros((4, 6), "float32")
    detector = (projector.FLAT, 3.0, 1.0, 1e-3)
    compiled.xray_project(x, rays, views, *detector, y, 1)
    for wrong in (rays[:3], rays[:, :6], rays[..., :2], rays[0]):
        with pytest.raises(ValueError, match="do not fit"):
            compiled.xray_project(x, wrong.copy(), views, *detector, y, 1)
    for wrong in (views[:3], views[:, :5], views[0]):
        with pytest.raises(ValueError, match="do not fit"):
            compiled.xray_smear(y, wrong.copy(), *detector, x, 1)
    with pytest.raises(ValueError, match="do not fit"):
        compiled.xray_adjoint(y[0], rays, views, *detector, x, 1)
    with pytest.raises(ValueError, match="do not fit"):
        compiled.xray_adjoint(y, rays, views, 3, 3.0, 1.0, 1e-3, x, 1)
    with pytest.raises(TypeError):
        compiled.xray_project(x.astype("float64"), rays, views, *detector, y, 1)


def test_the_cuda_kernels_are_the_same_arithmetic(emulator, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "run", emulator.run)
    monkeypatch.setattr(projector, "native", lambda: None)
    monkeypatch.setattr(projector, "THREADS", 32)
    for name, A in SCANS.items():
        x, y = images(name)
        for kernel, given, f in (("project", x, A.forward), ("adjoint", y, A.adjoint), ("smear", y, A.smear)):
            expected = f(given)
            for dtype, limit in ((torch.float32, 1e-4), (torch.float64, 1e-11)):
                out = torch.empty_like(expected, dtype=dtype)
                got = projector._launched(f"xray_{kernel}", given.to(dtype), A.rays, out)
                assert gap(got, expected) < limit, (name, kernel)
    projector.proof(torch.device("cpu"))


def test_a_cuda_thread_that_takes_several_values_gives_the_same(emulator, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "run", lambda source, kernel, grid, *more: emulator.run(source, kernel, 1, *more))
    x, y = images("flat")
    A = SCANS["flat"]
    for kernel, given, f in (("project", x, A.forward), ("adjoint", y, A.adjoint), ("smear", y, A.smear)):
        expected = f(given)
        assert gap(projector._launched(f"xray_{kernel}", given, A.rays, torch.empty_like(expected)), expected) < 1e-11


def test_the_proof_of_the_cuda_kernels_fails_where_they_are_wrong(emulator, monkeypatch) -> None:
    def off(source: str, kernel: str, grid: int, block: int, args, shared: int = 0) -> None:
        emulator.run(source, kernel, grid, block, args, shared)
        args[{"xray_project": 2, "xray_adjoint": 3, "xray_smear": 2}[kernel]].mul_(1.01)

    monkeypatch.setattr(bridge, "run", off)
    with pytest.raises(ValueError, match="is off by"):
        projector.proof(torch.device("cpu"))
