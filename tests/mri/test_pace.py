"""F27: a machine that runs out of memory during the work, or whose GPU fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch

from recon import pipeline, recipe
from recon.data import Image, RawScan
from recon.errors import sentence
from recon.mri import cartesian, encoded, noncartesian
from recon.mri.pace import trouble
from recon.simulation import Settings, simulate

HEAD = Settings(matrix=(48, 48, 1), fov=(240, 240, 5), coils=4, sigma=1e-4, acceleration=(2, 1), acs=16)
SLICES = replace(HEAD, slices=5, gap=1.0)
VOLUME = replace(HEAD, matrix=(40, 32, 16), fov=(240, 240, 120), acceleration=(1, 1), acs=0)
RADIAL = replace(HEAD, slices=2, gap=1.0, trajectory="radial", acceleration=(1, 1), acs=0)

OUT = "CUDA out of memory. Tried to allocate 20.00 MiB."


def full_gpu(monkeypatch: pytest.MonkeyPatch, error: Exception, *, after: int = 0) -> list[str]:
    """A GPU on a machine without one: it takes `after` tensors, which stay where they are, and then raises."""
    moved: list[str] = []
    to, stack = torch.Tensor.to, torch.empty

    def cuda(kind: Any) -> bool:
        return isinstance(kind, torch.device | str) and "cuda" in str(kind)

    def move(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not any(cuda(a) for a in (*args, *kwargs.values())):
            return to(tensor, *args, **kwargs)
        moved.append("to")
        if len(moved) > after:
            raise error
        kept = [torch.device("cpu") if cuda(a) else a for a in args]
        return to(tensor, *kept, **kwargs)

    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = torch.device("cpu") if cuda(kwargs.get("device")) else kwargs.get("device")
        return stack(*args, **{**kwargs, "device": device})

    monkeypatch.setattr(torch.Tensor, "to", move)
    monkeypatch.setattr(torch, "empty", make)
    monkeypatch.setattr(pipeline, "place", lambda name: torch.device("cuda:0"))
    return moved


@lru_cache
def made(settings: Settings) -> tuple[RawScan, Image]:
    """A scan and its image by the processor."""
    scan = simulate(settings)
    return scan, pipeline.reconstruct(scan, device="cpu")


def close(a: Image, b: Image) -> bool:
    return bool(np.abs(a.data - b.data).max() <= 1e-3 * np.abs(b.data).max())


@pytest.mark.parametrize("settings", [SLICES, VOLUME, RADIAL], ids=["slices", "volume", "radial"])
def test_f27_a_gpu_without_memory_is_replaced_by_the_cpu(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    scan, expected = made(settings)
    moved = full_gpu(monkeypatch, torch.OutOfMemoryError(OUT))
    image = pipeline.reconstruct(scan)
    assert moved
    assert close(image, expected)
    assert image.provenance["device"] == "cuda:0, then cpu"
    assert any("the GPU ran out of memory during the reconstruction" in n and "CPU" in n for n in image.notes)


def test_f27_what_was_done_before_the_gpu_was_full_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, expected = made(SLICES)
    monkeypatch.setattr(cartesian.planning, "plan", lambda *_: cartesian.planning.Plan(1, 0))
    began: list[str] = []
    images = encoded.images
    monkeypatch.setattr(encoded, "images", lambda *a, **k: (began.append(str(a[-1].device)), images(*a, **k))[1])
    full_gpu(monkeypatch, torch.OutOfMemoryError(OUT), after=8)
    image = pipeline.reconstruct(scan)
    assert set(began) == {"cuda:0", "cpu"}
    assert began.count("cpu") < 5
    assert close(image, expected)


def test_f27_a_failing_gpu_is_replaced_by_the_cpu_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, expected = made(SLICES)
    moved = full_gpu(monkeypatch, RuntimeError("CUDA error: an illegal memory access was encountered"))
    image = pipeline.reconstruct(scan)
    assert len(moved) == 1
    assert close(image, expected)
    assert any("the GPU failed" in n for n in image.notes)


def fails(function: Callable[..., Any], when: Callable[..., bool]) -> Callable[..., Any]:
    """The function itself, for which memory is missing as long as `when` says so of its arguments."""

    def tried(*args: Any, **kwargs: Any) -> Any:
        if when(*args, **kwargs):
            raise torch.OutOfMemoryError(OUT)
        return function(*args, **kwargs)

    return tried


def test_f27_fewer_slices_at_a_time_give_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    scan = simulate(SLICES)
    sense = recipe.with_method(recipe.Recipe(), "sense")  # a network takes slices one at a time on a processor
    expected = pipeline.reconstruct(scan, sense, device="cpu")
    monkeypatch.setattr(encoded, "images", fails(encoded.images, lambda _, slabs, *__, **___: len(slabs) > 2))
    image = pipeline.reconstruct(scan, sense, device="cpu")
    assert np.array_equal(image.data, expected.data)
    assert image.provenance["device"] == "cpu"
    assert any("2 slices at a time" in n for n in image.notes)


def test_f27_a_volume_is_solved_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, expected = made(VOLUME)
    wide = fails(encoded.images, lambda _, slabs, *__, **___: slabs[0].y.shape[-1] > 12 + 8)
    monkeypatch.setattr(encoded, "images", wide)
    image = pipeline.reconstruct(scan, device="cpu")
    assert close(image, expected)
    assert any("10 columns at a time" in n for n in image.notes)


def test_f27_where_nothing_smaller_is_left_the_run_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded, "images", fails(encoded.images, lambda *_, **__: True))
    monkeypatch.setattr(noncartesian, "_images", fails(noncartesian._images, lambda *_, **__: True))
    for settings in (SLICES, RADIAL):
        with pytest.raises(torch.OutOfMemoryError):
            pipeline.reconstruct(simulate(settings), device="cpu")


def test_other_errors_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def broken(*_: Any, **__: Any) -> Any:
        calls.append(1)
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(encoded, "images", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        pipeline.reconstruct(simulate(SLICES), device="cpu")
    assert len(calls) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("settings", [SLICES, VOLUME], ids=["slices", "volume"])
def test_f27_a_real_gpu_that_is_full_in_the_middle(settings: Settings) -> None:
    scan = simulate(replace(settings, matrix=(256, 256, settings.matrix[2]), coils=8))
    expected = pipeline.reconstruct(scan, device="cuda")
    assert not any("out of memory" in n for n in expected.notes)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 24 * 2**20) / total)
    try:
        image = pipeline.reconstruct(scan, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("the GPU ran out of memory" in n for n in image.notes)
    assert close(image, expected)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUFFT_ALLOC_FAILED"),
    ],
)
def test_every_kind_of_memory_error_is_recognised(error: Exception) -> None:
    """The errors that make a run take smaller steps are those that it reports if there are no smaller ones."""
    assert trouble(error) == "memory"
    assert sentence(error, memory="lower --memory") == "the machine ran out of memory; lower --memory"
