"""The bridge to CuPy without CuPy: what it asks for, and that a kernel without a proof is not used."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from recon import doctor
from recon.kernels import bridge, eigen, launch, proofs, sense
from tests.kernels.emulation import CUDA, Emulator

SOURCES = sorted(CUDA.glob("*.cu"))
CPU = torch.device("cpu")


def test_without_cupy_the_cure_is_named(monkeypatch) -> None:
    monkeypatch.delenv("RECON_KERNELS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bridge.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bridge.importlib, "import_module", lambda name: pytest.fail("CuPy was imported"))
    bridge._import.cache_clear()
    try:
        (line,) = proofs.report()
        assert "pip install cupy-cuda1" in line
        assert not proofs.stands("sense", torch.device("cuda", 0))
    finally:
        bridge._import.cache_clear()


def test_a_kernel_that_fails_its_proof_is_not_used_and_says_why(monkeypatch) -> None:
    calls = []

    def wrong(device: torch.device) -> None:
        calls.append(device)
        raise ValueError("sense_normal is off by 1.0e+00")

    monkeypatch.setattr(bridge, "missing", lambda: "")
    monkeypatch.setattr(bridge, "_verdicts", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(proofs, "PROOFS", {"sense": wrong, "shrink": lambda device: None})
    gpu = torch.device("cuda", 0)
    assert not proofs.stands("sense", gpu)
    assert not proofs.stands("sense", gpu)
    assert proofs.stands("shrink", gpu)
    assert calls == [gpu]
    said = proofs.report()
    assert said[0] == "CUDA kernel sense on GPU 0: sense_normal is off by 1.0e+00; its torch twin serves"
    assert said[1].endswith("in use")


def test_a_kernel_that_was_not_proven_leaves_the_work_to_torch(monkeypatch) -> None:
    """Tensors of another device than the CPU, here one without memory, ask for the proof before anything else."""
    asked = []
    monkeypatch.setattr(proofs, "stands", lambda name, device: bool(asked.append((name, device.type))))
    t = torch.empty(2, 2, dtype=torch.complex64, device="meta")
    assert not sense.serves(t)
    assert not sense.serves(t, volume=True)
    assert not eigen.serves(t)
    assert asked == [("sense", "meta"), ("coils", "meta"), ("eigen", "meta")]
    assert not sense.serves(t, length=10_000)
    assert len(asked) == 3
    assert not sense.serves(t, torch.zeros(1))


class _Entered:
    """A context that can be entered many times, and notes each."""

    def __init__(self, notes: list, what: tuple) -> None:
        self.notes, self.what = notes, what

    def __enter__(self) -> None:
        self.notes.append(self.what)

    def __exit__(self, *_: object) -> None:
        pass


class FakeCuPy:
    """What the bridge calls of CuPy, on CPU tensors: kernels run in the emulation, and what was asked for is kept."""

    def __init__(self, emulator: Emulator) -> None:
        self.emulator, self.entered, self.modules, self.limits = emulator, [], [], {}
        self.cuda = SimpleNamespace(
            Device=lambda index: self._enter("device", index),
            ExternalStream=lambda pointer, index: _Entered(self.entered, ("stream", pointer, index)),
            using_allocator=lambda malloc: self._enter("pool", malloc),
            PythonFunctionAllocator=lambda take, give: SimpleNamespace(malloc=(take, give)),
        )

    @contextlib.contextmanager
    def _enter(self, what: str, value: object) -> Iterator[None]:
        self.entered.append((what, value))
        yield

    def from_dlpack(self, t: Tensor) -> Tensor:
        return torch.from_dlpack(t)

    def RawModule(self, code: str, options: tuple[str, ...], backend: str) -> SimpleNamespace:
        self.modules.append((code, options))
        source = next(p.stem for p in SOURCES if p.read_text(encoding="utf-8") == code)

        def get_function(kernel: str):
            def call(grid, block, args, shared_mem):
                assert shared_mem <= getattr(call, "max_dynamic_shared_size_bytes", bridge.SHARED)
                self.emulator.run(source, kernel, *grid, *block, args, shared_mem)

            return call

        return SimpleNamespace(get_function=get_function)


@pytest.fixture
def fake(emulator, monkeypatch) -> Iterator[FakeCuPy]:
    cupy = FakeCuPy(emulator)
    stream = SimpleNamespace(cuda_stream=77)
    monkeypatch.setattr(bridge, "_import", lambda: (cupy, ""))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda index: stream)
    caches = (bridge._allocator, bridge._module, bridge._function, bridge._external)
    for made in caches:
        made.cache_clear()
    yield cupy
    for made in caches:
        made.cache_clear()


def test_a_launch_goes_to_the_device_stream_and_pool_of_torch(fake) -> None:
    x = torch.full((5,), 3 + 4j, dtype=torch.complex64)
    launch.shrink(x, 1.0, 1.0)
    launch.shrink(x, 1.0, 1.0)
    assert torch.allclose(x, torch.full_like(x, 0.6 * (3 + 4j)))
    assert fake.entered == [("stream", 77, 3)] * 2
    fake.entered.clear()
    with bridge.on(CPU):
        assert fake.entered == [("device", 3), ("stream", 77, 3), ("pool", bridge._allocator().malloc)]
    ((code, options),) = fake.modules  # compiled once
    assert "shrink_factor" in code
    assert "--std=c++17" in options
    assert any(o.startswith("-I") and Path(o[2:], "columns.h").is_file() for o in options)


def test_cupy_that_knows_the_stream_protocol_is_given_torchs_stream_by_it(fake) -> None:
    def taken(foreign: object) -> _Entered:
        return _Entered(fake.entered, ("protocol", *foreign.__cuda_stream__()))

    fake.cuda.Stream = SimpleNamespace(from_external=taken)
    launch.shrink(torch.ones(3, dtype=torch.complex64), 0.5, 1.0)
    assert fake.entered == [("protocol", 0, 77)]


def test_a_launch_enters_a_device_that_is_not_the_current_one(fake, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "_index", lambda device: 1)
    launch.shrink(torch.ones(3, dtype=torch.complex64), 0.5, 1.0)
    assert fake.entered == [("device", 1), ("stream", 77, 1)]


def test_a_changed_header_is_compiled_anew(fake, monkeypatch, tmp_path) -> None:
    shutil.copytree(CUDA, tmp_path / "cuda")
    shutil.copytree(CUDA.parent / "shared", tmp_path / "shared")
    asked = []
    for home in (CUDA.parent, tmp_path):
        monkeypatch.setattr(bridge, "_HOME", home)
        bridge._headers.cache_clear()
        asked.append(bridge._headers())
    (tmp_path / "shared" / "fft.h").write_text("// another\n")
    bridge._headers.cache_clear()
    asked.append(bridge._headers())
    bridge._headers.cache_clear()
    assert asked[0] == asked[1] != asked[2]


def test_a_kernel_that_needs_more_shared_memory_asks_for_it(fake, monkeypatch) -> None:
    monkeypatch.setattr(bridge, "shared_limit", lambda device: 100 << 10)
    assert launch.eigen_threads(16, 11, CPU) == 64
    proofs.eigen(CPU)
    kernels = torch.zeros(1, 2, 11, 16 * 17 // 2, dtype=torch.complex64)
    maps, values = torch.zeros(16, 1, 2, 5, dtype=torch.complex64), torch.zeros(1, 2, 5)
    waves, first = torch.ones(5, 11, dtype=torch.complex64), torch.ones(16, dtype=torch.complex64)
    launch.eigenmaps(kernels, waves, first, maps, values, 0, least=0.1, tolerance=1e-4)
    assert bool((values == 0).all())


def test_tensors_that_a_kernel_cannot_take_as_they_are_are_refused(fake) -> None:
    with pytest.raises(ValueError, match="contiguous"):
        bridge.run("shrink", "shrink", 1, 1, (torch.zeros(4, 4).T,))
    t = bridge.array((1j * torch.arange(4.0)).conj())
    assert torch.equal(t, -1j * torch.arange(4.0))
    assert isinstance(bridge.array(torch.ones(2)), Tensor)


def test_the_doctor_says_which_cuda_kernels_are_not_in_use(monkeypatch) -> None:
    lines = ["CUDA kernel coils on GPU 0: in use", "CUDA kernel sense on GPU 0: off by 1; its torch twin serves"]
    monkeypatch.setattr(proofs, "report", lambda: lines)
    monkeypatch.setattr(doctor, "_version", lambda name: "14.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "card")
    machine = doctor.examine()
    assert machine.cuda_kernels == lines[:1]
    assert lines[1] in machine.missing
    assert lines[0] in doctor.text(machine)
