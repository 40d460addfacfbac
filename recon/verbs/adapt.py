"""The verb `adapt` of the command line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from recon.errors import ReconError
from recon.verbs.arguments import Axes, Device, Key, Quiet, Threads, usage, use_threads


def adapt(
    scan: Annotated[
        Path, typer.Argument(help="An undersampled Cartesian scan of slices", metavar="SCAN", readable=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the weights; new or empty")],
    minutes: Annotated[float, typer.Option(help="Time that it may take", min=0.01)] = 5.0,
    weights: Annotated[str, typer.Option(help="Network to start from: auto, a name that ships, or a folder")] = "auto",
    recipe: Annotated[Path | None, typer.Option(help="TOML file; how the scan is prepared")] = None,
    device: Device = "auto",
    stack: Annotated[int, typer.Option(help="Group of parallel slices, from 1", min=1)] = 1,
    axes: Axes = "",
    key: Key = "",
    seed: Annotated[int, typer.Option(help="Seed of the division of the lines", min=0)] = 0,
    threads: Threads = 0,
    quiet: Quiet = False,
) -> None:
    """Adapt a network to one undersampled scan. It writes weights for `run --weights`."""
    begun = time.monotonic()
    from recon.io.atomic import check_parent, entries

    if output.exists() and (not output.is_dir() or entries(output)):
        raise ReconError(f"{output} exists; give a new or an empty folder with --output")
    from recon import pipeline
    from recon import recipe as recipes
    from recon.io.read import read_raw
    from recon.learn import adapt as adapting
    from recon.learn import adapted
    from recon.mri import cartesian
    from recon.nets import weights as stored
    from recon.progress import reporter

    check_parent(output)
    use_threads(threads)
    with usage():
        plan = recipes.load(recipe) if recipe else recipes.Recipe()
    place = pipeline.place(device)
    parent = stored.load(weights, place)
    raw = read_raw(scan, axes=axes or None, key=key or None)
    job = pipeline.prepare(raw, plan, place, None, stack - 1)
    if job.encoding.trajectory != "cartesian":
        raise ReconError(
            f"the scan is {job.encoding.trajectory}, and the networks work with Cartesian scans only; use recon run"
        )
    how = adapting.Plan(minutes=minutes, seed=seed)
    with reporter(quiet) as report:
        made = adapting.adapt(parent.network, cartesian.measurements(job, how.slices), how, report, begun=begun)
    digest = pipeline.fingerprint(job.scan, job.kinds.imaging)
    adapted.write(made, parent, stored.find(weights), output, digest, how)
    if not quiet:
        typer.echo(adapted.said(made, parent.name))
        typer.echo(f"wrote {output}")
