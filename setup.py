"""What pyproject.toml cannot say: the CPU kernels in C++, compiled once for each level of vector instructions.

Without a compiler the package still installs; torch is then used, and `recon doctor` says so.
"""

import platform
from pathlib import Path

from setuptools import Extension, setup


def extensions() -> list[Extension]:
    """One module per level of vector instructions; kernels/build.py selects among them at import."""
    try:
        import pybind11
    except ModuleNotFoundError:
        return []
    levels = {"_native": []}
    if platform.machine() in ("x86_64", "AMD64"):
        levels["_native_avx2"] = ["-mavx2", "-mfma"]
        levels["_native_avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"]
    return [
        Extension(
            f"recon.kernels.{name}",
            ["kernels/cpu/module.cpp"],
            depends=sorted(str(p) for folder in ("cpu", "shared") for p in Path("kernels", folder).glob("*.h")),
            include_dirs=[pybind11.get_include()],
            define_macros=[("RECON_MODULE", name)],
            # -fno-math-errno and no more: results must not depend on how a compiler reorders sums.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                "-fno-math-errno",
                "-fopenmp",
                "-fvisibility=hidden",
                *flags,
            ],
            extra_link_args=["-fopenmp"],
            language="c++",
            optional=True,
        )
        for name, flags in levels.items()
    ]


setup(ext_modules=extensions())
