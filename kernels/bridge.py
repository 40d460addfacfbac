"""The way to CUDA through CuPy: the one file that knows it.

Tensors and CuPy's arrays share memory (DLPack), kernels run on torch's device and current stream, and CuPy takes what
it needs from torch's pool. A kernel is used once it has proven itself against its torch twin on this device; else the
twin serves, and `recon doctor` says why.
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

#: Shared memory in bytes that a block gets on every device without asking for more.
SHARED = 48 << 10

#: Largest difference of a kernel from the answer in double precision, relative to its largest value.
TOLERANCE = 1e-5

#: What each kernel's proof said on each device, empty where it held: (kernel, device index) → sentence.
_verdicts: dict[tuple[str, int], str] = {}
_lock = threading.RLock()


def missing() -> str:
    """Why no CUDA kernel can run here, with its cure; empty where they can."""
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
    except Exception as e:  # it raises more than ImportError where drivers and libraries do not fit
        return None, f"CuPy does not load ({_line(e)}), torch does the work: pip install {package}, by the driver"


def same(name: str, got: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Raise ValueError where what a kernel gave is further from the expected than `tolerance` of its largest value."""
    wrong = float((got.cpu() - expected).abs().max() / expected.abs().max())
    if not wrong <= tolerance:  # not a number is wrong too
        raise ValueError(f"{name} is off by {wrong:.1e} where {tolerance:.0e} is allowed")


def proven(name: str, device: torch.device, check: Callable[[torch.device], None]) -> bool:
    """Whether the kernel `name` gave the right answer on this device, asked once for each process and device.

    `check` runs it on a small random problem and raises where it differs from its torch twin.
    """
    if not _verdicts and missing():
        return False
    key = (name, _index(device))
    if key in _verdicts:  # the way of every launch: nothing is asked of the driver
        return _verdicts[key] == "" and os.environ.get("RECON_KERNELS") != "torch"
    if missing():
        return False
    if torch.cuda.is_current_stream_capturing():
        return False  # a proof allocates and waits, which a graph cannot hold
    with _lock:
        if key not in _verdicts:
            _verdicts[key] = _trial(check, torch.device("cuda", key[1]))
    return _verdicts[key] == ""


def verdicts() -> dict[tuple[str, int], str]:
    """What the proofs that were asked for said: empty where the kernel is in use."""
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
    """CuPy on a device, torch's current stream there, and memory from torch's pool."""
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
    """A stream that torch owns, as CUDA's stream protocol shows it; it is on the device that is current."""

    pointer: int

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.pointer


def stream(device: torch.device) -> int:
    """What tells torch's current stream on a device from others there; 0 on the CPU."""
    return int(torch.cuda.current_stream(device).cuda_stream) if device.type == "cuda" else 0


@cache
def _allocator() -> Any:
    def take(size: int, index: int) -> int:
        return int(torch.cuda.caching_allocator_alloc(size, index))

    def give(pointer: int, index: int) -> None:
        torch.cuda.caching_allocator_delete(pointer)  # type: ignore[no-untyped-call]

    return cupy().cuda.PythonFunctionAllocator(take, give)


def cupy() -> Any:
    """CuPy itself, where `missing` says nothing."""
    return _import()[0]


def array(t: Tensor) -> Any:
    """A CuPy array on the memory of a contiguous tensor; call it within `on`."""
    return cupy().from_dlpack(settled(t))


def tensor(a: Any) -> Tensor:
    """A tensor on the memory of a CuPy array; call it within `on`."""
    out: Tensor = torch.utils.dlpack.from_dlpack(a)
    return out


def settled(t: Tensor) -> Tensor:
    """The tensor as memory holds it: no pending conjugate or sign, contiguous, no gradient."""
    return t.detach().resolve_conj().resolve_neg().contiguous()


def traced(t: Tensor) -> bool:
    """Whether the tensor stands for others within a transform of torch.func, and has no values of its own."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(t))


def watched(t: Tensor) -> bool:
    """Whether autograd or torch.func follows the tensor: what works past torch must leave it to torch."""
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
    # Addresses, not arrays: a launch allocates nothing and takes a tenth of the time.
    given = tuple(np.uint64(a.data_ptr()) if isinstance(a, Tensor) else a for a in args)
    with _there(index), _stream(index):
        function = _function(source, kernel, index, options)
        if shared > SHARED:
            function.max_dynamic_shared_size_bytes = shared
        function((grid,), (block,), given, shared_mem=shared)


@contextlib.contextmanager
def _other(index: int) -> Iterator[None]:
    with torch.cuda.device(index), cupy().cuda.Device(index):
        yield


def _there(index: int) -> contextlib.AbstractContextManager[None]:
    """The device, entered where it is not the current one."""
    return contextlib.nullcontext() if torch.cuda.current_device() == index else _other(index)


def shared_limit(device: torch.device) -> int:
    """Shared memory in bytes that a block may have on a device."""
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
    """What every source in cuda/ is compiled with.

    CuPy keeps compiled code on disk by source and options: a changed header must change an option.
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
