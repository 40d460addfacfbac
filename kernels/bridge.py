"""The connection to CUDA through CuPy: the only file that uses it.

Tensors and CuPy's arrays share memory (DLPack), kernels run on torch's device and current stream, and CuPy allocates
from torch's pool. A kernel is used once its result on this device has been compared with torch's; otherwise torch is
used, and `recon doctor` says why.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

_HOME = Path(__file__).resolve().parent

#: Bytes of shared memory that a block can use on every device without an opt-in.
SHARED = 48 << 10

#: Largest difference between a kernel and the result in double precision, relative to its largest value.
TOLERANCE = 1e-5

#: Result of each kernel's proof on each device, empty if it passed: (kernel, device index) → sentence.
_verdicts: dict[tuple[str, int], str] = {}
_lock = threading.RLock()


def missing() -> str:
    """Why no CUDA kernel can run here, with the cure; empty if they can."""
    if os.environ.get("RECON_KERNELS") == "torch":
        return "switched off by RECON_KERNELS=torch; torch does the work"
    if not torch.cuda.is_available():
        return "no GPU that torch can use"
    return _import()[1]


@cache
def _import() -> tuple[Any, str]:
    package = f"cupy-cuda{(torch.version.cuda or '12').split('.')[0]}x"
    if importlib.util.find_spec("cupy") is None:
        return None, f"CuPy is not installed, torch does the work: pip install {package}"
    try:
        return importlib.import_module("cupy"), ""
    except Exception as e:  # mismatched drivers and libraries raise more than ImportError
        return None, f"CuPy does not load ({_line(e)}), torch does the work: pip install {package}, by the driver"


def same(name: str, got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Raise ValueError if a kernel's result differs from the expected by more than `tolerance` of the largest value."""
    wrong = float((got.cpu() - expected).abs().max() / expected.abs().max())
    if not wrong <= tolerance:  # NaN is wrong, too
        raise ValueError(f"{name} is off by {wrong:.1e} where {tolerance:.0e} is allowed")


def proven(name: str, device: torch.device, check: Callable[[torch.device], None]) -> bool:
    """Whether the kernel `name` gave the right result on this device, checked once per process and device.

    `check` runs it on a small random problem and raises if it differs from torch.
    """
    if not _verdicts and missing():
        return False
    key = (name, _index(device))
    if key in _verdicts:  # called at every launch, so the driver is not queried
        return _verdicts[key] == "" and os.environ.get("RECON_KERNELS") != "torch"
    if missing():
        return False
    if torch.cuda.is_current_stream_capturing():
        return False  # a proof allocates and synchronises, which is not allowed in a graph
    with _lock:
        if key not in _verdicts:
            _verdicts[key] = _trial(check, torch.device("cuda", key[1]))
    return _verdicts[key] == ""


def verdicts() -> dict[tuple[str, int], str]:
    """Results of the proofs so far: empty if the kernel is in use."""
    return dict(_verdicts)


def _trial(check: Callable[[torch.device], None], device: torch.device) -> str:
    try:
        with torch.no_grad():
            check(device)
        torch.cuda.synchronize(device)
    except Exception as e:
        return f"{_line(e)}; its torch twin serves"
    return ""


@contextlib.contextmanager
def on(device: torch.device) -> Iterator[Any]:
    """CuPy on a device, with torch's current stream there and memory from torch's pool."""
    cuda, index = cupy().cuda, _index(device)
    with _other(index), _stream(index), cuda.using_allocator(_allocator().malloc):
        yield cupy()


def _stream(index: int) -> Any:
    return _external(index, int(torch.cuda.current_stream(index).cuda_stream))


@lru_cache(maxsize=256)
def _external(index: int, pointer: int) -> Any:
    streams = cupy().cuda
    if hasattr(getattr(streams, "Stream", None), "from_external"):
        return streams.Stream.from_external(_Foreign(pointer))
    return streams.ExternalStream(pointer, index)  # before CuPy 14


@dataclass(frozen=True)
class _Foreign:
    """A stream owned by torch, as CUDA's stream protocol presents it; it is on the current device."""

    pointer: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def stream(device: torch.device) -> int:
    """What distinguishes torch's current stream on a device from others there; 0 on the CPU."""
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


