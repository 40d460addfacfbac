"""recon: raw MRI data in, images out that say how far they can be trusted.

    import recon

    image = recon.reconstruct(recon.read("scan.h5"))  # ISMRMRD, fastMRI, BART .cfl, Siemens .dat, NumPy
    recon.write(image, ["brain.nii.gz", "brain_dicom/"])

Other settings are a recipe, `recon.recipe.parse({"solve": {"method": "cs"}})`. For a method of your own,
`recon.reconstruct(scan, solver=...)` calls it with the measurements of a scan, y = A x + n; or use
`recon.measurements(scan)` with the operators of `recon.operators` and the solvers of `recon.solve`. Sampling masks are
in `recon.masks`, simulated scans with known truth in `recon.simulation`, networks in `recon.nets`, their training in
`recon.learn`, and error measures in `recon.metrics`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recon.starting import same_bits

__version__ = "0.1.0"

_PUBLIC = {
    "read": "recon.io.read",
    "reconstruct": "recon.pipeline",
    "measurements": "recon.pipeline",
    "stacks": "recon.pipeline",
    "write": "recon.io.write",
    "Recipe": "recon.recipe",
    "Image": "recon.data",
    "RawScan": "recon.data",
    "ReconError": "recon.data",
}

#: Parts that `import recon` makes available: `recon.operators.Sense`, `recon.io.arrays.scan_from_array`.
_PARTS = frozenset(
    {
        *("accuracy", "data", "geometry", "io", "learn", "masks", "metrics", "nets", "operators", "prepare", "recipe"),
        *("simulation", "solve", "trust"),
    }
)

same_bits()

__all__ = ["Image", "RawScan", "Recipe", "ReconError", "measurements", "read", "reconstruct", "stacks", "write"]

if TYPE_CHECKING:
    from recon import accuracy as accuracy
    from recon import data as data
    from recon import geometry as geometry
    from recon import io as io
    from recon import learn as learn
    from recon import masks as masks
    from recon import metrics as metrics
    from recon import nets as nets
    from recon import operators as operators
    from recon import prepare as prepare
    from recon import recipe as recipe
    from recon import simulation as simulation
    from recon import solve as solve
    from recon import trust as trust
    from recon.data import Image, RawScan, ReconError
    from recon.io.read import read
    from recon.io.write import write
    from recon.pipeline import measurements, reconstruct, stacks
    from recon.recipe import Recipe


def __getattr__(name: str) -> Any:
    """Import a public name or a part when it is first used, so that `import recon` is fast."""
    if name in _PARTS:
        return import_module(f"recon.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'recon' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    """Names for completion at a prompt: public names and parts."""
    return sorted({name for name in globals() if name.startswith("__")} | {*_PUBLIC, *_PARTS})
