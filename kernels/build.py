"""Selection of the compiled CPU kernels for this processor, with the reason if there are none."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from functools import cache
from types import ModuleType

#: Compiled modules, the fastest first, and the instructions that each needs.
LEVELS = {
    "_native_avx512": ("avx512f", "avx512dq", "avx512vl", "fma"),
    "_native_avx2": ("avx2", "fma"),
    "_native": (),
}


@dataclass(frozen=True)
class Found:
    """The module in use, or None, and a sentence on it for `recon doctor`."""

    module: ModuleType | None
    why: str


def _single_thread() -> None:
    """Use one thread in a forked process: OpenMP's threads do not survive a fork; it would wait for them forever."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


# A pool of Python's multiprocessing forks on Linux, up to Python 3.13.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_single_thread)


@cache
def found() -> Found:
    """The fastest compiled kernels that run here; RECON_KERNELS=torch uses none, another value names a module."""
    # The kernels share torch's OpenMP threads if torch is loaded first: two pools would block each other.
    import torch  # noqa: F401

    wanted = os.environ.get("RECON_KERNELS", "")
    if wanted == "torch":
        return Found(None, "switched off by RECON_KERNELS=torch; torch does the work")
    flags = _processor_flags()
    usable = [name for name, needs in LEVELS.items() if flags.issuperset(needs)]
    if wanted and wanted not in usable:
        return Found(
            None, f"not in use: RECON_KERNELS={wanted} is none of {', '.join(usable)}, which run here, and torch"
        )
    reasons = []
    for name in [wanted] if wanted else usable:
        try:
            return Found(importlib.import_module(f"recon.kernels.{name}"), f"{name.lstrip('_')}, compiled C++")
        except ImportError as e:
            reasons.append(str(e))
    missing = all("No module named" in r for r in reasons)
    why = "were not compiled when recon was installed" if missing else f"do not load ({reasons[-1]})"
    return Found(None, f"not in use: they {why}; torch does the work until g++ is there and the installation repeated")


def native() -> ModuleType | None:
    """The compiled module in use, or None."""
    return found().module


def _processor_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return next((set(line.split()) for line in f if line.startswith(("flags", "Features"))), set())
    except OSError:  # not Linux: the module for any processor
        return set()
