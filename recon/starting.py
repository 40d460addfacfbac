"""A quicker start of heavy imports."""

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

#: What torch imports for compilers, exporters and tensors without data: a fourth of the time of its import, and no
#: reconstruction asks for it.
LATER = ("torch._meta_registrations", "torch.export")

#: Versions of torch that were seen to reconstruct without them; any other is imported as ever.
KNOWN = ("2.13.",)

#: Set in a process whose torch is imported as ever, since it did not start without those parts.
PLAIN = "RECON_PLAIN_START"


def same_bits() -> None:
    """Ask MKL for the same bits on any number of threads, before its first call; whoever sets MKL_CBWR is obeyed.

    On Intel's processors alone, where its products depend on their threads; on others the mode is a slower one.
    """
    with suppress(OSError), open("/proc/cpuinfo", "rb") as file:
        if b"GenuineIntel" in file.read(256):  # of the first processor: a page of all of them takes long to make
            os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def submodules(package: str) -> Callable[[str], Any]:
    """A `__getattr__` for a package whose modules are imported when they are first named, as `recon.io.arrays` is."""

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
    """What is imported within stays to the end of the process, and no search for garbage goes through it.

    Importing torch makes some 160,000 objects that are never garbage: Python would go through all of them again and
    again while they grow in number, a twelfth of the time of the import, and once more in every run that follows.
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
    """Let the next import of torch leave out the modules LATER until something asks them for anything.

    For a process of its own alone, such as a command: should torch not start like this, which the versions KNOWN do,
    the process is started anew with nothing left out. Before another module of torch is imported later on, a compiler's
    for instance, they are completed, and so they are by `complete`, without which tensors on torch's device "meta" lack
    some of their functions. Does nothing where torch is imported already, and where a process cannot be replaced.
    """
    able = os.name == "posix" and bool(sys.executable) and PLAIN not in os.environ
    if able and "torch" not in sys.modules:
        sys.meta_path.insert(0, _FINDER)


def complete() -> None:
    """Load what was left out of torch; does nothing where nothing was."""
    if _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)
    for name in LATER:
        late = getattr(sys.modules.get(name), "__dict__", {}).get("__getattr__")
        if isinstance(late, _Late):
            late.load()


class _Late:
    """A module's `__getattr__` that runs the module's own code when it is first asked for a name."""

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
        # What walks through all modules asks each for such names as __wrapped__, and wants nothing of it.
        if not (name.startswith("__") and name.endswith("__")):
            self.load()
            if name in self.module.__dict__:
                return self.module.__dict__[name]
        raise AttributeError(f"module {self.module.__name__!r} has no attribute {name!r}")


class _Loader:
    """A loader that runs one of the modules LATER when it is first used, and torch itself with a way back."""

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
    """Do the one thing of LATER that numbers depend on: it names the type of the class of random generators."""
    if hasattr(torch._C, "_set_generator_metaclass"):
        torch._C._set_generator_metaclass(torch._opaque_base.OpaqueBaseMeta)
    torch.Generator().manual_seed(0)


class _Finder:
    """Finds torch and, while it is imported, the modules LATER before Python's own finders do.

    Once torch is there, whatever else of it is imported finds it complete.
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
    """Whether the torch that was found is of a version KNOWN, by the line of its file that says so."""
    try:
        text = Path(spec.origin or "").with_name("version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    found = re.search(r"^__version__ = '(.*)'$", text, re.MULTILINE)
    return found is not None and found[1].startswith(KNOWN)


_FINDER = _Finder()
