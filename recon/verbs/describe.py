"""The verbs that only report: `info` on a scan, `recipe` on settings, `doctor` on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recon.errors import printable
from recon.verbs.arguments import Axes, Json, Key, Scan, Voxel, read_scan, three, usage


def info(scan: Scan, axes: Axes = "", voxel: Voxel = "", key: Key = "", json: Json = False) -> None:
    """Show what a scan contains. Also what will be ignored, and where the file breaks its format."""
    from recon import info as doctor

    report = doctor.describe_any(read_scan(scan, axes, three(voxel), key))
    typer.echo(printable(doctor.as_json(report) if json else doctor.text(report)))


def recipe(
    file: Annotated[Path | None, typer.Argument(help="Recipe to complete with its defaults", metavar="RECIPE")] = None,
) -> None:
    """Print a recipe with every key, to start from."""
    from recon import recipe as recipes

    with usage():
        loaded = recipes.load(file) if file else recipes.Recipe()
    typer.echo(recipes.to_toml(loaded), nl=False)


def doctor(json: Json = False) -> None:
    """Show what is installed, what is missing, how to get it."""
    from recon import doctor as machine

    report = machine.examine()
    typer.echo(machine.as_json(report) if json else machine.text(report))