@cache
def _allocator() -> Any:
    def take(size: int, index: int) -> int:
        return int(torch.cuda.caching_allocator_alloc(size, index))

    def give(pointer: int, index: int) -> None:
        torch.cuda.caching_allocator_delete(pointer)  # type: ignore[no-untyped-call]

    return cupy().cuda.PythonFunctionAllocator(take, give)


def cupy() -> Any:
    """The module CuPy, if `missing` is empty."""
    return _import()[0]


def array(t: Tensor) -> Any:
    """A CuPy array on the memory of a contiguous tensor; call it within `on`."""
    return cupy().from_dlpack(settled(t))


def tensor(a: Any) -> Tensor:
    """A tensor on the memory of a CuPy array; call it within `on`."""
    out: Tensor = torch.utils.dlpack.from_dlpack(a)
    return out


def settled(t: Tensor) -> Tensor:
    """The tensor as it is in memory: no pending conjugate or sign, contiguous, no gradient."""
    return t.detach().resolve_conj().resolve_neg().contiguous()


def traced(t: Tensor) -> bool:
    """Whether the tensor is a placeholder within a transform of torch.func, without values of its own."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(t))


def watched(t: Tensor) -> bool:
    """Whether autograd or torch.func tracks the tensor: code outside torch must then not process it."""
    if (t.requires_grad and torch.is_grad_enabled()) or traced(t):
        return True
    return forward_ad.unpack_dual(t).tangent is not None  # type: ignore[no-untyped-call]


def run(
    source: str,
    kernel: str,
    grid: int,
    block: int,
    args: Sequence[Tensor | np.generic],
    shared: int = 0,
    options: tuple[str, ...] = (),
) -> None:
    """Launch a kernel of cuda/`source`.cu on the device of its first tensor.

    Arguments are contiguous tensors, which the kernel may write, and NumPy scalars; `shared` is in bytes; `options` are
    for the compiler.
    """
    device = next(a.device for a in args if isinstance(a, Tensor))
    if any(isinstance(a, Tensor) and (a.device != device or not a.is_contiguous()) for a in args):
        raise ValueError(f"{kernel} needs contiguous tensors on one device")
    index = _index(device)
    # Addresses rather than arrays: a launch allocates nothing and takes a tenth of the time.
    given = tuple(np.uint64(a.data_ptr()) if isinstance(a, Tensor) else a for a in args)
    with _on_device(index), _stream(index):
        function = _function(source, kernel, index, options)
        if shared > SHARED:
            function.max_dynamic_shared_size_bytes = shared
        function((grid,), (block,), given, shared_mem=shared)


@contextlib.contextmanager
def _other(index: int) -> Iterator[None]:
    with torch.cuda.device(index), cupy().cuda.Device(index):
        yield


def _on_device(index: int) -> contextlib.AbstractContextManager[None]:
    """The device as a context, if it is not the current one."""
    return contextlib.nullcontext() if torch.cuda.current_device() == index else _other(index)


def shared_limit(device: torch.device) -> int:
    """Largest shared memory of a block on a device, in bytes."""
    return _shared_limit(_index(device)) if device.type == "cuda" else SHARED


@lru_cache(maxsize=64)
def _shared_limit(index: int) -> int:
    return int(cupy().cuda.Device(index).attributes.get("MaxSharedMemoryPerBlockOptin", SHARED))


@lru_cache(maxsize=256)
def _function(source: str, kernel: str, index: int, options: tuple[str, ...]) -> Any:
    return _module(source, index, options).get_function(kernel)


@lru_cache(maxsize=64)
def _module(source: str, index: int, more: tuple[str, ...]) -> Any:
    code = (_HOME / "cuda" / f"{source}.cu").read_text(encoding="utf-8")
    return cupy().RawModule(code=code, options=(*options(), *more), backend="nvrtc")


def options() -> tuple[str, ...]:
    """Compiler options for all sources in cuda/.

    CuPy caches compiled code on disk by source and options: a changed header must change an option.
    """
    return "--std=c++17", f"-I{_HOME / 'cuda'}", f"-I{_HOME / 'shared'}", f"-DRECON_HEADERS=0x{_headers()}"


@cache
def _headers() -> str:
    files = sorted(p for folder in ("cuda", "shared") for p in (_HOME / folder).glob("*.h"))
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()[:15]


def _index(device: torch.device) -> int:
    return device.index if device.index is not None else torch.cuda.current_device()


def _line(e: Exception) -> str:
    return next(iter(str(e).strip().splitlines()), type(e).__name__) or type(e).__name__
