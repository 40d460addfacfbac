"""The verb `check`, and what `run` writes beside the image: evidence and uncertainty."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recon.errors import printable
from recon.verbs.arguments import Json

if TYPE_CHECKING:
    from recon.data import Image
    from recon.recipe import Recipe


def check(
    output: Annotated[
        Path,
        typer.Argument(help="DICOM (file or folder), NIfTI, PNG, ISMRMRD of recon", metavar="OUTPUT", readable=False),
    ],
    as_json: Json = False,
) -> None:
    """Print how an image was made. Exit code 1 if this installation would not reproduce it."""
    from recon import check as checking

    found = checking.check(output)
    typer.echo(printable(checking.as_json(found) if as_json else checking.text(found)))
    if found.differences:
        raise typer.Exit(1)


def with_replicas(plan: Recipe, count: int) -> Recipe:
    """The recipe with this many replicas; unchanged for 0."""
    from dataclasses import replace

    return replace(plan, trust=replace(plan.trust, replicas=count)) if count else plan


def write_evidence(image: Image, path: Path, stack: int = 0) -> list[Path]:
    """Write the record of how an image was made and how far it can be trusted as JSON; returns the file."""
    from recon.io import atomic, provenance

    path = path.with_name(f"{path.stem}_stack-{stack}.json") if stack else path
    atomic.put(path, f"{provenance.as_json(image)}\n".encode())
    return [path]


def write_uncertainty(image: Image, name: str) -> list[Path]:
    """Write the uncertainty map as a separate image; returns its files."""
    from dataclasses import replace

    from recon.io import write

    assert image.uncertainty is not None
    header = replace(image.header, study=replace(image.header.study, series_description="uncertainty"))
    return write.write(replace(image, data=image.uncertainty, uncertainty=None, header=header), [name])
