"""What this machine offers: versions, processor, GPU, optional packages, and how to install what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
from dataclasses import asdict, dataclass, field

from recon import __version__

#: Required packages.
NEEDED = ("numpy", "scipy", "torch", "h5py", "nibabel", "pydicom")
#: Optional packages: what each is for, and how to install it.
OPTIONAL = {
    "cupy": ("CUDA kernels", "cupy-cuda12x or cupy-cuda13x, whichever fits the driver"),
    "finufft": ("radial, spiral and other non-Cartesian scans", "finufft"),
    "twixtools": ("Siemens .dat files", "twixtools"),
    "pynetdicom": ("recon send", "pynetdicom"),
    "dicom-anonymizer": ("recon send --deidentify", "dicom-anonymizer"),
    "cryptography": ("expiry dates of recon serve's certificates", "cryptography"),
    "tensorboard": ("training curves of recon train", "tensorboard"),
    "python-gdcm": ("compressed CT files", "python-gdcm"),
}


@dataclass(frozen=True)
class Machine:
    """The result of `examine`; `missing` holds a sentence with the cure for each missing part."""

    recon: str
    python: str
    system: str
    processor: str
    cores: int
    memory_GiB: float
    threads: int
    gpu: list[str]
    kernels: str
    cuda_kernels: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def examine() -> Machine:
    """Examine the machine; imports torch, and runs the proof of every CUDA kernel if there is a GPU."""
    import psutil
    import torch

    from recon.kernels import build, proofs

    packages, missing = {}, []
    for name in (*NEEDED, *OPTIONAL):
        version = _version(name)
        if version:
            packages[name] = version
        else:
            purpose, wanted = OPTIONAL.get(name, ("needed", name))
            missing.append(f"{name}: {purpose}; pip install {wanted}")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_name(i) for i in range(found)]
    kernels = build.found()
    if kernels.module is None:
        missing.append(f"CPU kernels: {kernels.why}")
    if not gpus:
        missing.append("GPU: none that torch finds; everything runs on the CPU")
    cuda = proofs.report() if gpus and "cupy" in packages else []
    missing += [line for line in cuda if not line.endswith(proofs.GOOD)]
    return Machine(
        recon=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_GiB=round(psutil.virtual_memory().total / 2**30, 1),
        threads=torch.get_num_threads(),
        gpu=gpus,
        kernels=kernels.why,
        cuda_kernels=[line for line in cuda if line.endswith(proofs.GOOD)],
        packages=packages,
        missing=missing,
    )


def text(machine: Machine) -> str:
    """The result as text."""
    lines = [
        f"recon       {machine.recon} on Python {machine.python}, {machine.system}",
        f"processor   {machine.processor}, {machine.cores} cores, {machine.threads} threads, {machine.memory_GiB} GiB",
        f"GPU         {', '.join(machine.gpu) or 'none'}",
        f"kernels     {machine.kernels}",
        *(f"            {line}" for line in machine.cuda_kernels),
        "packages    " + ", ".join(f"{n} {v}" for n, v in machine.packages.items()),
    ]
    return "\n".join(lines + [f"missing     {m}" for m in machine.missing])


def as_json(machine: Machine) -> str:
    """The result as JSON."""
    return json.dumps(asdict(machine), indent=2)


def _version(name: str) -> str:
    """Version of an installed package without importing it; CuPy has one distribution per CUDA version."""
    names = (name, "cupy-cuda12x", "cupy-cuda13x") if name == "cupy" else (name,)
    for distribution in names:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "present" if importlib.util.find_spec(name) else ""


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
