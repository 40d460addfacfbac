"""The verb `simulate-ct`, and the parts of `run` for CT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recon.errors import ReconError
from recon.verbs.arguments import Force, check_outputs

if TYPE_CHECKING:
    from recon.data import CTImages, Image
    from recon.recipe import Recipe

Strength = Annotated[
    float | None,
    typer.Option(help="CT images: 1 denoises fully, 0 leaves the image unchanged; default: by the noise", min=0, max=1),
]

Removed = Annotated[str, typer.Option(help="CT images: file for what was removed, for instance .nii.gz")]


def with_strength(plan: Recipe, strength: float | None) -> Recipe:
    """The recipe with another share of the denoised CT image; unchanged for None."""
    from dataclasses import replace

    return plan if strength is None else replace(plan, ct=replace(plan.ct, strength=strength))


def fitting(scan: object, plan: Recipe, strength: float | None, denoise: float | None, removed: str = "") -> None:
    """Raise ReconError if an option was given for a scan, or a method, to which it does not apply."""
    from recon.data import CTImages, RawScan

    if removed and not isinstance(scan, CTImages):
        raise ReconError("--removed shows what was removed from CT images, and this is not one; leave it out")
    if strength is not None and isinstance(scan, RawScan):
        raise ReconError(
            "--strength is for CT images, and this is a raw MRI scan: use --denoise instead, or leave it out"
        )
    if denoise is not None and not isinstance(scan, RawScan):
        raise ReconError("--denoise is for raw MRI scans, and this is CT: use --strength instead, or leave it out")
    if strength is not None and not isinstance(scan, CTImages) and plan.solve.method != "unrolled":
        raise ReconError(
            "--strength belongs to networks, and projections use one only with --method unrolled; add that"
        )


def write_removed(series: object, image: Image, name: str) -> list[Path]:
    """Write what denoising removed from a series, y − x̂ in HU, as a separate image; returns its files.

    The series is read again, so that it need not be kept in memory during denoising.
    """
    from dataclasses import replace

    from recon.data import CTSeries
    from recon.io import write

    assert isinstance(series, CTSeries)
    taken = series.voxels.read(0, series.geometry.shape[0]) - image.data
    header = replace(image.header, study=replace(image.header.study, series_description="removed"))
    return write.write(replace(image, data=taken, uncertainty=None, header=header), [name])


def simulate_ct(
    source: Annotated[
        Path, typer.Argument(help="CT in HU (DICOM, NIfTI), or the word phantom", metavar="VOLUME", readable=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="HDF5 file (.h5) for the projections")],
    photons: Annotated[float | None, typer.Option(help="Photons of a ray in air; default 2e5")] = None,
    dose: Annotated[float | None, typer.Option(help="Share of the source's own dose instead, 0 to 1")] = None,
    electronic: Annotated[float, typer.Option(help="Noise of the electronics, in photons")] = 5.0,
    bow_tie: Annotated[float, typer.Option(help="0 no filter, 1 flattens a cylinder of water")] = 0.5,
    beam: Annotated[str, typer.Option(help="parallel, flat or curved (fan beams), or cone")] = "curved",
    views: Annotated[int, typer.Option(help="Number of angles", min=1, max=100_000)] = 984,
    arc: Annotated[float, typer.Option(help="Degrees; 0: half a turn (parallel), a whole one (others)")] = 0.0,
    elements: Annotated[int, typer.Option(help="Detector elements; 0 covers the image", min=0, max=100_000)] = 0,
    rows: Annotated[int, typer.Option(help="Detector rows of a cone; 0 covers the volume", min=0, max=100_000)] = 0,
    source_distance: Annotated[float, typer.Option(help="From source to axis in mm")] = 595.0,
    detector_distance: Annotated[float, typer.Option(help="From axis to detector in mm", min=0)] = 490.0,
    slices: Annotated[str, typer.Option(help="Only these of the source, first:last, from 1")] = "",
    matrix: Annotated[int, typer.Option(help="Pixels of the phantom's image a side", min=16, max=4096)] = 512,
    truth: Annotated[str, typer.Option(help="File for the true image, for instance .nii.gz")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the noise", min=0)] = 0,
    force: Force = False,
) -> None:
    """Write CT projections of a volume, with noise. The noise is that of photons and of the electronics."""
    _check(output, photons, dose, electronic, beam, force)
    _check_rays(beam, views, arc, elements, rows, source_distance, detector_distance)
    from recon.io import ct_projections
    from recon.io import write as writing
    from recon.progress import reporter
    from recon.simulation import ct_scan

    phantom = str(source) == "phantom" and not source.exists()
    check_outputs([str(output), *([truth] if truth else [])], [] if phantom else [source])
    scan = ct_scan.Scan(
        photons or 2e5, dose or 0.0, electronic, bow_tie, beam, views, arc, elements, rows,  # type: ignore[arg-type]
        source_distance=source_distance, detector_distance=detector_distance, seed=seed,
    )  # fmt: skip
    if phantom and slices:
        raise typer.BadParameter("--slices chooses slices of a volume, and the phantom is one slice; leave it out")
    if phantom:
        made, shown = ct_scan.of_phantom(matrix, scan)
    else:
        from recon.data import CTImages
        from recon.io.read import read

        images = read(source)
        if not isinstance(images, CTImages):
            raise ReconError(f"{source.name} is {images.source}; give CT images in HU, or the word phantom")
        volume, voxel, positions, thickness = _volume(images, slices)
        shown = volume
        with reporter(False) as report:
            made = ct_scan.of_volume(volume, voxel, positions, thickness, scan, report)
    for note in made.notes:
        typer.echo(f"  {note}", err=True)
    ct_projections.write(made, output)
    typer.echo(f"wrote {output}")
    if truth:
        from dataclasses import replace

        from recon.ct import cone as cones
        from recon.ct.projections import grid
        from recon.data import Image
        from recon.prepare.ct import operator, volume_operator

        place = cones.grid(made, volume_operator(made)) if beam == "cone" else grid(made, operator(made))
        g = replace(place, shape=shown.shape)
        for path in writing.write(Image(shown, g, units="HU"), [truth]):
            typer.echo(f"wrote {path}")


#: More photons than any tube gives, and few enough for a float32.
_MOST = 1e12
#: Fewest elements of a useful detector, and mm beyond the width of any scanner.
_FEWEST, _FURTHEST = 8, 1e5


def _check(output: Path, photons: float | None, dose: float | None, electronic: float, beam: str, force: bool) -> None:
    if output.suffix != ".h5":
        raise typer.BadParameter(f"-o takes an HDF5 file that ends in .h5, not {str(output)!r}")
    if output.exists() and not force:
        raise ReconError(f"{output} exists; give another name, or --force to replace it")
    if photons is not None and dose is not None:
        raise typer.BadParameter("--photons and --dose both set the dose; give only one of them")
    if photons is not None and not 0 < photons <= _MOST:
        raise typer.BadParameter(f"--photons takes a number above 0 and up to 1e12, for instance 2e4, not {photons:g}")
    if not 0 <= electronic <= _MOST:
        raise typer.BadParameter(f"electronic noise cannot be {electronic:g} photons; give 0 to 1e12")
    if dose is not None and not 0 < dose <= 1:
        raise typer.BadParameter(f"--dose takes a share above 0 and at most 1, not {dose:g}")
    if beam not in ("parallel", "flat", "curved", "cone"):
        raise typer.BadParameter(f"--beam takes parallel, flat, curved or cone, not {beam!r}")


def _check_rays(
    beam: str, views: int, arc: float, elements: int, rows: int, source_distance: float, detector_distance: float
) -> None:
    """Usage errors for numbers that do not make a scan."""
    if not 0 <= arc <= 360:
        raise typer.BadParameter(f"--arc takes up to 360 degrees, 0 for all that the beam needs, not {arc:g}")
    if 0 < elements < _FEWEST:
        raise typer.BadParameter(f"--elements takes at least {_FEWEST}, or 0 to cover the image, not {elements}")
    if views < 2:
        raise typer.BadParameter("--views takes at least 2 angles: one is not enough for an image")
    if rows and beam != "cone":
        raise typer.BadParameter(f"--rows is for a cone beam, and --beam is {beam}; leave it out")
    for name, value in (("source", source_distance), ("detector", detector_distance)):
        if not 0 <= value <= _FURTHEST:
            raise typer.BadParameter(f"--{name}-distance takes up to {_FURTHEST:g} mm, not {value:g}")


def _volume(images: CTImages, slices: str):  # type: ignore[no-untyped-def]
    """HU of the chosen slices of the first series, their pixel size, positions and thickness in mm."""
    import numpy as np

    series = images.series[0]
    g = series.geometry
    if abs(g.voxel[0] / g.voxel[1] - 1) > 1e-3:
        raise ReconError(
            f"pixels of {g.voxel[0]:g}×{g.voxel[1]:g} mm are not square, but projections need square pixels; "
            "resample the source"
        )
    first, last = 1, g.shape[0]
    if slices:
        try:
            first, last = (int(v) for v in slices.split(":")) if ":" in slices else (int(slices), int(slices))
        except ValueError:
            first = 0
        if not 1 <= first <= last <= g.shape[0]:
            raise typer.BadParameter(f"--slices takes first:last between 1 and {g.shape[0]}, not {slices!r}")
    steps = np.array(g.steps[first - 1 : last - 1] or [g.voxel[2]] * (last - first))
    if len(steps) and np.ptp(steps) > 0.01 * steps.mean():
        raise ReconError(
            f"slices {first} to {last} are {steps.min():.2f} to {steps.max():.2f} mm apart, and projections "
            "need equal spacing; choose equally spaced slices with --slices"
        )
    positions = tuple(float(v) for v in (first - 1) * g.voxel[2] + np.concatenate([[0], steps.cumsum()]))
    return series.voxels.read(first - 1, last), g.voxel[0], positions, g.thickness
