"""recon: raw MRI data in, images out that say how far they can be trusted.

import recon

image = recon.reconstruct(recon.read("scan.h5"))
recon.write(image, ["brain.nii.gz", "brain_dicom/"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "read": "recon.io.read",
    "reconstruct": "recon.pipeline",
    "stacks": "recon.pipeline",
    "write": "recon.io.write",
    "Recipe": "recon.recipe",
    "Image": "recon.data",
    "RawScan": "recon.data",
    "ReconError": "recon.data",
}

__all__ = ["Image", "RawScan", "Recipe", "ReconError", "read", "reconstruct", "stacks", "write"]

if TYPE_CHECKING:
    from recon.data import Image, RawScan, ReconError
    from recon.io.read import read
    from recon.io.write import write
    from recon.pipeline import reconstruct, stacks
    from recon.recipe import Recipe


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import recon` costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'recon' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
