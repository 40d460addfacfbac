"""The End-to-End VarNet on one slice in fastMRI's size and layout, with the same random weights for all.

The error is the difference from the same network in double precision; tests compare that with fastMRI's in double.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import phantom
from arrays import tensor
from case import Array, Case, Data, Settings

from cases import cartesian

SIZES: dict[str, Settings] = {
    "15x640x368": {"coils": 15, "shape": (1, 640, 368), "cascades": 12, "channels": 18, "sens_channels": 8},
    "8x256x256": {"coils": 8, "shape": (1, 256, 256), "cascades": 3, "channels": 18, "sens_channels": 8},
}
WEIGHTS = "weights.pt"


def data(settings: Settings, folder: Path) -> tuple[Data, Settings]:
    """K-space (1, coil, row, column), a mask of columns, R = 4 with 8 % ACS, and the image in double precision."""
    shape = tuple(settings["shape"])
    image, maps = phantom.stack(1, settings["coils"], shape)
    columns = np.arange(shape[-1]) % 4 == 0
    acs = round(0.04 * shape[-1])
    columns[shape[-1] // 2 - acs : shape[-1] // 2 + acs] = True
    made = {"kspace": phantom.kspace(image, maps)[:, :, 0] * columns, "mask": columns}
    np.savez(folder / "made.npz", **made)
    # In a separate process: a worker's peak memory cannot be measured below that of a large parent.
    sizes = [str(settings[k]) for k in ("cascades", "channels", "sens_channels")]
    command = [sys.executable, "-m", "cases.e2e_varnet", str(folder), *sizes]
    subprocess.run(command, cwd=Path(__file__).resolve().parent.parent, check=True)
    return made | {"truth": np.load(folder / "truth.npy")}, settings


def prepare(folder: Path, cascades: int, channels: int, sens_channels: int) -> None:
    """Write random weights, and their image in double precision."""
    import torch

    from recon.nets.e2e_varnet import Shape, VarNet

    torch.manual_seed(0)
    network = VarNet(Shape(cascades, channels, sens_channels=sens_channels)).eval()
    torch.save(network.state_dict(), folder / WEIGHTS)
    made = np.load(folder / "made.npz")
    y, mask = torch.from_numpy(made["kspace"]).to(torch.complex128), torch.from_numpy(made["mask"])[None, None, None]
    with torch.no_grad():
        np.save(folder / "truth.npy", network.double()(y, mask).numpy())


def ours(data: Data, settings: Settings) -> Callable[[], Array]:
    import torch

    from recon.nets import checkpoint, precision

    network = checkpoint.load(Path(settings["folder"]) / WEIGHTS, settings.get("device", "cpu")).network
    y, mask = tensor(data["kspace"]), tensor(data["mask"])[None, None, None]

    def run() -> Array:
        with torch.no_grad(), precision.full():
            return network(y, mask)

    return run


def error(data: Data, settings: Settings, result: Array, witness: Array | None) -> float:
    return cartesian.relative(result, data["truth"])


CASES = (
    Case(
        name="e2e_varnet",
        task="e2e_varnet",
        module="cases.e2e_varnet",
        sizes=SIZES,
        quick=("8x256x256",),
        target=1.5,
        peers=("fastmri",),
        data=data,
        error=error,
        measure="relative difference from the same network in double precision",
        # Twelve cascades of random weights amplify single-precision rounding, in every implementation, to 1e-4.
        floor=1e-3,
    ),
)

if __name__ == "__main__":
    prepare(Path(sys.argv[1]), *map(int, sys.argv[2:]))
