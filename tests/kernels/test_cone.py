"""The kernels of cone beams against the matrix of their definition, on every level of vector instructions."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.kernels import bridge, cone, projector
from recon.operators import Cone, ConeXray
from tests.kernels.rays import gap, has_the_same_bits, is_the_matrix, is_transposed, levels, sample, turn, use
from tests.operators.cones import joseph


@pytest.fixture(params=[*levels(), "torch"])
def kernel(request, monkeypatch):
    return use(request.param, monkeypatch, cone, projector)


#: Rows and columns of the detector as fine as voxels, wider and finer; offsets; slices thick and thin; a detector at
#: the axis; more rows than are followed at a time, and one; columns longer than the vectors that read them, whose
#: neighbours lie on both scales about as far apart, or on one of them two to four times as far.
SCANS = {
    "usual": ConeXray(Cone(turn(8), 20, 31, 1.5, 1.5, 60.0, 50.0, 0.4, 0.3), (11, 17, 22), 0.9, 0.9),
    "wide elements": ConeXray(Cone(turn(5) + 0.1, 5, 9, 7.0, 6.0, 60.0, 50.0), (13, 17, 12), 1.0, 1.0, 2.0),
    "fine elements": ConeXray(Cone(turn(3) + 0.2, 70, 60, 0.3, 0.4, 40.0, 20.0, -2.0, 1.0), (7, 10, 13), 1.0, 1.0),
    "thin slices": ConeXray(Cone(turn(5), 9, 21, 3.0, 2.0, 40.0, 0.0), (40, 9, 12), 1.0, 0.3, -1.0),
    "one voxel": ConeXray(Cone(turn(3), 3, 3, 1.0, 1.0, 9.0, 3.0), (1, 1, 1), 1.0, 1.0),
    "one ray": ConeXray(Cone(turn(3) + 0.2, 1, 1, 1.0, 1.0, 60.0, 3.0, 0.3, 0.2), (4, 5, 30), 1.0, 1.0),
    "long columns": ConeXray(Cone(turn(3) + 0.2, 90, 4, 1.2, 2.0, 90.0, 60.0, 1.0), (80, 4, 5), 1.0, 0.9, 2.0),
    "coarse rows": ConeXray(Cone(turn(3) + 0.2, 33, 4, 3.6, 2.0, 90.0, 60.0, 1.0), (90, 4, 5), 1.0, 0.9, 2.0),
    "fine rows": ConeXray(Cone(turn(3) + 0.2, 99, 4, 0.5, 2.0, 90.0, 60.0, 1.0), (36, 4, 5), 1.0, 0.9, 2.0),
}
each = pytest.mark.parametrize("name", SCANS)


@cache
def matrix(name: str) -> Tensor:
    A = SCANS[name]
    return joseph(A.geometry, A.shape, A.voxel, A.step, A.height)


def volumes(name: str, items: int = 2) -> tuple[Tensor, Tensor]:
    A = SCANS[name]
    return sample(items, *A.shape), sample(items, *A.tracks.sinogram, seed=2)


@each
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_projection_and_its_transpose_are_the_matrix(kernel, name, dtype, limit) -> None:
    is_the_matrix(SCANS[name], matrix(name), *volumes(name), dtype, limit)


@each
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_the_backprojection_is_the_transpose_to_rounding(kernel, name, dtype, limit) -> None:
    is_transposed(SCANS[name], *(t.to(dtype) for t in volumes(name)), limit)


@pytest.mark.parametrize(("rows", "columns"), [(1e-9, 1.0), (1.0, 1e-9)])
def test_elements_of_next_to_no_width_take_no_longer_than_there_are(kernel, rows, columns) -> None:
    A = ConeXray(Cone(turn(2) + 0.1, 3, 3, rows, columns, 60.0, 50.0, 0.3, 0.2), (3, 5, 4), 1.0, 1.0)
    m = joseph(A.geometry, A.shape, A.voxel, A.step, A.height)
    is_the_matrix(A, m, sample(2, *A.shape), sample(2, *A.tracks.sinogram, seed=2), torch.float64, 1e-9)


@each
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-11)])
def test_smearing_interpolates_between_elements(kernel, name, dtype, limit) -> None:
    """The place of each voxel on the detector by trigonometry, and SciPy's linear interpolation there."""
    interpolate = pytest.importorskip("scipy.ndimage").map_coordinates
    A, (_, y) = SCANS[name], volumes(name, 1)
    g = A.geometry
    z, r, x = ((np.arange(n) - (n - 1) / 2) * v for n, v in zip(A.shape, (A.step, A.voxel, A.voxel)))
    expected = np.zeros(A.shape)
    for view, angle in enumerate(g.angles.tolist()):
        e = x * math.cos(angle) + r[:, None] * math.sin(angle)
        far = g.source_distance - x * math.sin(angle) + r[:, None] * math.cos(angle)
        reach = (g.source_distance + g.detector_distance) / far
        column = (reach * e - g.offset) / g.spacing + (g.columns - 1) / 2
        row = (reach * (z + A.height)[:, None, None] - g.row_offset) / g.row_spacing + (g.rows - 1) / 2
        padded, at = np.pad(y[0, :, view].numpy(), 1), np.stack(np.broadcast_arrays(row, column)) + 1
        expected += interpolate(padded, at, order=1, cval=0.0) * (g.source_distance / far) ** 2
    assert gap(A.smear(y.to(dtype))[0], torch.from_numpy(expected)) < limit


