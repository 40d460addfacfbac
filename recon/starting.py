"""Faster start of large imports."""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

#: Modules of torch for compilers, exporters and tensors without data: a quarter of the time of its import, and not
#: needed by any reconstruction.
LATER = ("torch._meta_registrations", "torch.export")

#: Versions of torch that were tested without them; others are imported as usual.
KNOWN = ("2.13.",)

#: Set in a process whose torch is imported as usual, because it did not start without those parts.
PLAIN = "RECON_PLAIN_START"


def same_bits() -> None:
    """Ask MKL for identical bits on any number of threads, before its first call; a user's MKL_CBWR is kept.

    Only on Intel processors, where its products depend on the number of threads; on others the mode is slower.
    """
    with suppress(OSError), open("/proc/cpuinfo", "rb") as file:
        if b"GenuineIntel" in file.read(
            256
        ):  # only the first processor: the file of all of them takes long to generate
            os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def submodules(package: str) -> Callable[[str], Any]:
    """A `__getattr__` for a package whose modules are imported on first use, such as `recon.io.arrays`."""

    def named(name: str) -> Any:
        module = f"{package}.{name}"
        if not name.startswith("_"):
            try:
                return import_module(module)
            except ModuleNotFoundError as e:
                if e.name != module:
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return named


@contextmanager
def staying() -> Iterator[None]:
    """Everything imported inside stays until the end of the process and is excluded from garbage collection.

    Importing torch creates some 160,000 objects that are never garbage. Python would scan all of them repeatedly while
    they are created, a twelfth of the time of the import, and again in every run that follows.
    """
    usual = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if usual:
            gc.enable()


def defer() -> None:
    """Let the next import of torch skip the modules LATER until something uses them.

    Only for a process of its own, such as a command. If torch does not start like this (the versions KNOWN do), the
    process is restarted with everything. Before another module of torch is imported later, for instance a compiler's,
    they are loaded completely. `complete` does the same; without it, tensors on torch's device "meta" lack some
    functions. Does nothing if torch is already imported, or if a process cannot be restarted.
    """
    able = os.name == "posix" and bool(sys.executable) and PLAIN not in os.environ
    if able and "torch" not in sys.modules:
        sys.meta_path.insert(0, _FINDER)


def torch_version() -> str:
    """`torch.__version__`, where possible without the second or two that an import of torch takes."""
    spec = None if "torch" in sys.modules else PathFinder.find_spec("torch")
    return (_version(spec) if spec else "") or str(import_module("torch").__version__)


def complete() -> None:
    """Load what was skipped of torch; does nothing if nothing was."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    for name in LATER:
        late = getattr(sys.modules.get(name), "__dict__", {}).get("__getattr__")
        if isinstance(late, _Late):
            late.load()


class _Late:
    """A module's `__getattr__` that runs the module's own code when a name is first requested."""

    def __init__(self, module: ModuleType, loader: Any) -> None:
        self.module, self.loader, self.begun, self.lock = module, loader, False, RLock()

    def load(self) -> None:
        with self.lock:
            if not self.begun:
                self.begun = True
                self.loader.exec_module(self.module)
                if self.module.__dict__.get("__getattr__") is self:
                    del self.module.__dict__["__getattr__"]

    def __call__(self, name: str) -> Any:
        # Tools that scan all modules ask each for names such as __wrapped__ and need nothing from it.
        if not (name.startswith("__") and name.endswith("__")):
            self.load()
            if name in self.module.__dict__:
                return self.module.__dict__[name]
        raise AttributeError(f"module {self.module.__name__!r} has no attribute {name!r}")


class _Loader:
    """A loader that runs one of the modules LATER on first use, and torch itself with a fallback."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self.loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.loader
        if module.__spec__:
            module.__spec__.loader = self.loader
        if module.__name__ != "torch":
            module.__dict__["__getattr__"] = _Late(module, self.loader)
            return
        _FINDER.state = "importing"
        try:
            self.loader.exec_module(module)
            _let_generators_be_made(module)
        except Exception:
            os.environ[PLAIN] = "1"
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        _FINDER.state = "imported"


def _let_generators_be_made(torch: Any) -> None:
    """Do the one thing of LATER that affects numbers: it names the type of the class of random generators."""
    if hasattr(torch._C, "_set_generator_metaclass"):
        torch._C._set_generator_metaclass(torch._opaque_base.OpaqueBaseMeta)
    torch.Generator().manual_seed(0)


class _Finder:
    """Finds torch and, while it is imported, the modules LATER before Python's own finders do.

    Once torch is imported, all other imports of its modules find it complete.
    """

    state = "waiting"

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if self.state == "imported" and name.startswith("torch."):
            complete()
        elif (self.state == "waiting" and name == "torch") or (self.state == "importing" and name in LATER):
            spec = PathFinder.find_spec(name, path)
            if spec is not None and spec.loader is not None and (name != "torch" or _known(spec)):
                spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
            return spec
        return None


def _known(spec: ModuleSpec) -> bool:
    """Whether the installed torch is of a version KNOWN."""
    return _version(spec).startswith(KNOWN)


def _version(spec: ModuleSpec) -> str:
    """The version of the installed torch by the line of its file that states it; empty where that says nothing."""
    try:
        text = Path(spec.origin or "").with_name("version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    found = re.search(r"^__version__ = '(.*)'$", text, re.MULTILINE)
    return found[1] if found else ""


_FINDER = _Finder()
