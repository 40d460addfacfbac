"""The arguments of the command line: recipes, scans, sizes and the names of outputs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from recon.errors import ReconError

if TYPE_CHECKING:
    from recon.pipeline import Scan as AnyScan
    from recon.recipe import Recipe

# Arguments and options shared by several verbs.
Scan = Annotated[
    Path,
    typer.Argument(
        help="ISMRMRD or fastMRI .h5, BART .cfl, .npy/.npz, Siemens .dat; CT: DICOM, NIfTI",
        metavar="SCAN",
        readable=False,
    ),
]
Axes = Annotated[str, typer.Option(help="Axes of a bare array, for instance coil,y,x")]
Voxel = Annotated[str, typer.Option(help="Voxel size of a bare array in mm, x,y,z, for instance 0.9,0.9,5")]
Key = Annotated[str, typer.Option(help="Array to take from an .npz, or data set of an ISMRMRD file")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 takes all", min=0, max=1024)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it exists.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]

#: Trajectories with a name.
STANDARD = ("radial", "golden")


def recipe_of(file: Path | None, method: str, trajectory: str) -> Recipe:
    """The recipe in `file` or the default one, with the changes of the command line."""
    from dataclasses import replace

    from recon import recipe as recipes
    from recon.io.cfl import is_pair

    plan = recipes.load(file) if file else recipes.Recipe()
    known = get_args(recipes.Method)
    if method and method not in known:
        raise ReconError(f"--method takes {', '.join(known)}, not {method!r}")
    if method:
        plan = recipes.with_method(plan, method)  # type: ignore[arg-type]
    if trajectory in STANDARD:
        plan = replace(plan, prepare=replace(plan.prepare, trajectory=trajectory))  # type: ignore[arg-type]
    elif trajectory and not (Path(trajectory).is_file() or is_pair(Path(trajectory))):
        raise ReconError(f"--trajectory takes radial, golden, a .npy or a .cfl, and there is no file {trajectory}")
    return plan


def learned(plan: Recipe, weights: str, denoise: float | None) -> Recipe:
    """The recipe with other weights or another denoising, if they were given."""
    from dataclasses import replace

    given: dict[str, Any] = {"weights": weights} if weights else {}
    given |= {} if denoise is None else {"denoise": denoise}
    if plan.solve.method == "auto" and Path(weights).suffix in (".pt", ".pth", ".ckpt"):
        given["method"] = "varnet"
    return replace(plan, solve=replace(plan.solve, **given))


def read_scan(
    scan: Path, axes: str, voxel: tuple[float, float, float] | None, key: str, trajectory: str = ""
) -> AnyScan:
    """The scan in a file, recognised by its content; axes, voxel size and key are for bare arrays.

    With a trajectory, the axes of a BART pair are those of non-Cartesian samples, unless they are named.
    """
    from recon.io import cfl
    from recon.io.read import read

    names: str | tuple[str, ...] | None = axes or None
    if trajectory and not names and cfl.is_pair(scan):
        names = cfl.off_grid_axes(scan)
    return read(scan, axes=names, voxel=voxel, key=key or None)


def placed(raw: AnyScan, trajectory: str) -> AnyScan:
    """The scan with k-space positions by name or from a file, if the command line gives them."""
    from recon.io import positions

    if not trajectory:
        return raw
    from recon.data import RawScan

    if not isinstance(raw, RawScan):
        raise ReconError(f"--trajectory places lines of an MRI scan, and {raw.source} has none; leave it out")
    if trajectory in STANDARD:
        return positions.with_standard(raw, trajectory)  # type: ignore[arg-type]
    return positions.with_positions(raw, positions.load(trajectory))


def three(text: str) -> tuple[float, float, float] | None:
    """Lengths x, y, z in mm from a text such as 0.9,0.9,5; None for an empty one."""
    if not text:
        return None
    try:
        x, y, z = (float(v) for v in text.split(","))
    except ValueError:
        x = y = z = math.nan
    if not all(0 < v < math.inf for v in (x, y, z)):
        raise typer.BadParameter(f"--voxel takes three lengths x,y,z in mm, each above 0, not {text!r}")
    return x, y, z


def amount(text: str) -> int | None:
    """Bytes from a text such as 4GiB or 500M; None for an empty one."""
    if not text:
        return None
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?([kmgt]?)i?b?", text.strip().lower(), re.ASCII)
    if found is None:
        raise typer.BadParameter(f"--memory takes a size such as 4GiB or 500M, not {text!r}")
    if not found[2] and float(found[1]) < 2**20:
        raise typer.BadParameter(f"--memory {text} counts bytes; give a size with its unit, such as 4GiB or 500M")
    return int(float(found[1]) * 2 ** (10 * " kmgt".index(found[2] or " ")))


def check_outputs(names: Sequence[str], inputs: Sequence[str | Path], records: Sequence[str] = ()) -> None:
    """Raise a usage error for impossible output names, ReconError for outputs that cannot be written."""
    from recon.io import write as writing

    with usage():
        writing.check_names(names, inputs=inputs, records=records)
    writing.check_places(names, records=records)


def numbered(name: str, n: int) -> str:
    """The name of an output for stack n: a.nii.gz → a_stack-2.nii.gz, dicom/ → dicom_stack-2/."""
    from recon.io.write import SUFFIXES, kind

    if kind(name) == "dicom folder":
        return f"{name.rstrip('/' + os.sep)}_stack-{n}/"
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len)
    return f"{name[: -len(suffix)]}_stack-{n}{name[-len(suffix) :]}"


def use_threads(count: int) -> None:
    """Use this many threads in torch and in the kernels; 0 keeps the default."""
    if count:
        import torch

        torch.set_num_threads(count)


@contextmanager
def usage() -> Iterator[None]:
    """Errors inside are errors in the arguments, whatever the scan."""
    try:
        yield
    except ReconError as e:
        raise typer.BadParameter(str(e)) from e
