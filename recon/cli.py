"""The verbs of the command line. Nothing heavy is imported before a verb needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recon import __version__
from recon.data import ReconError

app = typer.Typer(
    name="recon",
    help="MRI reconstruction: raw scans in, DICOM and NIfTI out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Scan = Annotated[
    Path, typer.Argument(help="ISMRMRD or fastMRI .h5, BART .cfl, .npy/.npz, Siemens .dat", metavar="SCAN")
]
Axes = Annotated[str, typer.Option(help="Axes of a bare array, for instance coil,y,x")]
Voxel = Annotated[str, typer.Option(help="Voxel size of a bare array in mm, x,y,z, for instance 0.9,0.9,5")]
Key = Annotated[str, typer.Option(help="Array to take from an .npz, or data set of an ISMRMRD file")]
Trajectory = Annotated[Path | None, typer.Option(help=".npy with k-space positions, for a scan that lacks them")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace the file if it exists.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"recon {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """MRI reconstruction: raw scans in, DICOM and NIfTI out."""


@app.command()
def run(
    scan: Scan,
    output: Annotated[
        list[Path], typer.Option("-o", "--output", help="folder/ (DICOM), .nii.gz, .png, .h5; repeat it")
    ],
    method: Annotated[str, typer.Option(help="auto, combine, grappa, sense, cs or tv")] = "",
    recipe: Annotated[Path | None, typer.Option(help="TOML file; `recon recipe` prints one")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    memory: Annotated[str, typer.Option(help="Upper limit such as 4GiB; default: what is free")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads; 0 takes all", min=0)] = 0,
    stack: Annotated[int, typer.Option(help="Only this group of parallel slices, from 1; 0 takes all", min=0)] = 0,
    axes: Axes = "",
    voxel: Voxel = "",
    key: Key = "",
    trajectory: Trajectory = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Reconstruct a raw scan and write images."""
    from recon import recipe as recipes
    from recon.io import write as writing

    plan = recipes.load(recipe) if recipe else recipes.Recipe()
    if method:
        plan = recipes.parse(
            {"name": plan.name, **_sections(plan), "solve": {**_sections(plan)["solve"], "method": method}}
        )
    writing.check_paths(output, inputs=[scan])
    raw = _read(scan, axes, voxel, key, trajectory)
    from recon import pipeline

    _set_threads(threads)
    stacks = pipeline.stacks(raw)
    chosen = list(range(len(stacks))) if stack == 0 else [stack - 1]
    with _progress(quiet) as report:
        for n in chosen:
            image = pipeline.reconstruct(raw, plan, device=device, memory=_bytes(memory), stack=n, progress=report)
            names = output if len(chosen) == 1 else [_numbered(p, n + 1) for p in output]
            written = writing.write(
                image,
                names,
                parts=plan.output.parts,
                complex_=plan.output.complex,
                series_number=plan.output.series_number + n,
                derived=plan.output.derived,
            )
            if not quiet:
                for note in image.notes:
                    typer.echo(f"  {note}")
                for path in written:
                    typer.echo(f"wrote {path}")


@app.command()
def info(scan: Scan, axes: Axes = "", voxel: Voxel = "", key: Key = "", json: Json = False) -> None:
    """Say what a scan file holds, what will be ignored, and which rule it breaks."""
    from recon import info as doctor

    report = doctor.describe(_read(scan, axes, voxel, key, None))
    typer.echo(doctor.as_json(report) if json else doctor.text(report))


@app.command()
def simulate(
    output: Annotated[Path, typer.Option("-o", "--output", help="ISMRMRD file to write")],
    accel: Annotated[int, typer.Option(help="Acceleration factor", min=1, max=16)] = 1,
    coils: Annotated[int, typer.Option(help="Receive channels", min=1, max=128)] = 8,
    matrix: Annotated[int, typer.Option(help="Image matrix, N×N", min=16, max=1024)] = 256,
    slices: Annotated[int, typer.Option(help="Slices, or partitions with --volume", min=1, max=512)] = 1,
    volume: Annotated[bool, typer.Option("--volume", help="A 3D scan with two phase-encoded axes.")] = False,
    trajectory: Annotated[str, typer.Option(help="cartesian, epi, radial or spiral")] = "cartesian",
    noise: Annotated[float, typer.Option(help="Noise, relative to the mean signal of the head", min=0)] = 0.02,
    seed: Annotated[int, typer.Option(help="Seed of noise and masks")] = 0,
    force: Force = False,
) -> None:
    """Write a raw scan of an analytic head phantom, with everything that a real one has."""
    from recon import simulate as simulation

    if output.exists() and not force:
        raise ReconError(f"{output} exists; give another name, or --force to replace it")
    settings = simulation.preset(
        accel=accel,
        coils=coils,
        matrix=matrix,
        slices=slices,
        volume=volume,
        trajectory=trajectory,
        noise=noise,
        seed=seed,
    )
    simulation.simulate_to(output, settings)
    typer.echo(f"wrote {output}")


@app.command()
def recipe(
    file: Annotated[
        Path | None, typer.Argument(help="Recipe to complete with its defaults", metavar="[RECIPE]")
    ] = None,
) -> None:
    """Print a recipe with every key, to start from."""
    from recon import recipe as recipes

    typer.echo(recipes.to_toml(recipes.load(file) if file else recipes.Recipe()), nl=False)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, what is missing and how to get it."""
    from recon import doctor as machine

    report = machine.examine()
    typer.echo(machine.as_json(report) if json else machine.text(report))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit 0 on success, 1 on a failed reconstruction, 2 on wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given or bool(os.environ.get("RECON_DEBUG"))
    given = [a for a in given if a != "--debug"]
    try:
        app(args=given, prog_name="recon", standalone_mode=True)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)
    except ReconError as e:
        if debug:
            raise
        typer.echo(f"recon: {e}", err=True)
        sys.exit(1)
    except MemoryError:
        if debug:
            raise
        typer.echo(
            "recon: the machine ran out of memory; give a lower limit with --memory, or fewer --threads", err=True
        )
        sys.exit(1)
    except Exception as e:
        if debug:
            raise
        # The type alone: the text of an unforeseen error could hold something of the file.
        typer.echo(f"recon: an error that was not foreseen ({type(e).__name__}); --debug shows where", err=True)
        sys.exit(1)


def _read(scan: Path, axes: str, voxel: str, key: str, trajectory: Path | None) -> Any:
    from recon.io.read import read

    return read(
        scan,
        axes=tuple(a.strip() for a in axes.split(",")) if axes else None,
        voxel=_three(voxel) if voxel else None,
        key=key or None,
    )


def _three(text: str) -> tuple[float, float, float]:
    try:
        x, y, z = (float(v) for v in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--voxel takes three numbers x,y,z in mm, not {text!r}") from None
    return x, y, z


def _bytes(text: str) -> int | None:
    if not text:
        return None
    units = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
    number = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:].isalpha() else ""
    try:
        return int(float(number.removesuffix(unit)) * units[unit])
    except (KeyError, ValueError):
        raise typer.BadParameter(f"--memory takes a size such as 4GiB or 500M, not {text!r}") from None


def _sections(recipe: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {k: v for k, v in asdict(recipe).items() if isinstance(v, dict)}


def _numbered(path: Path, n: int) -> Path:
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".nii.gz") else path.suffix
    return path.with_name(f"{path.name.removesuffix(suffix)}_stack-{n}{suffix}")


def _set_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _progress(quiet: bool) -> Any:
    from recon.progress import reporter

    return reporter(quiet)
