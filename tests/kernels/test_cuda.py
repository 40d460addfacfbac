"""CUDA kernels run on the CPU by an emulation of blocks and threads, and on a GPU.

What the emulation shows is the arithmetic, the indices, the barriers and the launch; not speed, not the bridge to CuPy.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recon.kernels import bridge, build, eigen, fourier, launch, proofs, sense, wavelet
from recon.operators import Coils, Fourier, Sample
from recon.operators.sense import Sense
from recon.operators.wavelet import analysis, daubechies
from tests.kernels.emulation import Emulator

CPU = torch.device("cpu")
LIMIT = 2e-6

on_gpu = pytest.mark.skipif(
    bool(bridge.missing()), reason=f"CUDA kernels do not run here: {bridge.missing() or 'they do'}"
)


@pytest.fixture(params=[1, 7, 64])
def emulated(request, emulator, monkeypatch) -> Emulator:
    emulator.launches.clear()
    monkeypatch.setattr(bridge, "run", emulator.run)
    monkeypatch.setattr(launch, "THREADS", request.param)
    return emulator


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.complex128)


def close(got: Tensor, expected: Tensor) -> None:
    assert got.dtype == torch.complex64
    assert got.shape == expected.shape
    assert (got.cpu() - expected).abs().max() <= LIMIT * expected.abs().max().clamp_min(1e-30)


class Problem:
    """Maps, weights, images and k-space in double precision, and the operator that they stand for."""

    def __init__(self, shape: tuple[int, int, int], volume: bool, sets: int, coils: int, items: int, own_maps: bool):
        nz, ny, _ = shape
        self.volume = volume
        self.maps = noise(items if own_maps else 1, sets, coils, *shape)
        self.mask = (torch.rand(items if own_maps else 1, nz, ny) < 0.6).double()
        self.x, self.y = noise(items, sets, *shape), noise(items, coils, *shape)
        axes = (-3, -2) if volume else (-2,)
        self.A = Sample(self.mask[:, None, :, :, None]) @ Fourier(axes) @ Coils(self.maps, sets=True)

    def single(self, t: Tensor, device: torch.device = CPU) -> Tensor:
        return t.to(device, torch.complex64 if t.is_complex() else torch.float32)

    def filter(self, device: torch.device = CPU) -> Tensor:
        return sense.prepare(self.mask.square(), self.volume).weights.to(device)

    def scaled(self, device: torch.device = CPU) -> Tensor:
        return self.single(self.mask / self.mask.shape[-1] ** 0.5, device)


#: Lengths with every radix, odd, one, prime ones that are filtered in a longer transform, and one whose sum is just
#: more than the registers of 64 threads hold.
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 11, 13, 30, 77, 96, 169, 17, 101, 264)


@pytest.mark.parametrize("n", LENGTHS)
def test_the_plane_kernels_are_the_chain_of_operators(emulated, n) -> None:
    for sets, coils, items, own in ((1, 3, 1, True), (2, 2, 2, True), (1, 1, 2, False)):
        p = Problem((2, n, 19), False, sets, coils, items, own)
        maps, x = p.single(p.maps), p.single(p.x)
        close(launch.normal(x, maps, p.filter()), p.A.H(p.A(p.x)))
        if sense.smooth(n):
            close(launch.encode(x, maps, p.scaled()), p.A(p.x))
            close(launch.decode(p.single(p.y), maps, p.scaled(), blocks=1), p.A.H(p.y))
        close(launch.normal(x, maps, p.filter(), blocks=1), p.A.H(p.A(p.x)))
    assert "sense_normal" in emulated.launches


@pytest.mark.parametrize("shape", [(4, 6, 5), (9, 10, 33), (17, 12, 3), (1, 8, 9)])
def test_the_volume_kernels_are_the_chain_of_operators(emulated, shape) -> None:
    for sets, coils, items, own in ((1, 3, 1, True), (2, 2, 2, True), (1, 1, 2, False)):
        p = Problem(shape, True, sets, coils, items, own)
        close(launch.normal_volume(p.single(p.x), p.single(p.maps), p.filter()), p.A.H(p.A(p.x)))
    assert set(emulated.launches) == {"coil_expand", "coil_weigh", "coil_combine"}


#: Lengths of every radix: 20 is never the first, and so in long ones alone. 23 is filtered in a longer transform.
PLANNED = (2, 3, 9, 12, 16, 20, 23, 24, 90, 200, 384)


def test_lengths_of_every_radix_are_emulated() -> None:
    assert {r for n in PLANNED if (c := fourier.compiled(n)) for r in c.radices} == set(fourier.HELD_RADICES)


@pytest.mark.parametrize("n", PLANNED)
def test_the_kernels_compiled_for_one_length_are_the_chain_of_operators(emulator, monkeypatch, n) -> None:
    monkeypatch.setattr(bridge, "run", emulator.run)
    monkeypatch.setattr(proofs, "fits", lambda x, maps, compiled: len(compiled) > 0)
    for shape, volume in (((2, n, 19), False), ((6, n, 9), True)):
        for items, own in ((1, True), (2, True), (2, False)):
            p = Problem(shape, volume, 1, 3, items, own)
            f = sense.prepare(p.mask.square(), volume)
            close(sense._normal_on_gpu(p.single(p.x), p.single(p.maps), f), p.A.H(p.A(p.x)))
            assert emulator.launches[-1] in ("planned_normal", "planned_gather", "sum_groups")


def test_compiled_kernels_add_groups_of_coils_in_a_fixed_order(emulator, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "run", emulator.run)
    p = Problem((1, 24, 20), False, 1, 7, 2, True)
    f, maps, x = p.filter(), p.single(p.maps), p.single(p.x)
    c = fourier.compiled(24)
    order = f[..., fourier.plan(24, c.radices).frequency]
    parts = launch.planned(x, maps, order, c, blocks=12)
    close(parts, p.A.H(p.A(p.x)))
    assert torch.equal(parts[1], launch.planned(x[1:], maps[1:], order[1:], c, blocks=12)[0])


def test_compiled_lengths_fit_a_block() -> None:
    found = {n: c for n in range(2, 800) if (c := fourier.compiled(n)) is not None}
    assert {64, 128, 160, 240, 256, 320, 384, 400, 512, 640} <= set(found)
    for n, c in found.items():
        assert math.prod(c.radices) == n
        assert n // c.radices[0] * c.width <= c.threads <= fourier.MOST_THREADS
        assert c.shared <= bridge.SHARED


def test_groups_of_coils_are_added_in_a_fixed_order(emulated) -> None:
    p = Problem((1, 24, 20), False, 2, 7, 2, True)
    maps, x, w = p.single(p.maps), p.single(p.x), p.filter()
    whole = launch.normal(x, maps, w, blocks=1)
    assert "sum_groups" not in emulated.launches
    parts = launch.normal(x, maps, w, blocks=12)
    assert "sum_groups" in emulated.launches
    close(whole, p.A.H(p.A(p.x)))
    close(parts, p.A.H(p.A(p.x)))
    assert torch.equal(parts, launch.normal(x, maps, w, blocks=12))
    alone = launch.normal(x[1:], maps[1:], w[1:], blocks=12)
    assert torch.equal(alone[0], parts[1])


def test_a_block_of_any_size_gives_the_same_bits(emulator, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "run", emulator.run)
    # 4 columns of two sets: 840 values, in registers of 64 threads and in memory with one.
    p = Problem((1, 105, 9), False, 2, 3, 1, True)
    answers = []
    for threads in (1, 33, 64, 256):
        monkeypatch.setattr(launch, "THREADS", threads)
        monkeypatch.setattr(launch, "columns", lambda n, image: 4)
        answers.append(launch.normal(p.single(p.x), p.single(p.maps), p.filter()))
    assert all(torch.equal(answers[0], a) for a in answers[1:])


def test_what_was_not_measured_is_not_read(emulated) -> None:
    p = Problem((1, 12, 7), False, 1, 2, 1, True)
    y = p.single(p.y)
    hidden = torch.where(p.mask[:, None, :, :, None] == 0, torch.full_like(y, torch.nan), y)
    close(launch.decode(hidden, p.single(p.maps), p.scaled()), p.A.H(p.y))


@pytest.mark.parametrize("name", sorted(proofs.PROOFS))
def test_the_proof_of_each_kernel_holds_for_its_source(emulated, name) -> None:
    proofs.PROOFS[name](CPU)


@pytest.mark.parametrize("name", sorted(proofs.PROOFS))
def test_the_proof_of_each_kernel_fails_where_an_answer_is_wrong(emulator, name, monkeypatch) -> None:
    def slightly_off(source: str, kernel: str, grid: int, block: int, args, shared: int = 0, options=()) -> None:
        emulator.run(source, kernel, grid, block, args, shared, options)
        out = {"sense": 3, "planned": 3, "coils": 2, "eigen": 4, "shrink": 0, "wavelet": 0}[source]
        args[0 if kernel == "coil_weigh" else 1 if kernel == "sum_groups" else out].mul_(1.01)

    monkeypatch.setattr(bridge, "run", slightly_off)
    monkeypatch.setattr(launch, "THREADS", 64)
    with pytest.raises(ValueError, match="is off by"):
        proofs.PROOFS[name](CPU)


@pytest.mark.parametrize("off", ["planned_spread", "planned_filter", "planned_gather"])
def test_the_proof_of_the_kernels_of_a_volume_fails_where_one_is_wrong(emulator, off, monkeypatch) -> None:
    def slightly_off(source: str, kernel: str, grid: int, block: int, args, shared: int = 0, options=()) -> None:
        emulator.run(source, kernel, grid, block, args, shared, options)
        if kernel == off:
            args[0 if kernel == "planned_filter" else 2].mul_(1.01)

    monkeypatch.setattr(bridge, "run", slightly_off)
    monkeypatch.setattr(proofs, "_plane", lambda *given: None)
    with pytest.raises(ValueError, match="is off by"):
        proofs.planned(CPU)


@pytest.mark.parametrize(("nz", "lengths"), [(2, (20,)), (6, (20, 6))])
def test_a_kernel_proves_itself_for_the_image_that_it_is_compiled_for(emulator, monkeypatch, nz, lengths) -> None:
    """An image of another size is another program: what one gave says nothing of the other."""
    compiled, asked, programs = [fourier.compiled(n) for n in lengths], [], []

    def run(source: str, kernel: str, grid: int, block: int, args, shared: int = 0, options=()) -> None:
        programs.append(options)
        emulator.run(source, kernel, grid, block, args, shared, options)

    def proven(name: str, device: torch.device, check) -> bool:
        asked.append(name)
        check(device)
        return True

    class OnCard:
        is_cuda, device = True, CPU

    monkeypatch.setattr(bridge, "run", run)
    monkeypatch.setattr(bridge, "proven", proven)
    for nx in (9, 20):
        assert proofs.fits(OnCard, torch.empty(1, 1, 3, nz, 20, nx), compiled)
    assert len(set(asked)) == 2
    own = compiled[0].options(20, 20, 24) if len(lengths) > 1 else compiled[0].options(20, 20)
    assert own in programs


def test_a_threshold_is_read_from_the_card_at_each_launch(emulated) -> None:
    limit = torch.tensor(1.0)
    for _ in range(2):
        x = torch.full((5,), 3 + 4j, dtype=torch.complex64)
        launch.shrink(x, limit, 1.0)
        assert torch.allclose(x, (1 - limit / 5) * (3 + 4j))
        limit += 2


def test_eigenmaps_are_those_of_the_cpu_kernel(emulated) -> None:
    if build.native() is None:
        pytest.skip("the kernels were not compiled: install g++")
    coils, lags, nz, ny, nx = 6, 5, 2, 19, 70  # a whole block of columns and a part of one
    g = 0.04 * torch.randn(nz, ny, lags, coils * (coils + 1) // 2, dtype=torch.complex64)
    first = torch.nn.functional.normalize(torch.randn(coils, dtype=torch.complex64), dim=0)
    upper = torch.triu_indices(coils, coils)
    g[:, :, lags // 2] += (first[:, None] * first.conj())[upper[0], upper[1]]
    waves = torch.polar(torch.ones(nx, lags), torch.randn(nx, lags))
    waves[:, lags // 2] = 1
    answers = []
    for solve in (launch.eigenmaps, eigen.eigenmaps):
        maps, values = torch.zeros(coils, 3, ny, nx, dtype=torch.complex64), torch.zeros(3, ny, nx)
        solve(g, waves, first, maps, values, 1, least=0.5, tolerance=1e-4)
        answers.append((maps, values))
    assert emulated.launches == ["eigenmaps"]
    assert (answers[0][1] - answers[1][1]).abs().max() < 1e-5
    assert (answers[0][0] - answers[1][0]).abs().max() < 1e-3
    assert answers[0][1][1:].min() > 0.5


def test_a_reference_that_is_the_weaker_eigenvector_does_not_hold_the_stronger_one_back(emulated) -> None:
    kernels = torch.tensor([1.0, 0.0, 0.2], dtype=torch.complex64).repeat(1, 4, 1, 1)
    maps, values = torch.zeros(2, 1, 4, 9, dtype=torch.complex64), torch.zeros(1, 4, 9)
    waves, reference = torch.ones(9, 1, dtype=torch.complex64), torch.tensor([0, 1 + 0j])
    launch.eigenmaps(kernels, waves, reference, maps, values, 0, least=0.5, tolerance=1e-4)
    assert (values - 1).abs().max() < 1e-4
    assert (maps[0].abs() - 1).abs().max() < 1e-4


def test_an_eigenvector_that_the_iterations_do_not_reach_has_a_negative_value(emulated) -> None:
    kernels = torch.tensor([1.0, 0.0, 0.99], dtype=torch.complex64).repeat(1, 1, 1, 1)
    maps, values = torch.zeros(2, 1, 1, 9, dtype=torch.complex64), torch.zeros(1, 1, 9)
    waves, reference = torch.ones(9, 1, dtype=torch.complex64), torch.full((2,), 0.5**0.5, dtype=torch.complex64)
    launch.eigenmaps(kernels, waves, reference, maps, values, 0, least=0.5, tolerance=1e-4)
    assert bool(((values < -0.99) & (values > -1)).all())


@pytest.mark.parametrize("order", [1, 2, 4])
def test_wavelet_levels_are_those_of_the_matrix(emulated, order) -> None:
    x, taps = noise(2, 6, 16, 35), daubechies(order)
    for axis, corner in ((-2, (6, 16, 35)), (-2, (5, 12, 17)), (-1, (6, 16, 34)), (-1, (3, 7, 8)), (-3, (6, 9, 35))):
        n, where = corner[axis], tuple(slice(0, c) for c in corner)
        if n < 2 * order:
            continue
        rows = torch.from_numpy(analysis(n, order)).to(x.dtype)
        for inverse in (False, True):
            expected = x.clone()
            part = x[(slice(None), *where)]
            made = (part.movedim(axis, -1) @ (rows if inverse else rows.mT)).movedim(-1, axis)
            expected[(slice(None), *where)] = made
            got = x.to(torch.complex64)
            launch.wavelet_level(got, corner, axis, taps, inverse)
            close(got, expected)


def test_strips_fit_shared_memory_and_registers() -> None:
    for n in (1, 64, 320, 1000, 3000, 6143):
        width = launch.columns(n, n)
        assert width in (1, 2, 4, 8, 16)
        assert 8 * width * (n | 1) <= bridge.SHARED
    assert launch.columns(320, 320) == 8
    assert launch.columns(7000, 7000) == 0


# On a GPU.


def gpu_answers(device: torch.device) -> tuple[Tensor, ...]:
    p = Problem((2, 30, 19), False, 2, 3, 2, True)
    given = p.single(p.x, device), p.single(p.maps, device)
    close(launch.normal(*given, p.filter(device)), p.A.H(p.A(p.x)))
    close(launch.encode(*given, p.scaled(device)), p.A(p.x))
    close(launch.decode(p.single(p.y, device), given[1], p.scaled(device)), p.A.H(p.y))
    v = Problem((9, 10, 33), True, 1, 3, 1, True)
    out = launch.normal_volume(v.single(v.x, device), v.single(v.maps, device), v.filter(device))
    close(out, v.A.H(v.A(v.x)))
    return (out,)


@on_gpu
@pytest.mark.parametrize("name", sorted(proofs.PROOFS))
def test_every_kernel_passes_its_proof_on_every_gpu(name) -> None:
    for index in range(torch.cuda.device_count()):
        assert proofs.stands(name, torch.device("cuda", index)), bridge.verdicts()


@on_gpu
def test_kernels_run_on_the_current_stream() -> None:
    stream = torch.cuda.Stream()
    x = torch.zeros(1 << 22, dtype=torch.complex64, device="cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        x.fill_(2)  # a kernel on another stream would see zeros
        wavelet.shrink(x, 1.0, 1.0)
        gpu_answers(torch.device("cuda"))
    stream.synchronize()
    assert torch.allclose(x, torch.ones_like(x))


@on_gpu
def test_kernels_run_on_the_device_of_their_tensors() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU alone: nothing to tell devices apart by")
    with torch.cuda.device(0):
        (out,) = gpu_answers(torch.device("cuda", 1))
    assert out.device.index == 1


@on_gpu
def test_memory_does_not_grow() -> None:
    A = Sense(noise(3, 8, 30, 40), (torch.rand(1, 1, 30, 1) < 0.5).double(), (-2,)).to("cuda").to(torch.complex64)
    V = Sense(A.maps, (torch.rand(1, 8, 30, 1) < 0.5).float().cuda(), (-3, -2))
    x = torch.randn(8, 30, 40, dtype=torch.complex64, device="cuda")
    for operator in (A.normal(), V.normal()):
        operator(x)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
        for _ in range(1000):
            operator(x)
        torch.cuda.synchronize()
        assert torch.cuda.memory_allocated() == before[0]
        assert torch.cuda.mem_get_info()[0] >= before[1] - (8 << 20)


@on_gpu
def test_operators_give_the_answer_of_the_cpu_and_the_same_bits_twice() -> None:
    for axes in ((-2,), (-3, -2)):
        mask = (torch.rand(1, 8 if -3 in axes else 1, 30, 1) < 0.5).double()
        A = Sense(noise(3, 8, 30, 40), mask, axes)
        x = noise(2, 8, 30, 40)
        G = A.to("cuda").to(torch.complex64)
        one = x.to("cuda", torch.complex64)
        assert G.normal()._compiled is not None
        close(G.normal()(one), A.plain().normal()(x))
        close(G(one), A.plain()(x))
        close(G.H(G(one)), A.plain().H(A.plain()(x)))
        assert torch.equal(G.normal()(one), G.normal()(one))


@on_gpu
def test_memory_is_shared_between_torch_and_cupy() -> None:
    x = torch.arange(6.0, device="cuda").to(torch.complex64)
    with bridge.on(x.device):
        a = bridge.array(x)
        a += 1
        back = bridge.tensor(a)
        assert back.data_ptr() == x.data_ptr()
        assert torch.equal(bridge.tensor(bridge.array(1j * x.conj())), 1j * x.conj())
    assert x[0] == 1