@each
def test_the_bits_depend_neither_on_threads_nor_on_the_batch(kernel, name) -> None:
    has_the_same_bits(SCANS[name], *(t.float() for t in volumes(name, 3)))


def test_shapes_and_types_that_do_not_fit_are_refused() -> None:
    module = cone.native()
    if module is None:
        pytest.skip("no kernels were compiled here")
    x, y = np.zeros((1, 3, 5, 6), "float32"), np.zeros((1, 2, 4, 7), "float32")
    tracks, views, frame = np.zeros((4, 7, 5), "float32"), np.zeros((4, 6), "float32"), np.ones(7, "float32")
    module.cone_project(x, tracks, views, frame, y, True, 1)
    for wrong in ((tracks[:3], views, frame), (tracks, views[:, :5], frame), (tracks, views, frame[:6])):
        with pytest.raises(ValueError, match="do not fit"):
            module.cone_project(x, *(w.copy() for w in wrong), y, True, 1)
    with pytest.raises(ValueError, match="do not fit"):
        module.cone_adjoint(y[0], tracks, views, frame, x, False, 1)
    with pytest.raises(TypeError):
        module.cone_project(x.astype("float64"), tracks, views, frame, y, True, 1)


def test_the_cuda_kernels_are_the_same_arithmetic(emulator, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "run", emulator.run)
    monkeypatch.setattr(cone, "native", lambda: None)
    monkeypatch.setattr(cone, "THREADS", 32)
    for name, A in SCANS.items():
        x, y = volumes(name)
        for kernel, given, twin in (
            ("project", x, cone._project),
            ("adjoint", y, cone._gather),
            ("smear", y, cone._smear),
        ):
            shape = A.tracks.sinogram if kernel == "project" else A.shape
            expected = twin(given, A.tracks, given.new_empty(2, *shape))
            for dtype, limit in ((torch.float32, 1e-4), (torch.float64, 1e-11)):
                out = torch.empty_like(expected, dtype=dtype)
                got = cone._launched(f"cone_{kernel}", given.to(dtype), A.tracks, out)
                assert gap(got, expected) < limit, (name, kernel)
    cone.proof(torch.device("cpu"))


def test_a_cuda_thread_that_takes_several_columns_gives_the_same(emulator, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "run", lambda source, kernel, grid, *more: emulator.run(source, kernel, 1, *more))
    A, (x, y) = SCANS["usual"], volumes("usual")
    for kernel, given, twin in (("project", x, cone._project), ("adjoint", y, cone._gather), ("smear", y, cone._smear)):
        expected = twin(given, A.tracks, given.new_empty(2, *(A.tracks.sinogram if kernel == "project" else A.shape)))
        got = cone._launched(f"cone_{kernel}", given, A.tracks, torch.empty_like(expected))
        assert gap(got, expected) < 1e-11, kernel


def test_the_proof_of_the_cuda_kernels_fails_where_they_are_wrong(emulator, monkeypatch) -> None:
    def off(source: str, kernel: str, grid: int, block: int, args, shared: int = 0) -> None:
        emulator.run(source, kernel, grid, block, args, shared)
        args[{"cone_project": 2, "cone_adjoint": 3, "cone_smear": 2}[kernel]].mul_(1.01)

    monkeypatch.setattr(bridge, "run", off)
    with pytest.raises(ValueError, match="is off by"):
        cone.proof(torch.device("cpu"))
